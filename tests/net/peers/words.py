"""What the echo servers do at a word, the same for all of them.

They send back every message, but do as they are told by these texts:

- "close CODE": close with this code, and the reason "as told";
- "big BYTES": send a binary message of so many bytes.

A handshake for the path "/status/CODE" is refused with this status. At
SIGTERM they close their links and end. They print "port N" when they listen,
and "closed CODE" when a link has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl

__all__ = ["REASON", "arguments", "number_after", "say", "terminated", "tls_context"]

REASON = "as told"


def arguments() -> argparse.Namespace:
    """The port and, for TLS, the certificate's file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("certificate", nargs="?")
    return parser.parse_args()


def tls_context(certificate: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def number_after(words: object, beginning: str) -> int | None:
    """The number behind `beginning`, if that is how a text begins."""
    if isinstance(words, str) and words.startswith(beginning):
        return int(words.removeprefix(beginning))
    return None


def say(*words: object) -> None:
    """Print a line at once."""
    print(*words, flush=True)


async def terminated() -> None:
    """Wait for SIGTERM."""
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, event.set)
    await event.wait()
