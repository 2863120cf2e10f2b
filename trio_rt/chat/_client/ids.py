"""Names for what a client says."""

from __future__ import annotations

from typing import Final

from ..._ambient import ambient

__all__ = ["new_id"]

_BITS: Final = 128


def new_id() -> str:
    """One that nobody has used."""
    return f"{ambient().random.getrandbits(_BITS):032x}"
