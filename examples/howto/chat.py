"""Two people chat; one of them corrects herself, the other one reacts.

Prints:

    grace is there
    ada is typing
    ada: anybody heer?
    ada: anybody here? (edited)
    grace: I am
    ada reacts to "I am" with 👍
    said: queued sent acked echoed
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial

import trio

import trio_rt
from trio_rt.chat import (
    ChatRoom,
    Edited,
    Reacted,
    Spoken,
    TypingChanged,
    UserJoined,
    open_chat,
    open_chat_service,
    sign_token,
)

SECRET = secrets.token_bytes(32)


def credentials(user: str) -> trio_rt.Credentials:
    return trio_rt.Credentials(token=sign_token(SECRET, user, for_s=600))


async def grace(url: str, *, task_status: trio.TaskStatus[None]) -> None:
    """Print what ada does, and answer."""
    async with (
        open_chat(url, credentials=credentials("grace")) as chat,
        chat.room("lobby") as room,
    ):
        with room.events() as events:
            task_status.started()
            async for event in events:
                match event:
                    case TypingChanged(users=users) if users:
                        print(", ".join(user.name for user in users), "is typing")
                    case Spoken(message=message):
                        print(f"{message.user.name}: {message.content}")
                    case Edited(content=content, by=user):
                        print(f"{user.name}: {content} (edited)")
                        await room.say("I am")
                    case Reacted(reaction=reaction, by=user, message=message) if message:
                        print(f'{user.name} reacts to "{message.content}" with {reaction}')
                        return


async def ada(room: ChatRoom) -> Sequence[str]:
    """Say something, mend it, and wait for an answer: what became of the message."""
    with room.typing():
        await trio.sleep(0.1)
    said = await room.say("anybody heer?")
    states = [state async for state in said.states()]
    with room.events() as events:
        await room.edit(said.message, "anybody here?")
        async for event in events:
            if isinstance(event, Spoken):
                await room.react(event.message, "👍")
                break
    return states


async def main() -> None:
    async with open_chat_service(secret=SECRET) as service, trio.open_nursery() as nursery:
        serve = partial(trio_rt.serve, service, "127.0.0.1", 0, accept=service.accept)
        server: trio_rt.Server = await nursery.start(serve)
        async with (
            open_chat(server.url, credentials=credentials("ada")) as chat,
            chat.room("lobby") as room,
        ):
            async with trio.open_nursery() as talking:
                with room.events() as events:
                    await talking.start(grace, server.url)
                    async for event in events:
                        if isinstance(event, UserJoined):
                            print(event.user.name, "is there")
                            break
                states = await ada(room)
            print("said:", *states)
        await server.drain(over_s=0)


if __name__ == "__main__":
    trio.run(main)
