"""Cancelling at every moment of a connect: our own pool, and `SafeConnect` above the backends'."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._connect import SafeConnect
from trio_rt.http._layer import transport
from trio_rt.http._network import network_of
from trio_rt.http._pool import _core_of, _pool_class, open_pool

from ..clocked import clocked
from .peers import Peer, both, certified, open_peer, serve, stall, trusting

SENDS = [
    "http11.send_request_headers.started",
    "http11.send_request_headers.complete",
    "http11.send_request_body.started",
    "http11.receive_response_headers.started",
]
STEPS = ["connection.connect_tcp.started", "connection.connect_tcp.complete", *SENDS]
TLS_STEPS = [
    *STEPS[:2],
    "connection.start_tls.started",
    "connection.start_tls.complete",
    *SENDS,
]
#: Short, so that what is open after it is nobody's.
KEPT_S = 0.02


class Raw:
    """A request as httpcore shows it."""

    method = b"GET"


def own_pool(module: Any, most: int | None, proxy: str | None = None) -> Any:
    if most is None:
        return open_pool(module, ssl_context=trusting(), proxy=proxy, keep_alive_s=KEPT_S)
    core = _core_of(module)
    connections = core.AsyncConnectionPool(
        ssl_context=trusting(),
        max_connections=most,
        keepalive_expiry=KEPT_S,
        network_backend=network_of(core)(),
    )
    return _pool_class(module)(connections)


@asynccontextmanager
async def open_safe(
    name: BackendName, kind: str, *, most: int | None = 1, proxy: str | None = None
) -> AsyncIterator[Any]:
    """A client whose pool is dead when one place in it is lost."""
    module = module_of(name)
    if kind == "ours":
        stack = transport(pool=own_pool(module, most, proxy), backend=name)
    else:
        limits = module.Limits(max_connections=most, keepalive_expiry=KEPT_S)
        pool = module.AsyncHTTPTransport(
            verify=trusting(), limits=limits, trust_env=False, proxy=proxy
        )
        stack = transport(SafeConnect(), pool=pool, backend=name)
    async with module.AsyncClient(transport=stack, trust_env=False) as client:
        yield client


kinds = pytest.mark.parametrize("kind", ["ours", "theirs"])


def cancelling(scope: trio.CancelScope, event: str) -> Any:
    """A trace that cancels `scope` at `event`."""

    async def trace(name: str, info: Any) -> None:
        if name == event:
            scope.cancel()

    return trace


async def only_one_left(client: Any, peer: Peer, url: str) -> bool:
    """Whether every connection but one just used can be got rid of."""
    await trio.sleep(KEPT_S * 2)
    assert (await client.get(url)).status_code == 200
    await peer.wait_live(1)
    return True


@both
@kinds
@pytest.mark.parametrize(
    ("event", "tls"), [(e, False) for e in STEPS] + [(e, True) for e in TLS_STEPS]
)
async def test_cancelled_at(backend: BackendName, kind: str, event: str, tls: bool) -> None:
    """Whatever the step, the call is cancelled, the connection is no orphan, the pool goes on."""
    with trio.fail_after(10):
        async with (
            open_peer({"/stall": stall()}, tls=certified("127.0.0.1") if tls else None) as peer,
            open_safe(backend, kind) as client,
        ):
            scope = trio.CancelScope()
            seen = []

            async def trace(name: str, info: Any) -> None:
                seen.append(name)
                if name == event:
                    scope.cancel()

            with scope:
                await client.get(peer.url + "/stall", extensions={"trace": trace})
            assert scope.cancelled_caught
            assert event in seen
            assert await only_one_left(client, peer, peer.url)


@both
@kinds
async def test_silent_handshake(backend: BackendName, kind: str) -> None:
    """Cancelled in a TLS handshake that never ends, a call leaves at once and closes its socket."""
    with trio.fail_after(10):
        closed = trio.Event()
        begun = trio.Event()

        async def silent(stream: trio.SocketStream) -> None:
            begun.set()
            while await stream.receive_some():
                pass
            closed.set()

        async with trio.open_nursery() as nursery, open_safe(backend, kind) as client:
            port = await serve(nursery, silent)
            scope = trio.CancelScope()

            async def call() -> None:
                with scope:
                    await client.get(f"https://127.0.0.1:{port}/")

            async with trio.open_nursery() as calls:
                calls.start_soon(call)
                await begun.wait()
                scope.cancel()
            assert scope.cancelled_caught
            await closed.wait()
            nursery.cancel_scope.cancel()


@both
@kinds
async def test_kept_alive(backend: BackendName, kind: str) -> None:
    """A cancelled call before its headers leaves a kept connection for the next one."""
    with trio.fail_after(10):
        async with open_peer() as peer, open_safe(backend, kind) as client:
            await client.get(peer.url)
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.get(peer.url)
            assert scope.cancelled_caught
            await client.get(peer.url)
            assert peer.accepted == 1


@both
@kinds
@pytest.mark.parametrize("event", SENDS)
async def test_kept_cancelled_at(backend: BackendName, kind: str, event: str) -> None:
    """Cancelled in the midst of a call, a kept connection is closed; the pool goes on."""
    with trio.fail_after(10):
        async with (
            open_peer({"/stall": stall()}) as peer,
            open_safe(backend, kind) as client,
        ):
            await client.get(peer.url)
            scope = trio.CancelScope()
            with scope:
                await client.get(
                    peer.url + "/stall", extensions={"trace": cancelling(scope, event)}
                )
            assert scope.cancelled_caught
            await peer.wait_live(0)
            assert await only_one_left(client, peer, peer.url)


@both
@kinds
async def test_users_trace(backend: BackendName, kind: str) -> None:
    """A caller's own trace sees all events, those after the headers too."""
    seen = []

    async def trace(name: str, info: Any) -> None:
        seen.append(name)

    with trio.fail_after(10):
        async with open_peer() as peer, open_safe(backend, kind) as client:
            await client.get(peer.url, extensions={"trace": trace})
    assert seen[:3] == STEPS[:3]
    assert seen[-1] == "http11.response_closed.complete"
    assert "http11.send_request_headers.complete" in seen


@both
@kinds
@pytest.mark.parametrize(
    ("event", "tls"), [(e, False) for e in STEPS] + [(e, True) for e in TLS_STEPS]
)
async def test_failing_trace(backend: BackendName, kind: str, event: str, tls: bool) -> None:
    """A trace of the caller's that raises leaves no connection either, and no shield."""

    async def trace(name: str, info: Any) -> None:
        if name == event:
            raise RuntimeError("mine")

    with trio.fail_after(10):
        async with (
            open_peer(tls=certified("127.0.0.1") if tls else None) as peer,
            open_safe(backend, kind) as client,
        ):
            with trio.move_on_after(math.inf) as scope:
                with pytest.raises(RuntimeError, match="mine"):
                    await client.get(peer.url, extensions={"trace": trace})
                scope.cancel()
                await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            await peer.wait_live(0)
            assert await only_one_left(client, peer, peer.url)


@both
@kinds
async def test_extensions_are_given_back(backend: BackendName, kind: str) -> None:
    """The request is as it was, so that it can be sent again, or twice at once."""
    with trio.fail_after(10):
        async with open_peer() as peer, open_safe(backend, kind, most=None) as client:
            request = client.build_request("GET", peer.url)
            before = dict(request.extensions)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, request)
                nursery.start_soon(client.send, request)
            assert "trace" not in before
            assert request.extensions == before
            assert len(peer.visits) == 2
            await only_one_left(client, peer, peer.url)
            peer.paths["/"] = stall()
            with trio.move_on_after(0.05):
                await client.send(request)
            request.url = request.url.copy_with(port=1)
            with pytest.raises(module_of(backend).ConnectError):
                await client.send(request)
            assert request.extensions == before


class Stream:
    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@both
@pytest.mark.parametrize("sent", [False, True])
@clocked
async def test_whose_stream(backend: BackendName, sent: bool) -> None:
    """A stream is closed until the headers are sent; then it may carry what others asked."""
    request = module_of(backend).Request("GET", "http://host/")
    stream = Stream()

    async def pool(request: Any) -> Any:
        trace = request.extensions["trace"]
        await trace("connection.connect_tcp.complete", {"return_value": stream})
        if sent:
            await trace("http2.send_request_headers.started", {"request": Raw()})
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await SafeConnect().intercept(request, pool)
    assert stream.closed == (not sent)
    await trio.sleep(1)


@both
@clocked
async def test_foreign_pools(backend: BackendName) -> None:
    """A pool that tells half of what it does leaves no shield behind."""
    module = module_of(backend)

    async def pool(request: Any) -> Any:
        trace = request.extensions["trace"]
        await trace("connection.connect_tcp.complete", {"return_value": Stream()})
        return module.Response(200)

    await SafeConnect().intercept(module.Request("GET", "http://host/"), pool)
    with trio.move_on_after(1) as scope:
        await trio.sleep(5)
    assert scope.cancelled_caught


@both
@clocked
async def test_sent_twice_at_once(backend: BackendName) -> None:
    """Two calls with one request have each a trace of its own, and the caller's is called once."""
    module = module_of(backend)
    seen = []

    async def trace(event: str, info: Any) -> None:
        seen.append(event)

    async def pool(request: Any) -> Any:
        own = request.extensions["trace"]
        await trio.sleep(1)
        await own("connection.connect_tcp.started", {})
        await trio.sleep(1)
        return module.Response(200)

    request = module.Request("GET", "http://host/", extensions={"trace": trace})
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(SafeConnect().intercept, request, pool)
            await trio.sleep(0.5)
    assert seen == ["connection.connect_tcp.started"] * 3


@both
@kinds
async def test_errors_pass(backend: BackendName, kind: str) -> None:
    """A refused connect and a bad certificate are httpx's ConnectError, in no group."""
    with trio.fail_after(10):
        async with open_safe(backend, kind) as client:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            await listeners[0].aclose()
            with pytest.raises(module_of(backend).ConnectError, match=f"127.0.0.1:{port}"):
                await client.get(f"http://127.0.0.1:{port}/")
        async with (
            open_peer(tls=certified("elsewhere.example")) as peer,
            open_safe(backend, kind) as client,
        ):
            with pytest.raises(module_of(backend).ConnectError) as caught:
                await client.get(peer.url)
            # The backends' own say nothing here.
            assert ("not valid for '127.0.0.1'" in str(caught.value)) == (kind == "ours")
            await peer.wait_live(0)


async def tunnel(stream: trio.SocketStream) -> None:
    """A proxy of one CONNECT."""
    async with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            more = await stream.receive_some()
            if not more:
                return
            head += more
        host, _, port = head.split(b" ")[1].decode().partition(":")
        async with await trio.open_tcp_stream(host, int(port)) as far:
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            async with trio.open_nursery() as nursery:

                async def copy(a: trio.SocketStream, b: trio.SocketStream) -> None:
                    try:
                        async for data in a:
                            await b.send_all(data)
                    except trio.BrokenResourceError:
                        pass
                    nursery.cancel_scope.cancel()

                nursery.start_soon(copy, stream, far)
                nursery.start_soon(copy, far, stream)


@asynccontextmanager
async def open_tunnel() -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        yield f"http://127.0.0.1:{await serve(nursery, tunnel)}"
        nursery.cancel_scope.cancel()


TUNNEL_STEPS = [
    *STEPS[:3],
    "http11.receive_response_headers.complete",
    "start_tls.started",
    "start_tls.complete",
]


@both
@kinds
@pytest.mark.parametrize("event", TUNNEL_STEPS)
async def test_tunnel(backend: BackendName, kind: str, event: str) -> None:
    """Through a CONNECT proxy: it works, and cancelled in the making the socket is closed."""
    with trio.fail_after(10):
        async with (
            open_peer(tls=certified("127.0.0.1")) as peer,
            open_tunnel() as proxy,
            open_safe(backend, kind, most=None, proxy=proxy) as client,
        ):
            scope = trio.CancelScope()

            async def trace(name: str, info: Any) -> None:
                if name.endswith(event):  # each core has its own name before it
                    scope.cancel()

            with scope:
                await client.get(peer.url, extensions={"trace": trace})
            assert scope.cancelled_caught
            await peer.wait_live(0)
            assert (await client.get(peer.url)).text == "ok"
            assert peer.live == 1


@both
async def test_tunnels_leave_no_entry(backend: BackendName) -> None:
    """A tunnel that failed, or was cancelled, in its handshake is forgotten by our pool."""
    module = module_of(backend)
    with trio.fail_after(10):
        async with (
            open_peer(tls=certified("127.0.0.1")) as peer,
            open_peer(tls=certified("elsewhere.example")) as wrong,
            open_tunnel() as proxy,
        ):
            pool = own_pool(module, None, proxy)
            async with module.AsyncClient(
                transport=transport(pool=pool, backend=backend)
            ) as client:
                for _ in range(3):
                    with pytest.raises(module.ConnectError, match="not valid for"):
                        await client.get(wrong.url)
                    for event in TUNNEL_STEPS:
                        with trio.CancelScope() as scope:

                            async def trace(
                                name: str, info: Any, event: str = event, scope: Any = scope
                            ) -> None:
                                if name.endswith(event):
                                    scope.cancel()

                            await client.get(peer.url, extensions={"trace": trace})
                        assert scope.cancelled_caught
                await client.get(peer.url)
                assert len(pool._connections.connections) == 1
                assert len(pool._connections._requests) == 0
