"""The pure parts of a client's room: the way through the log, the shelf, the company."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from trio_rt import Gap, Reset
from trio_rt.hub._broker import Position
from trio_rt.hub._client.company import Company
from trio_rt.hub._client.follow import KEPT, Follow, News
from trio_rt.hub._client.items import Joined, Left, Marked, RoomItem, RoomMessage
from trio_rt.hub._client.shelf import Shelf
from trio_rt.hub._words import Event


def said(offset: int, epoch: str = "a", kind: str = "message") -> Event:
    return Event(kind, epoch=epoch, offset=offset, type="message")


def log(first: int, last: int, epoch: str = "a") -> list[Event]:
    return [said(offset, epoch) for offset in range(first, last + 1)]


def following(cursor: int = 0, since: Any = None) -> Follow:
    """One that has looked at a log of epoch `a` that ends at `cursor`."""
    follow = Follow(since)
    follow.look("a", 1, cursor)
    return follow


def brief(news: Sequence[News]) -> list[Any]:
    """Offsets for messages."""
    return [each.offset if isinstance(each, Event) else each for each in news]


def test_next_is_given() -> None:
    """The message behind the cursor is told, and moves it."""
    follow = following(4)
    assert brief(follow.live(said(5))) == [5]
    assert (follow.position, follow.behind) == (Position("a", 5), False)


def test_double_is_dropped() -> None:
    """What is at or below the cursor is told no second time."""
    follow = following(4)
    assert brief(follow.live(said(4))) == []
    assert brief(follow.live(said(1))) == []
    assert not follow.behind


def test_hole_is_filled_by_a_page() -> None:
    """A message beyond the next is kept until a page has come up to it."""
    follow = following(4)
    assert brief(follow.live(said(7))) == []
    assert follow.behind
    assert brief(follow.page("a", 1, 7, log(5, 6))) == [5, 6, 7]
    assert not follow.behind


def test_hole_is_filled_by_own() -> None:
    """`own` has a place, too."""
    follow = following(4)
    follow.live(said(6))
    assert brief(follow.live(said(5, kind="own"))) == [5, 6]
    assert not follow.behind


def test_kept_twice_is_told_once() -> None:
    """A message beyond a hole that comes again, or late, is a double."""
    follow = following(4)
    for offset in (7, 6, 6, 7):
        follow.live(said(offset))
    told = brief(follow.live(said(5)))
    assert told + brief(follow.page("a", 1, 7, log(follow.cursor + 1, 7))) == [5, 6, 7]
    follow.live(said(9))
    follow.live(said(9))
    assert brief(follow.live(said(8))) == [8, 9]


def test_passing_message_is_told_at_once() -> None:
    """A message without a place neither moves the cursor nor waits for a hole."""
    follow = following(4)
    follow.live(said(9))
    assert brief(follow.live(said(0))) == [0]
    assert follow.cursor == 4


def test_look_beyond_the_cursor_is_a_hole() -> None:
    """The hub's word that the log goes further is a reason to ask."""
    follow = following(4)
    follow.look("a", 1, 4)
    assert not follow.behind
    follow.look("a", 1, 5)
    assert follow.behind


def test_page_that_overlaps_is_no_double() -> None:
    """What came live meanwhile is left out of the page."""
    follow = following(4)
    follow.look("a", 1, 6)
    assert brief(follow.live(said(5))) == [5]
    assert brief(follow.page("a", 1, 6, log(5, 6))) == [6]


def test_gone_beginning_is_counted() -> None:
    """What the log does not have any more is a `Gap` of exactly that."""
    follow = following(4)
    follow.look("a", 8, 9)
    assert brief(follow.page("a", 8, 9, log(8, 9))) == [Gap(3), 8, 9]


def test_kept_messages_are_not_counted_as_gone() -> None:
    """What is gone from the log, but was heard live, is told."""
    follow = following(4)
    follow.live(said(6))
    follow.live(said(7))
    assert brief(follow.page("a", 9, 9, log(9, 9))) == [Gap(1), 6, 7, Gap(1), 9]


def test_all_is_gone() -> None:
    """A page of an empty log counts what is missing up to its end."""
    follow = following(4)
    follow.look("a", 9, 8)
    assert brief(follow.page("a", 9, 8, [])) == [Gap(4)]
    assert not follow.behind


def test_empty_page_loses_nothing() -> None:
    """A page that has nothing, of a log that should, is a reason to ask again."""
    follow = following(4)
    follow.look("a", 1, 6)
    assert brief(follow.page("a", 1, 6, [])) == []
    assert follow.behind


def test_page_may_have_lost_its_beginning() -> None:
    """Messages that were dropped between the head and the page are counted."""
    follow = following(4)
    follow.look("a", 1, 9)
    assert brief(follow.page("a", 5, 9, log(8, 9))) == [Gap(3), 8, 9]


def test_oldest_kept_go_first() -> None:
    """Of more than `KEPT` live messages the last are kept; the others are asked for again."""
    follow = following(0)
    for event in log(2, KEPT + 5):
        assert follow.live(event) == []
    assert brief(follow.page("a", 1, KEPT + 5, log(1, 3))) == [1, 2, 3]
    assert follow.behind
    assert brief(follow.page("a", 1, KEPT + 5, log(4, 5))) == list(range(4, KEPT + 6))


def test_foreign_epoch_is_a_doubt() -> None:
    """A message of another epoch is not told before a page has said which one is in force."""
    follow = following(4)
    assert follow.live(said(1, "b")) == []
    assert follow.behind
    assert brief(follow.page("a", 1, 4, [])) == []
    assert not follow.behind


def test_new_log_begins_with_a_reset() -> None:
    """Another epoch in a page: all of the new log, from its first."""
    follow = following(0)
    follow.live(said(3, "b"))
    assert brief(follow.page("b", 1, 3, log(1, 2, "b"))) == [Reset(), 1, 2, 3]
    assert follow.position == Position("b", 3)


def test_page_by_an_offset_of_the_former_log() -> None:
    """A page after the cursor of the old log is no loss of the new one: it is asked again."""
    follow = following(4)
    follow.look("b", 1, 6)
    assert brief(follow.page("b", 1, 6, log(5, 6, "b"))) == [Reset()]
    assert follow.behind
    assert follow.cursor == 0
    assert brief(follow.page("b", 1, 6, log(1, 6, "b"))) == [1, 2, 3, 4, 5, 6]


def test_late_message_of_the_former_log() -> None:
    """It is not told, and the hub is asked again."""
    follow = following(0)
    follow.look("b", 1, 1)
    follow.page("b", 1, 1, log(1, 1, "b"))
    assert follow.live(said(1, "a")) == []
    assert brief(follow.page("b", 1, 1, [])) == []
    assert brief(follow.live(said(2, "b"))) == [2]


@pytest.mark.parametrize(
    ("since", "cursor", "behind"),
    [(None, 9, False), ("start", 2, True), (3, 6, True), (100, 2, True), (0, 9, False)],
)
def test_where_it_begins(since: Any, cursor: int, behind: bool) -> None:
    """`since` against a log of 3 to 9."""
    follow = Follow(since)
    follow.look("a", 3, 9)
    assert (follow.cursor, follow.behind) == (cursor, behind)


def test_beginning_at_a_position() -> None:
    """A position is a cursor; if its beginning is gone, that is counted."""
    follow = Follow(Position("a", 1))
    follow.look("a", 4, 5)
    assert brief(follow.page("a", 4, 5, log(4, 5))) == [Gap(2), 4, 5]


def test_beginning_at_a_position_of_another_log() -> None:
    """It is a reset, and all that there is."""
    follow = Follow(Position("z", 70))
    follow.look("a", 4, 5)
    assert follow.behind
    assert brief(follow.page("a", 4, 5, [])) == [Reset()]
    assert brief(follow.page("a", 4, 5, log(4, 5))) == [4, 5]


def test_denied_pages() -> None:
    """Who may not read the log is told what it missed, and goes on."""
    follow = following(4)
    follow.live(said(7))
    follow.live(said(9))
    assert brief(follow.denied()) == [Gap(2), 7, Gap(1), 9]
    assert not follow.behind


def test_denied_pages_of_a_new_log() -> None:
    """The same for another epoch: a reset, and what was heard."""
    follow = following(4)
    follow.live(said(3, "b"))
    assert brief(follow.denied()) == [Reset(), 3]
    follow.look("c", 1, 8)
    assert brief(follow.denied()) == [Reset()]
    assert follow.position == Position("c", 8)


@pytest.mark.parametrize("seed", range(30))
def test_any_order_comes_to_the_same(seed: int) -> None:
    """Live messages with holes, doubles and pages in any order: each once, in order."""
    draw = random.Random(seed)
    follow = following(0)
    told: list[Any] = []
    last = 0
    for _ in range(300):
        step = draw.random()
        if step < 0.5:
            last += 1
            if draw.random() < 0.8:
                told += brief(follow.live(said(last)))
        elif step < 0.6 and last:
            told += brief(follow.live(said(draw.randint(1, last))))
        elif step < 0.7:
            follow.look("a", 1, last)
        elif follow.behind:
            size = draw.randint(1, 5)
            told += brief(follow.page("a", 1, last, log(1, last)[follow.cursor :][:size]))
    follow.look("a", 1, last)
    told += brief(follow.page("a", 1, last, log(1, last)[follow.cursor :]))
    assert told == list(range(1, last + 1))


# The shelf


Items = list[RoomItem[Any]]


def lying(offset: int | None) -> RoomMessage[Any]:
    position = None if offset is None else Position("a", offset)
    return RoomMessage(position, "", "", "", "message", None, 0, False)


def fill(shelf: Shelf, items: Items) -> None:
    for item in items:
        shelf.put(item)


def all_of(shelf: Shelf) -> list[RoomItem[Any]]:
    found = []
    while (item := shelf.take()) is not None:
        found.append(item)
    return found


def test_shelf_keeps_the_order() -> None:
    """What fits is taken as it was put."""
    shelf = Shelf(3)
    items: Items = [lying(1), Left("x"), lying(2)]
    fill(shelf, items)
    assert len(shelf) == 3
    assert all_of(shelf) == items
    assert len(shelf) == 0


def test_full_shelf_loses_the_oldest() -> None:
    """A `Gap` in their place counts those that had a place in the log."""
    shelf = Shelf(2)
    fill(shelf, [lying(1), lying(None), Joined("x"), lying(2), lying(3), lying(4)])
    assert len(shelf) == 3
    assert all_of(shelf) == [Gap(2), lying(3), lying(4)]


def test_gaps_add_up() -> None:
    """Beside each other, on the shelf and at its edge."""
    shelf = Shelf(2)
    fill(shelf, [lying(1), Gap(2), Gap(3), lying(9)])
    assert all_of(shelf) == [Gap(6), lying(9)]
    fill(shelf, [Gap(2), Gap(3), lying(9), lying(10)])
    assert all_of(shelf) == [Gap(5), lying(9), lying(10)]


def test_lost_reset_is_told() -> None:
    """It swallows the count before it, and what is lost behind it counts."""
    shelf = Shelf(1)
    fill(shelf, [lying(1), Reset(), lying(2), lying(3)])
    assert len(shelf) == 3
    assert all_of(shelf) == [Reset(), Gap(1), lying(3)]


def test_clear_shelf() -> None:
    """Nothing is left, not what was lost either."""
    shelf = Shelf(1)
    fill(shelf, [Reset(), lying(1), lying(2), lying(3)])
    shelf.clear()
    assert (len(shelf), shelf.take()) == (0, None)


# The company


def there(*users: str, **infos: Any) -> list[dict[str, Any]]:
    return [{"user": user, "info": None} for user in users] + [
        {"user": user, "info": info} for user, info in infos.items()
    ]


def seen(members: list[dict[str, Any]], epoch: str = "a", **marks: int) -> Event:
    return Event("room", epoch=epoch, members=members, count=len(members), marks=marks)


def test_first_snapshot_is_no_news() -> None:
    """It is what there is."""
    company = Company()
    assert company.snapshot(seen(there("x", y=1), x=4)) == []
    assert company.marks == {"x": 4}
    assert company.members == {"x": None, "y": 1}
    assert company.count == 2


def test_snapshots_are_compared() -> None:
    """Only who really left, came, or has new info is news."""
    company = Company()
    company.snapshot(seen(there("x", "y", z=1)))
    assert company.snapshot(seen(there("x", "w", z=2))) == [
        Left("y"),
        Joined("w", None),
        Joined("z", 2),
    ]
    assert company.snapshot(seen(there("x", "w", z=2))) == []


def test_presence_that_is_known() -> None:
    """It is no news."""
    company = Company()
    company.snapshot(seen(there("x")))
    event = Event("presence", joined=there("x", "y"), left=["nobody"])
    assert company.presence(event) == [Joined("y", None)]
    assert company.presence(Event("presence", left=["y"])) == [Left("y")]
    assert company.members == {"x": None}


def test_nameless_crowd() -> None:
    """Where the hub names nobody, nobody has left; when it does again, nobody has joined."""
    company = Company()
    company.snapshot(seen(there("x")))
    assert company.snapshot(Event("room", epoch="a", count=900)) == []
    assert (company.members, company.count) == ({}, 900)
    assert company.snapshot(seen(there("x", "y"))) == []
    assert company.count == 2


def test_marks_go_forward() -> None:
    """One that is not farther is no news; in another log all begin anew."""
    company = Company()
    company.snapshot(seen(there("x"), x=3))
    assert company.mark("x", 3) == []
    assert company.mark("x", 4) == [Marked("x", 4)]
    assert company.snapshot(seen(there("x"), x=4, y=1)) == [Marked("y", 1)]
    assert company.marks == {"x": 4, "y": 1}
    assert company.snapshot(seen(there("x"), "b", x=2)) == [Marked("x", 2)]
    assert company.marks == {"x": 2}


def test_member_without_a_name() -> None:
    """What a foreign hub says of nobody is nobody."""
    company = Company()
    company.snapshot(seen([{"info": 1}, {"user": 5}, {"user": "x"}]))
    assert company.members == {"x": None}
