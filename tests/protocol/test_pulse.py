"""When to ping, and when a link is dead. Interval 15 s, time-out 10 s."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.options import Liveness
from trio_rt.protocol.pulse import CLOCK_CHECK_S, Beat, Pulse

EPOCH = 1.7e9


def pulse(interval_s: float = 15.0, timeout_s: float = 10.0, jitter: float = 1.0) -> Pulse:
    return Pulse(Liveness(interval_s=interval_s, timeout_s=timeout_s), 0.0, EPOCH, jitter)


def tick(one: Pulse, now: float, slept: float = 0.0) -> Beat:
    return one.tick(now, EPOCH + now + slept)


def run_until(one: Pulse, end: float, now: float = 0.0) -> list[tuple[float, Beat]]:
    """Call `tick` when it is due, as the driver does; what it said, and when."""
    said: list[tuple[float, Beat]] = []
    while one.due <= end:
        now = max(now, one.due)
        beat = tick(one, now)
        if beat is not Beat.NOTHING:
            said.append((now, beat))
        if beat is Beat.SUSPECT:
            break
    return said


def test_silence_is_probed_and_then_suspect() -> None:
    """Without a byte: a ping after the interval, a suspicion after the time-out."""
    one = pulse()
    assert run_until(one, 100.0) == [(15.0, Beat.PING), (25.0, Beat.SUSPECT)]
    assert one.verdict(25.0) == 25.0


@pytest.mark.parametrize("jitter", [0.0, 0.2, 1.0])
def test_first_ping_is_jittered(jitter: float) -> None:
    """The first ping comes at the given part of the first interval, whatever was heard."""
    one = pulse(jitter=jitter)
    one.heard(0.0)
    assert run_until(one, 15.0)[0] == (15.0 * jitter, Beat.PING)


def test_an_early_first_ping_does_not_kill_early() -> None:
    """Interval and time-out both pass before a silence is suspect."""
    assert run_until(pulse(jitter=0.1), 100.0)[-1] == (25.0, Beat.SUSPECT)


def test_any_byte_is_life() -> None:
    """Bytes that are no pong put everything off."""
    one = pulse(jitter=0.0)
    assert tick(one, 0.0) is Beat.PING
    one.heard(3.0)
    assert run_until(one, 17.0) == []
    assert run_until(one, 100.0) == [(18.0, Beat.PING), (28.0, Beat.SUSPECT)]
    assert one.verdict(28.0) == 25.0


def test_a_byte_acquits() -> None:
    """What the reader found after the suspicion is life as well."""
    one = pulse()
    assert run_until(one, 100.0)[-1] == (25.0, Beat.SUSPECT)
    one.heard(25.0)
    assert one.verdict(25.0) is None
    assert run_until(one, 60.0, 25.0) == [(40.0, Beat.PING), (50.0, Beat.SUSPECT)]


def test_an_answer_in_the_same_instant_counts() -> None:
    """A clock that does not move between ping and pong kills nobody."""
    one = pulse()
    assert tick(one, 15.0) is Beat.PING
    one.heard(15.0)
    assert run_until(one, 100.0, 15.0) == [(30.0, Beat.PING), (40.0, Beat.SUSPECT)]


def test_one_ping_in_a_silence() -> None:
    """A time-out longer than the interval does not make pings pile up."""
    one = pulse(interval_s=2.0, timeout_s=20.0)
    assert run_until(one, 100.0) == [(2.0, Beat.PING), (22.0, Beat.SUSPECT)]


def test_a_program_that_blocks_kills_nobody() -> None:
    """Silence counts only once something was asked: first the ping, then its time-out."""
    one = pulse()
    one.heard(1.0)
    assert tick(one, 61.0) is Beat.PING
    assert one.verdict(61.0) is None
    assert one.due <= 71.0
    assert tick(one, 70.9) is Beat.NOTHING
    assert one.verdict(70.9) is None
    assert tick(one, 71.0) is Beat.SUSPECT
    assert one.verdict(71.0) == 70.0


def test_waking_up_probes_at_once() -> None:
    """A wall clock that ran ahead means a sleep: ping now, and wait for the time-out only."""
    one = pulse(jitter=0.0)
    tick(one, 0.0)
    one.heard(1.0)
    assert tick(one, 2.0) is Beat.NOTHING
    assert tick(one, 4.0, slept=3600.0) is Beat.PING
    assert run_until_slept(one, 3600.0) == (14.0, Beat.SUSPECT)
    assert one.verdict(14.0) == 13.0


def run_until_slept(one: Pulse, slept: float) -> tuple[float, Beat]:
    while True:
        now = one.due
        beat = tick(one, now, slept)
        if beat is not Beat.NOTHING:
            return now, beat


def test_a_sleep_is_found_soon() -> None:
    """Ticks are never so far apart that a sleep would go unnoticed for long."""
    one = pulse(interval_s=1000.0)
    one.heard(3.0)
    assert one.due == CLOCK_CHECK_S
    tick(one, CLOCK_CHECK_S)
    assert one.due == 2 * CLOCK_CHECK_S


def test_waking_up_while_waiting_for_a_pong() -> None:
    """Further probes do not put off the end of the first one."""
    one = pulse()
    assert tick(one, 15.0) is Beat.PING
    for step in range(1, 10):
        assert tick(one, 15.0 + step, slept=step * 60.0) is Beat.PING
    assert tick(one, 25.0, slept=9 * 60.0) is Beat.SUSPECT


@pytest.mark.parametrize("shift", [-3600.0, -1.0, 1.0])
def test_a_clock_that_is_set_is_no_sleep(shift: float) -> None:
    """Wall time set back, or slewed by a second, probes nothing."""
    one = pulse()
    assert tick(one, 2.0, slept=shift) is Beat.NOTHING


def test_a_sleep_is_told_once() -> None:
    """After the probe both clocks go on together."""
    one = pulse(jitter=0.0)
    tick(one, 0.0)
    one.heard(1.0)
    assert tick(one, 2.0, slept=60.0) is Beat.PING
    one.heard(2.0)
    assert tick(one, 3.0, slept=60.0) is Beat.NOTHING


def test_latency() -> None:
    """It is the time from a ping to its pong; a pong out of the blue tells nothing."""
    one = pulse()
    one.pong(1.0)
    assert one.latency_s is None
    tick(one, 15.0)
    one.pong(15.25)
    assert one.latency_s == 0.25
    one.pong(20.0)
    assert one.latency_s == 0.25


def test_latency_is_that_of_the_first_of_two_pings() -> None:
    """A probe during the wait does not make the link look faster."""
    one = pulse()
    tick(one, 15.0)
    tick(one, 17.0, slept=60.0)
    one.pong(18.0)
    assert one.latency_s == 3.0


@pytest.mark.parametrize("timeout_s", [1.0, 3.0, 30.0])
def test_due_holds_whatever_is_heard_meanwhile(timeout_s: float) -> None:
    """A driver that sleeps until `due` is told of no byte, and yet finds the death in time."""
    one = pulse(3.0, timeout_s, 0.5)
    assert tick(one, 1.5) is Beat.PING
    due = one.due
    one.heard(1.6)
    while tick(one, due) is not Beat.SUSPECT:
        due = one.due
    assert due == 1.6 + 3.0 + timeout_s


def test_what_is_told_late_takes_nothing_back() -> None:
    """Of two times at which bytes came the later one counts, in whatever order they are told."""
    one = pulse()
    one.heard(7.0)
    one.heard(4.0)
    assert run_until(one, 100.0)[-1] == (32.0, Beat.SUSPECT)


@given(
    st.floats(0.1, 100),
    st.floats(0.1, 100),
    st.floats(0, 1),
    st.lists(st.floats(0.0, 200.0), max_size=10),
)
def test_the_promise(interval_s: float, timeout_s: float, jitter: float, gaps: list[float]) -> None:
    """Driven on time, it suspects at the silence of interval and time-out, never before."""
    one = pulse(interval_s, timeout_s, jitter)
    heard = 0.0
    for gap in gaps:
        if gap >= interval_s + timeout_s:
            continue
        assert Beat.SUSPECT not in [beat for _, beat in run_until(one, heard + gap * 0.999)]
        heard += gap
        one.heard(heard)
    said = run_until(one, heard + 1000.0, heard)
    at, beat = said[-1]
    assert beat is Beat.SUSPECT
    assert at == pytest.approx(heard + interval_s + timeout_s)
    assert one.verdict(at) == pytest.approx(interval_s + timeout_s)
