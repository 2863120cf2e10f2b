"""httpx or httpx2: the same API twice, whose classes never mix.

A transport of the one fails in a client of the other. So nothing here inherits
from either by name: classes are made over the module that is asked for, and a
response is made by the module that its request is from. Annotations name httpx.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

import httpx

from ..errors import OptionError

__all__ = ["BackendName", "backend", "backend_of"]

BackendName: TypeAlias = Literal["httpx", "httpx2"]


def backend(name: str) -> Any:
    """The module `name`. ModuleNotFoundError where it is not installed."""
    if name not in get_args(BackendName):
        raise OptionError("backend", "must be 'httpx' or 'httpx2'", name)
    return importlib.import_module(name)


def backend_of(request: httpx.Request) -> Any:
    """The module that `request` is from."""
    kind: Any = type(request)
    return _of_class(kind)


@cache
def _of_class(kind: type) -> Any:
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        if root in get_args(BackendName):
            return sys.modules[root]
    raise TypeError(f"{kind.__name__} is a request of neither httpx nor httpx2")
