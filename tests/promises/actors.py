"""Those who act in a story: tasks that send, and tasks that read."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import trio

from trio_rt import Conflate, Message, Offline, PayloadError, StreamOverflow, Undelivered
from trio_rt.outcome import WRITTEN

from .plans import Plan, Reading, Send, Sender
from .records import Reader, Sent, Side

__all__ = ["open_reader", "read", "read_later", "run_sender", "say"]

#: What a sending verb may raise without having accepted anything.
REFUSALS: Final = (Offline, PayloadError, trio.WouldBlock, trio.ClosedResourceError)

ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"
#: Two and three bytes of UTF-8 each.
WIDE: Final = "äöüß漢字"


def _payload(label: str, send: Send, codec: str) -> str | bytes:
    """`label`, and a filling that no other message has, `send.size` bytes in all or more."""
    alphabet = WIDE if send.wide else ALPHABET
    character = alphabet[hash_of(label) % len(alphabet)]
    filling = character * (max(0, send.size - len(label) - 1) // len(character.encode()))
    text = f"{label} {filling}"
    return text.encode() if codec == "raw" and send.binary else text


def hash_of(label: str) -> int:
    """The same in every run, as `hash` is not."""
    return sum(label.encode())


async def run_sender(side: Side, plan: Plan, name: str, sender: Sender) -> None:
    """A task that sends what is planned, until the connection is closed."""
    with trio.move_on_after(sender.lasts_s):
        for number, send in enumerate(sender.sends):
            if send.wait_s:
                await trio.sleep(send.wait_s)
            sent = await say(side, plan, f"{side.name}.{name}", number, send)
            if sent.raised == "ClosedResourceError":
                return


async def say(side: Side, plan: Plan, task: str, number: int, send: Send) -> Sent:
    """Send once as planned, and note down all that is learned."""
    label = f"{task}.{number}"
    sent = Sent(
        send=send,
        label=label,
        task=task,
        payload=_payload(label, send, plan.codec),
        began_at=trio.current_time(),
    )
    side.sent.append(sent)
    try:
        await _call(side, plan, sent)
    except REFUSALS as error:
        sent.raised = type(error).__name__
    except trio.Cancelled:
        sent.cancelled = True
        raise
    finally:
        sent.ended_at = trio.current_time()
        inspect(side, plan)
    if sent.send.verb == "withdraw" and sent.delivery is not None:
        await trio.sleep(send.patience_s)
        sent.before_withdraw = sent.delivery.outcome
        sent.withdrawn = sent.delivery.withdraw()
        inspect(side, plan)
    return sent


async def _call(side: Side, plan: Plan, sent: Sent) -> None:
    send, talker = sent.send, side.talker
    args: tuple[Any, ...] = (sent.payload,) if plan.codec == "raw" else (send.type, sent.payload)
    options = {
        "priority": send.priority,
        "key": send.key,
        "order": send.order,
        "ttl_s": send.ttl_s,
        "when_offline": send.when_offline,
    }
    if send.verb == "nowait":
        sent.delivery = talker.send_nowait(*args, **options)
    elif send.verb == "deliver":
        with trio.move_on_after(send.patience_s) as scope:
            try:
                await talker.deliver(*args, **options)
                sent.told = WRITTEN
            except Undelivered as error:
                sent.told = error.outcome
        sent.cancelled = scope.cancelled_caught
    else:
        sent.delivery = await talker.send(*args, **options)


def inspect(side: Side, plan: Plan) -> None:
    """P1 and P5 hold at every moment: the books balance, the outbox is within its bounds."""
    books = side.talker.statistics()
    queued = sum(books.queued.values())
    if books.accepted != sum(books.outcomes.values()) + queued + books.in_flight:
        side.faults.append(f"P1: the books do not balance: {books}")
    limits = plan.outbox if side.name == "c" else plan.server_outbox
    if queued > limits.messages or books.queued_bytes > limits.total_bytes:
        side.faults.append(f"P5: the outbox is over its bounds {limits}: {books}")


def open_reader(side: Side, plan: Plan, reading: Reading) -> Reader:
    """Open one of the side's streams."""
    types = () if plan.codec == "raw" else reading.types
    stream = side.talker.subscribe(
        *types,
        capacity=reading.capacity,
        on_full=Conflate() if reading.on_full == "conflate" else reading.on_full,
    )
    reader = Reader(plan=reading, stream=stream)
    side.readers.append(reader)
    return reader


async def read_later(side: Side, plan: Plan, reading: Reading) -> None:
    """A consumer that comes later."""
    await trio.sleep(reading.opens_after_s)
    await read(side, open_reader(side, plan, reading))


async def read(side: Side, reader: Reader, tell: Any = None) -> None:
    """A consumer: takes everything to the end of its stream, at its own pace.

    `tell` is called with each message.
    """
    with trio.move_on_after(reader.plan.lasts_s) as lasts:
        await _read(side, reader, tell)
    if lasts.cancelled_caught:
        reader.ended_by = "closed"
        reader.stream.close()
    reader.ended_at = trio.current_time()


async def _read(side: Side, reader: Reader, tell: Any) -> None:
    stream, plan = reader.stream, reader.plan
    receive = stream.receive_many if plan.many else partial(_receive_one, stream)
    try:
        while True:
            if plan.pause_s and not side.over:
                await trio.sleep(plan.pause_s)
            items = await receive()
            reader.items += items
            messages = [item for item in items if isinstance(item, Message)]
            reader.most = max(reader.most, len(messages))
            if len(messages) > 1:
                reader.most_bytes = max(reader.most_bytes, sum(map(_size, messages)))
            if tell is not None:
                for message in messages:
                    tell(message)
    except trio.EndOfChannel:
        reader.ended_by = "end"
    except StreamOverflow:
        reader.ended_by = "overflow"


async def _receive_one(stream: Any) -> list[Any]:
    return [await stream.receive()]


def _size(message: Message[Any]) -> int:
    payload = message.payload
    return len(payload.encode() if isinstance(payload, str) else payload)
