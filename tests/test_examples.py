"""The examples run, and do what they say while their links are cut."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_rt
from examples import market_feed, offline_queue, quickstart, token_refresh, virtual_network
from examples.offline_queue import send_all
from tests.helpers import World, open_world
from tests.testing.support import virtual
from trio_rt import Attempt, CredentialsRefused, DecodeError, Meta, PayloadError, Priority
from trio_rt.message import INDETERMINATE, WITHDRAWN, WRITTEN, dropped
from trio_rt.testing import CutKind, Towards, run

EXAMPLES = Path(quickstart.__file__).parent

Capture = pytest.CaptureFixture[str]

#: What each prints, as a regular expression where it is not the same every time.
STORIES = {
    "quickstart": r"""
        Whan that Aprille
        with his shoures soote
        missed something: Reset\(cause=LinkClosed\(1000, ''\)\)
        the droghte of March
        THE END
        """,
    "offline_queue": r"""
        offline: the link was cut \(1006\): connection reset
        the server gets alarm: smoke!
        the server gets chat: anybody there\?
        the server gets position: \[1, 2\]
        the server gets log: disk 90 % full
        a log line   written
        a chat line  written
        an alarm     written
        old position dropped \(replaced\)
        new position written
        a bid        dropped \(expired\)
        typing       dropped \(offline\)
        a mistake    withdrawn
        """,
    "token_refresh": r"""
        server: token-1 is good
        client: I am ada
        -- the link is cut
        server: token-1 is good
        client: I am ada
        -- the token expires, and the link is cut
        server: 401, token-1 is not good
        server: token-2 is good
        client: I am ada
        -- the account is locked, and the link is cut
        server: 401, token-2 is not good
        server: 401, token-3 is not good
        client: gave up: the server refuses the credentials: ws://server/ answered 401 .*
        """,
    "market_feed": r"""
        (BTC 10\d\.\d\d  ETH 10\d\.\d\d  XMR 10\d\.\d\d
        ){3,4}-- old prices, since the link was cut \(1006\): connection reset
        (BTC 10\d\.\d\d  ETH 10\d\.\d\d  XMR 10\d\.\d\d
        ){3,4}-- old prices, since the link was cut \(1006\): connection reset
        (BTC 1[01]\d\.\d\d  ETH 1[01]\d\.\d\d  XMR 1[01]\d\.\d\d
        ){2,4}""",
    "virtual_network": r"""
        careless, seed 0: lost \d+ of 160
        careless, seed 1: lost \d+ of 160
        careless, seed 2: lost \d+ of 160
        careful, seed 0: lost 0 of 160
        careful, seed 1: lost 0 of 160
        careful, seed 2: lost 0 of 160
        160 virtual seconds took \d+\.\d\d real ones
        """,
}


def story(name: str) -> str:
    return re.sub(r"\n +", "\n", STORIES[name]).removeprefix("\n")


def said(capsys: Capture) -> list[str]:
    """The lines printed since the last call."""
    return capsys.readouterr().out.splitlines()


def test_every_example_has_its_story() -> None:
    """No example is forgotten here."""
    assert {path.stem for path in EXAMPLES.glob("[!_]*.py")} == set(STORIES)


@pytest.mark.parametrize("name", STORIES)
def test_example_as_a_program(name: str) -> None:
    """`python examples/<name>.py` tells its story, ends by itself and warns of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert re.fullmatch(story(name), done.stdout), done.stdout


async def cut_links(world: World, *cuts: tuple[int, Towards, CutKind]) -> None:
    """Cut the next links: each after so many bytes in one direction."""
    for count, towards, how in cuts:
        link = await world.network.wait_connection()
        link.cut_after(count, towards=towards, how=how)
        await link.wait_ended()


#: The first bytes are those of the handshake; what the examples say fits in 2000.
ANYWHERE = tuple(
    product((*range(0, 400, 40), 500, 700, 1000, 1500), ("server", "client"), ("rst", "fin"))
)


# quickstart


@pytest.mark.parametrize(("count", "towards", "how"), [*ANYWHERE, (200, "client", "vanish")])
@virtual
async def test_quickstart_across_cuts(
    count: int, towards: Towards, how: CutKind, capsys: Capture
) -> None:
    """Wherever the link is cut, every line is read once and in order."""
    async with open_world() as world:
        await world.serve(quickstart.lobby)
        world.nursery.start_soon(cut_links, world, (count, towards, how))
        async with world.connect() as conn:
            await quickstart.listen(conn)
    lines = said(capsys)
    assert [line for line in lines if "missed" not in line] == list(quickstart.LINES)
