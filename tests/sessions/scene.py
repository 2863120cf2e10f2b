"""One story while it runs: a server, one client, and a quiet end in which all must arrive.

Everything is the real thing but the network and the clock. Consumers live beside
the connection, not in its body, and read every stream to its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final, cast

import attrs
import trio
import trio.testing

from trio_rt import Phase, Server, State, connect, serve_listeners
from trio_rt.testing import Chaos, VirtualNetwork

from ..promises.actors import open_reader, read, read_later, run_sender
from ..promises.carriers import open_stream
from ..promises.echoes import Echo
from ..promises.logs import Oops
from ..promises.plans import TAP, Reading, Sender
from ..promises.records import Reader, Sent, Side, Story, Talker
from ..promises.scene import ADVICE_S, STEPS, Boom, is_cancellation
from .plans import SessionPlan
from .spy import Life, Spy

__all__ = ["Scene", "SessionStory", "serve_scene"]

#: Virtual seconds in which all must arrive once the faults are over: a kept session
#: whose client never heard of it has to end, and the slowest consumers take a second
#: for each of some hundred messages.
QUIET_S: Final = 600.0

#: How often to look whether all has arrived.
ROUND_S: Final = 0.1


@attrs.define(eq=False, kw_only=True)
class SessionStory(Story):
    """`Story`, of sessions: `peers` has one for each, and taps are what came in, seen by nobody."""

    plan: SessionPlan
    spy: Spy = attrs.field(factory=Spy)
    lives: dict[str, Life] = attrs.field(factory=dict)
    #: When each client state was CONNECTED, whether resumed, and sessions begun till then.
    connects: list[tuple[float, bool, int]] = attrs.field(factory=list)
    causes: list[BaseException] = attrs.field(factory=list)
    #: When the faults were over and all had arrived; inf: never, or nobody waited.
    quiet_at: float = math.inf
    #: What never arrived.
    stuck: list[str] = attrs.field(factory=list)


class Scene:
    """One story while it runs. `world` outlives the connection and the server."""

    def __init__(self, plan: SessionPlan, world: trio.Nursery, network: VirtualNetwork) -> None:
        self.story: Final = SessionStory(plan=plan, network=network)
        self.plan: Final = plan
        self.world: Final = world
        self.network: Final = network
        self.faults_over: Final = trio.Event()
        self.server_scope: trio.CancelScope
        #: Every server that there was.
        self.servers: Final[list[Server]] = []
        self._talking = 0
        self._silence: Final = trio.lowlevel.ParkingLot()

    # Both sides

    def _new_side(self, name: str, talker: Any) -> Side:
        side = Side(name=name, talker=cast(Talker, talker), opened_at=trio.current_time())
        life = self.story.spy.life(talker._session)
        self.story.lives[name] = life
        # The observer's own place among the streams: it consumes nothing.
        side.readers.append(Reader(plan=TAP, stream=cast(Any, None)))
        _note_deliveries(talker, side)
        self.world.start_soon(self._await_end, side, life)
        return side

    async def _await_end(self, side: Side, life: Life) -> None:
        await life.ended.wait()
        side.over = True
        side.tap.ended_by, side.tap.ended_at = "end", life.ended_at

    def _start_readers(self, side: Side, readings: Sequence[Reading], tell: Any = None) -> None:
        for reading in readings:
            if reading.opens_after_s:
                self.world.start_soon(read_later, side, self.plan, reading)
            else:
                reader = open_reader(side, self.plan, reading)
                self.world.start_soon(read, side, reader, tell)
                tell = None

    async def _send(self, side: Side, task: int, sender: Sender) -> None:
        try:
            await run_sender(side, self.plan, str(task), sender)
        finally:
            self._talking -= 1
            self._silence.unpark_all()

    def _start_senders(self, side: Side, senders: Sequence[Sender], nursery: trio.Nursery) -> None:
        self._talking += len(senders)
        for task, sender in enumerate(senders):
            nursery.start_soon(self._send, side, task, sender)

    # The server

    async def handle(self, peer: Any) -> None:
        """The server's handler, once for each session."""
        story, number = self.story, len(self.story.peers)
        plan = self.plan.peer(number)
        side = self._new_side(f"p{number}", peer)
        story.peers.append(side)
        self._start_readers(side, plan.readings, Echo(side, self.plan, plan))
        with trio.move_on_after(plan.lasts_s) as lasts:
            async with trio.open_nursery() as nursery:
                self._start_senders(side, plan.senders, nursery)
                await story.lives[side.name].ended.wait()
                nursery.cancel_scope.cancel()
        if lasts.cancelled_caught:
            side.left_at = trio.current_time()
            if plan.ends == "error":
                raise Oops
            if plan.ends == "advise":
                peer.close(1012, f"retry-after={ADVICE_S}")

    # The client

    async def run_client(self, chaos: Chaos) -> None:
        """From `connect()` to its end, whatever that is."""
        story = self.story
        async with trio.open_nursery() as workers:
            with self._surroundings(chaos) as scope:
                await self._connect(workers, scope, chaos)
            story.left_at = trio.current_time()
            # Its failure may be what left `connect()`, and not the cancellation.
            if story.cancelled_at == math.inf and scope.cancel_called:
                in_body = story.raised is not None and is_cancellation(story.raised)
                story.cancelled_at = story.body_ended_at if in_body else story.left_at
            if self.plan.carrier == "plain":  # closed in the next turn of the loop
                await trio.testing.wait_all_tasks_blocked()
            self._look_around()
            workers.cancel_scope.cancel()

    def _surroundings(self, chaos: Chaos) -> AbstractContextManager[trio.CancelScope]:
        if self.plan.ending == "cancel_step":
            return chaos.cancel_somewhere(STEPS)
        return trio.CancelScope()

    async def _connect(self, workers: trio.Nursery, scope: trio.CancelScope, chaos: Chaos) -> None:
        plan, story = self.plan, self.story
        try:
            async with connect(
                "ws://server/",
                codec=plan.codec,
                session="require",
                open_stream=open_stream(plan, self.network),
                reconnect=plan.reconnect,
                liveness=plan.liveness,
                outbox=plan.outbox,
                inbox=plan.inbox,
                compression=plan.compression,
                wire=plan.wire,
                open_timeout_s=plan.open_timeout_s,
                close_timeout_s=plan.close_timeout_s,
            ) as conn:
                try:
                    await self._body(conn, workers, scope, chaos)
                except BaseException as error:
                    story.raised = error
                    raise
                finally:
                    story.body_ended_at = trio.current_time()
        except BaseException as error:  # the checks judge it
            story.left = error
            if is_cancellation(error):
                raise

    async def _body(
        self, conn: Any, workers: trio.Nursery, scope: trio.CancelScope, chaos: Chaos
    ) -> None:
        plan = self.plan
        self.story.client = side = self._new_side("c", conn)
        self.world.start_soon(self._watch, conn, conn.watch_states())
        self._start_readers(side, plan.readings)
        if plan.ending == "cancel":
            self.world.start_soon(self._cancel_later, scope)
        block: AbstractContextManager[object] = nullcontext()
        if plan.ending == "body_step":
            block = chaos.cancel_somewhere(STEPS)
        with block:
            if plan.inside:
                async with trio.open_nursery() as nursery:
                    self._start_senders(side, plan.senders, nursery)
                    await self._act()
                    nursery.cancel_scope.cancel()
            else:
                self._start_senders(side, plan.senders, workers)
                await self._act()

    async def _act(self) -> None:
        plan = self.plan
        in_time = plan.ending in ("leave", "error")
        with trio.move_on_after(plan.ends_at_s if in_time else math.inf):
            await self.faults_over.wait()
            # A link that is too slow for its own liveness would be lost again and again.
            self.network.profile = attrs.evolve(
                self.network.profile, bandwidth_bytes_per_s=math.inf
            )
            with trio.move_on_after(QUIET_S) as quiet:
                await self._settle_all()
                self.story.quiet_at = trio.current_time()
            if quiet.cancelled_caught:
                self.story.stuck += self._pending()
        if plan.ending == "error":
            raise Boom

    async def _settle_all(self) -> None:
        """Wait until nobody sends and every send has its outcome, at both ends."""
        while self._talking or self._pending():
            while self._talking:
                await self._silence.park()
            for side in (self.story.client, *self.story.peers):
                await cast(Any, side.talker).drain()
            await trio.sleep(ROUND_S)

    def _pending(self) -> list[str]:
        sides = (self.story.client, *self.story.peers)
        found = [
            f"{sent.label} is still {sent.delivery!r}"
            for side in sides
            for sent in side.sent
            if sent.delivery is not None and sent.delivery.outcome is None
        ]
        return found + ([f"{self._talking} senders wait"] if self._talking else [])

    async def _cancel_later(self, scope: trio.CancelScope) -> None:
        await trio.sleep(self.plan.ends_at_s)
        if self.story.left_at == math.inf:
            self.story.cancelled_at = trio.current_time()
            scope.cancel()

    async def _watch(self, conn: Any, states: Any) -> None:
        async for state in states:
            self._note_state(state)

    def _note_state(self, state: State) -> None:
        if state.phase is Phase.CONNECTED:
            begun = len(self.story.lives["c"].begun)
            self.story.connects.append((trio.current_time(), state.resumed, begun))
        elif state.cause is not None:
            self.story.causes.append(state.cause)

    def _look_around(self) -> None:
        """What P6 forbids, right after `connect()` was left."""
        story = self.story
        for link in self.network.connections:
            if not link.client_stream.closed:
                story.debris.append(f"an open socket: {link}")
        if not hasattr(story, "client"):
            return  # cancelled before the body began
        story.client.over = True
        story.client.final = story.client.talker.statistics()
        try:
            story.client.talker.send_nowait("a", "x")
            story.debris.append("the closed connection accepts a send")
        except trio.ClosedResourceError:
            pass

    def finish(self) -> None:
        """What is left of the server, and the books of its side, after its end."""
        story = self.story
        for side in story.peers:
            side.final = side.talker.statistics()
        for server in self.servers:
            left = [*server._peers, *server._sessions._by_id, *server._sessions._waiting]
            if left:
                story.debris.append(f"the server still has {left}")


def _note_deliveries(talker: Any, side: Side) -> None:
    """Keep what `send` returns within `deliver`, too."""
    send = talker.send

    async def noting(type: str, payload: str, **options: Any) -> Any:
        delivery = await send(type, payload, **options)
        label = payload.partition(" ")[0]
        _find(side, label).delivery = delivery
        return delivery

    talker.send = noting


def _find(side: Side, label: str) -> Sent:
    return next(sent for sent in reversed(side.sent) if sent.label == label)


async def serve_scene(
    scene: Scene,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Run the scene's server. There may be one after the other."""
    plan = scene.plan
    with trio.CancelScope() as scene.server_scope:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(
                    serve_listeners,
                    scene.handle,
                    listeners,
                    codec=plan.codec,
                    session=plan.session,
                    liveness=plan.server_liveness,
                    outbox=plan.server_outbox,
                    inbox=plan.server_inbox,
                    compression=plan.compression,
                    close_timeout_s=plan.server_close_timeout_s,
                )
            )
            scene.servers.append(server)
            task_status.started()
