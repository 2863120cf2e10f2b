"""Who types: what is told, how often, and how it ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_rt
from trio_rt import Gap, Phase
from trio_rt.chat._client.keyboard import IDLE_S, REPEAT_S, Keyboard
from trio_rt.chat._client.room import ChatRoom
from trio_rt.chat.models import Spoken, TypingChanged
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.options import OutboxLimits

from ..clocked import clocked
from ..hub.support import Carrier, carriers
from .support import Doorman, all_events, enter, in_room, open_chat_world, restart, tells


def typing(room: ChatRoom) -> list[str]:
    return [user.name for user in room.typing_users]


def words(rules: Doorman, since: float) -> list[tuple[float, bool]]:
    """What the hub was told, and how many seconds after `since`."""
    return [(round(at - since), on) for at, _, on in rules.typing]


# As it is seen


@carriers
@clocked
async def test_block(carrier: Carrier) -> None:
    """Others see it at once, as long as it lasts, and its end; the user's own devices do not."""
    async with (
        open_chat_world(carrier) as world,
        enter(world, "ann/phone") as phone,
        enter(world, "ann/laptop") as laptop,
        enter(world, "bob") as bob,
    ):
        with bob.events() as events, phone.events() as own, laptop.events() as others:
            with phone.typing():
                for _ in range(20):
                    await trio.sleep(1)
                    assert typing(bob) == ["Ann"]
                    assert typing(phone) == typing(laptop) == []
            await trio.sleep(0.1)
            assert typing(bob) == []
            found = tells(await all_events(events), TypingChanged)
            assert [[user.id for user in event.users] for event in found] == [["ann"], []]
            for stream in (own, others):
                assert tells(await all_events(stream), TypingChanged) == []


@clocked
async def test_keystrokes() -> None:
    """They are told at most every 3 s; 6 s after the last one it is over."""
    rules = Doorman()
    async with (
        open_chat_world(rules=rules) as world,
        enter(world, "ann") as ann,
        enter(world, "bob") as bob,
    ):
        since = trio.current_time()
        for _ in range(100):
            ann.keystroke()
            await trio.sleep(0.1)
        assert typing(bob) == ["Ann"]
        assert words(rules, since) == [(0, True), (3, True), (6, True), (9, True)]
        await trio.sleep(20)
        assert typing(bob) == []
        assert words(rules, since)[4:] == [(12, True), (15, True), (16, False)]


@clocked
async def test_message_ends_it() -> None:
    """Whoever says something does not type any more, in a block neither; a key begins anew."""
    rules = Doorman()
    async with (
        open_chat_world(rules=rules) as world,
        enter(world, "ann") as ann,
        enter(world, "bob") as bob,
    ):
        with bob.events() as events:
            with ann.typing():
                await trio.sleep(1)
                await ann.say("hi")
                await trio.sleep(10)
                assert typing(bob) == []
                assert [on for _, on in words(rules, 0)] == [True, False]
                ann.keystroke()
                await trio.sleep(1)
                assert typing(bob) == ["Ann"]
            found = await all_events(events, 30)
        kinds = [type(event) for event in found if not isinstance(event, TypingChanged)]
        assert kinds == [Spoken]
        assert [len(event.users) for event in tells(found, TypingChanged)] == [1, 0, 1, 0]


@clocked
async def test_nested_blocks() -> None:
    """It goes on until the last one ends."""
    async with open_chat_world() as world, enter(world, "ann") as ann, enter(world, "bob") as bob:
        with ann.typing():
            with ann.typing():
                ann.keystroke()
                await trio.sleep(1)
            await trio.sleep(10)
            assert typing(bob) == ["Ann"]
        await trio.sleep(1)
        assert typing(bob) == []


@carriers
@clocked
async def test_typist_who_vanishes(carrier: Carrier) -> None:
    """Without another word it is over after 6 s."""
    async with (
        open_chat_world(carrier) as world,
        enter(world, "ann") as ann,
        enter(world, "bob") as bob,
    ):
        with ann.typing():
            await trio.sleep(1)
            world.network.stall("ann")
            await trio.sleep(4)
            assert typing(bob) == ["Ann"]
            await trio.sleep(2)
            assert typing(bob) == []
            world.network.resume("ann")


@pytest.mark.parametrize("by_error", [False, True])
@clocked
async def test_typist_who_leaves(by_error: bool) -> None:
    """The end is told when the room is left, whichever way."""
    async with open_chat_world() as world, enter(world, "bob") as bob:  # noqa: SIM117
        async with world.connect("ann") as conn:
            with trio.CancelScope() as scope:
                async with in_room(conn) as ann:
                    ann.keystroke()
                    await trio.sleep(1)
                    assert typing(bob) == ["Ann"]
                    if by_error:
                        scope.cancel()
                        await trio.sleep_forever()
            await trio.sleep(0.1)
            assert typing(bob) == []


# Lost links


@carriers
@clocked
async def test_own_link_is_lost(carrier: Carrier) -> None:
    """Nobody is known to type until they say so again."""
    broker = MemoryBroker()
    async with (
        open_chat_world(carrier, broker=broker) as world,
        enter(world, "ann") as ann,
        enter(world, "bob") as bob,
    ):
        with ann.typing(), bob.events() as events:
            await trio.sleep(1)
            assert typing(bob) == ["Ann"]
            await world.stop()
            assert typing(bob) == []
            await world.start(broker)
            await trio.sleep(5)
            assert typing(bob) == ["Ann"]
            found = tells(await all_events(events), TypingChanged)
            assert [len(event.users) for event in found] == [1, 0, 1]


@carriers
@clocked
async def test_typing_goes_on_after_a_reconnect(carrier: Carrier) -> None:
    """What could not be told then is not told later; within 3 s it is told again."""
    rules = Doorman()
    broker = MemoryBroker()
    async with (
        open_chat_world(carrier, broker=broker, rules=rules) as world,
        enter(world, "ann") as ann,
        enter(world, "bob") as bob,
    ):
        since = trio.current_time()
        with ann.typing():
            await trio.sleep(1)
            await world.stop()
            await trio.sleep(30)
            ann.keystroke()
            await world.start(broker)
            await trio.sleep(6)
            assert typing(bob) == ["Ann"]
            later = [at for at, on in words(rules, since) if at > 0]
            assert 1 <= len(later) <= 3
            assert later[0] >= 31


@clocked
async def test_offline_typing_is_dropped() -> None:
    """It leaves no word behind, and none that is over is said when the link is back."""
    rules = Doorman()
    broker = MemoryBroker()
    async with (
        open_chat_world(broker=broker, rules=rules) as world,
        enter(world, "ann") as ann,
    ):
        await world.stop()
        await trio.sleep(1)
        for _ in range(5):
            with ann.typing():
                await trio.sleep(4)
        await world.start(broker)
        await trio.sleep(10)
        assert rules.typing == []


@clocked
async def test_word_without_a_link() -> None:
    """It is dropped, also where the session lives on."""
    rules = Doorman()
    async with (
        open_chat_world(rules=rules) as world,
        world.connect("ann") as conn,
        in_room(conn) as ann,
    ):
        world.network.cut("ann", "rst")
        with conn.watch_states() as states:
            async for state in states:
                if state.phase is not Phase.CONNECTED:
                    break
        ann.keystroke()
        await trio.sleep(2)
        assert conn.state.resumed
        assert rules.typing == []
        await trio.sleep(2)
        assert [on for _, _, on in rules.typing] == [True]


@carriers
@clocked
async def test_word_before_the_room_is_joined_again(carrier: Carrier) -> None:
    """It is dropped: the hub would refuse it."""
    broker = MemoryBroker()
    async with (
        open_chat_world(carrier, broker=broker) as world,
        world.connect("ann") as conn,
        in_room(conn) as ann,
    ):
        await restart(world, broker)
        await conn.wait_connected()
        await trio.sleep(0.001)
        ann.keystroke()
        await trio.sleep(5)
        assert world.hub.statistics().refusals == {}


@clocked
async def test_restart_clears_typing() -> None:
    """With a log that began anew, too."""
    async with open_chat_world() as world, enter(world, "ann") as ann, enter(world, "bob") as bob:
        ann.keystroke()
        await trio.sleep(1)
        assert typing(bob) == ["Ann"]
        await restart(world)
        assert typing(bob) == []


@clocked
async def test_gap_clears_typing() -> None:
    """Without a lost link, too: the end of it may have been in the gap."""
    async with open_chat_world() as world, enter(world, "ann") as ann, enter(world, "bob") as bob:
        ann.keystroke()
        await trio.sleep(1)
        with bob.events() as events:
            bob._holder._take(Gap(1))
            assert typing(bob) == []
            assert events.receive_nowait() == Gap(1)
            assert events.receive_nowait() == TypingChanged(())


@clocked
async def test_foreign_words() -> None:
    """What is no word of typing, and what passes of other kinds, is nobody's."""
    async with open_chat_world() as world, enter(world, "ann") as ann:
        with ann.events() as events:
            for payload in (None, 5, {}, {"on": 1}, {"on": True, "more": 1}, [True]):
                await world.hub.publish("lobby", payload, type="typing", user="eve", store=False)
            await world.hub.publish("lobby", {"on": True}, type="other", user="eve", store=False)
            await world.hub.publish("lobby", {"on": True}, type="typing", user="ann", store=False)
            assert await all_events(events) == []
            await world.hub.publish("lobby", {"on": True}, type="typing", user="eve", store=False)
            await trio.sleep(1)
            assert typing(ann) == ["eve"]
            await world.hub.publish("lobby", {"content": "hi"}, type="text", user="eve", id="x")
            await trio.sleep(1)
            assert typing(ann) == []


def fill(conn: trio_rt.Connection) -> None:
    """Until there is no room in the outbox."""
    while True:
        conn.send_nowait("noise", "x" * 1000)


@clocked
async def test_words_wait_for_nothing() -> None:
    """With an outbox that is full they are dropped, and nothing raises."""
    rules = Doorman()
    limits = OutboxLimits(messages=1)
    async with (
        open_chat_world(rules=rules) as world,
        world.connect("ann", outbox=limits) as conn,
        in_room(conn) as ann,
    ):
        world.network.stall("ann")
        with pytest.raises(trio.WouldBlock):
            fill(conn)
        for _ in range(20):
            ann.keystroke()
            await trio.sleep(0.5)
        world.network.resume("ann")
        await trio.sleep(1)
        assert rules.typing == []
        await trio.sleep(10)
        assert [on for _, _, on in rules.typing] == [True, True, False]


def queued(conn: trio_rt.Connection) -> int:
    return sum(conn.statistics().queued.values())


@clocked
async def test_words_that_have_not_left() -> None:
    """There is one of them at most, the last: others would not be true when they leave."""
    rules = Doorman()
    async with (
        open_chat_world(rules=rules) as world,
        world.connect("ann") as conn,
        in_room(conn) as ann,
    ):
        world.network.stall("ann")
        for _ in range(100):
            conn.send_nowait("noise", "x" * 10_000)
        await trio.sleep(0.1)
        before = queued(conn)
        assert before > 0
        for _ in range(3):
            with ann.typing():
                await trio.sleep(1.5)
            await trio.sleep(1.6)
        assert queued(conn) == before + 1
        world.network.resume("ann")
        await trio.sleep(1)
        assert [on for _, _, on in rules.typing] == [False]


# The keyboard alone


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["press", "hold", "release", "stop", "look"]),
            st.floats(min_value=0.01, max_value=5),
        ),
        max_size=40,
    )
)
def test_keyboard(steps: list[tuple[str, float]]) -> None:
    """No two words "on" within 3 s; on and off as the truth is, and "off" only behind "on"."""
    said: list[tuple[float, bool]] = []
    now, holds, idle_at = 0.0, 0, -1.0
    keyboard = Keyboard(lambda on: said.append((now, on)))
    look_at = keyboard.look(now)
    for step, pause in steps:
        until = now + pause
        while look_at <= until:  # the task's timer
            now = look_at
            look_at = keyboard.look(now)
        now = until
        match step:
            case "press":
                keyboard.press(now)
                idle_at = now + IDLE_S
            case "hold":
                keyboard.hold("block", now)
                holds = 1
            case "release":
                keyboard.release("block", now)
                holds = 0
            case "stop":
                keyboard.stop(now)
                holds, idle_at = 0, -1.0
        look_at = keyboard.look(now)
        told = bool(said) and said[-1][1]
        is_typing = bool(holds) or now < idle_at
        last_on = max((at for at, on in said if on), default=-10.0)
        assert told == is_typing or (is_typing and now < last_on + REPEAT_S)
        assert not is_typing or look_at <= max(now, last_on + REPEAT_S)
    ons = [at for at, on in said if on]
    assert all(b - a >= REPEAT_S - 1e-9 for a, b in pairwise(ons))
    offs = [i for i, (_, on) in enumerate(said) if not on]
    assert all(i > 0 and said[i - 1][1] for i in offs)
