"""What the tests of a chat's service share: a service behind a server, and peers with tokens.

async with open_parlour(owners={"lobby": ["olga"]}) as parlour:
    anna = await parlour.enter("anna")
    await anna.join("lobby")
    done = await anna.say_text("lobby", "hello")
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

import trio_rt
from tests.hub.talkers import Talker
from tests.strangers import Site, open_site
from trio_rt.chat import ChatService, open_chat_service, sign_token
from trio_rt.chat._words import MODERATE
from trio_rt.hub._words import PUBLISH, Event

__all__ = ["SECRET", "Parlour", "Visitor", "open_parlour"]

#: Long enough for all algorithms, so that it is the algorithm that is refused.
SECRET: Final = b"an apple a day keeps the doctor away" * 2


class Visitor(Talker):
    """A peer of a chat."""

    async def publish(self, room: str, type: str, payload: Any, **fields: Any) -> Event:
        """Say something: the answer."""
        return await self.ask(PUBLISH, room=room, type=type, payload=payload, **fields)

    async def say_text(self, room: str, content: str, **fields: Any) -> Event:
        return await self.publish(room, "text", {"content": content, **fields})

    async def moderate(self, room: str, action: str, user: str, **fields: Any) -> Event:
        return await self.ask(MODERATE, room=room, action=action, user=user, **fields)


class Parlour:
    """A service in a virtual network."""

    def __init__(self, service: ChatService, site: Site) -> None:
        self.service: Final = service
        self.site: Final = site

    async def enter(self, user: str | None, **claims: Any) -> Visitor:
        """A peer with a token for `user`; None: without one."""
        options: dict[str, Any] = {"session": claims.pop("session", "off")}
        if user is not None:
            token = sign_token(SECRET, user, **claims)

            async def tell(attempt: trio_rt.Attempt) -> trio_rt.Credentials:
                await trio.lowlevel.checkpoint()
                return trio_rt.Credentials(token=token)

            options["credentials"] = tell

        async def live(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            with trio.CancelScope() as scope:
                async with self.site.connect(**options) as conn:
                    await conn.wait_connected()
                    visitor = Visitor(conn, scope)
                    task_status.started(visitor)
                    try:
                        await visitor.listen()
                    finally:
                        visitor.gone.set()

        visitor: Visitor = await self.site.nursery.start(live)
        return visitor


@asynccontextmanager
async def open_parlour(*arguments: Any, **options: Any) -> AsyncIterator[Parlour]:
    """A service with a server, and a network with latency. Nothing is left over at the end."""
    options.setdefault("secret", SECRET)
    async with (
        open_chat_service(*arguments, **options) as service,
        open_site(service, accept=service.accept) as site,
    ):
        yield Parlour(service, site)
    counts = service.statistics().hub
    assert (counts.peers, counts.rooms, counts.members, counts.lagging) == (0, 0, 0, 0)
