"""A storm of cancels at random moments. The long one: `python -m tests.http.storm`."""

from __future__ import annotations

import pytest
import trio

from trio_rt.http._backend import BackendName

from .peers import both
from .storm import bare_client, full_client, own_client, safe_client, storm

secured = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])


@both
@secured
@pytest.mark.parametrize("opens", [safe_client, own_client, full_client])
async def test_nothing_is_left(backend: BackendName, tls: bool, opens: object) -> None:
    """The pool serves all, and no connection, socket or task is left over."""
    with trio.fail_after(30):
        damage = await storm(backend, tls=tls, cancels=150, seed=7, opens=opens)  # type: ignore[arg-type]
    assert damage.cancelled >= 150
    assert damage.finished > 0
    assert damage.is_none, str(damage)


@both
async def test_the_storm_is_one(backend: BackendName) -> None:
    """Without the cure the same storm leaves connections behind: the test can fail."""
    with trio.fail_after(30):
        damage = await storm(backend, tls=True, cancels=300, seed=7, opens=bare_client)
    assert not damage.is_none
