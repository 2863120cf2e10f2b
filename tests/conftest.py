from __future__ import annotations

from typing import get_args

import pytest

from trio_rt.options import WireName

from .helpers import World


@pytest.fixture(params=get_args(WireName))
def each_wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> WireName:
    """`World.connect` uses this wire, and the test is run with each."""
    name: WireName = request.param
    monkeypatch.setattr(World, "wire", name)
    return name
