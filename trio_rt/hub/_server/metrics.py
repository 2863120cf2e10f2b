"""What operators ask a hub's server over HTTP: numbers, whether it lives, whether it is ready.

The numbers are in Prometheus' text format, version 0.0.4, all of them `trio_rt_*`. No label
has a value that a stranger can choose, so that there are as many series tomorrow as today,
and nobody learns from them who talks where.

Who may see them. With a token: who shows it, and nobody else. Without one: who is on this
machine. "Here" is a loopback address, *and* nothing that a proxy adds, *and* a `Host` that
is a loopback name: a browser here that a foreign page has sent (by a name of its own that
it lets point here) sends that page's. For all others there is no such page (404).

The remaining hole: a proxy on this machine that adds no header and passes on its own address
as `Host` looks like a client here. Behind one, set a token or keep the path from it.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final

import attrs
import trio

from ..._ambient import ambient
from ..._http_values import HttpHandler, HttpRequest, HttpResponse
from ..._server import Server
from ...errors import OptionError
from .hub import Hub, HubStatistics

__all__ = ["Monitor", "hub_metrics", "is_local", "is_loopback"]

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_TEXT_TYPE: Final = "text/plain; charset=utf-8"

#: Of the time to the store's answer. Prometheus' own summaries have such.
QUANTILES: Final = (0.5, 0.9, 0.99)

#: What brokers count upwards; of the rest of their numbers it is the value that matters.
_COUNTED: Final = frozenset(
    {"appends", "batches", "commits", "dropped_marks", "entries", "garbage", "links", "losses"}
    | {"stored"}
)

_LABEL_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})

#: What proxies add. One that is there, even empty, is enough.
_PROXIED: Final = re.compile(r"x-forwarded-.*|forwarded|via|x-real-ip", re.IGNORECASE)

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")


@attrs.frozen
class _Family:
    """One metric: its samples by their labels, as they are written."""

    name: str
    kind: str
    help: str
    samples: Sequence[tuple[str, float]]

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help.translate(_HELP_ESCAPES)}\n"
        yield f"# TYPE {self.name} {self.kind}\n"
        for labels, value in self.samples:
            yield f"{self.name}{labels} {_number(value)}\n"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)


def _label(name: str, value: str) -> str:
    # What UTF-8 cannot encode, a program's refusal may have.
    text = value.encode(errors="replace").decode()
    return f'{{{name}="{text.translate(_LABEL_ESCAPES)}"}}'


def _one(name: str, kind: str, help: str, value: float) -> _Family:
    return _Family(f"trio_rt_{name}", kind, help, [("", value)])


def hub_metrics(statistics: HubStatistics, *, connections: int | None = None) -> str:
    """A hub's numbers as Prometheus' text, with those of its server if there is one.

    `connections` is `Server.connections`. Those of this process are not in it.
    """
    return _text(_families(statistics, connections))


def _text(families: Iterable[_Family]) -> str:
    return "".join(line for family in families for line in family.lines())


def _families(now: HubStatistics, connections: int | None) -> Iterator[_Family]:
    if connections is not None:
        yield _one("connections", "gauge", "Open connections of all kinds.", connections)
    yield _one("peers", "gauge", "Clients of the hub, those between two links too.", now.peers)
    yield _one("rooms", "gauge", "Rooms with members on this node.", now.rooms)
    yield _one("members", "gauge", "Clients in rooms, counted in each.", now.members)
    yield _one("published_total", "counter", "Messages given to the store.", now.published)
    yield _one("deliveries_total", "counter", "Messages to members.", now.deliveries)
    refusals = [(_label("code", code), count) for code, count in sorted(now.refusals.items())]
    yield _Family("trio_rt_refusals_total", "counter", "Commands refused, by code.", refusals)
    yield _one("lagging", "gauge", "Clients that do not keep up now.", now.lagging)
    yield _one("lags_total", "counter", "Times that a client began to lag.", now.lags)
    yield _Family(
        "trio_rt_publish_seconds",
        "summary",
        f"From a publish to the store's answer, of the last {len(now.publish_s)}.",
        list(_quantiles(now.publish_s)),
    )
    yield _one("broker_up", "gauge", "Whether the store can be reached.", int(now.broker_up))
    yield from _broker_families(now.broker)


def _quantiles(values_s: Sequence[float]) -> Iterator[tuple[str, float]]:
    ranked = sorted(values_s)
    for share in QUANTILES:
        rank = max(0, math.ceil(share * len(ranked)) - 1)
        yield _label("quantile", f"{share:g}"), ranked[rank] if ranked else math.nan


def _broker_families(numbers: Mapping[str, object]) -> Iterator[_Family]:
    names = {"up"}
    for key, value in numbers.items():
        counted = key in _COUNTED
        name = re.sub(r"[^a-zA-Z0-9_]", "_", key.removesuffix("_total"))
        name = re.sub(r"_s$", "_seconds", name) + ("_total" if counted else "")
        if isinstance(value, (int, float)) and name not in names:
            names.add(name)
            help = f"The store's own: {key}."
            yield _one(f"broker_{name}", "counter" if counted else "gauge", help, value + 0)


def _process_families(began_s: float) -> Iterator[_Family]:
    spent = os.times()
    yield _one("process_cpu_seconds_total", "counter", "CPU time of this process.", sum(spent[:2]))
    resident = _resident_bytes()
    if resident is not None:
        yield _one("process_resident_bytes", "gauge", "Memory of this process.", resident)
    yield _one(
        "process_start_time_seconds", "gauge", "When it began, in seconds since 1970.", began_s
    )
    labels = _label("version", version("trio-rt"))
    yield _Family("trio_rt_info", "gauge", "Always 1.", [(labels, 1)])


def _resident_bytes() -> int | None:
    """None where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


class Monitor:
    """Three HTTP handlers for a hub: `routes` has them by path, for `Site`.

    - `/metrics`: numbers in Prometheus' text format, for who shows `token` as
      `Authorization: Bearer`; with "" for programs on this machine. For others 404.
    - `/healthz`: 200 for as long as the process answers. Open to all.
    - `/readyz`: 200 if the store can be reached and `draining` is not set, else 503 with the
      reason. Open to all.
    """

    def __init__(self, hub: Hub, *, token: str = "") -> None:
        if token and not _TOKEN.fullmatch(token):
            raise OptionError("token", "must have 16 to 512 letters, digits or ._~+/=-", "***")
        self._hub = hub
        self._token = token.encode()
        self._began_s = ambient().wall_s()
        #: The hub's server, once there is one.
        self.server: Server | None = None
        #: Set when the server begins to drain.
        self.draining = False
        self.routes: Mapping[str, HttpHandler] = {
            "/metrics": self.metrics,
            "/healthz": self.health,
            "/readyz": self.ready,
        }

    @property
    def trouble(self) -> str:
        """Why it is not ready, in one line; "" if it is."""
        if self.draining:
            return "the server is draining"
        return "" if self._hub.statistics().broker_up else "the broker is down"

    async def metrics(self, request: HttpRequest) -> HttpResponse:
        """The numbers, or 404."""
        await trio.lowlevel.checkpoint()
        if not self._may_see(request):
            return _answer(request, 404, "not found")
        connections = None if self.server is None else self.server.connections
        text = hub_metrics(self._hub.statistics(), connections=connections)
        return _answer(request, 200, text + _text(_process_families(self._began_s)), _METRICS_TYPE)

    async def health(self, request: HttpRequest) -> HttpResponse:
        """That it answers."""
        await trio.lowlevel.checkpoint()
        return _answer(request, 200, "ok\n")

    async def ready(self, request: HttpRequest) -> HttpResponse:
        """Whether clients may be sent here."""
        await trio.lowlevel.checkpoint()
        trouble = self.trouble
        return _answer(request, 503 if trouble else 200, f"{trouble or 'ok'}\n")

    def _may_see(self, request: HttpRequest) -> bool:
        if not self._token:
            return is_local(request.remote, request.headers)
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        equal = hmac.compare_digest(shown.strip().encode(), self._token)
        return equal and scheme.lower() == "bearer"


def _answer(request: HttpRequest, status: int, text: str, type: str = _TEXT_TYPE) -> HttpResponse:
    headers = {"Content-Type": type}
    if status == 404:
        return HttpResponse(status, headers, text.encode())
    if request.method not in ("GET", "HEAD"):
        return HttpResponse(405, {"Content-Type": _TEXT_TYPE, "Allow": "GET, HEAD"}, b"not allowed")
    return HttpResponse(status, {**headers, "Cache-Control": "no-store"}, text.encode())


def is_local(remote: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a program on this machine, as far as one can see."""
    if remote is None or not is_loopback(remote) or any(map(_PROXIED.fullmatch, headers)):
        return False
    host = re.sub(r":[0-9]*$", "", headers.get("Host", "").lower())
    return host == "localhost" or is_loopback(host.removeprefix("[").removesuffix("]"))


def is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
