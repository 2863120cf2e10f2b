"""A module imports only modules of lower layers, and the core does no I/O."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import trio_rt

ROOT = Path(trio_rt.__file__).parent

#: From the bottom up. Modules on one line do not know each other.
LAYERS = [
    {"outcome"},
    {"errors"},
    {"message"},
    {"options", "_ambient", "_waker", "_pace"},
    {"protocol.idle", "protocol.tap"},
    {"protocol.payloads"},
    {"protocol", "protocol.backoff", "protocol.codec", "protocol.frames", "protocol.lanes"}
    | {"protocol.lifecycle", "protocol.pulse", "protocol.url", "protocol.verdict"},
    {"protocol.ledger", "protocol.rate", "protocol.route"},
    {"protocol.calls", "protocol.incoming", "protocol.outgoing"},
    {"protocol.inquiries", "protocol.plain", "protocol.queues"},
    {"protocol.inbox", "protocol.numbered"},
    {"protocol.requests"},
    {"protocol.arrivals"},
    {"protocol.session"},
    {"delivery", "_streams", "_states", "_http_reply", "_http_body", "_handshake"},
    {"_mailbox", "_outlet", "_tls", "_tokens", "_subscription", "_http_head", "_proxy"},
    {"_http_reader", "_http_values"},
    {"_http_serve"},
    {"wires", "wires._framing"},
    {"wires._assembly", "wires._base", "wires._tally", "wires._airlock"},
    {"wires.websockets", "wires.trio_websocket"},
    {"_http_upgrade", "_aide"},
    {"_opening", "_accept", "_tasks"},
    {"_dial"},
    {"_hooks", "_welcome", "_handlers"},
    {"_beats", "_endpoint"},
    {"_verbs"},
    {"_requests"},
    {"_connection", "_peer"},
    {"_connect", "_sessions", "_broadcast", "_listen"},
    {"_server"},
    {""},
    # A column of its own.
    {
        "http._adaptive",
        "http._asked",
        "http._backend",
        "http._budget",
        "http._call",
        "http._directives",
        "http._gate_books",
        "http._network",
        "http._origins",
        "http._policy",
        "http._stage",
        "http._turns",
        "http._unpack",
        "http._urgency",
    },
    {"http._body", "http._circuit", "http._freshness", "http._given", "http._tee"},
    {"http._attempt", "http._pool"},
    {"http._layer"},
    {
        "http._authorize",
        "http._breaker",
        "http._connect",
        "http._gate",
        "http._hedge",
        "http._limits",
        "http._otel",
        "http._redirects",
        "http._retry",
        "http._store",
        "http._timeout",
    },
    {"http._flights", "http._shelf", "http._sqlite"},
    {"http._fetch"},
    {"http._cache"},
    {"http._client"},
    {"http._open"},
    {"http"},
    # Rooms.
    {
        "hub._broker",
        "hub._client",
        "hub._client.desk",
        "hub._names",
        "hub._server",
        "hub._server.files",
        "hub._server.statistics",
        "hub.brokers",
        "hub.brokers._redis_lua",
        "hub.brokers._sqlite_open",
    },
    {
        "hub._client.items",
        "hub._log",
        "hub._server.roster",
        "hub._server.site",
        "hub._words",
        "hub.brokers._redis_link",
        "hub.brokers._redis_queue",
        "hub.brokers._redis_wire",
        "hub.brokers._sqlite_queue",
    },
    {"hub._server.rules"},
    {"hub._server.tongue"},
    {
        "hub._client.calls",
        "hub._client.company",
        "hub._client.follow",
        "hub._server.guest",
        "hub._client.letters",
        "hub._client.shelf",
        "hub.brokers._redis_ear",
        "hub.brokers._sqlite_file",
        "hub.brokers.memory",
    },
    {"hub._client.channel", "hub._server.room", "hub.brokers._redis_node", "hub.brokers.sqlite"},
    {
        "hub._server.drafts",
        "hub._server.extension",
        "hub._server.guests",
        "hub._client.member",
        "hub._server.rooms",
        "hub._server.told",
        "hub.brokers._redis_reader",
        "hub.brokers._redis_writer",
    },
    {"hub._client.membership", "hub._server.tell", "hub.brokers.redis"},
    {"hub._client.opening", "hub._server.commands"},
    {"hub._server.intake"},
    {"hub._server.hub"},
    {"hub._server.metrics"},
    {"hub"},
    # A chat.
    {"chat._client", "chat._service", "chat._service._standing_file", "chat._words"},
    {
        "chat._service.page",
        "chat._service.plain_users",
        "chat._service.standing",
        "chat._service.targets",
        "chat._service.tokens",
        "chat.models",
    },
    {
        "chat._client.kept",
        "chat._client.pending",
        "chat._client.people",
        "chat._client.reading",
        "chat._client.typists",
    },
    {"chat._client.amendments"},
    {"chat._client.stored"},
    {"chat._client.log"},
    {
        "chat._client.beside",
        "chat._client.events",
        "chat._client.ids",
        "chat._client.keyboard",
        "chat._client.marker",
        "chat._client.profile",
        "chat._client.said",
    },
    {"chat._client.speaker", "chat._client.typing"},
    {"chat._client.holder"},
    {"chat._client.room"},
    {"chat._client.chat"},
    {"chat._service.claims"},
    {"chat._service.plain"},
    {
        "chat._client.sources",
        "chat._client.transfers",
        "chat._service.file_names",
        "chat._service.sniff",
    },
    {
        "chat._client.downloading",
        "chat._client.pieces",
        "chat._service.tus",
        "chat._service.uploads",
    },
    {"chat._client.uploading", "chat._service.disk"},
    {"chat._client.files", "chat._service.files"},
    {"chat._service.file_routes"},
    {"chat._service.rules"},
    {"chat._service.moderation"},
    {"chat._service.service"},
    {"chat"},
    {"testing"},
    {"cli"},
]

#: What the sans-I/O core may not know.
IO = {"trio", "httpx", "websockets", "trio_websocket", "time", "random", "logging", "socket"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def layer(module: str) -> int:
    """The layer of `module`; a private helper module shares its package's or nearest name."""
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
    raise AssertionError(f"trio_rt.{module} is in no layer: add it to LAYERS")


def imports(module: str, path: Path) -> set[str]:
    """Absolute names of what `module` imports, at any depth of the file."""
    package = ["trio_rt", *module.split(".")] if module else ["trio_rt"]
    if path.name != "__init__.py":
        package.pop()
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if node.module:
                names.add(source)
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_lower_layers(module: str) -> None:
    """Each import inside the package goes down."""
    known = modules()
    own = layer(group(module))
    for name in imports(module, known[module]):
        inner = name.removeprefix("trio_rt").removeprefix(".")
        if not name.startswith("trio_rt") or inner not in known:
            continue
        if group(inner) == group(module):
            continue
        assert layer(group(inner)) < own, f"trio_rt.{module} imports trio_rt.{inner}"


def group(module: str) -> str:
    """`testing` and `cli` are one layer each; elsewhere every module has its own."""
    head = module.partition(".")[0]
    return head if head in ("testing", "cli") else module


#: What the HTTP client has in common with the rest.
SHARED = {"", "errors", "message", "options", "_ambient", "_waker", "_http_reply", "_streams"}
SHARED |= {"protocol", "protocol.backoff"}


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("http")])
def test_the_http_client_is_a_column_of_its_own(module: str) -> None:
    """It knows no connection: of the rest it uses the vocabulary and small helpers."""
    known = modules()
    for name in imports(module, known[module]):
        inner = name.removeprefix("trio_rt").removeprefix(".")
        if name.startswith("trio_rt") and inner in known:
            assert inner in SHARED or inner.startswith("http")


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("hub._")])
def test_the_hubs_two_sides_have_only_its_words_in_common(module: str) -> None:
    """A client's rooms know nothing of the hub that they are in, nor it of them."""
    sides = {"hub._client", "hub._server"}
    reached = {
        side for name in imports(module, modules()[module]) for side in sides if side in name
    }
    assert not {side for side in reached if not module.startswith(side)}


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("protocol")])
def test_the_core_does_no_io(module: str) -> None:
    """Nothing in `protocol` imports a loop, a socket, a clock or randomness."""
    found = {name.partition(".")[0] for name in imports(module, modules()[module])}
    assert not found & IO


def test_extras_are_imported_where_they_are_used() -> None:
    """What is imported without an extra brings in no optional package."""
    optional = {"click", "rich", "httpx2", "opentelemetry", "coredis", "urwid", "jwt"}
    code = f"import trio_rt, trio_rt.hub, sys; print(sorted({optional!r} & set(sys.modules)))"
    import subprocess

    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"
