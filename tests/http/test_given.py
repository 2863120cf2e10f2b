"""Bad arguments and options: each is an OptionError by its name, before anything is sent."""

from __future__ import annotations

import io
import math
import ssl
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import date
from functools import partial
from http.cookiejar import CookieJar
from types import MappingProxyType
from typing import Any

import pytest

from trio_rt import http
from trio_rt.errors import OptionError
from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._open import open_client

from .peers import both, open_peer, redirect

wild: Any = http


LONE = "\ud800"
HUGE = 10**400

PARAMS = [
    *[5, object(), [1], ["ab"], [("a",)], {"a": object()}, {"a": b"x"}, {"a": {"b": 1}}],
    *[{b"a": 1}, {"a": [b"x"]}, {"a": LONE}, LONE, {"a"}],
]
COOKIES = [
    *[5, "a=b", {"a": 5}, {1: "x"}, {"a": None}, {"a": b"x"}, [("a",)], [("a", "b", "c")]],
    *[{"a": "x\r\nY: z"}, {"a": "é"}, {"a b": "c"}, {"a": "b;c"}, {"a=": "b"}],
]
AUTHS = [5, "user:word", ("u",), ("u", "p", "x"), (1, 2), (None, "x"), ["u", "p"], (LONE, "x")]
CONTENTS = [
    5,
    [b"a"],
    {"a": 1},
    bytearray(b"x"),
    memoryview(b"x"),
    iter([b"x"]),
    io.BytesIO(),
    LONE,
]
DATA = [5, "x", b"x", [("a", "b")], {"a": object()}, {"a": {"b": 1}}, {"a": b"x"}, {"a": LONE}]
FILES = [
    *[5, "x", [5], {1: b"x"}, {"f": 5}, {"f": None}, {"f": io.StringIO()}, {"f": LONE}],
    *[{"f": file} for file in (("n",), (1, b"x"), ("n", 5), ("n", b"x", 5), ("n", b"x", "t", 5))],
    *[{"f": ("n", b"x", "a/b\r\nX: y")}, {"f": ("n", b"x", None, {"X": "a\nb"})}],
    *[{"f": ("n", b"x", None, {"X": 5})}, {"f": ("n", b"x", None, {}, 1)}],
]
URLS = ["http://a..b/", "http://.a/", f"http://{'a' * 64}.x/", "http://xn--/", f"http://h/{LONE}"]

CALLS = [
    *[("params", each) for each in PARAMS],
    *[("cookies", each) for each in COOKIES],
    *[("auth", each) for each in AUTHS],
    *[("content", each) for each in CONTENTS],
    *[("data", each) for each in DATA],
    *[("files", each) for each in FILES],
    *[("url", each) for each in URLS],
    *[("follow_redirects", each) for each in (1, "yes", 0)],
    *[(name, HUGE) for name in ("timeout_s", "retries")],
]


@both
async def test_wrong_calls(backend: BackendName) -> None:
    """What is wrong with a call is said by the name of the argument; nothing was sent."""
    async with (
        open_peer() as peer,
        open_client(peer.url, backend=backend, cache=False, retry=False) as client,
    ):
        for name, wrong in CALLS:
            if wrong == "http://xn--/" and backend == "httpx2":
                continue  # for its resolver to refuse
            for stream in (False, True):
                with pytest.raises(OptionError) as caught:
                    await _call(client, stream, **{name: wrong})
                shown = (name, wrong, caught.value.field)
                assert caught.value.field in (name, "data" if name == "files" else name), shown
        assert peer.accepted == 0
        assert client.statistics().gate.running == 0


async def _call(client: Any, stream: bool, **options: Any) -> None:
    call = {"method": "POST", "url": "/", **options}
    if stream:
        async with client.stream(**call):
            return
    await client.request(**call)


@both
async def test_two_bodies(backend: BackendName) -> None:
    """Of two bodies one would be dropped, so two are refused."""
    async with open_client("http://h", backend=backend) as client:
        for other in ({"data": {"a": "b"}}, {"files": {"f": b"x"}}):
            with pytest.raises(OptionError, match="content"):
                await client.post("/", content=b"x", **other)


@both
async def test_right_calls(backend: BackendName) -> None:
    """What httpx takes is taken, and objects that have a text of their own."""
    number = uuid.UUID(int=5)
    async with open_peer() as peer, open_client(peer.url, backend=backend) as client:
        for params in (
            "a=5",
            b"a=5",
            {"a": 5},
            [("a", "5")],
            (("a", 5.0),),
            MappingProxyType({"a": 5}),
        ):
            await client.post("/", params=params)
            assert peer.visits[-1].target in ("/?a=5", "/?a=5.0")
        await client.post("/", params={"a": [1, True, None], "b": number, "c": date(2020, 1, 2)})
        assert peer.visits[-1].target == f"/?a=1&a=true&a=&b={number}&c=2020-01-02"
        for cookies in ({"a": "b c"}, [("a", "b c")], MappingProxyType({"a": "b c"}), CookieJar()):
            await client.post("/", cookies=cookies)
            assert peer.visits[-1].headers.get("cookie") in ("a=b c", None)
        for auth in (("u", b"p"), module_of(backend).BasicAuth("u", "p")):
            await client.post("/", auth=auth)
            assert peer.visits[-1].headers["authorization"] == "Basic dTpw"
        await client.post("/", data={"a": ["1", 2], "b": None})
        assert peer.visits[-1].body == b"a=1&a=2&b="
        file = io.BytesIO(b"in a file")
        for given in (
            b"x",
            "ü",
            file,
            (None, b"x"),
            ("n", file, "a/b"),
            ("n", b"x", None, {"A": "b"}),
        ):
            await client.post("/", files=[("f", given)], data={"d": b"bytes"})
            assert b'name="f"' in peer.visits[-1].body
            assert b"bytes" in peer.visits[-1].body


LAYERS: list[Any] = [5, [http.Timeout], ["x"]]
BACKENDS: list[Any] = [[], None]
PROXIES: list[Any] = ["http://u:pa/ss@h", "http://h:x", "socks4://h", {}]
STATUSES: list[Any] = [None, 5, ["x"], [[]], "429", [200]]
ORIGINS: list[Any] = [5, "http://h", [5], ["h"], ["http://h:x"]]

OPTIONS: list[tuple[str, Any]] = [
    *[("params", each) for each in PARAMS],
    *[("cookies", each) for each in COOKIES],
    *[("auth", each) for each in AUTHS],
    *[("interceptors", each) for each in LAYERS],
    *[("follow_redirects", each) for each in (1, "yes", None)],
    *[("insecure_redirects", each) for each in (1, "yes", None)],
    *[("per_host", each) for each in (0, 1.5, True, HUGE)],
    *[(name, HUGE) for name in ("timeout_s", "read_timeout_s", "max_redirects", "max_concurrent")],
    *[("base_url", each) for each in ("http://a..b", f"http://h/{LONE}")],
    *[("backend", each) for each in BACKENDS],
    *[("proxy", each) for each in PROXIES],
]


@both
@pytest.mark.parametrize(("name", "wrong"), OPTIONS)
async def test_wrong_options(backend: BackendName, name: str, wrong: Any) -> None:
    """Each option of the client is checked, and named."""
    with pytest.raises(OptionError) as caught:
        async with open_client(**{"backend": backend, name: wrong}):
            pytest.fail("opened")
    assert caught.value.field == name


MADE: list[tuple[str, Callable[[], object]]] = [
    ("patience", lambda: wild.Gate(patience=5)),
    ("adaptive", lambda: wild.Gate(adaptive=1)),
    ("priority_header", lambda: wild.Gate(priority_header="yes")),
    ("max_concurrent", lambda: http.Gate(HUGE)),
    ("rate_per_s", lambda: http.Gate(rate_per_s=HUGE)),
    ("rate_per_s", lambda: http.Gate(rate_per_s=1.7e308)),
    ("Patience.high_s", lambda: http.Patience(high_s=HUGE)),
    *[("Retry.statuses", partial(wild.Retry, statuses=each)) for each in STATUSES],
    ("Retry.budget", lambda: wild.Retry(budget="x")),
    ("Retry.retries", lambda: http.Retry(HUGE)),
    ("Hedge.budget", lambda: wild.Hedge(budget="x")),
    ("Hedge.after_s", lambda: http.Hedge(HUGE)),
    ("Budget.window_s", lambda: http.Budget(window_s=HUGE)),
    ("Breaker.failures", lambda: http.Breaker(HUGE)),
    ("Breaker.open_s", lambda: http.Breaker(open_s=HUGE)),
    ("store", lambda: wild.Cache("x")),
    ("shared", lambda: wild.Cache(shared=1)),
    ("follow_s", lambda: http.Cache(follow_s=HUGE)),
    ("max_refreshes", lambda: wild.Cache(max_refreshes=1.5)),
    ("stale_if_error_s", lambda: http.Cache(stale_if_error_s=-1)),
    ("stale_if_error_s", lambda: wild.Cache(stale_if_error_s="")),
    ("fetch_token", lambda: wild.Authorize("token")),
    *[("Authorize.origins", partial(wild.Authorize, print, origins=each)) for each in ORIGINS],
    ("path", lambda: wild.SqliteStore(5)),
    ("path", lambda: http.SqliteStore("a\0b")),
    ("insecure", lambda: wild.Redirects(insecure=1)),
    ("jar", lambda: wild.Redirects(jar={})),
    ("max_body_bytes", lambda: http.BodyLimit(math.nan)),
    ("tracer_provider", lambda: wild.Traced(5)),
    ("layers", lambda: wild.transport(5)),
    ("layers", lambda: wild.transport(http.Gate)),
    ("backend", lambda: wild.transport(backend=[])),
]


@pytest.mark.parametrize(("field", "make"), MADE)
def test_wrong_layers(field: str, make: Callable[[], object]) -> None:
    """What a layer or a store is made with is checked, and named."""
    with pytest.raises(OptionError) as caught:
        make()
    assert caught.value.field == field


#: Where socksio cannot be imported, whether it is installed or not.
SOCKS = """
import sys
sys.modules["socksio"] = None
import trio
from trio_rt.http import open_client

async def main():
    async with open_client(backend=sys.argv[1], proxy="socks5://u:secret@h"):
        pass

trio.run(main)
"""


@both
def test_socks_without_its_package(backend: BackendName) -> None:
    """A SOCKS proxy is refused when the client is opened."""
    done = subprocess.run(
        [sys.executable, "-c", SOCKS, backend], capture_output=True, text=True, timeout=60
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("trio_rt.errors.OptionError: proxy")
    assert "socksio" in last
    assert "secret" not in last


@both
async def test_tls_for_a_plain_proxy(backend: BackendName) -> None:
    """So is a context for the TLS to a proxy that is spoken to without."""
    context = ssl.create_default_context()
    proxy = module_of(backend).Proxy("http://u:secret@h", ssl_context=context)
    with pytest.raises(OptionError, match="proxy") as caught:
        async with open_client(backend=backend, proxy=proxy):
            pytest.fail("opened")
    assert "secret" not in str(caught.value)


@both
async def test_a_redirect_to_no_name(backend: BackendName) -> None:
    """A server's redirect to a host that no resolver knows is an error of the connection."""
    async with (
        open_peer({"/": redirect("http://a..b/")}) as peer,
        open_client(peer.url, backend=backend, retry=False, follow_redirects=True) as client,
    ):
        with pytest.raises(module_of(backend).ConnectError):
            await client.get("/")


SECRET = "tok-3Zp9"


@both
@pytest.mark.parametrize(
    "options",
    [
        {"auth": ("user", SECRET, 1)},
        {"auth": SECRET},
        {"cookies": {"session": f"{SECRET};"}},
        {"cookies": f"session={SECRET}"},
        {"params": {"key": SECRET.encode()}},
        {"data": {"password": SECRET, "x": b"x"}},
        {"data": {"password": SECRET + LONE}},
        {"data": f"password={SECRET}"},
        {"content": [SECRET]},
        {"content": SECRET, "data": {"a": "b"}},
        {"files": {"f": ("n", SECRET, "a\n")}},
        *[{"url": f"http://u:a{mark}{SECRET}@h:x/"} for mark in "/#?:@"],
        *[{"url": f"http://u:{SECRET}{mark}a@h:x/"} for mark in "/#?:@"],
        {"url": f"http:u:{SECRET}@h"},
        {"url": f"//u:{SECRET}@h"},
        {"url": f"http://h/?{SECRET}#\n"},
    ],
)
async def test_no_secret_is_told(backend: BackendName, options: dict[str, Any]) -> None:
    """What is refused may be a secret, so it is not in the error, nor in what caused that."""
    async with open_client("http://h", backend=backend) as client:
        with pytest.raises(OptionError) as caught:
            await client.request(**{"method": "POST", "url": "/", **options})
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__
