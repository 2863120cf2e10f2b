"""tinyproxy, in a process, as the HTTP proxy of a client, with and without a password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

import trio_rt
from trio_rt import DialError, LinkClosed, ServerRefused

from .support import LIMIT_S, WIRES, Command, Tls, requires, running, tool
from .talk import Echo, serving, talking

pytestmark = [requires("tinyproxy"), pytest.mark.parametrize("wire", WIRES)]

READY = "Accepting connections"


def tinyproxy(folder: Path, *lines: str) -> Command:
    """How to start it, with these lines in its configuration."""

    def command(port: int) -> list[str]:
        file = folder / "tinyproxy.conf"
        needed = [f"Port {port}", "Listen 127.0.0.1", "MaxClients 100", "Timeout 600"]
        pid_file = f'PidFile "{folder}/tinyproxy.pid"'
        file.write_text("\n".join([*needed, pid_file, "LogLevel Info", *lines, ""]))
        return [str(tool("tinyproxy")), "-d", "-c", str(file)]

    return command


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("login", ["", "user:%73ecret@"], ids=["open", "password"])
async def test_a_way_through(wire: Any, secure: bool, login: str, tmp_path: Path, tls: Tls) -> None:
    """Under load through the proxy; when it is killed and started again, the client is back."""
    echo = Echo()
    command = tinyproxy(tmp_path, *(["BasicAuth user secret"] if login else []))
    async with (
        serving(echo, ssl_context=tls.for_server if secure else None) as server,
        running(command, ready=READY) as program,
    ):
        proxy = f"http://{login}127.0.0.1:{program.port}"
        options = {"wire": wire, "proxy": proxy, "ssl_context": tls.for_client}
        async with talking(server.url, **options) as talk:
            await talk.more()
            await program.wait_line(f"CONNECT 127.0.0.1:{server.port} ")
            await program.kill()
            await talk.wait_cause(DialError)
            await program.start()
            await talk.wait_links(2)
            await talk.more()
        assert isinstance(talk.causes[0], LinkClosed)
        assert talk.causes[0].code == 1006
        assert talk.links == 2
    echo.check(talk)


@pytest.mark.parametrize(("login", "status"), [("", 407), ("user:wrong@", 401)])
async def test_a_wrong_password(wire: Any, login: str, status: int, tmp_path: Path) -> None:
    """It is the proxy that refuses, says the error, and shows no password."""
    with trio.fail_after(LIMIT_S):
        async with (
            serving(Echo()) as server,
            running(tinyproxy(tmp_path, "BasicAuth user secret"), ready=READY) as program,
        ):
            proxy = f"http://{login}127.0.0.1:{program.port}"
            with pytest.raises(ServerRefused) as caught:
                async with trio_rt.connect(server.url, wire=wire, proxy=proxy):
                    await trio.sleep_forever()
    cause = caught.value.__cause__
    assert isinstance(cause, DialError)
    assert cause.stage == "proxy"
    assert cause.status == status
    assert "refuses the credentials" in str(cause)
    assert "wrong" not in f"{caught.value!r} {cause!r} {caught.value} {cause}"
