"""The examples run, and do what they say while their links are cut."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

import trio_rt
from examples import market_feed, offline_queue, quickstart, token_refresh, virtual_network
from examples.offline_queue import send_all
from tests.helpers import World, either_link, open_world
from tests.testing.support import virtual
from trio_rt import (
    CredentialsRefused,
    DecodeError,
    Meta,
    Outcome,
    PayloadError,
    Priority,
    SessionLimits,
)
from trio_rt.message import ACKED, INDETERMINATE, WITHDRAWN, dropped
from trio_rt.testing import CutKind, Towards, run

EXAMPLES = Path(quickstart.__file__).parent

Capture: TypeAlias = pytest.CaptureFixture[str]
Cut: TypeAlias = tuple[int, Towards, CutKind]

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
        a log line   acked
        a chat line  acked
        an alarm     acked
        old position dropped \(replaced\)
        new position acked
        a bid        dropped \(expired\)
        typing       dropped \(offline\)
        a mistake    withdrawn
        """,
    "token_refresh": r"""
        server: token-1 is good
        client: I am ada
        -- the link is cut
        server: token-1 is good
        -- the token expires, and the link is cut
        server: 401, token-1 is not good
        server: token-2 is good
        -- the account is locked, and the link is cut
        server: 401, token-2 is not good
        server: 401, token-3 is not good
        client: gave up: the server refuses the credentials: ws://server/ answered 401 .*
        """,
    "market_feed": r"""
        BTC 10\d\.\d\d
        (BTC 10\d\.\d\d  ETH 10\d\.\d\d
        ){3,6}-- all of this is old: the link was cut \(1006\): connection reset
        BTC 10\d\.\d\d
        (BTC 10\d\.\d\d  ETH 10\d\.\d\d
        ){1,4}-- all of this is old: the link was cut \(1006\): connection reset
        BTC 10\d\.\d\d
        (BTC 10\d\.\d\d  ETH 1[01]\d\.\d\d
        ){0,3}""",
    "crawler": r"""
        the user: after \d\.\d\d s, coalesced; \d+ waited
        the crawler: after [1-9]\.\d\d s, 44 miss
        the crawler: after 0\.\d\d s, 44 hit
        the site: at most 2 and 2 requests at once
        the site: 1 request for each page
        """,
    "dashboard": r"""
        price 1 \(miss\), balance 100
        (price \d+ \((hit|stale)\), balance 100
        )+-- the back end is dead
        (price \d+ \((hit|stale)\), balance \? \(\w+Error\)
        )+(price \d+ \((hit|stale)\), balance \? \(CircuitOpen\)
        )+(price \d+ \(stale\), balance \? \(\w+\)
        )*-- there is a new one
        (price \d+ \(\w+\), balance \? \(\w+\)
        )*(price \d+ \(\w+\), balance 100
        )+of \d+ tries \d+ were spared
        """,
    "shared_token": r"""
        a task fetches a token
        ten tasks: 1 token, 0 refusals
        a task fetches a token
        and again: 2 tokens, 10 refusals
        """,
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


#: These can be told to run on it.
ON_HTTPX2 = ("crawler", "shared_token")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [*((name, []) for name in STORIES), *((name, ["httpx2"]) for name in ON_HTTPX2)],
)
def test_example_as_a_program(name: str, arguments: list[str]) -> None:
    """`python examples/<name>.py` tells its story, ends by itself and warns of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert re.fullmatch(story(name), done.stdout), done.stdout


async def cut_links(world: World, *cuts: Cut) -> None:
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


@pytest.mark.usefixtures("each_wire")
@pytest.mark.parametrize("session", [None, SessionLimits()], ids=["plain", "session"])
@pytest.mark.parametrize(("count", "towards", "how"), [*ANYWHERE, (200, "client", "vanish")])
@virtual
async def test_quickstart_across_cuts(
    count: int, towards: Towards, how: CutKind, session: SessionLimits | None, capsys: Capture
) -> None:
    """On each wire, wherever the link is cut, every line is read once and in order."""
    async with open_world() as world:
        await world.serve(quickstart.lobby, session=session)
        world.nursery.start_soon(cut_links, world, (count, towards, how))
        async with world.connect() as conn:
            await quickstart.listen(conn)
    lines = said(capsys)
    assert [line for line in lines if "missed" not in line] == list(quickstart.LINES)


@virtual
async def test_quickstart_notices_a_cut(capsys: Capture) -> None:
    """A cut between the two lines is told where it was."""
    async with open_world() as world:
        await world.serve(quickstart.lobby)
        world.nursery.start_soon(cut_links, world, (320, "client", "rst"))
        async with world.connect(session="off") as conn:
            await quickstart.listen(conn)
        assert world.network.statistics().cuts == 1
    assert said(capsys)[1].startswith("missed something: Reset(cause=LinkClosed(1006")


# offline_queue

#: What is worth sending after the outage, in the order of urgency.
WORTHY = ["alarm: smoke!", "chat: anybody there?", "position: [1, 2]", "log: disk 90 % full"]


def outcomes_at(best: Outcome) -> dict[str, Outcome]:
    """What becomes of the messages, if that is the best there is."""
    return {
        "a log line": best,
        "a chat line": best,
        "an alarm": best,
        "old position": dropped("replaced"),
        "new position": best,
        "a bid": dropped("expired"),
        "typing": dropped("offline"),
        "a mistake": WITHDRAWN,
    }


async def sit_out(world: World, conn: trio_rt.Connection) -> dict[str, Any]:
    """Send while the server is out of reach, and wait until it is not: the outcomes."""
    deliveries = await send_all(conn)
    await trio.sleep(offline_queue.OUTAGE_S)
    world.network.accept("server")
    await conn.drain()
    assert conn.statistics().accepted == len(deliveries)
    return {name: delivery.outcome for name, delivery in deliveries.items()}


@either_link
@virtual
async def test_offline_queue_before_the_first_link(
    session: str, best: Outcome, capsys: Capture
) -> None:
    """It makes no difference whether there ever was a link."""
    async with open_world() as world:
        await world.serve(offline_queue.show)
        world.network.refuse("server")
        async with world.connect(session=session) as conn:
            assert await sit_out(world, conn) == outcomes_at(best)
    assert said(capsys) == [f"the server gets {line}" for line in WORTHY]


@either_link
@pytest.mark.parametrize(("count", "towards", "how"), ANYWHERE)
@virtual
async def test_offline_queue_across_another_cut(
    count: int, towards: Towards, how: CutKind, session: str, best: Outcome, capsys: Capture
) -> None:
    """The first link after the outage is cut too: what arrives is still in order.

    What was on its way is `indeterminate` on a plain link, and in a session it is sent
    again; what was not to be sent is not.
    """
    async with open_world() as world:
        await world.serve(offline_queue.show)
        world.network.refuse("server")
        world.nursery.start_soon(cut_links, world, (count, towards, how))
        async with world.connect(session=session) as conn:
            outcomes = await sit_out(world, conn)
            await conn.wait_connected()
            await trio.sleep(1)
    told = [line.removeprefix("the server gets ") for line in said(capsys)]
    expected = outcomes_at(best)
    if best is ACKED:
        assert (told, outcomes) == (WORTHY, expected)
    assert told == WORTHY[: len(told)]
    for name, outcome in outcomes.items():
        assert outcome is expected[name] or (outcome is INDETERMINATE and expected[name] is best)


# token_refresh


@either_link
@pytest.mark.parametrize(("count", "towards", "how"), ANYWHERE)
@virtual
async def test_token_refresh_across_cuts(
    count: int, towards: Towards, how: CutKind, session: str, best: Outcome, capsys: Capture
) -> None:
    """Refusals and fresh tokens may be cut off at any byte: it ends with a good token."""
    accounts = token_refresh.Accounts()
    login = token_refresh.Login(accounts, "ada")
    async with open_world() as world:
        await world.serve(accounts.welcome, accept=accounts.check)
        async with world.connect(credentials=login.credentials, session=session) as conn:
            world.nursery.start_soon(token_refresh.listen, conn)
            await trio.sleep(60)
            accounts.users_by_token.clear()
            world.network.cut()
            world.nursery.start_soon(cut_links, world, *[(count, towards, how)] * 2)
            await trio.sleep(60)
            assert conn.state.phase is trio_rt.Phase.CONNECTED
    lines = said(capsys)
    assert lines[:2] == ["server: token-1 is good", "client: I am ada"]
    welcomes = [number for number, line in enumerate(lines) if line == "client: I am ada"]
    # A session, with its handler, outlives both token and link.
    assert (welcomes[0], welcomes[-1]) == (1, 1 if best is ACKED else len(lines) - 1)
    assert list(accounts.users_by_token) == ["token-2"]


@virtual
async def test_token_refresh_while_nobody_can_log_in(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that fails for a while is tried again; the stale token is not."""
    accounts = token_refresh.Accounts()
    login = token_refresh.Login(accounts, "ada")
    log_in, failures = accounts.log_in, iter([OSError("down"), OSError("still down")])

    async def log_in_later(user: str) -> str:
        for failure in failures:
            raise failure
        return await log_in(user)

    async with open_world() as world:
        await world.serve(accounts.welcome, accept=accounts.check)
        async with world.connect(credentials=login.credentials) as conn:
            await conn.wait_connected()
            await trio.sleep(60)
            accounts.users_by_token.clear()
            monkeypatch.setattr(accounts, "log_in", log_in_later)
            world.network.cut()
            await trio.sleep(60)
            assert conn.state.phase is trio_rt.Phase.CONNECTED
    assert said(capsys) == [
        "server: token-1 is good",
        "server: 401, token-1 is not good",
        "server: token-2 is good",
    ]


@virtual
async def test_token_refresh_for_a_locked_account(capsys: Capture) -> None:
    """Fresh credentials refused, `connect()` raises one exception, in no group."""
    accounts = token_refresh.Accounts()
    accounts.locked = True
    login = token_refresh.Login(accounts, "ada")
    async with open_world() as world:
        await world.serve(accounts.welcome, accept=accounts.check)
        with pytest.raises(CredentialsRefused):
            async with world.connect(credentials=login.credentials) as conn:
                await token_refresh.listen(conn)
    assert said(capsys) == [f"server: 401, token-{number} is not good" for number in (1, 2)]


# market_feed


async def watch_prices(world: World, seconds: float) -> None:
    await world.serve(market_feed.exchange, codec="raw")
    async with world.connect(codec=market_feed.Dialect(), greet=market_feed.subscribe) as conn:
        with trio.move_on_after(seconds):
            await market_feed.show_prices(conn)


def prices(row: str) -> list[float]:
    """The numbers on the screen."""
    return [float(word) for word in row.split()[1::2]]


@pytest.mark.parametrize("how", ["rst", "fin", "vanish"])
@virtual
async def test_market_feed_across_cuts(how: CutKind, capsys: Capture) -> None:
    """Every new link is subscribed on, and the screen begun anew."""
    async with open_world() as world:
        cuts: list[Cut] = [(count, "client", how) for count in (100, 500, 3000, 20_000)]
        world.nursery.start_soon(cut_links, world, *cuts)
        await watch_prices(world, 200)
        assert world.network.statistics().cuts == len(cuts)
    rows = said(capsys)
    links = [number for number, row in enumerate(rows) if row.startswith("-- all of this is old")]
    # The first cut is in the handshake, and the last one's link is replaced.
    assert len(links) == len(cuts) - 1
    assert [len(prices(rows[number + 1])) for number in links] == [1] * len(links)
    assert 298.5 < max(prices(rows[-1])) <= 300


@virtual
async def test_market_feed_conflates(capsys: Capture) -> None:
    """A screen that takes a second shows the newest of ten prices a second."""
    async with open_world() as world:
        await watch_prices(world, 30.5)
    drawn = [max(prices(row)) for row in said(capsys)]
    assert len(drawn) == 31
    for older, newer in pairwise(drawn):
        assert newer - older == pytest.approx(1, abs=0.11)


META = Meta(id="1", timestamp=None, priority=Priority.NORMAL, key=None)


def test_market_feed_dialect() -> None:
    """The codec says what the exchange understands, and complains as a codec should."""
    dialect = market_feed.Dialect()
    assert isinstance(dialect, trio_rt.Codec)
    assert dialect.encode("subscribe", ["BTC"], META) == b'{"op":"subscribe","args":["BTC"]}'
    with pytest.raises(PayloadError):
        dialect.encode("subscribe", object(), META)
    (message,) = dialect.decode('{"channel":"ticker","data":{"symbol":"BTC","price":1}}')
    assert (message.type, dialect.correlate(message)) == ("ticker", None)
    for data in ("", "[]", '{"channel":1}', b"\xff"):
        with pytest.raises(DecodeError):
            list(dialect.decode(data))


# virtual_network

SEEDS = range(3, 9)


@pytest.mark.parametrize("seed", SEEDS)
def test_virtual_network_careful(seed: int) -> None:
    """The careful program loses nothing."""
    assert run(virtual_network.story, seed, virtual_network.careful, seed=seed) == []


def test_virtual_network_careless() -> None:
    """The careless one loses something for most seeds, and for the same seed the same."""
    losses = [
        [run(virtual_network.story, seed, virtual_network.careless, seed=seed) for _ in range(2)]
        for seed in SEEDS
    ]
    assert all(first == second for first, second in losses)
    assert sum(bool(lost) for lost, _ in losses) > len(SEEDS) // 2
