"""What a story's wires run on, beside the network's own streams."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Final

import trio
import trustme

from trio_rt.testing import VirtualNetwork, VirtualStream

from .plans import Plan

__all__ = ["HOST", "Contexts", "contexts", "open_stream", "url"]

HOST: Final = "server"

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class PlainStream(trio.abc.Stream):
    """No more than trio asks of a stream: it must be written by `send_all`."""

    def __init__(self, inner: VirtualStream) -> None:
        self._inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


@cache
def contexts() -> Contexts:
    """For the server, and for a client that trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def open_stream(
    plan: Plan, network: VirtualNetwork
) -> Callable[[str, int], Awaitable[trio.abc.Stream]]:
    """The client's `open_stream`."""

    async def open_plain(host: str, port: int) -> trio.abc.Stream:
        return PlainStream(await network.open_stream(host, port))

    return open_plain if plan.carrier == "plain" else network.open_stream


def url(plan: Plan) -> str:
    return f"{'wss' if plan.carrier == 'tls' else 'ws'}://{HOST}/"
