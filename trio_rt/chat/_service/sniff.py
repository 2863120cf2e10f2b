"""What a file is, by its first bytes, and whether that is what it was said to be.

**Goal.** A browser is told that something is an image only if it begins as one.

**What does not work.** To believe the name, or the type that the client says: both are
the client's words. To look for what is dangerous: there is always one form more.

**The rule.** Four formats are known, those that every browser shows and none runs. All
else is a download, whatever it is. What is said to be one of the four must be that one,
and what is one of the four must not be said to be anything else.

**The remaining hole.** A file may be two things at once (a "polyglot"). It is served as
the image, with `nosniff` and in a sandbox, so nobody takes it for the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from ...errors import OptionError

__all__ = ["IMAGES", "SNIFF_BYTES", "UNKNOWN", "check_types", "judged", "may_be", "sniffed"]

#: As much of a file's beginning as is looked at.
SNIFF_BYTES: Final = 32

#: The type of what nobody has said anything of.
UNKNOWN: Final = "application/octet-stream"

_MAGIC: Final = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", re.DOTALL),
    "image/jpeg": re.compile(rb"\xff\xd8\xff[\xc0-\xfe]", re.DOTALL),
    "image/gif": re.compile(rb"GIF8[79]a.{7}", re.DOTALL),
    "image/webp": re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL),
}
IMAGES: Final = frozenset(_MAGIC)

_TYPE: Final = re.compile(r"(?:\*|[-\w.+!#$&^]{1,63})/(?:\*|[-\w.+!#$&^]{1,63})", re.ASCII)


def sniffed(head: bytes) -> str | None:
    """The image that begins so; None if it is none."""
    return next((kind for kind, magic in _MAGIC.items() if magic.match(head)), None)


def judged(declared: str, head: bytes) -> str | None:
    """The type of what begins so and was said to be `declared`; None if that is not true."""
    found = sniffed(head)
    if declared == UNKNOWN:
        return found or UNKNOWN
    is_lie = found != declared and (found is not None or declared in IMAGES)
    return None if is_lie else declared


def check_types(field: str, types: Collection[str]) -> frozenset[str]:
    """As a set of types, each as "image/png", "image/*" or "*/*". Raises `OptionError`."""
    if isinstance(types, str):
        raise OptionError(field, "must be a collection of types", types)
    for kind in types:
        if not isinstance(kind, str) or not _TYPE.fullmatch(kind) or kind != kind.lower():
            raise OptionError(field, 'must have types as "image/png", "image/*" or "*/*"', kind)
    return frozenset(types)


def may_be(kind: str, types: Collection[str]) -> bool:
    """Whether one of `types` stands for `kind`."""
    return not {"*/*", kind.partition("/")[0] + "/*", kind}.isdisjoint(types)
