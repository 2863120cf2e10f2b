"""Known mistakes of sessions: what the protocol was designed against."""

from __future__ import annotations

from typing import Final

from .table import Mutant

__all__ = ["SESSION_MUTANTS"]

SWEEP: Final = "sessions 0:120"
LEDGER: Final = "tests/protocol/test_ledger.py"
NUMBERED: Final = "tests/protocol/test_numbered.py"

SESSION_MUTANTS: Final = (
    Mutant(
        "ack on receive",
        "trio_rt/protocol/inbox.py",
        "            queue.put(item, size, slot)\n",
        "            queue.put(item, size, None)\n"
        "            if slot is not None:\n"
        "                slot.release(taken=True)\n",
        (SWEEP,),
    ),
    Mutant(
        "resume without consumed",
        "trio_rt/protocol/incoming.py",
        "            settled,\n            header.received,\n            header.consumed,\n"
        "            header.messages,\n            header.bytes,\n            header.drops,\n",
        "            settled,\n            header.received,\n            self._settled,\n"
        "            self._told_messages,\n            self._told_bytes,\n            [],\n",
        (SWEEP, LEDGER, NUMBERED),
    ),
    Mutant(
        "renumber on replay",
        "trio_rt/protocol/numbered.py",
        "        self._first = self.out.next\n",
        "        self._first = self.out.sent + 1\n",
        (SWEEP,),
    ),
    Mutant(
        "no void",
        "trio_rt/protocol/outgoing.py",
        "            if entry.unwanted is not None:\n                unwanted.append",
        "            if False:\n                unwanted.append",
        (SWEEP, LEDGER),
    ),
    Mutant(
        "commit after write",
        "trio_rt/protocol/numbered.py",
        "        self._batches.clear()\n",
        "        self._batches.clear()\n"
        "        while self.out.sent > max(self.written_to, self.out.received):\n"
        "            self.out._unreceived.pop()\n"
        "            self.out.sent -= 1\n",
        (SWEEP, NUMBERED),
    ),
    Mutant(
        "replies inside the window",
        "trio_rt/protocol/outgoing.py",
        "            not self._again\n            and len(self._unreceived)",
        "            not self._again\n"
        "            and self.in_window[0] < self._window.messages\n"
        "            and len(self._unreceived)",
        ("tests/test_requests.py",),
    ),
    Mutant(
        "old token refused early",
        "trio_rt/_sessions.py",
        "        return told or (held and self.peer.received == self.told_at)\n",
        "        return told\n",
        ("tests/test_sessions.py",),
    ),
    Mutant(
        "old token accepted for ever",
        "trio_rt/_sessions.py",
        "        return told or (held and self.peer.received == self.told_at)\n",
        "        return told or held\n",
        ("tests/test_sessions.py",),
    ),
    Mutant(
        "token accepted from another identity",
        "trio_rt/_sessions.py",
        "        if not _is_same(kept.peer.identity, identity):\n",
        "        if False:\n",
        ("tests/test_sessions.py",),
    ),
    Mutant(
        "dedupe off by one",
        "trio_rt/protocol/incoming.py",
        "        return self.received + 1 - first\n",
        "        return self.received - first\n",
        (LEDGER,),
    ),
    Mutant(
        "dedupe off by one, the other way",
        "trio_rt/protocol/incoming.py",
        "        return self.received + 1 - first\n",
        "        return self.received + 2 - first\n",
        (SWEEP,),
    ),
    Mutant(
        "window in messages only",
        "trio_rt/protocol/outgoing.py",
        "        return most, self._window.bytes - size\n",
        "        return most, math.inf\n",
        (SWEEP, LEDGER),
    ),
    Mutant(
        "drop ranges not sent",
        "trio_rt/protocol/incoming.py",
        "        ranges: list[tuple[int, int]] = []\n        for number in sorted(",
        "        ranges: list[tuple[int, int]] = []\n        return consumed, ranges\n"
        "        for number in sorted(",
        (SWEEP, LEDGER),
    ),
    Mutant(
        "drop ranges not sent again",
        "trio_rt/protocol/incoming.py",
        "        self._listed = self._settled\n        header",
        "        header",
        (SWEEP, LEDGER),
    ),
    Mutant(
        "takeover without fencing",
        "trio_rt/_peer.py",
        "            await link.wait_down()\n",
        "            await trio.lowlevel.checkpoint()\n",
        ("tests/test_sessions.py", SWEEP),
    ),
    Mutant(
        "withdraw after numbering removes silently",
        "trio_rt/protocol/session.py",
        "            self.numbered.take_back(entry, WITHDRAWN)\n",
        "            self._settle(entry, WITHDRAWN)\n            return True\n",
        (SWEEP,),
    ),
    Mutant(
        "acks of the future accepted",
        "trio_rt/protocol/outgoing.py",
        "        if said.received > self.sent - self._again:\n",
        "        if False:\n",
        (LEDGER,),
    ),
    Mutant(
        "reset without clearing positions",
        "trio_rt/protocol/session.py",
        "            self._former.succeed(numbered.into)\n",
        "            self._former.succeed(numbered.into)\n"
        "            numbered.into.received = self._former.received\n",
        (SWEEP,),
    ),
    Mutant(
        "a new session without a reset",
        "trio_rt/protocol/session.py",
        "            self.inbox.reset(self._loss)\n",
        "            pass\n",
        (SWEEP,),
    ),
    Mutant(
        "what an earlier session left takes no room",
        "trio_rt/protocol/session.py",
        "        return Bounds(0, 0) if into is None else into.held\n",
        "        return Bounds(0, 0)\n",
        ("tests/protocol/test_session.py", NUMBERED, "tests/sessions/test_machine.py", SWEEP),
    ),
    Mutant(
        "credit by the low-water mark",
        "trio_rt/protocol/incoming.py",
        "        book._add_credit(count, size)\n",
        "        if not pending:\n            book._add_credit(count, size)\n",
        (LEDGER, SWEEP),
    ),
    Mutant(
        "ephemeral sends are replayed",
        "trio_rt/protocol/numbered.py",
        "        self.out.forget(lambda entry: entry.ephemeral, _OFFLINE)\n",
        "",
        (NUMBERED,),
    ),
    Mutant(
        "parts without credit",
        "trio_rt/protocol/inquiries.py",
        "        return has_room(self._limits, waiting, self._sent_bytes - self._taken_bytes, size)\n",
        "        return True\n",
        ("tests/test_requests.py", "tests/protocol/test_requests.py"),
    ),
    Mutant(
        "a cancelled request runs on",
        "trio_rt/protocol/requests.py",
        "                    self._cancel(self._inquiries[id])\n",
        "                    pass\n",
        ("tests/test_requests.py", "tests/protocol/test_requests.py"),
    ),
    Mutant(
        "no answer after a cancel",
        "trio_rt/protocol/inquiries.py",
        "            self.finished = True\n            self._requests.answer(self, frame)\n",
        "            self.finished = True\n            if not self.cancelled:\n"
        "                self._requests.answer(self, frame)\n",
        ("tests/test_requests.py", "tests/protocol/test_requests.py"),
    ),
    Mutant(
        "a session outlives a breach",
        "trio_rt/protocol/numbered.py",
        "            self.over = str(error)\n            raise\n",
        "            raise\n",
        ("tests/test_sessions.py", "tests/test_offer.py", NUMBERED),
    ),
    Mutant(
        "an ack does not wake for what comes later",
        "trio_rt/protocol/session.py",
        "        if self.is_shut or len(self.lanes):\n",
        "        if len(self.lanes):\n",
        ("tests/test_sessions.py",),
    ),
    Mutant(
        "a handler inherits the context of the one before",
        "trio_rt/_handlers.py",
        "        worker.task.context = self._context.copy()\n        trio",
        "        trio",
        ("tests/test_requests.py",),
    ),
    Mutant(
        "a handler inherits the cancellation of the one before",
        "trio_rt/_handlers.py",
        "                if scope.cancel_called:\n                    break\n",
        "",
        ("tests/test_requests.py",),
    ),
)
