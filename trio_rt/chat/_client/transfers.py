"""What uploads and downloads have in common: a file's values, errors, and trying again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal, TypedDict

import attrs
import httpx
import trio

from ..._ambient import ambient
from ..._http_reply import Reply
from ...errors import AttemptsExhausted, CallTimeout, CircuitOpen, QueueFull, TrioRtError
from ...http import Client
from ...options import Reconnect
from ...protocol.backoff import advised, delays

__all__ = [
    "CALL",
    "FileCorrupted",
    "FileRefused",
    "Passing",
    "Progress",
    "SayArguments",
    "StoredFile",
    "Tries",
    "passing_errors",
    "refusal_of",
    "sha256_in",
]

#: The options of every call: each is tried again here, from where it was, and by nobody else.
CALL: Final[dict[str, Any]] = {"retries": 0, "cache": "no-store"}

#: Statuses that pass: overload, timeouts, another request at the upload, and a proxy's.
_PASSING: Final = frozenset({408, 409, 423, 425, 429, 500, 502, 503, 504})

_ADDRESS: Final = re.compile(r"(?:^|/)([0-9a-f]{64})(?:/|$)")

#: Types that the service shows as images.
_IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

#: Of a refusal's text.
_TEXT_CHARACTERS: Final = 200


class FileRefused(TrioRtError):
    """The service will not take, or give, this file. Has the HTTP `status` and the `text`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text

    def __str__(self) -> str:
        return f"{self.status}: {self.text}" if self.text else str(self.status)


class FileCorrupted(TrioRtError):
    """What has arrived is not what was sent, or not what its address says."""


class SayArguments(TypedDict):
    """For `room.say(**arguments)`."""

    content: str
    kind: Literal["image", "file"]
    metadata: dict[str, Any]


@attrs.frozen
class Progress:
    """Bytes that have arrived, of how many; `total` is None while that is not known."""

    sent: int
    total: int | None


@attrs.frozen(kw_only=True)
class StoredFile:
    """A file that the service keeps. `path` is where it is, at the service."""

    path: str
    #: As it is shown: the service may have changed it.
    name: str
    type: str
    size: int
    sha256: str

    def to_say(self) -> SayArguments:
        """To say it in a room: `await room.say(**stored.to_say())`."""
        facts = {"name": self.name, "size": self.size, "type": self.type, "sha256": self.sha256}
        kind: Literal["image", "file"] = "image" if self.type in _IMAGES else "file"
        return SayArguments(content=self.path, kind=kind, metadata=facts)


def sha256_in(url: str) -> str | None:
    """The hash that a file's address has in it."""
    found = _ADDRESS.search(url.partition("?")[0])
    return None if found is None else found[1]


class Passing(Exception):
    """It did not work now, and may later. Its cause is what is raised in the end."""

    def __init__(self, cause: Exception, advice_s: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.advice_s = advice_s


def passing_errors(client: Client) -> tuple[type[Exception], ...]:
    """What a call of `client` raises where the link, or the queue for it, failed."""
    return (client._module.TransportError, CallTimeout, CircuitOpen, QueueFull)


def refusal_of(response: httpx.Response, text: str) -> FileRefused | Passing:
    """What to raise for an answer that is not the one that was wanted."""
    refused = FileRefused(response.status_code, text[:_TEXT_CHARACTERS])
    if response.status_code not in _PASSING:
        return refused
    advice = response.headers.get("retry-after")
    given = () if advice is None else (("retry-after", advice.strip()),)
    return Passing(refused, Reply("1.1", response.status_code, given, b"").retry_after_s)


class Tries:
    """Waits between tries, and gives up in the end."""

    def __init__(self, reconnect: Reconnect) -> None:
        self._reconnect = reconnect
        self.progress()

    def progress(self) -> None:
        """Something has arrived: it begins to count anew."""
        self._count = 0
        self._since = trio.current_time()
        self._delays: Iterator[float] = delays(self._reconnect, ambient().random)

    async def wait(self, failure: Passing) -> None:
        """Wait before the next try. Raises the cause of `failure` when it was the last.

        A refusal is raised as it is, all else as `AttemptsExhausted`.
        """
        rules = self._reconnect
        self._count += 1
        wait_s = advised(next(self._delays), failure.advice_s, rules, ambient().random)
        over = trio.current_time() + wait_s - self._since > rules.give_up_after_s
        if over or self._count >= rules.max_attempts:
            if isinstance(failure.cause, FileRefused):
                raise failure.cause
            message = f"tried {self._count} times: {failure.cause}"
            raise AttemptsExhausted(message) from failure.cause
        await trio.sleep(wait_s)
