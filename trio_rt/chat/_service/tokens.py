"""Who somebody is: signed tokens (JWT, RFC 7519), and the accept hook that takes them.

**Goal.** Whoever has logged a user in, in whatever language, says so to the chat without
asking it, and the chat believes nothing else.

**What does not work.** To believe a token's header: it may say that there is no signature,
or that a public key is the secret. To let a resumed session in without a token: a user who
was logged out would stay for ever.

**The rule.** HMAC with SHA-256 (HS256) alone, by a secret of at least 32 bytes. Claims: `sub`
is the user, `exp` has to be there, `nbf` may be; `name` and `picture` are what others see,
`admin` (true) may moderate every room. A token with an `aud` is for somebody else. It is
asked for on each link, those of resumed sessions too: one that says something else about the
user than that of the link before begins a new session. A token is shown as `_tokens` says.

**The remaining hole.** A link that is up outlives its token. Ban a user who is to go at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio

from ..._accept import AcceptHook
from ..._ambient import ambient
from ..._handshake import Handshake
from ..._tokens import shown_tokens
from ...errors import OptionError, Refuse
from ...hub._names import NAME_BYTES, check_name, is_name
from ...hub._server.rules import Who
from ...options import check_flag, check_number
from .._words import AVATAR_BYTES

__all__ = [
    "GUEST",
    "SERVICE",
    "ChatWho",
    "accept_tokens",
    "is_avatar",
    "profile",
    "seen",
    "sign_token",
]

#: As long as what the signature is made with (RFC 7518, 3.2).
SECRET_BYTES: Final = 32
#: The longest token that is looked at.
TOKEN_CHARACTERS: Final = 4096

#: How the users of clients without a token begin, and nobody else's.
GUEST: Final = "guest-"
#: The user as whom the service itself speaks.
SERVICE: Final = "chat.service"

#: Seconds since the epoch that no clock will show.
END_S: Final = 1e15

_ALGORITHM: Final = "HS256"
#: The times are checked here: by the clock of `ambient()`.
_OPTIONS: Final = {
    "require": ["exp", "sub"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


@attrs.frozen
class ChatWho(Who):
    """A user of the chat."""

    #: May do in every room what its owners may.
    admin: bool = False
    #: Has shown nothing: is a member at most, whatever was decided about the name.
    guest: bool = False


def profile(name: str = "", avatar: str = "", status: str = "online") -> dict[str, str]:
    """What others see of a user: `Who.info`."""
    return {"name": name, "status": status, "avatar": avatar}


def seen(info: object) -> dict[str, str]:
    """What of `info`, which a hook of the program's own may have given, others may see."""
    given = info if isinstance(info, Mapping) else {}
    name, avatar = given.get("name", ""), given.get("avatar", "")
    status = "away" if given.get("status") == "away" else "online"
    return profile(name if is_name(name) else "", avatar if is_avatar(avatar) else "", status)


def is_avatar(avatar: object) -> bool:
    """Whether it may be one: a URL, a path at the chat's server, or an emoji."""
    return is_name(avatar, AVATAR_BYTES)


def sign_token(
    secret: str | bytes,
    user: str,
    *,
    name: str = "",
    avatar: str = "",
    admin: bool = False,
    for_s: float = 86_400.0,
) -> str:
    """A token by which a client is `user`, for so many seconds.

    - `secret`: that of the service, at least 32 random bytes.
    - `name`, `avatar`: what others see, until the user changes it.
    - `admin`: may do in every room what its owners may.

    Raises `OptionError`, and ImportError without the extra `chat`.
    """
    key = _key(secret)
    check_name("user", user)
    if _is_reserved(user):
        raise OptionError("user", f'must not begin with "{GUEST}", nor be "{SERVICE}"', user)
    for field, value, most in (("name", name, NAME_BYTES), ("avatar", avatar, AVATAR_BYTES)):
        if value != "":
            check_name(field, value, most)
    check_flag("admin", admin)
    check_number("for_s", for_s, above=True, finite=True)
    now = ambient().wall_s()
    claims: dict[str, Any] = {"sub": user, "iat": round(now, 3), "exp": round(now + for_s, 3)}
    more = {"name": name, "picture": avatar, "admin": admin}
    claims.update((claim, value) for claim, value in more.items() if value)
    token: str = _pyjwt().encode(claims, key, _ALGORITHM)
    return token


def accept_tokens(secret: str | bytes | None, *, anonymous: bool = False) -> AcceptHook:
    """An accept hook for `serve()`: who shows a good token is its user, as a `ChatWho`.

    Who shows none is a guest if `anonymous`. Everybody else gets 401, with
    `error_description="the token has expired"` in `WWW-Authenticate` where a new one
    would do. It takes pages of any origin: a browser adds no token by itself. `secret` may
    be None if there are to be guests alone.

    Raises `OptionError`, and ImportError without the extra `chat`.
    """
    check_flag("anonymous", anonymous)
    if secret is None and not anonymous:
        raise OptionError("secret", "must be there, or anonymous=True", secret)
    key = None if secret is None else _key(secret)

    async def hook(handshake: Handshake) -> object:
        await trio.lowlevel.checkpoint()
        shown = list(shown_tokens(handshake))
        if not shown and anonymous:
            return None
        if not shown:
            raise Refuse(401, "a token is wanted", headers={"WWW-Authenticate": "Bearer"})
        first, *others = [_read(token, key) for token in shown]
        if any(other != first for other in others):
            raise _refuse("the tokens are not of one user")
        return first

    return hook


def _key(secret: object) -> bytes:
    """It, checked. No error shows it."""
    key = secret.encode(errors="surrogatepass") if isinstance(secret, str) else secret
    if not isinstance(key, bytes):
        raise OptionError("secret", "must be text or bytes", f"a {type(secret).__name__}")
    if len(key) < SECRET_BYTES:
        raise OptionError("secret", f"must have at least {SECRET_BYTES} bytes", f"{len(key)}")
    jwt = _pyjwt()
    try:
        jwt.encode({}, key, _ALGORITHM)
    except jwt.InvalidKeyError:
        rule = "must be random bytes, and no public key or JWK"
        raise OptionError("secret", rule, "(not shown)") from None
    return key


def _pyjwt() -> Any:
    try:
        return importlib.import_module("jwt")
    except ModuleNotFoundError as error:
        error.add_note("pip install trio-rt[chat]")
        raise


def _read(token: str, key: bytes | None) -> ChatWho:
    """Of whom it is. Raises `Refuse`."""
    claims = None if key is None or len(token) > TOKEN_CHARACTERS else _claims(token, key)
    if claims is None:
        raise _refuse("no such token")
    now = ambient().wall_s()
    if not _is_time(claims["exp"]) or not _is_time(claims.get("nbf", 0)):
        raise _refuse("the token has a time that is none")
    if now >= claims["exp"]:
        raise _refuse("the token has expired")
    if now < claims.get("nbf", 0):
        raise _refuse("the token is not good yet")
    return _who(claims)


def _claims(token: str, key: bytes) -> Mapping[str, Any] | None:
    """What it says; None if nobody can have signed that."""
    try:
        claims: Mapping[str, Any] = _pyjwt().decode(
            token, key, algorithms=[_ALGORITHM], options=_OPTIONS
        )
    except Exception:  # whatever a stranger's text does to a parser
        return None
    return claims


def _who(claims: Mapping[str, Any]) -> ChatWho:
    user, name, avatar = claims["sub"], claims.get("name", ""), claims.get("picture", "")
    admin = claims.get("admin", False)
    if not is_name(user) or _is_reserved(user):
        raise _refuse("the token has a user that is none")
    if (name != "" and not is_name(name)) or (avatar != "" and not is_avatar(avatar)):
        raise _refuse("the token has a name or a picture that cannot be shown")
    if not isinstance(admin, bool):
        raise _refuse("the token has an admin that is neither true nor false")
    return ChatWho(user, info=profile(name, avatar), admin=admin)


def _is_reserved(user: str) -> bool:
    return user == SERVICE or user.startswith(GUEST)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < END_S


def _refuse(text: str) -> Refuse:
    why = f'Bearer error="invalid_token", error_description="{text}"'
    return Refuse(401, text, headers={"WWW-Authenticate": why})
