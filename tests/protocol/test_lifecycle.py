"""The table of the connection's life."""

from __future__ import annotations

import runpy
from itertools import product
from pathlib import Path

import attrs
import pytest

from trio_rt.protocol.lifecycle import TABLE, Phase, State, Trigger, next_phase

DOCS = Path(__file__).parents[2] / "docs"
ENDS = {Phase.DISCONNECTED, Phase.FAILED}


def test_a_life() -> None:
    """The story that most connections have."""
    phase, seen = Phase.CONNECTING, []
    for trigger in (
        Trigger.DIALLING,
        Trigger.LOST,
        Trigger.DIALLING,
        Trigger.OPENED,
        Trigger.LOST,
        Trigger.DIALLING,
        Trigger.LOST,
        Trigger.DIALLING,
        Trigger.OPENED,
        Trigger.STOPPED,
    ):
        phase = next_phase(phase, trigger)
        seen.append(phase.name)
    assert " ".join(seen) == (
        "CONNECTING CONNECTING CONNECTING CONNECTED RECONNECTING "
        "RECONNECTING RECONNECTING RECONNECTING CONNECTED DISCONNECTED"
    )


@pytest.mark.parametrize(("phase", "trigger"), list(product(Phase, Trigger)))
def test_what_is_not_in_the_table_raises(phase: Phase, trigger: Trigger) -> None:
    """A pair of phase and trigger leads where the table says, or raises."""
    if trigger in TABLE[phase]:
        assert next_phase(phase, trigger) is TABLE[phase][trigger]
    else:
        with pytest.raises(RuntimeError, match=f"{trigger.name} .* {phase.name}"):
            next_phase(phase, trigger)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_reaches_both_ends(phase: Phase) -> None:
    """A connection can be stopped, and can fail, at any time; an end is an end."""
    assert (TABLE[phase] == {}) == (phase in ENDS)
    if phase not in ENDS:
        assert next_phase(phase, Trigger.STOPPED) is Phase.DISCONNECTED
        assert next_phase(phase, Trigger.FAILED) is Phase.FAILED


def test_every_phase_can_be_reached() -> None:
    """From CONNECTING there is a way to each phase."""
    reached, frontier = set[Phase](), {Phase.CONNECTING}
    while frontier:
        reached |= frontier
        frontier = {after for phase in frontier for after in TABLE[phase].values()} - reached
    assert reached == set(Phase)


def test_connecting_is_never_come_back_to() -> None:
    """Once there was a link, a connection without one is RECONNECTING."""
    into = {phase for phase in Phase if Phase.CONNECTING in TABLE[phase].values()}
    assert into == {Phase.CONNECTING}


def test_there_is_no_dial_while_there_is_a_link() -> None:
    """One link at a time: CONNECTED knows neither DIALLING nor OPENED."""
    assert not {Trigger.DIALLING, Trigger.OPENED} & set(TABLE[Phase.CONNECTED])


def test_state_is_a_value() -> None:
    """A state is frozen, and says at least its phase."""
    state = State(Phase.CONNECTING)
    assert state == State(Phase.CONNECTING, 0, None, None, False)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        state.attempt = 1  # type: ignore[misc]


def test_the_page_is_up_to_date() -> None:
    """docs/lifecycle.md is what docs/make_lifecycle.py makes of the table."""
    page = runpy.run_path(str(DOCS / "make_lifecycle.py"))["page"]()
    assert (DOCS / "lifecycle.md").read_text(encoding="utf-8") == page


def test_the_diagram_has_the_whole_table() -> None:
    """Every line of the table is an arrow, the ends are ends."""
    diagram = runpy.run_path(str(DOCS / "make_lifecycle.py"))["diagram"]()
    assert "    CONNECTED --> RECONNECTING: LOST" in diagram.splitlines()
    assert "    FAILED --> [*]" in diagram.splitlines()
    assert diagram.count("-->") == 1 + len(ENDS) + sum(map(len, TABLE.values()))
