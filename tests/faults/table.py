"""The faults: what the relay is told, how often, and what must come of it."""

from __future__ import annotations

from typing import Final

import attrs

from trio_rt import Liveness

__all__ = ["FAULTS", "Fault"]


CALM: Final = Liveness(interval_s=1.0, timeout_s=5.0)
BRISK: Final = Liveness(interval_s=0.4, timeout_s=0.4)


@attrs.frozen(kw_only=True)
class Fault:
    """One row of the matrix. The commands are those of `trio_rt.testing.relay`."""

    name: str
    impose: tuple[str, ...] = ()
    #: Whether each time a link is lost by it; if not, none may be.
    loses: bool = False
    #: After the loss, before the next link.
    heal: tuple[str, ...] = ()
    times: int = 1
    tls: bool = False
    liveness: Liveness = CALM
    #: Found by silence alone, so within its liveness.
    silent: bool = False


FAULTS: Final = (
    Fault(name="none"),
    Fault(name="delay of 20 to 40 ms", impose=("delay 0.02 0.02",)),
    Fault(name="100 kB/s", impose=("rate 100000",)),
    Fault(name="writes of 1 to 3 bytes", impose=("split 3",)),
    Fault(
        name="delay, 200 kB/s and split, over TLS",
        impose=("delay 0.01", "rate 200000", "split 50"),
        tls=True,
    ),
    Fault(name="reset", impose=("rst",), loses=True, times=10),
    Fault(name="FIN", impose=("fin",), loses=True, times=10),
    Fault(name="reset after 301 bytes", impose=("cut 301",), loses=True, times=10),
    Fault(name="FIN after 301 bytes", impose=("cut 301 fin",), loses=True, times=10),
    Fault(
        name="reset after 301 bytes, over TLS", impose=("cut 301",), loses=True, times=10, tls=True
    ),
    Fault(
        name="black hole",
        impose=("blackhole on",),
        loses=True,
        heal=("blackhole off",),
        times=5,
        liveness=BRISK,
        silent=True,
    ),
    Fault(
        name="black hole, one way",
        impose=("blackhole on client",),
        loses=True,
        heal=("blackhole off",),
        times=5,
        liveness=BRISK,
        silent=True,
    ),
    Fault(
        name="flipped bits, over TLS",
        impose=("corrupt 0.01",),
        loses=True,
        heal=("pass",),
        times=5,
        tls=True,
    ),
    Fault(
        name="reset, then refused dials",
        impose=("refuse", "rst"),
        loses=True,
        heal=("accept",),
        times=5,
    ),
)
