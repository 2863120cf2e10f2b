"""What a redirect takes along."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar
from typing import Any

import pytest
import trio

from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._layer import transport
from trio_rt.http._open import open_client
from trio_rt.http._redirects import Redirects

from .peers import Behaviour, Peer, answer, both, certified, open_peer, redirect, trusting

SECRETS = {"X-Api-Key": "k", "Authorization": "a", "Proxy-Authorization": "p", "X-Other": "o"}
PLAIN = {
    "Accept": "x/y",
    "Accept-Language": "de",
    "Content-Language": "de",
    "User-Agent": "me",
    "Range": "bytes=0-1",
    "If-None-Match": '"e"',
    "Cache-Control": "no-store",
    "traceparent": "00-1",
}


class Twice:
    """A body without a length that can be sent again."""

    async def __aiter__(self) -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        yield b"x"  # noqa: ASYNC911


@asynccontextmanager
async def open_three(name: BackendName, **options: Any) -> AsyncIterator[tuple[Any, Peer, Peer]]:
    """A client, and two servers that are two origins."""
    module = module_of(name)
    stack = transport(
        Redirects(**options), pool=module.AsyncHTTPTransport(verify=trusting()), backend=name
    )
    client = module.AsyncClient(transport=stack, follow_redirects=True, cookies={"all": "mine"})
    with trio.fail_after(10):
        async with open_peer() as one, open_peer() as other, client:
            yield client, one, other


def secrets_of(peer: Peer) -> set[str]:
    return {name for name in (*SECRETS, "Cookie") if name.lower() in peer.visits[-1].headers}


@both
async def test_another_origin(backend: BackendName) -> None:
    """There every header of the caller's is gone but those of the message itself."""
    async with open_three(backend) as (client, one, other):
        one.paths["/"] = redirect(other.url + "/b")
        await client.get(one.url + "/", headers=SECRETS | PLAIN)
        assert secrets_of(one) == {*SECRETS, "Cookie"}
        assert secrets_of(other) == set()
        seen = other.visits[-1].headers
        assert {name: seen.get(name.lower()) for name in PLAIN} == PLAIN
        assert seen["host"] == other.url.removeprefix("http://")


@both
async def test_same_origin(backend: BackendName) -> None:
    """Within the origin nothing is stripped."""
    async with open_three(backend) as (client, one, _):
        one.paths["/"] = redirect("/b")
        await client.get(one.url + "/", headers=SECRETS)
        assert one.visits[-1].path == "/b"
        assert secrets_of(one) == {*SECRETS, "Cookie"}


@both
async def test_there_and_back(backend: BackendName) -> None:
    """Back at the first origin, and on within it, they stay gone."""
    async with open_three(backend) as (client, one, other):
        one.paths |= {"/": redirect(other.url + "/b"), "/c": redirect("/d")}
        other.paths["/b"] = redirect(one.url + "/c")
        await client.get(one.url + "/", headers=SECRETS)
        assert [visit.path for visit in one.visits] == ["/", "/c", "/d"]
        for visit in one.visits[1:]:
            assert not {name.lower() for name in (*SECRETS, "Cookie")} & set(visit.headers)


@both
async def test_host_counts(backend: BackendName) -> None:
    """Another name of the same server is another origin."""
    async with open_three(backend) as (client, one, _):
        one.paths["/"] = redirect(f"http://localhost:{one.port}/b")
        await client.get(one.url + "/", headers=SECRETS)
        assert one.visits[-1].path == "/b"
        assert secrets_of(one) == set()


@both
async def test_body_goes_along(backend: BackendName) -> None:
    """A 307 takes the body and what describes it, chunked too."""
    async with open_three(backend) as (client, one, other):
        one.paths["/"] = redirect(other.url + "/b", 307)
        await client.post(one.url + "/", json={"a": 1}, headers=SECRETS)
        assert other.visits[-1].body == b'{"a":1}'
        assert other.visits[-1].headers["content-type"] == "application/json"
        await client.post(one.url + "/", content=Twice(), headers=SECRETS)
        assert other.visits[-1].body == b"1\r\nx\r\n0\r\n\r\n"
        assert secrets_of(other) == set()


@both
async def test_request_sent_again(backend: BackendName) -> None:
    """The same request, sent a second time after its redirect, has its headers."""
    async with open_three(backend) as (client, one, other):
        one.paths["/"] = redirect(other.url + "/b")
        request = client.build_request("GET", one.url + "/", headers=SECRETS)
        await client.send(request)
        await client.send(request)
        assert secrets_of(one) == {*SECRETS, "Cookie"}
        assert secrets_of(other) == set()


@both
@pytest.mark.parametrize("insecure", [False, True])
async def test_down_to_http(backend: BackendName, insecure: bool) -> None:
    """From https to http is an error, and allowed it strips all the same."""
    async with (
        open_three(backend, insecure=insecure) as (client, one, _),
        open_peer({"/": redirect(one.url + "/b")}, tls=certified("127.0.0.1")) as secure,
    ):
        if insecure:
            await client.get(secure.url + "/", headers=SECRETS)
            assert secrets_of(one) == set()
        else:
            with pytest.raises(module_of(backend).RemoteProtocolError, match="https to http"):
                await client.get(secure.url + "/", headers=SECRETS)
            assert not one.visits


@both
async def test_loops(backend: BackendName) -> None:
    """A loop over two origins ends as httpx's TooManyRedirects."""
    async with open_three(backend) as (client, one, other):
        one.paths["/"] = redirect(other.url + "/")
        other.paths["/"] = redirect(one.url + "/")
        with pytest.raises(module_of(backend).TooManyRedirects):
            await client.get(one.url + "/")


@both
async def test_plain_answers(backend: BackendName) -> None:
    """What is no redirect passes unchanged."""
    async with open_three(backend) as (client, one, _):
        one.paths["/"] = answer(b"here")
        assert (await client.get(one.url + "/", headers=SECRETS)).text == "here"


# Cookies


def cookies_of(peer: Peer) -> list[tuple[str, str]]:
    return [(visit.path, visit.headers.get("cookie", "")) for visit in peer.visits]


@both
async def test_log_in_over_two_sites(backend: BackendName) -> None:
    """Each site gets its own cookies over the redirects, and nobody else's."""

    def setting(cookie: str, location: str) -> Behaviour:
        return answer(b"", 302, Location=location, Set_Cookie=cookie)

    async with (
        open_peer() as site,
        open_peer() as log_in,
        open_client(site.url, backend=backend, cache=False, follow_redirects=True) as client,
    ):
        there = f"http://localhost:{log_in.port}"  # cookies do not know ports
        site.paths |= {
            "/first": answer(b"", Set_Cookie="site=s; Path=/"),
            "/": setting("way=w; Path=/", f"{there}/login"),
            "/back": redirect("/home"),
        }
        log_in.paths |= {
            "/login": setting("id=i; Path=/", "/ticket"),
            "/ticket": redirect(f"{site.url}/back"),
        }
        await client.get("/first")
        response = await client.get("/", cookies={"mine": "m"}, headers={"X-Api-Key": "k"})
        assert response.url.path == "/home"
    assert cookies_of(log_in) == [("/login", ""), ("/ticket", "id=i")]
    assert cookies_of(site)[2:] == [("/back", "site=s; way=w"), ("/home", "site=s; way=w")]
    for visit in (*log_in.visits, *site.visits[2:]):
        assert not {"x-api-key", "mine"} & {*visit.headers, visit.headers.get("cookie", "")[:4]}


@both
async def test_cookies_that_stay(backend: BackendName) -> None:
    """A `Cookie` header, a call's cookies, and a client's without a domain do not go along."""
    async with open_peer() as site, open_peer() as other:
        site.paths["*"] = redirect(f"http://localhost:{other.port}/")
        async with open_client(
            site.url, backend=backend, cookies={"all": "a"}, follow_redirects=True
        ) as client:
            await client.get("/", headers={"Cookie": "header=h"})
            await client.get("/", cookies={"call": "c"})
            client.cookies.set("one", "o", domain="127.0.0.1")
            client.cookies.set("two", "t", domain="localhost.local")
            await client.get("/")
    assert [cookie for _, cookie in cookies_of(other)] == ["", "", "two=t"]
    assert cookies_of(site)[2] == ("/", "all=a; one=o")


@both
async def test_a_jar_of_ones_own(backend: BackendName) -> None:
    """A jar that is given is the client's; a plain client can give it to the layer."""
    module, jar = module_of(backend), CookieJar()
    stack = transport(Redirects(jar=jar), backend=backend)
    async with open_peer() as site, open_peer() as other:
        site.paths["/"] = redirect(f"http://localhost:{other.port}/set")
        other.paths["/set"] = answer(b"", Set_Cookie="a=b; Path=/")
        async with open_client(
            site.url, backend=backend, cookies=jar, follow_redirects=True
        ) as client:
            await client.get("/")
        assert [cookie.name for cookie in jar] == ["a"]
        async with module.AsyncClient(transport=stack, cookies=jar, follow_redirects=True) as plain:
            await plain.get(site.url)
    assert [cookie for _, cookie in cookies_of(other)] == ["", "a=b"]
