"""The verdicts of the table."""

from __future__ import annotations

import math

import pytest

from .clients import Run
from .report import broken, by_cpu, judge, table
from .rounds import Round
from .rows import Measurement, Peer, Row, Unit, all_rows

OURS, THEIRS = Measurement("ours", "job"), Measurement("peer", "job")
PEER = Peer(THEIRS, "peer", must=2)
ROW = Row("row", OURS, (PEER,))


def _rounds(ratios: list[float]) -> list[Round]:
    return [{OURS: Run(100 * ratio), THEIRS: Run(100)} for ratio in ratios]


@pytest.mark.parametrize(("held", "good"), [(7, True), (6, True), (5, False)])
def test_six_of_seven_rounds_hold_a_row(held: int, good: bool) -> None:
    """One round in seven may miss the bound, no more."""
    rounds = _rounds([2.0] * held + [1.9] * (7 - held))
    assert judge(rounds, ROW, PEER, 2).held == held
    assert judge(rounds, ROW, PEER, 2).good is good
    assert broken([ROW], rounds) == ([] if good else ["row: 2 x peer"])


@pytest.mark.parametrize(("ratio", "good"), [(2.0, True), (1.9, False)])
def test_a_single_round_must_hold(ratio: float, good: bool) -> None:
    """With one round there is nothing to spare."""
    assert judge(_rounds([ratio]), ROW, PEER, 2).good is good


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    """Not the ratio of the medians: both sides of one come from one round."""
    rounds: list[Round] = [
        {OURS: Run(ours), THEIRS: Run(theirs)} for ours, theirs in ((1, 1), (40, 10), (60, 20))
    ]
    assert judge(rounds, ROW, PEER, None).ratio == 3


def test_a_failed_round_does_not_hold() -> None:
    """It has no ratio, and counts as one that missed; the table says why."""
    failed: Round = {OURS: "Gap", THEIRS: Run(1)}
    rounds = [*_rounds([3.0] * 5), failed, failed]
    assert judge(rounds, ROW, PEER, 2).held == 5
    assert broken([ROW], rounds) == ["row: 2 x peer"]
    assert "failed in 2: Gap" in table([ROW], rounds)


def test_nothing_measured_does_not_hold() -> None:
    """A client that never ran breaks its row."""
    rounds: list[Round] = [{OURS: "absent", THEIRS: Run(1)}]
    assert math.isnan(judge(rounds, ROW, PEER, 2).ratio)
    assert broken([ROW], rounds) == ["row: 2 x peer"]


def test_of_bytes_fewer_are_better() -> None:
    """A bound on bytes is from above, and so is a limit."""
    row = Row("row", OURS, (Peer(THEIRS, "peer", must=1),), unit="bytes", limit=90)
    assert broken([row], _rounds([0.9] * 7)) == []
    assert broken([row], _rounds([1.1] * 7)) == ["row: at most 90 bytes", "row: 1 x peer"]


@pytest.mark.parametrize("unit", ["messages/s", "requests/s", "parts/s"])
def test_of_rates_more_are_better(unit: Unit) -> None:
    """A limit on a rate is from below, as the bounds on its ratios are."""
    row = Row("row", OURS, (PEER,), unit=unit, limit=150)
    assert broken([row], _rounds([2.0] * 7)) == []
    assert broken([row], _rounds([1.4] * 7)) == [f"row: at least 150 {unit}", "row: 2 x peer"]
    assert "must >= 150: NO (0/7)" in table([row], _rounds([1.4] * 7))


def test_of_milliseconds_fewer_are_better() -> None:
    """A limit on a time is from above; a time, and what is noted of it, has a tenth."""
    row = Row("row", OURS, unit="ms", limit=50)
    fast, slow = Run(49.96, notes={"median": 2.34}), Run(50.04)
    assert broken([row], [{OURS: fast}]) == []
    assert "50.0 ms   must <= 50: yes (1/1)   median: 2.3" in table([row], [{OURS: fast}])
    assert broken([row], [{OURS: slow}]) == ["row: at most 50 ms"]


def test_rows_of_sessions_have_the_bounds_that_are_promised() -> None:
    """Ratios and own figures, each with its unit."""
    rows = [row for row in all_rows() if "session" in row.name]
    bounds = [
        (row.name, row.unit, row.limit, *((peer.must, peer.aim) for peer in row.peers))
        for row in rows
    ]
    assert bounds == [
        ("session, acked sends, send_nowait", "messages/s", None, (1, 1.5)),
        ("session, acked sends, await send", "messages/s", None, (None, None)),
        ("second wire, session, acked sends, await send", "messages/s", None, (5, None)),
        ("session, request, 64 in flight", "requests/s", None, (3, None)),
        ("session, exchange of 10,000 parts", "parts/s", 50_000),
        ("session, cut to first new message", "ms", 50),
        ("session, resume that replays 1,000 frames", "ms", 30),
    ]


def test_the_limit_of_the_server_is_set_beside_the_fastest() -> None:
    """A slower client cannot excuse a server that limited a faster one."""
    slow = Measurement("slow", "job")
    row = Row("limit", OURS, (Peer(slow, "slow", 2), Peer(THEIRS, "fast", 2)), ceiling=True)
    rounds: list[Round] = [{OURS: Run(150), THEIRS: Run(100), slow: Run(10)}]
    assert broken([row], rounds) == ["limit: 2 x fast"]


def test_rates_by_cpu_time_replace_the_others() -> None:
    """Figures without a rate stay."""
    rounds: list[Round] = [{OURS: Run(1, cpu_value=5), THEIRS: Run(7)}]
    assert by_cpu(rounds) == [{OURS: Run(5, cpu_value=5), THEIRS: Run(7)}]


def test_every_row_has_a_name_of_its_own() -> None:
    """Rows are chosen by name."""
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names) > 20
