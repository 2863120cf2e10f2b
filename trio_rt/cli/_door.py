"""Who may come in: the tokens of `trio-rt serve`, and how a client shows one.

**Goal.** A token that a client shows in a way that does not leak it.

**What does not work.** A token in the URL (`?token=`): proxies, servers and browsers write
URLs into logs, histories and error reports. It is not looked at. A cookie: browsers send it
for any page. The first message: by then a stranger has a connection and a session.

**The rule.** `Authorization: Bearer <token>`, or for browsers, which cannot set headers, the
subprotocol `trio-rt.token.<token>`: a header too, that nothing logs by habit, and that is
never chosen, so that no answer has it. A client that offers it has to offer a real one
beside it, or browsers fail the connection. Tokens are kept and looked up as their SHA-256, so
that neither memory nor timing tells one; that is enough for tokens that cannot be guessed,
and so short ones are refused. On every link they are asked for again, those of a session that
is resumed too.

**The remaining hole.** Without TLS, who is on the way reads them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import trio

from .._accept import AcceptHook
from .._handshake import Handshake
from .._tokens import TOKEN_PROTOCOL, shown_tokens
from ..chat._service.tokens import SECRET_BYTES
from ..errors import OptionError, Refuse
from ..hub import Who
from ..hub._server.metrics import is_local

__all__ = ["TOKEN_PROTOCOL", "BadFile", "door", "read_secret", "read_token", "read_tokens"]

#: What both headers can carry (RFC 6750, 2.1; RFC 9110, 5.6.2), and nobody can guess.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+-]{16,512}")
_TOKEN_RULE: Final = "16 to 512 letters, digits or ._~+-"


class BadFile(Exception):
    """A file of secrets that cannot be used. The text has none of its content."""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines with something on them, and their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadFile(f"{path}: it is no UTF-8") from None
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def read_token(path: Path) -> str:
    """The one token in a file. Raises `BadFile`."""
    tokens = [line for _, line in _lines(path)]
    if len(tokens) != 1 or not _TOKEN.fullmatch(tokens[0]):
        raise BadFile(f"{path}: one line is wanted, with {_TOKEN_RULE}")
    return tokens[0]


def read_secret(path: Path) -> str:
    """The one line in a file, with which tokens are signed. Raises `BadFile`."""
    lines = [line for _, line in _lines(path)]
    if len(lines) != 1 or len(lines[0].encode()) < SECRET_BYTES:
        raise BadFile(f"{path}: one line is wanted, of at least {SECRET_BYTES} bytes")
    return lines[0]


def read_tokens(path: Path) -> dict[bytes, Who]:
    """Users by the SHA-256 of their tokens: lines of `token user [device]`. Raises `BadFile`."""
    found: dict[bytes, Who] = {}
    for number, line in _lines(path):
        token, *names = line.split()
        if len(names) not in (1, 2):
            raise BadFile(f"{path}, line {number}: must be: token user [device]")
        if not _TOKEN.fullmatch(token):
            raise BadFile(f"{path}, line {number}: a token must have {_TOKEN_RULE}")
        if _digest(token) in found:
            raise BadFile(f"{path}, line {number}: this token was there before")
        try:
            found[_digest(token)] = Who(*names)
        except OptionError as error:
            what = error.field.removeprefix("Who.")
            raise BadFile(f"{path}, line {number}: the {what} cannot be a name") from None
    if not found:
        raise BadFile(f"{path}: there is no token in it")
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def door(users: Mapping[bytes, Who], *, anonymous: bool) -> AcceptHook:
    """An accept hook: who shows a token is that user; who shows a wrong one gets 401.

    Who shows none is a guest if `anonymous`. Without that, and without `users`, guests are
    those whose program is on this machine (see `is_local`), and all others get 403.
    """

    async def hook(handshake: Handshake) -> object:
        await trio.lowlevel.checkpoint()
        shown = list(shown_tokens(handshake))
        if shown:
            found = {users.get(_digest(token)) for token in shown}
            if len(found) != 1 or None in found:
                raise _unknown("no such token")
            return found.pop()
        if anonymous:
            return None
        if users:
            raise _unknown("a token is wanted")
        if not is_local(handshake.remote, handshake.headers):
            raise Refuse(403, "only for programs on this machine")
        return None

    return hook


def _unknown(text: str) -> Refuse:
    return Refuse(401, text, headers={"WWW-Authenticate": "Bearer"})
