"""What the program itself does in an attempt: `credentials` and `greet`."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from websockets.protocol import CLIENT, SERVER

from tests.clocked import clocked
from tests.wires.support import Sent, protocol, wire_pair
from trio_rt._hooks import Attempt, Credentials, Granted, Greeting, Hooks, header_pairs
from trio_rt.errors import DialError, HookError, LinkClosed, LinkError, OptionError
from trio_rt.options import InboxLimits, OutboxLimits
from trio_rt.protocol.codec import decode_raw
from trio_rt.protocol.session import Session
from trio_rt.protocol.url import parse_url
from trio_rt.wires.websockets import WebSocketsWire

ATTEMPT = Attempt(number=1, url="ws://a/", cause=None, refused=False)


def granting(credentials: Any) -> Hooks:
    async def ask(attempt: Attempt) -> Credentials:
        assert attempt is ATTEMPT
        if isinstance(credentials, BaseException):
            raise credentials
        return credentials  # type: ignore[no-any-return]

    return Hooks(credentials=ask)


def new_session() -> Session:
    return Session(decode_raw, OutboxLimits(), InboxLimits())


def arrived(session: Session) -> list[str | bytes]:
    """What nobody has taken yet."""
    found = []
    while (data := session.pop_arrival()) is not None:
        found.append(data)
    return found


def buffered_pair() -> tuple[WebSocketsWire, WebSocketsWire]:
    """Two wires over streams that cannot be written without waiting."""
    left, right = memory_stream_pair()
    return (
        WebSocketsWire(left, protocol(CLIENT), max_message_bytes=2**20),
        WebSocketsWire(right, protocol(SERVER), max_message_bytes=2**20),
    )


# Headers


def test_header_pairs() -> None:
    """Good headers become pairs, in order; none is none."""
    headers = {"X-Token": "a b", "!#$%&'*+-.^_`|~09": "", "z": "~"}
    assert header_pairs("headers", headers) == tuple(headers.items())
    assert header_pairs("headers", None) == ()


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é", "a\0", "(a)", 1, None, b"a"])
def test_header_name(name: Any) -> None:
    """A name is a token of RFC 9110."""
    with pytest.raises(OptionError) as caught:
        header_pairs("headers", {"good": "1", name: "x"})
    assert (caught.value.field, caught.value.value) == ("headers", name)


@pytest.mark.parametrize("value", ["canary\r\nX: 1", "canary\n", "canary\0", "canary€", 5, b"x"])
def test_header_value(value: Any) -> None:
    """A value cannot end its line, and is not shown in the error."""
    with pytest.raises(OptionError) as caught:
        header_pairs("headers", {"X-Token": value})
    assert caught.value.field == "headers['X-Token']"
    assert "canary" not in repr(caught.value) + str(caught.value)


# Credentials


@pytest.mark.parametrize(
    "secret",
    [
        Credentials(
            headers={"A": "canary"},
            url="ws://canary",
            protocols=["canary"],
            token="canary",
        ),
        Granted((("A", "canary"),), parse_url("ws://canary"), ("canary",)),
    ],
    ids=["given", "checked"],
)
def test_no_secret_in_repr(secret: object) -> None:
    """Nothing of the credentials is in their repr, checked or not."""
    assert "canary" not in repr(secret)


@clocked
async def test_no_credentials() -> None:
    """Without the hook nothing is granted; with empty credentials the same."""
    assert await Hooks().fetch(ATTEMPT) == Granted()
    assert await granting(Credentials()).fetch(ATTEMPT) == Granted()


@clocked
async def test_granted() -> None:
    """All parts of the credentials are taken over; the token becomes a header."""
    credentials = Credentials(
        headers={"X": "1"}, url="ws://b/?t=1", protocols=["p", "q"], token="abc"
    )
    granted = await granting(credentials).fetch(ATTEMPT)
    assert granted.headers == (("X", "1"), ("Authorization", "Bearer abc"))
    assert granted.url == parse_url("ws://b/?t=1")
    assert granted.protocols == ("p", "q")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (ValueError("no network"), ValueError),
        (None, TypeError),
        ({"token": "canary"}, TypeError),
        (Credentials(token="canary\r\n"), OptionError),
        (Credentials(url="http://user:canary@b/?canary"), OptionError),
        (Credentials(headers={"a": "canary\n"}), OptionError),
    ],
)
@clocked
async def test_credentials_fail(
    wrong: Any, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """What the hook raises, or gives that cannot be, fails the attempt, is logged and chained."""
    with pytest.raises(HookError) as caught:
        await granting(wrong).fetch(ATTEMPT)
    error = caught.value
    assert error.hook == "credentials"
    assert type(error.__cause__) is kind
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("trio_rt", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[1] is error.__cause__
    assert "canary" not in caplog.text + str(error)


@clocked
async def test_credentials_are_cancelled() -> None:
    """A cancellation is no failure of the hook."""

    async def ask(attempt: Attempt) -> Credentials:
        await trio.sleep_forever()
        return Credentials()

    with trio.move_on_after(1) as scope:
        await Hooks(credentials=ask).fetch(ATTEMPT)
    assert scope.cancelled_caught


# Greetings


@clocked
async def test_no_greeting() -> None:
    """Without the hook nothing is sent and nothing is taken."""
    client, server = wire_pair()
    session = new_session()
    await Hooks().greet_on(client, session, resumed=False)
    assert client.bytes_out == client.bytes_in == session.received == 0
    for wire in (client, server):
        wire.abort()


@pytest.mark.parametrize("resumed", [True, False])
@clocked
async def test_greeting(resumed: bool) -> None:
    """The hook talks on the link; what it leaves unread is handed on."""
    client, server = wire_pair()
    session = new_session()
    heard: list[str | bytes] = []

    async def greet(greeting: Greeting) -> None:
        assert greeting.resumed is resumed
        await greeting.send("login é")
        await greeting.send(b"\xff")
        heard.append(await greeting.receive())
        heard.append(await greeting.receive())

    await server.send([Sent(b"welcome"), Sent(b"\x00", binary=True), Sent(b"news"), Sent(b"more")])
    await Hooks(greet=greet).greet_on(client, session, resumed=resumed)
    assert arrived(session) == ["news", "more"]
    assert heard == ["welcome", b"\x00"]
    assert await server.receive() == ["login é", b"\xff"]
    for wire in (client, server):
        wire.abort()


@clocked
async def test_greeting_is_over() -> None:
    """A greeting that was kept is of no use afterwards."""
    client, server = wire_pair()
    kept: list[Greeting] = []

    async def greet(greeting: Greeting) -> None:
        kept.append(greeting)

    await Hooks(greet=greet).greet_on(client, new_session(), resumed=False)
    with pytest.raises(trio.ClosedResourceError):
        await kept[0].send("late")
    with pytest.raises(trio.ClosedResourceError):
        await kept[0].receive()
    assert client.bytes_out == 0
    for wire in (client, server):
        wire.abort()


@pytest.mark.parametrize("direct", [True, False])
@clocked
async def test_greeting_answers_pings(direct: bool) -> None:
    """Pings are answered while the hook waits for a message, whatever the stream can do."""
    client, server = wire_pair() if direct else buffered_pair()
    async with trio.open_nursery() as nursery:
        greeting = Greeting(client, new_session(), resumed=False)
        nursery.start_soon(greeting.receive)
        if server.ping():
            await server.flush()
        await wait_all_tasks_blocked()
        assert await server.receive() == []
        assert server.pongs == 1
        nursery.cancel_scope.cancel()
    for wire in (client, server):
        wire.abort()


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [(KeyError("x"), HookError), (DialError("x", stage="greet"), DialError)],
    ids=["bug", "link error"],
)
@clocked
async def test_greet_fails(
    wrong: Exception, kind: type[LinkError], caplog: pytest.LogCaptureFixture
) -> None:
    """The hook's own error is logged and chained; one of the link passes as it is.

    What it had not taken is gone with the attempt.
    """
    client, server = wire_pair()
    session = new_session()
    kept: list[Greeting] = []

    async def greet(greeting: Greeting) -> None:
        kept.append(greeting)
        await greeting.receive()
        raise wrong

    await server.send([Sent(b"one"), Sent(b"two")])
    with pytest.raises(kind) as caught:
        await Hooks(greet=greet).greet_on(client, session, resumed=False)
    assert arrived(session) == []
    if kind is HookError:
        assert caught.value.__cause__ is wrong
        assert "greet raised" in str(caught.value)
    else:
        assert caught.value is wrong
    assert len(caplog.records) == (kind is HookError)
    with pytest.raises(trio.ClosedResourceError):
        await kept[0].receive()
    for wire in (client, server):
        wire.abort()


@pytest.mark.parametrize("name", ["send", "receive"])
@clocked
async def test_link_ends_while_greeting(name: str) -> None:
    """The hook gets the link's own end, with its code, also where it sends."""
    client, server = wire_pair()

    async def greet(greeting: Greeting) -> None:
        await greeting.receive()
        server.close_nowait(1008, "go away")
        while True:
            if name == "send":
                await greeting.send("x" * 1000)
            else:
                await greeting.receive()

    await server.send([Sent(b"one"), Sent(b"two")])
    with pytest.raises(LinkClosed) as caught:
        await Hooks(greet=greet).greet_on(client, new_session(), resumed=False)
    assert (caught.value.code, caught.value.reason) == (1008, "go away")
    client.abort()
