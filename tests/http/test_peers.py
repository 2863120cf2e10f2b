"""The client against servers that others wrote, and against ones that misbehave."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from trio_rt.errors import BodyTooLarge, CallTimeout
from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._open import open_client

from .peers import answer, authority, both, certified, drip, open_peer, raw, serve, stall, trusting

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
TEXT = b"a line that is packed well\n" * 2000

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

CONF = """
daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; default_type text/plain;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{
    listen 127.0.0.1:{port}; root {dir}/www; keepalive_timeout 60;
    location /packed {{ gzip on; gzip_min_length 1; gzip_types text/plain; }}
    location = /echo {{ client_max_body_size 1m; return 200 $request_method; }}
    location = /conn {{ return 200 $connection.$connection_requests; }}
    location = /away {{ return 301 http://127.0.0.1:{port}/text; }}
  }}
  server {{
    listen 127.0.0.1:{tls_port} ssl; root {dir}/www;
    ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
  }}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def wait_listening(port: int) -> None:
    with trio.fail_after(10):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.01)
            else:
                await stream.aclose()
                return


@asynccontextmanager
async def running(command: list[str], port: int, **options: Any) -> AsyncIterator[None]:
    """A server in processes of its own, all of which are ended."""
    process = await trio.lowlevel.open_process(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )
    try:
        await wait_listening(port)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def open_nginx(path: Path) -> AsyncIterator[tuple[str, str]]:
    """Its URL by http and by https."""
    assert NGINX is not None
    port, tls_port = free_port(), free_port()
    (path / "www" / "packed").mkdir(parents=True)
    (path / "www" / "text").write_bytes(TEXT)
    (path / "www" / "packed" / "text.txt").write_bytes(TEXT)
    (path / "www" / "large").write_bytes(bytes(5_000_000))
    certificate = authority().issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(path / "key.pem"))
    (path / "cert.pem").write_bytes(b"".join(b.bytes() for b in certificate.cert_chain_pems))
    (path / "conf").write_text(CONF.format(dir=path, port=port, tls_port=tls_port))
    async with running([NGINX, "-p", str(path), "-c", str(path / "conf")], port):
        yield f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}"


# nginx


@needs_nginx
@both
async def test_nginx(backend: BackendName, tmp_path: Path) -> None:
    """Keep-alive, HEAD, 304, gzip, chunks, redirects, errors and large bodies of nginx."""
    with trio.fail_after(20):
        async with (
            open_nginx(tmp_path) as (url, _),
            open_client(url, backend=backend, cache=False) as client,
        ):
            plain = await client.get("/text")
            assert plain.content == TEXT
            head = await client.head("/text")
            assert (head.content, head.headers["content-length"]) == (b"", str(len(TEXT)))
            etag = {"If-None-Match": plain.headers["etag"]}
            assert (await client.get("/text", headers=etag)).status_code == 304
            packed = await client.get("/packed/text.txt")
            assert packed.headers["transfer-encoding"] == "chunked"
            assert packed.content == TEXT
            assert (await client.get("/away", follow_redirects=True)).content == TEXT
            assert (await client.get("/none")).status_code == 404
            assert (await client.post("/text", content=b"x" * 100_000)).status_code == 405
            assert len((await client.get("/large")).content) == 5_000_000
            connections = {(await client.get("/conn")).text.split(".")[0] for _ in range(3)}
            assert len(connections) == 1


@needs_nginx
@both
async def test_nginx_cached(backend: BackendName, tmp_path: Path) -> None:
    """A packed answer of nginx is stored unpacked, and revalidated by its ETag."""
    with trio.fail_after(20):
        async with (
            open_nginx(tmp_path) as (url, _),
            open_client(url, backend=backend) as client,
        ):
            for _ in range(3):
                assert (await client.get("/packed/text.txt")).content == TEXT
            assert (await client.get("/text")).content == TEXT
            assert (await client.get("/text")).content == TEXT


@needs_nginx
@both
async def test_nginx_tls(backend: BackendName, tmp_path: Path) -> None:
    """TLS of nginx, trusted and not."""
    with trio.fail_after(20):
        async with open_nginx(tmp_path) as (_, url):
            async with open_client(url, backend=backend, ssl_context=trusting()) as client:
                assert (await client.get("/text")).content == TEXT
            async with open_client(url, backend=backend, retry=False) as client:
                with pytest.raises(module_of(backend).ConnectError):
                    await client.get("/text")


# hypercorn

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    for part in (scope["method"].encode(), b" ", str(len(body)).encode()):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
"""


@both
async def test_hypercorn(backend: BackendName, tmp_path: Path) -> None:
    """Verbs, large uploads and chunks of hypercorn; and a cancelled call leaves it serving."""
    (tmp_path / "served.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", "-b", f"127.0.0.1:{port}", "-k", "trio"]
    with trio.fail_after(20):
        async with (
            running([*command, "served:app"], port, cwd=tmp_path),
            open_client(f"http://127.0.0.1:{port}", backend=backend) as client,
        ):
            assert (await client.get("/")).text == "GET 0"
            assert (await client.post("/", content=b"x" * 1_000_000)).text == "POST 1000000"
            assert (await client.head("/")).status_code == 201
            with trio.move_on_after(0):
                await client.post("/", content=b"x" * 1_000_000)
            assert (await client.delete("/")).text == "DELETE 0"


# Certificates


@both
async def test_certificates(backend: BackendName) -> None:
    """One for another host, and one of nobody's, are refused."""
    stranger = trustme.CA()
    foreign = certified("127.0.0.1")
    stranger.issue_cert("127.0.0.1").configure_cert(foreign)
    with trio.fail_after(10):
        for context in (certified("elsewhere.example"), foreign):
            async with (
                open_peer(tls=context) as peer,
                open_client(
                    peer.url, backend=backend, ssl_context=trusting(), retry=False
                ) as client,
            ):
                with pytest.raises(module_of(backend).ConnectError):
                    await client.get("/")
                assert not peer.visits
                assert client.statistics().gate.running == 0


# Servers that misbehave


@both
async def test_black_hole(backend: BackendName) -> None:
    """A connect that nobody answers ends at its own limit, and cancelled at once."""
    with trio.fail_after(10), socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        try:
            async with open_client(
                url, backend=backend, connect_timeout_s=0.1, retry=False
            ) as client:
                with pytest.raises(module_of(backend).ConnectTimeout):
                    await client.get("/")
                with trio.move_on_after(0.01) as scope:
                    await client.get("/")
                assert scope.cancelled_caught
                assert client.statistics().gate.running == 0
        finally:
            for filler in fillers:
                filler.close()


@both
@pytest.mark.parametrize(
    ("sent", "stage"),
    [
        (b"", "answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "body"),
    ],
)
async def test_stalls(backend: BackendName, sent: bytes, stage: str) -> None:
    """A server that stops anywhere costs the call's limit, not more, and its connection."""
    with trio.fail_after(10):
        async with (
            open_peer({"*": stall(sent)}) as peer,
            open_client(peer.url, backend=backend, timeout_s=0.1, retry=False) as client,
        ):
            with pytest.raises(CallTimeout) as caught:
                await client.get("/")
            assert caught.value.stage == stage
            await peer.wait_live(0)


@both
async def test_silent_handshake(backend: BackendName) -> None:
    """A handshake without an answer ends with the call, and its socket is closed."""
    with trio.fail_after(10):
        closed = trio.Event()

        async def silent(stream: trio.SocketStream) -> None:
            while await stream.receive_some():
                pass
            closed.set()

        async with trio.open_nursery() as nursery:
            url = f"https://127.0.0.1:{await serve(nursery, silent)}"
            async with open_client(url, backend=backend, timeout_s=0.1, retry=False) as client:
                with pytest.raises(CallTimeout):
                    await client.get("/")
                await closed.wait()
            nursery.cancel_scope.cancel()


@both
async def test_drip(backend: BackendName) -> None:
    """A body that drips is bounded as a whole, though no read is slow."""
    with trio.fail_after(10):
        async with (
            open_peer({"*": drip(b"x", 1000, 0.01)}) as peer,
            open_client(peer.url, backend=backend, timeout_s=0.15) as client,
        ):
            with pytest.raises(CallTimeout) as caught:
                await client.get("/")
            assert caught.value.stage == "body"
            await peer.wait_live(0)


LIES = {
    "shorter": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    "no number": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "no chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "cut chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "no HTTP": b"220 smtp.example ESMTP\r\n",
    "nothing": b"",
    "endless head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
}


@both
@pytest.mark.parametrize("lie", LIES)
async def test_lies(backend: BackendName, lie: str) -> None:
    """What is no answer is an error of httpx's, and the next call is served."""
    with trio.fail_after(10):
        async with (
            open_peer({"/lie": raw(LIES[lie])}) as peer,
            open_client(peer.url, backend=backend, retry=False) as client,
        ):
            with pytest.raises(module_of(backend).TransportError):
                await client.get("/lie")
            assert (await client.get("/")).text == "ok"
            assert client.statistics().gate.running == 0


@both
async def test_more_than_said(backend: BackendName) -> None:
    """httpcore takes what it read behind a body for that server's next answer.

    Nothing here can mend it. Once it does not any more, this test fails.
    """
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with trio.fail_after(10):
        async with (
            open_peer({"/lie": raw(extra, stays=True)}) as peer,
            open_client(peer.url, backend=backend) as client,
        ):
            assert (await client.get("/lie")).text == "ok"
            assert (await client.get("/")).text == "evil"


@both
async def test_bomb(backend: BackendName) -> None:
    """A bomb is refused, and its connection closed."""
    bomb = gzip.compress(bytes(20_000_000))
    with trio.fail_after(10):
        async with (
            open_peer({"*": answer(bomb, Content_Encoding="gzip")}) as peer,
            open_client(peer.url, backend=backend, max_body_bytes=1_000_000) as client,
        ):
            with pytest.raises(BodyTooLarge):
                await client.get("/")
            await peer.wait_live(0)


@both
async def test_closed_between(backend: BackendName) -> None:
    """A server that closes a kept connection costs nothing: the next call makes another."""
    with trio.fail_after(10):
        ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        async with (
            open_peer({"*": raw(ok)}) as peer,
            open_client(peer.url, backend=backend, cache=False, retry=False) as client,
        ):
            for _ in range(5):
                assert (await client.get("/")).text == "ok"
                await peer.wait_live(0)
            assert peer.accepted == 5
