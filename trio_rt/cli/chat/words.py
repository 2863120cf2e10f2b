"""Facts as people say them: times, sizes, names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final

__all__ = ["clock_text", "count_text", "day_text", "local_time", "size_text", "typing_text"]

_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_UNITS: Final = ("kB", "MB", "GB", "TB")


def local_time(at_ms: int) -> datetime | None:
    """A time in ms since the epoch, on the clock of this place; None for none."""
    try:
        return datetime.fromtimestamp(at_ms / 1000) if at_ms > 0 else None
    except (OverflowError, ValueError, OSError):
        return None


def clock_text(at_ms: int) -> str:
    """Hours and minutes."""
    at = local_time(at_ms)
    return "--:--" if at is None else f"{at.hour:02}:{at.minute:02}"


def day_text(day: date, today: date) -> str:
    """A day, as seen from another one."""
    if day == today:
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    return f"{_DAYS[day.weekday()]}, {day.isoformat()}"


def size_text(count: int) -> str:
    """A number of bytes."""
    if count < 1000:
        return count_text(count, "byte")
    size, units = count / 1000, iter(_UNITS)
    unit = next(units)
    while size >= 999.5 and unit != _UNITS[-1]:
        size, unit = size / 1000, next(units)
    return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"


def count_text(count: int, noun: str) -> str:
    """So many of something."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def typing_text(names: Sequence[str]) -> str:
    """Who is typing; "" for nobody."""
    if not names:
        return ""
    if len(names) == 1:
        return f"{names[0]} is typing…"
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2} others are typing…"
    return f"{', '.join(names[:-1])} and {names[-1]} are typing…"
