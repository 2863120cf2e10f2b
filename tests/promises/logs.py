"""What the library logs as an error, which must be nothing but what a handler raises."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Oops", "listening_to_logs"]


class Oops(Exception):
    """What a handler raises."""


@contextmanager
def listening_to_logs(found: list[str]) -> Iterator[None]:
    """Gather what the library logs as an error; the handlers' own `Oops` is none."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            if not isinstance(error, Oops):
                found.append(f"{record.getMessage()}: {error!r}")

    logger = logging.getLogger("trio_rt")
    handler = Handler(logging.ERROR)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
