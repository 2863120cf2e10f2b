"""Tests of one's own program, in a network that breaks.

    python -m pytest examples/howto/test_my_program.py

The program is `careful` of `examples/virtual_network.py`: it brings readings
to a collector, and loses none.
"""

from __future__ import annotations

import pytest
import trio

import trio_rt
from examples.virtual_network import READINGS, Collector, careful, story
from trio_rt.testing import VirtualNetwork, run


@pytest.mark.parametrize("seed", range(10))
def test_no_reading_is_lost(seed: int) -> None:
    """Whatever the seed draws, each reading arrives."""
    assert run(story, seed, careful, seed=seed) == []


async def cut_in_mid_frame() -> set[int]:
    network, collector = VirtualNetwork(seed=1), Collector()
    async with trio.open_nursery() as nursery:
        listener = network.listen("collector", 80)
        await nursery.start(trio_rt.serve_listeners, collector.collect, [listener])
        async with trio_rt.connect("ws://collector", open_stream=network.open_stream) as conn:
            await conn.wait_connected()
            link = await network.wait_connection()
            link.cut_after(30, towards="server")
            await careful(conn)
        nursery.cancel_scope.cancel()
    return collector.readings


def test_a_cut_in_mid_frame() -> None:
    """The first reading is cut after 30 bytes; it arrives all the same."""
    assert run(cut_in_mid_frame, seed=1) == set(READINGS)
