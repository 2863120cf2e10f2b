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
from trio_rt.chat import Chat, ChatRoom, Spoken, open_chat, open_chat_service, sign_token

SECRET = secrets.token_bytes(32)


def credentials(user: str) -> trio_rt.Credentials:
    return trio_rt.Credentials(token=sign_token(SECRET, user, for_s=600))


async def mallory(chat: Chat, may_go_on: trio.Event) -> None:
    try:
        async with chat.room("lobby") as room:
            with room.events() as events:
                await room.say("buy my pills")
                await may_go_on.wait()
                said = await room.say("really, buy them")
                try:
                    await said.wait_acked()
                except Refused as refusal:
                    print("mallory may not speak:", refusal.code)
                async for _ in events:
                    pass
    except Refused as refusal:
        print("mallory is sent away:", refusal.code)
    try:
        async with chat.room("lobby"):
            pass
    except Refused as refusal:
        print("mallory may not come back:", refusal.code)


async def moderate(room: ChatRoom, may_go_on: trio.Event) -> None:
    """What an owner does. The service decides who may."""
    with room.events() as events:
        async for event in events:
            if isinstance(event, Spoken):
                break
    print(f"{event.message.user.name}: {event.message.content}")
    await room.delete(event.message)
    assert room.messages[0].deleted
    print(f"{event.message.user.name}: (deleted)")
    await room.moderate("mute", "mallory", for_s=600)
    may_go_on.set()


async def main() -> None:
    async with (
        open_chat_service(secret=SECRET, owners={"lobby": ["ada"]}) as service,
        trio.open_nursery() as nursery,
    ):
        serve = partial(trio_rt.serve, service, "127.0.0.1", 0, accept=service.accept)
        server: trio_rt.Server = await nursery.start(serve)
        may_go_on = trio.Event()
        async with (
            open_chat(server.url, credentials=credentials("ada")) as ada,
            open_chat(server.url, credentials=credentials("mallory")) as chat,
            ada.room("lobby") as room,
            trio.open_nursery() as both,
        ):
            both.start_soon(mallory, chat, may_go_on)
            await moderate(room, may_go_on)
            await trio.sleep(0.5)
            await room.moderate("ban", "mallory")
        await server.drain(over_s=0)


if __name__ == "__main__":
    trio.run(main)
