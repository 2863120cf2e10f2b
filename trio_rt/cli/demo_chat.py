"""`trio-rt demo --chat`: a chat to look at, with a few who talk in it already.

run
├─ open_chat_service    guests may come; its page and its files are on the same port
├─ serve_relay          with --cut: in front of those who talk; it resets their links
└─ a task for each of those who talk
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Final

import attrs
import trio

from .._connect import connect
from .._server import Server, serve
from ..chat import (
    PAGE,
    PAGE_POLICY,
    ChatRoom,
    ChatService,
    FileStore,
    Spoken,
    file_routes,
    open_chat,
    open_chat_service,
)
from ..hub import Site
from ..options import Reconnect, ServerLimits
from ..testing import Relay, serve_relay
from ._chat_rooms import guests_too

__all__ = ["ChatPlan", "run_chat_demo"]

HOST: Final = "127.0.0.1"
ROOM: Final = "lobby"
PATH: Final = "/ws"

#: Who says what; a line in "*" is a reaction to the last message.
SCRIPT: Final[Sequence[tuple[str, str]]] = (
    ("Ada", "good morning"),
    ("Grace", "morning! did the build go through?"),
    ("Ada", "it did, at the third try"),
    ("Linus", "*🎉"),
    ("Linus", "what was it?"),
    ("Ada", "a test that slept for a second and hoped for the best"),
    ("Grace", "*😅"),
    ("Grace", "there is a paper on that, I shall look for it"),
    ("Linus", "meanwhile I read the diff"),
    ("Linus", "line 40 reads well now"),
    ("Ada", "*❤️"),
    ("Grace", "lunch at noon?"),
    ("Ada", "noon it is"),
    ("Linus", "*👍"),
)


@attrs.frozen(kw_only=True)
class ChatPlan:
    """What to do: for `seconds`, 0 for ever. `pace_s` is between two lines."""

    port: int = 0
    cut: bool = False
    seconds: float = 0.0
    pace_s: float = 3.0
    seed: int = 1


async def run_chat_demo(plan: ChatPlan) -> int:
    """Run it until the time is over or it is cancelled. The exit status."""
    with TemporaryDirectory(prefix="trio-rt-") as directory:
        store = FileStore(directory)
        async with open_chat_service(anonymous=True) as service, trio.open_nursery() as nursery:
            server: Server = await nursery.start(partial(_serve, service, store, plan.port))
            async with _way_in(server, plan) as url, trio.open_nursery() as talking:
                _tell(server, plan)
                for name in sorted({name for name, _ in SCRIPT}):
                    talking.start_soon(_take_part, url, name, plan)
                with trio.move_on_after(plan.seconds or float("inf")):
                    await trio.sleep_forever()
                talking.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    return 0


async def _serve(
    service: ChatService, store: FileStore, port: int, *, task_status: trio.TaskStatus[Server]
) -> None:
    routes = file_routes(store, guests_too(service.accept))
    site = Site(routes, PAGE, policy=PAGE_POLICY)
    await serve(
        service,
        HOST,
        port,
        accept=service.accept,
        path=PATH,
        http=site,
        limits=ServerLimits(body_bytes=store.file_bytes),
        task_status=task_status,
    )


@asynccontextmanager
async def _way_in(server: Server, plan: ChatPlan) -> AsyncIterator[str]:
    """The URL for those who talk: with cuts it goes through a relay."""
    if not plan.cut:
        yield f"{server.url}{PATH}"
        return
    async with trio.open_nursery() as nursery:
        relay: Relay = await nursery.start(serve_relay, HOST, server.port)
        nursery.start_soon(_cut, relay, plan)
        yield f"ws://{HOST}:{relay.port}{PATH}"
        nursery.cancel_scope.cancel()


async def _cut(relay: Relay, plan: ChatPlan) -> None:
    draw = random.Random(plan.seed)
    while True:
        await trio.sleep(draw.uniform(2, 6) * plan.pace_s)
        relay.rst()
        print("-- their links are cut")


def _tell(server: Server, plan: ChatPlan) -> None:
    base = f"{HOST}:{server.port}"
    print(f"the page:       http://{base}/#{ROOM}")
    print(f"in a terminal:  trio-rt chat ws://{base}{PATH} --room {ROOM} --name you")
    names = sorted({name for name, _ in SCRIPT})
    print(f"{', '.join(names[:-1])} and {names[-1]} are talking there. Ctrl-C ends it.", flush=True)


async def _take_part(url: str, name: str, plan: ChatPlan) -> None:
    """One who talks: says the lines of `name` when it is their turn, and greets who is new."""
    soon = Reconnect(first_s=plan.pace_s / 4, cap_s=plan.pace_s)
    async with connect(url, reconnect=soon) as conn, open_chat(conn) as chat:
        await chat.set_profile(name=name)
        async with chat.room(ROOM) as room, trio.open_nursery() as nursery:
            nursery.start_soon(_greet, room, name)
            at = 0
            while True:
                speaker, text = SCRIPT[at % len(SCRIPT)]
                at += 1
                if speaker != name:
                    await trio.sleep(plan.pace_s)
                elif text.startswith("*"):
                    await trio.sleep(plan.pace_s)
                    await _react(room, text[1:])
                else:
                    with room.typing():
                        await trio.sleep(plan.pace_s)
                    await room.say(text)


async def _react(room: ChatRoom, reaction: str) -> None:
    there = [message for message in room.messages if message.state == "echoed"]
    if there:
        await room.react(there[-1], reaction)


async def _greet(room: ChatRoom, name: str) -> None:
    """Grace answers everybody's first message, but for those of the script."""
    known = {speaker for speaker, _ in SCRIPT}
    with room.events() as events:
        async for event in events:
            if name == "Grace" and isinstance(event, Spoken):
                user = event.message.user
                if user.name not in known:
                    known.add(user.name)
                    await room.say(f"hello {user.name}, nice to see you", reply_to=event.message)
