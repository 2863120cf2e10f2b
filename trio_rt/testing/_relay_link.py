"""One connection through a relay, and how it ends.

A link that is ended goes through one of two doors: a reset (SO_LINGER 0, then
close), or a FIN (shutdown, then what still comes is read and thrown away:
closing with unread bytes would make a reset of it). An order to end it only
says how and cancels the forwarding; `run()` then does it, so that no task
finds its socket closed.
"""

from __future__ import annotations

from typing import Final

import trio

from ._conditions import Way
from ._flow import Allowance, EndKind, Flow, Outcome
from ._profile import Towards
from ._sockets import finish, reset_on_close, wait_sent

__all__ = ["RelayLink"]

#: How long a link that was ended by FIN waits for the other side's.
FIN_PATIENCE_S: Final = 5.0


class RelayLink:
    """A client's connection and one to the server. Runs until both directions have ended."""

    def __init__(
        self,
        client: trio.SocketStream,
        server: trio.SocketStream,
        ways: dict[Towards, Way],
        seed: str,
    ) -> None:
        self._ends: Final[dict[Towards, trio.SocketStream]] = {"server": server, "client": client}
        self._ways: Final = ways
        self._flows: Final[dict[Towards, Flow]] = {
            towards: Flow(self._ends[_other(towards)], sink, ways[towards], f"{seed} {towards}")
            for towards, sink in self._ends.items()
        }
        self._forwarding: Final = trio.CancelScope()
        self._parting: Final = trio.CancelScope()
        self._how: EndKind | None = None

    async def run(self) -> None:
        """Forward until it ends, and close both connections. Cancelled, it closes them."""
        async with self._ends["client"], self._ends["server"]:
            with self._forwarding:
                await self._forward()
            if self._how == "fin":
                with self._parting:
                    await self._part()
            if self._how == "rst":
                for stream in self._ends.values():
                    reset_on_close(stream)

    async def _forward(self) -> None:
        async with trio.open_nursery() as nursery:
            for towards, flow in self._flows.items():
                nursery.start_soon(flow.take_in)
                nursery.start_soon(self._give_out, flow, towards)

    async def _give_out(self, flow: Flow, towards: Towards) -> None:
        outcome = await self._outcome(flow, towards)
        if outcome == "fin":
            finish(self._ends[towards])
        elif outcome == "rst":
            self.end("rst")
        else:
            for stream in self._ends.values():
                await wait_sent(stream)
            self.end(flow.allowance.how)

    async def _outcome(self, flow: Flow, towards: Towards) -> Outcome:
        try:
            return await flow.give_out()
        except trio.BrokenResourceError:
            # The sink is gone, and the news of it travel the other way.
            await self._ways[_other(towards)].wait_passable()
            return "rst"

    async def _part(self) -> None:
        with trio.move_on_after(FIN_PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for stream in self._ends.values():
                    finish(stream)
                    nursery.start_soon(_read_out, stream)

    def end(self, how: EndKind) -> None:
        """Forward nothing more, and end both connections so."""
        if self._how == "rst":
            return
        self._how = how
        self._forwarding.cancel()
        if how == "rst":
            self._parting.cancel()

    def cut_after(self, count: int, towards: tuple[Towards, ...], how: EndKind) -> None:
        """Forward so many bytes more, of these directions together, and then end it."""
        if count == 0:
            self.end(how)
        allowance = Allowance(count, how)
        for each in towards:
            self._flows[each].allowance = allowance


def _other(towards: Towards) -> Towards:
    return "client" if towards == "server" else "server"


async def _read_out(stream: trio.SocketStream) -> None:
    try:
        async for _ in stream:
            pass
    except trio.BrokenResourceError:
        pass  # its end is what was waited for
