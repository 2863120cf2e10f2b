"""A chat in rooms of the hub: messages, who types, who has read what, and who may say it.

At a client `open_chat()` is a scope over one connection, and `Chat.room()` one in it for each
room. What is said is in the log of a room of the hub, so that a hub's other clients can
take part; `_words` has the kinds of messages.

General layout, from the bottom up:

    _words, models             the vocabulary: what goes over the wire, what a program sees

    _client/                   a user's rooms
      reading, people, kept, pending, amendments    parts of what is known of a room
      log                           all of it, from what the hub tells: a pure model
      typists, keyboard, typing     who types: others, and this user
      ids, beside, marker, events, said    names, scopes, marks, streams, handles
      speaker                       says what is queued, one message at a time
      holder, profile, room, chat   a room's tasks; its face; `open_chat()`
"""

from ._client.chat import Chat, open_chat
from ._client.downloading import Download
from ._client.events import EventStream
from ._client.files import Upload, download, open_upload
from ._client.room import ChatRoom
from ._client.said import Said
from ._client.transfers import FileCorrupted, FileRefused, Progress, SayArguments, StoredFile
from ._service.file_routes import Authorize, authorize_by, file_routes
from ._service.files import FileStatistics, FileStore
from ._service.page import PAGE, PAGE_POLICY
from ._service.rules import ChatRules
from ._service.service import ChatService, ChatStatistics, open_chat_service
from ._service.standing import MemoryStandings, SqliteStandings, Standing, Standings
from ._service.tokens import ChatWho, accept_tokens, sign_token
from ._words import Action, Kind, Role, Status
from .models import (
    ChatMessage,
    Deleted,
    Edited,
    MessageState,
    Moderated,
    Reacted,
    ReadMoved,
    RoomEvent,
    Spoken,
    TypingChanged,
    User,
    UserChanged,
    UserJoined,
    UserLeft,
)

__all__ = [
    "PAGE",
    "PAGE_POLICY",
    "Action",
    "Authorize",
    "Chat",
    "ChatMessage",
    "ChatRoom",
    "ChatRules",
    "ChatService",
    "ChatStatistics",
    "ChatWho",
    "Deleted",
    "Download",
    "Edited",
    "EventStream",
    "FileCorrupted",
    "FileRefused",
    "FileStatistics",
    "FileStore",
    "Kind",
    "MemoryStandings",
    "MessageState",
    "Moderated",
    "Progress",
    "Reacted",
    "ReadMoved",
    "Role",
    "RoomEvent",
    "Said",
    "SayArguments",
    "Spoken",
    "SqliteStandings",
    "Standing",
    "Standings",
    "Status",
    "StoredFile",
    "TypingChanged",
    "Upload",
    "User",
    "UserChanged",
    "UserJoined",
    "UserLeft",
    "accept_tokens",
    "authorize_by",
    "download",
    "file_routes",
    "open_chat",
    "open_chat_service",
    "open_upload",
    "sign_token",
]
