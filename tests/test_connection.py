"""The life of a connection: attempts, states, reconnects, and the ways it ends."""

# ruff: noqa: PT012 - what raises is the end of a block, with its body

from __future__ import annotations

import gc
import logging
import signal
import weakref
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
from websockets.frames import Opcode

import trio_rt
from tests.clocked import Steps
from tests.helpers import FarEnd, Script, World, echo, open_world, outlast, own_tasks, sink
from tests.testing.support import virtual
from trio_rt import (
    Attempt,
    AttemptsExhausted,
    Credentials,
    CredentialsRefused,
    DialError,
    Greeting,
    HandshakeError,
    HookError,
    HookFailed,
    LinkClosed,
    Message,
    Phase,
    Priority,
    ProtocolBroken,
    Reconnect,
    Reset,
    ServerRefused,
    State,
)
from trio_rt.message import INDETERMINATE, WITHDRAWN, WRITTEN, dropped

pytestmark = pytest.mark.usefixtures("each_wire")

CONNECTING, CONNECTED, RECONNECTING, DISCONNECTED, FAILED = Phase

FAST = Reconnect(first_s=0.1, cap_s=0.1)


async def collect(states: trio_rt.StateStream, into: list[State]) -> None:
    into.extend([state async for state in states])


# The states


@virtual
async def test_the_body_starts_at_once() -> None:
    """The body runs before anything is dialled, in CONNECTING."""
    async with open_world() as world:
        await world.serve(echo)
        began = trio.current_time()
        async with world.connect() as conn:
            assert trio.current_time() == began
            assert conn.state == State(CONNECTING)
            assert world.network.statistics().dials == 0
            await conn.wait_connected()
            assert conn.state == State(CONNECTED, attempt=1)


@virtual
async def test_states_of_a_life() -> None:
    """Watchers see each dial with its number, each wait with its end and its cause."""
    seen: list[State] = []
    async with open_world() as world:
        await world.serve(echo)
        world.network.refuse("server")
        async with trio.open_nursery() as nursery, world.connect() as conn:
            nursery.start_soon(collect, conn.watch_states(), seen)
            await outlast(lambda: conn.state.retry_at is None, 0.01)
            world.network.accept("server")
            await conn.wait_connected()
            world.network.cut()
            await outlast(lambda: conn.state.phase is CONNECTED, 0.01)
            await conn.wait_connected()
    assert [(s.phase, s.attempt, s.retry_at is None) for s in seen] == [
        (CONNECTING, 0, True),
        (CONNECTING, 1, True),
        (CONNECTING, 1, False),
        (CONNECTING, 2, True),
        (CONNECTED, 2, True),
        (RECONNECTING, 2, False),
        (RECONNECTING, 3, True),
        (CONNECTED, 3, True),
        (DISCONNECTED, 3, True),
    ]
    assert isinstance(seen[2].cause, DialError)
    assert seen[3].cause is seen[2].cause
    assert seen[4].cause is None
    assert isinstance(seen[5].cause, LinkClosed)


@virtual
async def test_retry_at_is_when_it_dials() -> None:
    """`State.retry_at` is the time of the next dial, on trio's clock."""
    async with open_world() as world:
        world.network.refuse("server")
        dialled: list[float] = []

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            dialled.append(trio.current_time())
            return await world.network.open_stream(host, port)

        async with world.connect(open_stream=open_stream) as conn:
            for _ in range(5):
                await outlast(lambda: conn.state.retry_at is None, 0.001)
                until, count = conn.state.retry_at, len(dialled)
                await outlast(lambda count=count: len(dialled) == count, 0.001)  # type: ignore[misc]
                assert dialled[-1] == pytest.approx(until, abs=0.002)


@virtual
async def test_wait_connected_after_the_end() -> None:
    """`wait_connected()` raises `ClosedResourceError` when the connection is over."""
    async with open_world() as world:
        await world.serve(echo)
        async with world.connect() as conn:
            await conn.wait_connected()
        with pytest.raises(trio.ClosedResourceError):
            await conn.wait_connected()


@virtual
async def test_wait_connected_when_it_ends() -> None:
    """Who waits for a link when the connection ends, or fails, is told so."""
    async with open_world() as world:
        world.network.refuse("server")
        ended: list[str] = []

        async def wait(conn: trio_rt.Connection, name: str) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await conn.wait_connected()
            ended.append(name)

        async with trio.open_nursery() as nursery:
            async with world.connect() as conn:
                nursery.start_soon(wait, conn, "left")
                await trio.sleep(1)
            with pytest.raises(AttemptsExhausted):
                async with world.connect(reconnect=Reconnect(max_attempts=2)) as conn:
                    nursery.start_soon(wait, conn, "failed")
                    await trio.sleep_forever()
        assert ended == ["left", "failed"]


@virtual
async def test_retry_now() -> None:
    """`retry_now()` cuts the wait short; without a wait it does nothing."""
    async with open_world() as world:
        world.network.refuse("server")
        async with world.connect(reconnect=Reconnect(first_s=1e6, cap_s=1e6)) as conn:
            conn.retry_now()
            await outlast(lambda: conn.state.retry_at is None, 0.01)
            assert conn.state.attempt == 1
            await world.serve(echo)
            world.network.accept("server")
            conn.retry_now()
            with trio.fail_after(1):
                await conn.wait_connected()


@virtual
async def test_retry_now_twice() -> None:
    """Two calls in one wait cut short that wait and not the next one as well."""
    async with open_world() as world:
        world.network.refuse("server")
        async with world.connect(reconnect=Reconnect(first_s=1e6, cap_s=1e6)) as conn:
            await outlast(lambda: conn.state.retry_at is None, 0.01)
            conn.retry_now()
            conn.retry_now()
            await trio.sleep(10)
            assert conn.state.attempt == 2


# Every way out of an attempt leads back to the supervisor


async def refused(world: World) -> None:
    world.network.refuse("server")


async def no_name(world: World) -> None:
    return


async def reset(world: World) -> None:
    async def script(far: FarEnd) -> None:
        await far.hear()
        far.stream.abort()

    world.script(script)


def answers(status: int, **headers: str) -> Callable[[World], Awaitable[None]]:
    async def cause(world: World) -> None:
        world.script(lambda far: far.refuse(status, **headers))

    return cause


async def silent(world: World) -> None:
    async def script(far: FarEnd) -> None:
        await trio.sleep_forever()

    world.script(script)


async def black_hole(world: World) -> None:
    world.network.listen("server", 80)
    world.network.black_hole("server")


async def no_http(world: World) -> None:
    async def script(far: FarEnd) -> None:
        await far.hear()
        await far.send_raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")

    world.script(script)


@pytest.mark.parametrize(
    ("trouble", "error", "detail"),
    [
        (refused, DialError, "tcp"),
        (no_name, DialError, "dns"),
        (reset, DialError, "handshake"),
        (silent, DialError, "dial"),
        (black_hole, DialError, "dial"),
        (answers(500), HandshakeError, 500),
        (answers(503), HandshakeError, 503),
        (answers(429), HandshakeError, 429),
        (answers(408), HandshakeError, 408),
    ],
)
@virtual
async def test_failed_dials_are_retried(
    trouble: Callable[[World], Awaitable[None]], error: type[Exception], detail: object
) -> None:
    """Whatever ends an attempt, the first one included, is shown as a cause and retried."""
    async with open_world() as world:
        await trouble(world)
        async with world.connect(open_timeout_s=2) as conn:
            await outlast(lambda: conn.state.attempt < 3, 0.1)
            assert conn.state.phase is CONNECTING
            cause = conn.state.cause
            assert isinstance(cause, error)
            assert detail in (getattr(cause, "stage", None), getattr(cause, "status", None))
            assert own_tasks() >= 1


@virtual
async def test_tls_garbage_is_retried() -> None:
    """A server that does not speak TLS fails the attempt, at the stage "tls"."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.stream.receive_some()
            await far.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        ends = world.script(script, port=443)
        async with world.connect("wss://server/") as conn:
            await outlast(lambda: len(ends) < 3, 0.1)
            assert isinstance(conn.state.cause, DialError)
            assert conn.state.cause.stage == "tls"


@virtual
async def test_open_timeout() -> None:
    """An attempt that hangs is given up after `open_timeout_s`, its socket closed."""
    async with open_world() as world:
        await silent(world)
        async with world.connect(open_timeout_s=3, reconnect=Reconnect(first_s=100)) as conn:
            await outlast(lambda: conn.state.retry_at is None, 0.01)
            assert trio.current_time() == pytest.approx(3, abs=0.02)
            assert "within 3 s" in str(conn.state.cause)
            assert world.open_sockets == 0


@virtual
async def test_retry_after() -> None:
    """`Retry-After` of a refused handshake is a lower bound of the wait."""
    async with open_world() as world:
        ends = world.script(lambda far: far.refuse(503, Retry_After="7"))
        async with world.connect():
            await outlast(lambda: len(ends) < 4, 0.1)
        times = [end.opened_at for end in ends]
        assert all(7 <= b - a <= 11 for a, b in pairwise(times))


@virtual
async def test_advice_in_a_close() -> None:
    """A close with 1012 or 1013 and `retry-after=` is obeyed."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await far.close(1012 + far.number % 2, "restart retry-after=9")

        ends = world.script(script)
        async with world.connect():
            await outlast(lambda: len(ends) < 3, 0.1)
        times = [end.opened_at for end in ends]
        assert all(b - a >= 9 for a, b in pairwise(times))


# Fatal causes


@virtual
async def test_401_refreshes_the_credentials_once() -> None:
    """401: the credentials are asked again with `refused=True`; a second 401 is fatal."""
    async with open_world() as world:
        world.script(lambda far: far.refuse(401))
        asked: list[Attempt] = []

        async def credentials(attempt: Attempt) -> Credentials:
            asked.append(attempt)
            return Credentials(token=f"token{len(asked)}")

        with pytest.raises(CredentialsRefused) as caught:
            async with world.connect(credentials=credentials):
                await trio.sleep_forever()
        assert [(a.number, a.refused) for a in asked] == [(1, False), (2, True)]
        assert isinstance(caught.value.__cause__, HandshakeError)
        assert asked[1].cause is not None


@virtual
async def test_4401_refreshes_the_credentials_once() -> None:
    """A close with 4401 is the same as a 401."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await far.close(4401)

        world.script(script)
        refused: list[bool] = []

        async def credentials(attempt: Attempt) -> Credentials:
            refused.append(attempt.refused)
            return Credentials()

        with pytest.raises(CredentialsRefused):
            async with world.connect(credentials=credentials):
                await trio.sleep_forever()
        assert refused == [False, True]


@pytest.mark.parametrize("status", [400, 403, 404, 200])
@virtual
async def test_fatal_statuses(status: int) -> None:
    """A status that is no accident, on a URL that never connected, is fatal at once."""
    async with open_world() as world:
        ends = world.script(lambda far: far.refuse(status))
        with pytest.raises(ServerRefused) as caught:
            async with world.connect():
                await trio.sleep_forever()
        offers = ["Sec-WebSocket-Protocol" in end.request.headers for end in ends]
        # A 400 may be about the offer of a session, and is asked again without.
        assert offers == ([True, False] if status == 400 else [True])
        assert isinstance(caught.value.__cause__, HandshakeError)
        assert caught.value.__cause__.status == status


@virtual
async def test_404_of_a_url_that_worked() -> None:
    """A 404 of a URL that has connected before is a deploy, and retried."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            if far.number in (2, 3):
                await far.refuse(404)
            await far.accept()
            if far.number == 1:
                await far.close(1001)
            await far.read_all()

        ends = world.script(script)
        async with world.connect(reconnect=FAST) as conn:
            await outlast(lambda: len(ends) < 4, 0.1)
            await conn.wait_connected()
            assert conn.state.attempt == 4


@virtual
async def test_three_breaches_in_a_row() -> None:
    """Three links in a row that break the protocol are fatal."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await far.send_raw(b"\xff" * 20)
            await far.read_all()

        ends = world.script(script)
        with pytest.raises(ProtocolBroken):
            async with world.connect(reconnect=FAST):
                await trio.sleep_forever()
        assert len(ends) == 3


@virtual
async def test_the_programs_own_verdict() -> None:
    """`Reconnect.verdict` overrides the table; None leaves it."""
    async with open_world() as world:
        ends = world.script(lambda far: far.refuse(404 if far.number < 3 else 418))

        def verdict(cause: trio_rt.LinkError) -> Any:
            assert isinstance(cause, HandshakeError)
            return "retry" if cause.status == 404 else None

        with pytest.raises(ServerRefused):
            async with world.connect(reconnect=Reconnect(first_s=0, verdict=verdict)):
                await trio.sleep_forever()
        assert len(ends) == 3


@virtual
async def test_max_attempts() -> None:
    """`max_attempts` dials in a row without a proven link, and it is over."""
    async with open_world() as world:
        world.network.refuse("server")
        with pytest.raises(AttemptsExhausted) as caught:
            async with world.connect(reconnect=Reconnect(max_attempts=4)):
                await trio.sleep_forever()
        assert world.network.statistics().dials == 4
        assert isinstance(caught.value.__cause__, DialError)


@virtual
async def test_give_up_after() -> None:
    """`give_up_after_s` seconds without a proven link, and it is over."""
    async with open_world() as world:
        world.network.refuse("server")
        with pytest.raises(AttemptsExhausted):
            async with world.connect(reconnect=Reconnect(give_up_after_s=20)):
                await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(20, abs=0.1)


@virtual
async def test_accept_then_close_exhausts_the_attempts() -> None:
    """Links that do not prove themselves count as failed dials."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await far.close(1000)

        ends = world.script(script)
        with pytest.raises(AttemptsExhausted):
            async with world.connect(reconnect=Reconnect(max_attempts=3)):
                await trio.sleep_forever()
        assert len(ends) == 3


# Several URLs


@virtual
async def test_failover_and_stickiness() -> None:
    """A URL that fails is left for the next, and one that works is kept."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            if far.number < 3:
                await far.close(1012)
            await far.read_all()

        world.network.refuse("a")
        ends = world.script(script, "b")
        async with world.connect(["ws://a/", "ws://b/"], reconnect=FAST) as conn:
            await outlast(lambda: len(ends) < 3, 0.1)
            await conn.wait_connected()
        assert world.network.statistics().refused == 1


@virtual
async def test_a_fatal_verdict_strikes_one_url() -> None:
    """A fatal verdict strikes that URL only; the connection fails when none is left."""
    async with open_world() as world:
        a = world.script(lambda far: far.refuse(403), "a")
        b = world.script(lambda far: far.refuse(503 if far.number < 4 else 404), "b")
        with pytest.raises(ServerRefused, match="404"):
            async with world.connect(["ws://a/", "ws://b/"], reconnect=FAST):
                await trio.sleep_forever()
        assert (len(a), len(b)) == (1, 4)


# When it dials again


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
@virtual
async def test_a_close_by_the_server_is_a_lost_link(code: int) -> None:
    """A close by the server, with 1000 too, is no reason to stop."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            if far.number == 1:
                await far.close(code, "bye")
            await far.read_all()

        ends = world.script(script)
        async with world.connect() as conn:
            await outlast(lambda: conn.state.phase is not RECONNECTING, 0.001)
            cause = conn.state.cause
            assert isinstance(cause, LinkClosed)
            assert (cause.code, cause.reason, cause.by_peer) == (code, "bye", True)
            await conn.wait_connected()
            assert len(ends) == 2


@virtual
async def test_no_hot_loop() -> None:
    """A server that accepts and closes at once is dialled at most 20 times in a minute."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept("hello")
            await far.close(1000)

        ends = world.script(script)
        async with world.connect():
            await trio.sleep(60)
        assert 4 <= len(ends) <= 20


@virtual
async def test_every_redial_is_jittered() -> None:
    """Clients that lost their links together redial at different times, at once too."""
    async with open_world() as world:
        times: list[float] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            if far.number > 30:
                times.append(far.opened_at)
            await far.read_all()

        ends = world.script(script)
        async with trio.open_nursery() as nursery:

            async def client() -> None:
                async with world.connect():
                    await trio.sleep_forever()

            for _ in range(30):
                nursery.start_soon(client)
            await trio.sleep(2)
            assert len(ends) == 30
            world.network.cut()
            began = trio.current_time()
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        waits = [at - began for at in times]
        assert len(set(waits)) == 30
        assert min(waits) < 0.15
        assert 0.3 < max(waits) <= 0.6


def attempts_after(script: Script, **options: Any) -> Callable[[], Awaitable[list[int]]]:
    """The attempt numbers of the links that `script` lived through."""

    async def story() -> list[int]:
        async with open_world() as world:
            numbers: list[int] = []
            ends = world.script(script)
            async with world.connect(reconnect=FAST, **options) as conn:
                with conn.watch_states() as states:
                    async for state in states:
                        if state.phase is CONNECTED:
                            numbers.append(state.attempt)
                            if len(numbers) == 4:
                                break
            assert len(ends) == 4
            return numbers

    return story


@virtual
async def test_a_short_link_proves_nothing() -> None:
    """A link with messages, but shorter than `min_uptime_s`, does not reset the delay."""

    async def script(far: FarEnd) -> None:
        await far.accept("hello")
        await trio.sleep(4)
        await far.close()

    assert await attempts_after(script)() == [1, 2, 3, 4]


@virtual
async def test_a_silent_link_proves_nothing() -> None:
    """A link that lives long without a sign above TCP does not reset the delay."""

    async def script(far: FarEnd) -> None:
        await far.accept()
        await trio.sleep(6)
        await far.close()

    seldom = trio_rt.Liveness(interval_s=86_400)
    assert await attempts_after(script, liveness=seldom)() == [1, 2, 3, 4]


@virtual
async def test_without_pings_uptime_alone_proves_a_link() -> None:
    """With `liveness=None` no pong can be asked of a silent peer."""

    async def script(far: FarEnd) -> None:
        await far.accept()
        await trio.sleep(6)
        await far.close()

    assert await attempts_after(script, liveness=None)() == [1, 1, 1, 1]


@virtual
async def test_a_message_and_uptime_prove_a_link() -> None:
    """`min_uptime_s` and any message reset the delay."""

    async def script(far: FarEnd) -> None:
        await far.accept("hello")
        await trio.sleep(6)
        await far.close()

    assert await attempts_after(script, liveness=None)() == [1, 1, 1, 1]


@virtual
async def test_a_pong_and_uptime_prove_a_link() -> None:
    """`min_uptime_s` and a pong reset the delay."""

    async def script(far: FarEnd) -> None:
        await far.accept()
        with trio.move_on_after(6):
            await far.read_all()
        await far.close()

    liveness = trio_rt.Liveness(interval_s=2, timeout_s=2)
    assert await attempts_after(script, liveness=liveness)() == [1, 1, 1, 1]


# Credentials

CANARY = "s3cr3t-canary"


@virtual
async def test_fixed_credentials() -> None:
    """They are shown at each attempt; refused, they are shown once more, and that is the end."""
    async with open_world() as world:
        ends = world.script(lambda far: far.refuse(401))
        with pytest.raises(CredentialsRefused):
            async with world.connect(credentials=Credentials(token=CANARY)) as conn:
                await conn.wait_connected()
    shown = [end.request.headers["Authorization"] for end in ends]
    assert shown == [f"Bearer {CANARY}"] * 2


@virtual
async def test_credentials_are_used_and_asked_anew() -> None:
    """Each attempt is made with the headers, URL, subprotocols and token just given."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            if far.number == 2:
                await far.read_all()
            await far.close()

        ends = world.script(script, "other")

        async def credentials(attempt: Attempt) -> Credentials:
            return Credentials(
                headers={"X-Number": str(attempt.number)},
                url=f"ws://other/in?ticket={attempt.number}",
                protocols=["one", "two"],
                token=f"{CANARY}{attempt.number}",
            )

        async with world.connect(
            credentials=credentials, protocols=["zero"], headers={"X-Own": "yes"}
        ) as conn:
            await outlast(lambda: len(ends) < 2, 0.1)
            await conn.wait_connected()
    for number, end in enumerate(ends, 1):
        request = end.request
        assert request.path == f"/in?ticket={number}"
        assert request.headers["X-Number"] == str(number)
        assert request.headers["X-Own"] == "yes"
        assert request.headers["Authorization"] == f"Bearer {CANARY}{number}"
        offered = request.headers["Sec-WebSocket-Protocol"]
        assert offered == "one, two, trio-rt.plain, trio-rt.v1+json"


@virtual
async def test_credentials_error() -> None:
    """An error in `credentials` is logged, shown as a cause, and retried."""
    async with open_world() as world:
        await world.serve(echo)

        async def credentials(attempt: Attempt) -> Credentials:
            if attempt.number == 1:
                raise OSError("the token service is down")
            assert isinstance(attempt.cause, HookError)
            assert isinstance(attempt.cause.__cause__, OSError)
            return Credentials()

        async with world.connect(credentials=credentials) as conn:
            await conn.wait_connected()
            assert conn.state.attempt == 2


@pytest.mark.parametrize("error", [TypeError, AttributeError, NameError])
@virtual
async def test_a_bug_in_credentials(error: type[Exception]) -> None:
    """What is surely a bug in `credentials` is fatal at once."""
    async with open_world() as world:

        async def credentials(attempt: Attempt) -> Credentials:
            raise error("oops")

        with pytest.raises(HookFailed) as caught:
            async with world.connect(credentials=credentials):
                await trio.sleep_forever()
        assert isinstance(caught.value.__cause__, HookError)
        assert isinstance(caught.value.__cause__.__cause__, error)
        assert world.network.statistics().dials == 0


@virtual
async def test_credentials_that_hang() -> None:
    """`open_timeout_s` bounds `credentials` as well."""
    async with (
        open_world() as world,
        world.connect(credentials=lambda attempt: trio.sleep_forever(), open_timeout_s=2) as conn,
    ):
        await outlast(lambda: conn.state.retry_at is None, 0.01)
        assert isinstance(conn.state.cause, DialError)
        assert conn.state.cause.stage == "credentials"


@pytest.mark.parametrize(
    "given",
    [
        Credentials(headers={"Upgrade": "h2c"}),
        Credentials(headers={"X": "a\r\nb"}),
        Credentials(protocols=[f"{CANARY} b"]),
        Credentials(protocols=[CANARY, CANARY]),
        Credentials(url="http://server/"),
        Credentials(token="a\nb"),
    ],
)
@virtual
async def test_credentials_that_cannot_be_sent(
    given: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    """Credentials that no handshake can carry are an error of the hook, logged, and retried."""
    async with open_world() as world:
        await world.serve(echo)

        async def credentials(attempt: Attempt) -> Credentials:
            return given if attempt.number == 1 else Credentials()

        async with world.connect(credentials=credentials) as conn:
            await outlast(lambda: conn.state.cause is None)
            assert CANARY not in f"{conn.state!r}"
            await conn.wait_connected()
            assert conn.state.attempt == 2
    assert "credentials raised" in caplog.text
    assert CANARY not in caplog.text


@virtual
async def test_secrets_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """No log line, state, exception or repr shows what credentials, URL or headers hold."""
    shown: list[str] = []
    with caplog.at_level(logging.DEBUG):
        async with open_world() as world:
            world.script(lambda far: far.refuse(401 if far.number > 1 else 503))

            async def credentials(attempt: Attempt) -> Credentials:
                given = Credentials(
                    headers={"X-Key": CANARY},
                    url=f"ws://user:{CANARY}@server/?token={CANARY}",
                    protocols=[CANARY],
                    token=CANARY,
                )
                shown.append(f"{attempt!r} {given!r}")
                return given

            with pytest.raises(CredentialsRefused) as caught:
                async with world.connect(
                    f"ws://user:{CANARY}@server/?token={CANARY}",
                    headers={"X-Key": CANARY},
                    credentials=credentials,
                ) as conn:
                    with conn.watch_states() as states:
                        async for state in states:
                            shown.append(repr(state))  # noqa: PERF401 - it is cut short
        error: BaseException | None = caught.value
        while error is not None:
            shown.append(f"{error!r} {error}")
            error = error.__cause__
    assert len(shown) > 8
    assert CANARY not in " ".join(shown) + caplog.text


# Greeting


@virtual
async def test_greet_comes_before_the_outbox() -> None:
    """`greet` talks on each link first; what it did not read goes to the streams."""
    async with open_world() as world:
        first: list[list[str | None]] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            said = [await far.text()]
            await far.send("welcome", '{"type": "early"}')
            said.append(await far.text())
            first.append(said)
            if far.number == 1:
                await far.close()
            await far.read_all()

        world.script(script)
        resumed: list[bool] = []

        async def greet(greeting: Greeting) -> None:
            resumed.append(greeting.resumed)
            await greeting.send("login")
            assert await greeting.receive() == "welcome"

        async with world.connect(greet=greet) as conn:
            with conn.subscribe() as stream:
                await conn.send("one")
                assert [await stream.receive() for _ in range(3)] == [
                    Message("early", None, received_at=pytest.approx(0.2, abs=0.2)),  # type: ignore[arg-type]
                    Reset(),
                    Message("early", None, received_at=pytest.approx(0.9, abs=0.9)),  # type: ignore[arg-type]
                ]
                await conn.deliver("two")
                await trio.sleep(1)
        assert resumed == [False, False]
        assert [said[0] for said in first] == ["login", "login"]
        assert '"one"' in str(first[0][1])
        assert '"two"' in str(first[1][1])


@virtual
async def test_a_failing_greet_fails_the_attempt() -> None:
    """An error in `greet` closes that link, and the next attempt follows."""
    async with open_world() as world:
        await world.serve(echo)
        count = 0

        async def greet(greeting: Greeting) -> None:
            nonlocal count
            count += 1
            if count == 1:
                raise RuntimeError("not today")

        async with world.connect(greet=greet) as conn:
            await conn.wait_connected()
            assert conn.state.attempt == 2
            assert world.open_sockets == 1


@virtual
async def test_greet_that_hangs() -> None:
    """`open_timeout_s` bounds `greet`; the stage of the error is "greet"."""
    async with open_world() as world:
        world.script(sink)

        async def greet(greeting: Greeting) -> None:
            await greeting.receive()

        async with world.connect(greet=greet, open_timeout_s=2) as conn:
            await outlast(lambda: conn.state.retry_at is None, 0.01)
            assert isinstance(conn.state.cause, DialError)
            assert conn.state.cause.stage == "greet"
            assert world.open_sockets == 0


@virtual
async def test_a_link_that_ends_in_the_greeting() -> None:
    """A close during `greet` is the cause, judged as any close."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await far.close(4401)

        world.script(script)

        async def greet(greeting: Greeting) -> None:
            await greeting.receive()

        with pytest.raises(CredentialsRefused):
            async with world.connect(greet=greet):
                await trio.sleep_forever()


# Loss between links


@virtual
async def test_reset_in_every_stream_after_each_later_link() -> None:
    """Each later link puts one `Reset`, with its cause, before its messages."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept(f'{{"type": "n", "payload": {far.number}}}')
            await trio.sleep(0.1)
            if far.number < 3:
                await far.close(1012)
            await far.read_all()

        world.script(script)
        async with world.connect(reconnect=FAST) as conn:
            with conn.subscribe() as all_types, conn.subscribe("n") as one_type:
                for stream in (all_types, one_type):
                    items = [await stream.receive() for _ in range(5)]
                    kinds = [
                        item.payload if isinstance(item, Message) else type(item) for item in items
                    ]
                    assert kinds == [1, Reset, 2, Reset, 3]
                    assert isinstance(items[1], Reset)
                    assert isinstance(items[1].cause, LinkClosed)
                    assert items[1].cause.code == 1012


@virtual
async def test_what_arrived_is_not_kept_for_the_next_link() -> None:
    """Messages that a dead link brought are in the streams before there is another link."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept(*['{"type": "n"}'] * 10)
            far.stream.abort()

        world.script(script)
        async with world.connect(reconnect=Reconnect(first_s=1e5, cap_s=1e5)) as conn:
            with conn.subscribe(capacity=4) as stream:
                await outlast(lambda: conn.state.retry_at is None, 0.01)
                with trio.fail_after(1):
                    for _ in range(5):
                        await stream.receive()


# Leaving the block (P6)


def outcomes(conn: trio_rt.Connection) -> dict[trio_rt.Outcome, int]:
    """What became of the sends; they add up."""
    books = conn.statistics()
    assert books.accepted == sum(books.outcomes.values())
    assert (books.queued_bytes, books.in_flight, books.waiting) == (0, 0, 0)
    return dict(books.outcomes)


@virtual
async def test_leaving_drains() -> None:
    """On return what is queued is sent, the most urgent first, then closed with 1000."""
    async with open_world() as world:
        frames: list[Any] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            frames.extend(await far.read_all())

        world.script(script)
        async with world.connect() as conn:
            for number, priority in enumerate([0, 1, 2, 3, 1]):
                conn.send_nowait("n", number, priority=Priority(priority))
        assert own_tasks() == 1
        await trio.sleep(1)
        sent = [bytes(frame.data) for frame in frames[:-1]]
        assert [data[data.index(b"payload") + 9] - 48 for data in sent] == [3, 2, 1, 4, 0]
        assert frames[-1].data == b"\x03\xe8"
        assert outcomes(conn) == {WRITTEN: 5}
        assert conn.state.phase is DISCONNECTED


@virtual
async def test_an_error_of_the_body_drains() -> None:
    """An error of the body's own drains as well, and leaves as the same object."""
    async with open_world() as world:
        world.script(sink)
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught:
            async with world.connect() as conn:
                conn.send_nowait("n")
                raise error
        assert caught.value is error
        assert outcomes(conn) == {WRITTEN: 1}


@virtual
async def test_leaving_in_back_off() -> None:
    """Leaving while it waits to redial: it dials at once, and drains."""
    async with open_world() as world:
        world.network.refuse("server")
        async with world.connect(reconnect=Reconnect(first_s=1e6, cap_s=1e6)) as conn:
            await outlast(lambda: conn.state.retry_at is None, 0.01)
            conn.send_nowait("n")
            world.network.accept("server")
            ends = world.script(sink)
            began = trio.current_time()
        assert trio.current_time() - began < 1
        assert len(ends) == 1
        assert outcomes(conn) == {WRITTEN: 1}


@virtual
async def test_leaving_when_the_link_dies_in_the_drain() -> None:
    """A link lost in the drain is redialled without a wait."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            if far.number == 1:
                await trio.sleep(1)
                far.stream.abort()
            await far.read_all()

        world.script(script)
        patient = Reconnect(first_s=1e6, cap_s=1e6)
        outbox = trio_rt.OutboxLimits(rate_per_s=10)
        async with world.connect(reconnect=patient, outbox=outbox) as conn:
            for number in range(30):
                conn.send_nowait("n", number)
        assert outcomes(conn)[WRITTEN] >= 28
        assert trio.current_time() < 5


@virtual
async def test_leaving_when_the_link_dies_with_the_last_message() -> None:
    """Once every send has its outcome there is nothing to redial for."""
    async with open_world() as world:
        ends = world.script(sink)
        with trio.fail_after(4):
            async with world.connect() as conn:
                await conn.wait_connected()
                world.network.stall()
                conn.send_nowait("n", "x" * 300_000)
                world.nursery.start_soon(cut_soon, world)
        assert outcomes(conn) == {INDETERMINATE: 1}
        assert len(ends) == 1


async def cut_soon(world: World) -> None:
    await trio.sleep(1)
    world.network.cut()


@virtual
async def test_leaving_while_it_dials() -> None:
    """Leaving with messages queued lets a dial on its way come to its link."""
    async with open_world(latency_s=0.5) as world:
        world.script(sink)
        async with world.connect() as conn:
            await trio.sleep(0.1)
            conn.send_nowait("n")
        assert outcomes(conn) == {WRITTEN: 1}


@virtual
async def test_leaving_with_nothing_to_send() -> None:
    """Leaving with an empty outbox waits neither for a backoff nor for a dial."""
    async with open_world() as world:
        await silent(world)
        for wait_s in (0.0, 0.01, 1.0, 2.5):
            began = trio.current_time()
            async with world.connect(open_timeout_s=2):
                await trio.sleep(wait_s)
            assert trio.current_time() - began == pytest.approx(wait_s)
            assert world.open_sockets == 0


@virtual
async def test_close_timeout() -> None:
    """The drain ends after `close_timeout_s`; what is left is `dropped("closed")`."""
    async with open_world() as world:
        world.network.refuse("server")
        async with world.connect(close_timeout_s=3) as conn:
            delivery = conn.send_nowait("n")
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(3)
        assert delivery.outcome == dropped("closed")
        assert outcomes(conn) == {dropped("closed"): 1}
        assert world.open_sockets == 0
        assert own_tasks() == 0 + len(world.nursery.child_tasks)


@virtual
async def test_a_peer_that_does_not_answer_the_close() -> None:
    """The closing handshake ends with `close_timeout_s`, whatever the peer does."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep_forever()

        world.script(script)
        async with world.connect(close_timeout_s=3) as conn:
            await conn.wait_connected()
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(3)


@virtual
async def test_a_stuck_send_ends_with_the_close_timeout() -> None:
    """A peer that reads nothing keeps the end waiting no longer than `close_timeout_s`."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep_forever()

        world.script(script)
        async with world.connect(close_timeout_s=3) as conn:
            await conn.wait_connected()
            for _ in range(3):
                conn.send_nowait("n", "x" * 300_000)
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(3)
        assert outcomes(conn)[INDETERMINATE] >= 1
        assert sum(outcomes(conn).values()) == 3


async def cancelled_after(world: World, **options: Any) -> tuple[trio_rt.Connection, float]:
    """Connect, queue two messages offline, cancel the scope around: how long did it take?"""
    with trio.CancelScope() as scope:
        async with world.connect(**options) as conn:
            await trio.sleep(1)
            world.network.stall()
            conn.send_nowait("n", "x" * 300_000)
            conn.send_nowait("n", "y" * 300_000)
            conn.send_nowait("n")
            await trio.sleep(1)
            began = trio.current_time()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    return conn, trio.current_time() - began


@pytest.mark.parametrize("close_timeout_s", [0, 5])
@virtual
async def test_cancelled_around_offline(close_timeout_s: float) -> None:
    """If the scope around is cancelled nothing is drained; what was queued is withdrawn."""
    async with open_world() as world:
        world.network.refuse("server")
        conn, took_s = await cancelled_after(world, close_timeout_s=close_timeout_s)
        assert took_s == 0
        assert outcomes(conn) == {WITHDRAWN: 3}
        assert conn.state.phase is DISCONNECTED


@virtual
async def test_cancelled_around_takes_nothing_more() -> None:
    """A send beside a body that was just cancelled finds the connection closed."""
    async with open_world() as world, trio.open_nursery() as nursery:
        world.network.refuse("server")

        async def send(conn: trio_rt.Connection) -> None:
            await trio.sleep_until(2)
            with pytest.raises(trio.ClosedResourceError):
                while True:
                    conn.send_nowait("n", ttl_s=50)
                    await trio.lowlevel.checkpoint()

        with trio.move_on_after(2 - trio.current_time()):
            async with world.connect() as conn:
                nursery.start_soon(send, conn)
                await trio.sleep_forever()


@virtual
async def test_cancelled_around_with_a_stuck_link() -> None:
    """A cancelled connection is gone at once, though its peer hangs."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep_forever()

        world.script(script)
        conn, took_s = await cancelled_after(world)
        assert took_s == 0
        assert outcomes(conn) == {INDETERMINATE: 1, WITHDRAWN: 2}
        assert world.open_sockets == 0


@virtual
async def test_cancelled_around_says_1001() -> None:
    """A cancelled connection tries one close frame, 1001, and waits for no answer."""
    async with open_world() as world:
        frames: list[Any] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            frames.extend(await far.read_all())

        world.script(script)
        with trio.move_on_after(1) as scope:
            async with world.connect():
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == 1
        await trio.sleep(1)
        assert [(frame.opcode, frame.data) for frame in frames] == [(Opcode.CLOSE, b"\x03\xe9")]


@virtual
async def test_cancelled_in_the_drain() -> None:
    """A cancellation around ends a drain that is under way; the rest is withdrawn."""
    async with open_world() as world:
        world.network.refuse("server")
        with trio.move_on_after(2) as scope:
            async with world.connect(close_timeout_s=100) as conn:
                conn.send_nowait("n")
        assert scope.cancelled_caught
        assert trio.current_time() == 2
        assert outcomes(conn) == {WITHDRAWN: 1}


@virtual
async def test_no_task_is_left() -> None:
    """After the block there are as many tasks as before, however it was left."""
    async with open_world() as world:
        await world.serve(echo, accept=None)
        await trio.sleep(0.1)
        before = trio.lowlevel.current_statistics().tasks_living
        for way in ("return", "error", "cancel"):
            with trio.CancelScope() as scope:
                try:
                    async with world.connect(liveness=trio_rt.Liveness(interval_s=1)) as conn:
                        await conn.send("n", ttl_s=50)
                        await trio.sleep(5)
                        if way == "error":
                            raise ValueError
                        if way == "cancel":
                            scope.cancel()
                except ValueError:
                    assert way == "error"
            assert world.open_sockets == 0
            await trio.sleep(1)
            assert trio.lowlevel.current_statistics().tasks_living == before


# One exception (P10)


async def fail_soon(world: World) -> None:
    """A server that lets nobody in, after a second."""

    async def script(far: FarEnd) -> None:
        await far.hear()
        await trio.sleep(1)
        await far.refuse_now(404)

    world.script(script)


@virtual
async def test_fatal_cancels_the_body() -> None:
    """Fatal trouble cancels the body and leaves as one exception, its cause chained."""
    async with open_world() as world:
        await fail_soon(world)
        body = "runs"
        with pytest.raises(ServerRefused) as caught:
            async with world.connect() as conn:
                delivery = conn.send_nowait("n")
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    body = "cancelled"
                    raise
        assert body == "cancelled"
        assert isinstance(caught.value.__cause__, HandshakeError)
        assert conn.state.phase is FAILED
        assert conn.state.cause is caught.value
        assert delivery.outcome == dropped("closed")
        with pytest.raises(trio.ClosedResourceError):
            conn.send_nowait("n")


@virtual
async def test_the_bodys_own_error_wins() -> None:
    """What the body raises while it is cancelled leaves as that object, with a note."""
    async with open_world() as world:
        await fail_soon(world)
        error = ValueError("in the clean-up")
        with pytest.raises(ValueError, match="in the clean-up") as caught:
            async with world.connect():
                try:
                    await trio.sleep_forever()
                finally:
                    raise error
        assert caught.value is error
        assert "ServerRefused" in "".join(error.__notes__)


@virtual
async def test_a_group_of_the_body() -> None:
    """Of a group that the body raises, what is left without `Cancelled` leaves."""
    async with open_world() as world:
        await fail_soon(world)
        error = ValueError("in the clean-up")

        async def clean_up_badly() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise error

        with pytest.raises(ExceptionGroup) as caught:
            async with world.connect(), trio.open_nursery() as nursery:
                nursery.start_soon(clean_up_badly)
                nursery.start_soon(trio.sleep_forever)
        assert caught.value.exceptions == (error,)
        assert "ServerRefused" in "".join(caught.value.__notes__)


@virtual
async def test_a_group_of_the_bodys_own() -> None:
    """A group raised by the body, without trouble, is the same object outside."""
    async with open_world() as world:
        world.script(sink)
        group = ExceptionGroup("mine", [ValueError(), KeyError()])
        with pytest.raises(ExceptionGroup) as caught:
            async with world.connect():
                raise group
        assert caught.value is group


@virtual
async def test_a_body_that_ignores_the_cancellation() -> None:
    """Fatal trouble leaves `connect()` also if the body returns normally meanwhile."""
    async with open_world() as world:
        await fail_soon(world)
        with pytest.raises(ServerRefused):
            async with world.connect():
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)


@virtual
async def test_fatal_in_the_drain() -> None:
    """Fatal trouble in the drain ends it, and leaves."""
    async with open_world() as world:
        await fail_soon(world)
        with pytest.raises(ServerRefused):
            async with world.connect(close_timeout_s=100) as conn:
                conn.send_nowait("n")
        assert trio.current_time() < 2
        assert outcomes(conn) == {dropped("closed"): 1}


@virtual
async def test_a_sibling_fails() -> None:
    """A sibling's error in a nursery around is all that leaves that nursery."""
    async with open_world() as world:
        world.script(sink)
        error = KeyError("sibling")

        async def sibling() -> None:
            await trio.sleep(1)
            raise error

        async def client() -> None:
            async with world.connect() as conn:
                await conn.wait_connected()
                await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client)
                nursery.start_soon(sibling)
        assert caught.value.exceptions == (error,)


@virtual
async def test_keyboard_interrupt() -> None:
    """A KeyboardInterrupt of the body leaves as itself."""
    async with open_world() as world:
        world.script(sink)
        error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt) as caught:
            async with world.connect() as conn:
                await conn.wait_connected()
                raise error
        assert caught.value is error


@pytest.mark.parametrize("first", [None, ValueError("mine")])
@virtual
async def test_keyboard_interrupt_in_the_drain(first: Exception | None) -> None:
    """A KeyboardInterrupt in the drain leaves as itself, too, at once, in no group."""
    async with open_world() as world:
        world.network.refuse("server")
        with pytest.raises(KeyboardInterrupt):
            async with world.connect(close_timeout_s=100) as conn:
                conn.send_nowait("n")
                world.nursery.start_soon(interrupt)
                if first is not None:
                    raise first
        assert trio.current_time() == 1


async def interrupt() -> None:
    """After a second: Ctrl-C. The main task gets it, since this one is protected."""
    await trio.sleep(1)
    ctrl_c()


@trio.lowlevel.enable_ki_protection
def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


# Memory


class Diary(trio_rt.JsonCodec):
    """A codec of the program's own that keeps what was sent with it."""

    def __init__(self) -> None:
        super().__init__()
        self.deliveries: list[trio_rt.Delivery] = []
        self.errors: list[BaseException] = []


@virtual
async def test_nothing_keeps_an_ended_connection() -> None:
    """Deliveries, which the collector does not look into, keep no cycle alive."""
    async with open_world() as world:
        world.script(sink)

        async def live() -> weakref.ref[Diary]:
            diary = Diary()
            async with world.connect(codec=diary) as conn:
                await conn.wait_connected()
                diary.deliveries += [await conn.send("a") for _ in range(3)]
                diary.deliveries += [conn.send_nowait("b", ttl_s=60.0)]
            assert all(delivery.outcome for delivery in diary.deliveries)
            return weakref.ref(diary)

        gone = await live()
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert gone() is None


@virtual
async def test_a_send_that_was_given_up_keeps_nothing() -> None:
    """Nor does one that was cancelled as it waited for room, though its error is kept."""
    async with open_world() as world:
        world.network.refuse("server")

        async def live() -> weakref.ref[Diary]:
            diary = Diary()
            outbox = trio_rt.OutboxLimits(messages=1)
            async with world.connect(codec=diary, outbox=outbox, close_timeout_s=0) as conn:
                conn.send_nowait("a")
                with trio.move_on_after(1):
                    try:
                        await conn.send("b")
                    except trio.Cancelled as error:
                        diary.errors.append(error)
                        raise
            assert diary.errors
            return weakref.ref(diary)

        gone = await live()
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("stuck", [False, True])
@virtual
async def test_sends_that_queue_yield_now_and_then(stuck: bool) -> None:
    """Where sends queue one behind the other, fewer than 64 in a row hold the loop."""
    async with open_world() as world:
        world.script(sink)
        async with world.connect(session="off") as conn:
            await conn.wait_connected()
            if stuck:
                world.network.stall()
                await conn.send("n", "x" * 900_000)
            await trio.sleep(1)
            conn.send_nowait("n")
            conn.send_nowait("n")
            run = longest = 0
            for number in range(200):
                with Steps() as steps:
                    await conn.send("n", number)
                run = 0 if steps.count else run + 1
                longest = max(longest, run)
            assert 0 < longest < 64
            world.network.resume()
