"""P5 and P9: what each stream gave its consumer, against what arrived.

The tap is a stream without a bound that matters and with a prompt consumer: it
has all that arrived. Whatever another stream lacks must be in its `Gap`s, at
the right places; only right before a `Reset` a gap may be swallowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from trio_rt import Gap, Message, Reset

from .checks_sends import label_of, sides
from .records import Reader, Side, Story

__all__ = ["STREAM_CHECKS"]

#: How a greeting's payload begins.
GREETER: Final = "g"

_Item = Message[Any] | Gap | Reset


def every_later_link_is_a_reset(story: Story) -> Iterator[str]:
    """P9: in the tap, one `Reset` for each link but the first, before its messages."""
    for side in sides(story):
        resets = sum(isinstance(item, Reset) for item in side.tap.items)
        links = 1 if side.dial else len(story.links)
        if resets != max(0, links - 1):
            yield f"{side.name}: {resets} resets for {links} links"
        for reader in side.readers:
            for segment in _segments(reader.items):
                senders = {label_of(item).split(".")[0] for item in _messages(segment)}
                if len(senders - {GREETER}) > 1:
                    yield f"{side.name}: no reset between the messages of {senders}"


def _segments(items: Sequence[_Item]) -> list[list[_Item]]:
    """The items between the resets; the first and last segment may be empty."""
    segments: list[list[_Item]] = [[]]
    for item in items:
        if isinstance(item, Reset):
            segments.append([])
        else:
            segments[-1].append(item)
    return segments


def _messages(items: Sequence[_Item]) -> list[Message[Any]]:
    return [item for item in items if isinstance(item, Message)]


def losses_are_items(story: Story) -> Iterator[str]:
    """P9: taken + gaps = arrived, and each gap stands where its messages were."""
    for side in sides(story):
        if any(isinstance(item, Gap) for item in side.tap.items):
            yield f"{side.name}: the tap lost something"
        for number, reader in enumerate(side.readers[1:]):
            compare = _compare_conflated if reader.plan.on_full == "conflate" else _compare
            for fault in compare(side, reader, raw=story.plan.codec == "raw"):
                yield f"{side.name}, stream {number} ({reader.plan}): {fault}"


def _arrived(side: Side, reader: Reader, raw: bool) -> list[list[Message[Any]]]:
    """What the tap has for this stream, between its resets."""
    types = () if raw else reader.plan.types
    return [
        [message for message in _messages(segment) if not types or message.type in types]
        for segment in _segments(side.tap.items)
    ]


def _compare(side: Side, reader: Reader, *, raw: bool) -> Iterator[str]:
    arrived = _arrived(side, reader, raw)
    flat = [label_of(message) for segment in arrived for message in segment]
    positions = {label: position for position, label in enumerate(flat)}
    last_start = len(flat) - len(arrived[-1])
    segments = _segments(reader.items)
    # Everything before it is taken, or lost in a gap; where it was opened later, nobody knows.
    reached = None if reader.plan.opens_after_s else 0
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1 and reader.ended_by == "end"
        if last and index and last_start > (reached or 0):
            reached = last_start  # swallowed by the resets before
        elif index and (messages := _messages(segment)):
            reached = max(reached or 0, _start_of(positions, messages[0], arrived))
        gap = 0
        for item in segment:
            if isinstance(item, Gap):
                gap += item.count
                continue
            assert isinstance(item, Message)
            position = positions.get(label_of(item))
            if position is None:
                yield f"{label_of(item)} is in it, and not in the tap"
                continue
            if reached is not None and position != reached + gap:
                yield f"{label_of(item)}: a gap of {gap}, where {position - reached} are missing"
            reached, gap = position + 1, 0
        if reached is None:
            continue
        if last and reached + gap != len(flat):
            yield f"at its end a gap of {gap}, where {len(flat) - reached} are missing"
        reached += gap


def _start_of(
    positions: dict[str, int], message: Message[Any], arrived: list[list[Message[Any]]]
) -> int:
    """The position at which the segment of this message begins."""
    position, start = positions.get(label_of(message), 0), 0
    for segment in arrived:
        if position < start + len(segment):
            break
        start += len(segment)
    return start


def _compare_conflated(side: Side, reader: Reader, *, raw: bool) -> Iterator[str]:
    """In order, and of each key the newest at the end."""
    arrived = _arrived(side, reader, raw)
    flat = [label_of(message) for segment in arrived for message in segment]
    positions = {label: position for position, label in enumerate(flat)}
    taken = [label_of(message) for message in _messages(reader.items)]
    if len(set(taken)) != len(taken) or not set(taken) <= set(positions):
        yield "it has messages twice, or that did not arrive"
        return
    by_key: dict[object, int] = {}
    for message in _messages(reader.items):
        key = (message.type, message.key)
        if positions[label_of(message)] <= by_key.get(key, -1):
            yield f"{label_of(message)} came after a newer one of its key"
        by_key[key] = positions[label_of(message)]
    gaps = sum(item.count for item in reader.items if isinstance(item, Gap))
    newest = {(message.type, message.key): label_of(message) for message in arrived[-1]}
    missing = [label for label in newest.values() if label not in taken]
    whole = reader.ended_by == "end" and not reader.plan.opens_after_s
    if whole and len(missing) > gaps:
        yield f"the newest are missing: {missing}, with gaps of {gaps}"


def streams_are_bounded(story: Story) -> Iterator[str]:
    """P5: no stream ever held more than its capacity and its bytes.

    At a server messages are held until the handler opens its streams, within
    the inbox's own bound.
    """
    for side in sides(story):
        peer = bool(side.dial)
        inbox = story.plan.server_inbox if peer else story.plan.inbox
        for reader in side.readers[1:]:
            capacity = reader.plan.capacity or math.inf
            bound = max(capacity, inbox.messages) if peer else capacity
            if reader.most > bound:
                yield f"{side.name}: {reader.most} messages in a stream of {bound}"
            # One message may always be there; two never beyond the bound.
            if reader.most > 1 and reader.most_bytes > inbox.total_bytes:
                yield f"{side.name}: {reader.most_bytes} bytes in a stream of {inbox.total_bytes}"


def streams_end(story: Story) -> Iterator[str]:
    """Every stream ends after its items; the books know what arrived and what was lost."""
    for side in sides(story):
        assert side.final is not None
        for reader in side.readers:
            overflow = reader.plan.on_full == "fail" and reader.ended_by == "overflow"
            closed = reader.plan.lasts_s < math.inf and reader.ended_by == "closed"
            if not (reader.ended_by == "end" or overflow or closed):
                yield f"{side.name}: a stream ended by {reader.ended_by}"
        if side.final.malformed:
            yield f"{side.name}: {side.final.malformed} malformed messages"
        arrived = len(_messages(side.tap.items))
        peer = bool(side.dial)
        other = story.plan.liveness if peer else story.plan.server_liveness
        if other.beat == "ping" and side.final.received != arrived:
            yield f"{side.name}: {side.final.received} received, {arrived} in the tap"


STREAM_CHECKS: Final[tuple[Callable[[Story], Iterator[str]], ...]] = (
    every_later_link_is_a_reset,
    losses_are_items,
    streams_are_bounded,
    streams_end,
)
