"""`trio-rt chat` in a real terminal, with another user by the chat's client."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from trio_rt import serve
from trio_rt.chat import Chat, ChatRoom, ChatService, open_chat, open_chat_service, sign_token
from trio_rt.chat._service.file_routes import authorize_by, file_routes
from trio_rt.chat._service.files import FileStore
from trio_rt.hub import Site
from trio_rt.testing import Relay, serve_relay

CAP_S: Final = 40
COMMAND: Final = [sys.executable, "-m", "trio_rt.cli", "chat"]
SECRET: Final = b"an apple a day keeps the doctor away"


@attrs.frozen
class Terminal:
    """A real terminal, with `trio-rt chat` in it."""

    tmux: tuple[str, ...]

    async def do(self, *words: str) -> str:
        # The size is to be the terminal's: pytest's readline sets that of another one.
        environment = {k: v for k, v in os.environ.items() if k not in ("LINES", "COLUMNS")}
        done = await trio.run_process([*self.tmux, *words], capture_stdout=True, env=environment)
        return done.stdout.decode()

    async def keys(self, *keys: str) -> None:
        """Press keys, by tmux's names of them; other words are typed."""
        await self.do("send-keys", "-t", "chat", *keys)

    async def enter(self, text: str) -> None:
        await self.do("send-keys", "-t", "chat", "-l", text)
        await self.keys("Enter")

    async def resize(self, width: int, height: int) -> None:
        await self.do("resize-window", "-t", "chat", "-x", str(width), "-y", str(height))

    async def screen(self, *options: str) -> str:
        return await self.do("capture-pane", "-p", *options, "-t", "chat")

    async def shows(self, *texts: str, no: str = "\0") -> list[str]:
        """The screen, when all of `texts` are on it, and `no` is not."""
        screen = ""
        try:
            while no in screen or not all(text in screen for text in texts):
                await trio.sleep(0.05)
                screen = await self.screen()
        except trio.Cancelled:
            print(f"{texts} are not all on, or {no!r} is:\n{screen}")
            raise
        return screen.splitlines()

    async def ends(self) -> int:
        """The exit status of what ran in it, when it has ended."""
        words = "display-message", "-p", "-t", "chat", "#{pane_dead} #{pane_dead_status}"
        while not re.fullmatch(r"1 \d+\n", state := await self.do(*words)):
            if state.startswith("1"):  # tmux may miss that a process has ended, until another does
                await self.do("run-shell", "-b", "true")
            await trio.sleep(0.05)
        return int(state.split()[1])

    async def left(self) -> str:
        """What stands there after it has ended; tmux's own line has moved it up."""
        return (await self.screen("-J", "-S", "-")).partition("Pane is dead")[0].strip()

    async def pid(self) -> int:
        return int(await self.do("display-message", "-p", "-t", "chat", "#{pane_pid}"))


@asynccontextmanager
async def terminal(
    directory: Path, *arguments: str, width: int = 80, height: int = 24, **environment: str
) -> AsyncIterator[Terminal]:
    found = shutil.which("tmux")
    if found is None:
        pytest.skip("no tmux on this machine")
    made = Terminal((found, "-S", str(directory / "tmux"), "-f", "/dev/null"))
    size = ("-x", str(width), "-y", str(height))
    values = [f"{name}={value}" for name, value in environment.items()]
    with trio.fail_after(CAP_S):
        await made.do("-u", "new-session", "-d", "-s", "chat", *size, "cat")
        await made.do("set", "-g", "remain-on-exit", "on")
        await made.do("set", "-g", "status", "off")
        await made.do("set", "-g", "default-terminal", "screen-256color")
        command = ["env", "PYTHONUTF8=1", "LC_ALL=C.UTF-8", *values, *COMMAND, *arguments]
        await made.do("respawn-pane", "-k", "-t", "chat", *command)
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made.do("kill-server")


@attrs.frozen
class Parlour:
    """A service on a real port, and Bob in its lobby."""

    service: ChatService
    nursery: trio.Nursery
    port: int
    bob: Chat
    room: ChatRoom

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def says(self, content: str, **options: Any) -> int:
        """Bob says something: its offset."""
        return await (await self.room.say(content, **options)).wait_acked()

    def user(self, name: str) -> str:
        """The id of who has this name."""
        return next(user.id for user in self.room.members.values() if user.name == name)


@asynccontextmanager
async def open_parlour(files: Path | None = None) -> AsyncIterator[Parlour]:
    options: dict[str, Any] = {} if files is None else {"secret": SECRET}
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_chat_service(anonymous=True, **options))
        nursery = await stack.enter_async_context(trio.open_nursery())
        routes = {}
        if files is not None:
            routes = file_routes(FileStore(files), authorize_by(service.accept))
        start: Any = partial(serve, service, "127.0.0.1", 0)
        server = await nursery.start(
            partial(start, accept=service.accept, http=Site(routes=routes))
        )
        url = f"ws://127.0.0.1:{server.port}/ws"
        async with open_chat(url) as bob:
            await bob.set_profile(name="Bob")
            async with bob.room("lobby") as room:
                yield Parlour(service, nursery, server.port, bob, room)
        nursery.cancel_scope.cancel()


async def heard(room: ChatRoom, content: str) -> None:
    """Wait until it was said in a room."""
    while not any(message.content == content for message in room.messages):
        await trio.sleep(0.02)


async def test_two_users_talk(tmp_path: Path) -> None:
    """Messages, typing, edits, reactions, answers, a second room; and hostile texts."""
    async with (
        open_parlour() as parlour,
        terminal(tmp_path, parlour.url, "--name", "Ada") as screen,
    ):
        room = parlour.room
        await screen.shows("● online", "2 here", "Nothing has been said here yet.", " Ada")
        first = await parlour.says("Hello Ada! \u202eevil\u202c")
        await screen.shows("Today", "Bob  Hello Ada! \\u202eevil")
        with room.typing():
            await screen.shows("Bob is typing…")
            await screen.keys("h")
            while not room.typing_users:
                await trio.sleep(0.02)
        assert [user.name for user in room.typing_users] == ["Ada"]
        await screen.enter("i Bob")
        await heard(room, "hi Bob")
        await screen.shows("Ada  hi Bob", no="typing")
        await room.edit(first, "Hello again")
        await room.react(2, "👍")
        await screen.shows("Hello again  (edited)", "👍 1", no="evil")
        await screen.enter("/edit hello Bob")
        await heard(room, "hello Bob")
        await screen.enter("/reply //indeed")
        await screen.shows("> Bob: Hello again", "//indeed")
        assert room.messages[-1].reply == first
        await screen.enter("/me waves")
        await screen.shows("Ada waves")
        while parlour.room.marks.get(parlour.user("Ada"), 0) < first:
            await trio.sleep(0.02)
        await screen.enter("/join dev")
        await screen.shows("dev", "1 here")
        async with parlour.bob.room("dev") as dev:
            await dev.say("in the other room")
            await screen.shows("in the other room", "2 here")
        await parlour.says("unread one")
        await parlour.says("unread two")
        await screen.shows(" lobby 2  dev")
        await screen.keys("M-1")
        lines = await screen.shows("unread two", "─ new ─", no="lobby 2")
        assert "─ new ─" in lines[[" unread one" in line for line in lines].index(True) - 1]
        await screen.enter("/nope")
        await screen.shows("There is no command /nope", "> /nope")
        await screen.keys("C-u")
        await screen.enter("/delete")
        await screen.shows("this message was deleted", no="waves")
        await screen.keys("M-Enter")
        await screen.keys("C-d")
        await screen.keys("C-u")
        await screen.keys("C-d")
        assert await screen.ends() == 0


async def test_reading_back(tmp_path: Path) -> None:
    """Who reads back is not moved by what comes; older messages are fetched; sizes change."""
    async with open_parlour() as parlour:
        for number in range(150):
            await parlour.room.say(f"message {number}")
        await parlour.says("the last")
        async with terminal(tmp_path, parlour.url, "--name", "Ada") as screen:
            await screen.shows("the last", "● online")
            await screen.keys("PPage", "PPage")
            before = await screen.shows("↓ more below")
            for number in range(30):
                await parlour.room.say(f"news {number}")
            now = await screen.shows("↓ 30 new below")
            assert now[1:-4] == before[1:-4]
            while "message 0\n" not in await screen.screen():
                await screen.keys("Home")
                await trio.sleep(0.1)
            await screen.keys("End")
            await screen.shows("news 29", no="below")
            await screen.resize(40, 12)
            lines = await screen.shows("news 29", no="news 20")
            assert len(lines) <= 12
            assert max(map(len, lines)) <= 40
            await screen.resize(120, 40)
            lines = await screen.shows("│ Bob", "│ Ada (you)", "news 9")
            assert len(lines) <= 40
            await screen.resize(10, 3)
            await screen.resize(80, 24)
            await screen.shows("news 29", "● online")
            assert "\x1b[38;5;" in await screen.screen("-e")
            os.kill(await screen.pid(), 15)
            assert await screen.ends() == 143


async def test_cut_link(tmp_path: Path) -> None:
    """Without a link what is said is queued, and shown so; then it is said, once, in its order."""
    async with open_parlour() as parlour:
        relay: Relay = await parlour.nursery.start(serve_relay, "127.0.0.1", parlour.port)
        url = f"ws://127.0.0.1:{relay.port}/ws"
        async with terminal(tmp_path, url, "--name", "Ada", width=90) as screen:
            await screen.shows("● online", "2 here")
            relay.refuse()
            relay.rst()
            await screen.shows("○ offline", "try ", "Connection re", no="2 here")
            await screen.enter("one")
            await screen.enter("two")
            await screen.shows("one  (queued)", "two  (queued)", "2 queued")
            missed = await parlour.says("while you were away")
            relay.accept()
            await screen.shows("● online", "while you were away", "two", no="queued")
            await heard(parlour.room, "two")
            contents = [message.content for message in parlour.room.messages]
            assert contents[missed - 1 :] == ["while you were away", "one", "two"]
            relay.refuse()
            relay.rst()
            await screen.shows("○ offline")
            await screen.enter("three")
            await screen.shows("three  (queued)")
            await screen.enter("/quit")
            assert await screen.ends() == 0
            assert await screen.left() == "trio-rt: 1 message not sent"


async def test_refusals(tmp_path: Path) -> None:
    """What the service refuses is said in words, and the program goes on; until Ctrl-C."""
    async with (
        open_parlour() as parlour,
        terminal(tmp_path, parlour.url, "--name", "Ada", "--no-colour") as screen,
    ):
        await screen.shows("● online", "2 here")
        while len([u for u in parlour.room.members.values() if u.name == "Ada"]) < 1:
            await trio.sleep(0.02)
        ada = parlour.user("Ada")
        await parlour.service.moderate("lobby", "mute", ada, for_s=3600)
        await screen.shows("Ada may not say anything until")
        await screen.enter("am I muted?")
        await screen.shows("failed: you are muted until")
        await parlour.service.moderate("lobby", "unmute", ada)
        await screen.shows("Ada may speak again")
        await screen.enter("/retry")
        await heard(parlour.room, "am I muted?")
        await screen.shows("am I muted?", no="failed")
        await screen.enter("/file /no/such/file")
        await screen.shows("file is not sent: No such file or directory")
        await screen.enter("/away")
        while parlour.room.members[ada].status != "away":
            await trio.sleep(0.02)
        await parlour.service.moderate("lobby", "ban", ada)
        await screen.shows("You cannot be in lobby: ", no=" here ")
        await screen.enter("hello?")
        await screen.shows("You are not in this room.")
        await screen.enter("/join lobby")
        await screen.shows("no such room", no="hello")
        await screen.enter("/join dev")
        await screen.shows(" dev ", "1 here")
        await screen.enter("/leave")
        await screen.shows(" lobby", no=" dev")
        assert not re.search(r"\x1b\[[\d;]*[34]8;", await screen.screen("-e"))
        await screen.keys("C-c")
        assert await screen.ends() == 130


async def test_commands(tmp_path: Path) -> None:
    """The commands that the other tests have not; a selection, pasting, and completion."""
    async with (
        open_parlour() as parlour,
        terminal(tmp_path, parlour.url, "--name", "Ada") as screen,
    ):
        await screen.shows("● online", "2 here")
        for command, answer in {
            "/react x": "Nobody else has said anything yet.",
            "/edit": "You have said nothing yet.",
            "/retry": "Nothing has failed.",
            "/drop": "Nothing has failed.",
            "/who": "2 here: Ada, Bob",
            "/help keys": "Ctrl-D, Ctrl-C  leave the chat",
            "/help": "/quit         leave the chat",
            f"/join {'x' * 200}": "That is no room: the name must be",
        }.items():
            await screen.enter(command)
            await screen.shows(answer)
        await parlour.says("the first")
        await parlour.says("the second")
        await screen.shows("the second")
        await screen.enter("/react 👍")
        await screen.shows("👍 1")
        await screen.enter("/react 👍")
        await screen.shows("the second", no="👍 1")
        await screen.enter(f"/react {'x' * 80}")
        await screen.shows("That cannot be: reaction must have at most 64 bytes")
        await screen.enter("/delete")
        await screen.shows("You have said nothing yet.")
        await screen.keys("M-Up", "M-Up")
        await screen.shows("[Bob: the first] /reply")
        await screen.enter("/delete")
        await screen.shows("That is refused: ")
        await screen.keys("M-Up", "M-Up")
        await screen.enter("/reply yes")
        await screen.shows("> Bob: the first")
        await screen.enter("/edit")
        await screen.shows("> /edit yes")
        await screen.keys("C-u")
        await screen.do("set-buffer", "pasted\n  lines")
        await screen.do("paste-buffer", "-p", "-t", "chat")
        await screen.shows("> pasted\n    lines")
        await screen.keys("Enter")
        await heard(parlour.room, "pasted\n  lines")
        await screen.keys("Up", "C-u", "B", "o", "Tab")
        await screen.shows("> Bob:")
        await parlour.service.moderate("lobby", "mute", parlour.user("Ada"))
        await screen.enter("I am")
        await screen.shows("failed: you are muted")
        await screen.enter("/drop")
        await screen.shows("1 message dropped", no="failed: ")
        await screen.keys("C-d")
        assert await screen.ends() == 0


async def test_files_and_tokens(tmp_path: Path) -> None:
    """A token says who one is; a file is uploaded, and shown with its link; a restart is said."""
    token = sign_token(SECRET, "ada", name="Ada Lovelace")
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(20_000))
    async with open_parlour(tmp_path / "files") as parlour:
        environment: dict[str, Any] = {"TRIO_RT_CHAT_TOKEN": token, "NO_COLOR": "1"}
        async with terminal(
            tmp_path, parlour.url, "--room", "lobby", "--room", "plans", **environment
        ) as screen:
            await screen.shows(" lobby  plans", "● online", "Ada Lovelace")
            await screen.enter(f"/file {picture}")
            await screen.shows("[image] cat.png 20 kB", f"http://127.0.0.1:{parlour.port}/files/")
            said = parlour.room.messages[-1]
            assert (said.kind, said.metadata["size"]) == ("image", 20_016)
            await screen.keys("C-n")
            await screen.shows("Nothing has been said here yet.")
            await screen.enter("/quit")
            assert await screen.ends() == 0


async def test_fatal_trouble(tmp_path: Path) -> None:
    """Credentials that are refused leave the screen, one line, and status 1."""
    async with (
        open_parlour(tmp_path / "files") as parlour,
        terminal(tmp_path, parlour.url, TRIO_RT_CHAT_TOKEN="canary") as screen,
    ):
        assert await screen.ends() == 1
        left = await screen.left()
        assert re.fullmatch("trio-rt: the server refuses the credentials: .*401.*", left)
        assert "canary" not in left


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ws://127.0.0.1:1/ws"], "trio-rt: chat needs a terminal"),
        (["ftp://host"], "The URL must begin with ws://"),
        (["ws://u:canary@host"], "The URL must have no user"),
        (["ws://host", "--token", "can ary"], "The token cannot be one."),
        (["ws://host", "--room", "a\x1bb"], "The room must be printable text"),
        (["ws://host", "--name", " "], "The name must be printable text"),
    ],
)
async def test_without_a_terminal(arguments: list[str], text: str) -> None:
    """Without a terminal, or with options that cannot be: a line on standard error, status 2."""
    with trio.fail_after(CAP_S):
        done = await trio.run_process(
            [*COMMAND, *arguments], capture_stdout=True, capture_stderr=True, check=False
        )
    assert (done.returncode, done.stdout) == (2, b"")
    assert text in done.stderr.decode()
    assert b"canary" not in done.stderr
