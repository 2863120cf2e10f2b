"""From a payload as it came to the type that a stream asked for.

msgspec does the work; here its errors become one `DecodeError`, which says
where in the payload, what rule, and what stands there. The last two steps
cost a second decoding, and only a message that is refused pays it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import msgspec

from ..errors import DecodeError, OptionError

__all__ = ["Reader", "is_foreign", "located", "reader"]

Reader: TypeAlias = Callable[[Any], Any]

#: Readers kept: one for each type that a program names in its calls. To make
#: one takes msgspec up to a millisecond.
READERS: Final = 256

#: One step of a path in msgspec's words; "[...]" is any key.
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")


def reader(binary: bool, as_: Any) -> Reader:
    """A function from payloads to values of type `as_`.

    A `msgspec.Raw` is decoded: MessagePack if `binary`, else JSON. Anything
    else is converted. Raises `OptionError`; the function `DecodeError`.
    """
    try:
        hash(as_)
    except TypeError:
        return _make_reader(binary, as_)
    return _kept_reader(binary, as_)


def is_foreign(as_: Any) -> bool:
    """Whether msgspec cannot build an `as_`, only recognise one."""
    return isinstance(as_, type) and as_ is not object and _is_custom(as_)


@functools.lru_cache(READERS)
def _is_custom(as_: type) -> bool:
    return isinstance(msgspec.inspect.type_info(as_), msgspec.inspect.CustomType)


@functools.lru_cache(READERS)
def _kept_reader(binary: bool, as_: Any) -> Reader:
    return _make_reader(binary, as_)


def _make_reader(binary: bool, as_: Any) -> Reader:
    syntax: Any = msgspec.msgpack if binary else msgspec.json
    try:
        decode = syntax.Decoder(as_).decode
    except Exception as error:
        raise OptionError("as_", f"must be a type that msgspec knows ({error})", as_) from error
    plain = syntax.Decoder().decode

    def read(payload: Any) -> Any:
        try:
            if payload.__class__ is msgspec.Raw:
                return decode(payload)
            return msgspec.convert(payload, as_)
        except Exception as error:
            raise _refused(payload, plain, error) from error

    return read


def _refused(payload: Any, plain: Reader, error: Exception) -> DecodeError:
    rule, path, steps = located(error)
    try:
        value = plain(payload) if isinstance(payload, msgspec.Raw) else payload
    except Exception:
        return DecodeError(f"payload{path}", rule, bytes(payload))
    return DecodeError(f"payload{path}", rule, _walk(value, steps))


def located(error: Exception) -> tuple[str, str, list[str | int | None]]:
    """The rule broken, and where: as a path, and as steps (None: some key).

    msgspec says it in words: "Expected `int`, got `str` - at `$.a[0]`".
    """
    if not isinstance(error, msgspec.MsgspecError):
        return f"cannot be read ({type(error).__name__}: {error})", "", []
    rule, _, place = str(error).rpartition(" - at ")
    if not rule:
        rule, place = place, ""
    rule = rule[:1].lower() + rule[1:]
    if place.startswith("`key` in "):
        rule, place = f"has a wrong key: {rule}", place.removeprefix("`key` in ")
    path = place.strip("`").removeprefix("$")
    steps = [name or (int(index) if index else None) for name, index in _STEP.findall(path)]
    return rule, path, steps


def _walk(value: Any, steps: Iterable[str | int | None]) -> Any:
    """What stands at the end of the path, as far as it can be followed."""
    for step in steps:
        try:
            value = value[step]
        except (LookupError, TypeError):
            break
    return value
