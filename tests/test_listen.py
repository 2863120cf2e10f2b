"""Accepting connections."""

from __future__ import annotations

import errno
import logging

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.clocked import clocked
from trio_rt._listen import EXHAUSTED_S, accept_all


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """It gives what it is told to give: streams, or errors."""

    def __init__(self) -> None:
        self.put, self._take = trio.open_memory_channel[trio.abc.Stream | OSError](10)
        self.closed = False

    async def accept(self) -> trio.abc.Stream:
        given = await self._take.receive()
        if isinstance(given, OSError):
            raise given
        return given

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


def a_stream() -> trio.abc.Stream:
    return memory_stream_pair()[0]


@clocked
async def test_each_connection_has_a_task() -> None:
    """Those of all listeners are served at once; cancelling closes the listeners only."""
    listeners = [Listener(), Listener()]
    served: list[trio.abc.Stream] = []

    async def serve(stream: trio.abc.Stream) -> None:
        served.append(stream)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as listening:
            streams = [a_stream(), a_stream(), a_stream()]
            for number, stream in enumerate(streams):
                listeners[number % 2].put.send_nowait(stream)
            async with trio.open_nursery() as beside:
                beside.start_soon(accept_all, listeners, nursery, serve)
                await wait_all_tasks_blocked()
                assert set(served) == set(streams)
                listening.cancel()
        assert [listener.closed for listener in listeners] == [True, True]
        assert len(nursery.child_tasks) == 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
@clocked
async def test_a_machine_that_has_no_more_to_give(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and tried again after a moment."""
    listener = Listener()
    served: list[float] = []

    async def serve(stream: trio.abc.Stream) -> None:
        served.append(trio.current_time())

    listener.put.send_nowait(OSError(number, "exhausted"))
    listener.put.send_nowait(a_stream())
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_all, [listener], nursery, serve)
        await trio.sleep(10 * EXHAUSTED_S)
        nursery.cancel_scope.cancel()
    assert served == [pytest.approx(began + EXHAUSTED_S)]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "trio_rt.server"


@clocked
async def test_another_error() -> None:
    """A listener that fails for good ends the accepting, and is closed."""
    listener = Listener()

    async def serve(stream: trio.abc.Stream) -> None:
        raise AssertionError

    listener.put.send_nowait(OSError(errno.EINVAL, "no listener"))
    async with trio.open_nursery() as nursery:
        with pytest.raises(ExceptionGroup) as caught:
            await accept_all([listener], nursery, serve)
    assert isinstance(caught.value.exceptions[0], OSError)
    assert listener.closed
