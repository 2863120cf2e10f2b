"""Tokens: who is let in by which, and what of them is ever shown."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import trio_rt
from tests.chat.parlour import SECRET, Parlour, open_parlour
from tests.testing.support import virtual
from trio_rt import Handshake, Message, OptionError, Refuse
from trio_rt._handshake import RequestHeaders
from trio_rt._tokens import TOKEN_PROTOCOL
from trio_rt.chat import ChatWho, accept_tokens, sign_token
from trio_rt.chat._service.tokens import TOKEN_CHARACTERS
from trio_rt.hub import Who
from trio_rt.hub._words import JOIN, Event
from trio_rt.testing import jump_wall_clock, run

FAR = 4e9


def bearer(*tokens: str) -> Handshake:
    """A handshake that shows them."""
    headers = [("Authorization", f"Bearer {token}") for token in tokens]
    return Handshake(path="/", headers=RequestHeaders(headers))


async def status(handshake: Handshake, **options: Any) -> tuple[int, str]:
    """What a hook by `SECRET` answers, and why; 0 for nothing."""
    try:
        await accept_tokens(SECRET, **options)(handshake)
    except Refuse as refusal:
        return refusal.status, refusal.headers["WWW-Authenticate"]
    return 0, ""


def signed(claims: Mapping[str, Any] | None = None, **more: Any) -> str:
    """By somebody else's program, with the secret."""
    whole = {"sub": "anna", "exp": FAR, **(claims or {}), **more}
    return jwt.encode(
        {key: value for key, value in whole.items() if value is not None}, SECRET, "HS256"
    )


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


# Good ones


@virtual
async def test_a_token_is_its_user() -> None:
    """With the name and the avatar to be seen, and no more rights than it says."""
    token = sign_token(SECRET, "anna", name="Anna B.", avatar="/anna.png")
    info = {"name": "Anna B.", "status": "online", "avatar": "/anna.png"}
    who = await accept_tokens(SECRET)(bearer(token))
    assert who == ChatWho("anna", info=info)
    assert isinstance(who, Who)
    assert not who.admin
    assert await accept_tokens(SECRET)(
        bearer(sign_token(SECRET.decode(), "root", admin=True))
    ) == ChatWho("root", info={"name": "", "status": "online", "avatar": ""}, admin=True)


@virtual
async def test_ways_to_show_one() -> None:
    """By the header or as a subprotocol; in both ways only if they are of one user."""
    hook = accept_tokens(SECRET)
    one, again, other = (sign_token(SECRET, user) for user in ("anna", "anna", "bob"))
    assert await hook(Handshake(path="/", protocols=(TOKEN_PROTOCOL + one, "x")))
    assert await hook(bearer(one, again))
    assert (await status(bearer(one, other)))[0] == 401
    assert (await status(bearer(one, sign_token(SECRET, "anna", admin=True))))[0] == 401
    assert (await status(bearer(one, "x")))[0] == 401
    assert (await status(Handshake(path="/", query=f"token={one}")))[0] == 401


@virtual
async def test_the_longest_that_can_be_signed_is_taken() -> None:
    """Whatever `sign_token` makes is short enough to be read again."""
    most = sign_token(SECRET, "ä" * 64, name="ö" * 64, avatar="ü" * 256, admin=True)
    assert len(most) < TOKEN_CHARACTERS
    assert (await status(bearer(most))) == (0, "")


@settings(deadline=None)
@given(
    user=st.text(min_size=1, max_size=40), name=st.text(max_size=40), avatar=st.text(max_size=80)
)
def test_what_is_signed_is_taken(user: str, name: str, avatar: str) -> None:
    """A token is either refused where it is made, or is exactly its user."""

    async def main() -> None:
        try:
            token = sign_token(SECRET, user, name=name, avatar=avatar)
        except OptionError:
            return
        who: Any = await accept_tokens(SECRET)(bearer(token))
        assert (who.user, who.info["name"], who.info["avatar"]) == (user, name, avatar)

    run(main, seed=1)


# Bad ones


BAD_NAMES = ["", " anna", "an\nna", "an\x00na", "\x1b[2J", "anna\u202e", "x" * 129]

FORGED: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "no token": lambda: "x",
    "dots": lambda: "..",
    "no ASCII": lambda: "\xe4.\xff.\xe4",
    "no signature": lambda: ".".join([*signed().split(".")[:2], ""]),
    "alg none": lambda: ".".join(
        [part({"alg": "none", "typ": "JWT"}), part({"sub": "anna", "exp": FAR}), ""]
    ),
    "alg None, signed": lambda: ".".join(
        [part({"alg": "None"}), *jwt.encode({"sub": "anna"}, SECRET, "HS256").split(".")[1:]]
    ),
    "HS384": lambda: jwt.encode({"sub": "anna", "exp": FAR}, SECRET, "HS384"),
    "HS512": lambda: jwt.encode({"sub": "anna", "exp": FAR}, SECRET, "HS512"),
    "another secret": lambda: jwt.encode({"sub": "anna", "exp": FAR}, SECRET[::-1], "HS256"),
    "another payload": lambda: ".".join(
        [signed().split(".")[0], part({"sub": "root", "exp": FAR}), signed().split(".")[2]]
    ),
    "a critical header": lambda: jwt.encode(
        {"sub": "anna", "exp": FAR}, SECRET, "HS256", {"crit": ["x"], "x": 1}
    ),
    "a deep header": lambda: (
        base64.urlsafe_b64encode(b"[" * 3000).rstrip(b"=").decode() + ".e30.e30"
    ),
    "10 kB": lambda: signed(x="x" * 10_000),
    "10 kB of nothing": lambda: "x" * 10_000,
    "no sub": lambda: signed(sub=None),
    "no exp": lambda: signed(exp=None),
    "somebody else's": lambda: signed(aud="another program"),
}
FORGED |= {
    f"{claim} {value!r:.20}": lambda claim=claim, value=value: jwt.encode(  # type: ignore[misc]
        {"sub": "anna", "exp": FAR, claim: value}, SECRET, "HS256"
    )
    for claim, values in {
        "sub": [*BAD_NAMES, 7, True, ["anna"], "guest-1", "chat.service"],
        "name": [*BAD_NAMES[1:], 7, {}, "\ud800"],
        "picture": ["a\nb", "x" * 513, 7],
        "admin": [1, "true", "", [True]],
        "exp": ["soon", True, -1, 1e300, float("inf"), float("nan"), 10**400, {}],
        "nbf": ["soon", True, FAR, float("nan")],
    }.items()
    for value in values
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
@virtual
async def test_forged(forged: Callable[[], str]) -> None:
    """All of them are 401, and the same whether guests are taken or not."""
    token = forged()
    for options in ({}, {"anonymous": True}):
        for handshake in (bearer(token), Handshake(path="/", protocols=(TOKEN_PROTOCOL + token,))):
            code, why = await status(handshake, **options)
            assert code == 401
            assert why.startswith('Bearer error="invalid_token"')
            assert not token or token not in why


@virtual
async def test_expired_is_told_apart() -> None:
    """By the wall clock, to the instant; and only if it was good."""
    token, forged = sign_token(SECRET, "anna", for_s=60), sign_token(SECRET[::-1], "anna", for_s=60)
    jump_wall_clock(59.9)
    assert await status(bearer(token)) == (0, "")
    jump_wall_clock(0.1)
    code, why = await status(bearer(token))
    assert (code, "expired" in why) == (401, True)
    assert "expired" not in (await status(bearer(forged)))[1]


@virtual
async def test_times_are_those_of_the_clock_in_force() -> None:
    """And not of the machine's, which is far ahead here."""
    jump_wall_clock(-20 * 365 * 86_400)
    assert await status(bearer(sign_token(SECRET, "anna"))) == (0, "")


@virtual
async def test_not_before() -> None:
    """A token may begin later."""
    begins = 1_893_456_000 + 100
    token = signed(nbf=begins)
    assert (await status(bearer(token)))[0] == 401
    jump_wall_clock(200)
    assert await status(bearer(token)) == (0, "")


@virtual
async def test_without_a_token() -> None:
    """It is asked for, unless guests are welcome."""
    assert await status(Handshake(path="/")) == (401, "Bearer")
    assert await status(Handshake(path="/"), anonymous=True) == (0, "")
    assert await accept_tokens(None, anonymous=True)(Handshake(path="/")) is None
    with pytest.raises(Refuse):
        await accept_tokens(None, anonymous=True)(bearer(sign_token(SECRET, "anna")))


# Options


@pytest.mark.parametrize(
    "secret",
    [
        "",
        b"x" * 31,
        "x" * 31,
        7,
        None,
        bytearray(40),
        b"-----BEGIN PUBLIC KEY-----\n" + b"x" * 40 + b"\n-----END PUBLIC KEY-----",
        '{"kty": "oct", "k": "' + "x" * 40 + '"}',
    ],
)
def test_bad_secrets(secret: Any) -> None:
    """They are refused, and not shown."""
    for call in (lambda: sign_token(secret, "anna"), lambda: accept_tokens(secret)):
        with pytest.raises(OptionError) as caught:
            call()
        assert caught.value.field == "secret"
        assert "xxxx" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user", ""),
        ("user", "a\n"),
        ("user", None),
        ("user", "guest-1"),
        ("user", "chat.service"),
        ("name", "\x1b"),
        ("name", 7),
        ("name", "x" * 129),
        ("avatar", "x" * 513),
        ("admin", 1),
        ("for_s", 0),
        ("for_s", -1),
        ("for_s", float("inf")),
        ("for_s", "1"),
    ],
)
def test_bad_claims(field: str, value: Any) -> None:
    """What would be no good token is not signed."""
    with pytest.raises(OptionError) as caught:
        sign_token(SECRET, **{"user": "anna", field: value})
    assert caught.value.field == field


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "jwt", None)
    for call in (lambda: sign_token(SECRET, "anna"), lambda: accept_tokens(SECRET)):
        with pytest.raises(ModuleNotFoundError) as caught:
            call()
        assert caught.value.__notes__ == ["pip install trio-rt[chat]"]


# With a server


async def user_of(parlour: Parlour, conn: trio_rt.Connection) -> str:
    """As whom it is known."""
    with conn.subscribe(as_=Event) as stream:
        await conn.send(JOIN, {"room": "r"})
        async for item in stream:
            if isinstance(item, Message):
                user: str = item.payload.user
                return user
    raise AssertionError("it is gone")


@virtual
async def test_a_client_refreshes() -> None:
    """One whose token has expired while its link was up is told, and comes back with a new one."""
    attempts: list[trio_rt.Attempt] = []
    tokens = [sign_token(SECRET, "anna", for_s=30)] * 2 + [sign_token(SECRET, "anna", for_s=900)]

    async def tell(attempt: trio_rt.Attempt) -> trio_rt.Credentials:
        attempts.append(attempt)
        return trio_rt.Credentials(token=tokens[len(attempts) - 1])

    async with open_parlour() as parlour, parlour.site.connect(credentials=tell) as conn:
        await conn.wait_connected()
        jump_wall_clock(60)
        parlour.site.network.cut("server")
        assert await user_of(parlour, conn) == "anna"
        assert conn.state.resumed
    assert [attempt.refused for attempt in attempts] == [False, False, True]


@pytest.mark.parametrize(
    ("second", "resumes"),
    [
        ({"user": "anna"}, True),
        ({"user": "anna", "name": "Annabel"}, False),
        ({"user": "anna", "admin": True}, False),
        ({"user": "bob"}, False),
        (None, False),
    ],
)
@virtual
async def test_a_resumed_session_is_of_the_same_user(
    second: dict[str, Any] | None, resumes: bool
) -> None:
    """A token that says something else about the user begins a new session."""
    count = 0

    async def tell(attempt: trio_rt.Attempt) -> trio_rt.Credentials:
        nonlocal count
        count += 1
        claims = {"user": "anna"} if count == 1 else second
        if claims is None:
            return trio_rt.Credentials()
        return trio_rt.Credentials(token=sign_token(SECRET, **claims))

    async with (
        open_parlour(anonymous=True) as parlour,
        parlour.site.connect(credentials=tell, session="require") as conn,
    ):
        assert await user_of(parlour, conn) == "anna"
        parlour.site.network.cut("server")
        user = await user_of(parlour, conn)
        assert user.startswith("guest-" if second is None else second["user"])
        assert conn.state.resumed is resumes


@virtual
async def test_a_link_whose_token_is_no_good_any_more() -> None:
    """It cannot take up its session again."""
    token = sign_token(SECRET, "anna", for_s=30)

    async def tell(attempt: trio_rt.Attempt) -> trio_rt.Credentials:
        return trio_rt.Credentials(token=token)

    async def be_there(parlour: Parlour) -> None:
        async with parlour.site.connect(credentials=tell) as conn:
            await conn.wait_connected()
            jump_wall_clock(60)
            parlour.site.network.cut("server")
            await trio.sleep_forever()

    async with open_parlour() as parlour:
        with pytest.raises(trio_rt.CredentialsRefused):
            await be_there(parlour)


@virtual
async def _be_canaries(tokens: list[str]) -> None:
    async with open_parlour() as parlour:
        for shown in tokens:
            stranger = await parlour.site.dial()
            code = await stranger.shake(headers={"Authorization": f"Bearer {shown}"})
            assert code == (101 if shown == tokens[0] else 401)
            if code == 401:
                assert shown not in repr(stranger.response)
                assert "invalid_token" in stranger.response.headers["WWW-Authenticate"]
            await stranger.aclose()


def test_nothing_shows_a_token(caplog: pytest.LogCaptureFixture) -> None:
    """No log of any level, and no answer, has any part of one."""
    caplog.set_level(logging.DEBUG)
    good = jwt.encode({"sub": "anna", "exp": FAR}, SECRET, "HS256")
    _be_canaries([good, good[:-2] + "xx", "canary" * 20, "canary." * 1500])
    for record in caplog.records:
        text = logging.Formatter().format(record) + repr(record.__dict__)
        assert "canary" not in text
        assert good.split(".")[2][:10] not in text


@virtual
async def test_pages_of_elsewhere() -> None:
    """A browser is let in from the server's own pages, and from those that are allowed."""
    protocols = (TOKEN_PROTOCOL + sign_token(SECRET, "anna"), "trio-rt.plain")
    async with open_parlour(origins=["https://www.example.com"]) as parlour:
        for origin, code in {
            "https://www.example.com": 101,
            "http://server": 101,
            "https://evil.example.com": 403,
            "null": 403,
        }.items():
            stranger = await parlour.site.dial()
            assert await stranger.shake(origin=origin, protocols=protocols) == code
            await stranger.aclose()
