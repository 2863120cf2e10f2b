"""Raising what waits. One call may come to stand for others: a cache asks the origin
once for all who want the same, and then the most urgent of them counts.

    urgency_of(request)                          # before call_next(request)
    raise_priority(request, Priority.CRITICAL)   # at any time, from any task

The first makes a handle in the request's extensions, so that copies of the
request below (retries, hedges, redirects) share it; it is not needed where the
request itself reaches the gate. What waits is raised in the queue, with the
arrival that it had; what comes later comes with the raised priority; what has a
slot already is not touched.
"""

from __future__ import annotations

from typing import Final, Protocol

import httpx

from ..message import Priority

__all__ = ["KEY", "Urgency", "raise_priority", "urgency_of"]

KEY: Final = "trio_rt.urgency"


class Waiting(Protocol):
    """A call in a queue."""

    def raise_to(self, priority: Priority) -> None: ...


class Urgency:
    """How urgent a request has become since it was made; see `urgency_of`."""

    __slots__ = ("priority", "waiting")

    def __init__(self) -> None:
        self.priority = Priority.LOW
        #: Of this request, and of copies of it: those that wait.
        self.waiting: list[Waiting] = []

    def raise_to(self, priority: Priority) -> None:
        """It is at least so urgent from now on. Never blocks, and never lowers."""
        if priority > self.priority:
            self.priority = priority
            for call in tuple(self.waiting):
                call.raise_to(priority)


def urgency_of(request: httpx.Request) -> Urgency:
    """The handle of `request`, which copies made of it from now on share."""
    urgency: Urgency | None = request.extensions.get(KEY)
    if urgency is None:
        urgency = request.extensions[KEY] = Urgency()
    return urgency


def raise_priority(request: httpx.Request, priority: Priority) -> None:
    """Let `request` wait as if it had been made with `priority`, if that is higher."""
    urgency_of(request).raise_to(priority)
