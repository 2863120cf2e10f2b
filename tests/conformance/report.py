"""What the suites report: `index.json`, the same from both, and a file for each case."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

__all__ = ["Case", "ReportError", "Tally", "read_report"]

#: The verdicts on what was done that are no fault. NON-STRICT is one of several
#: answers that the RFC allows, and not the one that the case would like best.
GOOD: Final = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})

#: The same for how the connection was closed.
GOOD_CLOSES: Final = frozenset({"OK", "INFORMATIONAL"})

#: kosoku now and then gives this to a close that was clean: each time to
#: another case, and the original never does.
UNSURE_CLOSE: Final = "UNCLEAN"

UNIMPLEMENTED: Final = "UNIMPLEMENTED"


class ReportError(Exception):
    """There is no report, or it is not of the run that it should be of."""


@attrs.frozen
class Case:
    """The verdict on one case; `why` is the suite's own explanation.

    `exempt`: it was not run at all, for a reason that is the suite's.
    """

    id: str
    behavior: str
    close: str
    why: str = ""
    exempt: bool = False

    @property
    def passed(self) -> bool:
        return self.behavior in GOOD and self.close in GOOD_CLOSES and not self.exempt

    @property
    def unsure(self) -> bool:
        """Nothing but the close is wrong with it, and that may be the suite's error."""
        return self.behavior in GOOD and self.close == UNSURE_CLOSE

    def __str__(self) -> str:
        return f"{self.id}: {self.behavior}, close {self.close} ({self.why})"


@attrs.frozen
class Tally:
    """How many cases had which verdict. What is not good has failed."""

    cases: int
    ok: int
    non_strict: int
    informational: int
    exempt: int
    failed: int

    @classmethod
    def of(cls, cases: Iterable[Case]) -> Tally:
        found = list(cases)
        passed = [case.behavior for case in found if case.passed]
        exempt = sum(case.exempt for case in found)
        return cls(
            len(found),
            passed.count("OK"),
            passed.count("NON-STRICT"),
            passed.count("INFORMATIONAL"),
            exempt,
            len(found) - len(passed) - exempt,
        )


def read_report(folder: Path, exempt: tuple[str, ...] = ()) -> dict[str, Case]:
    """The cases by their numbers.

    Those whose numbers begin as one of `exempt` may be unimplemented.
    `ReportError` if there is no report of exactly one run.
    """
    try:
        index: Mapping[str, Any] = json.loads((folder / "index.json").read_text())
        [agent] = index.values()
        return {id: _case(folder, id, entry, exempt) for id, entry in agent.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ReportError(f"no report in {folder}: {error!r}") from error


def _case(folder: Path, id: str, entry: Mapping[str, Any], exempt: tuple[str, ...]) -> Case:
    case = Case(id, entry["behavior"], entry["behaviorClose"])
    if case.passed:
        return case
    if case.behavior == UNIMPLEMENTED and id.startswith(exempt):
        return attrs.evolve(case, exempt=True)
    details = json.loads((folder / entry["reportfile"]).read_text())
    return attrs.evolve(case, why=f"{details['result']} {details['resultClose']}")
