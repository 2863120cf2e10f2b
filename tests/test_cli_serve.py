from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import pytest
import trio
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.trio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

import trio_rt
from trio_rt.cli._door import BadFile, read_token, read_tokens
from trio_rt.cli._logs import HIDDEN, Lines, LineWriter, Redactor, open_logs
from trio_rt.cli._serve_command import serve
from trio_rt.cli._stores import store_of
from trio_rt.cli._watch import Attendant
from trio_rt.cli.serve import _explain
from trio_rt.errors import OptionError
from trio_rt.hub import HubLimits, LogLimits, Who, open_hub
from trio_rt.options import ServerLimits

from .hub.redis_server import Server as Valkey

CAP_S: Final = 30
COMMAND: Final = [sys.executable, "-m", "trio_rt.cli", "serve"]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

ANNA: Final = "canary-of-anna-0123456789"
BERT: Final = "canary-of-bert-0123456789"
WRONG: Final = "canary-of-nobody-0123456789"
PLAIN: Final = Subprotocol("trio-rt.plain")


@attrs.define
class Served:
    """A running `trio-rt serve`."""

    process: trio.Process
    url: str
    port: int
    #: What it has written to standard error, as it comes.
    errors: bytearray
    more: trio.Event = attrs.field(factory=trio.Event)

    def records(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.errors.decode().splitlines()]

    def events(self) -> list[str]:
        return [record["event"] for record in self.records() if "event" in record]

    async def logged(self, event: str) -> dict[str, Any]:
        """The first record of a kind."""
        while self.errors[-1:] != b"\n" or event not in self.events():
            await self.more.wait()
        return next(record for record in self.records() if record.get("event") == event)

    async def status(self) -> int:
        """Its exit status, when all of its log is there."""
        status = await self.process.wait()
        while not self.errors.endswith(b"\0"):
            await self.more.wait()
        del self.errors[-1:]
        return status

    async def get(self, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{self.port}{path}", **options)

    async def refused(self, **options: Any) -> int:
        """The status with which a handshake is refused; 101 if it is not."""
        try:
            async with connect(self.url, **options):
                return 101
        except InvalidStatus as refusal:
            return refusal.response.status_code


@asynccontextmanager
async def serving(*arguments: str, **environment: str) -> AsyncIterator[Served]:
    """The command on a free port; killed at the end."""
    with trio.fail_after(CAP_S):
        process = await trio.lowlevel.open_process(
            [*COMMAND, "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        line = b""
        while not line.endswith(b"\n"):
            data = await process.stdout.receive_some()
            assert data, await process.stderr.receive_some()
            line += data
        url = line.decode().splitlines()[0].removeprefix("trio-rt: listening on ")
        served = Served(process, url, int(url.rpartition(":")[2].partition("/")[0]), bytearray())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_collect, process.stderr, served)
            try:
                yield served
            finally:
                nursery.cancel_scope.cancel()
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                    await process.stdout.aclose()
                    await process.stderr.aclose()


async def _collect(stream: trio.abc.ReceiveStream, served: Served) -> None:
    async for data in stream:
        served.errors += data
        served.more.set()
        served.more = trio.Event()
    served.errors += b"\0"
    served.more.set()


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """Run it to an end that it finds by itself: the exit status, and the lines of the log."""

    def run(*arguments: str) -> tuple[int, list[str]]:
        done = CliRunner().invoke(serve, ["--port", "0", *arguments])
        assert done.output == ""
        assert done.exit_code == 0 or isinstance(done.exception, SystemExit)
        output, errors = capfd.readouterr()
        assert output == ""
        return done.exit_code, errors.splitlines()

    return run


Command = Callable[..., tuple[int, list[str]]]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def say(client: ClientConnection, type: str, **payload: Any) -> dict[str, Any]:
    """Send a command; the answer."""
    await client.send(json.dumps({"id": "1", "type": type, "payload": payload}))
    while True:
        message: dict[str, Any] = json.loads(await client.recv())
        if message["payload"].get("re") == "1":
            return message


async def said(client: ClientConnection) -> list[Any]:
    """What the log of the lobby has."""
    page = await say(client, "hub.history", room="lobby")
    return [item["payload"] for item in page["payload"]["items"]]


async def heard(client: ClientConnection, kind: str = "message") -> dict[str, Any]:
    """The next event of a kind."""
    while True:
        message = json.loads(await client.recv())
        if message["payload"]["kind"] == kind:
            payload: dict[str, Any] = message["payload"]
            return payload


async def closed(client: ClientConnection) -> tuple[int, str]:
    """The code and reason with which the server closes it."""
    close = None
    while close is None:
        try:
            await client.recv()
        except ConnectionClosed as end:
            close = end.rcvd
            if close is None:
                raise
    return close.code, close.reason


@POSIX
async def test_from_start_to_stop() -> None:
    """It says where it listens, serves rooms and pages, and at SIGTERM ends well."""
    async with serving("--history", "2") as served:
        assert served.url == f"ws://127.0.0.1:{served.port}/ws"
        assert [(await served.get(path)).status_code for path in ("/healthz", "/readyz")] == [
            200,
            200,
        ]
        assert (await served.get("/ws")).status_code == 404
        async with connect(served.url) as one, connect(served.url) as other:
            for client in (one, other):
                assert (await say(client, "hub.join", room="lobby"))["payload"]["kind"] == "done"
            await say(one, "hub.publish", room="lobby", payload="hi")
            assert "hi" in json.dumps(await heard(other))
            for number in range(3):
                await say(other, "hub.publish", room="lobby", payload=number)
            assert await said(one) == [1, 2]
            numbers = (await served.get("/metrics")).text
            assert "\ntrio_rt_peers 2.0\n" in numbers.replace(" 2\n", " 2.0\n")
            assert "\ntrio_rt_published_total 4\n" in numbers
            served.process.send_signal(signal.SIGTERM)
            for client in (one, other):
                code, reason = await closed(client)
                assert code == 1012
                assert reason.startswith("retry-after=")
        assert await served.status() == 0
    events = served.events()
    assert events == ["started", "opened", "opened", "draining", "closed", "closed", "stopped"]
    for record in served.records():
        assert list(record)[:4] == ["time", "level", "logger", "message"]
    opened = served.records()[1]
    assert opened["peer"] == "127.0.0.1"
    assert opened["user"].startswith("guest-")


@POSIX
async def test_not_ready_while_it_drains() -> None:
    """From the signal on nobody new is taken, while those who are there are still closed."""
    async with serving("--drain", "20") as served:
        mute = await trio.open_tcp_stream("127.0.0.1", served.port)
        asking = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with mute, asking:
            await asking.send_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n")
            await shake_hands(mute)
            await served.logged("opened")
            served.process.send_signal(signal.SIGINT)
            await served.logged("draining")
            await asking.send_all(b"\r\n")
            answer = b"".join([data async for data in asking])
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert answer.endswith(b"\r\n\r\nthe server is draining\n")
            with pytest.raises(httpx.TransportError):
                await served.get("/readyz")
        assert await served.status() == 0


async def shake_hands(stream: trio.abc.Stream) -> None:
    """Become a WebSocket client that never answers anything."""
    await stream.send_all(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 101 ")


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal(number: signal.Signals) -> None:
    """A second signal ends it at once, whoever is still there: 128 and the signal."""
    async with serving("--drain", "3600") as served:
        mute = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with mute:
            await shake_hands(mute)
            await served.logged("opened")
            served.process.send_signal(signal.SIGTERM)
            await served.logged("draining")
            served.process.send_signal(number)
            assert await served.status() == 128 + number
    assert served.records()[-3]["left"] == 1
    assert served.events()[-3:] == ["cut", "closed", "stopped"]


@POSIX
async def test_budget_is_over() -> None:
    """What is left when the budget is over is cut, and the exit status is still 0."""
    async with (
        serving("--drain", "0.2") as served,
        await trio.open_tcp_stream("127.0.0.1", served.port) as mute,
    ):
        await shake_hands(mute)
        await served.logged("opened")
        served.process.send_signal(signal.SIGTERM)
        assert await served.status() == 0
    (cut,) = [record for record in served.records() if record.get("event") == "cut"]
    assert (cut["left"], cut["message"]) == (1, "the budget is over")


@POSIX
async def test_two_hundred_connections() -> None:
    """A drain closes each of 200 with 1012, spread, and ends when the last is gone."""
    closes: list[tuple[int, str]] = []
    async with serving("--drain", "3") as served, trio.open_nursery() as nursery:

        async def stay(task_status: Any) -> None:
            async with connect(served.url, compression=None) as client:
                task_status.started()
                closes.append(await closed(client))

        for _ in range(200):
            await nursery.start(stay)
        served.process.send_signal(signal.SIGTERM)
        assert await served.status() == 0
    assert [code for code, _ in closes] == [1012] * 200
    assert len(set(closes)) > 8
    assert served.events().count("closed") == 200


def test_port_in_use(command: Command) -> None:
    """A port that is taken is one line, and exit status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, (line,) = command("--port", str(port), "--log", "text")
    assert f"cannot listen on 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}" in line
    assert status == 1


def test_address_of_another_machine(command: Command) -> None:
    """So is an address that is none of this machine's."""
    status, (line,) = command("--host", "192.0.2.1", "--anonymous")
    assert "cannot listen on 192.0.2.1:0: " in json.loads(line)["message"]
    assert status == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_open_to_the_world(command: Command, host: str) -> None:
    """Without tokens, and without --anonymous, it listens on loopback only."""
    status, (line,) = command("--host", host)
    assert "see --token-file and --anonymous" in json.loads(line)["message"]
    assert status == 2


@POSIX
def test_open_files(command: Command) -> None:
    """It lets itself have as many open files as it may need, if the system does."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
        command("--host", "192.0.2.1", "--anonymous", "--max-connections", "400")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500
        command("--host", "192.0.2.1", "--anonymous", "--max-connections", "600")
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (664, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@POSIX
async def test_too_few_open_files() -> None:
    """If the system does not, it says so."""
    line = " ".join([*COMMAND, "--host", "192.0.2.1", "--anonymous", "--port", "0"])
    with trio.fail_after(CAP_S):
        done = await trio.run_process(
            ["sh", "-c", f"ulimit -n 300; exec {line}"], capture_stderr=True, check=False
        )
    assert done.returncode == 1
    limits, _ = map(json.loads, done.stderr.splitlines())
    assert (limits["event"], limits["level"]) == ("limits", "warning")
    assert "open files, 300, is too low" in limits["message"]


async def test_programs_on_this_machine_only() -> None:
    """Without tokens a page of a foreign name, or what came by a proxy, is refused."""
    async with serving() as served:
        assert await served.refused() == 101
        assert await served.refused(additional_headers={"X-Forwarded-For": "127.0.0.1"}) == 403
        foreign = await trio.open_tcp_stream("127.0.0.1", served.port)
        uri = f"ws://evil.example:{served.port}/ws"
        with pytest.raises(InvalidStatus):
            async with connect(
                uri, stream=foreign, origin=Origin(f"http://evil.example:{served.port}")
            ):
                pass


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# token user device\n\n{ANNA} anna phone\n{BERT}\tbert\n")
    return path


async def test_tokens(token_file: Path) -> None:
    """A token is shown as a Bearer or as a subprotocol, and nowhere else; none of it is logged."""
    shown = Subprotocol(f"trio-rt.token.{BERT}")
    async with serving(
        "--token-file", str(token_file), "--log-level", "debug", "--host", "0.0.0.0"
    ) as served:
        async with connect(served.url, additional_headers=bearer(ANNA)) as one:
            await say(one, "hub.join", room="lobby")
            async with connect(served.url, subprotocols=[shown, PLAIN]) as other:
                assert other.subprotocol == PLAIN
                assert other.response is not None
                assert BERT not in str(other.response.headers)
                await say(other, "hub.join", room="lobby")
                members = await say(other, "hub.members", room="lobby")
                assert "anna" in json.dumps(members)
        wrong: list[dict[str, Any]] = [
            {},
            {"additional_headers": bearer(WRONG)},
            {"additional_headers": {"Authorization": f"Basic {ANNA}"}},
            {"additional_headers": {"Authorization": ANNA}},
            {"additional_headers": {"Cookie": f"token={ANNA}"}},
            {"subprotocols": [Subprotocol(f"trio-rt.token.{WRONG}"), PLAIN]},
            {"additional_headers": bearer(ANNA), "subprotocols": [shown]},
            {"additional_headers": bearer(ANNA), "subprotocols": ["trio-rt.token.x"]},
        ]
        for options in wrong:
            assert await served.refused(**options) == 401, options
        served.url += f"?token={ANNA}&access_token={ANNA}"
        assert await served.refused() == 401
        assert (await served.get("/metrics", headers=bearer(ANNA))).status_code == 200
        served.process.terminate()
        assert await served.status() == 0
    users = [record["user"] for record in served.records() if record.get("event") == "opened"]
    assert users == ["anna", "bert"]
    assert served.events().count("refused") == len(wrong) + 1
    assert b"canary" not in served.errors


async def test_guests_beside_users(token_file: Path) -> None:
    """With --anonymous who shows no token is a guest; who shows a wrong one is refused."""
    async with serving("--token-file", str(token_file), "--anonymous") as served:
        assert await served.refused(additional_headers={"Authorization": "Basic eDp5"}) == 101
        assert await served.refused(additional_headers=bearer(WRONG)) == 401
        assert await served.refused(additional_headers=bearer(BERT)) == 101
        served.process.terminate()
        assert await served.status() == 0
    users = [record["user"] for record in served.records() if record.get("event") == "opened"]
    assert users[0].startswith("guest-")
    assert users[1:] == ["bert"]


async def test_too_many_connections() -> None:
    """Who is one too many is told so; options may come from the environment."""
    environment = {"TRIO_RT_SERVE_MAX_CONNECTIONS": "3", "TRIO_RT_SERVE_LOG": "text"}
    async with serving("--max-connections-per-address", "2", **environment) as served:
        async with connect(served.url), connect(served.url):
            assert await served.refused() == 503
        while b"event=refused" not in served.errors:
            await served.more.wait()
    assert (
        b" info     127.0.0.1: too many connections event=refused peer=127.0.0.1\n" in served.errors
    )


async def test_origins_limits_pages_and_metrics(tmp_path: Path) -> None:
    """Options come to where they count."""
    (tmp_path / "index.html").write_text("<p>hello")
    (tmp_path / "secret").write_text(f"{WRONG}\n")
    async with serving(
        *("--origin", "https://a.example", "--origin", "https://b.example"),
        *("--static", str(tmp_path), "--rate", "1", "--rooms-per-peer", "1"),
        *("--metrics-token-file", str(tmp_path / "secret"), "--path", "/rooms"),
        *("--broker", f"sqlite:{tmp_path / WRONG}.db"),
    ) as served:
        assert served.url.endswith("/rooms")
        assert (await served.get("/")).text == "<p>hello"
        for origin, status in (("https://b.example", 101), ("https://c.example", 403)):
            assert await served.refused(origin=Origin(origin)) == status
        own = Origin(f"http://127.0.0.1:{served.port}")
        assert await served.refused(origin=own) == 101
        assert (await served.get("/metrics")).status_code == 404
        async with connect(served.url) as client:
            await say(client, "hub.join", room="one")
            answers = [(await say(client, "hub.join", room="two"))["payload"]["code"]]
            answers += [(await say(client, "hub.leave", room="one"))["payload"]["code"]]
            assert answers == ["too_many_rooms", "too_fast"]
            assert HIDDEN in served.records()[0]["broker"]
            numbers = (await served.get("/metrics", headers=bearer(WRONG))).text
            assert 'trio_rt_refusals_total{code="too_many_rooms"} 1\n' in numbers
    assert WRONG.encode() not in served.errors


async def test_history_in_a_file(tmp_path: Path) -> None:
    """With sqlite the rooms outlive the process, within --history."""
    options = ("--broker", f"sqlite:{tmp_path / 'rooms.db'}", "--history", "2")
    async with serving(*options) as served:
        assert (await served.get("/readyz")).status_code == 200
        async with connect(served.url) as client:
            await say(client, "hub.join", room="lobby")
            for number in range(3):
                await say(client, "hub.publish", room="lobby", payload=number)
        served.process.terminate()
        assert await served.status() == 0
    async with serving(*options) as served, connect(served.url) as client:
        assert await said(client) == [1, 2]


def test_file_of_another_program(command: Command, tmp_path: Path) -> None:
    """A file that is no store is a bad option, and is left alone."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    before = path.read_bytes()
    status, (line,) = command("--broker", f"sqlite:{path}")
    assert "must be new, or a file of this store" in json.loads(line)["message"]
    assert status == 2
    assert path.read_bytes() == before


async def test_broker_that_is_not_there() -> None:
    """It starts without its store, says so and why, and shows no password."""
    pytest.importorskip("coredis")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = f"redis://canary-user:canary-p%40ss@127.0.0.1:{port}/0"
    async with serving("--log-level", "debug", TRIO_RT_SERVE_BROKER=url) as served:
        await served.logged("broker_down")
        ready = await served.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "the broker is down\n")
        assert (await served.get("/healthz")).status_code == 200
        assert "\ntrio_rt_broker_up 0\n" in (await served.get("/metrics")).text
        async with connect(served.url) as client:
            joined = await say(client, "hub.join", room="lobby")
            assert joined["payload"]["code"] == "unavailable"
        served.process.terminate()
        assert await served.status() == 0
        assert (await served.logged("started"))["broker"] == "redis"
    reason = f"the store cannot be used: no link to 127.0.0.1:{port}: "
    assert any(record["message"].startswith(reason) for record in served.records())
    assert b"canary" not in served.errors


async def test_two_servers_on_one_store(tmp_path: Path) -> None:
    """What is said at one server is heard at another that has the same store."""
    pytest.importorskip("coredis")
    store = Valkey("valkey", tmp_path)
    store.start()
    try:
        async with (
            serving("--broker", store.url, "--history", "1") as first,
            serving("--broker", store.url, "--history", "1") as second,
            connect(first.url) as one,
            connect(second.url) as other,
        ):
            for client in (one, other):
                await say(client, "hub.join", room="lobby")
            await say(one, "hub.publish", room="lobby", payload="over the store")
            assert "over the store" in json.dumps(await heard(other))
            await say(one, "hub.publish", room="lobby", payload="the last")
            assert await said(other) == ["the last"]
            store.kill()
            await second.logged("broker_down")
            assert (await second.get("/readyz")).status_code == 503
            store.start()
            await second.logged("broker_up")
            assert (await second.get("/readyz")).status_code == 200
    finally:
        store.kill()


async def test_lagging() -> None:
    """Who does not keep up is told of in the log."""
    async with (
        serving("--rate", "100000") as served,
        connect(served.url, compression=None) as loud,
        connect(served.url, compression=None, max_queue=1) as slow,
    ):
        for client in (loud, slow):
            await say(client, "hub.join", room="lobby")
        text = json.dumps(
            {"type": "hub.publish"}
            | {
                "payload": {
                    "room": "lobby",
                    "to": "others",
                    "store": False,
                    "payload": "x" * 60_000,
                }
            }
        )
        while "lagging" not in served.events():
            await loud.send(text)
        told = await served.logged("lagging")
        assert (told["level"], told["count"], told["now"]) == ("warning", 1, 1)
        served.process.terminate()
        assert (await closed(slow))[0] == 1012


async def test_attendant() -> None:
    """It keeps nothing of who is gone."""
    attendant = Attendant()
    with trio.fail_after(CAP_S):
        async with open_hub(rules=attendant) as hub, trio.open_nursery() as nursery:
            attendant.hub = hub
            running: Any = partial(trio_rt.serve, attendant, "127.0.0.1", 0)
            server: trio_rt.Server = await nursery.start(running)
            async with connect(server.url) as client:
                await say(client, "hub.join", room="lobby")
                assert len(attendant._users) == 1
            await server.drain(0)
            assert attendant._users == {}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `chain` (key and certificate), `key` and `cert`, and `ca`."""
    path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(str(path / "chain"))
    own.private_key_pem.write_to_path(str(path / "key"))
    own.cert_chain_pems[0].write_to_path(str(path / "cert"))
    authority.cert_pem.write_to_path(str(path / "ca"))
    key = load_pem_private_key(own.private_key_pem.bytes(), None)
    (path / "locked").write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"canary")
        )
    )
    return path


async def test_tls(certificates: Path) -> None:
    """With a certificate everything on the port is TLS."""
    context = ssl.create_default_context(cafile=certificates / "ca")
    files = ("--cert", str(certificates / "cert"), "--key", str(certificates / "key"))
    async with serving(*files) as served:
        assert served.url.startswith("wss://127.0.0.1:")
        async with connect(served.url, ssl=context) as client:
            await say(client, "hub.join", room="lobby")
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            answer = await client.get(f"https://127.0.0.1:{served.port}/readyz")
            assert answer.text == "ok\n"


def test_bad_certificate(command: Command, certificates: Path) -> None:
    """A certificate or key that cannot be used is one line, and exit status 1."""
    status, (line,) = command("--cert", str(certificates / "ca"), "--log", "text")
    assert "cannot be used: " in line
    assert status == 1
    files = ("--cert", str(certificates / "cert"), "--key", str(certificates / "locked"))
    status, (line,) = command(*files, "--log", "text")
    assert line.endswith("is encrypted event=failed")
    assert status == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--broker", "canary://user:canary@host"),
        ("--broker", "sqlite:"),
        ("--key", __file__),
        ("--token-file", "/nowhere/at/all"),
        ("--history", "0"),
        ("--drain", "nan"),
        ("--drain", "inf"),
        ("--rate", "0"),
        ("--rate", "nan"),
        ("--port", "65536"),
        ("--log", "xml"),
    ],
)
def test_bad_options(arguments: tuple[str, ...]) -> None:
    """A bad option ends with exit status 2; what it shows is no secret."""
    done = CliRunner().invoke(serve, arguments)
    assert done.exit_code == 2
    assert "canary" not in done.output


@pytest.mark.parametrize(
    "arguments",
    [("--origin", "nonsense"), ("--origin", "HTTP://A"), ("--path", "rooms"), ("--path", "/a?b")],
)
def test_options_found_bad_later(command: Command, arguments: tuple[str, ...]) -> None:
    """Those that only the server judges are one line and exit status 2, too."""
    status, (line,) = command(*arguments)
    assert status == 2
    assert json.loads(line)["level"] == "critical"


def test_names_in_the_environment() -> None:
    """Each option comes from the environment by its own name."""
    for option in serve.params:
        assert option.opts == [f"--{str(option.name).replace('_', '-')}"]


def test_help_tells_the_defaults() -> None:
    """The defaults that the help tells are those of the limits."""
    helps = {option.name: str(getattr(option, "help", "")) for option in serve.params}
    told = {name: help.partition("[default: ")[2].rstrip("]") for name, help in helps.items()}
    log, server, hub = LogLimits(), ServerLimits(), HubLimits()
    assert float(told["history"]) == log.messages
    assert float(told["history_bytes"]) == log.total_bytes
    assert float(told["keep"]) == log.keep_s
    assert float(told["max_connections"]) == server.connections
    assert float(told["rooms_per_peer"]) == hub.rooms_per_peer
    assert float(told["rate"]) == hub.rate_per_s


# The tokens


def test_reading_tokens(token_file: Path) -> None:
    """A file of tokens gives users, by what is no token any more."""
    users = read_tokens(token_file)
    assert list(users.values()) == [Who("anna", "phone"), Who("bert")]
    assert all(len(digest) == 32 for digest in users)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "there is no token in it"),
        ("# only a comment\n", "there is no token in it"),
        (f"{ANNA}\n", "line 1: must be: token user [device]"),
        (f"{ANNA} anna phone more\n", "line 1: must be: token user [device]"),
        (f"\n{ANNA} anna\n{ANNA} bert\n", "line 3: this token was there before"),
        ("canary anna\n", "line 1: a token must have"),
        ("canary/of/slashes/0123 anna\n", "line 1: a token must have"),
        (f"{ANNA} {'canary' * 40}\n", "line 1: the user cannot be a name"),
        (f"{ANNA} anna {'canary' * 40}\n", "line 1: the device cannot be a name"),
        ("\udcff", "it is no UTF-8"),
    ],
)
def test_bad_token_files(tmp_path: Path, content: str, why: str) -> None:
    """A file that cannot be used is told by its line, and not by what is on it."""
    path = tmp_path / "tokens"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadFile) as caught:
        read_tokens(path)
    text = str(caught.value).removeprefix(str(path))
    assert why in text
    assert "canary" not in text


@pytest.mark.parametrize("content", ["", "short\n", f"{ANNA}\n{BERT}\n", "canary with spaces\n"])
def test_bad_file_of_one_token(tmp_path: Path, content: str) -> None:
    """It has one token, on one line."""
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(BadFile) as caught:
        read_token(path)
    assert "canary" not in str(caught.value).removeprefix(str(path))


def test_stores() -> None:
    """Where rooms live is shown without what is secret of it."""
    store = store_of("redis://me:canary%40x@host:1/2")
    assert str(store) == "redis"
    assert "canary" not in repr(store)
    assert set(store.secrets) == {"redis://me:canary%40x@host:1/2", "canary%40x", "canary@x"}
    assert store_of("rediss://host").secrets == ()
    assert (str(store_of("sqlite:/a/b")), str(store_of("memory"))) == ("sqlite:/a/b", "memory")
    with pytest.raises(OptionError, match="must be memory, sqlite:PATH"):
        store_of("memory:")


# The log


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://me:canary@host/0 failed", f"redis://{HIDDEN}@host/0 failed"),
        ("http://canary@host", f"http://{HIDDEN}@host"),
        ("http://host/a@b", "http://host/a@b"),
        ("Authorization: Bearer canary, x", f"Authorization: Bearer {HIDDEN}, x"),
        ("authorization: basic canary=", f"authorization: basic {HIDDEN}"),
        ("trio-rt.token.canary, trio-rt.plain", f"trio-rt.token.{HIDDEN}, trio-rt.plain"),
        ("/ws?token=canary&room=1", f"/ws?token={HIDDEN}&room=1"),
        ("access_token=canary password=canary", f"access_token={HIDDEN} password={HIDDEN}"),
        ("my known-secret here", f"my {HIDDEN} here"),
        ("a broken token", "a broken token"),
        ("x" * 20_000, "x" * 16_000 + "..."),
    ],
)
def test_secrets(text: str, shown: str) -> None:
    """What is known to be secret, or looks so, is taken out."""
    assert Redactor(["known", "known-secret", ""])(text) == shown


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("trio_rt.x", logging.WARNING, "", 0, message, args, None)
    made.created = 1_000_000_000.25
    vars(made).update(more)
    return made


def test_json_lines() -> None:
    """A record is one line of JSON: its fields cannot take the place of what each has."""
    lines = Lines(Redactor(["canary"]), as_json=True)
    fields = {"event": "x", "user": "a\ncanary", "count": 3, "level": "mine", "who": None}
    text = lines.format(record("%s\n%d", "canary", 7, fields=fields))
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "2001-09-09T01:46:40.250Z",
        "level": "warning",
        "logger": "trio_rt.x",
        "message": f"{HIDDEN}\n7",
        "event": "x",
        "user": f"a\n{HIDDEN}",
        "count": 3,
        "who": "None",
    }


def test_text_lines() -> None:
    """As text a record is one line, whatever is in it, and its traceback is indented."""
    lines = Lines(Redactor(["canary"]), as_json=False)
    try:
        raise ValueError("canary\x1b[2J")
    except ValueError:
        info = sys.exc_info()
    text = lines.format(record("a\nb", fields={"user": "c\nd"}, exc_info=info))
    head, *trace = text.split("\n")
    assert head == "2001-09-09T01:46:40.250Z warning  a\\nb user=c\\nd"
    assert all(line.startswith("    ") for line in trace)
    assert trace[-1] == f"    ValueError: {HIDDEN}\\x1b[2J"


def test_records_of_the_library() -> None:
    """Its records about a peer have the address as a field; refusals say that they are some."""
    lines = Lines(Redactor(), as_json=True)
    refused = json.loads(lines.format(record("%s: refused with %d (%s)", "::1", 401, "why")))
    assert (refused["event"], refused["peer"]) == ("refused", "::1")
    failed = json.loads(lines.format(record("%s: the handler failed", None)))
    assert (failed["peer"], "event" in failed) == ("None", False)


def test_faults(capfd: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw is told with its traceback, without secrets; also beside bad options."""
    fault = ValueError("Bearer canary")
    bad = OptionError("option", "must not be", 1)
    with open_logs("warning", Redactor(), as_json=True), warnings.catch_warnings():
        assert _explain(ExceptionGroup("all", [bad, ExceptionGroup("some", [fault])])) == 1
        assert _explain(ExceptionGroup("all", [bad])) == 2
        warnings.simplefilter("always")
        warnings.warn("of Python", UserWarning, stacklevel=1)
        logging.getLogger("elsewhere").info("not for us")
        logging.getLogger("coredis").error("Connection attempt failed unexpectedly!")
    told, usage, warning = map(json.loads, capfd.readouterr().err.splitlines())
    assert told["message"] == "the server failed"
    assert f"ValueError: Bearer {HIDDEN}" in told["exception"]
    assert usage["message"] == "option must not be, not 1"
    assert "of Python" in warning["message"]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@POSIX
def test_a_log_that_nobody_reads(pipe: tuple[int, int]) -> None:
    """A full pipe holds up nobody: lines are lost, and counted when there is room again."""
    reads, writes = pipe
    os.set_blocking(writes, False)
    filled = os.write(writes, b"-" * (1 << 20))
    os.set_blocking(writes, True)
    writer = LineWriter(writes, most=3)
    writer.setFormatter(Lines(Redactor(), as_json=True))
    for _ in range(50):
        writer.emit(record("x"))
    seen = b""
    while seen.count(b"\n") < 3:
        seen += os.read(reads, 1 << 20)
    for text in ("y", "z"):
        writer.emit(record(text))
    writer.close()
    seen += os.read(reads, 1 << 20)
    messages = [json.loads(line)["message"] for line in seen[filled:].splitlines()]
    lost = [int(text.split()[0]) for text in messages if text.endswith(" reads it fast enough")]
    assert sum(lost) + messages.count("x") == 50
    assert messages.count("x") <= 10
    assert messages[-2:] == ["y", "z"]
    assert len(messages) == messages.count("x") + len(lost) + 2


@POSIX
def test_a_log_whose_reader_is_gone(pipe: tuple[int, int]) -> None:
    """A reader that is gone is no error, and the end does not wait for it."""
    reads, writes = pipe
    other = os.dup(writes)
    gone = os.dup(reads)
    os.close(gone)
    writer = LineWriter(other)
    writer.setFormatter(Lines(Redactor(), as_json=True))
    os.close(other)
    writer.emit(record("x"))
    writer.emit(record("%d", "no number"))
    writer.close()
    assert not writer._thread.is_alive()
