"""The terminal: keys in, and the screen out, at most twenty times a second.

urwid draws whenever any task has done something. Here it draws when it is told that there is
something to draw; what did not change on the screen it does not send.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import trio
import urwid
from urwid.display.raw import Screen

from ..._waker import Waker
from .colours import PALETTE
from .face import Face

__all__ = ["FRAME_S", "Terminal"]

#: Seconds between two drawings.
FRAME_S: Final = 0.05


class _Loop(urwid.MainLoop):
    """One that draws when it is told to."""

    def entering_idle(self) -> None:
        """Nothing."""


class Terminal:
    """That of this process. It draws `face` when `due` is woken."""

    def __init__(
        self, face: Face, due: Waker, *, colours: bool, focus: Callable[[bool], None]
    ) -> None:
        screen = Screen(bracketed_paste_mode=True, focus_reporting=True)
        if not colours:
            screen.set_terminal_properties(colors=1)
        elif "256color" in os.environ.get("TERM", ""):  # which urwid 2 does not believe
            screen.set_terminal_properties(colors=256)
        self._focus: Final = focus
        self._due: Final = due
        self._events: Final = urwid.TrioEventLoop()
        self._loop: Final = _Loop(
            face,
            PALETTE,
            screen,
            handle_mouse=False,
            input_filter=self._filter,
            event_loop=self._events,
        )

    async def run(self, looked: Callable[[], None]) -> None:
        """Read and draw until cancelled; then the terminal is as it was.

        `looked` is called after each drawing.
        """
        with self._loop.start():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._draw, looked)
                await self._events.run_async()

    async def _draw(self, looked: Callable[[], None]) -> None:
        while True:
            self._loop.draw_screen()
            looked()
            await trio.sleep(FRAME_S)
            await self._due.wait()

    def _filter(self, keys: list[Any], raw: list[int]) -> list[Any]:
        """Of all that comes from the terminal, the keys."""
        self._due.wake()
        for key in keys:
            if key in ("focus in", "focus out"):
                self._focus(key == "focus in")
        return [key for key in keys if key not in ("focus in", "focus out")]
