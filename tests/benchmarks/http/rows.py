"""What must be reached."""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

import attrs

from trio_rt.http import BackendName

Unit: TypeAlias = Literal["x", "us", "ms", "requests/s", ""]

#: What `cancels` notes: how long after its cancel a call had left.
LEFT_P99: Final = "left after p99 ms"

BACKENDS: Final[tuple[BackendName, ...]] = ("httpx", "httpx2")


@attrs.frozen
class Measurement:
    """One job on one backend."""

    job: str
    backend: BackendName
    case: str = ""


@attrs.frozen
class Row:
    """One figure, and its bound: at least that for rates and speeds, else at most."""

    name: str
    measured: Measurement
    unit: Unit
    must: float | None = None
    #: The figure is this note of the measurement, not its value.
    note: str = ""
    #: The figure is a ratio to that measurement's, of the same round.
    beside: Measurement | None = None
    is_floor: bool = False
    #: It is measured in so many rounds at most: counts that do not vary, and what is long.
    rounds: float = math.inf
    #: It has its stages below it, one a line.
    is_table: bool = False

    def holds(self, figure: float) -> bool:
        """Whether a figure keeps the bound; without one, any does."""
        if self.must is None:
            return True
        return figure >= self.must if self.is_floor else figure <= self.must

    @property
    def measurements(self) -> set[Measurement]:
        """All that must be measured for it."""
        return {self.measured} | ({self.beside} if self.beside is not None else set())


def _speeds(name: BackendName) -> list[Row]:
    return [
        *(
            Row(
                f"default layers, {case}, {name}",
                Measurement("overhead", name, case),
                "x",
                must=0.93,
                is_floor=True,
            )
            for case in ("no-store", "stored")
        ),
        *(
            Row(
                f"fresh hit, {callers} at a time, {name}",
                Measurement("hit", name, callers),
                "x",
                must=3,
                is_floor=True,
            )
            for callers in ("one", "six")
        ),
        Row(f"idle gate, {name}", Measurement("gate", name), "us", must=10, rounds=2),
    ]


def _promises(name: BackendName) -> list[Row]:
    return [
        Row(
            f"200 equal calls, origin requests, {name}",
            Measurement("flights", name, "shared"),
            "",
            must=1,
            rounds=2,
        ),
        *(
            Row(
                f"50 uncacheable of 50 ms, {slots} slots, {name}",
                Measurement("flights", name, slots),
                "ms",
                must=75,
                rounds=2,
            )
            for slots in ("6", "12", "50")
        ),
        Row(
            f"critical behind 500, {name}",
            Measurement("critical", name),
            "ms",
            must=105,
            rounds=2,
        ),
        *(
            Row(
                f"dead server, {kind}, {name}",
                Measurement("dead", name, case),
                "x",
                must=1.2,
                rounds=2,
            )
            for kind, case in (("503", "dead"), ("no answer", "hang-up"))
        ),
    ]


def _storm(label: str, name: BackendName, scheme: str) -> list[Row]:
    measured = Measurement("cancels", name, scheme)
    return [
        Row(f"{label}: left over", measured, "", must=0, rounds=1),
        Row(f"{label}: p99", measured, "ms", must=10, note=LEFT_P99, rounds=1),
    ]


def _cancels(name: BackendName) -> list[Row]:
    return [
        *(
            row
            for scheme in ("http", "https")
            for row in _storm(f"2,000 cancels, {scheme}, {name}", name, scheme)
        ),
        Row(f"leaving, {name}", Measurement("leaving", name), "ms", must=10, rounds=1),
    ]


_AIOHTTP: Final = Measurement("aiohttp_asyncio", "httpx")


def all_rows() -> list[Row]:
    """Every row, in the order of the table."""
    of_backends = [
        row for made in (_speeds, _promises, _cancels) for name in BACKENDS for row in made(name)
    ]
    stages = [
        Row(
            f"where the time goes, {name}",
            Measurement("stages", name),
            "us",
            rounds=1,
            is_table=True,
        )
        for name in BACKENDS
    ]
    ceiling = Row(
        "the server's own limit, beside aiohttp",
        Measurement("ceiling", "httpx"),
        "x",
        must=2,
        beside=_AIOHTTP,
        is_floor=True,
        rounds=2,
    )
    return [*of_backends, Row("aiohttp on asyncio", _AIOHTTP, "requests/s"), ceiling, *stages]
