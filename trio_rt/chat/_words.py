"""What is said in a chat's rooms, as the hub's log has it: kinds of messages and their payloads.

A chat's room is a room of the hub, and all that happens in it is in the hub's order:

- `text`, `image`, `file`: something said (`Said`);
- `edit`, `delete`, `react`: about something said before, by its offset in the log;
- `moderation`: by the service alone: what was decided about a user (`Moderation`);
- `typing`: passes, and has no place in the log (`Typing`).

Each kind has one shape, unknown fields are refused, and what a shape cannot say about a
text is checked by `check_*`, at both ends: at the client so that the program learns it
at once, at the service because a client may be anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from ..errors import PayloadError

__all__ = [
    "AVATAR_BYTES",
    "CONTENT_BYTES",
    "DELETE",
    "EDIT",
    "KINDS",
    "METADATA_BYTES",
    "MODERATE",
    "MODERATION",
    "PROFILE",
    "REACT",
    "REACTION_BYTES",
    "SHAPES",
    "TYPING",
    "Action",
    "Delete",
    "Edit",
    "Kind",
    "Moderate",
    "Moderation",
    "Profile",
    "React",
    "Role",
    "SaidBody",
    "Status",
    "Typing",
    "check_content",
    "check_metadata",
    "check_reaction",
]

Kind: TypeAlias = Literal["text", "image", "file"]
Status: TypeAlias = Literal["online", "away", "offline"]
Role: TypeAlias = Literal["owner", "member", "reader"]
Action: TypeAlias = Literal["mute", "unmute", "ban", "unban", "role"]

KINDS: Final[tuple[str, ...]] = get_args(Kind)
EDIT: Final = "edit"
DELETE: Final = "delete"
REACT: Final = "react"
MODERATION: Final = "moderation"
TYPING: Final = "typing"

#: Commands to the service, beside the hub's own.
MODERATE: Final = "chat.moderate"
PROFILE: Final = "chat.profile"

#: The longest avatar, in UTF-8.
AVATAR_BYTES: Final = 512
#: The longest content, in UTF-8.
CONTENT_BYTES: Final = 16 << 10
#: The most metadata, as JSON.
METADATA_BYTES: Final = 4 << 10
#: The longest reaction, in UTF-8: room for any emoji and for short words.
REACTION_BYTES: Final = 64


class SaidBody(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Of `text`, `image` and `file`.

    `content` of an image or a file is where it is: a URL, or a path at the chat's server.
    `name` is who says it, for those who read it later: the service refuses one that is not
    the user's. `reply` is the offset of the message that is answered, 0 for none.
    """

    content: str
    name: str = ""
    reply: int = 0
    metadata: dict[str, Any] = {}


class Edit(msgspec.Struct, forbid_unknown_fields=True):
    """The message at `target` says this now."""

    target: int
    content: str


class Delete(msgspec.Struct, forbid_unknown_fields=True):
    """The message at `target` is not to be shown any more."""

    target: int


class React(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A user reacts to the message at `target`, or no more (`on` false)."""

    target: int
    reaction: str
    on: bool = True


class Typing(msgspec.Struct, forbid_unknown_fields=True):
    """A user is typing on this device, or has stopped."""

    on: bool


class Moderation(msgspec.Struct, omit_defaults=True):
    """What `by` has decided about `user`. `until`: ms since the epoch, 0 for ever."""

    action: Action
    user: str
    by: str
    until: int = 0
    role: Role = "member"


class Moderate(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """The command of a room's owner. `for_s`: seconds, 0 for ever, of a mute or a ban."""

    room: str
    action: Action
    user: str
    for_s: float = 0.0
    role: Role = "member"


class Profile(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """The command by which a user tells how it is to be seen; "" leaves a field as it was."""

    status: Literal["online", "away", ""] = ""
    name: str = ""
    avatar: str = ""


#: Of what a member may publish.
SHAPES: Final[Mapping[str, type]] = {
    **dict.fromkeys(KINDS, SaidBody),
    EDIT: Edit,
    DELETE: Delete,
    REACT: React,
    TYPING: Typing,
}

#: Controls (Unicode's `Cc`) and halves of characters (`Cs`). Format characters (`Cf`) join
#: emoji and steer the direction of some scripts: they are text.
_UNSAYABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
#: The same but for layout: lines and tabs.
_UNWRITABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def check_content(content: object) -> None:
    """Raise `PayloadError` unless `content` may be said."""
    _check_text("content", content, CONTENT_BYTES, _UNWRITABLE)


def check_reaction(reaction: object) -> None:
    """Raise `PayloadError` unless `reaction` may be one."""
    _check_text("reaction", reaction, REACTION_BYTES, _UNSAYABLE)


def check_metadata(metadata: object) -> None:
    """Raise `PayloadError` unless it is an object that JSON can have, of a bounded size."""
    if not isinstance(metadata, Mapping):
        raise PayloadError("metadata", "must be an object", metadata)
    try:
        size = len(msgspec.json.encode(metadata))
    except Exception as error:
        raise PayloadError("metadata", f"must fit in JSON ({error})", metadata) from error
    if size > METADATA_BYTES:
        raise PayloadError("metadata", f"must have at most {METADATA_BYTES} bytes as JSON", size)


def _check_text(field: str, text: object, most: int, wrong: re.Pattern[str]) -> None:
    if not isinstance(text, str):
        raise PayloadError(field, "must be text", text)
    if not text.isprintable() and (found := wrong.search(text)) is not None:
        rule = "must have no control characters or halves of characters"
        raise PayloadError(field, rule, found.group())
    if not text.strip():
        raise PayloadError(field, "must not be blank", text)
    size = len(text) if text.isascii() else len(text.encode())
    if size > most:
        raise PayloadError(field, f"must have at most {most} bytes of UTF-8", size)
