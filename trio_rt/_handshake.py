"""What a client asks for: the request of the opening handshake, as values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

__all__ = ["Handshake", "RequestHeaders"]

_DEFAULT_PORT: Final = {"http": ":80", "https": ":443"}


class RequestHeaders(Mapping[str, str]):
    """The request's headers: read-only, and any case of a name will do.

    Values are ISO-8859-1, as HTTP has it. A name that came several times
    gives its values joined by ", "; `get_all` has them singly. The `repr`
    shows no values.
    """

    # One text with a line for each header, which HTTP lets have no line break. Every peer
    # keeps its own as long as it lives, and a browser sends fifteen: as a dictionary of
    # lists they take three times as much.
    __slots__ = ("_lines",)

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self._lines = "\n".join(f"{name.lower()}:{value}" for name, value in items)

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._items()))

    def __len__(self) -> int:
        return len({name for name, _ in self._items()})

    def __repr__(self) -> str:
        return f"<RequestHeaders {' '.join(self)}>"

    def get_all(self, name: str) -> tuple[str, ...]:
        """Every value of `name`, in order; empty if there is none."""
        wanted = name.lower()
        return tuple(value for name, value in self._items() if name == wanted)

    def _items(self) -> Iterator[tuple[str, str]]:
        for line in self._lines.split("\n") if self._lines else ():
            name, _, value = line.partition(":")
            yield name, value


@attrs.frozen(kw_only=True)
class Handshake:
    """What a client asks for, as the accept hook sees it."""

    #: As sent, percent-encoding included; begins with "/".
    path: str
    #: What follows the first "?"; "" if there is none.
    query: str = attrs.field(default="", repr=False)
    headers: RequestHeaders = attrs.field(factory=lambda: RequestHeaders([]))
    #: Where the web page comes from that asks; None for what is no browser.
    origin: str | None = None
    #: The subprotocols offered, the client's favourite first.
    protocols: tuple[str, ...] = ()
    #: The peer's IP address, without port; None where the stream has none.
    #: Behind a proxy it is the proxy's.
    remote: str | None = None
    #: TLS ends in this process.
    secure: bool = False

    @property
    def same_origin(self) -> bool:
        """True if no web page asks, or one that this very host served.

        Without an accept hook everything else gets 403: a browser lets any
        page open a WebSocket to anywhere, with the user's cookies ("cross-site
        WebSocket hijacking"). With a hook the hook decides alone, since only
        it can know other origins to be good: **a hook that trusts cookies has
        to check this**, or compare `origin` with a list.

        Scheme, host and port must be equal; only letter case and a written
        default port make no difference. Where TLS ends in this process the
        page must be https. On a plain listener http and https both will do,
        since TLS may end at a proxy in front.
        """
        if self.origin is None:
            return True
        scheme, _, authority = self.origin.lower().partition("://")
        if scheme not in _DEFAULT_PORT or (self.secure and scheme != "https"):
            return False
        port = _DEFAULT_PORT[scheme]
        host = self.headers.get("Host", "").lower()
        return bool(host) and authority.removesuffix(port) == host.removesuffix(port)
