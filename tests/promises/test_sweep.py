from __future__ import annotations

import gc
import statistics
import weakref
from collections import Counter
from typing import get_args

import pytest

from trio_rt import Gap, Reset
from trio_rt.options import WireName

from .checks import breaches
from .checks_links import delay_shares
from .checks_sends import sides
from .plans import draw_plan
from .records import Story
from .story import tell

SEEDS = 200
CHUNK = 100

#: What the stories of every chunk must have met, or they prove nothing.
EXPECTED = {
    "acked by nobody, written",
    "indeterminate",
    "withdrawn",
    *(f"dropped ({reason})" for reason in ("evicted", "expired", "replaced", "offline", "closed")),
    *("a gap", "a reset", "a full stream", "a jump", "a cut rst", "a cut fin", "a cut vanish"),
    *(f"lost by {cause}" for cause in ("LinkClosed", "LinkDead", "DialError")),
    *(f"left by {way}" for way in ("NoneType", "Boom", "Cancelled", "AttemptsExhausted")),
    *(f"raised {error}" for error in ("ClosedResourceError", "Offline", "WouldBlock")),
}


def _met(story: Story) -> Counter[str]:
    """What happened in this story, in words."""
    met = Counter([f"left by {type(story.left).__name__}"])
    met.update(f"lost by {type(loss.state.cause).__name__}" for loss in story.losses)
    met.update(f"a cut {link.carrier.cut_by}" for link in story.links if link.carrier)
    met["a jump"] += len(story.jumps)
    for side in sides(story):
        met.update(f"raised {sent.raised}" for sent in side.sent)
        met.update(str(sent.outcome) for sent in side.sent)
        met["acked by nobody, written"] += sum(str(sent.outcome) == "written" for sent in side.sent)
        for reader in side.readers:
            met["a gap"] += sum(isinstance(item, Gap) for item in reader.items)
            met["a reset"] += sum(isinstance(item, Reset) for item in reader.items)
            met["a full stream"] += reader.ended_by == "overflow"
    return +met


@pytest.mark.parametrize("wire", get_args(WireName))
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_holds(first: int, wire: WireName) -> None:
    """No promise of a plain link is broken in these 100 stories, which met everything there is."""
    broken: dict[int, list[str]] = {}
    met: Counter[str] = Counter()
    shares: list[float] = []
    for seed in range(first, first + CHUNK):
        story = tell(seed, wire)
        if found := breaches(story):
            broken[seed] = found
        met += _met(story)
        shares += delay_shares(story)
    report = "\n".join(
        f"python -m tests.promises --wire {wire} --seeds {seed}\n    {faults[0]}"
        for seed, faults in broken.items()
    )
    assert not broken, report
    assert set(met) >= EXPECTED, EXPECTED - set(met)
    # Full jitter: later delays are spread over all of their bounds.
    assert 0.35 < statistics.mean(shares) < 0.65


@pytest.mark.parametrize("wire", get_args(WireName))
@pytest.mark.parametrize("seed", [1, 7, 20, 63])
def test_a_seed_is_one_story(seed: int, wire: WireName) -> None:
    """The same seed gives the same trace, to the byte and the time; another gives another."""
    first, again, another = (tell(number, wire) for number in (seed, seed, seed + 1))
    assert first.trace_hash == again.trace_hash != another.trace_hash


@pytest.mark.parametrize("wire", get_args(WireName))
@pytest.mark.parametrize("seed", [20, 99, 151])
def test_a_story_leaves_nothing_in_memory(seed: int, wire: WireName) -> None:
    """Cycles through what the collector does not look into would keep all of it, for ever."""
    story = weakref.ref(tell(seed, wire))
    gc.collect()
    assert story() is None


def test_plans_differ() -> None:
    """The seeds draw every ending, codec and policy."""
    plans = [draw_plan(seed) for seed in range(SEEDS)]
    assert len({plan.ending for plan in plans}) == 6
    assert {plan.codec for plan in plans} == {"raw", "json", "msgpack"}
    assert len({reading.on_full for plan in plans for reading in plan.readings}) == 5
