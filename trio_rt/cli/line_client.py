"""A line client for any WebSocket server: standard input to messages, messages to standard output.

run
├─ tell states        what the connection does, on standard error
├─ print messages     in a thread, so that a slow reader stops nothing else
├─ tell malformed     (envelopes only)
└─ the body           sends lines; at their end waits a little for answers
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import attrs
import trio

from .._states import StateStream
from .._subscription import Stream
from ..errors import ConnectionFailed, OptionError, PayloadError
from ..message import ACKED, WRITTEN, Gap, Malformed, Message, Reset
from ..options import OutboxLimits, Reconnect
from ..protocol.lifecycle import Phase, State
from ..protocol.url import parse_url
from ._dialects import BadLine, Dialect
from ._lines import Lines, LineTooLong
from ._text import printable

__all__ = [
    "EXIT_FAILED",
    "EXIT_FINE",
    "EXIT_USAGE",
    "LineClient",
    "LineOptions",
    "Output",
    "run_line_client",
]

EXIT_FINE: Final = 0
EXIT_FAILED: Final = 1
#: click's own.
EXIT_USAGE: Final = 2

#: One attempt never takes longer; the library's own default.
OPEN_TIMEOUT_S: Final = 10.0


@attrs.frozen(kw_only=True)
class LineOptions:
    """What the command line says. Times are in seconds."""

    url: str
    dialect: Dialect
    headers: Mapping[str, str] = attrs.Factory(dict)
    protocols: Sequence[str] = ()
    insecure: bool = False
    #: How long to listen after the last line of input.
    wait_s: float = 1.0
    #: Give up after so long without a link that works.
    timeout_s: float = 30.0
    quiet: bool = False


class Output:
    """Standard output and error, by descriptor."""

    def __init__(self, out_fd: int = 1, error_fd: int = 2) -> None:
        self._out_fd = out_fd
        self._error_fd = error_fd
        self._escapes = os.isatty(out_fd)

    async def print(self, texts: Sequence[str]) -> None:
        """Write each text and a newline; on a terminal without control characters.

        Raises `BrokenPipeError` when nobody reads any more. Cancelling leaves
        a thread behind that may still write.
        """
        shown = map(printable, texts) if self._escapes else texts
        data = "".join(f"{text}\n" for text in shown).encode(errors="backslashreplace")
        await trio.to_thread.run_sync(_write, self._out_fd, data, abandon_on_cancel=True)

    def note(self, text: str) -> None:
        """A line on standard error. What cannot be written is dropped."""
        try:
            _write(
                self._error_fd, f"trio-rt: {printable(text)}\n".encode(errors="backslashreplace")
            )
        except OSError:
            pass


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class LineClient:
    """One run of the client. Raises `OptionError` for options that cannot be."""

    def __init__(self, options: LineOptions, output: Output, *, in_fd: int = 0) -> None:
        self._options = options
        self._output = output
        self._lines = Lines(in_fd, int(OutboxLimits().message_bytes))
        self._connection = _connection(options)
        self._status = EXIT_FINE
        #: Ends everything at once when nobody reads the output any more.
        self._scope = trio.CancelScope()

    async def run(self) -> int:
        """Talk until the end of the input, or of the connection: the exit status."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                try:
                    async with self._connection as conn:
                        self._listen(conn, nursery.start_soon)
                        await self._talk(conn)
                except ConnectionFailed as failure:
                    self._fail(str(failure))
                except OptionError as error:  # found only when it dials
                    self._fail(str(error), EXIT_USAGE)
                finally:
                    self._account(conn)
        return self._status

    def _listen(self, conn: Any, start: Callable[..., None]) -> None:
        """Start what ends with the connection, and is given what it still had."""
        start(self._tell_states, conn.watch_states())
        start(self._print_messages, conn.subscribe())
        start(self._tell_malformed, conn.malformed())

    async def _talk(self, conn: Any) -> None:
        try:
            await conn.wait_connected()
        except trio.ClosedResourceError:
            await trio.sleep_forever()  # until it leaves as what it is
        try:
            await self._send_lines(conn)
        except LineTooLong as error:
            self._fail(str(error))
        await conn.drain()
        await trio.sleep(self._options.wait_s)

    async def _send_lines(self, conn: Any) -> None:
        number = 0
        async for line in self._lines:
            number += 1
            try:
                await self._options.dialect.send(conn, line.decode())
            except UnicodeDecodeError:
                self._refuse(number, "no UTF-8")
            except (BadLine, PayloadError) as error:
                self._refuse(number, str(error))

    def _refuse(self, number: int, why: str) -> None:
        self._fail(f"line {number} is not sent: {why}")

    def _account(self, conn: Any) -> None:
        """Say which lines may not have arrived."""
        statistics = conn.statistics()
        outcomes = statistics.outcomes
        unsure = statistics.accepted - outcomes.get(WRITTEN, 0) - outcomes.get(ACKED, 0)
        if unsure and not self._scope.cancel_called:
            self._fail(f"{unsure} of {statistics.accepted} lines may not have arrived")

    def _fail(self, text: str, status: int = EXIT_FAILED) -> None:
        """Note what went wrong; the first trouble gives the exit status."""
        self._output.note(text)
        self._status = self._status or status

    async def _tell_states(self, states: StateStream) -> None:
        told = ""
        async for state in states:
            text = "" if self._options.quiet else _told(state, str(parse_url(self._options.url)))
            if text not in ("", told):
                told = text
                self._output.note(text)

    async def _print_messages(self, stream: Stream[Any]) -> None:
        try:
            while True:
                items = await stream.receive_many()
                await self._output.print([text for item in items for text in self._shown(item)])
        except trio.EndOfChannel:
            pass
        except BrokenPipeError:
            self._scope.cancel()
        except OSError as error:
            self._fail(f"cannot write: {error}")
            self._scope.cancel()

    def _shown(self, item: Message[Any] | Gap | Reset) -> Sequence[str]:
        match item:
            case Message():
                return [self._options.dialect.show(item)]
            case Gap():
                self._output.note(f"{item.count} messages were lost here")
            case Reset():
                self._output.note("a new link: messages may have been lost here")
        return []

    async def _tell_malformed(self, stream: Stream[Malformed | Gap]) -> None:
        async for item in stream:
            if isinstance(item, Malformed):
                self._output.note(f"no message: {item.error}")


def _connection(options: LineOptions) -> AbstractAsyncContextManager[Any]:
    return options.dialect.connect(
        options.url,
        headers=options.headers,
        protocols=options.protocols,
        ssl_context=_trusting_context() if options.insecure else None,
        reconnect=Reconnect(give_up_after_s=options.timeout_s),
        open_timeout_s=min(OPEN_TIMEOUT_S, options.timeout_s),
    )


def _told(state: State, url: str) -> str:
    if state.phase is Phase.CONNECTED:
        return f"connected to {url}"
    if state.retry_at is not None:
        return f"{state.cause}; next attempt in {state.retry_at - trio.current_time():.1f} s"
    if state.phase in (Phase.CONNECTING, Phase.RECONNECTING):
        return f"connecting to {url}"
    return ""


def _trusting_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def run_line_client(options: LineOptions) -> int:
    """Run it on the standard streams. Its exit status."""
    output = Output()
    try:
        client = LineClient(options, output)
    except OptionError as error:
        output.note(str(error))
        return EXIT_USAGE
    return await client.run()
