"""Servers of files, on real ports and on a virtual network, and their clients."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import httpcore
import httpx
import trio

import trio_rt
from trio_rt import HttpRequest, RawPeer, ServerLimits
from trio_rt.chat._service.file_routes import file_routes
from trio_rt.chat._service.files import FileStore
from trio_rt.http import Client, open_client
from trio_rt.http._pool import _pool_class
from trio_rt.hub import Site
from trio_rt.hub._server.files import Found
from trio_rt.options import Reconnect
from trio_rt.testing import LinkProfile, VirtualNetwork
from trio_rt.testing._stream import VirtualStream

__all__ = [
    "GIF",
    "JPEG",
    "PNG",
    "QUICK",
    "WEBP",
    "InlineStore",
    "by_token",
    "serving",
    "stored_files",
    "virtual_pool",
    "virtual_world",
]

T = TypeVar("T")

PNG: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 40
JPEG: Final = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(1000)
GIF: Final = b"GIF89a\x01\0\x01\0\0\0\0" + bytes(1000)
WEBP: Final = b"RIFF\xf0\x03\0\0WEBPVP8L" + bytes(1000)

#: Tries again at once, or nearly so.
QUICK: Final = Reconnect(first_s=0.01, cap_s=0.05, max_attempts=50)


async def by_token(request: HttpRequest) -> str | None:
    """The token is the user's name."""
    await trio.lowlevel.checkpoint()
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token or None if scheme == "Bearer" else None


async def _no_peer(peer: RawPeer) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(
    store: FileStore, *, limit_s: float = 60.0, **limits: Any
) -> AsyncIterator[trio_rt.Server]:
    """The store on a real port."""
    site = Site(routes=file_routes(store, by_token))
    limits.setdefault("body_bytes", 1 << 24)
    start = partial(
        trio_rt.serve,
        _no_peer,
        "127.0.0.1",
        0,
        codec="raw",
        http=site,
        limits=ServerLimits(**limits),
    )
    with trio.fail_after(limit_s):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(start)
            nursery.cancel_scope.cancel()


def stored_files(directory: Path) -> dict[str, bytes]:
    """What lies where it is served from."""
    return {path.name: path.read_bytes() for path in (directory / "files").iterdir()}


class InlineStore(FileStore):
    """A store on a virtual clock, which stands still while the disk is at work."""

    async def find(self, sha256: str) -> tuple[Found, str | None] | None:
        """With the content, which is else read in threads."""
        held = await super().find(sha256)
        if held is None or held[0].open is None:
            return held
        with held[0].open() as file:
            return attrs.evolve(held[0], content=file.read()), held[1]

    async def _in_thread(self, call: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return call()


# ASYNC109: the interface is httpcore's.


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: VirtualStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                return await self._stream.receive_some(max_bytes)
        except trio.TooSlowError as error:
            raise httpcore.ReadTimeout from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                await self._stream.send_all(buffer)
        except trio.TooSlowError as error:
            raise httpcore.WriteTimeout from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Whether a kept connection is over."""
        if info != "is_readable":
            return None
        return self._stream._inbound.readable_at() <= trio.current_time()


class _Network(httpcore.AsyncNetworkBackend):
    def __init__(self, network: VirtualNetwork) -> None:
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                return _Stream(await self._network.open_stream(host, port))
        except trio.TooSlowError as error:
            raise httpcore.ConnectTimeout from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


def virtual_pool(network: VirtualNetwork) -> Any:
    """For `open_client()`: its connections are of this network."""
    core = httpcore.AsyncConnectionPool(max_connections=None, network_backend=_Network(network))
    return _pool_class(httpx)(core)


@asynccontextmanager
async def virtual_world(
    store: FileStore, *, latency_s: float = 0.02, **limits: Any
) -> AsyncIterator[tuple[VirtualNetwork, Client]]:
    """The store on the host `server` of a virtual network, and a client of it."""
    network = VirtualNetwork(1, profile=LinkProfile(latency_s=latency_s))
    site = Site(routes=file_routes(store, by_token))
    async with trio.open_nursery() as nursery:
        start = partial(
            trio_rt.serve_listeners,
            _no_peer,
            [network.listen("server", 80)],
            codec="raw",
            http=site,
            limits=ServerLimits(**limits),
        )
        await nursery.start(start)
        pool = virtual_pool(network)
        async with open_client("http://server", pool=pool, cache=False, retry=False) as client:
            yield network, client
        nursery.cancel_scope.cancel()
