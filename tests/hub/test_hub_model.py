"""Random commands of several peers, against a model.

What the model knows: a member's stream has exactly the messages behind its join's answer up
to its leave, in the order of the log and without a hole; each command has one answer.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hub.talkers import House, Talker, open_house
from trio_rt import testing
from trio_rt.hub import HubLimits
from trio_rt.hub._words import JOIN, LEAVE, MARK, PUBLISH, Event, room_type

ROOMS = ["r", "s"]
PEERS = 4

COMMANDS = st.one_of(
    st.tuples(st.just("join"), st.integers(0, PEERS - 1), st.sampled_from(ROOMS)),
    st.tuples(st.just("leave"), st.integers(0, PEERS - 1), st.sampled_from(ROOMS)),
    st.tuples(
        st.just("publish"),
        st.integers(0, PEERS - 1),
        st.sampled_from(ROOMS),
        st.sampled_from(["all", "others", "passing", "again", "large"]),
    ),
    st.tuples(st.just("mark"), st.integers(0, PEERS - 1), st.sampled_from(ROOMS)),
    st.tuples(st.just("lost"), st.sampled_from(ROOMS)),
    st.tuples(st.just("cut"), st.integers(0, PEERS - 1)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.001, 0.02, 0.05, 1.0])),
)


@attrs.define
class Model:
    """What was asked of whom, by the ids of the commands."""

    asked: list[dict[str, tuple[Any, ...]]] = attrs.field(
        factory=lambda: [{} for _ in range(PEERS)]
    )


async def play(steps: list[tuple[Any, ...]], kinds: list[str]) -> None:
    limits = HubLimits(rate_per_s=math.inf)
    async with open_house(limits=limits) as house:
        peers = [await house.enter(f"user{n}", session=kind) for n, kind in enumerate(kinds)]
        links = list(house.site.network.connections)
        model = Model()
        for number, step in enumerate(steps):
            await do(house, peers, kinds, links, model, number, step)
        for peer, asked in zip(peers, model.asked, strict=True):
            for re in asked:
                await peer.answer(re)
        await trio.sleep(5)
        logs = {room: await log_of(house, room) for room in ROOMS}
        for peer, asked in zip(peers, model.asked, strict=True):
            check_answers(peer, asked)
            for room in ROOMS:
                check_stream(peer, asked, room, logs[room])


async def do(
    house: House,
    peers: list[Talker],
    kinds: list[str],
    links: list[Any],
    model: Model,
    number: int,
    step: tuple[Any, ...],
) -> None:
    match step:
        case ("wait", seconds):
            await trio.sleep(seconds)
        case ("lost", room):
            house.hub._rooms.lost(room)
        case ("cut", peer):
            if kinds[peer] == "require":
                links[peer].cut()
        case ("join", peer, room):
            model.asked[peer][await peers[peer].say(JOIN, room=room)] = step
        case ("leave", peer, room):
            model.asked[peer][await peers[peer].say(LEAVE, room=room)] = step
        case ("mark", peer, room):
            model.asked[peer][await peers[peer].say(MARK, room=room, offset=1)] = step
        case ("publish", peer, room, how):
            fields: dict[str, Any] = {"payload": [number, "x" * (how == "large") * 20_000]}
            fields |= {"id": "same" if how == "again" else f"id{number}"}
            fields |= {"to": "others"} if how == "others" else {}
            fields |= {"store": False} if how == "passing" else {}
            re = await peers[peer].say(PUBLISH, room=room, **fields)
            model.asked[peer][re] = (*step, fields["id"])


async def log_of(house: House, room: str) -> list[int]:
    """The offsets of all that is stored."""
    return [item.offset for item in (await house.hub.history(room, after=0)).items]


def check_answers(peer: Talker, asked: dict[str, tuple[Any, ...]]) -> None:
    """One for each command, in the order of the commands but for those of publishes, which are
    in an order of their own."""
    answers = [(type, event) for type, event in peer.told if event.re]
    assert sorted(event.re for _, event in answers) == sorted(asked)
    for publishes in (True, False):
        mine = [re for re, step in asked.items() if (step[0] == "publish") is publishes]
        assert [event.re for _, event in answers if event.re in set(mine)] == mine
    for type, event in answers:
        assert type == room_type(asked[event.re][2])
        assert event.kind in ("done", "refused")


def check_stream(
    peer: Talker, asked: dict[str, tuple[Any, ...]], room: str, log: list[int]
) -> None:
    """What was told of a room, from the first answer about it to the end."""
    mine = {event.id for event in done_of(peer, asked, room, "others")}
    at: int | None = None  # up to which offset it knows all; None for no member
    looked = False  # it was told to look: some of what it finds may be told once more
    for type, event in peer.told:
        if type != room_type(room):
            continue
        step = asked.get(event.re, ("",))
        if step[0] == "join" and event.kind == "done":
            at, looked = event.last, False
        elif step[0] == "leave" and event.kind == "done":
            at = None
        elif event.kind == "room":
            assert at is not None
            assert event.last >= at
            at, looked = event.last, True
        elif event.kind in ("message", "own"):
            assert at is not None, "told of a room that it is not in"
            if not event.offset:
                assert event.kind == "message"
            elif not (looked and event.offset <= at):
                assert event.offset == at + 1
                at = event.offset
                assert (event.kind == "own") == (event.id in mine)
    if at is not None:
        assert at == len(log)


def done_of(peer: Talker, asked: dict[str, tuple[Any, ...]], room: str, how: str) -> list[Event]:
    return [
        event
        for _, event in peer.told
        if event.kind == "done" and asked.get(event.re, ())[2:4] == (room, how)
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(COMMANDS, max_size=40),
    st.lists(st.sampled_from(["off", "require"]), min_size=PEERS, max_size=PEERS),
    st.integers(0, 1000),
)
def test_streams_and_answers(steps: list[tuple[Any, ...]], kinds: list[str], seed: int) -> None:
    """Over plain links and sessions, with cuts and losses."""
    testing.run(play, steps, kinds, seed=seed, limit_s=600)
