"""A storm of cancels at random moments, and what is left after it.

    python -m tests.http.storm --cancels 2000 [--client own] [--width 2]

`storm()` makes calls against a server that is quick, slow or stalls, cancels each
at a random moment (in the connect, the handshake, the queue, the answer, the
body), and then asks: does the pool still serve many calls at once; is a socket
or a connection left; how late did the cancelled callers leave? Client and server
share one thread, so with many calls at once the lateness is that of the loop.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import ssl
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import trio
import trio.testing

from trio_rt.http._backend import BackendName, backend
from trio_rt.http._connect import SafeConnect
from trio_rt.http._layer import transport
from trio_rt.http._open import open_client
from trio_rt.http._pool import open_pool

from .peers import Exchange, answer, certified, drip, open_peer, trusting

__all__ = ["Damage", "bare_client", "full_client", "own_client", "safe_client", "storm"]

OpenClient = Callable[[BackendName, ssl.SSLContext], AbstractAsyncContextManager[Any]]

#: How many calls there are at once.
WIDTH = 20

#: How long a connection is kept: after it, one that is still open is nobody's.
KEPT_S = 0.05

#: So many calls at once must be served afterwards.
AFTER = 30


@attrs.frozen
class Damage:
    """What was found. `late_s`: how long after its cancel each cancelled call left."""

    cancelled: int
    finished: int
    failed: int
    #: Calls after the storm that were not answered in time.
    unanswered: int
    #: Connections that the pool keeps though none is used.
    orphans: int
    #: Connections open at the server though the client is closed.
    live: int
    #: File descriptors more than before.
    descriptors: int
    #: What was found unclosed by the garbage collector.
    warned: tuple[str, ...]
    late_s: tuple[float, ...]

    @property
    def is_none(self) -> bool:
        return not (
            self.unanswered
            or self.orphans
            or self.live
            or self.descriptors
            or self.warned
            or self.failed
        )

    def __str__(self) -> str:
        late = sorted(self.late_s) or [0.0]
        return (
            f"{self.cancelled} cancelled, {self.finished} finished, {self.failed} failed; "
            f"after it {self.unanswered} of {AFTER} unanswered, {self.orphans} orphans, {self.live} connections, "
            f"{self.descriptors} descriptors and {len(self.warned)} warnings left; left after "
            f"{statistics.median(late) * 1e3:.2f} ms, p99 {late[int(len(late) * 0.99)] * 1e3:.2f} ms, "
            f"max {late[-1] * 1e3:.2f} ms"
        )


def bare_client(name: BackendName, tls: ssl.SSLContext) -> AbstractAsyncContextManager[Any]:
    """The backend's own client, as it is."""
    module = backend(name)
    limits = module.Limits(max_connections=WIDTH, keepalive_expiry=KEPT_S)
    client: AbstractAsyncContextManager[Any] = module.AsyncClient(
        verify=tls, trust_env=False, limits=limits
    )
    return client


def safe_client(name: BackendName, tls: ssl.SSLContext) -> AbstractAsyncContextManager[Any]:
    """The same above `SafeConnect`."""
    module = backend(name)
    limits = module.Limits(max_connections=None, keepalive_expiry=KEPT_S)
    pool = module.AsyncHTTPTransport(verify=tls, limits=limits, trust_env=False)
    client: AbstractAsyncContextManager[Any] = module.AsyncClient(
        transport=transport(SafeConnect(), pool=pool, backend=name), trust_env=False
    )
    return client


def own_client(name: BackendName, tls: ssl.SSLContext) -> AbstractAsyncContextManager[Any]:
    """Nothing but our own pool."""
    module = backend(name)
    pool = open_pool(module, ssl_context=tls, keep_alive_s=KEPT_S)
    client: AbstractAsyncContextManager[Any] = module.AsyncClient(
        transport=transport(pool=pool, backend=name), trust_env=False
    )
    return client


async def storm(
    name: BackendName,
    *,
    tls: bool,
    cancels: int,
    seed: int = 1,
    opens: OpenClient = safe_client,
    width: int = WIDTH,
) -> Damage:
    """Cancel so many calls, and look."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        run = _Run(random.Random(seed), cancels, width)
        await run.go(name, tls, opens)
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
    return Damage(
        cancelled=len(run.late_s),
        finished=run.finished,
        failed=run.failed,
        unanswered=run.unanswered,
        orphans=run.orphans,
        live=run.live,
        descriptors=len(os.listdir("/proc/self/fd")) - before,
        warned=tuple(str(w.message) for w in caught if w.category is ResourceWarning),
        late_s=tuple(run.late_s),
    )


def full_client(name: BackendName, tls: ssl.SSLContext) -> AbstractAsyncContextManager[Any]:
    """`open_client()`, whose gate lets fewer through than there are calls."""
    return open_client(
        backend=name,
        ssl_context=tls,
        max_concurrent=WIDTH // 2,
        per_host=WIDTH // 2,
        keep_alive_s=KEPT_S,
        cache=False,
    )


CLIENTS: dict[str, OpenClient] = {
    "bare": bare_client,
    "safe": safe_client,
    "own": own_client,
    "full": full_client,
}


class _Run:
    def __init__(self, rng: random.Random, cancels: int, width: int) -> None:
        self.rng = rng
        self.left = cancels
        self.width = width
        self.finished = self.failed = self.unanswered = self.orphans = self.live = 0
        self.late_s: list[float] = []

    async def go(self, name: BackendName, tls: bool, opens: OpenClient) -> None:
        paths = {
            "/slow": self._slow,
            "/drip": drip(b"x" * 1000, 5, 0.001),
            "/close": answer(Connection="close"),
            "/large": answer(b"x" * 300_000),
        }
        context = certified("127.0.0.1") if tls else None
        async with open_peer(paths, tls=context) as peer:
            async with opens(name, trusting()) as client:
                async with trio.open_nursery() as nursery:
                    for _ in range(self.width):
                        nursery.start_soon(self._worker, client, peer.url)
                await self._probe(client, peer.url)
                await trio.sleep(KEPT_S * 2)
                await self._call(client, peer.url)
                with trio.move_on_after(0.5):
                    await peer.wait_live(1)
                self.orphans = peer.live - 1
            with trio.move_on_after(0.5):
                await peer.wait_live(0)
            self.live = peer.live

    async def _slow(self, exchange: Exchange) -> bool:
        await trio.sleep(self.rng.uniform(0, 0.01))
        return await answer()(exchange)

    async def _worker(self, client: Any, url: str) -> None:
        while self.left > 0:
            path = self.rng.choice(["/", "/", "/slow", "/drip", "/close", "/large"])
            # Half of the moments fall into the first milliseconds, where connects are.
            delay_s = self.rng.choice([0.0, 0.003, 0.03]) * self.rng.random()
            if self.rng.random() < 0.3:
                await self._after_steps(client, url + path)
                continue
            with trio.CancelScope(deadline=trio.current_time() + delay_s) as scope:
                await self._call(client, url + path)
            if scope.cancelled_caught:
                self.left -= 1
                self.late_s.append(trio.current_time() - scope.deadline)

    async def _after_steps(self, client: Any, url: str) -> None:
        """Cancel after so many turns of the loop: moments that no clock finds."""
        steps = self.rng.randrange(40)
        async with trio.open_nursery() as nursery:
            at: float | None = None

            async def cancel() -> None:
                nonlocal at
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                at = trio.current_time()
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel)
            await self._call(client, url)
            nursery.cancel_scope.cancel()
        if at is not None and nursery.cancel_scope.cancelled_caught:
            self.left -= 1
            self.late_s.append(trio.current_time() - at)

    async def _call(self, client: Any, url: str) -> None:
        try:
            response = await client.get(url)
        except Exception:
            self.failed += 1
        else:
            if response.status_code == 200:
                self.finished += 1

    async def _probe(self, client: Any, url: str) -> None:
        answered = 0

        async def one() -> None:
            nonlocal answered
            try:
                response = await client.get(url)
            except Exception:
                return
            answered += response.status_code == 200

        with trio.move_on_after(2):
            async with trio.open_nursery() as nursery:
                for _ in range(AFTER):
                    nursery.start_soon(one)
        self.unanswered = AFTER - answered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cancels", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=WIDTH, help="calls at once")
    parser.add_argument("--client", choices=CLIENTS, default="full", help="bare: the backend's own")
    options = parser.parse_args()
    names: list[BackendName] = ["httpx", "httpx2"]
    bad = False
    for name in names:
        for tls in (False, True):
            start = time.perf_counter()

            async def run(name: BackendName = name, tls: bool = tls) -> Damage:
                return await storm(
                    name,
                    tls=tls,
                    cancels=options.cancels,
                    seed=options.seed,
                    opens=CLIENTS[options.client],
                    width=options.width,
                )

            damage = trio.run(run)
            bad |= not damage.is_none
            spent = time.perf_counter() - start
            print(f"{name} {'https' if tls else 'http'} ({spent:.1f} s): {damage}", flush=True)
    raise SystemExit(bad)


if __name__ == "__main__":
    main()
