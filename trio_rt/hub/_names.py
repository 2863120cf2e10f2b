"""What may be a room's name, a user's, a kind of message: one rule each, for both sides.

A name travels in keys of a store, in types of messages and in logs. So it is text
that UTF-8 can encode, without control characters (Unicode's `Cc`, `Cf`, `Cs`, `Zl`,
`Zp`: nothing invisible makes two names look alike, or a log line two), not empty,
without space at its ends, and of a bounded length in bytes.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from ..errors import OptionError

__all__ = ["NAME_BYTES", "check_name", "is_name"]

#: The longest name, in bytes of UTF-8.
NAME_BYTES: Final = 128

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def is_name(name: object, most_bytes: float = NAME_BYTES) -> bool:
    """Whether `name` may be a name of at most `most_bytes`."""
    if not isinstance(name, str) or not name or len(name) > most_bytes:
        return False
    if name.isascii():
        return name.isprintable() and name == name.strip()
    if name != name.strip() or any(unicodedata.category(c) in _INVISIBLE for c in name):
        return False
    return len(name.encode()) <= most_bytes


def check_name(field: str, name: object, most_bytes: float = NAME_BYTES) -> None:
    """Raise `OptionError` unless `name` may be one."""
    if not is_name(name, most_bytes):
        rule = f"must be printable text of 1 to {most_bytes:g} bytes, without space at its ends"
        shown = name[:40] if isinstance(name, str) else name
        raise OptionError(field, rule, shown)
