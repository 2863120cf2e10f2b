"""Two people in a room, one of whom goes and comes back.

Prints:

    grace has joined
    grace: anybody here?
    ada may not join grace/diary: no_room
    grace missed: just a moment
    grace missed: here I am
    2 of 3 messages are ada's
"""

from __future__ import annotations

from functools import partial

import trio

import trio_rt
from trio_rt import Gap, Refused, Reset
from trio_rt.hub import (
    Joined,
    Left,
    Membership,
    Position,
    RoomMessage,
    Rules,
    Who,
    open_hub,
    open_room,
)

TOKENS = {"a-secret": "ada", "g-secret": "grace"}


async def accept(handshake: trio_rt.Handshake) -> Who:
    """Who it is. What a message says of its sender is never believed."""
    user = TOKENS.get(handshake.headers.get("Authorization", "").removeprefix("Bearer "))
    if user is None:
        raise trio_rt.Refuse(401)
    return Who(user, info={"name": user.title()})


class OwnRooms(Rules):
    """The lobby is everybody's, and `ada/...` is ada's."""

    async def may_join(self, who: Who, room: str) -> bool:
        return room == "lobby" or room.startswith(f"{who.user}/")


async def listen(room: Membership[str]) -> None:
    """Print what happens, up to a question."""
    async for item in room:
        match item:
            case RoomMessage(user=user, payload=payload):
                print(f"{user}: {payload}")
                if payload.endswith("?"):
                    return
            case Joined(user=user):
                print(f"{user} has joined")
            case Left(user=user):
                print(f"{user} has left")
            case Gap(count=count):
                print(f"{count} messages are gone")
            case Reset():
                print("the log began anew")


async def ask(url: str) -> Position | None:
    """Say something, and where in the room it stands."""
    connecting = trio_rt.connect(url, credentials=trio_rt.Credentials(token="g-secret"))
    async with connecting as conn, open_room(conn, "lobby") as room:
        return await room.publish("anybody here?")


async def come_back(url: str, position: Position | None) -> None:
    """Print what was said since."""
    connecting = trio_rt.connect(url, credentials=trio_rt.Credentials(token="g-secret"))
    async with connecting as conn, open_room(conn, "lobby", since=position) as room:
        async for item in room:
            if isinstance(item, RoomMessage):
                print(f"grace missed: {item.payload}")
                if item.payload == "here I am":
                    return


async def main() -> None:
    async with open_hub(rules=OwnRooms()) as hub, trio.open_nursery() as nursery:
        serve = partial(trio_rt.serve, hub, "127.0.0.1", 0, accept=accept)
        server: trio_rt.Server = await nursery.start(serve)
        connecting = trio_rt.connect(server.url, credentials=trio_rt.Credentials(token="a-secret"))
        async with connecting as conn, open_room(conn, "lobby", as_=str) as room:
            positions: list[Position | None] = []

            async def grace() -> None:
                positions.append(await ask(server.url))

            nursery.start_soon(grace)
            await listen(room)
            try:
                async with open_room(conn, "grace/diary"):
                    pass
            except Refused as refusal:
                print("ada may not join grace/diary:", refusal.code)
            await room.publish("just a moment")
            await room.publish("here I am")
            await come_back(server.url, positions[0])
            page = await room.history(limit=50)
            mine = sum(message.mine for message in page.messages)
            print(f"{mine} of {len(page.messages)} messages are ada's")
        await server.drain(over_s=0)


if __name__ == "__main__":
    trio.run(main)
