from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import assert_checkpoints

from trio_rt import OptionError, Server, serve
from trio_rt._handshake import RequestHeaders
from trio_rt._http_values import HttpRequest, HttpResponse
from trio_rt.hub import Hub, HubStatistics, MemoryBroker, open_hub
from trio_rt.hub._server.metrics import Monitor, hub_metrics, is_local
from trio_rt.hub._server.site import Site

CAP_S = 10
TOKEN = "a-token-for-metrics"

STATISTICS = HubStatistics(
    peers=3,
    rooms=2,
    members=5,
    published=70,
    deliveries=140,
    refusals={"too_fast": 4, "no_room": 1},
    lagging=1,
    lags=6,
    publish_s=tuple(n / 1000 for n in range(100, 0, -1)),
    broker_up=True,
    broker={"rooms": 9, "commits": 12, "waiting_bytes": 0, "delay_s": 0.5},
)


def parsed(text: str) -> dict[str, Any]:
    """The families by name, as Prometheus' own client reads them."""
    families = list(text_string_to_metric_families(text))
    found = {family.name: family for family in families}
    assert len(found) == len(families)
    return found


def values(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """The samples by name and label values; each is there once."""
    samples = [sample for family in parsed(text).values() for sample in family.samples]
    found = {(s.name, tuple(s.labels.values())): s.value for s in samples}
    assert len(found) == len(samples)
    return found


def test_numbers() -> None:
    """Every number of the hub is there, under its name."""
    found = values(hub_metrics(STATISTICS, connections=8))
    assert {name: value for (name, labels), value in found.items() if not labels} == {
        "trio_rt_connections": 8,
        "trio_rt_peers": 3,
        "trio_rt_rooms": 2,
        "trio_rt_members": 5,
        "trio_rt_published_total": 70,
        "trio_rt_deliveries_total": 140,
        "trio_rt_lagging": 1,
        "trio_rt_lags_total": 6,
        "trio_rt_broker_up": 1,
        "trio_rt_broker_rooms": 9,
        "trio_rt_broker_commits_total": 12,
        "trio_rt_broker_waiting_bytes": 0,
        "trio_rt_broker_delay_seconds": 0.5,
    }
    assert found["trio_rt_refusals_total", ("too_fast",)] == 4
    assert found["trio_rt_refusals_total", ("no_room",)] == 1


def test_types_and_help() -> None:
    """Each family has its type and a help; what counts upwards is a counter, and says so."""
    families = parsed(hub_metrics(STATISTICS, connections=8))
    kinds = {name: family.type for name, family in families.items()}
    assert kinds["trio_rt_peers"] == "gauge"
    assert kinds["trio_rt_publish_seconds"] == "summary"
    assert kinds["trio_rt_broker_commits"] == "counter"
    assert kinds["trio_rt_refusals"] == "counter"
    assert kinds["trio_rt_broker_rooms"] == "gauge"
    for family in families.values():
        assert family.name.startswith("trio_rt_")
        assert family.documentation.endswith(".")
        assert family.type != "unknown"
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")


def test_quantiles() -> None:
    """A quantile is the smallest value that so many do not exceed."""
    found = values(hub_metrics(STATISTICS))
    assert found["trio_rt_publish_seconds", ("0.5",)] == 0.05
    assert found["trio_rt_publish_seconds", ("0.9",)] == 0.09
    assert found["trio_rt_publish_seconds", ("0.99",)] == 0.099


def test_nothing_yet() -> None:
    """Of no publishes the quantiles are NaN; without a server there are no connections."""
    text = hub_metrics(attrs.evolve(STATISTICS, publish_s=(), refusals={}, broker_up=False))
    found = values(text)
    assert math.isnan(found["trio_rt_publish_seconds", ("0.99",)])
    assert found["trio_rt_broker_up", ()] == 0
    assert ("trio_rt_connections", ()) not in found
    assert "# TYPE trio_rt_refusals_total counter\n" in text


@pytest.mark.parametrize("code", ['a"b', "a\\b", "a\nb", "a\\nb", "é{}=,", "\\", ' " '])
def test_labels_are_escaped(code: str) -> None:
    """Whatever a program's refusal has as its code, the text can be read."""
    found = values(hub_metrics(attrs.evolve(STATISTICS, refusals={code: 2})))
    assert found["trio_rt_refusals_total", (code,)] == 2


def test_label_that_is_no_text() -> None:
    """A lone surrogate in a code costs that character."""
    found = values(hub_metrics(attrs.evolve(STATISTICS, refusals={"a\ud800": 2})))
    assert found["trio_rt_refusals_total", ("a?",)] == 2


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"a-b.c": 1}, {"trio_rt_broker_a_b_c": 1}),
        ({"name": "text", "list": [1], "none": None}, {}),
        ({"a-b": 1, "a.b": 2}, {"trio_rt_broker_a_b": 1}),
        ({"up": 7}, {}),
        ({"ready": True}, {"trio_rt_broker_ready": 1}),
        ({"much": math.inf}, {"trio_rt_broker_much": math.inf}),
        ({"little": -math.inf}, {"trio_rt_broker_little": -math.inf}),
    ],
)
def test_numbers_of_a_broker(numbers: Mapping[str, Any], expected: dict[str, float]) -> None:
    """A broker's numbers have names that can be; what is no number is left out."""
    found = values(hub_metrics(attrs.evolve(STATISTICS, broker=numbers)))
    broker = {name: value for (name, _), value in found.items() if "_broker_" in name}
    del broker["trio_rt_broker_up"]
    assert broker == expected


LOCAL = {"Host": "127.0.0.1:8765"}


@pytest.mark.parametrize(
    ("remote", "headers", "expected"),
    [
        ("127.0.0.1", LOCAL, True),
        ("127.8.9.1", {"Host": "localhost"}, True),
        ("127.0.0.1", {"Host": "LOCALHOST:1"}, True),
        ("::1", {"Host": "[::1]:8765"}, True),
        ("::1", {"Host": "[::1]"}, True),
        ("::ffff:127.0.0.1", LOCAL, True),
        ("::ffff:192.0.2.1", LOCAL, False),
        ("192.0.2.1", LOCAL, False),
        (None, LOCAL, False),
        ("127.0.0.1", {}, False),
        ("127.0.0.1", {"Host": "evil.example:8765"}, False),
        ("127.0.0.1", {"Host": "127.0.0.1.evil.example"}, False),
        ("127.0.0.1", {"Host": "localhost.evil.example"}, False),
        ("127.0.0.1", {"Host": "192.0.2.1"}, False),
        ("127.0.0.1", LOCAL | {"X-Forwarded-For": "127.0.0.1"}, False),
        ("127.0.0.1", LOCAL | {"x-forwarded-proto": "https"}, False),
        ("127.0.0.1", LOCAL | {"X-Forwarded-Host": ""}, False),
        ("127.0.0.1", LOCAL | {"Forwarded": "for=127.0.0.1"}, False),
        ("127.0.0.1", LOCAL | {"Via": "1.1 proxy"}, False),
        ("127.0.0.1", LOCAL | {"X-Real-IP": "127.0.0.1"}, False),
    ],
)
def test_local(remote: str | None, headers: dict[str, str], expected: bool) -> None:
    """Here is a loopback address, under a name of it, and nothing that a proxy adds."""
    assert is_local(remote, RequestHeaders(headers.items())) is expected


def ask(path: str = "/metrics", method: str = "GET", **headers: str) -> HttpRequest:
    """A request of somebody far away."""
    items = [("Host", "hub.example"), *headers.items()]
    return HttpRequest(method=method, path=path, headers=RequestHeaders(items), remote="192.0.2.1")


def here(path: str = "/metrics", method: str = "GET") -> HttpRequest:
    """A request from this machine."""
    headers = RequestHeaders(LOCAL.items())
    return HttpRequest(method=method, path=path, headers=headers, remote="127.0.0.1")


async def asked(monitor: Monitor, request: HttpRequest) -> HttpResponse:
    with assert_checkpoints():
        return await monitor.routes[request.path](request)


async def test_without_a_token() -> None:
    """Without a token the numbers are for this machine; for others there is no such page."""
    async with open_hub() as hub:
        monitor = Monitor(hub)
        assert (await asked(monitor, here())).status == 200
        far = await asked(monitor, ask())
        assert (far.status, far.body) == (404, b"not found")
        shown = await asked(monitor, ask(Authorization="Bearer "))
        assert shown.status == 404


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (f"Basic {TOKEN}", 404),
        (TOKEN, 404),
        (f"Bearer {TOKEN}x", 404),
        (f"Bearer {TOKEN[:-1]}", 404),
        ("Bearer", 404),
        ("Bearer \u00e9", 404),
        ("", 404),
    ],
)
async def test_with_a_token(shown: str, status: int) -> None:
    """With a token the numbers are for who shows it as a Bearer."""
    async with open_hub() as hub:
        answer = await asked(Monitor(hub, token=TOKEN), ask(Authorization=shown))
        assert answer.status == status


async def test_token_is_for_all() -> None:
    """With a token this machine has to show it, too: a proxy may be here."""
    async with open_hub() as hub:
        assert (await asked(Monitor(hub, token=TOKEN), here())).status == 404


@pytest.mark.parametrize("token", ["short", "a token with spaces", "x" * 513, "tök-" * 8])
async def test_bad_token(token: str) -> None:
    """A token that can be guessed, or that no header has, is refused, and not shown."""
    async with open_hub() as hub:
        with pytest.raises(OptionError) as caught:
            Monitor(hub, token=token)
    assert token not in str(caught.value)


async def test_refused_pages_look_like_absent_ones() -> None:
    """Of a page that is not for somebody there is no sign."""
    async with open_hub() as hub:
        site = Site(Monitor(hub).routes)
        for method in ("GET", "POST"):
            one = await site(ask("/metrics", method))
            other = await site(ask("/nothing", method))
            assert attrs.astuple(one) == attrs.astuple(other)


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_methods(path: str) -> None:
    """They are for reading, and never kept by who reads them."""
    async with open_hub() as hub:
        monitor = Monitor(hub)
        read = await asked(monitor, here(path))
        assert (read.status, read.headers["Cache-Control"]) == (200, "no-store")
        assert (await asked(monitor, here(path, "HEAD"))).status == 200
        written = await asked(monitor, here(path, "POST"))
        assert (written.status, written.headers["Allow"]) == (405, "GET, HEAD")


class Absent(MemoryBroker):
    """A store that cannot be reached."""

    up = False


async def test_ready() -> None:
    """It is ready while the store is there and the server does not drain; alive in any case."""
    async with open_hub(Absent()) as hub:
        monitor = Monitor(hub)
        down = await asked(monitor, ask("/readyz"))
        assert (down.status, down.body) == (503, b"the broker is down\n")
        assert monitor.trouble == "the broker is down"
        hub.broker.up = True
        up = await asked(monitor, ask("/readyz"))
        assert (up.status, up.body, monitor.trouble) == (200, b"ok\n", "")
        monitor.draining = True
        draining = await asked(monitor, ask("/readyz"))
        assert (draining.status, draining.body) == (503, b"the server is draining\n")
        assert (await asked(monitor, ask("/healthz"))).body == b"ok\n"


async def served(nursery: trio.Nursery, hub: Hub, monitor: Monitor) -> Server:
    serving: Any = partial(serve, hub, "127.0.0.1", 0, http=Site(monitor.routes))
    server: Server = await nursery.start(serving)
    monitor.server = server
    return server


async def test_over_the_wire() -> None:
    """A real client reads the numbers of a real server, and of its process."""
    with trio.fail_after(CAP_S):
        async with open_hub() as hub, trio.open_nursery() as nursery:
            server = await served(nursery, hub, Monitor(hub))
            await hub.publish("lobby", "hi")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
                answer = await client.get("/metrics")
                again = await client.get("/metrics")
            nursery.cancel_scope.cancel()
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found, later = values(answer.text), values(again.text)
    assert found["trio_rt_connections", ()] == 1
    assert found["trio_rt_published_total", ()] == 1
    assert found["trio_rt_publish_seconds", ("0.99",)] >= 0
    assert found["trio_rt_process_resident_bytes", ()] > 10_000_000
    cpu = "trio_rt_process_cpu_seconds_total"
    assert 0 < found[cpu, ()] <= later[cpu, ()]
    began = "trio_rt_process_start_time_seconds"
    assert found[began, ()] == later[began, ()] > 1_600_000_000
    assert [labels for name, labels in found if name == "trio_rt_info"] != [()]


async def test_strangers_choose_no_series() -> None:
    """Rooms, users and messages of strangers give no new series."""

    async def series(hub: Hub) -> set[tuple[str, tuple[str, ...]]]:
        answer = await asked(Monitor(hub), here())
        assert isinstance(answer.body, bytes)
        return set(values(answer.body.decode()))

    async with open_hub() as hub:
        before = await series(hub)
        for number, kind in itertools.product(range(20), ("a", "b")):
            await hub.publish(f"room-{number}", number, type=kind, user=f"user-{number}")
        assert await series(hub) == before
