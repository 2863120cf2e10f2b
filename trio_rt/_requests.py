"""Requests in trio: who asks and waits, and who serves.

The deadline of who asks travels along, and bounds the handler at the other end;
cancelling the one cancels the other. Both ends of a connection can do both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Any, Final, Generic, TypeVar, overload

import msgspec
import trio

from ._handlers import Handlers, park
from ._pace import Pace
from ._verbs import EnvelopeVerbs
from .errors import DecodeError, NoSession, OptionError, PayloadError, Refused
from .message import Message, Priority
from .options import check_number
from .protocol.calls import Ask, Call, ForeignAsk
from .protocol.codec import Codec, JsonCodec, payload_reader
from .protocol.frames import MAX_NUMBER, Req
from .protocol.inquiries import PARTS, Inquiry
from .protocol.ledger import Bounds
from .protocol.payloads import Reader
from .protocol.requests import AROUND_BYTES

__all__ = ["Exchange", "Request", "RequestVerbs", "traceparent"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

logger: Final = logging.getLogger("trio_rt")

#: The trace that the running task belongs to, as W3C's Trace Context has it in its
#: `traceparent` header. It travels with requests, and is set where they are handled.
traceparent: Final[ContextVar[str | None]] = ContextVar("trio_rt.traceparent", default=None)

_NO_PARTS: Final = Bounds(0, 0)


class Request(Generic[T_co]):
    """One request as its handler sees it."""

    def __init__(
        self, inquiry: Inquiry, message: Message[T_co], encode: Callable[[str, Any], bytes]
    ) -> None:
        #: What was asked.
        self.message = message
        self._inquiry = inquiry
        self._encode = encode
        # What only a request for parts needs, made when that sends its first.
        self._pace: Pace
        self._turn: trio.Lock | None = None

    @property
    def type(self) -> str:
        """That of `message`."""
        return self.message.type

    @property
    def payload(self) -> T_co:
        """That of `message`."""
        return self.message.payload

    @property
    def takes_parts(self) -> bool:
        """Whether it was asked by `open_exchange`."""
        return self._inquiry.takes_parts

    async def send(self, payload: Any = None) -> None:
        """Send a part of the reply; waits while the other side has enough of them.

        Several tasks may send. Raises `OptionError` for a request that takes none, and
        `PayloadError`. Cancelled while it waits: the part is not sent. While it need not wait, it is
        a full checkpoint only every 64th call or every millisecond.
        """
        inquiry = self._inquiry
        if not inquiry.takes_parts:
            raise OptionError("part", "must be asked for by open_exchange()", payload)
        data = self._encode(self.type, payload)
        if self._turn is None:
            self._pace, self._turn = Pace(), trio.Lock()
        if self._pace.is_due():
            await self._pace.turn()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        if self._turn.locked() or not inquiry.has_credit(len(data)):
            async with self._turn:
                while not inquiry.has_credit(len(data)):
                    await park(inquiry)
        inquiry.send_part(data)


class Exchange(trio.abc.ReceiveChannel[Message[T]], Generic[T]):
    """The parts of a reply, as they come. It ends after the last one.

    Raises `Refused` where the other side refuses, `Undelivered` where the request
    came to nothing or the session is lost, and `DecodeError` for a part that is not
    as asked for; the next one may be.
    """

    def __init__(self, call: Call, reader: Reader, null: Callable[[Any], bool]) -> None:
        self._call = call
        self._reader = reader
        self._null = null
        self._pace = Pace()
        self._closed = False
        self._receiving = False
        self._ended = False

    async def receive(self) -> Message[T]:
        """The next part; waits for it. Cancelling loses nothing.

        A full checkpoint only every 64th call or every millisecond while parts are
        ready.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this exchange")
        if self._pace.is_due():
            await self._pace.turn()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        self._receiving = True
        try:
            while True:
                if self._closed:
                    raise trio.ClosedResourceError
                part = self._call.take_part() or self._last()
                if part is not None:
                    return _with_payload(part, self._reader)
                await park(self._call)
        finally:
            self._receiving = False

    def _last(self) -> Message[Any] | None:
        """What the handler returned, if that is something."""
        call = self._call
        if call.failure is not None:
            raise call.failure
        reply = call.reply
        if reply is None:
            return None
        if self._ended or self._null(reply.payload):
            raise trio.EndOfChannel
        self._ended = True
        return reply

    async def aclose(self) -> None:
        """Stop receiving. The request is cancelled where its block is left."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same, without a checkpoint."""
        self._closed = True
        self._call.notify()


class RequestVerbs(EnvelopeVerbs):
    """`request`, `open_exchange` and `serve_requests`."""

    #: Set when a call has ended, for those who wait since there are too many.
    _freed: trio.Event | None = None

    @cached_property
    def _read_any(self) -> Reader:
        return payload_reader(self._codec)

    @overload
    async def request(
        self, type: str, payload: Any = ..., *, priority: Priority = ...
    ) -> Message[Any]: ...
    @overload
    async def request(
        self, type: str, payload: Any = ..., *, as_: type[T], priority: Priority = ...
    ) -> Message[T]: ...
    @overload
    async def request(
        self, type: str, payload: Any = ..., *, as_: Any, priority: Priority = ...
    ) -> Message[Any]: ...
    async def request(
        self,
        type: str,
        payload: Any = None,
        *,
        as_: Any = Any,
        priority: Priority = Priority.NORMAL,
    ) -> Message[Any]:
        """Ask the other side, and wait for its reply.

        It survives any number of lost links; the other side runs it once. The
        deadline of the scopes around bounds the handler at the other end, and
        cancelling cancels it there.

        Raises `Refused` with the other side's reason; `Undelivered` if the request
        came to nothing, or (`indeterminate`) if the session was lost; `DecodeError`
        for a reply that is no `as_`; `NoSession` on a plain link whose codec does not
        tell replies; and as `send` does. At most 1,024 wait at a time; more wait
        until one has ended.
        """
        reader = self._read_any if as_ is Any else payload_reader(self._codec, as_)
        call = await self._ask(type, payload, priority, _NO_PARTS)
        try:
            while not call.over:
                await park(call)
        finally:
            if not call.over:
                self._leave(call)
        if call.failure is not None:
            raise call.failure
        assert call.reply is not None
        return _with_payload(call.reply, reader)

    @overload
    def open_exchange(
        self, type: str, payload: Any = ..., *, priority: Priority = ...
    ) -> AbstractAsyncContextManager[Exchange[Any]]: ...
    @overload
    def open_exchange(
        self, type: str, payload: Any = ..., *, as_: type[T], priority: Priority = ...
    ) -> AbstractAsyncContextManager[Exchange[T]]: ...
    @overload
    def open_exchange(
        self, type: str, payload: Any = ..., *, as_: Any, priority: Priority = ...
    ) -> AbstractAsyncContextManager[Exchange[Any]]: ...
    @asynccontextmanager
    async def open_exchange(
        self,
        type: str,
        payload: Any = None,
        *,
        as_: Any = Any,
        priority: Priority = Priority.NORMAL,
    ) -> AsyncIterator[Exchange[Any]]:
        """Ask for a reply in parts: `async with conn.open_exchange(...) as parts`.

        The parts are a `trio.abc.ReceiveChannel`. Parts that are not taken hold the
        handler back (256 of them, or 256 KiB). What the handler returns, if not
        None, is the last part. Leaving the block early cancels the handler.
        Deadline and errors as for `request`.
        """
        reader = payload_reader(self._codec, as_)
        if self._session.syntax is None:
            raise NoSession("a reply in parts needs a session")
        call = await self._ask(type, payload, priority, PARTS)
        exchange: Exchange[Any] = Exchange(call, reader, self._is_null)
        try:
            yield exchange
        finally:
            exchange.close()
            if not call.over:
                self._leave(call)

    async def serve_requests(
        self,
        handler: Callable[[Request[Any]], Awaitable[Any]],
        *types: str,
        limit: int = 64,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer requests of these types, or of all that nobody else serves.

        `handler(request)` runs within the deadline of who asks, `limit` of them at a
        time, each in a task that only later ones share, with a copy of the context of
        this task. What it returns is the reply; `request.send(part)` sends parts
        first; `Refused(code, text)` refuses. Another exception is logged and refuses
        with `error`, without what it says.

        Returns when the connection ends. Cancelled: the handlers are cancelled, and
        their requests refused with `stopped`. Raises `NoSession` where there can be
        none, and `OptionError` for types that are served already. Requests that came
        before the first `serve_requests` have waited.
        """
        check_number("limit", limit, least=1, whole=True)
        for name in types:
            if not isinstance(name, str):
                raise OptionError("types", "must be strings", name)
        if self._session.syntax is None:
            raise NoSession("requests are served in sessions only")
        requests = self._session.requests
        queue = requests.serve(frozenset(types) or None, hold=True)
        handlers = Handlers(queue, partial(self._fulfil, handler), limit)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                # Others that are started with this one have their types by then.
                await trio.lowlevel.checkpoint()
                requests.hand_out()
                await handlers.run(nursery)
        finally:
            requests.stop_serving(queue)

    # Within

    async def _ask(self, type: str, payload: Any, priority: Priority, parts: Bounds) -> Call:
        """A call whose request is accepted."""
        session = self._session
        if session.is_plain and (session.syntax is not None or not _tells_replies(self._codec)):
            await trio.lowlevel.checkpoint()
            raise NoSession("this link has no session, and its codec tells no replies")
        while session.requests.is_full:
            await self._wait_freed()
        call = session.requests.call(parts)
        accepted = False
        try:
            call.ask = self._make_ask(call, type, payload, priority, parts)
            await self._put(call.ask, "queue", self._mailbox.clock())
            accepted = True
            session.hurry()
        finally:
            if not accepted:
                session.requests.drop(call)
        return call

    def _make_ask(
        self, call: Call, type: str, payload: Any, priority: Priority, parts: Bounds
    ) -> Ask:
        if priority.__class__ is not Priority:
            raise OptionError("priority", "must be a Priority", priority)
        codec, session = self._codec, self._session
        meta = self._meta(priority, None)
        data = codec.encode(type, payload, meta)
        ask: Ask
        if session.syntax is None:
            session.expect(meta.id, call)
            ask = ForeignAsk(data, codec.binary, priority, call=call, session=session)
        else:
            frame = Req(
                call.id,
                _left_ms(),
                (parts.messages, parts.bytes),
                traceparent.get(),
                msgspec.Raw(data),
            )
            ask = Ask(
                session.syntax.encode(frame), codec.binary, priority, call=call, session=session
            )
        self._check_size(ask.data)
        return ask

    async def _wait_freed(self) -> None:
        if self._freed is None:
            self._freed = trio.Event()
            self._session.requests.freed = self._free
        await self._freed.wait()

    def _free(self) -> None:
        freed, self._freed = self._freed, None
        if freed is not None:
            freed.set()

    def _leave(self, call: Call) -> None:
        """Nobody waits for `call` any more, and it is not over."""
        if self._mailbox.withdraw(call.ask):
            call.abandon()
        else:
            self._session.requests.cancel(call)

    def _is_null(self, payload: Any) -> bool:
        return bytes(payload) == (b"\xc0" if self._codec.binary else b"null")

    async def _fulfil(
        self, handler: Callable[[Request[Any]], Awaitable[Any]], inquiry: Inquiry
    ) -> None:
        type = inquiry.message.type
        traceparent.set(inquiry.trace)
        try:
            message = _with_payload(inquiry.message, self._read_any)
        except DecodeError as error:
            inquiry.fail("malformed", str(error))
            return
        try:
            reply = await handler(Request(inquiry, message, self._encode_part))
            inquiry.end(self._encode_part(type, reply))
            self._session.hurry()
        except* Exception as errors:
            _refuse(inquiry, errors)

    def _encode_part(self, type: str, payload: Any) -> bytes:
        data = self._codec.encode(type, payload, self._meta(Priority.NORMAL, None))
        most = self._message_bytes - AROUND_BYTES
        numbered = self._session.numbered
        if numbered is not None:
            most = min(most, numbered.peer_message_bytes - AROUND_BYTES)
        if len(data) > most:
            raise _Oversize("payload", f"must encode to at most {most} bytes", len(data))
        return data


class _Oversize(PayloadError):
    """What the other side does not take."""


def _refuse(inquiry: Inquiry, errors: ExceptionGroup[Exception]) -> None:
    """Answer for a handler that raised `errors`."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, Refused):
        inquiry.fail(error.code, error.text)
        return
    # `except*` puts a single exception into a group without a message.
    shown = errors if errors.message else errors.exceptions[0]
    logger.error("the handler of %r failed", inquiry.message.type, exc_info=shown)
    if isinstance(error, _Oversize):
        inquiry.fail("oversize", "the reply is too large")
    else:
        inquiry.fail("error", "the handler failed")


def _tells_replies(codec: Codec) -> bool:
    """Whether it is one of the program's own that can tell which message answers."""
    return getattr(type(codec), "correlate", None) is not JsonCodec.correlate


def _left_ms() -> int | None:
    """How long the running task may go on waiting."""
    deadline = trio.current_effective_deadline()
    if deadline == math.inf:
        return None
    left_ms = (deadline - trio.current_time()) * 1000
    return None if left_ms > MAX_NUMBER else math.ceil(max(0.0, left_ms))


def _with_payload(message: Message[Any], reader: Reader) -> Message[Any]:
    # `msgspec.structs.replace` takes four times as long.
    return Message(
        message.type,
        reader(message.payload),
        message.id,
        message.timestamp,
        message.priority,
        message.key,
        message.received_at,
    )
