"""The owner of a room mutes somebody, deletes what he said, and bans him.

Prints:

    mallory: buy my pills
    mallory: (deleted)
    mallory may not speak: muted
    mallory is sent away: removed
    mallory may not come back: no_room
"""

from __future__ import annotations

import secrets
from functools import partial

import trio

import trio_rt
from trio_rt import Refused
from trio_rt.chat import (
    Chat,
    ChatRoom,
    Deleted,
    Spoken,
    open_chat,
    open_chat_service,
    sign_token,
)

SECRET = secrets.token_bytes(32)


def credentials(user: str) -> trio_rt.Credentials:
    return trio_rt.Credentials(token=sign_token(SECRET, user, for_s=600))


async def mallory(chat: Chat, muted: trio.Event, tried: trio.Event) -> None:
    try:
        async with chat.room("lobby") as room:
            with room.events() as events:
                await room.say("buy my pills")
                await muted.wait()
                said = await room.say("really, buy them")
                try:
                    await said.wait_acked()
                except Refused as refusal:
                    print("mallory may not speak:", refusal.code)
                tried.set()
                async for _ in events:
                    pass
    except Refused as refusal:
        print("mallory is sent away:", refusal.code)
    try:
        async with chat.room("lobby"):
            pass
    except Refused as refusal:
        print("mallory may not come back:", refusal.code)


async def moderate(room: ChatRoom, muted: trio.Event, tried: trio.Event) -> None:
    """What an owner does. The service decides who may."""
    with room.events() as events:
        async for event in events:
            match event:
                case Spoken(message=message):
                    print(f"{message.user.name}: {message.content}")
                    await room.delete(message)
                case Deleted(message=message) if message:
                    print(f"{message.user.name}: (deleted)")
                    break
    await room.moderate("mute", "mallory", for_s=600)
    muted.set()
    await tried.wait()
    await room.moderate("ban", "mallory")


async def main() -> None:
    async with (
        open_chat_service(secret=SECRET, owners={"lobby": ["ada"]}) as service,
        trio.open_nursery() as nursery,
    ):
        serve = partial(trio_rt.serve, service, "127.0.0.1", 0, accept=service.accept)
        server: trio_rt.Server = await nursery.start(serve)
        muted, tried = trio.Event(), trio.Event()
        async with (
            open_chat(server.url, credentials=credentials("ada")) as ada,
            open_chat(server.url, credentials=credentials("mallory")) as chat,
            ada.room("lobby") as room,
            trio.open_nursery() as both,
        ):
            both.start_soon(mallory, chat, muted, tried)
            await moderate(room, muted, tried)
        await server.drain(over_s=0)


if __name__ == "__main__":
    trio.run(main)
