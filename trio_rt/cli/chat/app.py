"""`trio-rt chat`: the program.

run_chat
├─ connection, chat        leave with `ConnectionFailed` when the trouble is for good
└─ one nursery
   ├─ one nursery, until the user has enough
   │  ├─ terminal          keys and drawing
   │  └─ states, clock     what the status line says
   ├─ a task for each room (`Rooms`)
   └─ a task for each thing that waits: edits, uploads (`Actions`)
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from ..._connect import connect
from ..._connection import Connection
from ..._hooks import Credentials
from ..._waker import Waker
from ...chat import Chat, open_chat
from ...errors import ConnectionFailed, OptionError
from ...protocol.lifecycle import Phase
from .._text import printable
from .actions import Actions
from .desk import Desk
from .face import Face
from .picture import Picture
from .rooms import Rooms
from .sending import Sender
from .status import cause_text, root_text
from .terminal import Terminal
from .text import fit_line, shortened
from .words import count_text

__all__ = ["EXIT_FAILED", "EXIT_USAGE", "ChatOptions", "run_chat"]

EXIT_FAILED: Final = 1
#: click's own.
EXIT_USAGE: Final = 2

#: Seconds between two looks at the clock: with a link, and without one.
CALM_S: Final = 5.0
COUNTDOWN_S: Final = 1.0
#: Seconds in which the connection is closed.
CLOSE_S: Final = 1.0
#: Columns of a line of the log.
NOTE: Final = 400


@attrs.frozen(kw_only=True)
class ChatOptions:
    """What the command line says."""

    url: str
    #: The server's URL for files and links.
    base: str
    rooms: tuple[str, ...]
    name: str = ""
    token: str = attrs.field(default="", repr=False)
    colours: bool = True


async def run_chat(options: ChatOptions) -> int:
    """Chat until the user has enough, or the connection fails for good: the exit status."""
    credentials = Credentials(token=options.token) if options.token else None
    unsaid = 0
    try:
        async with (
            connect(options.url, credentials=credentials, close_timeout_s=CLOSE_S) as conn,
            open_chat(conn) as chat,
        ):
            unsaid = await _App(options, chat).run()
    except (ConnectionFailed, OptionError) as error:
        _tell(cause_text(error) or type(error).__name__)
        return EXIT_FAILED
    if unsaid:
        _tell(f"{count_text(unsaid, 'message')} not sent")
    return 0


def _tell(text: str) -> None:
    print(f"trio-rt: {printable(text)}", file=sys.stderr)


class _App:
    def __init__(self, options: ChatOptions, chat: Chat) -> None:
        self._options: Final = options
        self._chat: Final = chat
        self._conn: Final[Connection] = chat.conn
        self._desk: Final = Desk(options.base)
        self._due: Final = Waker()
        self._done: Final = trio.Event()

    async def run(self) -> int:
        """Until the user has enough: how many messages were not said."""
        if self._options.name:
            await self._chat.set_profile(name=self._options.name)
        async with trio.open_nursery() as nursery:
            rooms = Rooms(self._chat, self._desk, nursery, self._due.wake)
            for name in self._options.rooms:
                rooms.join(name)
            self._desk.show(0)
            await self._show(rooms, nursery)
            unsaid = await rooms.close()
            nursery.cancel_scope.cancel()
        return unsaid

    async def _show(self, rooms: Rooms, tasks: trio.Nursery) -> None:
        """Until the user has enough. The terminal is as it was then."""
        desk, changed = self._desk, self._due.wake
        sender = Sender(desk, self._options.base, self._options.token, changed)
        hands = Actions(
            self._chat,
            desk,
            rooms,
            sender,
            tasks,
            changed=changed,
            put=lambda text: face.entry.put(text),
            quit=self._done.set,
        )
        face = Face(desk, hands, self._picture)
        terminal = Terminal(face, self._due, colours=self._options.colours, focus=self._focus)
        async with trio.open_nursery() as nursery:
            with _log_to(desk, changed):
                nursery.start_soon(terminal.run, self._looked)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._tick)
                await self._done.wait()
                nursery.cancel_scope.cancel()

    def _picture(self) -> Picture:
        for tab in self._desk.tabs:
            tab.sync()
        latency_s = self._conn.statistics().latency_s
        return Picture(self._desk, self._conn.state, latency_s, trio.current_time())

    def _looked(self) -> None:
        """What is drawn is seen, and so it is read."""
        tab = self._desk.tab
        if tab is None or tab.room is None or not self._desk.focused:
            return
        for position in range(tab.view.bottom, tab.timeline.first - 1, -1):
            message = tab.timeline.message_at(position)
            if message is not None and message.state == "echoed":
                tab.look_at(message)
                return

    def _focus(self, focused: bool) -> None:
        self._desk.focused = focused

    async def _watch(self) -> None:
        """Show what the connection does."""
        with self._conn.watch_states() as states:
            async for state in states:
                online = state.phase is Phase.CONNECTED
                if online or state.cause is not None:
                    self._desk.why = "" if online else root_text(state.cause)
                self._due.wake()

    async def _tick(self) -> None:
        """Show how late it is: the seconds to the next try, or the latency."""
        while True:
            online = self._conn.state.phase is Phase.CONNECTED
            await trio.sleep(CALM_S if online else COUNTDOWN_S)
            self._due.wake()


class _Notes(logging.Handler):
    """What the library has to say, in the room that is shown."""

    def __init__(self, desk: Desk, changed: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._desk = desk
        self._changed = changed

    def emit(self, record: logging.LogRecord) -> None:
        self._desk.note(shortened(fit_line(record.getMessage()), NOTE), error=True)
        self._changed()


@contextmanager
def _log_to(desk: Desk, changed: Callable[[], None]) -> Iterator[None]:
    """The log would be written over the screen."""
    root, handler = logging.getLogger(), _Notes(desk, changed)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
