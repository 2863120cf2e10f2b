"""Names of files, which are only shown and never a path, and the addresses with them."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote, unquote_to_bytes

__all__ = ["NAME_BYTES", "address", "disposition", "name_in", "safe_name"]

#: The longest name, in bytes of UTF-8.
NAME_BYTES: Final = 128

#: A longer "suffix" is none, and not worth keeping where a name is cut.
_SUFFIX_BYTES: Final = 16
#: What hides in a text, or turns its direction ("gpj.exe" backwards).
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_NAMELESS: Final = "file"
_NO_TOKEN: Final = re.compile(r'[^\x20-\x7e]|["\\%]')


def safe_name(name: str) -> str:
    """What of `name` may be shown: no directories, nothing invisible, no dot in front."""
    seen = "".join(c for c in name if unicodedata.category(c) not in _INVISIBLE)
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", seen))[-1]
    return _cut(last.lstrip(". ").rstrip(". ")) or _NAMELESS


def _cut(name: str) -> str:
    """At most `NAME_BYTES` of it, with its suffix."""
    if len(name.encode()) <= NAME_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    tail = dot + suffix
    if not stem or len(tail.encode()) > _SUFFIX_BYTES:
        stem, tail = name, ""
    room = NAME_BYTES - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + tail


def name_in(segment: str) -> str:
    """The name that the last segment of an address shows."""
    return safe_name(unquote_to_bytes(segment).decode(errors="replace"))


def address(path: str, sha256: str, name: str) -> str:
    """Where the file is, below `path`."""
    return f"{path}/{sha256}/{quote(name, safe='')}"


def disposition(how: str, name: str) -> str:
    """A `Content-Disposition` (RFC 6266): "inline" or "attachment", and a name."""
    plain = _NO_TOKEN.sub("_", name)
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
