"""`trio-rt serve --chat`: the rooms are a chat's, and its page and files are on the same port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs

from .._accept import AcceptHook
from .._http_values import HttpHandler, HttpRequest
from ..chat import ChatRules, MemoryStandings, SqliteStandings, open_chat_service
from ..chat._service.file_routes import Authorize, authorize_by, file_routes
from ..chat._service.files import FileStore
from ..hub import Broker, HubLimits
from ..options import ServerLimits
from ._watch import Attendant

__all__ = ["ChatOptions", "chat_routes", "guests_too", "open_chat_rooms", "with_files"]


#: The largest file.
FILE_BYTES: Final = 16 << 20


@attrs.frozen(kw_only=True)
class ChatOptions:
    """What the command line says of a chat."""

    #: What tokens are signed with, if they are.
    secret: str = attrs.field(default="", repr=False)
    owners: Mapping[str, list[str]] = attrs.field(factory=dict)
    standings: Path | None = None
    files: Path | None = None


class ChatAttendant(Attendant, ChatRules):
    """Those rules, and who comes and goes is in the log."""


@asynccontextmanager
async def open_chat_rooms(
    broker: Broker, chat: ChatOptions, limits: HubLimits, *, has_tokens: bool
) -> AsyncIterator[Attendant]:
    """A chat's hub. Where nobody has a token plain clients may be who they say they are."""
    kept = MemoryStandings() if chat.standings is None else SqliteStandings(chat.standings)
    async with open_chat_service(
        broker,
        anonymous=not has_tokens,
        standings=kept,
        owners=chat.owners,
        rules=ChatAttendant,
        limits=limits,
    ) as service:
        attendant = service.hub.rules
        assert isinstance(attendant, Attendant)
        yield attendant


def chat_routes(chat: ChatOptions, accept: AcceptHook) -> dict[str, HttpHandler]:
    """Where files are, if there is a directory for them. Raises `OptionError`."""
    if chat.files is None:
        return {}
    return file_routes(FileStore(chat.files, file_bytes=FILE_BYTES), guests_too(accept))


def with_files(limits: ServerLimits) -> ServerLimits:
    """The same, and a body may be a whole file: some clients send one in one piece."""
    return attrs.evolve(limits, body_bytes=FILE_BYTES)


def guests_too(accept: AcceptHook) -> Authorize:
    """Whom `accept` lets in without a token uploads as their address."""
    known = authorize_by(accept)

    async def authorize(request: HttpRequest) -> str | None:
        return await known(request) or f"guest of {request.remote}"

    return authorize
