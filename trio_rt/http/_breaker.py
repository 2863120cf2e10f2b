"""Not asking a server that fails: the layer. Its state machine is `_circuit`."""

from __future__ import annotations

import attrs
import httpx
import trio

from ..errors import CircuitOpen
from ..options import check_number
from ._attempt import failure_of
from ._circuit import Circuit, Rules, State
from ._layer import Layer, Next
from ._origins import Origins, origin_of, shown_origin

__all__ = ["Breaker", "BreakerStatistics"]


@attrs.frozen
class BreakerStatistics:
    """Counts since the layer was made; `open` and `origins` are of this moment."""

    calls: int
    #: Calls that were not let through.
    refused: int
    #: How often a breaker opened, again after a failed probe included.
    opened: int
    #: The origins whose breaker is open or half open.
    open: tuple[str, ...]
    #: How many origins it keeps a breaker of.
    origins: int


class Breaker(Layer):
    """Refuse calls to an origin that failed too often, at once: `CircuitOpen`.

    It opens when in the last `window_s` seconds `failures` calls failed, and at least the
    part `share` of all; after `open_s`, `half_open` calls at a time are let through,
    of which the first decides. A failure is an error of the connection, a timeout of the
    request's own, or a 5xx; a cancellation is none. Each origin has its own breaker; those
    of the `origins` used last are kept.

    A `Retry` outside of it does not try `CircuitOpen` again.
    """

    def __init__(
        self,
        failures: int = 5,
        *,
        share: float = 0.5,
        window_s: float = 30.0,
        open_s: float = 10.0,
        half_open: int = 1,
        origins: float = 1000,
    ) -> None:
        rules = Rules(
            failures=failures, share=share, window_s=window_s, open_s=open_s, half_open=half_open
        )
        check_number("Breaker.origins", origins, least=1, whole=True)
        self._origins = Origins(lambda: Circuit(rules), origins)
        self._calls = self._refused = self._opened = 0

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        self._calls += 1
        origin = origin_of(request.url)
        circuit = self._origins.of(origin)
        now = trio.current_time()
        ticket = circuit.admit(now)
        if ticket is None:
            self._refused += 1
            raise CircuitOpen(shown_origin(origin), circuit.wait_s(now))
        try:
            response = await call_next(request)
        except Exception as error:
            if failure_of(request, error) is None:
                circuit.left(ticket)
            else:
                self._opened += circuit.failed(ticket, trio.current_time())
            raise
        except BaseException:
            circuit.left(ticket)
            raise
        if response.status_code >= 500:
            self._opened += circuit.failed(ticket, trio.current_time())
        else:
            circuit.succeeded(ticket, trio.current_time())
        return response

    def statistics(self) -> BreakerStatistics:
        return BreakerStatistics(
            self._calls,
            self._refused,
            self._opened,
            tuple(
                shown_origin(origin)
                for origin, circuit in self._origins.items()
                if circuit.state is not State.CLOSED
            ),
            len(self._origins),
        )
