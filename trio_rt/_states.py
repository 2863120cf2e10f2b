"""The connection's state, and those who watch it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import trio

from ._waker import Waker
from .protocol.lifecycle import State

__all__ = ["StateBoard", "StateStream"]

#: A watcher that falls further behind misses the oldest: a state is news, and
#: only the latest one is true.
KEPT: Final = 64


class StateStream(trio.abc.ReceiveChannel[State]):
    """The states from the current one on. Ends after the last one."""

    def __init__(self, first: State, close: Callable[[StateStream], None]) -> None:
        self._states: deque[State] = deque([first], maxlen=KEPT)
        self._close = close
        self._waker = Waker()
        self._closed = False
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def receive(self) -> State:
        """The next state; waits for it. Cancelling loses nothing."""
        await trio.lowlevel.checkpoint()
        while not self._states:
            if self._closed:
                raise trio.ClosedResourceError
            if self._ended:
                raise trio.EndOfChannel
            await self._waker.wait()
        return self._states.popleft()

    def close(self) -> None:
        self._closed = True
        self._states.clear()
        self._close(self)
        self._waker.wake()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def _push(self, state: State) -> None:
        self._states.append(state)
        self._waker.wake()

    def _end(self) -> None:
        self._ended = True
        self._waker.wake()


class StateBoard:
    """The current state, told to every watcher when it changes."""

    def __init__(self, first: State) -> None:
        self.current = first
        self._watchers: set[StateStream] = set()
        self._ended = False

    def post(self, state: State) -> None:
        self.current = state
        for watcher in self._watchers:
            watcher._push(state)

    def watch(self) -> StateStream:
        stream = StateStream(self.current, self._watchers.discard)
        self._watchers.add(stream)
        if self._ended:
            stream._end()
        return stream

    def end(self) -> None:
        """No state will follow."""
        self._ended = True
        for watcher in self._watchers:
            watcher._end()
