"""One TCP connection of the virtual network, and the faults that can befall it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import trio

from ._pipe import Pipe
from ._profile import CutKind, LinkProfile, Towards
from ._stream import VirtualStream
from ._trace import Trace

__all__ = ["VirtualLink"]


class VirtualLink:
    """One connection of a `VirtualNetwork`; in `connections` until both ends are closed.

    Made by the network. `client` and `host` are the names of its two machines.
    """

    def __init__(
        self,
        *,
        name: str,
        client: str,
        host: str,
        port: int,
        seed: str,
        profile: LinkProfile,
        trace: Trace,
        gone: Callable[[VirtualLink], None],
    ) -> None:
        self.name = name
        self.client: Final = client
        self.host: Final = host
        self.port: Final = port
        #: How bytes sent from now on travel. May be replaced at any time.
        self.profile = profile
        self._trace: Final = trace
        self._gone: Final = gone
        self._cut_by: CutKind | None = None
        self._ended: Final = trio.Event()
        up = Pipe(random.Random(f"{seed} up"))
        down = Pipe(random.Random(f"{seed} down"))
        self._pipes: Final[dict[Towards, Pipe]] = {"server": up, "client": down}
        self._cut_plan: Final[dict[Pipe, tuple[int, CutKind]]] = {}
        self.client_stream: Final = VirtualStream(self, inbound=down, outbound=up)
        self.server_stream: Final = VirtualStream(self, inbound=up, outbound=down)

    def __repr__(self) -> str:
        return f"<VirtualLink {self.name}{f', cut by {self.cut_by}' if self.cut_by else ''}>"

    # -- to look at

    @property
    def cut_by(self) -> CutKind | None:
        """How the network has cut it, if it has."""
        return self._cut_by

    @property
    def alive(self) -> bool:
        """Neither cut nor closed at an end."""
        return not self._ended.is_set()

    async def wait_ended(self) -> None:
        """Wait until it is cut, or an end is closed."""
        await self._ended.wait()

    def sent_bytes(self, towards: Towards) -> int:
        """How many bytes the sender of this direction got rid of."""
        return self._pipes[towards].accepted_bytes

    def read_bytes(self, towards: Towards) -> int:
        """How many bytes the program at the end of this direction has read."""
        return self._pipes[towards].read_bytes

    # -- faults

    def cut(self, how: CutKind = "rst") -> None:
        """Cut it now, for both ends. What has arrived can be read, the rest is lost."""
        now = trio.current_time()
        self._cut(how, dict.fromkeys(self._pipes.values(), now))

    def cut_after(self, count: int, *, towards: Towards = "server", how: CutKind = "rst") -> None:
        """Let `count` more bytes through in this direction, and then cut it.

        The first write of a later byte is the moment of the cut. The bytes
        before it still arrive; their sender finds out one latency after it.
        """
        pipe = self._pipes[towards]
        self._cut_plan[pipe] = (pipe.accepted_bytes + count, how)

    def stall(self, towards: Towards | None = None) -> None:
        """From now nothing arrives in this direction, or in both. Nothing is lost."""
        self._note(f"stall towards {towards or 'both'}")
        for pipe in self._towards(towards):
            pipe.stall(trio.current_time())

    def resume(self, towards: Towards | None = None) -> None:
        """End a stall: all that it held back arrives one latency from now."""
        self._note(f"resume towards {towards or 'both'}")
        for pipe in self._towards(towards):
            pipe.resume(trio.current_time() + self.profile.latency_s)
            self._other(pipe).writers.unpark_all()

    def _towards(self, towards: Towards | None) -> list[Pipe]:
        return list(self._pipes.values()) if towards is None else [self._pipes[towards]]

    def _other(self, pipe: Pipe) -> Pipe:
        up, down = self._pipes.values()
        return down if pipe is up else up

    def _cut(self, how: CutKind, times: dict[Pipe, float]) -> None:
        self._note(f"cut {how}")
        self._cut_by = how
        self._cut_plan.clear()
        for pipe, at in times.items():
            pipe.sever(how, at)
        for pipe in times:
            pipe.writers.unpark_all()
        self._ended.set()

    # -- what its streams do (see `_stream.Link`)

    def carry(self, pipe: Pipe, data: bytes) -> None:
        """Put into `pipe` what the writing end has taken."""
        now = trio.current_time()
        cut_at, how = self._cut_plan.get(pipe, (None, None))
        passing = len(data)
        if cut_at is not None:
            passing = min(passing, cut_at - pipe.accepted_bytes)
        self.note(pipe, f"write {len(data)}")
        pipe.write(data, now, self.profile, passing)
        if how is not None and passing < len(data):
            back = now + self.profile.latency_s
            self._cut(how, {pipe: pipe.arrival(now, self.profile), self._other(pipe): back})
        elif pipe.answered_by_reset:
            self._reset(self._other(pipe), now + 2 * self.profile.latency_s)

    def finish(self, pipe: Pipe) -> None:
        """The writing end of `pipe` sends its FIN."""
        self.note(pipe, "fin")
        pipe.finish(pipe.arrival(trio.current_time(), self.profile))

    def stop_reading(self, pipe: Pipe) -> None:
        """The reading end of `pipe` was closed."""
        self.note(pipe, "closed")
        answer = self._other(pipe)
        meets = pipe.stop_reading(trio.current_time())
        if meets is not None:
            self._reset(answer, answer.arrival(meets, self.profile))
        self._ended.set()
        if self.client_stream.closed and self.server_stream.closed:
            self._gone(self)

    def _reset(self, pipe: Pipe, at: float) -> None:
        """An RST reaches the reading end of `pipe`, which is the writing end of the other."""
        pipe.reset(at)
        self._other(pipe).writers.unpark_all()

    def note(self, pipe: Pipe, event: str) -> None:
        """Put an event of one direction into the trace."""
        arrow = ">" if pipe is self._pipes["server"] else "<"
        self._trace.note(f"{self.name} {arrow} {event}")

    def _note(self, event: str) -> None:
        self._trace.note(f"{self.name} {event}")
