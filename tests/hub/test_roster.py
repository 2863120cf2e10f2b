"""Who is present: users by their devices, the grace, and what is told of it."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trio_rt.hub._broker import Present
from trio_rt.hub._server.roster import News, Roster

GRACE_S = 10.0


def opened(*present: Present) -> Roster:
    """A roster after its first snapshot, which is no news."""
    roster = Roster(GRACE_S)
    roster.replace(present, 0.0)
    roster.news = News()
    return roster


def told(roster: Roster) -> tuple[dict[str, bytes], list[str]]:
    """Who joined and who left since this was last asked."""
    news, roster.news = roster.news, News()
    return news.joined, list(news.left)


ANNA = Present("anna", "a1", b"1")


def test_a_user_joins_with_the_first_device() -> None:
    """A second device of a user is no news."""
    roster = opened()
    roster.enter(ANNA, 0.0)
    assert told(roster) == ({"anna": b"1"}, [])
    roster.enter(Present("anna", "a2", b"1"), 0.0)
    assert told(roster) == ({}, [])
    assert (roster.count, roster.users()) == (1, {"anna": b"1"})


def test_a_user_leaves_behind_the_last_device_and_the_grace() -> None:
    """It is present to the end of the grace, not longer."""
    roster = opened(ANNA, Present("anna", "a2", b"1"))
    roster.absent("a1", 5.0)
    assert roster.due == math.inf
    roster.absent("a2", 6.0)
    assert roster.due == 16.0
    roster.tick(15.9)
    assert (told(roster), roster.count) == (({}, []), 1)
    roster.tick(16.0)
    assert (told(roster), roster.count) == (({}, ["anna"]), 0)
    assert (roster.due, roster.users()) == (math.inf, {})


def test_who_is_back_within_the_grace() -> None:
    """That was no news, and the grace is over."""
    roster = opened(ANNA)
    roster.absent("a1", 0.0)
    roster.enter(Present("anna", "a9", b"1"), 9.0)
    assert roster.due == math.inf
    roster.tick(100.0)
    assert (told(roster), roster.count) == (({}, []), 1)


def test_leaving_for_good() -> None:
    """Who says so and has no other device has left at once, and may come back."""
    roster = opened(ANNA, Present("anna", "a2", b"1"))
    roster.absent("a2", 0.0, for_good=True)
    assert told(roster) == ({}, [])
    roster.absent("a1", 0.0, for_good=True)
    assert (told(roster), roster.count, roster.due) == (({}, ["anna"]), 0, math.inf)
    roster.enter(ANNA, 1.0)
    assert told(roster) == ({"anna": b"1"}, [])


def test_new_info() -> None:
    """It is told as a join, once."""
    roster = opened(ANNA)
    roster.enter(Present("anna", "a1", b"2"), 0.0)
    roster.enter(Present("anna", "a1", b"2"), 0.0)
    assert told(roster) == ({"anna": b"2"}, [])


def test_the_graces_end_one_by_one() -> None:
    """The first is due first, also where another user has come back."""
    roster = opened(*(Present(name, name) for name in "abc"))
    for at, name in enumerate("abc"):
        roster.absent(name, float(at))
    roster.enter(Present("a", "new"), 5.0)
    assert roster.due == 11.0
    roster.absent("new", 6.0)
    roster.tick(12.0)
    assert told(roster) == ({}, ["b", "c"])
    assert roster.due == 16.0


def test_a_device_that_was_not_there() -> None:
    """Its absence is nothing."""
    roster = opened(ANNA)
    roster.absent("other", 0.0)
    assert (roster.due, told(roster)) == (math.inf, ({}, []))


def test_a_device_of_another_user() -> None:
    """It has left the one whose it was."""
    roster = opened(ANNA)
    roster.enter(Present("bob", "a1"), 1.0)
    assert told(roster) == ({"bob": b"null"}, [])
    roster.tick(11.0)
    assert told(roster) == ({}, ["anna"])
    roster.absent("a1", 12.0)
    assert roster.due == 22.0


def test_joined_and_left_in_one_turn() -> None:
    """News has each user once, as it is in the end."""
    roster = Roster(0.0)
    roster.replace((), 0.0)
    roster.enter(ANNA, 0.0)
    roster.absent("a1", 0.0)
    roster.tick(0.0)
    assert told(roster) == ({}, ["anna"])
    roster.enter(ANNA, 0.0)
    roster.absent("a1", 0.0)
    roster.tick(0.0)
    roster.enter(ANNA, 0.0)
    assert told(roster) == ({"anna": b"1"}, [])


def test_a_snapshot_tells_only_what_differs() -> None:
    """Who is in both is no news; who is not there any more has a grace."""
    roster = opened(ANNA, Present("bob", "b1"))
    roster.doubt()
    roster.replace((ANNA, Present("cleo", "c1")), 0.0)
    assert told(roster) == ({"cleo": b"null"}, [])
    roster.tick(GRACE_S)
    assert told(roster) == ({}, ["bob"])


def test_what_is_told_before_the_snapshot() -> None:
    """It is newer than the snapshot, or in it already: the same in both cases."""
    for snapshot in ((), (ANNA,), (ANNA, Present("bob", "b1"))):
        roster = Roster(GRACE_S)
        roster.enter(ANNA, 0.0)
        roster.absent("b1", 0.0)
        assert roster.count == 0
        roster.replace(snapshot, 0.0)
        roster.tick(100.0)
        assert roster.users() == {"anna": b"1"}


def test_what_is_told_while_in_doubt() -> None:
    """It waits for the snapshot; only the last word on a device counts, so it is bounded."""
    roster = opened(ANNA)
    roster.doubt()
    for number in range(1000):
        roster.absent("a1", 0.0)
        roster.enter(Present("anna", "a1", b"%d" % number), 0.0)
    assert (roster.due, told(roster)) == (math.inf, ({}, []))
    roster.replace((ANNA,), 0.0)
    assert told(roster) == ({"anna": b"999"}, [])


def test_no_grace_ends_in_doubt() -> None:
    """Who may be back leaves only when it is known that they are not."""
    for is_back in (False, True):
        roster = opened(ANNA)
        roster.absent("a1", 1.0)
        roster.doubt()
        if is_back:
            roster.enter(ANNA, 2.0)
        roster.tick(100.0)
        assert told(roster) == ({}, [])
        roster.replace((), 100.0)
        roster.tick(200.0)
        assert told(roster) == ({}, [] if is_back else ["anna"])


def test_a_second_loss() -> None:
    """What was told before it may be untrue since: the snapshot knows better."""
    roster = opened()
    roster.doubt()
    roster.enter(ANNA, 0.0)
    roster.doubt()
    roster.replace((), 0.0)
    assert (roster.count, told(roster)) == (0, ({}, []))


# Against a model that has the whole truth

DEVICES = [(user, f"{user}{number}") for user in "ab" for number in (1, 2)]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from(DEVICES), st.sampled_from([b"1", b"2"])),
        st.tuples(st.just("leave"), st.sampled_from(DEVICES), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 9.0, 10.0])),
        st.tuples(st.just("lose"), st.integers(0, 4)),
        st.tuples(st.just("look"), st.integers(0, 3)),
        st.tuples(st.just("tell")),
    ),
    max_size=60,
)


@given(STEPS)
def test_against_the_truth(steps: list[tuple[Any, ...]]) -> None:
    """With losses and late snapshots: what is told adds up to the truth, in the end.

    The truth is who has which device, and when a user was last seen with one. `lose` loses
    the next events, and says so; `look` takes a snapshot so many events before it arrives.
    """
    truth: dict[str, Present] = {}
    roster = opened()
    known: dict[str, bytes] = {}
    now, deaf, late, snapshot = 0.0, 0, 0, None

    def hear(event: Present | str, *, for_good: bool = False) -> None:
        nonlocal deaf
        if deaf:
            deaf -= 1
            if not deaf:
                roster.doubt()  # the last loss is said behind it
        elif isinstance(event, str):
            roster.absent(event, now, for_good=for_good)
        else:
            roster.enter(event, now)

    def tell() -> None:
        joined, left = told(roster)
        for user in left:
            known.pop(user, None)
        known.update(joined)

    def look() -> None:
        nonlocal snapshot, late
        roster.doubt()
        snapshot = tuple(truth.values())

    for step in steps:
        if step[0] == "enter":
            (user, device), info = step[1], step[2]
            truth[device] = Present(user, device, info)
            hear(truth[device])
        elif step[0] == "leave":
            device = step[1][1]
            if truth.pop(device, None):
                hear(device, for_good=step[2])
        elif step[0] == "wait":
            now += step[1]
            roster.tick(now)
        elif step[0] == "lose" and not deaf and snapshot is None:
            deaf = step[1]
        elif step[0] == "look" and not deaf and snapshot is None:
            look()
            late = step[1]
            continue
        elif step[0] == "tell":
            tell()
        if snapshot is not None:
            late -= 1
            if late < 0:
                roster.replace(snapshot, now)
                snapshot = None
    deaf = 0
    roster.doubt()
    roster.replace(tuple(truth.values()), now)
    roster.tick(now + GRACE_S)
    tell()
    # The last word on a user's info is that of any of its devices.
    infos = {user: {p.info for p in truth.values() if p.user == user} for user in "ab"}
    assert set(known) == {p.user for p in truth.values()} == set(roster.users())
    assert all(known[user] in infos[user] for user in known)
    assert known == roster.users()
    assert roster.due == math.inf
