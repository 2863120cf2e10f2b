"""What one call asks of the layers: its options travel in the request's extensions.

`Client` puts them there; a plain `httpx.AsyncClient` does it by
`extensions={"trio_rt": Call(priority=Priority.HIGH)}`. httpx hands the
extensions on to the request that follows a redirect, so a call keeps them.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, get_args

import attrs
import httpx

from ..errors import OptionError
from ..message import Priority
from ..options import check_number

__all__ = ["CacheMode", "Call", "call_of"]

#: As in the Fetch standard, "Request cache mode"; "default" follows RFC 9111.
CacheMode: TypeAlias = Literal["default", "no-store", "reload", "no-cache", "only-if-cached"]

KEY: Final = "trio_rt"


def _known_mode(_: object, field: attrs.Attribute[str], value: object) -> None:
    if value not in get_args(CacheMode):
        raise OptionError(field.name, f"must be one of {', '.join(get_args(CacheMode))}", value)


@attrs.frozen(kw_only=True)
class Call:
    """The options of one call. None is "what the layer itself was told".

    `timeout_s` bounds the whole call: waiting, tries and body; `math.inf` is no limit.
    `retries` is how often it may be tried again. `idempotency_key` lets a call of any
    method be retried, and goes out as `Idempotency-Key`.
    """

    priority: Priority = attrs.field(default=Priority.NORMAL)
    cache: CacheMode = attrs.field(default="default", validator=_known_mode)
    retries: int | None = attrs.field(default=None)
    timeout_s: float | None = attrs.field(default=None)
    idempotency_key: str | None = attrs.field(default=None)

    @priority.validator
    def _is_priority(self, _: object, value: object) -> None:
        if not isinstance(value, Priority):
            raise OptionError("priority", "must be a Priority", value)

    @retries.validator
    def _is_count(self, _: object, value: object) -> None:
        if value is not None:
            check_number("retries", value, whole=True, finite=True)

    @timeout_s.validator
    def _is_duration(self, _: object, value: object) -> None:
        if value is not None:
            check_number("timeout_s", value, above=True)

    @idempotency_key.validator
    def _is_token(self, _: object, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise OptionError("idempotency_key", "must be printable ASCII", "(hidden)")


_PLAIN: Final = Call()


def call_of(request: httpx.Request) -> Call:
    """The options of `request`, the default ones where it has none."""
    call: Any = request.extensions.get(KEY)
    if call is None:
        return _PLAIN
    if not isinstance(call, Call):
        raise OptionError(f"extensions[{KEY!r}]", "must be a trio_rt.http.Call", call)
    return call
