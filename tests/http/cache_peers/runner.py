"""Runs one case of npm's http-cache-tests against a `Cache`, in virtual time and in memory.

The format is described in that package's `.github/CONTRIBUTING.md`; this is the
origin and the client that it asks for, so far as a private cache needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

import httpx
import trio

from trio_rt._ambient import ambient
from trio_rt.http._cache import Cache
from trio_rt.http._call import Call

__all__ = ["Broken", "run_case"]

PAUSE_S: Final = 3.0

_DATES: Final = ("date", "expires", "last-modified", "if-modified-since", "if-unmodified-since")
_ORIGIN: Final = "http://origin.test/case"


class Broken(Exception):
    """The cache did not do what the case expects. `setup`: not even what it presupposes."""

    def __init__(self, message: str, setup: bool = False) -> None:
        super().__init__(message)
        self.setup = setup


def _date(at_s: float, rfc850: bool) -> str:
    text = formatdate(at_s, usegmt=True)
    if not rfc850:
        return text
    day, date, month, year, clock, zone = text.replace(",", "").split()
    days = {"Tue": "Tues", "Wed": "Wednes", "Thu": "Thurs", "Sat": "Satur"}
    return f"{days.get(day, day)}day, {date}-{month}-{year[2:]} {clock} {zone}"


def _headers(
    listed: list[Any], step: dict[str, Any], now: float | None = None
) -> list[tuple[str, str]]:
    """With its magic: numbers in dates count from `now`, else from this moment."""
    now = ambient().wall_s() if now is None else now
    headers = []
    for name, value, *_ in listed:
        if name.lower() in _DATES and isinstance(value, int):
            value = _date(now + value, name.lower() in step.get("rfc850date", ()))
        elif name.lower() in ("location", "content-location") and step.get("magic_locations"):
            value = f"{_ORIGIN}/{value}" if value else _ORIGIN
        headers.append((name, str(value)))
    return headers


class Origin:
    """Answers as the steps of the case say, and writes down what it was asked."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        self.steps = steps
        self.seen: list[tuple[int, httpx.Request]] = []
        self.sent: dict[int, httpx.Headers] = {}

    async def answer(self, request: httpx.Request) -> httpx.Response:
        number = int(request.headers["req-num"])
        step = self.steps[number - 1]
        self.seen.append((number, request))
        status = step.get("response_status", [200])[0]
        if step.get("expected_type", "").endswith("validated"):
            status = 304 if self._confirms(number, request) else 999
        self.sent[number] = httpx.Headers()
        if step.get("disconnect"):
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        headers = [
            ("Server-Request-Count", str(len(self.seen))),
            ("Server-Now", str(ambient().wall_s())),
            *_headers(step.get("response_headers", []), step),
        ]
        self.sent[number] = httpx.Headers(headers)
        if "date" not in self.sent[number]:
            headers.append(("Date", _date(ambient().wall_s(), False)))
        body = "" if status in (204, 304) else step.get("response_body") or "body"
        return httpx.Response(status, headers=headers, content=body.encode())

    def _confirms(self, number: int, request: httpx.Request) -> bool:
        before = self.sent[max(sent for sent in self.sent if sent < number)]
        etag, modified = before.get("etag"), before.get("last-modified")
        return (etag is not None and request.headers.get("if-none-match") == etag) or (
            modified is not None and request.headers.get("if-modified-since") == modified
        )


async def run_case(case: dict[str, Any], cache: Cache) -> None:
    """Raises Broken."""
    steps = case["requests"]
    origin = Origin(steps)
    answers: list[httpx.Response] = []
    for number, step in enumerate(steps, 1):
        response = await _ask(cache, _request(number, step, answers), origin)
        answers.append(response)
        _check_answer(number, step, response)
        if step.get("pause_after"):
            await trio.sleep(PAUSE_S)
    _check_origin(steps, origin, answers)


async def _ask(cache: Cache, request: httpx.Request, origin: Origin) -> httpx.Response:
    try:
        response = await cache.intercept(request, origin.answer)
    except httpx.TransportError:  # a proxy would say
        return httpx.Response(502, headers={"Server-Request-Count": str(len(origin.seen))})
    await response.aread()
    return response


def _request(number: int, step: dict[str, Any], answers: list[httpx.Response]) -> httpx.Request:
    url = _ORIGIN
    if "filename" in step:
        url += f"/{step['filename']}"
    if "query_arg" in step:
        url += f"?{step['query_arg']}"
    headers = _headers(step.get("request_headers", []), step)
    if step.get("magic_ims"):
        headers = _against(headers, step, answers)
    return httpx.Request(
        step.get("request_method", "GET"),
        url,
        headers=[*headers, ("Req-Num", str(number))],
        content=step.get("request_body", "").encode() or None,
        extensions={"trio_rt": Call(cache=step.get("cache", "default"))},
    )


def _against(
    headers: list[tuple[str, str]], step: dict[str, Any], answers: list[httpx.Response]
) -> list[tuple[str, str]]:
    """`If-Modified-Since` counts from the time of the answer before."""
    now = float(answers[-1].headers["server-now"])
    magic = dict(_headers(step["request_headers"], step, now))
    return [(n, magic[n] if n.lower() == "if-modified-since" else v) for n, v in headers]


def _checker(number: int, step: dict[str, Any]) -> Callable[[str, bool, str], None]:
    def check(what: str, holds: bool, message: str) -> None:
        if not holds:
            raise Broken(
                f"{number}: {message}",
                setup=bool(step.get("setup")) or what in step.get("setup_tests", ()),
            )

    return check


def _check_answer(number: int, step: dict[str, Any], response: httpx.Response) -> None:
    check = _checker(number, step)
    count = int(response.headers.get("server-request-count", 0))
    match step.get("expected_type"):
        case "cached":
            check("expected_type", 0 < count < number or response.status_code == 304, "not cached")
        case "not_cached":
            check("expected_type", count == number, "comes from the cache")
    if step.get("disconnect") and response.status_code == 502:
        return
    if response.status_code == 999:
        check("expected_type", False, "should have been conditional")
    status = step.get("expected_status", step.get("response_status", [200])[0])
    check("expected_status", response.status_code == status, f"status {response.status_code}")
    for expected in step.get("expected_response_headers", ()):
        _check_header(check, step, response, expected)
    for unexpected in step.get("expected_response_headers_missing", ()):
        name = unexpected if isinstance(unexpected, str) else unexpected[0]
        value = response.headers.get(name)
        absent = (
            value is None if isinstance(unexpected, str) else unexpected[1] not in (value or "")
        )
        check("expected_response_headers_missing", absent, f"{name} is {value}")
    if step.get("check_body", True) and response.status_code not in (204, 304):
        text = step.get("expected_response_text", step.get("response_body", "body"))
        if text is not None and step.get("request_method") != "HEAD":
            check("expected_response_text", response.text == text, f"body {response.text!r}")


def _check_header(
    check: Callable[[str, bool, str], None],
    step: dict[str, Any],
    response: httpx.Response,
    expected: Any,
) -> None:
    name = expected if isinstance(expected, str) else expected[0]
    value = response.headers.get(name)
    holds = value is not None
    if not isinstance(expected, str) and holds:
        match expected:
            case [_, "=", other]:
                holds = value == response.headers.get(other)
            case [_, ">", least]:
                holds = int(value) > least
            case _:
                now = float(response.headers["server-now"])
                holds = value == _headers([expected], step, now)[0][1]
    check("expected_response_headers", holds, f"{name} is {value}, not as {expected}")


def _check_origin(
    steps: list[dict[str, Any]], origin: Origin, answers: list[httpx.Response]
) -> None:
    seen = dict(origin.seen)
    for number, step in enumerate(steps, 1):
        check = _checker(number, step)
        kind = step.get("expected_type")
        if kind == "cached":
            continue
        request = seen.get(number)
        if request is None:
            check("expected_type", kind is None, "the origin was not asked")
            continue
        if step.get("disconnect"):
            continue
        for type_, name in (("etag_", "if-none-match"), ("lm_", "if-modified-since")):
            if kind == f"{type_}validated":
                check("expected_type", name in request.headers, f"without {name}")
        for expected in step.get("expected_request_headers", ()):
            name, *value = [expected] if isinstance(expected, str) else expected
            told = request.headers.get(name)
            holds = told is not None if not value else told == value[0]
            check("expected_request_headers", holds, f"asked with {name}: {told}")
        if "expected_method" in step:
            check("expected_method", request.method == step["expected_method"], request.method)
        for name, _, *checked in step.get("response_headers", ()):
            if checked != [False] and name.lower() not in ("date", "set-cookie"):
                told, sent = answers[number - 1].headers.get(name), origin.sent[number][name]
                check("setup", told == sent, f"{name} is {told}, not {sent}")
