"""One limit for a whole call."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio

from trio_rt.errors import CallTimeout, OptionError
from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._call import Call
from trio_rt.http._layer import Next
from trio_rt.http._stage import KEY, Progress, set_stage, stage_of
from trio_rt.http._timeout import Timeout

from ..clocked import clocked, sleep
from .peers import both


class Slow:
    """What is below: an answer after a while, whose body comes in parts."""

    def __init__(self, name: BackendName, answer_s: float = 0.0, part_s: float = 0.0) -> None:
        self.module = module_of(name)
        self.answer_s = answer_s
        self.part_s = part_s
        self.stage = ""
        self.closed = 0
        self.seen: Any = None

    def request(self, **call: Any) -> Any:
        extensions = {"trio_rt": Call(**call)} if call else {}
        return self.module.Request("GET", "http://host/", extensions=extensions)

    async def next(self, request: Any) -> Any:
        self.seen = request
        if self.stage:
            set_stage(request, self.stage)  # type: ignore[arg-type]
        await trio.sleep(self.answer_s)
        slow = self

        class Body(self.module.AsyncByteStream):  # type: ignore[name-defined,misc]
            async def __aiter__(self) -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
                for _ in range(5):
                    await trio.sleep(slow.part_s)
                    yield b"x"

            async def aclose(self) -> None:
                slow.closed += 1

        return self.module.Response(200, stream=Body())


async def ask(layer: Timeout, request: Any, call_next: Next, *, is_bounded: bool = False) -> Any:
    """A call as `Client` makes it, or as anybody else does."""
    read = partial(read_whole, layer, request, call_next)
    if not is_bounded:
        return await read()
    progress = Progress(is_whole=True, is_bounded=True)
    request.extensions[KEY] = progress
    with layer.scope(progress, None) as scope:
        response = await read()
    layer.check(scope, progress)
    return response


async def read_whole(layer: Timeout, request: Any, call_next: Next) -> Any:
    response = await layer.intercept(request, call_next)
    try:
        await response.aread()
    except BaseException:
        await response.aclose()
        raise
    return response


@both
@pytest.mark.parametrize("stage", ["queue", "backoff", "answer"])
@clocked
async def test_before_the_answer(backend: BackendName, stage: str) -> None:
    """Past the limit it is CallTimeout, with the stage that the call was at."""
    slow = Slow(backend, answer_s=6)
    slow.stage = stage
    with pytest.raises(CallTimeout) as caught:
        await ask(Timeout(5), slow.request(), slow.next)
    assert (caught.value.timeout_s, caught.value.stage) == (5, stage)
    assert isinstance(caught.value, TimeoutError)
    assert trio.current_time() == 5


@both
@pytest.mark.parametrize("is_bounded", [False, True])
@clocked
async def test_body_counts(backend: BackendName, is_bounded: bool) -> None:
    """The answer and all parts of the body share the limit, however quick each part is."""
    slow = Slow(backend, answer_s=3, part_s=1)
    with pytest.raises(CallTimeout) as caught:
        await ask(Timeout(5.5), slow.request(), slow.next, is_bounded=is_bounded)
    # In a bounded call it is `BodyLimit` that tells of the answer.
    assert caught.value.stage == ("answer" if is_bounded else "body")
    assert trio.current_time() == 5.5
    assert slow.closed == 1


@both
@pytest.mark.parametrize("is_bounded", [False, True])
@clocked
async def test_in_time(backend: BackendName, is_bounded: bool) -> None:
    """What is over within the limit is untouched."""
    slow = Slow(backend, answer_s=3, part_s=1)
    response = await ask(Timeout(8.5), slow.request(), slow.next, is_bounded=is_bounded)
    assert response.content == b"xxxxx"
    assert slow.closed == 1


@both
@clocked
async def test_calls_own_limit(backend: BackendName) -> None:
    """`Call.timeout_s` overrides the layer's, either way; inf is none."""
    slow = Slow(backend, answer_s=6)
    with pytest.raises(CallTimeout):
        await ask(Timeout(100), slow.request(timeout_s=1), slow.next)
    assert trio.current_time() == 1
    await ask(Timeout(1), slow.request(timeout_s=10), slow.next)
    await ask(Timeout(1), slow.request(timeout_s=math.inf), slow.next)
    assert trio.current_time() == 13


@both
@pytest.mark.parametrize("part_s", [0, 3])
@clocked
async def test_callers_deadline(backend: BackendName, part_s: float) -> None:
    """The caller's own deadline stays his: TooSlowError, no CallTimeout."""
    slow = Slow(backend, answer_s=0 if part_s else 6, part_s=part_s)
    with pytest.raises(trio.TooSlowError), trio.fail_after(5):
        await ask(Timeout(5), slow.request(), slow.next)
    assert trio.current_time() == 5


@both
@pytest.mark.parametrize("is_bounded", [False, True])
@pytest.mark.parametrize("part_s", [0, 2])
@clocked
async def test_callers_cancel(backend: BackendName, is_bounded: bool, part_s: float) -> None:
    """A cancellation passes as one, before the limit and when both come at once."""
    slow = Slow(backend, answer_s=0 if part_s else 6, part_s=part_s)
    for limit_s in (100, 5):
        with trio.move_on_after(5) as scope:
            await ask(Timeout(limit_s), slow.request(), slow.next, is_bounded=is_bounded)
        assert scope.cancelled_caught
    assert slow.closed == (2 if part_s else 0)


@both
@clocked
async def test_leaving_a_body(backend: BackendName) -> None:
    """A reader that stops reading leaves no scope behind."""
    slow = Slow(backend, part_s=1)
    response = await Timeout(5).intercept(slow.request(), slow.next)
    stream: Any = response.stream
    reads = stream.__aiter__()
    assert await reads.__anext__() == b"x"
    await trio.sleep(10)
    await response.aclose()
    assert slow.closed == 1
    await reads.inner.aclose()


@both
@clocked
async def test_whole_calls(backend: BackendName) -> None:
    """A redirect of the client's call has what is left; another's has the whole time."""
    slow = Slow(backend, answer_s=3)
    first = slow.request()
    first.extensions[KEY] = Progress(is_whole=True)
    await ask(Timeout(5), first, slow.next)
    second = slow.module.Request("GET", "http://host/", extensions=first.extensions)
    with pytest.raises(CallTimeout) as caught:
        await ask(Timeout(5), second, slow.next)
    assert caught.value.stage == "answer"
    assert trio.current_time() == 5
    plain = slow.request()
    await ask(Timeout(5), plain, slow.next)
    again = slow.module.Request("GET", "http://host/", extensions=plain.extensions)
    await ask(Timeout(5), again, slow.next)
    assert trio.current_time() == 11


@both
@clocked
async def test_deadline_header(backend: BackendName) -> None:
    """The milliseconds left go out; for a call without a limit nothing does."""
    slow = Slow(backend, answer_s=1)
    layer = Timeout(5, deadline_header="X-Left")
    request = slow.request()
    request.extensions[KEY] = Progress(is_whole=True)
    await ask(layer, request, slow.next)
    assert slow.seen.headers["x-left"] == "5000"
    await ask(layer, request, slow.next)
    assert slow.seen.headers["x-left"] == "4000"
    await ask(layer, slow.request(timeout_s=math.inf), slow.next)
    assert "x-left" not in slow.seen.headers


@both
@clocked
async def test_just_in_time(backend: BackendName) -> None:
    """An answer that has come is not thrown away, however late the clock says it is."""
    slow = Slow(backend)

    async def busy(request: Any) -> Any:
        sleep(10)
        return slow.module.Response(200, content=b"ok")

    assert (await Timeout(5).intercept(slow.request(), busy)).status_code == 200


@both
@clocked
async def test_body_in_memory(backend: BackendName) -> None:
    """A response that is read already passes as it is, past the limit too."""
    slow = Slow(backend)
    made = slow.module.Response(200, content=b"ok")

    async def at_once(request: Any) -> Any:
        return made

    stream = made.stream
    response = await Timeout(5).intercept(slow.request(), at_once)
    assert made.stream is stream
    await trio.sleep(10)
    assert response is made
    assert response.content == b"ok"


@pytest.mark.parametrize("wrong", [0, -1, math.nan, True, "5", None])
def test_wrong_limits(wrong: Any) -> None:
    """A limit is a number above 0."""
    with pytest.raises(OptionError, match="timeout_s"):
        Timeout(wrong)


@pytest.mark.parametrize("wrong", ["", "a b", "a:", "é", 5])
def test_wrong_headers(wrong: Any) -> None:
    """The header's name is one."""
    with pytest.raises(OptionError, match="deadline_header"):
        Timeout(deadline_header=wrong)


@both
def test_stages(backend: BackendName) -> None:
    """Without a Timeout setting the stage does nothing; with one it is read back."""
    request = Slow(backend).request()
    set_stage(request, "queue")
    assert stage_of(request) == "answer"
    request.extensions[KEY] = Progress()
    set_stage(request, "queue")
    assert stage_of(request) == "queue"
