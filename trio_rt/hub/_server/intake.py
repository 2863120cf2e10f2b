"""What a peer asks of its hub, message by message.

None of it can end the loop that reads it: the worst that a peer can do is to be refused.
What one peer asks is done in the order in which it came, and not while the peer lags.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import trio

from ...errors import DecodeError, Refused
from ...message import Message
from ...protocol.inbox import HEARTBEAT
from ...protocol.lanes import Entry
from ...protocol.payloads import Reader, reader
from .._broker import BrokerError
from .._names import is_name
from .._words import (
    DONE,
    HISTORY,
    JOIN,
    LEAVE,
    MARK,
    MEMBERS,
    PUBLISH,
    REFUSED,
    Event,
    History,
    Join,
    Leave,
    Mark,
    Members,
    Publish,
    room_type,
)
from .commands import Commands, Host, unavailable
from .extension import DialectOf, ExtensionOf
from .room import Guest
from .tongue import Tongues

__all__ = ["Intake"]

_log: Final = logging.getLogger("trio_rt.hub")

_SHAPES: Final[Mapping[str, type]] = {
    JOIN: Join,
    LEAVE: Leave,
    PUBLISH: Publish,
    HISTORY: History,
    MEMBERS: Members,
    MARK: Mark,
}

#: The longest id of a command that comes back with its answer.
ID_LENGTH: Final = 256

#: A peer's heartbeats are answered once in so many seconds: it may answer those that it gets.
BEAT_S: Final = 1.0

_Do = Callable[[Guest, str, Any], Awaitable[None]]


class _Form:
    """Of a type of message: how its payload is read, and what is done then."""

    __slots__ = ("dialect", "do", "readers")

    def __init__(self, shape: type, do: _Do, dialect: DialectOf[Any] | None = None) -> None:
        #: For JSON and for MessagePack.
        self.readers: Final[tuple[Reader, Reader]] = reader(False, shape), reader(True, shape)
        self.do: Final = do
        self.dialect: Final = dialect


class Intake:
    """Of one hub, with what the program adds to it."""

    def __init__(
        self, hub: Host, commands: Commands, tongues: Tongues, extension: ExtensionOf[Any]
    ) -> None:
        self._hub: Final = hub
        self._commands: Final = commands
        self._tongues: Final = tongues
        self._extension: Final = extension
        forms = {type: _Form(shape, self._hubs) for type, shape in _SHAPES.items()}
        forms |= {type: _Form(shape, self._own) for type, shape in extension.commands.items()}
        for dialect in extension.dialects:
            do = partial(self._translated, dialect)
            forms |= {type: _Form(shape, do, dialect) for type, shape in dialect.commands.items()}
        self._forms: Final[Mapping[str, _Form]] = forms
        #: Those of the messages that it takes.
        self.types: Final = (*forms, HEARTBEAT) if extension.dialects else tuple(forms)

    async def take(self, guest: Guest, message: Message[Any]) -> None:
        """Do what it asks, and answer; its payload is as it came. Raises only `Cancelled`.

        Waits while the guest lags. Where it never keeps up again nothing is done.
        """
        while (lag := guest.lag) is not None:
            await lag.over.wait()
            if guest.lag is lag:
                return
        is_timely = guest.spend(trio.current_time())
        if message.type == HEARTBEAT:
            _beat(guest)
            return
        form = self._forms[message.type]
        if form.dialect is not None:
            guest.tongue = self._tongues.of(guest.peer.codec, form.dialect)
        re = message.id if isinstance(message.id, str) and len(message.id) <= ID_LENGTH else ""
        type = REFUSED
        try:
            command = form.readers[guest.peer.codec.binary](message.payload)
            type = self._room_type(command) or REFUSED
            if not is_timely:
                raise Refused("too_fast", "more commands than are taken in a second")
            await form.do(guest, re, command)
        except DecodeError as error:
            refusal = Refused("malformed", f"{error.field} {error.rule}")
            self._commands.refuse(guest, re, type, refusal)
        except BrokerError:
            self._commands.refuse(guest, re, type, unavailable())
        except Refused as refusal:
            self._commands.refuse(guest, re, type, refusal)
        except Exception:
            _log.exception("%s: %s failed", guest.peer.handshake.remote, message.type)
            self._commands.refuse(guest, re, type, Refused("error", "the hub failed"))

    def missed(self, guest: Guest) -> None:
        """Commands came faster than they could be taken in, and are lost."""
        self._commands.refuse(guest, "", REFUSED, Refused("too_fast", "commands were lost"))

    # What is done

    async def _hubs(self, guest: Guest, re: str, command: Any) -> None:
        await self._commands.do(guest, re, command)

    async def _own(self, guest: Guest, re: str, command: Any) -> None:
        payload = await self._extension.take(self._hub, guest, command)
        type = self._room_type(command) or DONE
        self._commands.done(guest, re, type, Event("done", re, payload=payload))

    async def _translated(
        self, dialect: DialectOf[Any], guest: Guest, re: str, command: Any
    ) -> None:
        await dialect.take(self._hub, guest, command, re)

    def _room_type(self, command: Any) -> str:
        """That of the events of its room; "" for one that is about none."""
        if not hasattr(command, "room"):
            return ""
        if not is_name(command.room, self._hub.limits.name_bytes):
            raise Refused("bad_name", "that cannot be the name of a room")
        return room_type(command.room)


def _beat(guest: Guest) -> None:
    """Answer a heartbeat message. In a session nobody waits for that."""
    now = trio.current_time()
    if guest.peer.session_id or guest.lag is not None or now < guest.beat_due:
        return
    guest.beat_due = now + BEAT_S
    data = guest.tongue.encode(HEARTBEAT, None)
    guest.peer.post([Entry(data, guest.tongue.codec.binary)])
