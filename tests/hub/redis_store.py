"""Redis and Valkey among the stores of the contract: each store is a prefix of a shared server."""

from __future__ import annotations

import atexit
import itertools
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from trio_rt.hub._broker import Broker, LogLimits
from trio_rt.hub.brokers.redis import RedisBroker

from .brokers import Factory, Nodes
from .redis_server import KINDS, Server

__all__ = ["FACTORIES", "shared_server"]

_servers: dict[str, Server] = {}
_numbers = itertools.count()


def shared_server(kind: str) -> Server:
    """One for the whole process."""
    if kind not in _servers:
        directory = tempfile.TemporaryDirectory(prefix="trio-rt-store")
        server = Server(kind, Path(directory.name))
        server.start()
        _servers[kind] = server
        atexit.register(directory.cleanup)
        atexit.register(server.kill)
    return _servers[kind]


class RedisNodes(Nodes):
    """Brokers with a prefix of their own."""

    def __init__(self, server: Server, limits: LogLimits) -> None:
        self._url = server.url
        self._prefix = f"t{next(_numbers)}"
        self._limits = limits

    def open(self) -> Broker:
        return RedisBroker(self._url, prefix=self._prefix, limits=self._limits)

    async def pass_time(self, seconds: float) -> None:
        """The store's clock is the machine's."""
        await trio.to_thread.run_sync(time.sleep, seconds)


@asynccontextmanager
async def _open(kind: str, directory: Path, limits: LogLimits) -> AsyncIterator[Nodes]:
    yield RedisNodes(shared_server(kind), limits)


FACTORIES: dict[str, Factory] = {kind: partial(_open, kind) for kind in KINDS}
