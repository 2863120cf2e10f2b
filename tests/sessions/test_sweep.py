from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest

from trio_rt import Gap, Reset

from .__main__ import run_seed
from .checks import breaches
from .plans import draw_session_plan
from .scene import SessionStory
from .story import tell

SEEDS = 200
CHUNK = 25

#: What 100 stories must have met, or they prove nothing.
EXPECTED = {
    "acked",
    "indeterminate",
    "withdrawn",
    *(f"dropped ({reason})" for reason in ("evicted", "expired", "replaced", "offline", "closed")),
    "dropped (receiver)",
    *("a gap", "a reset", "a resume", "a void", "a lost session", "a crash", "a shut window"),
    *("a cancelled delivery", "a large message", "a handler that left"),
    *(f"left by {way}" for way in ("NoneType", "Boom", "Cancelled", "AttemptsExhausted")),
}


def _met(story: SessionStory) -> Counter[str]:
    """What happened in this story, in words."""
    met = Counter([f"left by {_name(story.left)}"])
    met["a crash"] += bool(story.restarted_at < story.body_ended_at and story.peers)
    met["a resume"] += sum(resumed for _, resumed, _ in story.connects)
    for side in [*([story.client] if hasattr(story, "client") else []), *story.peers]:
        limit = story.plan.server_inbox if side.name == "c" else story.plan.inbox
        sessions = story.lives[side.name].begun
        fullest = [b.in_window for b in story.spy.books.values() if b.begun in sessions]
        met["a shut window"] += max(fullest, default=0) == limit.messages
        met["a lost session"] += len(story.lives[side.name].begun) > 1
        met["a handler that left"] += side.left_at < story.body_ended_at
        for sent in side.sent:
            met[str(sent.outcome)] += 1
            met["a cancelled delivery"] += sent.cancelled and sent.delivery is not None
            met["a large message"] += sent.outcome is not None and sent.send.size > 60_000
            committed = sent.delivery is not None and sent.delivery in story.spy.committed
            met["a void"] += committed and str(sent.outcome) == "withdrawn"
        for reader in side.readers[1:]:
            met["a gap"] += sum(isinstance(item, Gap) for item in reader.items)
            met["a reset"] += sum(isinstance(item, Reset) for item in reader.items)
    return +met


def _name(error: BaseException | None) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_holds(first: int) -> None:
    """No promise of a session is broken in these stories; half have each codec, half each wire."""
    broken = dict(filter(lambda found: found[1], (run_seed(first + n) for n in range(CHUNK))))
    report = "\n".join(
        f"python -m tests.sessions --seed {seed}\n    {faults[-1]}"
        for seed, faults in broken.items()
    )
    assert not broken, report


def test_the_stories_meet_everything() -> None:
    met: Counter[str] = Counter()
    for seed in range(SEEDS, SEEDS + 100):
        met += _met(tell(seed))
    assert set(met) >= EXPECTED, EXPECTED - set(met)


@pytest.mark.parametrize("seed", [5, 12, 22, 63])
def test_a_seed_is_one_story(seed: int) -> None:
    """The same seed gives the same trace, to the byte and the time; another gives another."""
    first, again, another = (tell(number) for number in (seed, seed, seed + 1))
    assert first.trace_hash == again.trace_hash != another.trace_hash


def test_a_broken_promise_is_found() -> None:
    """The checks see what they are for: here a message that came twice."""
    story = next(story for story in map(tell, range(20)) if _met(story)["acked"])
    assert not breaches(story)
    tap = next(side.tap for side in (story.client, *story.peers) if len(side.tap.items))
    tap.items.append(tap.items[-1])
    assert any("twice" in fault for fault in breaches(story))


@pytest.mark.parametrize("seed", [7, 13, 22])
def test_a_story_leaves_nothing_in_memory(seed: int) -> None:
    """Cycles through what the collector does not look into would keep all of it, for ever."""
    story = weakref.ref(tell(seed))
    gc.collect()
    assert story() is None


def test_plans_differ() -> None:
    """The seeds draw every codec, wire, ending and window."""
    plans = [draw_session_plan(seed) for seed in range(SEEDS)]
    assert len({(plan.codec, plan.wire) for plan in plans}) == 4
    assert len({plan.ending for plan in plans}) == 6
    assert {plan.inbox.messages for plan in plans} == {1, 2, 3, 4, 8, 16, 256}
