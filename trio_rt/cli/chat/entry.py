"""The input line: what is typed or pasted, and what was sent before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import urwid

from .text import TAB, typeable

__all__ = ["Entry", "Recall"]

#: Lines that were sent and are remembered.
RECALLED: Final = 200
#: Characters of one input.
MOST: Final = 16_000

#: Keys that shells have, and what they are here.
_SHELL: Final[Mapping[str, str]] = {
    "ctrl a": "home",
    "ctrl e": "end",
    "ctrl b": "left",
    "ctrl f": "right",
    "ctrl h": "backspace",
    "ctrl d": "delete",
}


class Recall:
    """What was sent before, for Up and Down."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._at = 0
        self._draft = ""

    def add(self, text: str) -> None:
        """It was sent."""
        if not self._texts or self._texts[-1] != text:
            self._texts.append(text)
            del self._texts[:-RECALLED]
        self._at = len(self._texts)

    def older(self, now: str) -> str | None:
        """The one before; `now` comes back at the end. None if there is none."""
        if not self._at:
            return None
        if self._at == len(self._texts):
            self._draft = now
        self._at -= 1
        return self._texts[self._at]

    def newer(self) -> str | None:
        """The one behind, or what was begun. None if there is none."""
        if self._at >= len(self._texts):
            return None
        self._at += 1
        return self._draft if self._at == len(self._texts) else self._texts[self._at]


class Entry(urwid.Edit):
    """An `Edit` of several lines, with keys of a shell, pasting, and a memory."""

    def __init__(self) -> None:
        super().__init__(multiline=True)
        self.recall: Final = Recall()
        self._pasted: list[str] | None = None

    @property
    def text_now(self) -> str:
        """What stands there."""
        return self.get_edit_text()

    @property
    def pastes(self) -> bool:
        """Whether what comes is pasted."""
        return self._pasted is not None

    def put(self, text: str) -> None:
        """Let this stand there."""
        self.set_edit_text(text)
        self.set_edit_pos(len(text))

    def take(self) -> str:
        """What stands there, which is remembered. Nothing stands there then."""
        text = self.text_now
        if text.strip():
            self.recall.add(text)
        self.put("")
        return text

    def valid_char(self, ch: str) -> bool:
        return len(self.text_now) < MOST and super().valid_char(ch) and bool(typeable(ch))

    def keypress(self, size: tuple[int], key: str) -> str | None:  # type: ignore[override]
        """None if the key was for it."""
        if self._pasted is not None or key == "begin paste":
            self._paste(key)
            return None
        key = _SHELL.get(key, key)
        if key == "meta enter":
            self.insert_text("\n")
            return None
        if self._cuts(key):
            return None
        if key in ("up", "down"):
            return self._up_or_down(size, key)
        return super().keypress(size, key)

    def _paste(self, key: str) -> None:
        if key == "begin paste":
            self._pasted = []
        elif key == "end paste":
            text, self._pasted = "".join(self._pasted or ()), None
            self.insert_text(typeable(text)[: max(MOST - len(self.text_now), 0)])
        elif self._pasted is not None and len(self._pasted) < MOST:
            special = {"enter": "\n", "tab": TAB, "ctrl j": "\n"}
            self._pasted.append(special.get(key, key if len(key) == 1 else ""))

    def _cuts(self, key: str) -> bool:
        text, at = self.text_now, self.edit_pos
        if key == "ctrl u":
            kept = text[at:]
        elif key == "ctrl k":
            kept = text[:at]
        elif key in ("ctrl w", "meta backspace"):
            head = text[:at].rstrip()
            head = head[: max(head.rfind(" "), head.rfind("\n")) + 1]
            kept = head + text[at:]
        else:
            return False
        self.set_edit_text(kept)
        self.set_edit_pos({"ctrl u": 0, "ctrl k": at}.get(key, len(kept) - len(text[at:])))
        return True

    def _up_or_down(self, size: tuple[int], key: str) -> str | None:
        if super().keypress(size, key) is None:
            return None
        found = self.recall.older(self.text_now) if key == "up" else self.recall.newer()
        if found is not None:
            self.put(found)
        return None
