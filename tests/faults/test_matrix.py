from __future__ import annotations

from typing import get_args

import attrs
import pytest

from trio_rt.options import WireName

from .matrix import run
from .table import FAULTS

ROWS = {fault.name: fault for fault in FAULTS}


@pytest.mark.parametrize("wire", get_args(WireName))
async def test_a_row(wire: WireName) -> None:
    """A black hole is found in time, each link that it ends is one, and no promise is broken."""
    result = await run(attrs.evolve(ROWS["black hole"], times=2), wire)
    assert result.breaches == []
    assert result.links == 3
    assert len(result.noticed_s) == 2
    assert result.outcomes.total() > result.outcomes["written"] > 0
    assert result.delivered > 0


async def test_a_row_that_does_not_hold() -> None:
    """A link that is lost where none should be is a breach."""
    result = await run(attrs.evolve(ROWS["reset"], loses=False), "websockets")
    [breach] = result.breaches
    assert breach.startswith("2 links, not 1")
