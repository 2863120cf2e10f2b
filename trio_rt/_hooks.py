"""The program's own part in an attempt: `credentials` before it, `greet` at its end.

What these hooks raise fails the attempt, is logged with its traceback and
shown in `State.cause`; it never ends the connection by itself, except for what
is surely a bug (`TypeError`, `AttributeError`, `NameError`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

import attrs
import trio

from ._opening import check_headers
from .errors import HookError, LinkError, OptionError
from .protocol.codec import encode_raw
from .protocol.lanes import Entry
from .protocol.session import Session
from .protocol.url import Url, parse_url
from .wires import Wire

__all__ = [
    "Ask",
    "Attempt",
    "Credentials",
    "Granted",
    "Greeting",
    "Hooks",
    "granted",
    "header_pairs",
    "hook_failed",
]

logger: Final = logging.getLogger("trio_rt")


@attrs.frozen(kw_only=True)
class Attempt:
    """The dial that credentials are asked for."""

    #: Dials since the last link that proved itself, this one included.
    number: int
    #: Where to; without user, password and query.
    url: str
    #: What ended the attempt or link before, or None.
    cause: Exception | None
    #: Whether the server has just refused the credentials given last time.
    refused: bool


@attrs.frozen(kw_only=True)
class Credentials:
    """What one attempt is made with. Never shown in `repr`."""

    #: Added to the handshake's headers; only ever sent to the URL's origin.
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    #: Dialled instead of the URL, for a token in a query.
    url: str | None = attrs.field(default=None, repr=False)
    #: Offered instead of `connect()`'s subprotocols.
    protocols: Sequence[str] = attrs.field(default=(), repr=False)
    #: Sent as `Authorization: Bearer <token>`.
    token: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Granted:
    """`Credentials`, checked. As secret as they are."""

    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    url: Url | None = attrs.field(default=None, repr=False)
    protocols: tuple[str, ...] = attrs.field(default=(), repr=False)


class Greeting:
    """One link, before the outbox opens: the words of a server that wants a login first.

    In a session it speaks the plain envelope too, outside the numbers: what it
    sends is lost with the link.
    """

    def __init__(self, wire: Wire, session: Session, *, resumed: bool) -> None:
        #: Whether a session was resumed, so that the server still knows us.
        self.resumed = resumed
        self._wire = wire
        self._session = session
        self._over = False

    async def send(self, data: str | bytes) -> None:
        """Send one message as it is. Cancelling it fails the attempt.

        Raises `LinkClosed` if the link ends, and in a session `PayloadError` for what is
        no envelope of its codec, or larger than the server takes.
        """
        self._check()
        encoded, binary = encode_raw(data)
        frame = self._session.outside(Entry(encoded, binary=binary))
        try:
            await self._wire.send((frame,))
        except trio.BrokenResourceError:
            while True:  # what is left tells why the link is gone
                await self.receive()

    async def receive(self) -> str | bytes:
        """The next message, as it came. Raises `LinkClosed` if the link ends."""
        self._check()
        while (data := self._session.pop_arrival()) is None:
            if self._wire.wants_flush:
                await self._wire.flush()
            batch = await self._wire.receive()
            self._session.receive(batch, trio.current_time())
        return data

    def end(self) -> None:
        """The greeting is over; what it has not taken belongs to the streams."""
        self._over = True

    def _check(self) -> None:
        if self._over:
            raise trio.ClosedResourceError("the greeting is over")


#: Tells what to show at an attempt.
Ask: TypeAlias = Callable[[Attempt], Awaitable[Credentials]]


@attrs.frozen
class Hooks:
    credentials: Ask | Credentials | None = None
    greet: Callable[[Greeting], Awaitable[None]] | None = None

    async def fetch(self, attempt: Attempt) -> Granted:
        """Ask the program for this attempt's credentials. Raises `HookError`."""
        asked = self.credentials
        if asked is None:
            return Granted()
        try:
            return granted(asked if isinstance(asked, Credentials) else await asked(attempt))
        except Exception as error:
            raise hook_failed("credentials", error) from error

    async def greet_on(self, wire: Wire, session: Session, *, resumed: bool) -> None:
        """Let the program greet. What arrives and it does not take stays in `session`.

        Raises `HookError`, or the `LinkError` that ended the link.
        """
        greeting = Greeting(wire, session, resumed=resumed)
        greeted = False
        try:
            if self.greet is not None:
                await self.greet(greeting)
            greeted = True
        except LinkError:
            raise
        except Exception as error:
            raise hook_failed("greet", error) from error
        finally:
            greeting.end()
            if not greeted:
                session.greeting_failed()


def hook_failed(hook: str, error: Exception) -> HookError:
    """Log what a hook raised, and make of it what fails the attempt."""
    logger.error("%s raised; the attempt fails", hook, exc_info=error)
    return HookError(hook, error)


def granted(credentials: Credentials) -> Granted:
    """Check them. Raises `OptionError`."""
    if not isinstance(credentials, Credentials):
        raise TypeError(f"credentials returned {type(credentials).__name__}, not Credentials")
    headers = header_pairs("Credentials.headers", credentials.headers)
    if credentials.token is not None:
        headers += header_pairs(
            "Credentials.token", {"Authorization": f"Bearer {credentials.token}"}
        )
    return Granted(headers, _url(credentials), tuple(credentials.protocols))


def _url(credentials: Credentials) -> Url | None:
    try:
        return None if credentials.url is None else parse_url(credentials.url)
    except OptionError as error:
        raise OptionError("Credentials.url", error.rule, "(hidden)") from None


def header_pairs(field: str, headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """`headers` as pairs; `OptionError` for what cannot be sent."""
    pairs = tuple((headers or {}).items())
    check_headers(pairs, field)
    return pairs
