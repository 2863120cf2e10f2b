"""Messages of one's own: each once and in order, and what their handles tell of them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_rt import Gap, Refused, Reset
from trio_rt.chat._client import speaker as speaker_module
from trio_rt.chat._client.log import RoomLog
from trio_rt.chat._client.room import ChatRoom
from trio_rt.chat._client.said import Said
from trio_rt.chat._client.speaker import PENDING, Speaker
from trio_rt.chat.models import ChatMessage, Spoken, User
from trio_rt.hub._broker import Position
from trio_rt.hub._client.items import RoomMessage
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.options import OutboxLimits

from ..clocked import clocked
from ..hub.support import Carrier, HubWorld, carriers
from .support import (
    FORBIDDEN,
    Doorman,
    all_events,
    contents,
    enter,
    in_room,
    open_chat_world,
    restart,
    states_of,
    tells,
)

ORDER = ["queued", "sent", "acked", "echoed"]


def is_forward(states: list[str]) -> bool:
    """Whether each is there once, in the order of a message's life."""
    return states == [state for state in ORDER if state in states]


async def states(said: Said) -> list[str]:
    return [state async for state in said.states()]


async def until_settled(*all_said: Said) -> None:
    for said in all_said:
        async for _ in said.states():
            pass


# The handle


@carriers
@clocked
async def test_states_go_forward(carrier: Carrier) -> None:
    """From "queued" to "echoed", each once; every reader has all, also one that comes late."""
    async with open_chat_world(carrier) as world, enter(world, "ann") as room:
        said = await room.say("hi")
        assert (said.state, said.offset, said.message.state) == ("queued", 0, "queued")
        found: list[list[str]] = []

        async def read() -> None:
            found.append(await states(said))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            assert await said.wait_acked() == 1
        found.append(await states(said))
    assert found[0] == found[1] == found[2]
    assert is_forward(found[0])
    assert (found[0][0], found[0][-1]) == ("queued", "echoed")
    assert (said.state, said.offset, said.failure) == ("echoed", 1, "")
    assert said.message == room.messages[0]
    assert said.id in repr(said)


@clocked
async def test_order() -> None:
    """Messages are in the room in the order in which they were said."""
    async with open_chat_world() as world, enter(world, "ann") as ann, enter(world, "bob") as bob:
        all_said = [await ann.say(str(n)) for n in range(50)]
        await until_settled(*all_said)
        await trio.sleep(1)
        assert contents(ann) == contents(bob) == [str(n) for n in range(50)]
        assert [said.offset for said in all_said] == list(range(1, 51))


@carriers
@clocked
async def test_refusal_is_about_one_message(carrier: Carrier) -> None:
    """It fails alone, is still shown, and says why; what is behind it is said."""
    async with open_chat_world(carrier) as world, enter(world, "ann") as room:
        first, wrong, last = [await room.say(text) for text in ("a", FORBIDDEN, "b")]
        await until_settled(first, wrong, last)
        await trio.sleep(1)
        assert states_of(room) == [("a", "echoed"), ("b", "echoed"), (FORBIDDEN, "failed")]
        assert (wrong.state, wrong.failure) == ("failed", "no swearing")
        assert wrong.message.failure == wrong.failure
        assert await states(wrong) == ["queued", "sent", "failed"]
        with pytest.raises(Refused, match="forbidden"):
            await wrong.wait_acked()
        assert room.dismiss(wrong)
        assert contents(room) == ["a", "b"]
        assert not room.dismiss(wrong)
        assert not room.dismiss(first)
        assert not wrong.retry()


@clocked
async def test_retry() -> None:
    """What failed is said again under its id, behind what is queued, and has new states."""
    rules = Doorman()
    async with open_chat_world(rules=rules) as world, enter(world, "ann") as room:
        wrong = await room.say(FORBIDDEN)
        await until_settled(wrong)
        old = wrong.states()
        rules.strict = False
        other = await room.say("b")
        assert wrong.retry()
        assert not wrong.retry()
        assert states_of(room) == [("b", "queued"), (FORBIDDEN, "queued")]
        assert is_forward(await states(wrong))
        assert await wrong.wait_acked() > other.offset
        assert [state async for state in old] == ["queued", "sent", "failed"]
        assert not wrong.retry()
        assert not room.dismiss(wrong)
        assert contents(room) == ["b", FORBIDDEN]


@clocked
async def test_failed_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many the oldest are dismissed; they hold up nobody."""
    monkeypatch.setattr(speaker_module, "FAILED", 3)
    async with open_chat_world() as world, enter(world, "ann") as room:
        wrong = [await room.say(FORBIDDEN) for _ in range(5)]
        await until_settled(*wrong)
        assert [message.id for message in room.messages] == [said.id for said in wrong[2:]]
        assert not wrong[0].retry()
        assert wrong[4].retry()


@carriers
@clocked
async def test_withdraw(carrier: Carrier) -> None:
    """While it is queued it can be taken back: it is shown no more, and never said."""
    broker = MemoryBroker()
    async with (
        open_chat_world(carrier, broker=broker) as world,
        enter(world, "ann") as ann,
        enter(world, "bob") as bob,
    ):
        await world.stop()
        first, second, third = [await ann.say(text) for text in "abc"]
        assert second.withdraw()
        assert not second.withdraw()
        assert contents(ann) == ["a", "c"]
        assert await states(second) == ["queued", "failed"]
        with pytest.raises(Refused, match="withdrawn"):
            await second.wait_acked()
        assert not second.retry()
        await world.start(broker)
        await until_settled(first, third)
        await trio.sleep(1)
        assert not first.withdraw()
        assert contents(ann) == contents(bob) == ["a", "c"]


@clocked
async def test_withdrawn_in_the_moment_of_the_link() -> None:
    """The speaker that waits for a link finds the queue as it is when there is one."""
    broker = MemoryBroker()
    async with open_chat_world(broker=broker) as world, enter(world, "ann") as ann:
        await world.stop()
        said = await ann.say("a")
        await trio.sleep(1)
        assert said.withdraw()
        await world.start(broker)
        await trio.sleep(5)
        await (await ann.say("b")).wait_acked()
        await trio.sleep(1)
        assert contents(ann) == ["b"]


@clocked
async def test_pending_is_bounded() -> None:
    """With 1000 on their way `say` waits; cancelled there, nothing is queued."""
    async with open_chat_world() as world, enter(world, "ann") as room:
        await world.stop()
        all_said = [await room.say(str(n)) for n in range(PENDING)]
        with trio.move_on_after(1) as scope:
            await room.say("one more")
        assert scope.cancelled_caught
        assert len(room.messages) == PENDING
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(room.say, "in its place")
                await wait_all_tasks_blocked()
                assert len(room.messages) == PENDING
                assert all_said[0].withdraw()
        assert len(room.messages) == PENDING
        assert contents(room)[-1] == "in its place"


@clocked
async def test_pending_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of a message: its room is for another one then."""
    monkeypatch.setattr(speaker_module, "PENDING", 3)
    async with open_chat_world() as world, enter(world, "ann") as room:
        with trio.fail_after(5):
            for n in range(10):
                await room.say(str(n))
                await room.say(FORBIDDEN)
            await until_settled(await room.say("last"))
        assert [text for text, state in states_of(room) if state == "echoed"][-1] == "last"


@clocked
async def test_say_that_waits_when_the_room_is_left() -> None:
    """It raises `ClosedResourceError`, as does all that comes later."""
    outcomes: list[str] = []
    async with open_chat_world() as world, world.connect("ann") as conn:

        async def say(room: ChatRoom) -> None:
            try:
                await room.say("one more")
            except trio.ClosedResourceError:
                outcomes.append("closed")

        async with trio.open_nursery() as nursery, in_room(conn) as room:
            await world.stop()
            for n in range(PENDING):
                await room.say(str(n))
            for _ in range(PENDING + 3):
                nursery.start_soon(say, room)
            await wait_all_tasks_blocked()
        assert outcomes == ["closed"] * (PENDING + 3)
        await say(room)
    assert outcomes == ["closed"] * (PENDING + 4)
    assert contents(room) == []


@clocked
async def test_larger_than_the_connection_sends() -> None:
    """It fails alone."""
    outbox = OutboxLimits(message_bytes=2000)
    async with open_chat_world() as world, enter(world, "ann", outbox=outbox) as room:
        large, small = await room.say("x" * 5000), await room.say("y")
        await until_settled(large, small)
        assert (large.state, small.state) == ("failed", "echoed")
        assert "2000 bytes" in large.failure


@clocked
async def test_left_before_it_is_known() -> None:
    """The handle of what was sent ends as it is; nobody waits for ever."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        with trio.CancelScope() as scope:
            async with in_room(conn) as room:
                said = await room.say("hi")
                await trio.sleep(0.001)
                scope.cancel()
                await trio.sleep_forever()
        assert await states(said) == ["queued", "sent"]
        with pytest.raises(trio.ClosedResourceError):
            await said.wait_acked()
        assert not said.withdraw()
        assert not said.retry()


# Over bad networks


class Watch(trio.abc.Instrument):
    """Looks, after each step of any task, at what a room shows of one's own messages."""

    def __init__(self, room: ChatRoom) -> None:
        self.room = room
        self.said: list[Said] = []
        self.wrong: list[object] = []
        self._reached: dict[str, int] = {}

    def __enter__(self) -> Watch:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        shown: dict[str, list[ChatMessage]] = {}
        for message in self.room.messages:
            shown.setdefault(message.id, []).append(message)
        for said in self.said:
            found = shown.get(said.id, [])
            at = ORDER.index(said.state)
            if len(found) != 1 or found[0].state != said.state or said.message != found[0]:
                self.wrong.append((said, found))
            if at < self._reached.get(said.id, 0):
                self.wrong.append((said, "backwards"))
            self._reached[said.id] = at
        offsets = [message.offset for message in self.room.messages if message.offset]
        if offsets != sorted(set(offsets)):
            self.wrong.append(offsets)


async def disturb(world: HubWorld, broker: MemoryBroker, kind: str) -> None:
    if kind == "restart":
        await restart(world, broker)
    else:
        world.network.cut("ann", "rst")


@pytest.mark.parametrize("kind", ["cut", "restart"])
@carriers
@clocked
async def test_trouble_at_every_stage(carrier: Carrier, kind: str) -> None:
    """Whenever the link or the hub is lost: once each, in order, shown once all the time."""
    for step in range(16):
        broker = MemoryBroker()
        async with (
            open_chat_world(carrier, broker=broker) as world,
            enter(world, "ann") as ann,
            enter(world, "bob") as bob,
        ):
            with Watch(ann) as watch:
                for text in "abc":
                    watch.said.append(await ann.say(text))
                await trio.sleep(step * 0.01)
                await disturb(world, broker, kind)
                watch.said.append(await ann.say("d"))
                await until_settled(*watch.said)
            await trio.sleep(5)
            assert not watch.wrong
            assert states_of(ann) == states_of(bob) == [(text, "echoed") for text in "abcd"]
            async with enter(world, "eve") as eve:
                assert contents(eve) == list("abcd")


@carriers
@clocked
async def test_hub_that_begins_with_an_empty_log(carrier: Carrier) -> None:
    """What had no answer is said to it; what was echoed is gone with the old log."""
    async with open_chat_world(carrier) as world, enter(world, "ann") as ann:
        await until_settled(await ann.say("old"))
        with ann.events() as events:
            await world.stop()
            later = [await ann.say(text) for text in "ab"]
            await world.start()
            await until_settled(*later)
            found = await all_events(events)
        assert contents(ann) == ["a", "b"]
        assert len(tells(found, Reset)) == 1
        assert [event.message.content for event in tells(found, Spoken)] == ["a", "b"]


# The speaker alone

ANN = User("ann", "Ann")


class Stage:
    """A speaker whose publishes end when the test says so."""

    def __init__(self) -> None:
        self.log = RoomLog(me="ann")
        self.late: list[ChatMessage] = []
        self.speaker = Speaker(self.log, self._publish, trio.lowlevel.checkpoint, self.late.append)
        self.asked: list[str] = []
        self._send, self._receive = trio.open_memory_channel[Position | Refused](10)

    async def _publish(self, message: ChatMessage) -> Position:
        self.asked.append(message.content)
        result = await self._receive.receive()
        if isinstance(result, Refused):
            raise result
        return result

    async def say(self, content: str) -> Said:
        await self.speaker.wait_room()
        message = ChatMessage(
            id=content, user=ANN, kind="text", content=content, mine=True, state="queued"
        )
        said = self.speaker.queue(message)
        await wait_all_tasks_blocked()
        return said

    async def answer(self, result: Position | Refused) -> None:
        await self._send.send(result)
        await wait_all_tasks_blocked()

    def hear(self, item: Any, until: int) -> None:
        """As the holder does it."""
        self.speaker.heard(self.log.take(item, until=until))

    def echo(self, id: str, offset: int, epoch: str = "e", user: str = "ann") -> None:
        place, body = Position(epoch, offset), {"content": id}
        self.hear(RoomMessage(place, id, user, "d", "text", body, 1, user == "ann"), offset)


async def with_stage(story: Any) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.speaker.run)
        await story(stage)
        nursery.cancel_scope.cancel()
    stage.speaker.close()


@clocked
async def test_answer_then_echo() -> None:
    """All four states are told."""

    async def story(stage: Stage) -> None:
        said = await stage.say("a")
        await stage.answer(Position("e", 1))
        assert (said.state, said.offset, await said.wait_acked()) == ("acked", 1, 1)
        stage.echo("a", 1)
        assert await states(said) == ORDER

    await with_stage(story)


@clocked
async def test_echo_then_answer() -> None:
    """The answer changes nothing any more; "acked" is passed over."""

    async def story(stage: Stage) -> None:
        said = await stage.say("a")
        stage.echo("a", 1)
        assert (said.state, await said.wait_acked()) == ("echoed", 1)
        await stage.answer(Position("e", 1))
        assert await states(said) == ["queued", "sent", "echoed"]
        assert stage.speaker.is_idle

    await with_stage(story)


@clocked
async def test_id_of_another_user() -> None:
    """Ids are each user's own: the same one of somebody else is no echo."""

    async def story(stage: Stage) -> None:
        said = await stage.say("a")
        stage.echo("a", 1, user="bob")
        assert said.state == "sent"
        stage.echo("a", 2)
        assert (said.state, said.offset) == ("echoed", 2)
        assert [message.offset for message in stage.log.messages] == [1, 2]

    await with_stage(story)


@clocked
async def test_echo_in_a_gap() -> None:
    """Acked, and all up to its offset was taken: it is in its place, before the gap or after."""

    async def story(stage: Stage) -> None:
        stage.echo("x", 1)
        before, after = await stage.say("a"), await stage.say("b")
        await stage.answer(Position("e", 2))
        stage.hear(Gap(1), 2)
        assert (before.state, stage.late) == ("echoed", [])
        stage.hear(Gap(1), 3)
        await stage.answer(Position("e", 3))
        assert after.state == "echoed"
        assert [message.id for message in stage.late] == ["b"]
        assert [message.id for message in stage.log.messages] == ["x", "a", "b"]

    await with_stage(story)


@clocked
async def test_acked_in_a_log_that_is_lost() -> None:
    """It fails as "lost", and can be tried again."""

    async def story(stage: Stage) -> None:
        stage.echo("x", 1)
        said = await stage.say("a")
        await stage.answer(Position("e", 2))
        stage.hear(Reset(), 0)
        assert (said.state, said.message.state) == ("failed", "failed")
        with pytest.raises(Refused, match="lost"):
            await said.wait_acked()
        assert said.retry()
        await wait_all_tasks_blocked()
        assert stage.asked == ["a", "a"]
        await stage.answer(Position("f", 1))
        stage.echo("a", 1, "f")
        assert said.state == "echoed"

    await with_stage(story)


@clocked
async def test_failed_and_said_elsewhere() -> None:
    """Another device of the user has said it under the same id: there is nothing to try again."""

    async def story(stage: Stage) -> None:
        said = await stage.say("a")
        await stage.answer(Refused("muted"))
        assert said.failure == "muted"
        stage.echo("a", 1)
        assert not said.retry()
        assert [message.state for message in stage.log.messages] == ["echoed"]

    await with_stage(story)


@clocked
async def test_connection_that_is_over() -> None:
    """What is queued is withdrawn, and nothing more is taken."""

    async def over() -> None:
        await trio.lowlevel.checkpoint()
        raise trio.ClosedResourceError

    stage = Stage()
    stage.speaker = Speaker(stage.log, stage._publish, over, stage.late.append)
    said = await stage.say("a")
    await stage.speaker.run()
    assert await states(said) == ["queued", "failed"]
    assert stage.log.messages == ()
    with pytest.raises(trio.ClosedResourceError):
        await stage.say("b")
