"""How a client shows a token in its handshake.

`Authorization: Bearer <token>`, or for browsers, which cannot set headers, the subprotocol
`trio-rt.token.<token>`. It is a header too, that nothing logs by habit, and is never chosen,
so that no answer has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ._handshake import Handshake

__all__ = ["TOKEN_PROTOCOL", "shown_tokens"]

#: In front of a token that is shown as a subprotocol.
TOKEN_PROTOCOL: Final = "trio-rt.token."


def shown_tokens(handshake: Handshake) -> Iterator[str]:
    """The tokens that a client shows; it may do so in both ways."""
    for value in handshake.headers.get_all("Authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            yield token.strip()
    for name in handshake.protocols:
        if name.startswith(TOKEN_PROTOCOL):
            yield name.removeprefix(TOKEN_PROTOCOL)
