"""`--broker`: where the rooms of `trio-rt serve` live."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final
from urllib.parse import unquote, urlsplit

import attrs

from ..errors import OptionError
from ..hub import Broker, LogLimits, MemoryBroker, SqliteBroker

__all__ = ["Store", "store_of"]

#: Shorter secrets are not looked for in the log: they are in too many words.
LEAST_SECRET: Final = 4


@attrs.frozen
class Store:
    """Where the rooms live; its `str` may be shown."""

    kind: str
    place: str = attrs.field(default="", repr=False)
    #: What is to be kept out of the log.
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)

    def open(self, limits: LogLimits) -> Broker:
        """A broker for one hub. Raises `OptionError`."""
        if self.kind == "memory":
            return MemoryBroker(limits)
        if self.kind == "sqlite":
            return SqliteBroker(self.place, limits)
        if find_spec("coredis") is None:
            raise OptionError(
                "broker", "needs coredis for that: pip install 'trio-rt[redis]'", self.kind
            )
        from ..hub.brokers.redis import RedisBroker

        return RedisBroker(self.place, limits=limits)

    def __str__(self) -> str:
        return f"sqlite:{self.place}" if self.kind == "sqlite" else self.kind


def store_of(text: str) -> Store:
    """`memory`, `sqlite:PATH`, or a Redis URL. Raises `OptionError`, which does not show it."""
    kind, _, place = text.partition(":")
    if text == "memory":
        return Store("memory")
    if kind == "sqlite" and place:
        return Store("sqlite", place)
    if kind in ("redis", "rediss") and place.startswith("//"):
        return Store(kind, text, _secrets(text))
    rule = "must be memory, sqlite:PATH, redis://... or rediss://..."
    raise OptionError("broker", rule, "(not shown)")


def _secrets(url: str) -> tuple[str, ...]:
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        password = ""
    found = {url, password, unquote(password)} if "@" in url else {password}
    return tuple(secret for secret in found if len(secret) >= LEAST_SECRET)
