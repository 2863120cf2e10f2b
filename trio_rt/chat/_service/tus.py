"""The headers of tus 1.0.0, by which an upload can be gone on with. Decides only.

Of its extensions there are creation, creation-with-upload, creation-defer-length,
checksum, expiration and termination: https://tus.io/protocols/resumable-upload.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from ...errors import Refuse
from .file_names import safe_name
from .sniff import UNKNOWN

__all__ = [
    "ALGORITHMS",
    "CONTENT_TYPE",
    "EXTENSIONS",
    "VERSION",
    "Checksum",
    "Wanted",
    "check_version",
    "metadata_header",
    "number",
    "wanted",
]

VERSION: Final = "1.0.0"
EXTENSIONS: Final = (
    "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination"
)
#: SHA-1 is the one that tus asks for. It finds damage, not malice.
ALGORITHMS: Final = ("sha1", "sha256")
CONTENT_TYPE: Final = "application/offset+octet-stream"

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_TYPE: Final = re.compile(r"[-\w.+!#$&^]{1,63}/[-\w.+!#$&^]{1,63}", re.ASCII)

Headers = Mapping[str, str]


@attrs.frozen(kw_only=True)
class Wanted:
    """An upload that a client wants to begin."""

    #: In bytes; None if the client does not know it yet.
    length: int | None
    name: str
    type: str


def check_version(headers: Headers) -> None:
    """Raise `Refuse` unless the client speaks this version."""
    if headers.get("Tus-Resumable") != VERSION:
        raise Refuse(412, f"Tus-Resumable must be {VERSION}", headers={"Tus-Version": VERSION})


def number(headers: Headers, name: str) -> int | None:
    """A header that is a number of bytes; None if it is absent. Raises `Refuse`."""
    value = headers.get(name)
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise Refuse(400, f"{name} must be a number of up to 18 digits")
    return int(value)


def wanted(headers: Headers) -> Wanted:
    """What a request for a new upload asks for. Raises `Refuse`."""
    length, later = number(headers, "Upload-Length"), headers.get("Upload-Defer-Length")
    if later not in (None, "1") or (length is None) == (later is None):
        raise Refuse(400, "one of Upload-Length and Upload-Defer-Length must be given")
    told = _metadata(headers.get("Upload-Metadata", ""))
    kind = told.get("filetype", "").partition(";")[0].strip().lower() or UNKNOWN
    if not _TYPE.fullmatch(kind):
        raise Refuse(400, "the filetype must be a media type")
    return Wanted(length=length, name=safe_name(told.get("filename", "")), type=kind)


def _metadata(header: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not key or key in found:
            raise Refuse(400, "Upload-Metadata must be pairs of different keys and their values")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            raise Refuse(400, "Upload-Metadata must have UTF-8 in Base64 as values") from None
    return found


def metadata_header(name: str, kind: str) -> str:
    """What is known of an upload, as a header has it."""
    pairs = {"filename": name, "filetype": kind}
    return ",".join(f"{key} {base64.b64encode(pairs[key].encode()).decode()}" for key in pairs)


class Checksum:
    """What the bytes of one request must add up to. Raises `Refuse` for a bad header."""

    def __init__(self, header: str) -> None:
        algorithm, _, digest = header.partition(" ")
        if algorithm not in ALGORITHMS:
            raise Refuse(400, f"Upload-Checksum must be by one of {', '.join(ALGORITHMS)}")
        try:
            self._digest = base64.b64decode(digest, validate=True)
        except (binascii.Error, ValueError):
            raise Refuse(400, "Upload-Checksum must have a digest in Base64") from None
        self._hash: Any = hashlib.new(algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """These came next."""
        self._hash.update(data)

    def check(self) -> None:
        """Raise `Refuse` (460, as tus has it) unless they do."""
        if self._hash.digest() != self._digest:
            raise Refuse(460, "the bytes are not those of the Upload-Checksum")
