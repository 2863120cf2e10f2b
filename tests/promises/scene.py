"""One story while it runs: the server's handler, the client's life, and what is noted down.

Everything is the real thing but, in the virtual network, the network and the
clock. Consumers live beside the connection, not in its body, and read every
stream to its end, so that in the end it is known what arrived and what was lost.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final, cast

import trio
import trio.testing

from trio_rt import (
    Attempt,
    Credentials,
    Greeting,
    Message,
    Phase,
    Server,
    State,
    StateStream,
    connect,
    serve_listeners,
)
from trio_rt._dial import OpenStream
from trio_rt.testing import Chaos, VirtualNetwork

from .actors import open_reader, read, read_later, run_sender
from .carriers import contexts, open_stream
from .echoes import Echo
from .jumps import jump
from .logs import Oops
from .plans import TAP, Plan, Reading
from .records import Dial, LinkRecord, Lost, Reader, Side, Story, Talker

__all__ = ["ADVICE_S", "Boom", "Scene", "is_cancellation", "serve_scene"]

#: What the server advises when it closes with 1012.
ADVICE_S: Final = 0.7

#: How long `greet` listens.
GREETING_S: Final = 0.3

#: How a peer's payloads begin.
LABEL: Final = re.compile(rb"p\d+\.\w+\.\d+")

#: `cancel_somewhere` draws from so many steps of the scheduler.
STEPS: Final = 3000


class Boom(Exception):
    """What a body raises."""


def is_cancellation(error: BaseException) -> bool:
    """In trio it may be a group of its own kind."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


class Scene:
    """One story while it runs. `world` outlives the connection and the server."""

    def __init__(
        self, plan: Plan, world: trio.Nursery, network: VirtualNetwork | None, port: int = 0
    ) -> None:
        self.story: Final = Story(plan=plan, network=network)
        self.plan: Final = plan
        self.world: Final = world
        self.network: Final = network
        #: Of the relay on this host, without a virtual network.
        self._port: Final = port
        self.faults_over: Final = trio.Event()
        #: The server of the moment, and what it is cancelled by.
        self.server: Server
        self.server_scope: trio.CancelScope
        self._senders_over: Final = trio.Event()
        self._senders = len(plan.senders)
        self._link: LinkRecord | None = None
        self._noted: Final = trio.lowlevel.ParkingLot()

    # The server

    async def handle(self, peer: Any) -> None:
        """The server's handler: sends, answers, and may leave before its client does."""
        story, number = self.story, len(self.story.peers)
        plan = self.plan.peer(number)
        side = Side(
            name=f"p{number}",
            talker=peer,
            opened_at=trio.current_time(),
            dial=int(peer.handshake.headers["X-Dial"]),
        )
        story.peers.append(side)
        gone = self._start_readers(side, plan.readings, Echo(side, self.plan, plan))
        with trio.move_on_after(plan.lasts_s) as lasts:
            async with trio.open_nursery() as nursery:
                for task, sender in enumerate(plan.senders):
                    nursery.start_soon(run_sender, side, self.plan, str(task), sender)
                await gone.wait()
                nursery.cancel_scope.cancel()
        if lasts.cancelled_caught:
            side.left_at = trio.current_time()
            if plan.ends == "error":
                raise Oops
            if plan.ends == "advise":
                peer.close(1012, f"retry-after={ADVICE_S}")

    def _start_readers(
        self, side: Side, readings: tuple[Reading, ...], tell: Callable[[Message[Any]], None] | None
    ) -> trio.Event:
        """Open the streams and start their consumers; the event: the tap has ended."""
        gone = trio.Event()
        tap = open_reader(side, self.plan, TAP)

        async def read_tap(reader: Reader) -> None:
            await read(side, reader, tell)
            side.over = True
            gone.set()

        self.world.start_soon(read_tap, tap)
        for reading in readings:
            if reading.opens_after_s:
                self.world.start_soon(read_later, side, self.plan, reading)
            else:
                self.world.start_soon(read, side, open_reader(side, self.plan, reading))
        return gone

    # The client

    async def credentials(self, attempt: Attempt) -> Credentials:
        """Number the dial, so that the server's peer can be told."""
        dial = Dial(number=len(self.story.dials) + 1, at=trio.current_time())
        self.story.dials.append(dial)
        return Credentials(headers={"X-Dial": str(dial.number)})

    async def greet(self, greeting: Greeting) -> None:
        """Say something, and take the first message if it comes soon."""
        text = f"g.{len(self.story.dials)}.0 hello"
        if self.plan.codec != "msgpack":
            raw = self.plan.codec == "raw"
            await greeting.send(text if raw else json.dumps({"type": "a", "payload": text}))
        with trio.move_on_after(GREETING_S):
            data = await greeting.receive()
            found = LABEL.search(data if isinstance(data, bytes) else data.encode())
            if found is not None:  # and no heartbeat
                self.story.greeted.add(found[0].decode())

    async def run_client(self, url: str, chaos: Chaos | None = None) -> None:
        """From `connect()` to its end, whatever that is."""
        async with trio.open_nursery() as workers:
            with self._surroundings(chaos) as scope:
                await self._connect(url, workers, scope, chaos)
            story = self.story
            story.left_at = trio.current_time()
            # Its failure may be what left `connect()`, and not the cancellation.
            if story.cancelled_at == math.inf and scope.cancel_called:
                in_body = story.raised is not None and is_cancellation(story.raised)
                story.cancelled_at = story.body_ended_at if in_body else story.left_at
            if self.plan.carrier == "plain":  # closed in the next turn of the loop
                await trio.testing.wait_all_tasks_blocked()
            self._look_around()
            workers.cancel_scope.cancel()

    def _surroundings(self, chaos: Chaos | None) -> AbstractContextManager[trio.CancelScope]:
        if self.plan.ending == "cancel_step" and chaos is not None:
            return chaos.cancel_somewhere(STEPS)
        return trio.CancelScope()

    async def _connect(
        self, url: str, workers: trio.Nursery, scope: trio.CancelScope, chaos: Chaos | None
    ) -> None:
        plan, story = self.plan, self.story
        try:
            async with connect(
                url,
                codec=cast(Any, plan.codec),
                open_stream=self._open_stream(),
                ssl_context=contexts()[1] if plan.carrier == "tls" else None,
                credentials=self.credentials,
                greet=self.greet if plan.greets else None,
                reconnect=plan.reconnect,
                liveness=plan.liveness,
                outbox=plan.outbox,
                inbox=plan.inbox,
                session="off",
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

    def _open_stream(self) -> OpenStream:
        if self.network is not None:
            return open_stream(self.plan, self.network)

        async def open_relay(host: str, port: int) -> trio.SocketStream:
            return await trio.open_tcp_stream("127.0.0.1", self._port)

        return open_relay

    async def _body(
        self, conn: Any, workers: trio.Nursery, scope: trio.CancelScope, chaos: Chaos | None
    ) -> None:
        plan = self.plan
        side = Side(name="c", talker=cast(Talker, conn), opened_at=trio.current_time())
        self.story.client = side
        self.world.start_soon(self._watch, conn, conn.watch_states())
        self._start_readers(side, plan.readings, None)
        if plan.ending == "cancel":
            self.world.start_soon(self._cancel_later, scope)
        block: AbstractContextManager[object] = nullcontext()
        if plan.ending == "body_step" and chaos is not None:
            block = chaos.cancel_somewhere(STEPS)
        with block:
            if plan.inside:
                async with trio.open_nursery() as nursery:
                    self._start_senders(nursery)
                    await self._act()
                    nursery.cancel_scope.cancel()
            else:
                self._start_senders(workers)
                await self._act()

    def _start_senders(self, nursery: trio.Nursery) -> None:
        async def send(task: int) -> None:
            try:
                await run_sender(self.story.client, plan, str(task), plan.senders[task])
            finally:
                self._senders -= 1
                if not self._senders:
                    self._senders_over.set()

        plan = self.plan
        for task in range(len(plan.senders)):
            nursery.start_soon(send, task)

    async def _act(self) -> None:
        plan = self.plan
        in_time = plan.ending in ("leave", "error")
        with trio.move_on_after(plan.ends_at_s if in_time else math.inf):
            await self._senders_over.wait()
            await self.faults_over.wait()
            if plan.jumps and self.network is not None:
                await jump(self.network, plan.liveness, lambda: self._link, self.story.jumps)
        if plan.ending == "error":
            raise Boom

    async def _cancel_later(self, scope: trio.CancelScope) -> None:
        await trio.sleep(self.plan.ends_at_s)
        if self.story.left_at == math.inf:
            self.story.cancelled_at = trio.current_time()
            scope.cancel()

    async def wait_links(self, count: int) -> None:
        """Wait until the client has had so many links."""
        while len(self.story.links) < count:
            await self._noted.park()

    async def wait_lost(self, count: int) -> None:
        """Wait until it has lost so many of them."""
        while sum(loss.link is not None for loss in self.story.losses) < count:
            await self._noted.park()

    # What is noted down

    async def _watch(self, conn: Any, states: StateStream) -> None:
        async for state in states:
            self._note_state(conn, state)

    def _note_state(self, conn: Any, state: State) -> None:
        now, story = trio.current_time(), self.story
        if state.phase is Phase.CONNECTED:
            self._link = LinkRecord(
                dial=self._dial().number,
                opened_at=now,
                carrier=None if self.network is None else self.network.connections[-1],
                unsettled=frozenset(
                    sent.label for sent in story.client.sent if sent.outcome is None
                ),
                received_before=conn.statistics().received,
            )
            if self._link.carrier is not None:
                self._link.profile = self._link.carrier.profile
            story.links.append(self._link)
            self._noted.unpark_all()
            return
        ended = state.phase in (Phase.DISCONNECTED, Phase.FAILED)
        if state.retry_at is None and not ended:
            return
        link, self._link = self._link, None
        if link is not None:
            link.lost_at, link.cause = now, state.cause
            if state.phase is Phase.DISCONNECTED:
                link.cause = None
            elif state.phase is Phase.FAILED and state.cause is not None:
                link.cause = state.cause.__cause__
            link.received_after = conn.statistics().received
        if state.retry_at is not None:
            story.losses.append(Lost(at=now, state=state, link=link, dial=self._dial()))
            self._noted.unpark_all()

    def _dial(self) -> Dial:
        """The one that a state is about: each before it was lost."""
        return self.story.dials[len(self.story.losses)]

    def _look_around(self) -> None:
        """What P6 forbids, right after `connect()` was left."""
        story = self.story
        if self.network is not None:
            for link in self.network.connections:
                if not link.client_stream.closed:
                    story.debris.append(f"an open socket: {link}")
        if not hasattr(story, "client"):
            return  # cancelled before the body began
        side = story.client
        side.over = True
        side.final = side.talker.statistics()
        try:
            side.talker.send_nowait(*(("x",) if self.plan.codec == "raw" else ("a", "x")))
            story.debris.append("the closed connection accepts a send")
        except trio.ClosedResourceError:
            pass

    def finish(self) -> None:
        """The books of the server's side, after its end."""
        for side in self.story.peers:
            side.final = side.talker.statistics()


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
            scene.server = await nursery.start(
                partial(
                    serve_listeners,
                    scene.handle,
                    listeners,
                    codec=plan.codec,
                    liveness=plan.server_liveness,
                    outbox=plan.server_outbox,
                    inbox=plan.server_inbox,
                    compression=plan.compression,
                    ssl_context=contexts()[0] if plan.carrier == "tls" else None,
                    close_timeout_s=plan.server_close_timeout_s,
                )
            )
            task_status.started()
