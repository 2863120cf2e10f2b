"""What the tests of the simulator share."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

from trio_rt.testing import LinkProfile, VirtualNetwork, VirtualStream, run

P = ParamSpec("P")

#: Whole numbers, so that sums of times compare equal.
SECOND = LinkProfile(latency_s=1.0)


def virtual(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test in virtual time, at most 600 s of it."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run(functools.partial(test, *args, **kwargs), seed=1, limit_s=600)

    return wrapper


async def open_pair(
    network: VirtualNetwork, host: str = "server", port: int = 80
) -> tuple[VirtualStream, VirtualStream]:
    """The client's and the server's end of a new connection."""
    async with network.listen(host, port) as listener:
        client = await network.open_stream(host, port)
        return client, await listener.accept()


def new_network(profile: LinkProfile = SECOND, seed: int = 1) -> VirtualNetwork:
    """A network whose latency is one second unless told otherwise."""
    return VirtualNetwork(seed, profile=profile)


async def read_all(stream: VirtualStream) -> bytes:
    """All bytes up to the end of file."""
    return b"".join([chunk async for chunk in stream])
