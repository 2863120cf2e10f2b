"""Items of a hub's membership, as a chat's room has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trio_rt.chat._client.log import RoomLog
from trio_rt.chat.models import ChatMessage, RoomEvent, User
from trio_rt.hub._broker import Position
from trio_rt.hub._client.items import HistoryPage, RoomMessage

EPOCH = "a"
ME = "me"


def item(
    offset: int,
    type: str = "text",
    payload: Any = None,
    *,
    user: str = "ann",
    id: str = "",
    epoch: str = EPOCH,
    device: str = "d1",
    at: int = 0,
) -> RoomMessage[Any]:
    """A message of the log; of a text, what it says is its offset. Said at `offset` ms."""
    if payload is None:
        payload = {"content": f"said {offset}"}
    return RoomMessage(
        Position(epoch, offset),
        id or f"{epoch}{offset}",
        user,
        device,
        type,
        payload,
        at or offset,
        user == ME,
    )


def edit(offset: int, target: int, content: str = "", **more: Any) -> RoomMessage[Any]:
    payload = {"target": target, "content": content or f"edited {offset}"}
    return item(offset, "edit", payload, **more)


def delete(offset: int, target: int, **more: Any) -> RoomMessage[Any]:
    return item(offset, "delete", {"target": target}, **more)


def react(
    offset: int, target: int, reaction: str = "+", on: bool = True, **more: Any
) -> RoomMessage[Any]:
    payload = {"target": target, "reaction": reaction, "on": on}
    return item(offset, "react", payload, **more)


def page(*items: RoomMessage[Any], epoch: str = EPOCH) -> HistoryPage[Any]:
    return HistoryPage(tuple(items), 1, 1000, epoch)


def take(log: RoomLog, *items: RoomMessage[Any]) -> list[RoomEvent]:
    """What happens when they are taken in turn."""
    events: list[RoomEvent] = []
    for each in items:
        assert each.position is not None
        events += log.take(each, until=each.position.offset)
    return events


def room_log(*items: RoomMessage[Any], keep: int = 1000) -> RoomLog:
    """That of the user `ME`."""
    log = RoomLog(keep)
    log.me = ME
    take(log, *items)
    return log


def own(id: str, content: str = "mine") -> ChatMessage:
    """A message as it is queued."""
    return ChatMessage(
        id=id, user=User(ME, ME), kind="text", content=content, mine=True, state="queued"
    )


def brief(messages: Sequence[ChatMessage]) -> list[Any]:
    """Offsets; ids and states of those that have none or are not in their place."""
    return [m.offset if m.state == "echoed" else (m.id, m.state) for m in messages]
