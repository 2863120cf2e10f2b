"""TLS over any trio stream, as a direct stream where the one below is direct.

TLS can never take anything back: a record that is encrypted must be sent, or
nothing after it can be read. Ciphertext therefore has one owner, one buffer in
front of the socket, and records that the reading side makes (key updates) go
through the same buffer. On a stream below that is not direct they wait there
for the next send or flush.
"""

from __future__ import annotations

import math
import ssl
from typing import Final

import trio

from ._streams import READ_BYTES, Buffer, abort_stream, as_direct

__all__ = ["TlsStream"]

#: Plaintext encrypted at a time: four full records (RFC 8446, 5.1).
TLS_STEP_BYTES: Final = 65_536


class TlsStream(trio.abc.Stream):
    """TLS over any trio stream, client's or server's side.

    `do_handshake` comes first. An end without close_notify, and every TLS
    error, raises `trio.BrokenResourceError`, the `ssl.SSLError` chained.
    `try_send` works where the stream below is direct (see `as_direct`). A
    cancelled `send_all` or `do_handshake` breaks the stream.
    """

    def __init__(
        self,
        lower: trio.abc.Stream,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        server_side: bool = False,
    ) -> None:
        self.lower = lower
        self._direct = as_direct(lower)
        #: Whether `try_send` works.
        self.is_direct = self._direct is not None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._cipher = bytearray()
        self._sending = False
        self._receiving = False
        self._broken = False
        self._closed = False
        #: When ciphertext came last, on trio's clock, be it part of a record.
        self.heard_at = -math.inf

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """To ask for the version, cipher and certificates in use."""
        return self._ssl

    @property
    def pending(self) -> int:
        """Bytes of ciphertext that the stream below has not taken yet."""
        return len(self._cipher) + self._outgoing.pending

    # -- sending ------------------------------------------------------------

    def _collect(self) -> None:
        if self._outgoing.pending:
            self._cipher += self._outgoing.read()

    def _check(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was already closed")
        if self._broken:
            raise trio.BrokenResourceError("an earlier write on this stream was cut short")

    def _push(self) -> None:
        self._collect()
        if self._cipher and self._direct is not None and not self._sending:
            taken = self._direct.try_send(self._cipher)
            del self._cipher[:taken]

    def _encrypt(self, data: Buffer) -> None:
        try:
            self._ssl.write(data)
        except ssl.SSLError as error:
            self._broken = True
            raise trio.BrokenResourceError(f"TLS failed: {error}") from error

    def try_send(self, data: Buffer, /) -> int:
        """Encrypt and write without waiting: bytes of `data` taken in.

        0 while ciphertext of earlier calls is `pending`. What it took in is
        out when `pending` is 0.
        """
        self._check()
        if self._direct is None:
            return 0
        self._push()
        taken = 0
        with memoryview(data) as rest:
            while taken < len(rest) and not self.pending:
                step = rest[taken : taken + TLS_STEP_BYTES]
                self._encrypt(step)
                taken += len(step)
                self._push()
        return taken

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._start_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            with memoryview(data) as rest:
                await self._send_cipher(always=not rest)
                for start in range(0, len(rest), TLS_STEP_BYTES):
                    self._encrypt(rest[start : start + TLS_STEP_BYTES])
                    await self._send_cipher()
        finally:
            self._sending = False

    async def flush(self) -> None:
        """Send what is `pending`. Cancelled part-way, the stream is broken."""
        await self.send_all(b"")

    def _start_sending(self) -> None:
        self._check()
        self._sending = True

    async def _send_cipher(self, *, always: bool = False) -> None:
        self._collect()
        cipher = bytes(self._cipher)
        if not cipher and not always:
            return
        self._broken = True
        await self.lower.send_all(cipher)
        self._broken = False
        del self._cipher[: len(cipher)]

    async def wait_send_all_might_not_block(self) -> None:
        self._start_sending()
        try:
            await self.lower.wait_send_all_might_not_block()
        finally:
            self._sending = False

    # -- receiving ----------------------------------------------------------

    async def _read_more(self) -> None:
        data = await self.lower.receive_some()
        if not data:
            raise trio.BrokenResourceError("the connection ended without a TLS close_notify")
        self._incoming.write(data)
        self.heard_at = trio.current_time()

    async def do_handshake(self) -> None:
        """Shake hands. A bad certificate is an `ssl.SSLCertVerificationError`, chained."""
        await trio.lowlevel.checkpoint_if_cancelled()
        failure: ssl.SSLError | None = None
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                failure = error
                break
            await self._send_handshake()
            await self._read_more()
        if failure is not None:
            await self._send_alert()
            self._broken = True
            raise trio.BrokenResourceError(f"TLS handshake failed: {failure}") from failure
        await self._send_handshake(always=True)

    async def _send_handshake(self, *, always: bool = False) -> None:
        self._start_sending()
        try:
            await self._send_cipher(always=always)
        finally:
            self._sending = False

    async def _send_alert(self) -> None:
        try:
            await self._send_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Decrypted bytes; b"" after the peer's close_notify. One full checkpoint at least."""
        wanted = READ_BYTES if max_bytes is None else max_bytes
        if wanted < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was already closed")
        self._receiving = True
        try:
            return await self._receive(wanted)
        finally:
            self._receiving = False

    async def _receive(self, wanted: int) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        data = self._decrypt(wanted)
        if data is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return data
        while data is None:
            await self._read_more()
            data = self._decrypt(wanted)
        return data

    def _decrypt(self, wanted: int) -> bytes | None:
        """Up to `wanted` bytes, b"" at the end, None if more must be read first."""
        pieces: list[bytes] = []
        try:
            while wanted > 0:
                piece = self._ssl.read(wanted)
                pieces.append(piece)
                wanted -= len(piece)
                if not piece:
                    break
        except ssl.SSLWantReadError:
            if not pieces:
                return None
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as error:
            if not pieces:
                raise trio.BrokenResourceError(f"TLS failed: {error}") from error
        finally:
            self._answer()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _answer(self) -> None:
        """Send what reading made necessary, or leave it pending."""
        if self._outgoing.pending and not (self._broken or self._closed):
            try:
                self._push()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._broken = True

    # -- closing ------------------------------------------------------------

    def _say_goodbye(self) -> None:
        try:
            self._ssl.unwrap()
        except (ssl.SSLError, ValueError):  # it waits for no answer; before the handshake: none
            pass

    def abort(self) -> None:
        """Close the stream below now, without a close_notify."""
        self._closed = True
        abort_stream(self.lower)

    async def aclose(self) -> None:
        """Send a close_notify if nothing is in its way, and close the stream below."""
        if self._closed:
            await self.lower.aclose()
            return
        self._closed = True
        try:
            if not self._broken and not self._sending:
                self._say_goodbye()
                await self._send_goodbye()
        finally:
            await trio.aclose_forcefully(self.lower)
        await trio.lowlevel.checkpoint()

    async def _send_goodbye(self) -> None:
        try:
            if self._direct is None:
                await self._send_cipher()
            else:
                self._push()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
