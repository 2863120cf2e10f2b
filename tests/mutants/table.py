"""The mistakes: each is one edit, and the tests of which at least one must fail."""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["MUTANTS", "Mutant"]


@attrs.frozen
class Mutant:
    """`old` occurs exactly once in `file`. A test is a path for pytest, or `sweep A:B`,
    or `sessions A:B`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ("sweep 0:100",)


MUTANTS: Final = (
    # P1 and P5: outcomes and the outbox
    Mutant(
        "bytes not given back",
        "trio_rt/protocol/lanes.py",
        "        self._count -= 1\n        self.total_bytes -= size\n        return lane\n",
        "        self._count -= 1\n        return lane\n",
    ),
    Mutant(
        "eviction in the own lane",
        "trio_rt/protocol/lanes.py",
        "below = self._lanes[: lane.priority]",
        "below = self._lanes[: lane.priority + 1]",
    ),
    Mutant(
        "evicted, and the sender is not told",
        "trio_rt/protocol/lanes.py",
        '            self._settle(victim, dropped("evicted"))\n',
        "            pass\n",
    ),
    Mutant(
        "aged CRITICAL",
        "trio_rt/protocol/lanes.py",
        "        if self._critical.count:\n            return self._critical, math.inf\n",
        "",
        ("tests/protocol/test_lanes.py",),
    ),
    Mutant(
        "an order key does not stick to its lane",
        "trio_rt/protocol/lanes.py",
        "lane = self._lanes[entry.priority] if order is None else order.lane",
        "lane = self._lanes[entry.priority]",
    ),
    Mutant(
        "resend after indeterminate",
        "trio_rt/protocol/session.py",
        "        self._link.link_down()\n",
        "        again = list(self._plain._flight)\n"
        "        self._link.link_down()\n"
        "        for entry in again:\n"
        "            self.lanes.offer(entry, now)\n",
    ),
    Mutant(
        "written when handed to the wire",
        "trio_rt/protocol/plain.py",
        "        self._flight.extend(batch)\n        return batch\n",
        "        self._flight.extend(batch)\n"
        "        self.written(self._written + len(batch))\n"
        "        return batch\n",
        ("tests/protocol/test_session.py",),
    ),
    Mutant(
        "sizes by len(str)",
        "trio_rt/protocol/plain.py",
        "len(data) if data.__class__ is bytes or data.isascii() else size_bytes(data)",
        "len(data)",
        ("sweep 0:100", "tests/protocol/test_session.py"),
    ),
    # P3: withdrawing
    Mutant(
        "a withdrawn message is sent",
        "trio_rt/protocol/lanes.py",
        "        self._remove(entry)\n        self._settle(entry, WITHDRAWN)\n",
        "        self._settle(entry, WITHDRAWN)\n",
    ),
    Mutant(
        "a cancelled deliver is not withdrawn",
        "trio_rt/_endpoint.py",
        "            delivery.withdraw()\n            raise\n",
        "            raise\n",
    ),
    Mutant(
        "an expired message is sent",
        "trio_rt/protocol/lanes.py",
        "            if entry is not None and entry.expires_at <= now:\n",
        "            if entry is not None and entry.expires_at <= now - 1:\n",
        ("sweep 0:100", "tests/protocol/test_lanes.py"),
    ),
    Mutant(
        "ephemeral messages wait for the next link",
        "trio_rt/_mailbox.py",
        "        self.session.drop_ephemeral()\n",
        "",
        ("sweep 0:500",),
    ),
    # P4, P7: the heartbeat
    Mutant(
        "verdict without the empty read",
        "trio_rt/_tasks.py",
        "                await trio.lowlevel.checkpoint()\n"
        "                self.heard()\n"
        "                pulse.heard(self.wire.heard_at)\n",
        "",
        ("sweep 0:500",),
    ),
    Mutant(
        "only a pong is life",
        "trio_rt/_tasks.py",
        "            if pulse is not None:\n                pulse.heard(now)\n"
        "            if wire.pongs != self._pongs:\n",
        "            if wire.pongs != self._pongs:\n                if pulse is not None:\n"
        "                    pulse.heard(now)\n",
    ),
    Mutant(
        "ticks that wait for the death",
        "trio_rt/protocol/pulse.py",
        "return min(self._next_event(), self._now + min(self._interval_s, CLOCK_CHECK_S))",
        "return min(self._next_event(), self._now + CLOCK_CHECK_S)",
    ),
    Mutant(
        "a part of a TLS record is no life",
        "trio_rt/_tls.py",
        "        self.heard_at = trio.current_time()\n",
        "",
        ("sweep 330:440",),
    ),
    Mutant(
        "pongs wait for a message",
        "trio_rt/wires/websockets.py",
        "            self._outlet.put_control(_outlet.PONG, frames)\n",
        "            pass\n",
    ),
    Mutant(
        "the reader waits for a slow consumer",
        "trio_rt/_tasks.py",
        "                    while not session.route():\n",
        "                    while not session.route():\n"
        "                        await trio.sleep(60)\n",
    ),
    # P6: the end
    Mutant(
        "no drain",
        "trio_rt/_connection.py",
        "            await self._mailbox.wait_drained()\n            if self._link is not None:",
        "            if self._link is not None:",
    ),
    Mutant(
        "a cancelled connection drains",
        "trio_rt/_connection.py",
        "            self._session.lanes.clear(WITHDRAWN)\n",
        "            pass\n",
    ),
    Mutant(
        "the close has no limit",
        "trio_rt/_connection.py",
        "trio.current_time() + self._settings.close_timeout_s\n",
        "trio.current_time() + 60.0\n",
    ),
    Mutant(
        "a lost socket stays open",
        "trio_rt/_tasks.py",
        "            self.wire.abort()\n\n    async def _say_words",
        "            pass\n\n    async def _say_words",
    ),
    Mutant(
        "draining waits for the backoff",
        "trio_rt/_connection.py",
        "        self._route.hurry()\n        self._nudge.wake()\n",
        "        self._route.hurry()\n",
        ("tests/test_connection.py",),
    ),
    Mutant(
        "sends are taken after the body's end",
        "trio_rt/_connection.py",
        "            conn._mailbox.close()  # from here on, nothing new can be started\n",
        "",
        ("sweep 2043",),
    ),
    # P8: dials
    Mutant(
        "cap after jitter",
        "trio_rt/protocol/backoff.py",
        "        bound_s = min(bound_s, reconnect.cap_s)\n        yield random.uniform(0.0, bound_s)\n",
        "        yield min(random.uniform(0.0, bound_s), reconnect.cap_s)\n",
    ),
    Mutant(
        "no jitter",
        "trio_rt/protocol/backoff.py",
        "        yield random.uniform(0.0, bound_s)\n",
        "        yield bound_s\n",
        ("tests/promises/test_sweep.py::test_every_promise_holds[0-websockets]",),
    ),
    Mutant(
        "the delay starts anew on open",
        "trio_rt/protocol/route.py",
        "        past.connected = True\n        self.refused = False\n",
        "        past.connected = True\n        self.refused = False\n"
        "        self.ended(proven=True, now=0.0)\n",
    ),
    Mutant(
        "the server's advice is not heard",
        "trio_rt/protocol/route.py",
        "advised(next(self._delays), advice_s(cause), self._reconnect, self._random)",
        "advised(next(self._delays), None, self._reconnect, self._random)",
    ),
    # P9: marks
    Mutant(
        "Reset missing",
        "trio_rt/protocol/session.py",
        "            self.inbox.reset(self._loss)\n",
        "",
    ),
    Mutant(
        "Reset before what had arrived",
        "trio_rt/protocol/session.py",
        "            self.route(final=True)\n            self._began = False\n",
        "            self._began = False\n",
        ("tests/protocol/test_session.py",),
    ),
    Mutant(
        "Gap in the wrong place",
        "trio_rt/protocol/queues.py",
        "        self._cells.append(_Cell(mark, _MARK))\n",
        "        self._cells.appendleft(_Cell(mark, _MARK))\n",
    ),
    Mutant(
        "a gap that counts one too few",
        "trio_rt/protocol/queues.py",
        "        self._unshift_marks(reset, gap + 1)\n",
        "        self._unshift_marks(reset, gap or 1)\n",
    ),
    Mutant(
        "a stream without its bound in bytes",
        "trio_rt/protocol/queues.py",
        "            messages > 0 and self.total_bytes + size > self._room_bytes\n",
        "            messages > 0 and self.total_bytes + size > 1e9\n",
        ("sweep 0:500",),
    ),
    # P10: what leaves
    Mutant(
        "the failure hides the body's own error",
        "trio_rt/_connection.py",
        "    if conn.failure is not None and (error is None or _is_cancellation(error)):\n",
        "    if conn.failure is not None:\n",
        ("tests/test_connection.py",),
    ),
    # The wire
    Mutant(
        "cancelled write followed by another frame",
        "trio_rt/_outlet.py",
        "            if not finished:\n                self.broken = True\n",
        "            pass\n",
        ("tests/test_outlet.py",),
    ),
    Mutant(
        "a remainder is forgotten",
        "trio_rt/_outlet.py",
        "        else:\n            self._rest = memoryview(data)[sent:]\n",
        "        else:\n            self._rest = memoryview(data)[:0]\n",
    ),
    Mutant(
        "two writers at once",
        "trio_rt/_outlet.py",
        "        if not self.ready:\n            return False\n        self._tap",
        "        if self._direct is None:\n            return False\n        self._tap",
        ("tests/test_outlet.py",),
    ),
    # The second wire
    Mutant(
        "two close frames",
        "trio_rt/wires/_airlock.py",
        "        if not self.closing:\n            self.closing = True\n",
        "        if True:\n            self.closing = True\n",
        ("tests/wires/test_contract.py",),
    ),
    Mutant(
        "frames of a cancelled send are kept",
        "trio_rt/wires/trio_websocket.py",
        "        finally:\n            self._airlock.take_frames()\n",
        "        finally:\n            pass\n",
        ("tests/wires/test_contract.py",),
    ),
    Mutant(
        "the writer comes in the turn of a direct write",
        "trio_rt/_tasks.py",
        "                while not self._sender_writes:\n",
        "                while True:\n",
        ("tests/test_tasks.py",),
    ),
    Mutant(
        "a direct write behind the close frame",
        "trio_rt/wires/trio_websocket.py",
        "return not self._airlock.closing and self._outlet.write_now(frames)",
        "return self._outlet.write_now(frames)",
        ("tests/wires/test_trio_websocket.py", "tests/wires/test_contract.py"),
    ),
    Mutant(
        "the package reads on while its messages wait",
        "trio_rt/wires/trio_websocket.py",
        "            while self._undelivered or self._unreturned or not self._receiving:\n",
        "            while False:\n",
        ("tests/wires/test_contract.py",),
    ),
    Mutant(
        "what would not wait offline waits, if the link dies in its direct write",
        "trio_rt/_mailbox.py",
        "            if delivery.ephemeral and not self.session.linked and not self.closed:\n",
        "            if False:\n",
        ("tests/test_mailbox.py",),
    ),
    Mutant(
        "long reads for the package",
        "trio_rt/wires/trio_websocket.py",
        "wanted = max(SHORT_READ_BYTES, min(self._tally.missing, READ_BYTES))",
        "wanted = READ_BYTES",
        ("tests/wires/test_trio_websocket.py",),
    ),
    Mutant(
        "fragments are counted by nobody",
        "trio_rt/wires/_tally.py",
        "        elif self._frames > self._max_frames:\n",
        "        elif False:\n",
        ("tests/wires/test_contract.py",),
    ),
    Mutant(
        "the package's task outlives its link",
        "trio_rt/wires/trio_websocket.py",
        "        super()._end_here()\n        self._airlock.scope.cancel()\n",
        "        super()._end_here()\n",
        ("tests/wires/test_trio_websocket.py",),
    ),
    Mutant(
        "a read without a message is not told",
        "trio_rt/wires/trio_websocket.py",
        "            self._control = False\n            self.on_control()\n",
        "            self._control = False\n",
        ("tests/wires/test_contract.py",),
    ),
)
