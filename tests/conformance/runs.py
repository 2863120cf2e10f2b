"""One run: a suite, one end under test, a selection, and the verdicts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final, Literal, TypeAlias

import attrs
import trio

from .report import Case, ReportError, Tally, read_report
from .selections import Selection
from .suites import Suite
from .testees import ask, echo_to, echoing

__all__ = ["Mode", "Plan", "Result", "run"]

Mode: TypeAlias = Literal["client", "server"]

#: How often the cases are run again whose close the suite is unsure of.
RETRIES: Final = 3

#: For all the cases of a run.
LIMIT_S: Final = 1800.0

AGENT: Final = "trio-rt"


@attrs.frozen
class Plan:
    """What is run. `wire` is the client's; a server has but one."""

    mode: Mode
    wire: str
    selection: Selection


@attrs.frozen
class Result:
    plan: Plan
    cases: dict[str, Case]
    #: Cases that were run again.
    again: int
    took_s: float

    @property
    def tally(self) -> Tally:
        return Tally.of(self.cases.values())

    @property
    def faults(self) -> list[str]:
        """What is wrong, one line each."""
        found = [str(case) for case in self.cases.values() if not (case.passed or case.exempt)]
        missing = self.plan.selection.cases - len(self.cases)
        return [*found, f"{missing} cases are not in the report"] if missing else found


async def run(suite: Suite, plan: Plan, reports: Path | None = None) -> Result:
    """Run it. The reports are kept in `reports`, if it is given.

    Raises `ReportError` if there is none. Cancelled: the suite's process is ended.
    """
    began = trio.current_time()
    cases: dict[str, Case] = {}
    again = 0
    with trio.fail_after(LIMIT_S):
        selection = plan.selection
        for attempt in range(1 + RETRIES):
            cases |= await _run_once(suite, plan, selection, reports, attempt)
            unsure = [case.id for case in cases.values() if case.unsure]
            if not unsure:
                break
            again += len(unsure)
            selection = selection.only(unsure)
    return Result(plan, cases, again, trio.current_time() - began)


async def _run_once(
    suite: Suite, plan: Plan, selection: Selection, reports: Path | None, attempt: int
) -> dict[str, Case]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if reports is not None:
            name = f"{plan.mode}-{plan.wire}-{selection.name.replace(' ', '-')}-{attempt}"
            folder = reports / name
            folder.mkdir(parents=True)
        if plan.mode == "client":
            await _run_client(suite, plan.wire, selection, folder)
        else:
            async with echoing(compression=selection.compression) as server:
                await suite.fuzz(server.port, selection, folder)
        return read_report(folder, suite.exempt if plan.mode == "client" else ())


async def _run_client(suite: Suite, wire: str, selection: Selection, folder: Path) -> None:
    limit = trio.CapacityLimiter(suite.parallel)

    async def do(url: str) -> None:
        async with limit:
            await echo_to(url, wire, compression=selection.compression)

    async with suite.serving(selection, folder) as url:
        count = int(await ask(f"{url}/getCaseCount", wire))
        if count != selection.cases:
            raise ReportError(f"{count} cases instead of {selection.cases}")
        async with trio.open_nursery() as nursery:
            for number in range(1, count + 1):
                nursery.start_soon(do, f"{url}/runCase?case={number}&agent={AGENT}")
        await echo_to(f"{url}/updateReports?agent={AGENT}", wire, compression=False)
