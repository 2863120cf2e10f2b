"""What a hub knows of a room: in the order of the log, with snapshots where it has a hole."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.hub._broker import Head, Item, Present, Snapshot
from trio_rt.hub._server import room as _room
from trio_rt.hub._server.room import EARLY, Room, Telling
from trio_rt.hub._words import Event


class Seen:
    """A room, and how often it was touched."""

    def __init__(self, most: float = 3) -> None:
        self.touches = 0
        self.room = Room("r", 10.0, most, self._touched)

    def _touched(self, room: Room) -> None:
        assert room is self.room
        self.touches += 1


def item(offset: int, epoch: str = "e") -> Item:
    return Item("r", epoch, offset, b'{"n":%d}' % offset)


def snapshot(last: int, epoch: str = "e", *users: str, **marks: int) -> Snapshot:
    return Snapshot(Head(epoch, 1, last), [Present(user, user, b"1") for user in users], marks)


def opened(last: int = 0, *users: str, most: float = 3) -> Seen:
    seen = Seen(most)
    assert seen.room.begin(snapshot(last, "e", *users), 0.0)
    return seen


def offsets(room: Room) -> list[int]:
    """What waits: offsets; -1 for a look."""
    waiting: list[Telling] = room.take()[0]
    return [
        -1 if each is None else each.offset if isinstance(each, Item) else -2 for each in waiting
    ]


def test_a_new_room() -> None:
    """It is stale, and its first snapshot is nothing to be told of."""
    seen = Seen()
    assert seen.room.stale
    assert not seen.room.opened.is_set()
    assert seen.room.begin(snapshot(7, "e", "anna", anna=3), 0.0)
    assert seen.room.opened.is_set()
    assert not seen.room.stale
    assert (seen.touches, seen.room.waiting, seen.room.news()) == (0, [], None)
    assert seen.room.state("room", "x") == Event(
        "room",
        "x",
        epoch="e",
        first=1,
        last=7,
        members=[{"user": "anna", "info": msgspec.Raw(b"1")}],
        count=1,
        marks={"anna": 3},
    )


def test_messages_in_order() -> None:
    """Each is told once, and the head moves on; what is known already is not told again."""
    seen = opened(2)
    for offset in (1, 2, 3, 3, 4):
        assert seen.room.item(item(offset))
    assert (offsets(seen.room), seen.touches) == ([3, 4], 2)
    assert seen.room.head == Head("e", 1, 4)


def test_passing_messages() -> None:
    """They have no place in the log, and leave the head."""
    seen = opened(2)
    assert seen.room.item(item(0))
    assert (offsets(seen.room), seen.room.head.last) == ([0], 2)


@pytest.mark.parametrize("bad", [item(4), item(3, "f"), item(1, "f")])
def test_a_hole_or_another_epoch(bad: Item) -> None:
    """It is not told; a snapshot is to be taken, by one only."""
    seen = opened(2)
    assert not seen.room.item(bad)
    assert seen.room.waiting == []
    assert seen.room.doubt()
    assert not seen.room.doubt()
    assert seen.room.head == Head("e", 1, 2)


def test_what_comes_while_it_is_stale() -> None:
    """It is kept, and told behind the look, as far as the snapshot has it not."""
    seen = opened(2)
    assert seen.room.doubt()
    for offset in (5, 6, 0, 7):
        assert seen.room.item(item(offset))
    assert seen.room.waiting == []
    assert seen.room.begin(snapshot(5), 0.0)
    assert offsets(seen.room) == [-1, 6, 0, 7]
    assert seen.room.head.last == 7


def test_what_comes_before_the_first_snapshot() -> None:
    """The same, without a look: nobody was there."""
    seen = Seen()
    for offset in (5, 6, 7):
        assert seen.room.item(item(offset))
    assert seen.room.begin(snapshot(5), 0.0)
    assert offsets(seen.room) == [6, 7]


def test_a_loss_while_a_snapshot_is_on_its_way() -> None:
    """It may be in it or not: the room is stale again, and opens all the same."""
    seen = Seen()
    assert not seen.room.doubt()
    assert not seen.room.begin(snapshot(5), 0.0)
    assert seen.room.stale
    assert seen.room.opened.is_set()
    assert seen.room.item(item(6))
    assert seen.room.begin(snapshot(6), 0.0)
    assert (offsets(seen.room), seen.room.stale) == ([-1], False)


@pytest.mark.parametrize("bad", [item(7), item(1, "f")])
def test_a_hole_behind_a_snapshot(bad: Item) -> None:
    """What was kept does not fit on: another snapshot is to be taken, once."""
    seen = opened(2)
    seen.room.doubt()
    seen.room.item(bad)
    assert not seen.room.begin(snapshot(5), 0.0)
    assert seen.room.stale
    assert seen.room.begin(snapshot(7), 0.0)
    assert offsets(seen.room) == [-1, -1]


def test_more_than_can_be_kept() -> None:
    """The oldest go, and so there is a hole."""
    seen = opened(0)
    seen.room.doubt()
    for offset in range(1, EARLY + 3):
        seen.room.item(item(offset))
    assert not seen.room.begin(snapshot(0), 0.0)
    assert seen.room.begin(snapshot(EARLY + 2), 0.0)


def test_a_new_epoch() -> None:
    """Its head is taken as it is, and the marks of the old one are gone."""
    seen = opened(9)
    seen.room.mark("anna", 5)
    seen.room.doubt()
    assert seen.room.begin(snapshot(1, "f", bob=1), 0.0)
    assert (seen.room.head, seen.room.marks) == (Head("f", 1, 1), {"bob": 1})
    assert seen.room.item(item(2, "f"))


# Marks


def test_marks() -> None:
    """One that goes back, or stays, is nothing."""
    seen = opened(9)
    for offset in (3, 3, 2, 5):
        seen.room.mark("anna", offset)
    assert seen.room.take()[0] == [("anna", 3), ("anna", 5)]
    assert seen.room.marks == {"anna": 5}


def test_a_mark_that_is_newer_than_the_snapshot() -> None:
    """It stays."""
    seen = opened(9)
    seen.room.doubt()
    seen.room.mark("anna", 5)
    seen.room.mark("bob", 1)
    seen.room.begin(snapshot(9, anna=3, bob=4, cleo=2), 0.0)
    assert seen.room.marks == {"anna": 5, "bob": 4, "cleo": 2}


def test_many_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The farthest are kept: who comes and goes does not make a room grow."""
    monkeypatch.setattr(_room, "MOST_MARKS", 5)
    monkeypatch.setattr(_room, "farthest", lambda marks: dict(sorted(marks.items())[-5:]))
    seen = opened(1000)
    for number in range(100):
        seen.room.mark(f"user{number:03}", number + 1)
        assert len(seen.room.marks) <= 10
    assert "user099" in seen.room.marks


def test_marks_of_many() -> None:
    """More of them than users are named are not told with the room."""
    seen = opened(9, most=2)
    seen.room.mark("anna", 1)
    seen.room.mark("bob", 1)
    assert seen.room.state("room").marks == {"anna": 1, "bob": 1}
    seen.room.mark("cleo", 1)
    assert seen.room.state("room").marks == {}


def test_a_state_does_not_change() -> None:
    """It is how the room was then."""
    seen = opened(9)
    seen.room.mark("anna", 1)
    state = seen.room.state("room")
    seen.room.mark("anna", 2)
    seen.room.item(item(10))
    assert (state.marks, state.last) == ({"anna": 1}, 9)


# Presence


def test_news() -> None:
    """It is told once, and touches the room."""
    seen = opened(0, "anna")
    seen.room.notice()
    assert seen.touches == 0
    seen.room.roster.enter(Present("bob", "b", b"2"), 0.0)
    seen.room.notice()
    assert seen.touches == 1
    assert seen.room.news() == Event(
        "presence", joined=[{"user": "bob", "info": msgspec.Raw(b"2")}]
    )
    assert seen.room.news() is None


def test_a_crowd() -> None:
    """Above the limit nobody is named, and nothing told of who comes and goes; those who knew
    the members are told so, and how it is when they are few again."""
    seen = opened(0, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", most=10)
    room = seen.room
    assert len(room.members()) == 10
    room.roster.enter(Present("k", "k"), 0.0)
    assert room.members() == []
    news = room.news()
    assert news is not None
    assert (news.kind, news.members, news.count) == ("room", [], 11)
    room.roster.enter(Present("l", "l"), 0.0)
    assert room.news() is None
    for gone in "lk":
        room.roster.absent(gone, 0.0)
    room.roster.tick(10.0)
    assert (room.news(), room.members()) == (None, [])  # 10 is not few enough yet
    room.roster.absent("a", 0.0)
    room.roster.tick(10.0)
    news = room.news()
    assert news is not None
    assert (news.kind, len(news.members), news.count) == ("room", 9, 9)
    room.roster.enter(Present("a", "a"), 0.0)
    news = room.news()
    assert news is not None
    assert news.kind == "presence"


def test_a_room_that_opens_as_a_crowd() -> None:
    """Then there is nothing to be told."""
    seen = opened(0, "a", "b", most=1)
    seen.room.roster.enter(Present("c", "c"), 0.0)
    assert seen.room.news() is None
    assert (seen.room.members(), seen.room.state("room").count) == ([], 3)


# Against the log


@given(st.lists(st.sampled_from(["say", "lose", "look", "come", "new"]), max_size=60))
def test_against_the_log(steps: list[str]) -> None:
    """Whatever is lost and however late a snapshot comes: the room ends where the log does, and
    what is told of each epoch is in order, without a hole but before a look."""
    epoch, last = 0, 0
    seen = opened(0)
    room = seen.room
    room.doubt()
    assert room.begin(Snapshot(Head("0", 1, 0), (), {}), 0.0)
    looking: Snapshot | None = None
    lost = False

    def hear(what: Item) -> None:
        if not room.item(what):
            room.doubt()

    def look() -> None:
        nonlocal looking
        if room.stale and looking is None:
            looking = Snapshot(Head(str(epoch), 1, last), (), {})

    def come() -> None:
        nonlocal looking
        if looking is not None:
            there, looking = looking, None
            room.begin(there, 0.0)

    for step in steps:
        if step == "say":
            last += 1
            if lost:
                lost = False
                room.doubt()
            else:
                hear(item(last, str(epoch)))
        elif step == "lose":
            lost = True
        elif step == "new":
            epoch, last = epoch + 1, 0
        elif step == "look":
            look()
        else:
            come()
    last += 1
    hear(item(last, str(epoch)))
    for _ in range(3):
        look()
        come()
    assert not room.stale
    assert (room.head.epoch, room.head.last) == (str(epoch), last)
    at: tuple[str, int] | None = ("0", 0)
    for each in room.take()[0]:
        if each is None:
            at = None
        else:
            assert isinstance(each, Item)
            if at is not None:
                assert (each.epoch, each.offset) == (at[0], at[1] + 1)
            at = (each.epoch, each.offset)
