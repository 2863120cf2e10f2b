"""What is kept of each origin, for the origins used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeAlias, TypeVar

import httpx

__all__ = ["Origin", "Origins", "origin_of", "shown_origin"]

T = TypeVar("T")

#: Scheme, host and port; the default port is None.
Origin: TypeAlias = tuple[str, bytes, int | None]


def origin_of(url: httpx.URL) -> Origin:
    return url.scheme, url.raw_host, url.port


def shown_origin(origin: Origin) -> str:
    scheme, host, port = origin
    name = host.decode("ascii")
    name = f"[{name}]" if ":" in name else name
    return f"{scheme}://{name}" if port is None else f"{scheme}://{name}:{port}"


class Origins(Generic[T]):
    """A `T`, made by `make`, for each of the `limit` origins used last."""

    __slots__ = ("_kept", "_limit", "_make")

    def __init__(self, make: Callable[[], T], limit: float) -> None:
        self._make = make
        self._limit = limit
        self._kept: OrderedDict[Origin, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def items(self) -> Iterator[tuple[Origin, T]]:
        return iter(self._kept.items())

    def of(self, origin: Origin) -> T:
        kept = self._kept
        found = kept.get(origin)
        if found is None:
            if len(kept) >= self._limit:
                kept.popitem(last=False)
            found = kept[origin] = self._make()
        else:
            kept.move_to_end(origin)
        return found
