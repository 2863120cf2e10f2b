"""The numbers that `trio-rt top` looks at, and what they were in the last minute."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import attrs

__all__ = ["NOTHING", "WINDOW", "History", "Moment", "Sample", "read_sample"]

#: Moments that are kept: a minute of them.
WINDOW: Final = 60

_LINE: Final = re.compile(r'(\w+)(?:\{(\w+)="((?:[^"\\]|\\.)*)"\})? (\S+)')
_PREFIX: Final = "trio_rt_"


@attrs.frozen
class Sample:
    """What a server said: numbers by name and label value ("" for none), at a time."""

    at: float
    numbers: Mapping[tuple[str, str], float]

    def get(self, name: str, label: str = "") -> float:
        """NaN if there is none."""
        return self.numbers.get((name, label), math.nan)

    def labelled(self, name: str) -> Iterator[tuple[str, float]]:
        """All of a name, by their labels."""
        for (found, label), value in self.numbers.items():
            if found == name:
                yield label, value


def read_sample(text: str, at: float) -> Sample:
    """The `trio_rt_*` numbers of a text in Prometheus' format; what is none is skipped.

    Raises `ValueError` if there are no such numbers at all.
    """
    numbers = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is not None and found[1].startswith(_PREFIX):
            label = re.sub(r"\\(.)", r"\1", found[3] or "")
            try:
                numbers[found[1].removeprefix(_PREFIX), label] = float(found[4])
            except ValueError:
                continue
    if ("peers", "") not in numbers:
        raise ValueError("there are no numbers of a hub")
    return Sample(at, numbers)


@attrs.frozen(kw_only=True)
class Moment:
    """One second of a server, as it is shown. What is not known is NaN."""

    connections: float
    peers: float
    rooms: float
    members: float
    published: float
    deliveries: float
    publish_p50_s: float
    publish_p99_s: float
    lagging: float
    refusals: float
    #: In a second, those that there were, the most first.
    refusals_by_code: Sequence[tuple[str, float]] = ()
    broker_up: float
    #: The store's own numbers; those that count upwards in a second.
    broker: Sequence[tuple[str, float]] = ()
    cpu: float
    resident_bytes: float
    version: str = ""


#: While the server is away.
NOTHING: Final = Moment(
    connections=math.nan,
    peers=math.nan,
    rooms=math.nan,
    members=math.nan,
    published=math.nan,
    deliveries=math.nan,
    publish_p50_s=math.nan,
    publish_p99_s=math.nan,
    lagging=math.nan,
    refusals=math.nan,
    broker_up=math.nan,
    cpu=math.nan,
    resident_bytes=math.nan,
)


class History:
    """Moments, the latest last."""

    def __init__(self) -> None:
        self.moments: deque[Moment] = deque(maxlen=WINDOW)
        #: The last that was not `NOTHING`.
        self.latest = NOTHING
        self._before: Sample | None = None

    def add(self, sample: Sample) -> None:
        """The server has answered."""
        self.latest = _moment(sample, self._before)
        self._before = sample
        self.moments.append(self.latest)

    def miss(self) -> None:
        """It has not."""
        self._before = None
        self.moments.append(NOTHING)


def _moment(now: Sample, before: Sample | None) -> Moment:
    def rate(name: str, label: str = "") -> float:
        if before is None or now.at <= before.at:
            return math.nan
        was = before.get(name, label)
        grown = now.get(name, label) - (0.0 if label and math.isnan(was) else was)
        # Less than before: another process, that has begun anew.
        return grown / (now.at - before.at) if grown >= 0 else math.nan

    started = "process_start_time_seconds"
    if before is not None and before.get(started) != now.get(started):
        before = None
    codes = [(code, rate("refusals_total", code)) for code, _ in now.labelled("refusals_total")]
    seen = [(code, count) for code, count in codes if count > 0]
    return Moment(
        connections=now.get("connections"),
        peers=now.get("peers"),
        rooms=now.get("rooms"),
        members=now.get("members"),
        published=rate("published_total"),
        deliveries=rate("deliveries_total"),
        publish_p50_s=now.get("publish_seconds", "0.5"),
        publish_p99_s=now.get("publish_seconds", "0.99"),
        lagging=now.get("lagging"),
        refusals=math.nan if before is None else sum(count for _, count in seen),
        refusals_by_code=sorted(seen, key=lambda one: -one[1]),
        broker_up=now.get("broker_up"),
        broker=list(_broker(now, rate)),
        cpu=rate("process_cpu_seconds_total"),
        resident_bytes=now.get("process_resident_bytes"),
        version=next((label for label, _ in now.labelled("info")), ""),
    )


def _broker(now: Sample, rate: Callable[[str], float]) -> Iterator[tuple[str, float]]:
    for (name, label), value in now.numbers.items():
        shown = name.removeprefix("broker_")
        if shown in (name, "up") or label:
            continue
        if shown.endswith("_total"):
            yield f"{shown.removesuffix('_total')}/s", rate(name)
        else:
            yield shown, value
