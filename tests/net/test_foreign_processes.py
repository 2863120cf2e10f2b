"""A server of ours and clients of npm `ws`, each in a process, also halted and killed ones."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio

from tests.strangers import complaints
from trio_rt import Liveness

from .support import LIMIT_S, Tls, client, requires, running
from .talk import Echo, serving, talking

pytestmark = requires("node")


@pytest.mark.parametrize("mode", ["plain", "deflate", "tls"])
async def test_echo(mode: str, tls: Tls, caplog: pytest.LogCaptureFixture) -> None:
    """200 texts and a long binary message come back, and the client's close, too."""
    caplog.set_level(logging.INFO, "trio_rt")
    echo = Echo()
    options: dict[str, Any] = {"ssl_context": tls.for_server} if mode == "tls" else {}
    with trio.fail_after(LIMIT_S):
        async with serving(echo, compression=mode == "deflate", **options) as server:
            command = client("client.js", server.url, mode, str(tls.authority))
            async with running(command, ready="result ") as program:
                result = json.loads(program.lines[0].removeprefix("result "))
            await echo.wait_ended(1)
    deflated = mode == "deflate"
    assert result == {"texts": 200, "binary": True, "deflated": deflated, "code": 1000}
    assert len(echo.links[0]) == 201
    assert caplog.messages == []


@pytest.mark.parametrize("fault", ["halt", "kill"])
async def test_a_client_that_is_gone(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its handler ends, a halted one's when it is found dead; others are served meanwhile."""
    echo = Echo()
    watchful = Liveness(interval_s=0.3, timeout_s=0.3)
    async with (
        serving(echo, liveness=watchful) as server,
        talking(server.url) as talk,
        running(client("client.js", server.url, "stay"), ready="staying") as program,
    ):
        await talk.more()
        if fault == "halt":
            program.stop()
        else:
            await program.kill()
        await echo.wait_ended(1)
        await talk.more()
        assert talk.links == 1
        program.resume()
    assert complaints(caplog) == []
