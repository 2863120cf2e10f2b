"""P1, P3 and the half of P2 that plain links keep: what became of each send."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

from trio_rt import LinkClosed, Message, Outcome, Priority
from trio_rt.outcome import INDETERMINATE, WITHDRAWN, WRITTEN, dropped

from .records import LinkRecord, Sent, Side, Story
from .traces import Trace

__all__ = ["SEND_CHECKS", "label_of", "sides"]

#: Outcomes with which a message may have arrived.
SENT: Final = (WRITTEN, INDETERMINATE)


def sides(story: Story) -> list[Side]:
    """The client, if its body ever began, and all peers."""
    return [*([story.client] if hasattr(story, "client") else []), *story.peers]


def label_of(message: Message[Any]) -> str:
    """Who sent it, and as which number."""
    payload = message.payload
    text = payload.decode() if isinstance(payload, bytes) else payload
    return str(text.partition(" ")[0])


def _arrivals(story: Story, side: Side) -> Iterator[tuple[Side, Message[Any]]]:
    """What `side` sent and who received it."""
    others = story.peers if side is story.client else [story.client]
    for other in others:
        for message in other.received():
            if label_of(message).startswith(f"{side.name}."):
                yield other, message


def each_send_has_one_outcome(story: Story) -> Iterator[str]:
    """P1: an outcome for each accepted send, and the sums are the same."""
    for side in sides(story):
        assert side.final is not None
        for sent in side.sent:
            if sent.accepted and sent.outcome is None:
                yield f"{sent.label} has no outcome"
        if sum(side.final.queued.values()) or side.final.in_flight or side.final.queued_bytes:
            yield f"{side.name}: something is left in the outbox: {side.final}"
        if side.final.accepted != sum(side.final.outcomes.values()):
            yield f"{side.name}: the books do not balance: {side.final}"
        yield from _compare_books(side, Counter(side.final.outcomes))


def _compare_books(side: Side, books: Counter[Outcome]) -> Iterator[str]:
    known = Counter(sent.outcome for sent in side.sent if sent.accepted and sent.outcome)
    if missing := known - books:
        yield f"{side.name}: outcomes that are not in the books: {missing}"
    # A cancelled `deliver` was not accepted, or was withdrawn, or had its outcome already.
    more = books - known
    unknown = sum(sent.cancelled for sent in side.sent)
    if more.total() > unknown:
        yield f"{side.name}: outcomes in the books that nobody sent: {more}, {unknown} unknown"


def the_books_balance_at_every_moment(story: Story) -> Iterator[str]:
    """P1 and P5, as looked at beside every send."""
    for side in sides(story):
        yield from side.faults[:3]


def what_arrived_was_sent(story: Story) -> Iterator[str]:
    """P1 and P3: what was refused, dropped or withdrawn never arrived; the rest unharmed, once."""
    for side in sides(story):
        by_label = {sent.label: sent for sent in side.sent}
        seen = set() if side is getattr(story, "client", None) else set(story.greeted)
        for _, message in _arrivals(story, side):
            label = label_of(message)
            sent = by_label.get(label)
            if sent is None:
                yield f"{label} arrived and was never sent"
            elif label in seen:
                yield f"{label} arrived twice"
            elif sent.raised is not None:
                yield f"{label} arrived, but its send raised {sent.raised}"
            elif sent.accepted and sent.outcome not in SENT:
                yield f"{label} arrived, but its outcome is {sent.outcome}"
            elif message.payload != sent.payload:
                yield f"{label} arrived with another payload"
            elif story.plan.codec != "raw" and _meta(message) != _sent_meta(sent):
                yield f"{label} arrived with other fields: {message}"
            seen.add(label)


def _meta(message: Message[Any]) -> tuple[object, ...]:
    return message.type, message.priority, message.key


def _sent_meta(sent: Sent) -> tuple[object, ...]:
    return sent.send.type, sent.send.priority, sent.send.key


def what_was_written_arrived(story: Story) -> Iterator[str]:
    """P1: `written` on a link that ended in order means delivered."""
    if not hasattr(story, "client"):
        return
    for link in story.links:
        peer = story.peer_of(link)
        if peer is None:
            continue
        if closed_by_peer(link):
            arrived = {label_of(message) for message in story.client.received()} | story.greeted
            for sent in peer.sent:
                if sent.outcome == WRITTEN and sent.label not in arrived:
                    yield f"{sent.label} is written, its link was closed in order, and it is lost"
        elif _closed_by_client(story, link):
            arrived = {label_of(message) for message in peer.received()}
            for sent in story.client.sent:
                on_this = sent.began_at >= link.opened_at or sent.label in link.unsettled
                if on_this and sent.outcome == WRITTEN and sent.label not in arrived:
                    yield f"{sent.label} is written, its link was closed in order, and it is lost"


def closed_by_peer(link: LinkRecord) -> bool:
    """Whether the client found a close frame, so that it has all that came before."""
    cause = link.cause
    return isinstance(cause, LinkClosed) and cause.by_peer and cause.code in (1000, 1011, 1012)


def _closed_by_client(story: Story, link: LinkRecord) -> bool:
    """Whether this is the last link, and its closing handshake came to its end in time."""
    plan = story.plan
    return (
        link is story.links[-1]
        and link.cause is None
        and (link.carrier is None or link.carrier.cut_by is None)
        and story.cancelled_at == math.inf
        and story.left_at < story.body_ended_at + plan.close_timeout_s
        # The server may have given up first, and hung up on the client's last words.
        and (story.network is None or not Trace(story).troubled(story.body_ended_at, story.left_at))
        and (peer := story.peer_of(link)) is not None
        and peer.left_at == math.inf
        and peer.tap.ended_at >= story.body_ended_at
    )


def in_order_on_a_link(story: Story) -> Iterator[str]:
    """P2, as far as it goes: of one task, in order within a lane and an `order` key.

    Messages with a `key` take the places of others, and are left out.
    """
    for side in sides(story):
        by_label = {sent.label: sent for sent in side.sent}
        last: dict[object, int] = defaultdict(lambda: -1)
        for other, message in _arrivals(story, side):
            sent = by_label.get(label_of(message))
            if sent is None or sent.send.key is not None:
                continue
            number = int(sent.label.rpartition(".")[2])
            lane = sent.send.order or sent.send.priority
            row = (other.name, sent.task, lane)
            if number < last[row]:
                yield f"{sent.label} arrived after number {last[row]} of its lane {lane!r}"
            last[row] = number


def withdrawing_is_exact(story: Story) -> Iterator[str]:
    """P3: `withdraw()` tells the truth, and what was given up while offline never leaves."""
    for side in sides(story):
        arrived = {label_of(message) for _, message in _arrivals(story, side)}
        for sent in side.sent:
            if sent.withdrawn and sent.outcome != WITHDRAWN:
                yield f"{sent.label} was withdrawn, and is {sent.outcome}"
            if sent.withdrawn and sent.before_withdraw is not None:
                yield f"{sent.label} could be withdrawn as {sent.before_withdraw}"
            if sent.withdrawn is False and sent.outcome == WITHDRAWN:
                yield f"{sent.label} could not be withdrawn, and was"
            committed = sent.withdrawn is False and sent.before_withdraw is None
            if committed and sent.outcome not in SENT:
                yield f"{sent.label} was committed, and is {sent.outcome}"
        if side is story.client:
            for sent in side.sent:
                offline = not story.linked_within(sent.began_at, sent.ended_at)
                if sent.cancelled and offline and sent.label in arrived:
                    yield f"{sent.label} was given up while offline, and arrived"


def what_is_not_for_later_never_comes_later(story: Story) -> Iterator[str]:
    """P1: what would not be queued offline arrives on the link that it was sent on, or never."""
    if not hasattr(story, "client") or story.network is None:
        return
    by_label = {sent.label: sent for sent in story.client.sent}
    for link in story.links:
        peer = story.peer_of(link)
        for message in peer.received() if peer is not None else ():
            sent = by_label.get(label_of(message))
            ephemeral = sent is not None and sent.send.when_offline != "queue"
            if sent is not None and ephemeral and sent.began_at < link.opened_at:
                yield f"{sent.label} of {sent.began_at} arrived on a link of {link.opened_at}"


def each_outcome_has_its_reason(story: Story) -> Iterator[str]:
    """P1 and P3: no drop without the cause that its reason names; no stale message is sent."""
    for side in sides(story):
        for sent in side.sent:
            outcome = sent.outcome
            if sent.accepted and outcome is not None and not _is_fit(story, side, sent, outcome):
                yield f"{sent.label} is {outcome}, without a cause: {sent}"


def _is_fit(story: Story, side: Side, sent: Sent, outcome: Outcome) -> bool:
    send = sent.send
    client = side is story.client
    if outcome in SENT:
        return not (client and _is_stale(story, sent))
    if outcome == WITHDRAWN:
        return bool(sent.withdrawn) or story.cancelled_at < math.inf
    match outcome.reason:
        case "expired":
            return send.ttl_s is not None
        case "offline":
            return send.when_offline != "queue"
        case "replaced":
            return send.key is not None and any(
                other.send.key == send.key
                and other.raised is None
                and other.ended_at >= sent.began_at
                for other in side.sent
                if other is not sent
            )
        case "evicted":
            return _may_be_evicted(side, sent)
        case "closed":
            return not client or story.cancelled_at == math.inf
        case _:
            return False


def _is_stale(story: Story, sent: Sent) -> bool:
    """It was offline for all of its time, or for all the time that it would not be queued."""
    began, ended = sent.began_at, sent.ended_at
    if sent.send.when_offline != "queue":
        return not story.linked_within(began, ended)
    ttl_s = sent.send.ttl_s
    return ttl_s is not None and not story.linked_within(began, began + ttl_s)


def _may_be_evicted(side: Side, sent: Sent) -> bool:
    """Somebody more urgent came; an `order` key puts a message into another's lane."""
    if sent.send.order is not None:
        return True
    return any(
        other.send.priority > sent.send.priority or other.send.order is not None
        for other in side.sent
        if other.ended_at >= sent.began_at and other.raised is None
    )


def a_clean_end_drains(story: Story) -> Iterator[str]:
    """P6: `connect()` that was left in less than its time has sent what was queued."""
    if not hasattr(story, "client") or story.cancelled_at < math.inf:
        return
    side, failure = story.client, story.left
    assert side.final is not None
    in_time = story.left_at < story.body_ended_at + story.plan.close_timeout_s
    failed = failure is not None and failure is not story.raised
    noted = bool(getattr(failure, "__notes__", ()))
    closed = side.final.outcomes.get(dropped("closed"), 0)
    if in_time and not failed and not noted and closed:
        yield f"{closed} sends were dropped, though there was time"


def critical_goes_first(story: Story) -> Iterator[str]:
    """The rule of order: what waits is never before a CRITICAL message that waited with it.

    Seen only offline: what was accepted before a link opened leaves on it in
    strict order, CRITICAL first (but for messages with an `order` or a `key`).
    """
    if not hasattr(story, "client") or story.network is None:
        return
    by_label = {sent.label: sent for sent in story.client.sent}
    for link in story.links:
        peer = story.peer_of(link)
        if peer is None:
            continue
        lesser = False
        for message in peer.received():
            sent = by_label.get(label_of(message))
            if sent is None or sent.label not in link.unsettled or sent.delivery is None:
                continue
            if sent.send.order is not None or sent.send.key is not None:
                continue
            waited = sent.ended_at < link.opened_at
            if waited and sent.send.priority is not Priority.CRITICAL:
                lesser = True
            elif waited and lesser:
                yield f"{sent.label} is CRITICAL, and came after a lesser one"


SEND_CHECKS: Final[tuple[Callable[[Story], Iterator[str]], ...]] = (
    each_send_has_one_outcome,
    the_books_balance_at_every_moment,
    what_arrived_was_sent,
    what_was_written_arrived,
    in_order_on_a_link,
    withdrawing_is_exact,
    what_is_not_for_later_never_comes_later,
    each_outcome_has_its_reason,
    a_clean_end_drains,
    critical_goes_first,
)
