"""Every promise that sessions keep, checked from what was observed.

`breaches(story)` gives one line for each fact that contradicts a promise of the
design. What `tests.promises` checks of any connection holds here as it is: order
within a lane, gaps of a stream, the books, the ends. The rest is this file's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from trio_rt import Gap, LinkClosed, Message, Outcome, Reset
from trio_rt.outcome import ACKED, INDETERMINATE, WITHDRAWN, dropped

from ..promises.checks_links import nothing_is_left, one_exception_leaves
from ..promises.checks_sends import (
    each_send_has_one_outcome,
    in_order_on_a_link,
    label_of,
    sides,
    the_books_balance_at_every_moment,
)
from ..promises.checks_streams import losses_are_items
from ..promises.records import Reader, Sent, Side
from .scene import SessionStory
from .spy import Begun

__all__ = ["breaches"]

#: Rounding of sums of floats.
EPSILON_S: Final = 1e-6

#: With which a message may have arrived, and with which one may have been taken.
ARRIVED: Final = (ACKED, INDETERMINATE, dropped("receiver"))
TAKEN: Final = (ACKED, INDETERMINATE)

#: Codes with which an end says that the other breaks the protocol.
BREACHES: Final = (1002, 1003, 1007, 1009)


def _others(story: SessionStory, side: Side) -> list[Side]:
    """Who receives what `side` sends."""
    if not hasattr(story, "client"):
        return []
    return story.peers if side is story.client else [story.client]


def _arrived(story: SessionStory, side: Side) -> Iterator[tuple[Side, Message[object]]]:
    for other in _others(story, side):
        for message in other.received():
            if label_of(message).startswith(f"{side.name}."):
                yield other, message


def _taken(reader: Reader) -> list[str]:
    return [label_of(item) for item in reader.items if isinstance(item, Message)]


def nothing_comes_twice(story: SessionStory) -> Iterator[str]:
    """P2: over all links, and over lost sessions too; as it was sent, and only if it was."""
    for side in sides(story):
        by_label = {sent.label: sent for sent in side.sent}
        seen: set[str] = set()
        for _, message in _arrived(story, side):
            label = label_of(message)
            sent = by_label.get(label)
            if sent is None:
                yield f"{label} arrived and was never sent"
            elif label in seen:
                yield f"{label} arrived twice"
            elif message.payload != sent.payload or message.type != sent.send.type:
                yield f"{label} arrived as something else"
            elif sent.raised is not None:
                yield f"{label} arrived, but its send raised {sent.raised}"
            elif sent.delivery is None:
                yield f"{label} arrived, but its send was cancelled before it was accepted"
            elif sent.outcome not in ARRIVED:
                yield f"{label} arrived, but is {sent.outcome}"
            elif sent.delivery in story.spy.stale:
                yield f"{label} was replayed, though nobody wanted it any more"
            seen.add(label)


def acked_is_taken(story: SessionStory) -> Iterator[str]:
    """P2: by every stream that pauses and was there all the time, once; and by nobody if dropped."""
    for side in sides(story):
        where = {label_of(message): other for other, message in _arrived(story, side)}
        for sent in side.sent:
            other = where.get(sent.label)
            if sent.outcome == ACKED:
                if other is None:
                    yield f"{sent.label} is acked, and never arrived"
                else:
                    yield from _judge_acked(sent, other)
            elif sent.outcome == dropped("receiver"):
                yield from _judge_dropped(sent, other)


def _judge_acked(sent: Sent, other: Side) -> Iterator[str]:
    takers = 0
    for number, reader in enumerate(other.readers[1:]):
        types = reader.plan.types
        count = _taken(reader).count(sent.label)
        closed = reader.ended_by == "closed"
        takers += count or closed
        wanted = not types or sent.send.type in types
        whole = reader.plan.on_full == "pause" and not reader.plan.opens_after_s and not closed
        if wanted and whole and count != 1:
            yield f"{sent.label} is acked, and {count} times in stream {number} of {other.name}"
    if not takers:
        yield f"{sent.label} is acked, and no stream of {other.name} took it"


def _judge_dropped(sent: Sent, other: Side | None) -> Iterator[str]:
    if other is None:
        yield f"{sent.label} is {sent.outcome}, and never arrived"
        return
    for number, reader in enumerate(other.readers[1:]):
        if sent.label in _taken(reader):
            yield f"{sent.label} is {sent.outcome}, and stream {number} of {other.name} has it"
        wanted = not reader.plan.types or sent.send.type in reader.plan.types
        whole = reader.plan.on_full == "pause" and not reader.plan.opens_after_s
        if wanted and whole and reader.ended_by == "end":
            yield f"{sent.label} is {sent.outcome}, and stream {number} waited for it"


def pausing_loses_nothing(story: SessionStory) -> Iterator[str]:
    """P2, P9: no `Gap` in a stream that pauses, and nothing in it twice."""
    for side in sides(story):
        for number, reader in enumerate(side.readers[1:]):
            if reader.plan.on_full == "pause" and any(isinstance(i, Gap) for i in reader.items):
                yield f"{side.name}: a gap in stream {number}, which pauses"
            taken = _taken(reader)
            if len(set(taken)) != len(taken):
                yield f"{side.name}: stream {number} has something twice"


def withdrawing_is_exact(story: SessionStory) -> Iterator[str]:
    """P3: `withdraw()` tells the truth. (That none of it arrives, `nothing_comes_twice` says.)"""
    for side in sides(story):
        for sent in side.sent:
            committed = sent.delivery is not None and sent.delivery in story.spy.committed
            if sent.withdrawn:
                if sent.before_withdraw is not None or sent.outcome != WITHDRAWN:
                    yield f"{sent.label} was withdrawn, and is {sent.outcome}"
                if committed:
                    yield f"{sent.label} was withdrawn, though it was committed"
            elif sent.withdrawn is False and sent.before_withdraw is None and not committed:
                yield f"{sent.label} could not be withdrawn, and was never committed"
            if sent.outcome in TAKEN and not committed:
                yield f"{sent.label} is {sent.outcome}, and was never committed"


def each_outcome_has_its_reason(story: SessionStory) -> Iterator[str]:
    """P1, P3: no outcome without the cause that it names."""
    for side in sides(story):
        for sent in side.sent:
            if sent.outcome is not None and not _is_fit(story, side, sent, sent.outcome):
                yield f"{sent.label} is {sent.outcome}, without a cause: {sent}"


def _is_fit(story: SessionStory, side: Side, sent: Sent, outcome: Outcome) -> bool:
    send = sent.send
    if outcome in TAKEN:
        return True
    if outcome == WITHDRAWN:
        asked = sent.withdrawn is not None or (sent.cancelled and send.verb == "deliver")
        return asked or (side is story.client and story.cancelled_at < math.inf)
    match outcome.reason:
        case "expired":
            return send.ttl_s is not None
        case "offline":
            return send.when_offline != "queue"
        case "replaced":
            return send.key is not None
        case "evicted":
            return any(
                other.send.priority > send.priority or other.send.order is not None
                for other in side.sent
            )
        case "closed":
            return not (side is story.client and story.cancelled_at < math.inf)
        case reason:
            return reason == "receiver"


def sessions_are_lost_for_a_reason(story: SessionStory) -> Iterator[str]:
    """P2, P3: and what is `indeterminate` was in a session that was lost, or ended un-acked."""
    if not hasattr(story, "client"):
        return
    begun = story.lives["c"].begun
    for number, session in enumerate(begun):
        until = begun[number + 1].at if number + 1 < len(begun) else math.inf
        last = until == math.inf
        if not last and not _is_lost(story, session, until):
            yield f"session {number}, begun at {session.at:.3f}, was lost at {until:.3f}"
        if last and story.quiet_at < math.inf and not _is_lost(story, session, until):
            yield from _judge_last(story, session)


def _judge_last(story: SessionStory, session: Begun) -> Iterator[str]:
    """All was quiet before the body ended: nothing is left to be unknown."""
    for side in sides(story):
        for sent in side.sent:
            if sent.delivery is None or sent.outcome != INDETERMINATE:
                continue
            if story.spy.committed[sent.delivery].id == session.id:
                yield f"{sent.label} is indeterminate, and its session was never lost"


def _is_lost(story: SessionStory, session: Begun, until: float) -> bool:
    """Whether it was lost before `until`, by its handler's end, by a crash, or by time."""
    if story.spy.begun_at(session.id) <= story.restarted_at <= until:
        return True
    for side in story.peers:
        life = story.lives[side.name]
        if life.begun[0].id == session.id:
            down_at = max(life.downs, default=session.at)
            kept_s = life.ended_at - down_at
            expired = len(life.downs) == len(life.ups) and (
                kept_s >= story.plan.session.keep_s - EPSILON_S
            )
            return side.left_at <= until or (expired and life.ended_at <= until)
    return False


def resets_are_new_sessions(story: SessionStory) -> Iterator[str]:
    """P9: one `Reset` for each session but the first, in order; and none where one is resumed."""
    for side in sides(story):
        begun = len(story.lives[side.name].begun)
        resets = sum(isinstance(item, Reset) for item in side.tap.items)
        if resets != max(0, begun - 1):
            yield f"{side.name}: {resets} resets for {begun} sessions"
        for reader in side.readers:
            yield from _judge_resets(side, reader, begun)


def _judge_resets(side: Side, reader: Reader, begun: int) -> Iterator[str]:
    sender = None
    resets = 0
    for item in reader.items:
        if isinstance(item, Reset):
            resets += 1
            sender = None
        elif isinstance(item, Message):
            name = label_of(item).split(".")[0]
            if sender is not None and sender != name:
                yield f"{side.name}: no reset between the messages of {sender} and {name}"
            sender = name
    if resets > begun - 1 and resets:
        yield f"{side.name}: {resets} resets in a stream, for {begun} sessions"
    there = reader.ended_by == "end" and not reader.plan.opens_after_s
    if there and begun > 1 and not resets:
        yield f"{side.name}: a stream without a reset, for {begun} sessions"


def states_tell_resumes(story: SessionStory) -> Iterator[str]:
    """P9: `State.resumed` is true on each link but the first of a session that came to one."""
    before = 0
    for at, resumed, begun in story.connects:
        if begun == before and not resumed:
            yield f"at {at:.3f}: not resumed, and no new session"
        if resumed and not begun:
            yield f"at {at:.3f}: resumed, and no session was ever begun"
        # More than one may have begun since, the last ones without a link.
        if begun == before + 1 and resumed and len(story.causes) < 2:
            yield f"at {at:.3f}: resumed, and the session is new"
        before = begun


def limits_are_kept(story: SessionStory) -> Iterator[str]:
    """P5: what is in flight, what is kept for a replay, and what lies in streams."""
    plan = story.plan
    for side in sides(story):
        client = side is story.client
        own = plan.outbox if client else plan.session
        theirs = plan.server_inbox if client else plan.inbox
        most = min(own.messages, theirs.messages)
        most_bytes = min(own.total_bytes, theirs.total_bytes)
        for books in story.spy.books.values():
            if books.begun not in story.lives[side.name].begun:
                continue
            if books.in_window > most or books.window_bytes > most_bytes:
                yield f"{side.name}: {books} is over the window of {most} and {most_bytes} bytes"
            if books.unreceived > own.messages or books.unreceived_bytes > own.total_bytes:
                yield f"{side.name}: {books} is over its memory {own}"
        inbox = plan.inbox if client else plan.server_inbox
        life = story.lives[side.name]
        if life.most > inbox.messages or life.most_bytes > inbox.total_bytes:
            yield f"{side.name}: {life.most} messages, {life.most_bytes} bytes wait for {inbox}"
        if life.overlaps:
            yield f"{side.name}: two links at once"


def nobody_breaks_the_protocol(story: SessionStory) -> Iterator[str]:
    """The two ends are ours: neither may find a breach in what the other sends."""
    for cause in (*story.spy.causes, *story.causes):
        link: BaseException | None = cause
        while link is not None:
            if isinstance(link, LinkClosed) and link.code in BREACHES:
                yield f"{link!r}"
            link = link.__cause__


def all_arrives_in_the_end(story: SessionStory) -> Iterator[str]:
    """Liveness: once the faults are over nothing waits for ever."""
    yield from story.stuck[:3]


CHECKS: Final[tuple[Callable[[SessionStory], Iterator[str]], ...]] = (
    nobody_breaks_the_protocol,
    all_arrives_in_the_end,
    each_send_has_one_outcome,
    the_books_balance_at_every_moment,
    nothing_comes_twice,
    acked_is_taken,
    pausing_loses_nothing,
    in_order_on_a_link,
    withdrawing_is_exact,
    each_outcome_has_its_reason,
    sessions_are_lost_for_a_reason,
    losses_are_items,
    resets_are_new_sessions,
    states_tell_resumes,
    limits_are_kept,
    nothing_is_left,
    one_exception_leaves,
)


def breaches(story: SessionStory) -> list[str]:
    """What is wrong with this story; nothing, hopefully."""
    return [f"{check.__name__}: {fault}" for check in CHECKS for fault in check(story)]
