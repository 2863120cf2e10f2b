"""The backend as it is: what trio_rt is measured against."""

from __future__ import annotations

from typing import Any

from trio_rt.http import BackendName
from trio_rt.http._backend import backend

from .blocks import Call
from .origin import Origin


def bare_client(name: BackendName, origin: Origin, **options: Any) -> Any:
    """Its `AsyncClient`, whose pool never queues: as many connections as there are calls."""
    module = backend(name)
    if "transport" not in options:
        options["limits"] = module.Limits(max_connections=None)
    return module.AsyncClient(base_url=origin.url, trust_env=False, **options)


def getter(client: Any, path: str, way: str | None = None) -> Call:
    """A call that gets `path`; `way` is what the cache must say of the answer."""

    async def call() -> None:
        response = await client.get(path)
        if response.status_code != 200 or response.extensions.get("trio_rt.cache") != way:
            raise AssertionError(f"{response}, {response.extensions}")

    return call
