"""What a seed draws: the options of both ends, who sends what, who reads, how it ends.

Swarm style, as the faults of `Chaos`: a seed draws not only values but also
which features it uses at all. Nothing here runs.
"""

from __future__ import annotations

import math
import random
from typing import Final, Literal, TypeAlias

import attrs

from trio_rt import InboxLimits, Liveness, OutboxLimits, Priority, Reconnect
from trio_rt._endpoint import WhenOffline
from trio_rt.options import WireName

__all__ = ["Ending", "PeerPlan", "Plan", "Reading", "Send", "Sender", "Verb", "draw_plan"]

Verb: TypeAlias = Literal["send", "nowait", "deliver", "withdraw"]
Carrier: TypeAlias = Literal["direct", "plain", "tls"]
OnFullName: TypeAlias = Literal["pause", "drop_oldest", "drop_newest", "fail", "conflate"]

#: - `return`: the body waits for its senders and the faults, and returns;
#: - `leave`: it returns at `ends_at_s`, amid everything; `error`: it raises;
#: - `cancel`: the scope around `connect()` is cancelled then; `cancel_step`:
#:   at a random step of the scheduler;
#: - `body_step`: the body's own work is cancelled at a random step.
Ending: TypeAlias = Literal["return", "leave", "error", "cancel", "cancel_step", "body_step"]

_ENDINGS: Final[tuple[Ending, ...]] = (
    "return", "return", "return", "return", "leave", "error", "cancel", "cancel_step", "body_step",
)  # fmt: skip
_POLICIES: Final[tuple[OnFullName, ...]] = (
    "pause", "drop_oldest", "drop_newest", "fail", "conflate",
)  # fmt: skip

#: Above the size of a fragment and of a link's buffers (64 KiB each).
HUGE_BYTES: Final = (66_000, 150_000)


@attrs.frozen(kw_only=True)
class Send:
    """One send. `wait_s` comes before it."""

    wait_s: float
    verb: Verb
    size: int
    #: Two and three bytes of UTF-8 a character; under raw also: as bytes.
    wide: bool
    binary: bool
    type: str
    priority: Priority
    key: str | None
    order: str | None
    ttl_s: float | None
    when_offline: WhenOffline
    #: When a `deliver` is cancelled, and a `withdraw` taken back.
    patience_s: float


@attrs.frozen(kw_only=True)
class Sender:
    """One task that sends. It is cancelled after `lasts_s`."""

    sends: tuple[Send, ...]
    lasts_s: float


@attrs.frozen(kw_only=True)
class Reading:
    """One stream and its consumer, who sleeps before each receive."""

    types: tuple[str, ...]
    capacity: int | None
    on_full: OnFullName
    pause_s: float
    many: bool
    #: Opened so long after the first ones, and closed by its holder after so long.
    opens_after_s: float = 0.0
    lasts_s: float = math.inf


#: The stream that sees everything.
TAP: Final = Reading(types=(), capacity=None, on_full="pause", pause_s=0.0, many=True)


@attrs.frozen(kw_only=True)
class PeerPlan:
    """What the server's handler does with one link."""

    senders: tuple[Sender, ...]
    readings: tuple[Reading, ...]
    #: Every so many messages one is answered; 0: none.
    echo_every: int
    #: It returns, raises, or closes with advice after so long.
    lasts_s: float
    ends: Literal["return", "error", "advise"]


@attrs.frozen(kw_only=True)
class Plan:
    seed: int
    codec: Literal["raw", "json", "msgpack"]
    wire: WireName
    compression: bool
    reconnect: Reconnect
    liveness: Liveness
    server_liveness: Liveness
    outbox: OutboxLimits
    server_outbox: OutboxLimits
    inbox: InboxLimits
    server_inbox: InboxLimits
    open_timeout_s: float
    close_timeout_s: float
    server_close_timeout_s: float
    senders: tuple[Sender, ...]
    readings: tuple[Reading, ...]
    #: For the links in turn.
    peers: tuple[PeerPlan, ...]
    ending: Ending
    ends_at_s: float
    #: The senders are in a nursery of the body, and not beside it.
    inside: bool
    #: After all that the connection idles, and the clock jumps while a pong is on its way.
    jumps: bool
    server_drains: bool
    #: The client says something, and listens a little, before the outbox opens.
    greets: bool
    #: When the server is cancelled, to begin anew after a while.
    restarts_at_s: float
    #: When the machine seems to have slept.
    sleeps_at_s: float
    #: What the wires run on: the network's streams, those without `try_send`
    #: and `abort` at the client, or TLS over the network's (not deterministic).
    carrier: Carrier

    def peer(self, number: int) -> PeerPlan:
        """What the handler does that comes as this one. The later ones stay."""
        if number < len(self.peers):
            return self.peers[number]
        return attrs.evolve(self.peers[-1], lasts_s=math.inf)


class _Draws:
    """Random choices in the words of a plan."""

    def __init__(self, seed: int, pace: float) -> None:
        self.random: Final = random.Random(f"{seed} promises")
        self.pace: Final = pace
        self.types: Final = ("a", "b", "c")
        # Which features this seed has at all.
        self.keys: Final = self.chance(0.5)
        self.orders: Final = self.chance(0.5)
        self.ttls: Final = self.chance(0.5)
        self.ephemerals: Final = self.chance(0.4)
        self.priorities: Final = self.chance(0.8)
        self.wide: Final = self.chance(0.4)
        self.huge: Final = self.chance(0.4)
        self.bursts: Final = self.random.choice((0.3, 0.6, 0.9))

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def log(self, least: float, most: float) -> float:
        return math.exp(self.random.uniform(math.log(least), math.log(most)))

    def seconds(self, most: float) -> float:
        return self.random.uniform(0, most * self.pace)

    def size(self) -> int:
        if self.huge and self.chance(0.08):
            return self.random.randint(*HUGE_BYTES)
        return int(self.log(1, 8000 if self.chance(0.2) else 200))

    def send(self) -> Send:
        pick = self.random.choice
        return Send(
            wait_s=0.0 if self.chance(self.bursts) else self.seconds(2.0),
            verb=self.random.choices(("send", "nowait", "deliver", "withdraw"), (6, 2, 1, 2))[0],
            size=self.size(),
            wide=self.wide and self.chance(0.5),
            binary=self.chance(0.3),
            type=pick(self.types),
            priority=pick(list(Priority)) if self.priorities else Priority.NORMAL,
            key=pick(("k", "l")) if self.keys and self.chance(0.3) else None,
            order=pick(("o", "p")) if self.orders and self.chance(0.4) else None,
            ttl_s=self.seconds(3.0) if self.ttls and self.chance(0.2) else None,
            when_offline=pick(("fail", "drop"))
            if self.ephemerals and self.chance(0.3)
            else "queue",
            patience_s=self.seconds(pick((0.1, 4.0))),
        )

    def sender(self, most: int) -> Sender:
        sends = tuple(self.send() for _ in range(self.random.randint(1, most)))
        return Sender(sends=sends, lasts_s=self.seconds(6.0) if self.chance(0.15) else math.inf)

    def reading(self) -> Reading:
        return Reading(
            types=tuple(self.random.sample(self.types, self.random.randint(0, 2))),
            capacity=self.random.choice((1, 2, 3, 5, 20)),
            on_full=self.random.choice(_POLICIES),
            pause_s=self.pace * self.log(0.05, 5.0) if self.chance(0.8) else 0.0,
            many=self.chance(0.6),
            opens_after_s=self.seconds(10.0) if self.chance(0.2) else 0.0,
            lasts_s=self.seconds(10.0) if self.chance(0.2) else math.inf,
        )

    def peer(self) -> PeerPlan:
        return PeerPlan(
            senders=tuple(self.sender(20) for _ in range(self.random.randint(0, 2))),
            readings=tuple(self.reading() for _ in range(self.random.randint(0, 1))),
            echo_every=self.random.choice((0, 1, 3)),
            lasts_s=self.seconds(8.0) if self.chance(0.3) else math.inf,
            ends=self.random.choice(("return", "error", "advise")),
        )

    def outbox(self) -> OutboxLimits:
        return OutboxLimits(
            messages=self.random.choice((2, 5, 20, 1000)),
            total_bytes=self.random.choice((10_000, 200_000, 4 << 20)),
            rate_per_s=self.log(2, 50) / self.pace if self.chance(0.35) else math.inf,
        )

    def inbox(self) -> InboxLimits:
        return InboxLimits(
            messages=self.random.choice((4, 256)),
            total_bytes=self.random.choice((10_000, 4 << 20)),
        )

    def liveness(self, *, raw: bool) -> Liveness:
        return Liveness(
            interval_s=self.pace * self.random.uniform(1.0, 4.0),
            timeout_s=self.pace * self.random.uniform(1.0, 3.0),
            beat="both" if not raw and self.chance(0.2) else "ping",
        )

    def reconnect(self) -> Reconnect:
        pick = self.random.choice
        return Reconnect(
            first_s=pick((0.0, 0.1, 0.5)) * self.pace,
            cap_s=pick((0.4, 3.0)) * self.pace,
            factor=pick((1.5, 2.0, 3.0)),
            max_attempts=pick((2, 4)) if self.chance(0.15) else math.inf,
            give_up_after_s=self.seconds(10.0) + 0.1 if self.chance(0.05) else math.inf,
            min_uptime_s=pick((0.5, 2.0, 5.0)) * self.pace,
        )


def draw_plan(seed: int, *, pace: float = 1.0, wire: WireName = "websockets") -> Plan:
    """The plan of `seed`, the same on every wire. `pace` scales every duration."""
    draws = _Draws(seed, pace)
    pick, chance = draws.random.choice, draws.chance
    codec: Literal["raw", "json", "msgpack"] = pick(("raw", "json", "json", "msgpack"))
    raw = codec == "raw"
    return Plan(
        seed=seed,
        codec=codec,
        wire=wire,
        compression=chance(0.15) and wire == "websockets",
        reconnect=draws.reconnect(),
        liveness=draws.liveness(raw=raw),
        server_liveness=draws.liveness(raw=raw),
        outbox=draws.outbox(),
        server_outbox=draws.outbox(),
        inbox=draws.inbox(),
        server_inbox=draws.inbox(),
        open_timeout_s=4.0 * pace,
        close_timeout_s=pick((0.5, 5.0)) * pace,
        server_close_timeout_s=pick((0.5, 5.0)) * pace,
        senders=tuple(draws.sender(30) for _ in range(pick((1, 2, 3)))),
        readings=tuple(draws.reading() for _ in range(pick((0, 1, 2)))),
        peers=tuple(draws.peer() for _ in range(4)),
        ending=pick(_ENDINGS),
        ends_at_s=draws.seconds(30.0),
        inside=chance(0.5),
        jumps=chance(0.25),
        server_drains=chance(0.5),
        greets=chance(0.15),
        restarts_at_s=draws.seconds(15.0) if chance(0.15) else math.inf,
        sleeps_at_s=draws.seconds(15.0) if chance(0.15) else math.inf,
        carrier=draws.random.choices(("direct", "plain", "tls"), (75, 15, 10))[0],
    )
