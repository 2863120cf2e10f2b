from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
import trio
import trustme

from trio_rt import Handshake, Message, Peer, RawPeer, serve
from trio_rt.testing import serve_relay

CAP_S = 30
COMMAND = [sys.executable, "-m", "trio_rt.cli", "connect"]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")


async def echo(peer: RawPeer) -> None:
    """A handler that sends everything back."""
    with peer.subscribe() as stream:
        async for item in stream:
            if isinstance(item, Message):
                await peer.send(item.payload)


async def echo_typed(peer: Peer) -> None:
    """A handler that sends everything back, with its type and priority."""
    with peer.subscribe() as stream:
        async for item in stream:
            if isinstance(item, Message):
                await peer.send(item.type, item.payload, priority=item.priority, key=item.key)


@asynccontextmanager
async def server(handler: Callable[[Any], Awaitable[None]], **options: Any) -> AsyncIterator[str]:
    """A server's URL."""
    options = {"codec": "raw"} | options
    with trio.fail_after(CAP_S):
        async with trio.open_nursery() as nursery:
            serving: Any = partial(serve, handler, "127.0.0.1", 0, **options)
            started = await nursery.start(serving)
            yield started.url
            nursery.cancel_scope.cancel()


async def client(*arguments: str, stdin: Any = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `trio-rt connect` to its end."""
    return await trio.run_process(
        [*COMMAND, *arguments],
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


@asynccontextmanager
async def open_client(*arguments: str, **streams: Any) -> AsyncIterator[trio.Process]:
    """A running `trio-rt connect`, killed at the end."""
    streams = {name: streams.get(name, subprocess.PIPE) for name in ("stdin", "stdout", "stderr")}
    process = await trio.lowlevel.open_process([*COMMAND, *arguments], **streams)
    try:
        yield process
    finally:
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()


async def read_until(stream: trio.abc.ReceiveStream | None, text: bytes) -> bytes:
    """What comes, up to and with `text`."""
    assert stream is not None
    seen = b""
    while text not in seen:
        data = await stream.receive_some()
        assert data, seen
        seen += data
    return seen


async def test_pipe() -> None:
    """Lines of a pipe are sent, the last without a newline too, and answers printed."""
    async with server(echo) as url:
        done = await client(url, stdin=b"hi\r\nthere \xc3\xa9")
    assert (done.returncode, done.stdout.decode()) == (0, "hi\nthere é\n")
    assert done.stderr.decode().splitlines() == [
        f"trio-rt: connecting to {url}/",
        f"trio-rt: connected to {url}/",
    ]


async def test_file(tmp_path: Path) -> None:
    """Input may be a regular file, which cannot be waited for."""
    path = tmp_path / "lines"
    path.write_bytes(b"x" * 100_000 + b"\n" + b"y\n")
    async with server(echo) as url:
        with path.open("rb") as file:
            done = await client("--quiet", url, stdin=file)
    assert (done.returncode, done.stdout) == (0, b"x" * 100_000 + b"\ny\n")
    assert done.stderr == b""


async def test_no_input() -> None:
    """Without input it still listens for a while."""

    async def greet(peer: RawPeer) -> None:
        await peer.deliver("hello")
        await peer.drain()

    async with server(greet) as url:
        done = await client(url, stdin=subprocess.DEVNULL)
    assert done.stdout.startswith(b"hello\n")
    assert done.returncode == 0


async def test_reconnects() -> None:
    """A cut link is dialled again; what happens is told, and later lines are sent."""
    async with server(echo) as url, trio.open_nursery() as nursery:
        relay = await nursery.start(serve_relay, "127.0.0.1", int(url.rpartition(":")[2]))
        async with open_client(f"ws://127.0.0.1:{relay.port}") as process:
            assert process.stdin is not None
            await process.stdin.send_all(b"one\n")
            await read_until(process.stdout, b"one\n")
            relay.rst()
            told = await read_until(process.stderr, b"next attempt in")
            assert b"the link was cut" in told
            await process.stdin.send_all(b"two\n")
            await process.stdin.aclose()
            await read_until(process.stdout, b"two\n")
            assert await process.wait() == 0
            assert b"messages may have been lost" in await read_until(process.stderr, b"lost here")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("url", ["http://example.org", "nonsense", "ws://"])
async def test_bad_url(url: str) -> None:
    """A bad URL is one line on standard error, and exit status 2."""
    with trio.fail_after(CAP_S):
        done = await client(url)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("trio-rt: url must ")


@pytest.mark.parametrize(
    "arguments",
    [("-H", "nonsense"), ("--wait", "nan"), ("--timeout", "0"), ("-H", "Upgrade: x")],
)
async def test_bad_option(arguments: tuple[str, str]) -> None:
    """A bad option ends with exit status 2 and without a traceback."""
    with trio.fail_after(CAP_S):
        done = await client("--timeout", "0.1", *arguments, "ws://127.0.0.1:1")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


async def test_refused() -> None:
    """A refused connection is given up after `--timeout`: one last line, exit status 1."""
    closed = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = closed.socket.getsockname()[1]
    await closed.aclose()
    with trio.fail_after(CAP_S):
        done = await client("--quiet", "--timeout", "0.1", f"ws://127.0.0.1:{port}", stdin=b"hi\n")
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("trio-rt: no lasting link after ")
    assert str(port) in line


async def test_type() -> None:
    """With `--type` lines are payloads, JSON or else text, and messages printed as JSON."""
    async with server(echo_typed, codec="json") as url:
        done = await client("--type", "note", url, stdin=b'{"a": [1]}\nplain text\n')
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(m["type"], m["payload"], m["priority"]) for m in shown] == [
        ("note", {"a": [1]}, "normal"),
        ("note", "plain text", "normal"),
    ]
    assert done.returncode == 0


async def test_envelope() -> None:
    """With `--envelope` lines are whole messages; bad ones are told and skipped."""
    lines = [
        b"nonsense",
        b'{"type": "a", "priority": "urgent"}',
        b'{"type": "a", "payload": 1, "priority": "high", "key": "k"}',
    ]
    async with server(echo_typed, codec="json") as url:
        done = await client("--quiet", "--envelope", url, stdin=b"\n".join(lines))
    (shown,) = map(json.loads, done.stdout.splitlines())
    assert (shown["type"], shown["payload"], shown["priority"], shown["key"]) == (
        "a",
        1,
        "high",
        "k",
    )
    assert done.returncode == 1
    told = done.stderr.decode().splitlines()
    assert told[0].startswith("trio-rt: line 1 is not sent: ")
    assert told[1] == "trio-rt: line 2 is not sent: no such priority: 'urgent'"
    assert len(told) == 2


async def test_malformed() -> None:
    """What is no envelope is told on standard error."""

    async def handler(peer: RawPeer) -> None:
        await peer.deliver("nonsense")
        await echo(peer)

    async with server(handler) as url:
        done = await client("--quiet", "--envelope", url)
    assert done.stdout == b""
    assert done.stderr.startswith(b"trio-rt: no message: ")


async def test_bad_lines() -> None:
    """A line that is no UTF-8 or too long is told, and the exit status is 1."""
    async with server(echo) as url:
        done = await client("--quiet", url, stdin=b"\xff\nfine\n" + b"x" * 2_000_000)
    assert done.returncode == 1
    assert done.stdout == b"fine\n"
    assert done.stderr.decode().splitlines() == [
        "trio-rt: line 1 is not sent: no UTF-8",
        "trio-rt: a line is longer than 1048576 bytes",
    ]


async def test_binary() -> None:
    """A binary message is printed as hexadecimal digits."""

    async def handler(peer: RawPeer) -> None:
        await peer.deliver(b"\x00\xff")
        await echo(peer)

    async with server(handler) as url:
        done = await client(url)
    assert done.stdout == b"0x00ff\n"


async def test_headers_and_protocols() -> None:
    """`--header` and `--protocol` reach the server."""
    seen: list[Handshake] = []

    async def accept(handshake: Handshake) -> None:
        seen.append(handshake)
        await trio.lowlevel.checkpoint()

    async with server(echo, accept=accept, protocols=["b"]) as url:
        done = await client(
            "-H", "X-One: 1:2", "--header", "X-Two:2", "--protocol", "a", "--protocol", "b", url
        )
    assert done.returncode == 0
    (handshake,) = seen
    assert (handshake.headers["x-one"], handshake.headers["x-two"]) == ("1:2", "2")
    assert [name for name in handshake.protocols if len(name) == 1] == ["a", "b"]


async def test_insecure() -> None:
    """An unknown certificate is refused, but for `--insecure`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with server(echo, ssl_context=context) as url:
        refused = await client("--quiet", url, stdin=b"hi\n")
        done = await client("--insecure", url, stdin=b"hi\n")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"certificate" in refused.stderr
    assert b"Traceback" not in refused.stderr
    assert (done.returncode, done.stdout) == (0, b"hi\n")


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals(number: signal.Signals) -> None:
    """SIGINT and SIGTERM end it at once, with 128 and the signal, and no traceback."""
    async with server(echo) as url, open_client(url) as process:
        await read_until(process.stderr, b"connected to")
        process.send_signal(number)
        assert await process.wait() == 128 + number
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.receive_some()


async def test_wait() -> None:
    """`--wait inf` goes on listening after the end of the input."""
    ended = trio.Event()

    async def handler(peer: RawPeer) -> None:
        with peer.subscribe() as stream:
            await stream.receive()
            await ended.wait()
            await peer.deliver("late")
            await trio.sleep_forever()

    async with server(handler) as url, open_client("--wait", "inf", url) as process:
        assert process.stdin is not None
        await process.stdin.send_all(b"last\n")
        await process.stdin.aclose()
        ended.set()
        assert await read_until(process.stdout, b"late\n") == b"late\n"
        assert process.returncode is None


async def test_closed_output() -> None:
    """When nobody reads the output any more it stops, with exit status 0."""

    async def chatter(peer: RawPeer) -> None:
        try:
            while True:
                await peer.send("x" * 1000)
        except trio.ClosedResourceError:
            pass

    async with server(chatter) as url, open_client(url) as process:
        await read_until(process.stdout, b"x\n")
        assert process.stdout is not None
        await process.stdout.aclose()
        assert await process.wait() == 0
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.receive_some()


HOSTILE = "\x1b]0;title\x07\x9b2J\u202eline\nbreak"


@POSIX
async def test_terminal() -> None:
    """On a terminal, control characters of a message come out escaped."""
    ours, theirs = os.openpty()

    async def handler(peer: RawPeer) -> None:
        await peer.deliver(HOSTILE)
        await echo(peer)

    async with server(handler) as url, open_client(url, stdout=theirs) as process:
        os.close(theirs)
        async with trio.lowlevel.FdStream(ours) as terminal:
            shown = await read_until(terminal, b"\n")
        assert process.stdin is not None
    assert shown.decode() == "\\x1b]0;title\\x07\\x9b2J\\u202eline\\nbreak\r\n"


async def test_pipe_gets_text_as_it_is() -> None:
    """Into a pipe, a message goes unchanged."""

    async def handler(peer: RawPeer) -> None:
        await peer.deliver(HOSTILE)
        await echo(peer)

    async with server(handler) as url:
        done = await client(url)
    assert done.stdout.decode() == HOSTILE + "\n"


async def test_causes_are_escaped() -> None:
    """A server's reason to close cannot send escape sequences to standard error."""

    async def handler(peer: RawPeer) -> None:
        peer.close(4000, "\x1b[2J")
        await trio.sleep_forever()

    async with server(handler) as url, open_client(url) as process:
        told = await read_until(process.stderr, b"next attempt")
    assert b"\\x1b[2J" in told
    assert b"\x1b" not in told


@pytest.fixture
def full_device() -> Iterator[IO[bytes]]:
    """A file that takes nothing."""
    try:
        file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        pytest.skip("needs /dev/full")
    with file:
        yield file


async def test_full_output(full_device: IO[bytes]) -> None:
    """Output that cannot be written is told, with exit status 1."""
    async with server(echo) as url, open_client("-q", url, stdout=full_device) as process:
        assert process.stdin is not None
        await process.stdin.send_all(b"hi\n")
        told = await read_until(process.stderr, b"\n")
        assert told.startswith(b"trio-rt: cannot write: ")
        assert await process.wait() == 1
