"""A chat in rooms of the hub."""

from ._service.service import ChatService, ChatStatistics, open_chat_service
from ._service.standing import MemoryStandings, SqliteStandings, Standing, Standings
from ._service.tokens import ChatWho, accept_tokens, sign_token

__all__ = [
    "ChatService",
    "ChatStatistics",
    "ChatWho",
    "MemoryStandings",
    "SqliteStandings",
    "Standing",
    "Standings",
    "accept_tokens",
    "open_chat_service",
    "sign_token",
]
