"""How one thing in a room's past looks: a message, or a note that only this screen has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urljoin, urlsplit
from zlib import crc32

import attrs

from ...chat import ChatMessage
from .lines import Line, Segment, line_width, padded, rule
from .text import fit_line, fit_text, shortened, width_of, wrapped
from .words import clock_text, size_text

__all__ = [
    "ACTION",
    "NARROW",
    "NOTES",
    "Look",
    "MessageRow",
    "NoteRow",
    "Row",
    "attachment_text",
    "is_action",
    "name_colours",
    "summary",
]

#: A narrower room has the names above the messages, and not beside them.
NARROW: Final = 56
#: The column of names.
NAMES: Final = 12
#: Longer names are cut, wherever they are shown.
MOST_NAME: Final = 24
#: The key in the metadata of a message that says what its sender does: `/me`.
ACTION: Final = "action"
#: Different colours of names.
NAME_COLOURS: Final = 8
#: Notes of one kind that go into one row.
NOTES: Final = 8
#: Reactions of one message that are shown.
MOST_REACTIONS: Final = 12

Mood: TypeAlias = Literal["note", "presence", "error", "help"]

_STATES: Final = {"queued": "(queued)", "sent": "(sending)", "acked": "(sent)"}


@attrs.frozen
class Look:
    """What the looks of a row depend on, besides itself."""

    width: int
    #: Goes up when something changes that other rows quote.
    version: int = 0
    #: The server's, for links; "" if that is not known.
    base: str = ""
    me: str = ""
    #: The message at an offset, if it is known.
    quoted: Callable[[int], ChatMessage | None] = attrs.field(default=lambda _: None, eq=False)

    @property
    def is_narrow(self) -> bool:
        return self.width < NARROW

    @property
    def indent(self) -> int:
        """Where texts begin."""
        return 2 if self.is_narrow else len("00:00 ") + NAMES + 2


@attrs.define(eq=False)
class NoteRow:
    """Something that this screen says, in this room."""

    texts: list[str]
    mood: Mood
    at: int
    #: When the last message before it was said.
    after: int = 0

    def lines(self, look: Look, *, is_new: bool = False, selected: bool = False) -> list[Line]:
        """As many as it needs, each of at most the width of `look`."""
        colours = "error" if self.mood == "error" else "note"
        margin = self._margin(look)
        found = [line for text in self._shown() for line in wrapped(text, look.width - len(margin))]
        indents = [margin, *[" " * len(margin)] * (len(found) - 1)]
        return [((colours, head + text),) for head, text in zip(indents, found, strict=True)]

    def _margin(self, look: Look) -> str:
        if self.mood == "help":
            return "  "
        return "- " if look.is_narrow else f"{clock_text(self.at)} {'--':>{NAMES}}  "

    def _shown(self) -> list[str]:
        if self.mood != "presence":
            return self.texts
        left_out = len(self.texts) - NOTES
        more = f", and {left_out} more" if left_out > 0 else ""
        return [", ".join(self.texts[:NOTES]) + more]


@attrs.define(eq=False)
class MessageRow:
    """A message in its place, or one of one's own on its way."""

    message: ChatMessage
    #: What is said above it: another day than that of the row before.
    day: str = ""
    #: Whether it goes on with what the row before says.
    follows: bool = False
    _key: object = None
    _lines: list[Line] = attrs.field(factory=list)

    def lines(self, look: Look, *, is_new: bool = False, selected: bool = False) -> list[Line]:
        """As many as it needs, each of at most the width of `look`. Kept until that changes."""
        key = look, self.message, self.day, self.follows, is_new, selected
        if key != self._key:
            self._key, self._lines = key, self._drawn(look, is_new, selected)
        return self._lines

    def _drawn(self, look: Look, is_new: bool, selected: bool) -> list[Line]:
        heads = [rule(self.day, look.width, "rule")] if self.day else []
        if is_new:
            heads.append(rule("new", look.width, "new"))
        body = self._body(look)
        if selected:
            body = [_as_selected(line, look.width) for line in body]
        return heads + body

    def _body(self, look: Look) -> list[Line]:
        texts = _texts(self.message, look)
        if look.is_narrow:
            margins: list[Line] = [(("", " " * look.indent),)] * len(texts)
            body = [(*margin, *text) for margin, text in zip(margins, texts, strict=True)]
            return body if self.follows else [self._head(look), *body]
        first: Line = (("time", f"{clock_text(self.message.at)} "), self._name(), ("", "  "))
        margins = [first, *[(("", " " * look.indent),)] * (len(texts) - 1)]
        return [(*margin, *text) for margin, text in zip(margins, texts, strict=True)]

    def _name(self) -> Segment:
        if self.follows:
            return "", " " * NAMES
        name = "*" if is_action(self.message) else fit_line(self.message.user.name)
        shown = shortened(name, NAMES)
        return _colours_of(self.message), " " * (NAMES - width_of(shown)) + shown

    def _head(self, look: Look) -> Line:
        at = clock_text(self.message.at)
        name = shortened(fit_line(self.message.user.name), min(look.width - 7, MOST_NAME))
        return ((_colours_of(self.message), name), ("time", f"  {at}"))


Row: TypeAlias = MessageRow | NoteRow


def name_colours(user: str) -> str:
    """The colours of a user, the same wherever they are."""
    return f"name{crc32(user.encode(errors='replace')) % NAME_COLOURS}"


def _colours_of(message: ChatMessage) -> str:
    return "me" if message.mine else name_colours(message.user.id)


def is_action(message: ChatMessage) -> bool:
    """Whether it says what its sender does."""
    return message.kind == "text" and message.metadata.get(ACTION) is True


def _as_selected(line: Line, width: int) -> Line:
    return tuple(("selected", text) for _, text in padded(line, width))


def _texts(message: ChatMessage, look: Look) -> list[Line]:
    room = max(look.width - look.indent, 2)
    said = _said(message, look, room)
    colours, suffix = _suffix(message)
    if suffix:
        if line_width(said[-1]) + 2 + width_of(suffix) <= room:
            said[-1] = (*said[-1], (colours, f"  {suffix}"))
        else:
            said += [((colours, text),) for text in wrapped(suffix, room)]
    return [*_quote(message, look, room), *said, *_reactions(message, look, room)]


def _said(message: ChatMessage, look: Look, room: int) -> list[Line]:
    if message.deleted:
        return [(("gone", shortened("this message was deleted", room)),)]
    colours = "" if message.state == "echoed" else "pending"
    text = fit_text(message.content)
    if message.kind != "text":
        text, colours = attachment_text(message, look.base), colours or "link"
    elif is_action(message):
        text, colours = f"{fit_line(message.user.name)} {text}", colours or "action"
    return [((colours, line),) for line in wrapped(text, room)]


def _suffix(message: ChatMessage) -> tuple[str, str]:
    if message.state == "failed":
        return "error", f"failed: {fit_line(message.failure) or 'refused'}"
    if message.state in _STATES:
        return "state", _STATES[message.state]
    edited = message.edited_at and not message.deleted
    return "state", "(edited)" if edited else ""


def _quote(message: ChatMessage, look: Look, room: int) -> list[Line]:
    if not message.reply:
        return []
    quoted = look.quoted(message.reply)
    text = "an earlier message" if quoted is None else summary(quoted)
    return [(("quote", shortened(f"> {text}", room)),)]


def summary(message: ChatMessage) -> str:
    """A message in one line, with who said it."""
    name = shortened(fit_line(message.user.name), MOST_NAME)
    if message.deleted:
        return f"{name}: (deleted)"
    text = message.content if message.kind == "text" else f"[{message.kind}] {_file_name(message)}"
    return f"{name}: {fit_line(text[:400])}"


def _reactions(message: ChatMessage, look: Look, room: int) -> list[Line]:
    lines: list[Line] = []
    line: Line = ()
    for reaction, users in list(message.reactions.items())[:MOST_REACTIONS]:
        shown = shortened(fit_line(reaction) or "?", 16)
        colours = "reacted" if look.me in users else "reaction"
        segment: Segment = (colours, shortened(f"{shown} {len(users)}", room))
        if line and line_width(line) + 2 + width_of(segment[1]) > room:
            lines.append(line)
            line = ()
        line = (*line, ("", "  "), segment) if line else (segment,)
    return [*lines, line] if line else lines


# Images and files


def attachment_text(message: ChatMessage, base: str) -> str:
    """An image or a file: what it is, and where."""
    size: Any = message.metadata.get("size")
    is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    facts = [f"[{message.kind}]", _file_name(message), size_text(size) if is_size else ""]
    link = _link(message.content, base)
    return f"{' '.join(filter(None, facts))}\n{link}"


def _file_name(message: ChatMessage) -> str:
    name = message.metadata.get("name")
    given = fit_line(name[:200]) if isinstance(name, str) else ""
    return given or fit_line(message.content.rpartition("/")[2])[:200]


def _link(content: str, base: str) -> str:
    """As it can be opened: paths are of the chat's server."""
    is_path = content.startswith("/") and not content.startswith("//")
    try:
        link = urljoin(base, content) if base and is_path else content
        urlsplit(link)
    except ValueError:
        link = content
    return fit_line(link)
