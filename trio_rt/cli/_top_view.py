"""How `trio-rt top` looks: rows of a name, a number, and the last minute of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ._samples import WINDOW, History, Moment
from ._text import printable

__all__ = ["View", "as_line", "sparkline"]

#: Columns of the names, and of the numbers with a space before them.
NAME_WIDTH: Final = 13
VALUE_WIDTH: Final = 11
#: Fewer seconds than this are not worth their columns.
LEAST_SPARK: Final = 8

_BARS: Final = "▁▂▃▄▅▆▇█"
_ASCII_BARS: Final = "_.:-=+*#"
_UNKNOWN: Final = "-"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.2f} ms"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _size(value: float) -> str:
    return f"{value / 1e6:,.1f} MB"


_Get = Callable[[Moment], float]
_Row = tuple[str, Callable[[float], str], _Get]

_ROWS: Final[Sequence[_Row]] = (
    ("connections", _count, lambda now: now.connections),
    ("peers", _count, lambda now: now.peers),
    ("rooms", _count, lambda now: now.rooms),
    ("members", _count, lambda now: now.members),
    ("published/s", _rate, lambda now: now.published),
    ("deliveries/s", _rate, lambda now: now.deliveries),
    ("publish p50", _duration, lambda now: now.publish_p50_s),
    ("publish p99", _duration, lambda now: now.publish_p99_s),
    ("lagging", _count, lambda now: now.lagging),
    ("refusals/s", _rate, lambda now: now.refusals),
    ("cpu", _share, lambda now: now.cpu),
    ("memory", _size, lambda now: now.resident_bytes),
)


def _shown(form: Callable[[float], str], value: float) -> str:
    return _UNKNOWN if math.isnan(value) else form(value)


def sparkline(values: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """The last `width` of `values`, from 0 to the largest of them; NaN is a space."""
    bars = _ASCII_BARS if ascii_only else _BARS
    last = list(values)[-width:] if width > 0 else []
    most = max((value for value in last if math.isfinite(value)), default=0.0)

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return bars[0 if most <= 0 else round(max(0.0, value) / most * (len(bars) - 1))]

    return "".join(map(bar, last)).rjust(max(0, width))


def _broker_state(now: Moment) -> str:
    return _UNKNOWN if math.isnan(now.broker_up) else "up" if now.broker_up else "DOWN"


def _list(pairs: Sequence[tuple[str, float]], form: Callable[[float], str]) -> str:
    return ", ".join(f"{printable(name)} {_shown(form, value)}" for name, value in pairs)


@attrs.frozen
class View:
    """The whole of it, in any width; at most 17 lines."""

    url: str
    history: History
    #: Why there are no numbers now; "" if there are.
    trouble: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines(options.max_width, ascii_only=options.ascii_only):
            line.no_wrap = True
            line.overflow = "ellipsis"
            line.truncate(options.max_width, overflow="crop" if options.ascii_only else "ellipsis")
            yield line

    def lines(self, width: int, *, ascii_only: bool = False) -> Iterator[Text]:
        """Those of a terminal of `width` columns."""
        now = self.history.latest
        yield Text(f"trio-rt {printable(now.version)}  {printable(self.url)}", style="bold")
        if self.trouble:
            yield Text(f"away: {printable(self.trouble)}", style="bold red")
        else:
            yield Text("")
        spark = min(WINDOW, width - NAME_WIDTH - VALUE_WIDTH - 2)
        for name, form, get in _ROWS:
            yield self._row(name, form, get, spark, ascii_only=ascii_only)
            if name == "refusals/s" and now.refusals_by_code:
                yield Text(f"  {_list(now.refusals_by_code, _rate)}", style="yellow")
        yield self._broker(now)

    def _row(
        self, name: str, form: Callable[[float], str], get: _Get, spark: int, *, ascii_only: bool
    ) -> Text:
        value = get(self.history.latest)
        alarming = name in ("lagging", "refusals/s") and value > 0
        row = Text(f"{name:<{NAME_WIDTH}}")
        style = "dim" if self.trouble else "yellow" if alarming else ""
        row.append(f"{_shown(form, value):>{VALUE_WIDTH}}", style=style)
        if spark >= LEAST_SPARK:
            values = [get(moment) for moment in self.history.moments]
            row.append(f"  {sparkline(values, spark, ascii_only=ascii_only)}", style="cyan")
        return row

    def _broker(self, now: Moment) -> Text:
        row = Text(f"{'broker':<{NAME_WIDTH}}")
        style = "dim" if self.trouble else "bold red" if now.broker_up == 0 else ""
        row.append(f"{_broker_state(now):>{VALUE_WIDTH}}", style=style)
        row.append(f"  {_list(now.broker, _plain)}")
        return row


def as_line(view: View) -> str:
    """The most of it in one line, for what is no terminal."""
    now = view.history.latest
    if view.trouble:
        return f"away: {printable(view.trouble)}"
    parts = [f"{name} {_shown(form, get(now))}" for name, form, get in _ROWS]
    return ", ".join([*parts, f"broker {_broker_state(now)}"])
