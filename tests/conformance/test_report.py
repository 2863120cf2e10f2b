from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .report import Case, ReportError, Tally, read_report


def write(folder: Path, verdicts: dict[str, tuple[str, str]], **more: Any) -> None:
    """A report as the suites write it."""
    entries = {}
    for id, (behavior, close) in verdicts.items():
        file = f"agent_case_{id}.json"
        entries[id] = {"behavior": behavior, "behaviorClose": close, "reportfile": file}
        details = {"result": f"result of {id}.", "resultClose": f"close of {id}."}
        (folder / file).write_text(json.dumps(details))
    (folder / "index.json").write_text(json.dumps({"agent": entries, **more}))


@pytest.mark.parametrize(
    ("behavior", "close", "passed", "unsure"),
    [
        ("OK", "OK", True, False),
        ("NON-STRICT", "OK", True, False),
        ("INFORMATIONAL", "INFORMATIONAL", True, False),
        ("OK", "UNCLEAN", False, True),
        ("NON-STRICT", "UNCLEAN", False, True),
        ("FAILED", "UNCLEAN", False, False),
        ("OK", "WRONG CODE", False, False),
        ("OK", "FAILED BY CLIENT", False, False),
        ("FAILED", "OK", False, False),
        ("UNIMPLEMENTED", "OK", False, False),
        ("NEW VERDICT", "OK", False, False),
    ],
)
def test_verdicts(tmp_path: Path, behavior: str, close: str, passed: bool, unsure: bool) -> None:
    """What was done and how it was closed must both be good; only UNCLEAN is worth a retry."""
    write(tmp_path, {"1.1.1": (behavior, close)})
    case = read_report(tmp_path)["1.1.1"]
    assert (case.passed, case.unsure, case.exempt) == (passed, unsure, False)


def test_why(tmp_path: Path) -> None:
    """A case that failed comes with the suite's words."""
    write(tmp_path, {"1.1.1": ("OK", "OK"), "2.1": ("FAILED", "WRONG CODE")})
    cases = read_report(tmp_path)
    assert cases["1.1.1"].why == ""
    assert str(cases["2.1"]) == "2.1: FAILED, close WRONG CODE (result of 2.1. close of 2.1.)"


def test_exempt_cases(tmp_path: Path) -> None:
    """They may be unimplemented, and nothing worse."""
    write(
        tmp_path,
        {
            "13.2.1": ("UNIMPLEMENTED", "OK"),
            "13.2.2": ("FAILED", "OK"),
            "13.2.3": ("OK", "OK"),
            "13.20.1": ("UNIMPLEMENTED", "OK"),
        },
    )
    cases = read_report(tmp_path, exempt=("13.2.",))
    assert [(case.exempt, case.passed) for case in cases.values()] == [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
    ]
    assert Tally.of(cases.values()) == Tally(4, 1, 0, 0, exempt=1, failed=2)


def test_tally() -> None:
    """What passed by its verdict; a bad close is a failure whatever was done before it."""
    cases = [
        Case("1", "OK", "OK"),
        Case("2", "OK", "UNCLEAN"),
        Case("3", "NON-STRICT", "OK"),
        Case("4", "INFORMATIONAL", "INFORMATIONAL"),
        Case("5", "FAILED", "OK"),
    ]
    assert Tally.of(cases) == Tally(5, 1, 1, 1, exempt=0, failed=2)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"agent": []}', '{"agent": {"1": {}}}'])
def test_no_report(tmp_path: Path, text: str | None) -> None:
    """Without a whole report there is no verdict at all."""
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(ReportError, match="no report in"):
        read_report(tmp_path)


def test_a_report_of_two_agents(tmp_path: Path) -> None:
    """Nobody knows which of them it should be."""
    write(tmp_path, {"1.1.1": ("OK", "OK")}, other={})
    with pytest.raises(ReportError):
        read_report(tmp_path)
