"""What the connection does, and what is under way, in words."""

from __future__ import annotations

import math
import os
import socket
import ssl
from collections.abc import Iterable
from typing import Final

import attrs

from ...chat import Moderated
from ...protocol.lifecycle import Phase, State
from .lines import Line, Segment, cut, line_width
from .text import fit_line
from .words import clock_text

__all__ = ["Work", "cause_text", "connection", "decision_text", "root_text", "status_line"]

#: Who decides for the service itself, which has no name to show.
SERVICE: Final = "chat.service"


@attrs.frozen
class Work:
    """What is under way."""

    queued: int = 0
    #: Names of files, each with how much of it has arrived, in percent.
    uploads: tuple[tuple[str, int], ...] = ()


def connection(state: State, latency_s: float | None, now: float) -> Line:
    """What the connection does; `now` is on trio's clock."""
    if state.phase is Phase.CONNECTED:
        latency = () if latency_s is None else (("bar", f"  {_ms(latency_s)}"),)
        return (("bar.good", "● online"), *latency)
    if state.phase not in (Phase.CONNECTING, Phase.RECONNECTING):
        return (("bar.bad", "○ disconnected"),)
    if state.phase is Phase.CONNECTING and state.attempt <= 1 and state.retry_at is None:
        return (("bar.busy", "○ connecting…"),)
    word = "not connected" if state.phase is Phase.CONNECTING else "offline"
    return (("bar.bad", f"○ {word}"), ("bar", f"  {_next_try(state, now)}"))


def _next_try(state: State, now: float) -> str:
    if state.retry_at is None:
        return f"try {state.attempt}…"
    seconds = max(math.ceil(state.retry_at - now), 0)
    return f"try {state.attempt + 1} in {seconds} s" if seconds else f"try {state.attempt + 1}…"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def cause_text(cause: BaseException | None) -> str:
    """Why there is no link, in one line; "" if nobody has said."""
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return "" if cause is None else fit_line(str(cause))


def root_text(cause: BaseException | None) -> str:
    """The same in few words: what the system says, where a try has failed for it."""
    inner = cause
    while inner is not None and not (said := _system_text(inner)):
        inner = inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else inner.__cause__
    return cause_text(cause) if inner is None else fit_line(said)


def _system_text(error: BaseException) -> str:
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError) or error.errno is None:
        return ""
    if isinstance(error, socket.gaierror):
        return error.strerror or ""
    return os.strerror(error.errno)


def status_line(parts: Line, work: Work, why: str, width: int) -> Line:
    """The connection, what waits, uploads, and why, as far as they have room."""
    more: list[Segment] = []
    if work.queued:
        more.append(("bar.busy", f"{work.queued} queued"))
    more += [("bar", f"{name} {percent} %") for name, percent in work.uploads]
    if why:
        more.append(("bar", why))
    return cut(tuple(_joined(parts, more, width - 1)), width)


def _joined(parts: Line, more: Iterable[Segment], width: int) -> Iterable[Segment]:
    used = 1 + line_width(parts)
    yield "bar", " "
    yield from parts
    for colours, text in more:
        room = width - used - 3
        if room < 8:
            return
        segment = cut(((colours, text),), room)
        yield "bar", "   "
        yield from segment
        used += 3 + line_width(segment)


def decision_text(event: Moderated) -> str:
    """What was decided about a user."""
    user = fit_line(event.user.name)
    by = "" if event.by.id == SERVICE else f", says {fit_line(event.by.name)}"
    until = f" until {clock_text(event.until)}" if event.until else ""
    words = {
        "mute": f"may not say anything{until}",
        "unmute": "may speak again",
        "ban": f"is banned{until}",
        "unban": "is banned no more",
        "role": f"is {'an owner' if event.role == 'owner' else f'a {event.role}'} now",
    }
    return f"{user} {words[event.action]}{by}"
