"""The promises of a plain link, where a kernel loses, resets and holds up the packets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest
import trio

from .scenarios import SCENARIOS
from .spaces import Result, run_scenario, why_not
from .stage import WIRES

#: Scenarios at the same time: they mostly wait.
AT_ONCE: Final = 4

Key = tuple[str, str]


async def _run_all(keys: list[Key]) -> dict[Key, Result]:
    limit = trio.CapacityLimiter(AT_ONCE)
    results = {}

    async def one(key: Key) -> None:
        async with limit:
            results[key] = await run_scenario(*key)

    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(one, key)
    return results


@pytest.fixture(scope="module")
def results() -> Mapping[Key, Result]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    return trio.run(_run_all, [(scenario, wire) for wire in WIRES for scenario in SCENARIOS])


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_promise_holds(results: Mapping[Key, Result], scenario: str, wire: str) -> None:
    """Each send has its outcome, and each dead link is noticed; nothing is doubled or left."""
    result = results[scenario, wire]
    print(result)
    if result.skipped is not None:
        pytest.skip(result.skipped)
    assert result.breaches == []
    assert result.delivered > 0


async def test_what_fails_is_a_breach() -> None:
    """A scenario that comes to no end of its own is not taken for a good one."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    result = await run_scenario("no such scenario", "websockets")
    assert result.breaches
    assert "KeyError" in result.breaches[0]
    assert str(result).endswith("FAILED")


def test_the_line_of_a_result() -> None:
    """It has the figures, and only those that there are."""
    result = Result(
        scenario="black hole",
        wire="websockets",
        sent=3,
        outcomes={"written": 2, "dropped (closed)": 1},
        delivered=2,
        links=2,
        packets_hit=7,
        noticed={"client": 1.2, "server": 1.21},
        leave_s=0.01,
        took_s=2.0,
    )
    assert str(result) == (
        "black hole  websockets      3 sent (2 written, 1 dropped (closed)); 2 delivered; links: 2;"
        " packets hit: 7; client noticed after 1.20 s; server noticed after 1.21 s;"
        " left in 0.01 s; took 2.0 s; ok"
    )
    assert str(Result(scenario="killed", wire="websockets", skipped="why")) == (
        "killed      websockets      skipped: why"
    )
