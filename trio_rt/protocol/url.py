"""WebSocket URLs: parsed once, checked strictly, shown without their secrets.

Nothing that could end a header line or hide a host gets through: control
characters and spaces are refused before `urllib` could strip them, and what
remains is ASCII. Whatever is shown, in errors too, has lost user, password
and query.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urldefrag, urljoin, urlsplit

import attrs
import idna

from ..errors import OptionError

__all__ = ["Url", "parse_url"]

#: RFC 3986, 3.3 and 3.4: what stands for itself in a path, and a "%".
PATH_SAFE: Final = "/%:@!$&'()*+,;=-._~"
QUERY_SAFE: Final = PATH_SAFE + "?"

#: A DNS label of at most 63 bytes; "_" is no host name but common in container networks.
LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
#: RFC 1035, 2.3.4, less the bytes that only the wire format has.
HOST_BYTES: Final = 253

_SCHEMES: Final = {"ws": False, "wss": True}
_HTTP: Final = {"http": "ws", "https": "wss"}


class _Bad(Exception):
    """The rule that a URL breaks."""


@attrs.frozen
class Url:
    """A checked WebSocket URL. `str(url)` has no user, no password and no query."""

    secure: bool
    #: Lower-case ASCII, an IPv6 address without its brackets.
    host: str
    port: int
    #: What goes in the request line: path and query, percent-encoded ASCII.
    resource: str
    #: User and password, percent-decoded.
    user_info: tuple[str, str] | None = None

    @property
    def netloc(self) -> str:
        """Host and port as in a `Host` header: the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.secure) else f"{host}:{self.port}"

    def same_origin(self, other: Url) -> bool:
        """Whether what is secret for this URL may be shown to `other`."""
        return (self.secure, self.host, self.port) == (other.secure, other.host, other.port)

    def join(self, location: str) -> Url:
        """Where a redirect to `location` leads; user and password stay with their origin.

        Raises `OptionError` for what is no such URL, and for a way from wss to ws.
        """
        try:
            _check_characters(location)
            base = f"{'https' if self.secure else 'http'}://{self.netloc}{self.resource}"
            target = _parse(_as_websocket(urldefrag(_join(base, location))[0]))
            if self.secure and not target.secure:
                raise _Bad("must not lead from wss to ws")
        except _Bad as bad:
            rule = str(bad)
        else:
            kept = self.user_info if self.same_origin(target) else None
            return attrs.evolve(target, user_info=kept)
        raise OptionError("redirect", rule, _redacted(location))

    def __str__(self) -> str:
        path, mark, _ = self.resource.partition("?")
        query = "?..." if mark else ""
        return f"{'wss' if self.secure else 'ws'}://{self.netloc}{path}{query}"

    def __repr__(self) -> str:
        return f"<Url {self}>"


def parse_url(text: str) -> Url:
    """`text` as a `Url`. Raises `OptionError`, without the secrets in `text`."""
    if not isinstance(text, str):
        raise OptionError("url", "must be a str", type(text))
    try:
        return _parse(text)
    except _Bad as bad:
        rule = str(bad)
    # Out here, so that no error of urllib's, which quote the text, is its context.
    raise OptionError("url", rule, _redacted(text))


def _parse(text: str) -> Url:
    _check_characters(text)
    parts = _split(text)
    if parts.scheme not in _SCHEMES:
        raise _Bad("must begin with ws:// or wss://")
    if "#" in text:
        raise _Bad("must have no fragment")
    secure = _SCHEMES[parts.scheme]
    return Url(secure, _host(parts), _port(parts, secure), _resource(parts), _user_info(parts))


def _check_characters(text: str) -> None:
    if not text.isprintable() or " " in text:
        raise _Bad("must have no spaces or unprintable characters")


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        raise _Bad("must have a valid host") from None


def _join(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError:
        raise _Bad("must have a valid host") from None


def _as_websocket(text: str) -> str:
    scheme, colon, rest = text.partition(":")
    return _HTTP.get(scheme.lower(), scheme) + colon + rest


def _host(parts: SplitResult) -> str:
    host = parts.hostname
    if not host:
        raise _Bad("must have a host")
    # Browsers read it as "/", so that user and host would be others.
    if "\\" in parts.netloc:
        raise _Bad("must have a valid host")
    if "[" in parts.netloc:
        return _ipv6(host)
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            raise _Bad("must have a valid host") from None
    labels = host.removesuffix(".").split(".")
    if len(host) > HOST_BYTES or not all(LABEL.fullmatch(label) for label in labels):
        raise _Bad("must have a valid host")
    return host


def _ipv6(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise _Bad("must have a valid IPv6 address in its brackets") from None
    if address.scope_id is not None:
        raise _Bad("must have no IPv6 zone")
    return str(address)


def _port(parts: SplitResult, secure: bool) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _Bad("must have a port from 1 to 65535")
    return _default_port(secure) if port is None else port


def _default_port(secure: bool) -> int:
    return 443 if secure else 80


def _resource(parts: SplitResult) -> str:
    path = quote(parts.path, safe=PATH_SAFE) or "/"
    return f"{path}?{quote(parts.query, safe=QUERY_SAFE)}" if parts.query else path


def _user_info(parts: SplitResult) -> tuple[str, str] | None:
    if "@" not in parts.netloc:
        return None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    # RFC 7617, 2: neither can be said in Basic authentication.
    if ":" in user or not (user + password).isprintable():
        raise _Bad("must have no control characters in user or password, nor a colon in user")
    return user, password


def _redacted(text: str) -> str:
    """What may be shown of a text that is no valid URL: rather too little than too much."""
    scheme, mark, rest = text.partition("://")
    if not scheme.isalnum():
        scheme, mark, rest = "", "", text
    shown, *hidden = re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)
    return scheme + mark + shown + ("?..." if hidden else "")
