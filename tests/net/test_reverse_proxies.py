"""nginx and haproxy between a client and a server, reloaded, restarted, killed and impatient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trio_rt import DialError, HandshakeError, LinkClosed, Liveness

from .reverse_proxies import PROXIES, ReverseProxy
from .support import WIRES, Tls, node, requires, running
from .talk import Echo, serving, talking

pytestmark = [pytest.mark.parametrize("proxy", PROXIES), pytest.mark.parametrize("wire", WIRES)]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_reload(
    proxy: ReverseProxy, wire: Any, secure: bool, tmp_path: Path, tls: Tls
) -> None:
    """A link under load lives on across a reload, and new ones are taken."""
    echo = Echo()
    certificate, context = (tls.certificate, tls.for_client) if secure else (None, None)
    async with serving(echo) as server:
        command = proxy.command(folder=tmp_path, upstream=server.port, certificate=certificate)
        async with running(command, ready=proxy.ready) as program:
            url = program.url("wss" if secure else "ws")
            async with talking(url, wire=wire, ssl_context=context) as talk:
                await talk.more()
                await proxy.reload(program)
                await talk.more()
                async with talking(url, wire=wire, ssl_context=context) as other:
                    await other.more()
                await talk.more()
                assert talk.links == 1
                assert talk.causes == []
    assert len(echo.links) == 2


@pytest.mark.parametrize("end", ["terminate", "kill"])
async def test_restart(proxy: ReverseProxy, wire: Any, end: str, tmp_path: Path) -> None:
    """The link is lost with the proxy; the client is back when it is, and nothing is doubled."""
    echo = Echo()
    async with serving(echo) as server:
        command = proxy.command(folder=tmp_path, upstream=server.port)
        async with running(command, ready=proxy.ready) as program:
            async with talking(program.url(), wire=wire) as talk:
                await talk.more()
                await (program.terminate() if end == "terminate" else program.kill())
                await talk.wait_cause(DialError)
                await program.start()
                await talk.wait_links(2)
                await talk.more()
            assert isinstance(talk.causes[0], LinkClosed)
            assert talk.causes[0].code == 1006
            assert talk.links == 2
    echo.check(talk)


@requires("node")
async def test_upstream_is_killed(proxy: ReverseProxy, wire: Any, tmp_path: Path) -> None:
    """The proxy's 502 or 503 meanwhile is no reason to give up."""
    async with running(node("echo.js")) as upstream:
        command = proxy.command(folder=tmp_path, upstream=upstream.port)
        async with (
            running(command, ready=proxy.ready) as program,
            talking(program.url(), wire=wire) as talk,
        ):
            await talk.more()
            await upstream.kill()
            await talk.wait_cause(HandshakeError)
            await upstream.start()
            await talk.wait_links(2)
            await talk.more()
    statuses = {cause.status for cause in talk.causes if isinstance(cause, HandshakeError)}
    assert statuses == {proxy.status}


async def test_idle_timeout(proxy: ReverseProxy, wire: Any, tmp_path: Path) -> None:
    """A proxy cuts a link that is silent for too long; a quick heartbeat keeps one alive."""
    never, quick = Liveness(interval_s=900.0), Liveness(interval_s=0.3, timeout_s=30.0)
    async with serving(Echo(), liveness=None) as server:
        command = proxy.command(folder=tmp_path, upstream=server.port, idle_s=1)
        async with (
            running(command, ready=proxy.ready) as program,
            talking(program.url(), wire=wire, liveness=quick, speaks=False) as beating,
        ):
            await beating.wait(lambda: beating.links)
            async with talking(program.url(), wire=wire, liveness=never, speaks=False) as silent:
                await silent.wait(lambda: silent.links == 3)
            assert beating.links == 1
            assert beating.causes == []
    assert [getattr(cause, "code", None) for cause in silent.causes] == [1006] * 2
