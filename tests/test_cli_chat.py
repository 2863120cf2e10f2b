"""The pure parts of `trio-rt chat`: texts of strangers, rows, what is shown, what is meant."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import unicodedata
from collections.abc import Sequence
from datetime import date
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rt import Gap, Reset
from trio_rt.chat import (
    ChatMessage,
    ChatRoom,
    Deleted,
    Edited,
    Moderated,
    Reacted,
    TypingChanged,
    User,
    UserJoined,
)
from trio_rt.cli._chat_command import chat_urls
from trio_rt.cli.chat.app import _log_to
from trio_rt.cli.chat.colours import PALETTE
from trio_rt.cli.chat.commands import HELP, KEYS, Mistake, Order, completed, read_input
from trio_rt.cli.chat.desk import Desk
from trio_rt.cli.chat.entry import Entry, Recall
from trio_rt.cli.chat.face import Face
from trio_rt.cli.chat.lines import Line, cut, line_width, padded, plain, rule, spread
from trio_rt.cli.chat.picture import Layout, Picture
from trio_rt.cli.chat.rows import ACTION, Look, MessageRow, NoteRow
from trio_rt.cli.chat.status import (
    Work,
    cause_text,
    connection,
    decision_text,
    root_text,
    status_line,
)
from trio_rt.cli.chat.tab import Speech, Tab
from trio_rt.cli.chat.text import MARKS, fit_line, fit_text, shortened, typeable, width_of, wrapped
from trio_rt.cli.chat.timeline import PIECE, Timeline
from trio_rt.cli.chat.view import MOST, View
from trio_rt.cli.chat.words import clock_text, day_text, size_text, typing_text
from trio_rt.protocol.lifecycle import Phase, State

ADA = User("ada", "Ada")
BOB = User("bob", "Bob")
NOON = 1_764_150_000_000
#: What would do harm: sequences, controls, turned directions, separators, piles of marks.
HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe\u202c",
    "\u2066a\u2069",
    "a\rb\x00c\x7f\x08",
    "line\u2028para\u2029",
    "z" + "\u0301" * 500,
    "\ud800",
    "\U000e0041\U000e007f",
    "\u200b\u200d\u2060\ufeff",
    "日本" * 50,
    "👩\u200d👩\u200d👧 ❤\ufe0f 👍\U0001f3fd 🇩🇪",
    "\ue000\uffff",
    "\t\t" * 30,
    " " * 500,
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=80))


def said(content: str, offset: int = 1, user: User = BOB, **more: Any) -> ChatMessage:
    known = {"id": f"m{offset}", "kind": "text", "at": NOON + offset * 1000}
    return ChatMessage(**{**known, "content": content, "offset": offset, "user": user, **more})


def shown(row: MessageRow | NoteRow, width: int = 80, **look: Any) -> list[str]:
    lines = row.lines(Look(width, **look))
    assert all(line_width(line) <= width for line in lines)
    return [plain(line).rstrip() for line in lines]


def assert_harmless(text: str) -> None:
    for character in text:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"), text


# Texts


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("Grüße, 日本 👍", "Grüße, 日本 👍"),
        ("a\u00a0b\u202fc", "a b c"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202eabc", "\\u202eabc"),
        ("👍\U0001f3fd ❤\ufe0f", "👍 ❤"),
        ("🇩🇪", "DE"),
        ("a\u00adb\u200dc", "abc"),
        ("a\tb\r\nc\rd", "a    b\nc\\rd"),
    ],
)
def test_fit(text: str, fit: str) -> None:
    """What would do harm is an escape; what only varies is left out; the rest stays."""
    assert fit_text(text) == fit


@settings(deadline=None)
@given(texts)
def test_harmless(text: str) -> None:
    """No text has anything in it that a terminal would obey, or in its input line."""
    assert_harmless(fit_text(text).replace("\n", ""))
    assert "\n" not in fit_line(text)
    assert not set(typeable(text)) & set("\x1b\x9b\r\u202e\u2066")
    assert max(map(len, fit_text("z" + "\u0301" * 500).split("\n"))) == 1 + MARKS


@settings(deadline=None)
@given(texts, st.integers(2, 40))
def test_wrapping(text: str, width: int) -> None:
    """No line is too wide, and but for spaces nothing is lost."""
    fit = fit_text(text)
    lines = wrapped(fit, width)
    assert all(width_of(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == fit.replace(" ", "").replace("\n", "")
    assert width_of(shortened(fit_line(text), width)) <= width


def test_wrapping_at_words() -> None:
    """Lines are broken at spaces, long words anywhere, and what is indented stays so."""
    assert wrapped("the quick brown fox", 10) == ["the quick", "brown fox"]
    assert wrapped("abcdefgh ij", 4) == ["abcd", "efgh", "ij"]
    assert wrapped("日本語日本語", 5) == ["日本", "語日", "本語"]
    assert wrapped("  code\n\nend", 10) == ["  code", "", "end"]
    assert shortened("日本語", 4) == "日…"
    assert shortened("abc", 0) == ""


@settings(deadline=None)
@given(st.lists(st.tuples(st.just("x"), texts.map(fit_line))), st.integers(1, 50))
def test_lines(segments: list[tuple[str, str]], width: int) -> None:
    """What is cut, filled or spread has the width that it is to have."""
    line: Line = tuple(segments)
    assert line_width(cut(line, width)) <= width
    assert line_width(padded(line, width)) == width
    assert line_width(spread(line, (("y", "end"),), width)) == width
    assert line_width(rule("text", width, "rule")) <= width


def test_words() -> None:
    """Sizes, days and who is typing, as people say them."""
    assert [size_text(n) for n in (1, 999, 1000, 1_234_567, 999_999, 5 * 10**12, 10**16)] == [
        "1 byte",
        "999 bytes",
        "1.0 kB",
        "1.2 MB",
        "1.0 MB",
        "5.0 TB",
        "10000 TB",
    ]
    today = date(2026, 3, 1)
    assert day_text(today, today) == "Today"
    assert day_text(date(2026, 2, 28), today) == "Yesterday"
    assert day_text(date(2026, 2, 27), today) == "Friday, 2026-02-27"
    assert clock_text(0) == clock_text(10**18) == "--:--"
    assert typing_text([]) == ""
    assert typing_text(["Ada"]) == "Ada is typing…"
    assert typing_text(["Ada", "Bob"]) == "Ada and Bob are typing…"
    assert typing_text(list("abcde")) == "a, b and 3 others are typing…"


# Rows


def test_message_row() -> None:
    """A wide row has its time and name beside the text, a narrow one above."""
    message = said("hello there", reply=7, reactions={"👍": frozenset({"ada", "bob"})})
    at = clock_text(message.at)
    quoted = said("the\nquestion", 7, ADA)
    look: dict[str, Any] = {"quoted": lambda offset: quoted if offset == 7 else None}
    assert shown(MessageRow(message), **look) == [
        f"{at}          Bob  > Ada: the question",
        " " * 20 + "hello there",
        " " * 20 + "👍 2",
    ]
    assert shown(MessageRow(message), 40, **look) == [
        f"Bob  {at}",
        "  > Ada: the question",
        "  hello there",
        "  👍 2",
    ]
    assert "an earlier message" in shown(MessageRow(message))[0]


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"state": "queued"}, "hi  (queued)"),
        ({"state": "sent"}, "hi  (sending)"),
        ({"state": "acked"}, "hi  (sent)"),
        ({"state": "failed", "failure": "muted\x1b"}, "hi  failed: muted\\x1b"),
        ({"edited_at": 5}, "hi  (edited)"),
        ({"deleted": True, "content": "", "edited_at": 5}, "this message was deleted"),
        ({"metadata": {ACTION: True}}, "*  Bob hi"),
        ({"metadata": {ACTION: 1}}, "Bob  hi"),
    ],
)
def test_states(changes: dict[str, Any], end: str) -> None:
    """What has become of a message stands behind it."""
    assert shown(MessageRow(attrs.evolve(said("hi"), **changes)))[-1].endswith(end)


def test_attachments() -> None:
    """An image or a file is its name, its size and its link: a path is of the server."""
    facts = {"name": "a\u202ecat.png", "size": 1_234_567}
    row = MessageRow(said("/files/x/cat.png", kind="image", metadata=facts))
    first, second = shown(row, base="https://host/")
    assert first.endswith("[image] a\\u202ecat.png 1.2 MB")
    assert second.strip() == "https://host/files/x/cat.png"
    odd = said("http://[x/y.bin", kind="file", metadata={"name": 5, "size": True})
    assert shown(MessageRow(odd), base="https://host/")[0].endswith("[file] y.bin")
    assert shown(MessageRow(said("//evil/x", kind="file")), base="https://h/")[1].strip() == (
        "//evil/x"
    )


@settings(deadline=None)
@given(texts, texts, st.integers(1, 130))
def test_hostile_messages(content: str, name: str, width: int) -> None:
    """Whatever a message says, its lines are harmless, and none is wider than the screen."""
    message = said(
        content or "x",
        user=User("u", name),
        reply=3,
        metadata={"name": content, "size": -1},
        reactions={content: frozenset({"ada"})},
    )
    for kind in ("text", "image"):
        row = MessageRow(attrs.evolve(message, kind=kind), day="Today")
        for line in row.lines(Look(width, quoted=lambda _: message), is_new=True, selected=True):
            assert_harmless(plain(line))
            if width > 24:
                assert line_width(line) <= width


def test_notes() -> None:
    """Notes are marked; who comes and goes shares one, which does not grow for ever."""
    timeline = Timeline()
    timeline.note("no", "error")
    for number in range(10):
        timeline.note(f"u{number} joined", "presence")
    timeline.renote("u0 joined", "Zoe joined")
    assert timeline.end == 2
    text = " ".join(shown(timeline[1]))
    assert "Zoe joined, u1 joined" in text
    assert text.split("u7 joined,")[1].split() == ["and", "2", "more"]
    assert timeline[0].lines(Look(30)) == [(("error", "- no"),)]


# The past


def filled(count: int, **options: Any) -> Timeline:
    timeline = Timeline(**options)
    timeline.merge(said(f"message {number}", number) for number in range(1, count + 1))
    return timeline


def contents(lines: list[Line]) -> list[str]:
    return [plain(line)[20:].strip() for line in lines]


LOOK = Look(80)


def test_days_and_names() -> None:
    """A new day is said once; a name not again, unless it is another, or time has passed."""
    day_ms = 86_400_000
    timeline = Timeline()
    timeline.put(said("a", 1))
    timeline.put(said("b", 2))
    timeline.put(said("c", 3, ADA))
    timeline.note("note")
    timeline.put(said("d", 4, ADA))
    timeline.put(said("e", 5, ADA, at=NOON + day_ms))
    rows: list[Any] = [timeline[number] for number in (0, 1, 2, 4, 5)]
    assert [bool(row.day) for row in rows] == [True, False, False, False, True]
    assert [row.follows for row in rows] == [False, True, False, False, False]


def test_older_messages_move_nothing() -> None:
    """What is put before, or comes behind, leaves the view where it is."""
    timeline = Timeline()
    timeline.merge(said(f"message {number}", number) for number in range(50, 100))
    view = View(timeline)
    assert view.scroll(LOOK, 10, 15)
    before = view.lines(LOOK, 10)
    timeline.prepend([said(f"message {number}", number) for number in range(1, 50)])
    timeline.merge(said(f"message {number}", number) for number in range(100, 120))
    timeline.set_pending([said("mine", 0, ADA, state="queued", mine=True)])
    assert contents(view.lines(LOOK, 10)) == contents(before)
    assert view.below == 20
    assert not view.follows
    view.to_end()
    assert contents(view.lines(LOOK, 3))[-1] == "mine  (queued)"
    view.to_top(LOOK, 10)
    assert contents(view.lines(LOOK, 10))[1] == "message 1"
    assert not view.scroll(LOOK, 10, 1)


@settings(deadline=None)
@given(
    st.integers(0, 30),
    st.lists(st.integers(-40, 40).filter(bool), max_size=12),
    st.lists(st.integers(1, 25), min_size=1, max_size=4),
)
def test_views(count: int, steps: list[int], heights: list[int]) -> None:
    """Wherever one scrolls, at whatever size, the screen is as full as it can be."""
    timeline = filled(count)
    timeline.note("a note\nof lines")
    view = View(timeline)
    total = len(view.lines(LOOK, 10_000))
    for number, step in enumerate(steps):
        height = heights[number % len(heights)]
        view.scroll(LOOK, height, step)
        assert len(view.lines(LOOK, height)) == min(height, total)
        assert view.follows or view.bottom < timeline.end
    view.scroll(LOOK, 5, -1000)
    assert view.follows


def test_many_messages() -> None:
    """The oldest go when there are too many; who reads them is put at the oldest that is left."""
    timeline = filled(1, keep=1000)
    view = View(timeline)
    timeline.merge(said("x", number) for number in range(2, 500))
    view.to_top(LOOK, 10)
    timeline.merge(said("x", number) for number in range(500, 4000))
    assert 1000 <= timeline.end - timeline.first < 1000 + PIECE
    assert timeline.get(1) is None
    assert len(view.lines(LOOK, 10)) == 10
    assert view.below == MOST
    assert timeline.last_offset == 3999
    assert not timeline.has_room


def test_late_messages() -> None:
    """One that comes late has the place that its offset says; one that is known is replaced."""
    timeline = Timeline()
    timeline.merge([said("a", 1), said("c", 5)])
    timeline.note("note")
    timeline.put(said("b", 3))
    timeline.put(said("A", 1))
    timeline.change(5, content="C", edited_at=1)
    timeline.change(99, content="?")
    found = [timeline.message_at(position) for position in range(timeline.end)]
    assert [message and message.content for message in found] == ["A", "b", "C", None]


def test_new_messages() -> None:
    """What is new has a line above it: behind the mark, and not for one's own."""
    timeline = filled(3)
    timeline.put(said("mine", 4, ADA, mine=True))
    timeline.mark_new(4)
    assert timeline.new_at is None
    timeline.mark_new(2)
    lines = View(timeline).lines(LOOK, 3)
    assert [colours for colours, _ in lines[0]] == ["new"]
    timeline.clear()
    timeline.put(said("first of another log", 1))
    assert timeline.end - timeline.first == 1


def test_selection() -> None:
    """Messages are selected from the last one up, brought into the view, and none below the last."""
    timeline = filled(30)
    timeline.note("note")
    timeline.put(said("", 31, deleted=True))
    view = View(timeline)
    view.select(LOOK, 10, 1)
    assert view.selected == 29
    for _ in range(20):
        view.select(LOOK, 10, 1)
    assert view.selected == 9
    lines = view.lines(LOOK, 10)
    assert any(line[0][0] == "selected" for line in lines)
    for _ in range(21):
        view.select(LOOK, 10, -1)
    assert view.selected is None


def test_what_happens_to_older_messages() -> None:
    """What is said about messages that only the screen has, changes them there."""
    tab = Tab("lobby")
    tab.timeline.merge(said(text, number) for number, text in enumerate("abc", 1))
    tab.take(Edited(1, "A", BOB))
    tab.take(Deleted(2, BOB))
    tab.take(Reacted(3, "x", BOB))
    tab.take(Reacted(3, "x", ADA))
    tab.take(Reacted(3, "x", BOB, on=False))
    tab.take(Reacted(3, "y", BOB))
    tab.take(Reacted(3, "y", BOB, on=False))
    tab.take(Edited(3, "C", BOB, said("C", 3, reactions={"x": frozenset({"ada"})})))
    tab.take(Reacted(9, "y", BOB))
    tab.take(TypingChanged(()))
    tab.take(UserJoined(ADA))
    tab.take(Gap(3))
    found = [tab.timeline.get(offset) for offset in (1, 2, 3)]
    assert [(m.content, m.deleted, dict(m.reactions)) for m in found if m] == [
        ("A", False, {}),
        ("", True, {}),
        ("C", False, {"x": frozenset({"ada"})}),
    ]
    assert tab.drop() == 0
    tab.take(Moderated("mute", BOB, ADA))
    tab.take(Reset())
    assert tab.timeline.last_offset == 0
    lines = tab.view.lines(LOOK, 5)
    assert "begun anew" in "".join(map(plain, lines))
    assert not tab.timeline.complete


# What is meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", None),
        ("  \n ", None),
        ("hello", Order("say", "hello")),
        ("//etc", Order("say", "/etc")),
        (" /join x", Order("say", " /join x")),
        ("/join dev", Order("join", "dev")),
        ("/JOIN  dev ", Order("join", "dev")),
        ("/edit a\n  b", Order("edit", "a\n  b")),
        ("/edit", Order("edit")),
        ("/help keys", Order("help", "keys")),
    ],
)
def test_input(text: str, meant: Order | None) -> None:
    """A line is said, unless it begins with one slash."""
    assert read_input(text) == meant


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("/jion dev", "Did you mean /join?"),
        ("/xyz", "/help shows all"),
        ("/", "There is no command /."),
        ("/join", "/join ROOM"),
        ("/leave now", "stands alone"),
    ],
)
def test_mistakes(text: str, hint: str) -> None:
    """What is no command is said nowhere, and there is a hint."""
    meant = read_input(text)
    assert isinstance(meant, Mistake)
    assert hint in meant.text


def test_help_fits() -> None:
    """All of the help is on a small screen."""
    assert len(HELP) <= 19
    assert max(map(len, (*HELP, *KEYS))) <= 76


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("/he", "/help "),
        ("/re", "/re"),
        ("/rea", "/react "),
        ("bo", "Bob: "),
        ("hi a", "hi Ad"),
        ("hi ada", "hi Ada "),
        ("zz", "zz"),
        ("", ""),
    ],
)
def test_completion(text: str, result: str) -> None:
    """Commands and names are completed as far as there is one way."""
    assert completed(text, ["Bob", "Ada", "Adele"]) == result


def test_urls() -> None:
    """What `trio-rt serve` prints will do, and a server's address alone."""
    assert chat_urls("ws://h:1/ws") == ("ws://h:1/ws", "http://h:1/")
    assert chat_urls("https://h") == ("wss://h/ws", "https://h/")
    assert chat_urls("wss://h/a?b=c") == ("wss://h/a?b=c", "https://h/")
    for bad in ("", "h", "ftp://h", "ws://u:canary@h", "ws://h:99999", "ws://[h", "ws://h/\x1b"):
        with pytest.raises(ValueError, match="URL") as caught:
            chat_urls(bad)
        assert "canary" not in str(caught.value)


# The input line


def test_recall() -> None:
    """Up goes back through what was sent, Down to what was begun."""
    recall = Recall()
    assert recall.older("x") is None
    for text in ("one", "two", "two"):
        recall.add(text)
    assert [recall.older("draft"), recall.older("two"), recall.older("one")] == ["two", "one", None]
    assert [recall.newer(), recall.newer(), recall.newer()] == ["two", "draft", None]


def press(entry: Entry, *keys: str) -> str:
    for key in keys:
        entry.keypress((40,), key)
    return entry.text_now


def test_editing() -> None:
    """Keys as in a shell; a new line by Alt-Enter; what is pasted is pasted whole, and harmless."""
    entry = Entry()
    assert press(entry, *"one two", "ctrl w", *"2", "meta enter", *"x") == "one 2\nx"
    assert press(entry, "backspace", "backspace", "ctrl a", "delete", "ctrl f") == "ne 2"
    assert press(entry, "ctrl u") == "e 2"
    assert press(entry, "ctrl k") == ""
    pasted = ("begin paste", "a", "enter", "tab", "\u202e", "\x1b", "up", "b", "end paste")
    assert press(entry, *pasted) == "a\n    b"
    assert entry.take() == "a\n    b"
    assert press(entry, "up") == "a\n    b"
    assert press(entry, "down", "down") == ""
    assert press(entry, *"draft") == "draft"
    assert not entry.valid_char("\u202e")


# The whole screen


class Hands:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def enter(self, text: str) -> None:
        self.told.append(f"enter {text}")

    def keystroke(self) -> None:
        self.told.append("key")

    def older(self, tab: Tab) -> None:
        self.told.append(f"older {tab.name}")

    def quit(self) -> None:
        self.told.append("quit")


ONLINE = State(Phase.CONNECTED, 1)


def furnished() -> tuple[Face, Desk, Hands]:
    desk, hands = Desk("http://host/"), Hands()
    desk.add("lobby").timeline.merge(said(f"message {n} " * n, n) for n in range(1, 40))
    desk.add("dev")
    face = Face(desk, hands, lambda: Picture(desk, ONLINE, 0.012, 0.0))
    return face, desk, hands


@pytest.mark.parametrize("width", [1, 2, 3, 7, 20, 40, 80, 120])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 6, 12, 24, 40])
def test_sizes(width: int, height: int) -> None:
    """At any size there is a whole screen, with the cursor in it."""
    face, _, _ = furnished()
    size = (width, height)
    for keys in ([], ["page up"], [*"some text", "meta enter"], ["meta up"], ["meta enter"] * 9):
        for key in keys:
            face.keypress(size, key)
        canvas = face.render(size, focus=True)
        assert (canvas.cols(), canvas.rows()) == size
        assert canvas.cursor is not None
        assert 0 <= canvas.cursor[1] < height


def screen(face: Face, width: int = 80, height: int = 24) -> list[str]:
    lines: Any = face.render((width, height), focus=True).text
    return [line.decode().rstrip() for line in lines]


def test_screen() -> None:
    """Above the rooms, below the connection; both go where there is no room for them."""
    face, desk, _ = furnished()
    lines = screen(face)
    assert lines[0].split() == ["lobby", "dev"]
    assert lines[-2].split()[:4] == ["●", "online", "12", "ms"]
    assert lines[-1] == ">"
    desk.show(1)
    assert "Joining dev…" in map(str.strip, screen(face))
    assert screen(face, 40, 3)[1:] == [" ● online  12 ms", ">"]
    assert Layout.of(120, 40, 1).past_width < 120


def test_keys() -> None:
    """Keys do what the help says, and typing is told but for commands."""
    face, desk, hands = furnished()
    size = (80, 24)
    for key in ("h", "i", "enter", "/", "x", "ctrl u", "ctrl n", "meta 1", "home", "esc", "ctrl d"):
        face.keypress(size, key)
    assert hands.told == ["key", "key", "enter hi", "older lobby", "quit"]
    assert desk.at == 0
    face.keypress(size, "page up")
    assert "↓ more below" in "".join(screen(face))
    desk.tabs[0].timeline.put(said("news", 50))
    assert "↓ 1 new below" in "".join(screen(face))
    face.keypress(size, "end")
    face.keypress(size, "meta up")
    assert "[Bob: news] /reply" in "".join(screen(face))
    desk.tabs[0].say(Speech(said("mine", 0, mine=True, state="queued")))
    assert desk.work.queued == 1
    desk.remove(desk.tabs[0])
    assert desk.tab is desk.tabs[0]


def test_connection_in_words() -> None:
    """The state of the connection, with the seconds to the next try."""
    lost = State(Phase.RECONNECTING, 2, retry_at=13.2, cause=OSError("reset\x1b"))
    assert plain(connection(lost, None, 10.0)) == "○ offline  try 3 in 4 s"
    assert plain(connection(attrs.evolve(lost, retry_at=None), None, 10.0)) == "○ offline  try 2…"
    assert plain(connection(attrs.evolve(lost, retry_at=9.0), None, 10.0)).endswith("try 3…")
    first = State(Phase.CONNECTING, 1)
    assert plain(connection(first, None, 0.0)) == "○ connecting…"
    assert "not connected" in plain(connection(attrs.evolve(first, attempt=2), None, 0.0))
    assert "disconnected" in plain(connection(State(Phase.FAILED), None, 0.0))
    assert plain(connection(ONLINE, 12.5, 0.0)).endswith("12 s")
    assert cause_text(lost.cause) == "reset\\x1b"
    assert cause_text(None) == ""
    line = status_line((("bar.good", "online"),), Work(2, (("a.png", 43),)), "why " * 30, 60)
    assert plain(line).startswith(" online   2 queued   a.png 43 %   why why")
    assert line_width(line) <= 60


def test_why_there_is_no_link_in_few_words() -> None:
    """The status line says what the system says, and all that is said where it says nothing."""
    refused = ExceptionGroup("all failed", [OSError(errno.ECONNREFUSED, "to ('::1', 9): refused")])
    tried = OSError("no connection to 'example.org', port 9")
    tried.__cause__ = refused
    assert root_text(tried) == "Connection refused"
    tried.__cause__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert root_text(tried) == "Name or service not known"
    tried.__cause__ = ssl.SSLError(1, "certificate verify failed")
    assert root_text(tried) == str(tried)
    assert root_text(None) == ""


def test_ones_own_name_stands_out() -> None:
    """It has colours that nobody else has, beside messages and above them."""
    names = [MessageRow(said("hi", 1, ADA, mine=mine)) for mine in (True, False)]
    for look in (LOOK, Look(40)):
        mine, other = ({colours for colours, _ in row.lines(look)[0]} for row in names)
        assert "me" in mine
        assert "me" not in other


def test_who_is_there_without_a_link() -> None:
    """Without a link it is not said how many are here, and those who were are dim."""
    _, desk, _ = furnished()
    members = {user.id: user for user in (ADA, BOB)}
    room = SimpleNamespace(members=members, me=ADA, typing_users=(), unread=0, messages=())
    desk.tabs[0].room = cast(ChatRoom, room)
    layout = Layout.of(120, 24, 1)
    there = Picture(desk, ONLINE, None, 0.0).above(layout)
    assert plain(there[0]).endswith(" 2 here ")
    assert there[1][-2:] == (("me", "Ada"), ("away", " (you)"))
    assert there[2][-2][0] not in ("me", "away")
    lost = Picture(desk, State(Phase.RECONNECTING, 1), None, 0.0).above(layout)
    assert "here" not in plain(lost[0])
    assert [line[-2] for line in lost[1:3]] == [("away", "Ada"), ("away", "Bob")]


def test_log_on_the_screen() -> None:
    """What the library logs is a note in the room that is shown, and not on the terminal."""
    desk, changes = Desk(), []
    desk.add("lobby")
    with _log_to(desk, lambda: changes.append(1)):
        logging.getLogger("trio_rt.chat").warning("the profile was refused: %s", "\x1b[2J")
    assert changes == [1]
    lines = desk.tabs[0].view.lines(LOOK, 5)
    assert plain(lines[0]).endswith("the profile was refused: \\x1b[2J")


def test_decisions_in_words() -> None:
    """What owners decide, and what the service does."""
    assert (
        decision_text(Moderated("role", BOB, ADA, role="owner")) == "Bob is an owner now, says Ada"
    )
    service = User("chat.service", "chat.service")
    assert decision_text(Moderated("ban", BOB, service)) == "Bob is banned"


def _luminance(colour: Sequence[int]) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [value / 255 for value in colour]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255)])
def test_colours_can_be_read_on_any_terminal(ground: tuple[int, int, int]) -> None:
    """Where they have no ground of their own."""
    urwid = pytest.importorskip("urwid", reason="the extra tui is not installed")
    poor = {}
    for name, *_, text, own_ground in PALETTE:
        shown = urwid.AttrSpec(text, own_ground, 256).get_rgb_values()[:3]
        if own_ground != "default" or shown[0] is None:
            continue
        high, low = sorted((_luminance(shown), _luminance(ground)), reverse=True)
        if (high + 0.05) / (low + 0.05) < 3:
            poor[name] = text
    assert poor == {}
