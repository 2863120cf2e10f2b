"""Some of Autobahn's cases of each kind, in every run of the tests."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from .__main__ import MODES, plans
from .report import ReportError
from .runs import Plan, run
from .selections import PLAIN, QUICK_DEFLATE, QUICK_PLAIN
from .suites import Kosoku, Original
from .testees import WIRES

needs_kosoku = pytest.mark.skipif(not Kosoku.is_installed(), reason="kosoku is not installed")


@needs_kosoku
@pytest.mark.parametrize(
    "plan",
    plans(MODES, WIRES, (QUICK_PLAIN, QUICK_DEFLATE)),
    ids=lambda plan: f"{plan.mode}-{plan.wire}-{plan.selection.name}",
)
async def test_cases_pass(plan: Plan) -> None:
    """Every case passes, and none is missing."""
    result = await run(Kosoku(), plan)
    assert result.faults == []
    assert result.tally.cases == plan.selection.cases


@needs_kosoku
async def test_reports_are_kept(tmp_path: Path) -> None:
    """With a folder for them, each run leaves its report there."""
    plan = Plan("server", "websockets", PLAIN.only(["1.1.1", "1.1.2"]))
    result = await run(Kosoku(), plan, tmp_path)
    assert sorted(result.cases) == ["1.1.1", "1.1.2"]
    assert (tmp_path / "server-websockets-plain-0" / "index.html").is_file()


@needs_kosoku
@pytest.mark.parametrize("mode", MODES)
async def test_missing_cases_are_a_fault(mode: str) -> None:
    """A run of fewer cases than there should be does not pass."""
    selection = attrs.evolve(PLAIN.only(["1.1.1"]), cases=2)
    plan = Plan("client" if mode == "client" else "server", "websockets", selection)
    if mode == "server":
        assert (await run(Kosoku(), plan)).faults == ["1 cases are not in the report"]
        return
    with pytest.raises(ExceptionGroup) as caught:
        await run(Kosoku(), plan)
    assert caught.group_contains(ReportError, match="1 cases instead of 2")


@needs_kosoku
async def test_unknown_cases() -> None:
    """Where the suite refuses to run, its own words are told."""
    with pytest.raises(ExceptionGroup) as caught:
        await run(Kosoku(), Plan("server", "websockets", PLAIN.only(["no.such.case"])))
    assert caught.group_contains(ReportError, match="no.such.case")


async def test_a_suite_that_does_not_start(tmp_path: Path) -> None:
    """Its end is told, and not waited for."""
    broken = tmp_path / "wstest"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(ExceptionGroup) as caught:
        await run(Original(broken), Plan("client", "websockets", PLAIN.only(["1.1.1"])))
    assert caught.group_contains(ReportError, match="ended with 3")


def test_the_combinations() -> None:
    """A server has one wire, and only that one compresses."""
    found = plans(MODES, ("websockets", "other"), (QUICK_PLAIN, QUICK_DEFLATE))
    assert [(plan.mode, plan.wire, plan.selection.name) for plan in found] == [
        ("client", "websockets", "plain"),
        ("client", "websockets", "deflate"),
        ("client", "other", "plain"),
        ("server", "websockets", "plain"),
        ("server", "websockets", "deflate"),
    ]
