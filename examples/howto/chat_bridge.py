"""A bridge: what is said in one room is said in another one, each message once.

Prints:

    in the office: (from garden) ada: it rains
    in the garden: (from office) grace: come in
"""

from __future__ import annotations

import secrets
from functools import partial

import trio

import trio_rt
from trio_rt.chat import ChatRoom, Spoken, open_chat, open_chat_service, sign_token

SECRET = secrets.token_bytes(32)


def credentials(user: str) -> trio_rt.Credentials:
    return trio_rt.Credentials(token=sign_token(SECRET, user, for_s=600))


async def carry(source: ChatRoom, target: ChatRoom) -> None:
    """Say in `target` what others say in `source`."""
    with source.events() as events:
        async for event in events:
            if isinstance(event, Spoken) and not event.message.mine:
                message = event.message
                await target.say(f"(from {source.name}) {message.user.name}: {message.content}")


async def bridge(url: str, *, task_status: trio.TaskStatus[None]) -> None:
    async with (
        open_chat(url, credentials=credentials("bridge")) as chat,
        chat.room("garden", history=0) as garden,
        chat.room("office", history=0) as office,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(carry, garden, office)
        nursery.start_soon(carry, office, garden)
        task_status.started()


async def hear(room: ChatRoom) -> None:
    """Wait for what comes over the bridge, and print it."""
    with room.events() as events:
        async for event in events:
            if isinstance(event, Spoken) and event.message.user.id == "bridge":
                print(f"in the {room.name}: {event.message.content}")
                return


async def main() -> None:
    async with open_chat_service(secret=SECRET) as service, trio.open_nursery() as nursery:
        serve = partial(trio_rt.serve, service, "127.0.0.1", 0, accept=service.accept)
        server: trio_rt.Server = await nursery.start(serve)
        await nursery.start(bridge, server.url)
        async with (
            open_chat(server.url, credentials=credentials("ada")) as ada,
            open_chat(server.url, credentials=credentials("grace")) as grace,
            ada.room("garden") as garden,
            grace.room("office") as office,
        ):
            await garden.say("it rains")
            await hear(office)
            await office.say("come in")
            await hear(garden)
        await server.drain(over_s=0)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
