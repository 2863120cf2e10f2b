"""What is compared, and what it must reach.

A row sets one figure of trio_rt beside those of its peers. A bound is on the
ratio of the two within one round: at least so much for a rate, at most so
much for bytes and times. `must` is promised, `aim` is wished for.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

#: client module, job
Job: TypeAlias = tuple[str, str]
Unit: TypeAlias = Literal["messages/s", "requests/s", "parts/s", "bytes", "ms"]


@attrs.frozen
class Measurement:
    """One client doing one job."""

    client: str
    job: str
    tls: bool = False


@attrs.frozen
class Peer:
    """One figure beside ours, and the bounds on the ratio, if there are any."""

    measured: Measurement
    label: str
    must: float | None = None
    aim: float | None = None


@attrs.frozen
class Row:
    """One comparison."""

    name: str
    ours: Measurement
    peers: tuple[Peer, ...] = ()
    unit: Unit = "messages/s"
    #: A bound on our own figure, in its unit: on the same side as those on ratios.
    limit: float | None = None
    #: This row is about the fixed server: "ours" is no library at all.
    ceiling: bool = False

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")

    def holds(self, found: float, bound: float) -> bool:
        """Whether a ratio, or our figure, keeps to a bound."""
        return found >= bound if self.is_rate else found <= bound

    @property
    def measurements(self) -> set[Measurement]:
        """All that must be measured for it."""
        return {self.ours, *(peer.measured for peer in self.peers)}


LABELS: Final = {
    "bare_trio": "trio-websocket",
    "websockets_trio": "websockets, trio",
    "websockets_uvloop": "websockets, uvloop",
    "aiohttp_uvloop": "aiohttp, uvloop",
    "picows_uvloop": "picows, uvloop",
    "socketio_uvloop": "python-socketio, uvloop",
    "socketio_pair": "the same, to its own server",
    "socketio_requests": "python-socketio, to its own server",
    "raw_trio": "raw trio TCP",
    "ours": "trio_rt",
    "ours_trio_websocket": "trio_rt, trio-websocket wire",
}
_LIBRARIES: Final = (
    "bare_trio",
    "websockets_trio",
    "websockets_uvloop",
    "aiohttp_uvloop",
    "picows_uvloop",
)
#: Beside text and TLS rows, to keep the run short: the bounds are about the
#: first, and the others differ from their raw rows as the second does.
_FEW: Final = ("bare_trio", "aiohttp_uvloop")


def _peers(
    job: str,
    tls: bool,
    must: dict[str, float],
    aim: dict[str, float] | None = None,
    more: tuple[Job, ...] = (),
) -> tuple[Peer, ...]:
    libraries = _FEW if "text" in job or tls else _LIBRARIES
    jobs = [*((client, job) for client in libraries), *more]
    aim = aim or {}
    return tuple(
        Peer(Measurement(client, job, tls), LABELS[client], must.get(client), aim.get(client))
        for client, job in jobs
    )


_EMIT: Final = (("socketio_uvloop", "send event"), ("socketio_pair", "send event"))
_EVENTS: Final = (("socketio_uvloop", "receive event"),)


def _plain_rows() -> list[Row]:
    def row(
        name: str,
        peer_job: str,
        must: dict[str, float],
        aim: dict[str, float] | None = None,
        more: tuple[Job, ...] = (),
    ) -> Row:
        return Row(name, Measurement("ours", name), _peers(peer_job, False, must, aim, more))

    return [
        row("send raw, send_nowait", "send raw", {"bare_trio": 12}, {"aiohttp_uvloop": 1.3}),
        row("send raw, await send", "send raw", {}),
        row(
            "send envelope, send_nowait",
            "send text",
            {"bare_trio": 8, "socketio_pair": 10},
            more=_EMIT,
        ),
        row(
            "send envelope, await send",
            "send text",
            {"bare_trio": 4, "socketio_pair": 5},
            more=_EMIT,
        ),
        row("receive raw, receive_many", "receive raw", {"bare_trio": 6}),
        row("receive raw, async for", "receive raw", {"bare_trio": 4}),
        row("receive envelope, receive_many", "receive text", {"bare_trio": 6}, more=_EVENTS),
        row("receive envelope, async for", "receive text", {"bare_trio": 4}, more=_EVENTS),
        row(
            "echo",
            "echo",
            {"bare_trio": 1.3, "raw_trio": 0.25},
            {"raw_trio": 0.4},
            (("raw_trio", "echo"), ("socketio_uvloop", "echo")),
        ),
    ]


def _over_tls(row: Row) -> Row:
    job = row.peers[0].measured.job
    must = {"bare_trio": 4.0} if job.startswith("send") else {}
    more = (("raw_trio", "echo"),) if job == "echo" else ()
    name, ours = f"TLS {row.name}", attrs.evolve(row.ours, tls=True)
    return Row(name, ours, _peers(job, True, must, more=more))


def _second_wire(row: Row) -> Row:
    """The same on the wire over trio-websocket, beside the package alone."""
    ours = attrs.evolve(row.ours, client="ours_trio_websocket")
    job = row.peers[0].measured.job
    must = {"bare_trio": 0.9 if job.startswith("send") else 0.75}
    peers = [peer for peer in _peers(job, False, must) if peer.measured.client == "bare_trio"]
    return Row(f"second wire, {row.name}", ours, tuple(peers))


def _ceiling(job: str, rows: list[Row], tls: bool) -> Row:
    """The server's own speed, against everything that was measured on it."""
    found = {
        measured: LABELS[measured.client]
        for row in rows
        for measured in row.measurements
        if measured.tls == tls
        and measured.job.split()[0] == job.split()[0]
        and ("text" in job) == any(word in measured.job for word in ("text", "envelope"))
        and not measured.client.startswith("socketio")
    }
    peers = tuple(Peer(measured, label, must=2) for measured, label in found.items())
    name = f"the server's own limit: {'TLS ' * tls}{job}"
    return Row(name, Measurement("blocking", job, tls), peers, ceiling=True)


def _memory(name: str, job: str, peers: dict[str, tuple[str, float | None]]) -> Row:
    return Row(
        f"memory, {name}",
        Measurement("memory_ours", job),
        tuple(
            Peer(Measurement("memory_websockets", other), label, aim=aim)
            for other, (label, aim) in peers.items()
        ),
        unit="bytes",
    )


def _session(
    name: str,
    job: str,
    *,
    client: str = "session_ours",
    peer: Job | None = None,
    must: float | None = None,
    aim: float | None = None,
    unit: Unit = "messages/s",
    limit: float | None = None,
) -> Row:
    """A row of trio_rt to its own server."""
    peers: tuple[Peer, ...] = ()
    if peer is not None:
        peers = (Peer(Measurement(*peer), LABELS[peer[0]], must, aim),)
    return Row(name, Measurement(client, job), peers, unit, limit)


_SESSIONS: Final = [
    _session(
        "session, acked sends, send_nowait",
        "acked sends, send_nowait",
        peer=("aiohttp_uvloop", "send text"),
        must=1,
        aim=1.5,
    ),
    _session(
        "session, acked sends, await send",
        "acked sends, await send",
        peer=("aiohttp_uvloop", "send text"),
    ),
    _session(
        "second wire, session, acked sends, await send",
        "acked sends, await send",
        client="session_ours_trio_websocket",
        peer=("bare_trio", "send text"),
        must=5,
    ),
    _session(
        "session, request, 64 in flight",
        "request",
        peer=("socketio_requests", "request"),
        must=3,
        unit="requests/s",
    ),
    _session("session, exchange of 10,000 parts", "exchange", unit="parts/s", limit=50_000),
    _session("session, cut to first new message", "cut", unit="ms", limit=50),
    _session("session, resume that replays 1,000 frames", "resume", unit="ms", limit=30),
]

_OTHER: Final = [
    Row(
        "critical behind 50,000 at 1 Mbit/s",
        Measurement("ours", "critical"),
        unit="bytes",
        limit=256 << 10,
    ),
    _memory(
        "idle connection, client",
        "client",
        {
            "client": ("websockets, asyncio", 1),
            "client of trio-websocket": ("trio-websocket", None),
        },
    ),
    _memory("idle connection, server", "server", {"server": ("websockets, asyncio", 1)}),
    _memory(
        "queued message",
        "queued",
        {
            "queued in tasks": ("websockets, a task per send", 1),
            "queued before it": ("asyncio.Queue before websockets", None),
        },
    ),
]


def all_rows() -> list[Row]:
    """Every row, in the order of the table."""
    plain = _plain_rows()
    tls = [_over_tls(row) for row in plain]
    ceilings = [
        _ceiling(job, plain if not over_tls else tls, over_tls)
        for over_tls in (False, True)
        for job in ("send raw", "send text", "receive raw", "receive text")
    ]
    second = [_second_wire(row) for row in plain]
    return [*plain, *tls, *second, *_SESSIONS, *_OTHER, *ceilings]
