"""One connection to the store, by coredis: dialled here, owned by one task, never pooled.

coredis sends, parses and matches replies to commands in order, so that a caller who is
cancelled takes no other's reply. It is given an open stream: what fails in dialling fails
here, without a traceback in the user's log. Every command has a timeout, after which the
whole link is given up: no late reply can be taken for another.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import attrs
import trio

from ...errors import OptionError
from .._broker import BrokerError
from ._redis_lua import SCRIPTS, sha_of

if TYPE_CHECKING:
    from coredis.connection import BaseConnection

__all__ = ["Address", "Link", "LinkLost", "StoreRefused", "open_link", "parse_address"]

#: How errors begin that pass by themselves: the command may be sent again.
PASSING: Final = ("LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS")

#: What another server may do that this one does not: dial again.
DEMOTED: Final = "READONLY"


class LinkLost(BrokerError):
    """Nothing is known about what was under way; it may be tried on another link."""


class StoreRefused(BrokerError):
    """The store has answered with an error, and would again."""


@attrs.frozen
class Address:
    """Where the store is. Its repr has no password."""

    host: str
    port: int
    database: int = 0
    secure: bool = False
    user: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(url: object) -> Address:
    """A URL `redis://user:password@host:port/database`, or `rediss://` for TLS.

    Raises `OptionError`, which does not show the URL.
    """
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        path = parts.path.strip("/")
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query:
            raise ValueError
        return Address(
            parts.hostname,
            parts.port or 6379,
            int(path) if path else 0,
            parts.scheme == "rediss",
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )
    except ValueError:
        rule = "must be redis:// or rediss://[user:password@]host[:port][/database]"
        raise OptionError("url", rule, "(not shown)") from None


class Link:
    """An open connection. Its methods raise `LinkLost` or `StoreRefused`."""

    def __init__(self, connection: BaseConnection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        #: Of the server's process, or "" if it does not say.
        self.run_id = ""

    @property
    def usable(self) -> bool:
        return self._connection.usable

    async def command(self, *words: Any, timeout_s: float = 0.0) -> Any:
        """A reply, undecoded. A cancelled wait leaves the link in order."""
        from coredis.exceptions import ConnectionError as Lost
        from coredis.exceptions import RedisError

        try:
            return await self._connection.create_request(
                *words, decode=False, timeout=timeout_s or self._timeout_s
            )
        except TimeoutError:
            self._connection.invalidate("no reply in time")
            raise LinkLost(f"the store gave no answer within {self._timeout_s:g} s") from None
        except Lost as error:
            raise LinkLost(f"the link to the store was lost: {_brief(error)}") from None
        except RedisError as error:
            raise _judged(error) from None

    async def script(self, script: str, *arguments: Any) -> Any:
        """A script's reply. Loads it again if the store has forgotten it."""
        sha = sha_of(script) if script not in _SHAS else _SHAS[script]
        while True:
            try:
                return await self.command(b"EVALSHA", sha, 0, *arguments)
            except StoreRefused as error:
                if not str(error).startswith("the store refuses: NOSCRIPT"):
                    raise
            await self.command(b"SCRIPT LOAD", script)

    async def greet(self) -> None:
        """What is to be done before the first command."""
        for script in SCRIPTS:
            await self.command(b"SCRIPT LOAD", script)
        try:
            for line in (await self.command(b"INFO", b"server")).splitlines():
                if line.startswith(b"run_id:"):
                    self.run_id = line[7:].decode("ascii", "replace")
        except StoreRefused:
            pass


_SHAS: Final = {script: sha_of(script) for script in SCRIPTS}


def _brief(error: Exception) -> str:
    return str(error)[:100] or type(error).__name__


#: coredis takes the first word off some errors, and has a class for it.
_WORDS: Final = {
    "AuthenticationFailureError": "WRONGPASS",
    "AuthenticationRequiredError": "NOAUTH",
    "AuthorizationError": "NOPERM",
    "BusyLoadingError": "LOADING",
    "NoScriptError": "NOSCRIPT",
    "ReadOnlyError": DEMOTED,
    "WrongTypeError": "WRONGTYPE",
}


def _judged(error: Exception) -> BrokerError:
    """What a reply that is an error means."""
    text = _brief(error)
    word = _WORDS.get(type(error).__name__)
    if word is not None and not text.startswith(word):
        text = f"{word} {text}"
    kind = LinkLost if text.startswith(PASSING) else StoreRefused
    return kind(f"the store refuses: {text}")


async def open_link(
    address: Address,
    context: ssl.SSLContext | None,
    timeout_s: float,
    use: Callable[[Link], Awaitable[None]],
    ended: Callable[[], None],
) -> None:
    """Dial, and `use` the link; it is closed when `use` is over, however.

    Calls `ended` (it may be `use` that has ended) when the link does. Raises `LinkLost`,
    `StoreRefused`, or what `use` raises; never a group.
    """
    stream = await _dial(address, context, timeout_s)
    connection = _connection_on(stream, address, timeout_s)
    link = Link(connection, timeout_s)
    failure: Exception | None = None
    trouble: list[Exception] = []

    # ASYNC128: `connection.run` tells it, or the last line does.
    async def serve(task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128
        started = _Once(task_status)
        try:
            await connection.run(task_status=started)
        except Exception as error:
            trouble.append(error)
        finally:
            ended()
        started.started()

    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(serve)
            if trouble:
                raise _failed(trouble[0])
            await link.greet()
            await use(link)
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        try:
            raise failure
        finally:
            failure = None


class _Once:
    """A task status that may be told twice."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status: trio.TaskStatus[None] | None = status

    def started(self, _: None = None) -> None:
        status, self._status = self._status, None
        if status is not None:
            status.started()


def _failed(error: Exception) -> BrokerError:
    from coredis.exceptions import ConnectionError as Lost
    from coredis.exceptions import RedisError

    if isinstance(error, RedisError) and not isinstance(error, Lost):
        return _judged(error)
    return LinkLost(f"no link to the store: {_brief(error)}")


async def _dial(address: Address, context: ssl.SSLContext | None, timeout_s: float) -> Any:
    """An anyio stream. TLS without a closing handshake, as Redis does it."""
    import anyio

    try:
        with trio.fail_after(timeout_s):
            if not address.secure:
                return await anyio.connect_tcp(address.host, address.port)
            return await anyio.connect_tcp(
                address.host,
                address.port,
                tls=True,
                ssl_context=context or ssl.create_default_context(),
                tls_standard_compatible=False,
            )
    except trio.TooSlowError:
        raise LinkLost(f"no link to {address} within {timeout_s:g} s") from None
    except (OSError, ValueError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise LinkLost(f"no link to {address}: {_brief(error)}") from None


def _connection_on(stream: Any, address: Address, timeout_s: float) -> BaseConnection:
    """coredis's connection on a stream that is open already."""
    from coredis.connection import BaseConnection, TCPLocation

    class Connection(BaseConnection):
        async def _connect(self) -> Any:
            return stream

        def describe(self) -> str:
            return f"Connection<{address}>"

    return Connection(
        TCPLocation(address.host, address.port),
        stream_timeout=timeout_s,
        username=address.user or None,
        password=address.password or None,
        db=address.database,
    )
