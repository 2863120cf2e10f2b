"""The chat's page, as `hub.Site` takes it: `Site(routes, PAGE, policy=PAGE_POLICY)`."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

__all__ = ["PAGE", "PAGE_POLICY"]

#: Its files.
PAGE: Final = files("trio_rt") / "page"

#: The `Content-Security-Policy` for them: what is beside the page runs and nothing else, and
#: no text becomes HTML.
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
