"""A way through an HTTP proxy: CONNECT (RFC 9110, 9.3.6), for ws and wss alike."""

from __future__ import annotations

import base64
from urllib.parse import unquote, urlsplit

import attrs
import trio

from ._http_reply import BadReply, NoReply, read_reply
from .errors import DialError, OptionError

__all__ = ["Proxy", "open_tunnel", "parse_proxy"]


@attrs.frozen(repr=False)
class Proxy:
    """A checked proxy URL. `str(proxy)` has no user and no password."""

    host: str
    port: int
    user_info: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"http://{_authority(self.host, self.port)}"

    def __repr__(self) -> str:
        return f"<Proxy {self}>"


def parse_proxy(text: str) -> Proxy:
    """`text` as a `Proxy`. Raises `OptionError`, without the secrets in `text`."""
    proxy = _parse(text) if isinstance(text, str) else None
    if proxy is None:
        # A bad one may have its password anywhere: nothing of it is shown.
        raise OptionError("proxy", 'must be "http://[user:password@]host:port"', "the one given")
    return proxy


def _parse(text: str) -> Proxy | None:
    if not text.isprintable() or " " in text or not text.isascii():
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, 80 if parts.port is None else parts.port
    except ValueError:
        return None
    if parts.scheme != "http" or not host or not port or parts.path not in ("", "/"):
        return None
    if parts.query or parts.fragment:
        return None
    if parts.username is None:
        return Proxy(host, port)
    user, password = unquote(parts.username), unquote(parts.password or "")
    if ":" in user or not (user + password).isprintable():
        return None
    return Proxy(host, port, (user, password))


async def open_tunnel(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Have the proxy connect `stream`, which leads to it, to `host` and `port`.

    Raises `DialError` with the stage "proxy". The caller closes `stream` then.
    """
    try:
        await stream.send_all(_request(proxy, host, port))
        reply = await read_reply(stream)
    except (BadReply, NoReply, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise DialError(f"the proxy {proxy} failed: {error}", stage="proxy") from error
    if not 200 <= reply.status <= 299:
        # tinyproxy answers 407 to no credentials, and 401 to wrong ones.
        refused = reply.status in (401, 407)
        what = "refuses the credentials with" if refused else "answered"
        message = f"the proxy {proxy} {what} {reply.status}"
        raise DialError(message, stage="proxy", status=reply.status)
    if reply.rest:
        raise DialError(f"the proxy {proxy} sent data of its own", stage="proxy")


def _request(proxy: Proxy, host: str, port: int) -> bytes:
    target = _authority(host, port)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user_info is not None:
        token = base64.b64encode(":".join(proxy.user_info).encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
