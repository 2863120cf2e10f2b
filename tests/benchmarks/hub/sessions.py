"""The same fan-out to members with sessions: the package's own clients, in this process."""

from __future__ import annotations

from typing import Final

import trio

import trio_rt
from trio_rt import Connection, Message

from .running import Server, running

__all__ = ["session_fan_out"]

CAP_S: Final = 300.0
#: Clients that dial at the same time.
AT_ONCE: Final = 50


class _Company:
    """Members of the room `r` that count what they hear."""

    def __init__(self) -> None:
        self.heard = 0
        self.members = 0
        self.talker: Connection
        self._wanted = 0
        self._changed = trio.Event()

    async def member(self, url: str, dialling: trio.CapacityLimiter) -> None:
        async with trio_rt.connect(url, session="require") as conn:
            with conn.subscribe("room:r") as stream:
                async with dialling:
                    await conn.deliver("hub.join", {"room": "r"})
                self.talker = conn
                self._count(members=1)
                while True:
                    for item in await stream.receive_many():
                        assert isinstance(item, Message), item
                        if item.payload["kind"] == "message":
                            self._count(heard=1)

    def _count(self, *, members: int = 0, heard: int = 0) -> None:
        self.members += members
        self.heard += heard
        if members or self.heard == self._wanted:
            self._changed.set()

    async def all_joined(self, count: int) -> None:
        while self.members < count:
            self._changed = trio.Event()
            await self._changed.wait()

    async def say(self, text: str, burst: int, members: int) -> None:
        """A member says it, and all have heard it."""
        self._wanted = self.heard + burst * members
        self._changed = trio.Event()
        for _ in range(burst):
            self.talker.send_nowait("hub.publish", {"room": "r", "payload": text})
        await self._changed.wait()


def session_fan_out(text: str, members: int, burst: int, times: int) -> float:
    """Deliveries for each second of the server's CPU, acknowledgements included."""

    async def main(server: Server) -> float:
        with trio.fail_after(CAP_S):
            async with trio.open_nursery() as nursery:
                company, dialling = _Company(), trio.CapacityLimiter(AT_ONCE)
                url = f"ws://127.0.0.1:{server.port}"
                for _ in range(members):
                    nursery.start_soon(company.member, url, dialling)
                await company.all_joined(members)
                await trio.sleep(1)
                for count in (3, times):  # the first to warm up
                    begin, before = server.cpu_s(), company.heard
                    for _ in range(count):
                        await company.say(text, burst, members)
                    used = server.cpu_s() - begin
                nursery.cancel_scope.cancel()
        return (company.heard - before) / used

    with running("ours") as server:
        return trio.run(main, server)
