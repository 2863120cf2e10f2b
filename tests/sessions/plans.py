"""What a seed draws for a story of sessions: the plan of `tests.promises`, and what sessions add."""

from __future__ import annotations

import math
import random
from typing import Final, Literal, TypeAlias, get_args

import attrs

from trio_rt import InboxLimits, SessionLimits
from trio_rt.options import WireName

from ..promises.plans import PeerPlan, Plan, Reading, Send, Sender, draw_plan

__all__ = ["CodecName", "SessionPlan", "draw_session_plan"]

CodecName: TypeAlias = Literal["json", "msgpack"]

#: Of messages a window may hold; most are small enough to be shut most of the time.
WINDOWS: Final = (1, 2, 3, 4, 8, 16, 256)

#: The types that are sent. A seed may have nobody who wants the last one.
TYPES: Final = ("a", "b", "c")


@attrs.frozen(kw_only=True)
class SessionPlan(Plan):
    codec: CodecName
    session: SessionLimits


class _Draws:
    def __init__(self, seed: int) -> None:
        self.random: Final = random.Random(f"{seed} sessions")
        # Which features this seed has at all.
        self.unwanted: Final = self.chance(0.3)
        self.slow: Final = self.chance(0.6)
        self.late: Final = self.chance(0.2)
        self.small_window: Final = self.chance(0.7)
        self.small_memory: Final = self.chance(0.4)
        self.forgetful: Final = self.chance(0.25)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def main(self) -> Reading:
        """The one stream of each side that stays to the end and may lose nothing."""
        types = TYPES[:2] if self.unwanted and self.chance(0.7) else self.random.choice(((), TYPES))
        return Reading(
            types=types,
            capacity=self.random.choice((None, 1, 3)),
            on_full="pause",
            pause_s=self.random.uniform(0.01, 0.8) if self.slow and self.chance(0.7) else 0.0,
            many=self.chance(0.5),
            opens_after_s=self.random.uniform(0.0, 8.0) if self.late and self.chance(0.6) else 0.0,
        )

    def inbox(self) -> InboxLimits:
        if not self.small_window:
            return InboxLimits()
        return InboxLimits(
            messages=self.random.choice(WINDOWS),
            total_bytes=self.random.choice((500, 5_000, 100_000, 4 << 20)),
        )

    def session(self) -> SessionLimits:
        keep_s = self.random.uniform(0.1, 3.0) if self.forgetful else 120.0
        if not self.small_memory:
            return SessionLimits(keep_s=keep_s)
        return SessionLimits(
            keep_s=keep_s,
            messages=self.random.choice((1, 2, 5, 20)),
            total_bytes=self.random.choice((500, 5_000, 100_000)),
        )

    def peer(self, peer: PeerPlan) -> PeerPlan:
        """A handler; it leaves before its client less often than where each link has its own."""
        readings = (self.main(), *map(_milder, peer.readings))
        stays = peer.lasts_s < math.inf and self.chance(0.4)
        return attrs.evolve(
            peer,
            senders=tuple(map(_wider, peer.senders)),
            readings=readings,
            lasts_s=math.inf if stays else peer.lasts_s,
        )


def draw_session_plan(
    seed: int, codec: CodecName | None = None, wire: WireName | None = None
) -> SessionPlan:
    """The plan of `seed`: the same on every wire and with every codec."""
    codecs, wires = get_args(CodecName), get_args(WireName)
    plan = draw_plan(seed, wire=wire or wires[seed // len(codecs) % len(wires)])
    draws = _Draws(seed)
    fields = {field.name: getattr(plan, field.name) for field in attrs.fields(Plan)}
    fields |= {
        "codec": codec or codecs[seed % len(codecs)],
        "inbox": draws.inbox(),
        "server_inbox": draws.inbox(),
        "senders": tuple(map(_wider, plan.senders)),
        "readings": (draws.main(), *map(_milder, plan.readings)),
        "peers": tuple(draws.peer(peer) for peer in plan.peers),
        "jumps": False,
        "greets": False,
        "carrier": "direct" if plan.carrier == "tls" else plan.carrier,
    }
    return SessionPlan(**fields, session=draws.session())


def _milder(reading: Reading) -> Reading:
    """Not so slow that a shut window takes minutes for each message."""
    return attrs.evolve(reading, pause_s=min(reading.pause_s, 1.0))


def _wider(sender: Sender) -> Sender:
    return attrs.evolve(sender, sends=tuple(map(_hastier, sender.sends)))


def _hastier(send: Send) -> Send:
    return attrs.evolve(send, wait_s=send.wait_s / 2)
