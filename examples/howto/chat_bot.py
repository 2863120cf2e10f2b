"""A bot that answers who asks for the time in its room, and only once for each question.

Prints:

    ada: @clock what time is it?
    clock: it is noon
    ada: thanks
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


async def bot(url: str, *, task_status: trio.TaskStatus[None]) -> None:
    """Answer for ever. What it says is said once, whatever happens to its links."""
    async with (
        open_chat(url, credentials=credentials("clock")) as chat,
        chat.room("lobby", history=0) as room,
    ):
        with room.events() as events:
            task_status.started()
            async for event in events:
                if isinstance(event, Spoken) and event.message.content.startswith("@clock "):
                    await room.say("it is noon", reply_to=event.message)


async def ask(room: ChatRoom) -> None:
    with room.events() as events:
        question = await room.say("@clock what time is it?")
        async for event in events:
            if isinstance(event, Spoken):
                message = event.message
                print(f"{message.user.name}: {message.content}")
                if message.reply:
                    assert message.reply == question.offset
                    await room.say("thanks")
                if message.content == "thanks":
                    return


async def main() -> None:
    async with open_chat_service(secret=SECRET) as service, trio.open_nursery() as nursery:
        serve = partial(trio_rt.serve, service, "127.0.0.1", 0, accept=service.accept)
        server: trio_rt.Server = await nursery.start(serve)
        await nursery.start(bot, server.url)
        async with (
            open_chat(server.url, credentials=credentials("ada")) as chat,
            chat.room("lobby") as room,
        ):
            await ask(room)
        await server.drain(over_s=0)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
