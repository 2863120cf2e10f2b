"""The verdicts of the table, and what is measured when."""

from __future__ import annotations

import json
import math

import pytest

from ..clients import Run
from .report import as_figures, broken, disturbance, figures, judge, table
from .rounds import Round, due, reason
from .rows import LEFT_P99, Measurement, Row, all_rows

OURS, THEIRS = Measurement("ours", "httpx"), Measurement("theirs", "httpx")
SPEED = Row("speed", OURS, "x", must=0.93, is_floor=True)
TIME = Row("time", OURS, "ms", must=10)


def _rounds(*values: float) -> list[Round]:
    return [{OURS: Run(value)} for value in values]


@pytest.mark.parametrize(("held", "good"), [(7, True), (6, True), (5, False)])
def test_six_of_seven_rounds_hold_a_row(held: int, good: bool) -> None:
    """One round in seven may miss the bound, no more."""
    rounds = _rounds(*[0.93] * held, *[0.92] * (7 - held))
    assert judge(SPEED, rounds).held == held
    assert judge(SPEED, rounds).good is good
    assert bool(broken([SPEED], rounds)) is not good


def test_of_times_less_is_better() -> None:
    """A bound without a floor is from above, and is kept when it is met."""
    assert broken([TIME], _rounds(10.0)) == []
    assert broken([TIME], _rounds(10.1)) == ["time: 10.1, must <= 10: NO (0/1)"]


def test_a_row_without_a_bound_never_breaks() -> None:
    """It is stated."""
    row = Row("stated", OURS, "us")
    assert broken([row], _rounds(math.inf)) == []
    assert "must" not in table([row], _rounds(5.0))


def test_a_failed_round_does_not_hold() -> None:
    """It has no figure, and counts as one that missed; the table says why."""
    rounds: list[Round] = [{OURS: Run(1.0)}, {OURS: "Gap"}]
    assert broken([SPEED], rounds) == ["speed: 1.000, must >= 0.93: NO (1/2)"]
    assert "failed in 1: Gap" in table([SPEED], rounds)


def test_nothing_measured_does_not_hold() -> None:
    """A job that never ran breaks its row."""
    assert math.isnan(judge(SPEED, [{OURS: "absent"}]).ratio)
    assert broken([SPEED], [{OURS: "absent"}]) == ["speed: -, must >= 0.93: NO (0/1)"]
    assert broken([SPEED], []) != []


def test_rounds_without_the_measurement_do_not_count() -> None:
    """Some rows are measured in the first round only."""
    assert judge(TIME, [{OURS: Run(1.0)}, {}, {}]).good


def test_a_figure_may_be_a_note() -> None:
    """One measurement has several bounds."""
    row = Row("late", OURS, "ms", must=10, note="p99 ms")
    assert figures(row, [{OURS: Run(0.0, notes={"p99 ms": 12.5})}]) == [12.5]


def test_a_figure_may_stand_beside_another() -> None:
    """The ratio is of one round; where the other failed there is none."""
    row = Row("limit", OURS, "x", must=2, beside=THEIRS, is_floor=True)
    rounds: list[Round] = [{OURS: Run(30.0), THEIRS: Run(10.0)}, {OURS: Run(30.0), THEIRS: "Gap"}]
    assert figures(row, rounds) == [3.0]
    assert broken([row], rounds[:1]) == []
    assert broken([row], rounds) != []


def test_speeds_by_cpu_time_replace_the_others() -> None:
    """Figures without one stay."""
    rounds: list[Round] = [{OURS: Run(1.0, cpu_value=0.5)}, {OURS: Run(2.0)}]
    assert figures(SPEED, rounds, cpu=True) == [0.5, 2.0]
    assert figures(SPEED, rounds) == [1.0, 2.0]


def test_notes_are_medians() -> None:
    """On one line below their row; of a table one a line."""
    rounds: list[Round] = [{OURS: Run(1.0, notes={"a us": n, "b": 7.0})} for n in (1.5, 2.5, 9.0)]
    assert "    a us 2.50; b 7" in table([TIME], rounds).splitlines()
    stages = Row("stages", OURS, "us", is_table=True)
    assert table([stages], rounds).splitlines()[1].split() == ["a", "us", "2.50"]


def test_a_disturbed_measurement_is_told() -> None:
    """What the rest of the machine did is a part of the result."""
    rounds: list[Round] = [{OURS: Run(1.0, others=0.5), THEIRS: Run(1.0, others=0.1)}]
    assert disturbance(rounds).endswith("more than 15% in 1 of 2 measurements")
    assert disturbance([]) == "nothing was measured"


def test_all_figures_can_be_kept() -> None:
    """Those that failed, too."""
    kept = json.loads(json.dumps(as_figures([{OURS: Run(1.0), THEIRS: "Gap"}])))
    assert [one["result"] for one in kept[0]][1] == "Gap"
    assert kept[0][0]["job"] == "ours"


def test_a_row_is_measured_in_its_first_rounds() -> None:
    """With what it stands beside; each measurement once."""
    once = Row("once", OURS, "x", rounds=1, beside=THEIRS)
    assert due([once, TIME], 0) == [OURS, THEIRS]
    assert due([once, TIME], 1) == [OURS]
    assert due([once], 1) == []


@pytest.mark.parametrize(
    ("traceback", "last"),
    [
        ("Traceback\n  File\nValueError: no\n", "ValueError: no"),
        ("  | Group\n  +-+--- 1 ---\n    | OSError: gone\n    +------\n", "OSError: gone"),
        ("", ""),
    ],
)
def test_the_reason_is_the_last_line_that_says_something(traceback: str, last: str) -> None:
    """Groups end with a frame."""
    assert reason(traceback) == last


def test_every_row_has_a_name_of_its_own() -> None:
    """Rows are chosen by name."""
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names) > 20


def test_rows_have_the_bounds_that_are_promised() -> None:
    """For httpx; httpx2 has the same."""
    rows = [row for row in all_rows() if row.must is not None and "httpx2" not in row.name]
    limits = {row.name: (">=" if row.is_floor else "<=", row.must, row.unit) for row in rows}
    assert limits == {
        "default layers, no-store, httpx": (">=", 0.93, "x"),
        "default layers, stored, httpx": (">=", 0.93, "x"),
        "fresh hit, one at a time, httpx": (">=", 3, "x"),
        "fresh hit, six at a time, httpx": (">=", 3, "x"),
        "idle gate, httpx": ("<=", 10, "us"),
        "200 equal calls, origin requests, httpx": ("<=", 1, ""),
        "50 uncacheable of 50 ms, 6 slots, httpx": ("<=", 75, "ms"),
        "50 uncacheable of 50 ms, 12 slots, httpx": ("<=", 75, "ms"),
        "50 uncacheable of 50 ms, 50 slots, httpx": ("<=", 75, "ms"),
        "critical behind 500, httpx": ("<=", 105, "ms"),
        "dead server, 503, httpx": ("<=", 1.2, "x"),
        "dead server, no answer, httpx": ("<=", 1.2, "x"),
        "2,000 cancels, http, httpx: left over": ("<=", 0, ""),
        "2,000 cancels, http, httpx: p99": ("<=", 10, "ms"),
        "2,000 cancels, https, httpx: left over": ("<=", 0, ""),
        "2,000 cancels, https, httpx: p99": ("<=", 10, "ms"),
        "leaving, httpx": ("<=", 10, "ms"),
        "the server's own limit, beside aiohttp": (">=", 2, "x"),
    }
    assert {row.note for row in rows} == {"", LEFT_P99}
