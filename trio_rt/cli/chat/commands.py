"""What a line of input means."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

__all__ = ["HELP", "KEYS", "Mistake", "Order", "completed", "read_input"]

#: How a command is followed by something.
Want: TypeAlias = Literal["nothing", "something", "must"]


@attrs.frozen
class Order:
    """Something to do: "say", or a command's name without the slash."""

    name: str
    argument: str = ""


@attrs.frozen
class Mistake:
    """A line that means nothing, and what to do about it."""

    text: str


@attrs.frozen
class _Command:
    usage: str
    want: Want
    help: str


_COMMANDS: Final[dict[str, _Command]] = {
    "join": _Command("/join ROOM", "must", "go into a room, or to it"),
    "leave": _Command("/leave", "nothing", "leave this room"),
    "who": _Command("/who", "nothing", "who is here"),
    "me": _Command("/me TEXT", "must", "say what you do"),
    "reply": _Command("/reply TEXT", "must", "answer the selected message, or the last of others"),
    "edit": _Command("/edit [TEXT]", "something", "change the selected message, or your last"),
    "delete": _Command("/delete", "nothing", "delete the selected message, or your last"),
    "react": _Command("/react EMOJI", "must", "to the selected message, or the last of others"),
    "file": _Command("/file PATH", "must", "send a file or an image"),
    "away": _Command("/away", "nothing", "be shown as away"),
    "back": _Command("/back", "nothing", "be shown as back"),
    "retry": _Command("/retry", "nothing", "say once more what failed"),
    "drop": _Command("/drop", "nothing", "show no more what failed"),
    "help": _Command("/help [keys]", "something", "this list; or the keys"),
    "quit": _Command("/quit", "nothing", "leave the chat"),
}

_WIDE: Final = max(len(command.usage) for command in _COMMANDS.values())

HELP: Final = (
    *(f"{command.usage:<{_WIDE}}  {command.help}" for command in _COMMANDS.values()),
    f"{'//...':<{_WIDE}}  say a line that begins with /",
)

KEYS: Final = (
    "Enter           send; Alt-Enter: a new line",
    "Up, Down        what you have sent before",
    "Alt-Up/Down     select a message; Esc: none",
    "PgUp, PgDn      read back; End: to the end",
    "Alt-1 .. Alt-9  a room; Ctrl-N, Ctrl-P: the next",
    "Tab             complete a command or a name",
    "Ctrl-D, Ctrl-C  leave the chat",
)


def read_input(text: str) -> Order | Mistake | None:
    """What a line, or several, mean; None for nothing."""
    if not text.strip():
        return None
    if text.startswith("//"):
        return Order("say", text[1:])
    if not text.startswith("/"):
        return Order("say", text)
    word, *argument = text[1:].split(None, 1) or [""]
    return _read_command(word.lower(), "".join(argument).rstrip())


def _read_command(name: str, argument: str) -> Order | Mistake:
    command = _COMMANDS.get(name)
    if command is None:
        return Mistake(f"There is no command /{name}. {_hint(name)}")
    if command.want == "must" and not argument:
        return Mistake(f"{command.usage}: {command.help}.")
    if command.want == "nothing" and argument:
        return Mistake(f"{command.usage} stands alone.")
    return Order(name, argument)


def _hint(name: str) -> str:
    near = [known for known in _COMMANDS if name and known[0] == name[0]]
    if near:
        return f"Did you mean /{near[0]}? All are in /help."
    return "/help shows all; // says a line that begins with /."


def completed(text: str, names: list[str]) -> str:
    """The text with its last word completed, as far as there is but one way."""
    head, space, word = text.rpartition(" ")
    if not word:
        return text
    if not space and word.startswith("/"):
        found = [f"/{name} " for name in _COMMANDS if name.startswith(word[1:].lower())]
    else:
        end = " " if space else ": "
        found = [f"{name}{end}" for name in names if name.lower().startswith(word.lower())]
    if not found:
        return text
    common = found[0] if len(found) == 1 else _common(found)
    return f"{head}{space}{common}" if len(common) >= len(word) else text


def _common(texts: list[str]) -> str:
    kept = 0
    for characters in zip(*(text.lower() for text in texts), strict=False):
        if len(set(characters)) > 1:
            break
        kept += 1
    return texts[0][:kept]
