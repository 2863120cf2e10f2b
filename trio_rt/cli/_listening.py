"""What `trio-rt serve` needs of the system before it can begin."""

from __future__ import annotations

import logging
import math
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from ..hub._server.metrics import is_loopback
from ._watch import log

__all__ = [
    "EXIT_FAILED",
    "EXIT_USAGE",
    "CannotServe",
    "allow_files",
    "close_listeners",
    "leaves",
    "open_listeners",
    "tls_context",
]

EXIT_FAILED: Final = 1
#: click's own.
EXIT_USAGE: Final = 2

#: Descriptors beside those of the connections.
SPARE_FILES: Final = 64


class CannotServe(Exception):
    """Why it cannot start, in one line."""

    def __init__(self, text: str, status: int = EXIT_FAILED) -> None:
        super().__init__(text)
        self.status = status


def leaves(error: BaseException) -> Iterator[BaseException]:
    """An error, or those in a group of them."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """For a server; None without a certificate. Raises `CannotServe`."""
    if certificate is None:
        return None

    def no_password() -> str:
        raise CannotServe(f"the key of {certificate} is encrypted")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, no_password)
    except OSError as error:  # of ssl's own, too
        text = f"the certificate {certificate} cannot be used"
        raise CannotServe(f"{text}: {error.strerror or error}") from error
    return context


async def open_listeners(host: str, port: int, *, loopback_only: bool) -> list[trio.SocketListener]:
    """Listeners on `host` ("" for every interface). Raises `CannotServe`."""
    where = f"{host or '*'}:{port}"
    try:
        listeners = await trio.open_tcp_listeners(port, host=host or None)
    except socket.gaierror as error:
        raise CannotServe(f"cannot listen on {where}: {error.strerror}") from error
    except OSError as error:
        cause = error.__cause__
        first = next(leaves(cause)) if cause is not None else error
        why = first.strerror if isinstance(first, OSError) else str(first)
        raise CannotServe(f"cannot listen on {where}: {why}") from error
    addresses = [listener.socket.getsockname()[0] for listener in listeners]
    if loopback_only and not all(map(is_loopback, addresses)):
        close_listeners(listeners)
        text = f"without tokens it does not listen on {where}: see --token-file and --anonymous"
        raise CannotServe(text, EXIT_USAGE)
    return listeners


def close_listeners(listeners: Sequence[trio.SocketListener]) -> None:
    """Close them. Does not wait; idempotent."""
    for listener in listeners:
        listener.socket.close()


def allow_files(connections: float) -> None:
    """Let this process have as many descriptors as it may need."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= connections + SPARE_FILES:
        return
    most = math.inf if hard == resource.RLIM_INFINITY else hard
    wanted = int(min(connections + SPARE_FILES, most))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # a system with a limit of its own
        wanted = soft
    if wanted < connections + SPARE_FILES:
        text = f"the limit of open files, {wanted}, is too low for --max-connections"
        log(logging.WARNING, text, event="limits")
