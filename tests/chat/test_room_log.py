"""A client's knowledge of a room: what `RoomLog` makes of what the hub tells."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from typing import Any

import msgspec
import pytest

from trio_rt import Gap, Reset
from trio_rt.chat._client import amendments
from trio_rt.chat._client.log import RoomLog
from trio_rt.chat.models import (
    EMPTY,
    ChatMessage,
    Deleted,
    Edited,
    Moderated,
    Reacted,
    ReadMoved,
    Spoken,
    User,
    UserChanged,
    UserJoined,
    UserLeft,
)
from trio_rt.hub._broker import Position
from trio_rt.hub._client.items import Joined, Left, Marked, RoomMessage

from .room_items import ME, brief, delete, edit, item, own, page, react, room_log, take


def ann() -> User:
    return User("ann", "ann", "offline")


# Messages in their place


def test_message_is_spoken_in_its_place() -> None:
    """A message has what its payload says, and what the hub says of it."""
    payload = {"content": "look", "name": "Ann", "reply": 2, "metadata": {"w": 1}}
    log = room_log()
    (event,) = take(log, item(3, "image", payload, id="x", at=77))
    assert event == Spoken(
        ChatMessage(
            id="x",
            user=User("ann", "Ann", "offline"),
            kind="image",
            content="look",
            offset=3,
            at=77,
            reply=2,
            metadata={"w": 1},
        )
    )
    assert log.messages == (event.message,)
    assert log.last_message == event.message


def test_offsets_alone_order() -> None:
    """Clocks say nothing, nor does the order in which messages are known."""
    log = room_log(item(5, at=9), item(8, at=2), item(6, at=1))
    assert brief(log.messages) == [5, 6, 8]


def test_double_is_no_news() -> None:
    """A message that is there is not told a second time."""
    log = room_log(item(5))
    assert take(log, item(5)) == []
    assert brief(log.messages) == [5]


def test_oldest_go() -> None:
    """Only so many are kept, in whatever order they came."""
    log = room_log(*(item(offset) for offset in (5, 7, 9, 6, 4)), keep=3)
    assert brief(log.messages) == [6, 7, 9]


def test_empty_room_has_nothing() -> None:
    """Nothing is said, nothing is read."""
    log = RoomLog()
    assert (log.messages, log.last_message, log.unread) == ((), None, 0)


def test_reply_is_to_something_before() -> None:
    """An answer to what was not said yet, as after a new epoch, answers nothing."""
    log = room_log(item(3, payload={"content": "x", "reply": 3}))
    take(log, item(4, payload={"content": "x", "reply": -1}))
    assert [message.reply for message in log.messages] == [0, 0]


# What was said about them


def test_edit_changes_a_message() -> None:
    """The event and the list have what it says now."""
    log = room_log(item(1))
    (event,) = take(log, edit(2, 1, "new", user="bob"))
    (message,) = log.messages
    assert (message.content, message.edited_at) == ("new", 2)
    assert event == Edited(1, "new", User("bob", "bob", "offline"), message)


def test_deletion_takes_all_that_it_said() -> None:
    """Neither content nor metadata nor reactions are left, and nothing comes back."""
    log = room_log(item(1, payload={"content": "secret", "metadata": {"also": "secret"}}))
    take(log, edit(2, 1), react(3, 1))
    (event,) = take(log, delete(4, 1))
    (message,) = log.messages
    assert (message.content, message.metadata, message.reactions) == ("", {}, {})
    assert (message.deleted, message.edited_at) == (True, 0)
    assert event == Deleted(1, ann(), message)
    assert take(log, edit(5, 1), react(6, 1), delete(7, 1)) == []
    assert log.messages == (message,)


def test_reactions_are_sets_of_users() -> None:
    """Each user once by reaction; what is taken back is gone, and no change is no news."""
    log = room_log(item(1))
    (event,) = take(log, react(2, 1, "+"))
    assert event == Reacted(1, "+", ann(), True, log.messages[0])
    assert take(log, react(3, 1, "+")) == []
    take(log, react(4, 1, "+", user="bob"), react(5, 1, "-", user="bob"))
    assert log.messages[0].reactions == {"+": {"ann", "bob"}, "-": {"bob"}}
    (event,) = take(log, react(6, 1, "-", False, user="bob"))
    assert event == Reacted(1, "-", User("bob", "bob", "offline"), False, log.messages[0])
    assert log.messages[0].reactions == {"+": {"ann", "bob"}}


def test_amendment_of_what_is_not_kept_is_told_without_the_message() -> None:
    """The program may have it from a page."""
    log = room_log(item(10))
    by = ann()
    assert take(log, edit(11, 3, "new"), react(12, 3), delete(13, 3)) == [
        Edited(3, "new", by),
        Reacted(3, "+", by),
        Deleted(3, by),
    ]
    assert take(log, edit(14, 3, "again"), react(15, 3, user="bob"), delete(16, 3)) == []


def test_message_that_comes_late_has_what_was_said_before() -> None:
    """What is known about an offset is there when the message is."""
    log = room_log(item(10), edit(11, 3, "new"), react(12, 3))
    (event,) = take(log, item(3))
    assert isinstance(event, Spoken)
    assert event.message.content == "new"
    assert event.message.reactions == {"+": {"ann"}}
    assert brief(log.messages) == [3, 10]


# History


def test_page_shows_what_was_said_since() -> None:
    """Edits, deletions and reactions that are known come with the messages."""
    log = room_log(item(10), edit(11, 3, "new"), delete(12, 4), react(13, 5))
    found = log.page(page(item(3), item(4), item(5), item(6)))
    assert [message.content for message in found] == ["new", "", "said 5", "said 6"]
    assert found[2].reactions == {"+": {"ann"}}
    assert brief(log.messages) == [10]


def test_pages_backwards_are_amended_by_later_ones() -> None:
    """The last edit by the log's order counts, whichever was known first."""
    log = room_log(item(30))
    log.page(page(edit(21, 3, "last"), delete(22, 4), react(23, 3, on=False)))
    log.page(page(edit(12, 4), react(13, 3), react(14, 3, user="bob"), edit(20, 3, "first")))
    first, second = log.page(page(item(3), item(4)))
    assert (first.content, first.edited_at) == ("last", 21)
    assert first.reactions == {"+": {"bob"}}
    assert (second.content, second.deleted) == ("", True)


def test_page_corrects_what_is_kept() -> None:
    """What fell into a gap, and was paged, is no longer shown as it was."""
    log = room_log(item(1), item(2))
    log.take(Gap(2), until=2)
    take(log, item(5))
    found = log.page(page(item(1), item(2), delete(3, 1), edit(4, 2, "new")))
    assert [message.content for message in log.messages] == ["", "new", "said 5"]
    assert found == log.messages[:2]
    assert log.unread == 2


def test_page_is_in_the_order_of_the_log() -> None:
    """However the hub has it."""
    log = room_log(item(9))
    found = log.page(page(item(5), edit(7, 3), item(3), item(4)))
    assert brief(found) == [3, 4, 5]


def test_page_of_another_log_says_nothing() -> None:
    """Its offsets are not those of what is kept."""
    log = room_log(item(1))
    assert log.page(page(item(1, epoch="b"), delete(2, 1, epoch="b"), epoch="b")) == ()
    assert log.messages[0].content == "said 1"


def test_page_before_any_message() -> None:
    """History may be all that there is; what it says about messages is known then."""
    log = room_log()
    log.page(page(edit(2, 1, "new")))
    (message,) = log.page(page(item(1)))
    assert message.content == "new"
    (event,) = take(log, item(1, epoch="b"))  # another log
    assert isinstance(event, Spoken)
    assert event.message.content == "said 1"


# One's own


def test_echo_takes_the_place_of_a_pending_message() -> None:
    """Before it the message is shown once, at the end, and after it once, in its place."""
    log = room_log(item(1))
    log.queue(own("x"))
    take(log, item(2))
    assert brief(log.messages) == [1, 2, ("x", "queued")]
    log.moved("x", "sent")
    (event,) = take(log, item(3, id="x", user=ME))
    assert isinstance(event, Spoken)
    assert (event.message.mine, event.message.state) == (True, "echoed")
    assert brief(log.messages) == [1, 2, 3]
    assert log.moved("x", "acked", offset=3, epoch="a") is None


def test_message_of_another_own_device_is_mine_and_not_pending() -> None:
    """It has no part in what is pending here."""
    log = room_log()
    log.queue(own("x"))
    (event,) = take(log, item(1, id="y", user=ME, device="d2"))
    assert isinstance(event, Spoken)
    assert event.message.mine
    assert brief(log.messages) == [1, ("x", "queued")]


def test_anothers_id_is_no_echo() -> None:
    """Ids are names among those of one user."""
    log = room_log()
    log.queue(own("x"))
    take(log, item(1, id="x"))
    assert brief(log.messages) == [1, ("x", "queued")]


def test_acked_message_waits_for_its_echo() -> None:
    """It has its offset, and is not in its place before all others before it are known."""
    log = room_log(item(1))
    log.queue(own("x"))
    message = log.moved("x", "acked", offset=3, at=50, epoch="a")
    assert message is not None
    assert (message.offset, message.at, message.state) == (3, 50, "acked")
    assert brief(log.messages) == [1, ("x", "acked")]
    take(log, item(2))
    assert brief(log.messages) == [1, 2, ("x", "acked")]


def test_acked_message_whose_echo_is_lost_is_in_its_place_behind_the_gap() -> None:
    """With what was said about it since, and in order."""
    log = room_log(item(1))
    log.queue(own("x"))
    log.moved("x", "acked", offset=3, epoch="a")
    assert log.take(Gap(1), until=1) == [Gap(1)]
    events = take(log, edit(5, 3, "new"))
    assert [type(event) for event in events] == [Spoken, Edited]
    assert brief(log.messages) == [1, 3]
    assert log.messages[1].content == "new"


def test_gap_at_the_end_is_enough() -> None:
    """As many places as it has are behind: nothing else needs to come."""
    log = room_log(item(1))
    log.queue(own("x"))
    log.moved("x", "acked", offset=3, epoch="a")
    gap, spoken = log.take(Gap(2), until=1)
    assert gap == Gap(2)
    assert isinstance(spoken, Spoken)
    assert brief(log.messages) == [1, 3]


def test_answer_after_the_gap_places_at_once() -> None:
    """The answer may be the last to come; then the state says that it is in its place."""
    log = room_log(item(1))
    log.queue(own("x"))
    log.moved("x", "sent")
    log.take(Gap(1), until=1)
    take(log, item(3))
    message = log.moved("x", "acked", offset=2, epoch="a")
    assert message is not None
    assert message.state == "echoed"
    assert brief(log.messages) == [1, 2, 3]


def test_those_whose_echoes_are_lost_are_told_in_order() -> None:
    """In the log's order, whichever answer came first."""
    log = room_log(item(1))
    for id, offset in (("x", 3), ("y", 2)):
        log.queue(own(id))
        log.moved(id, "acked", offset=offset, epoch="a")
    events = take(log, item(4))
    assert [event.message.offset for event in events if isinstance(event, Spoken)] == [2, 3, 4]
    assert brief(log.messages) == [1, 2, 3, 4]


def test_an_answer_takes_nobodys_place() -> None:
    """A service that says that it is where another one is hides neither."""
    log = room_log(item(1))
    log.queue(own("x"))
    log.moved("x", "acked", offset=1, epoch="a")
    assert brief(log.messages) == [1, ("x", "acked")]
    assert log.messages[0].id == "a1"


def test_echo_that_cannot_be_read_does_not_leave_a_message_pending() -> None:
    """The service has it, whatever it has made of it."""
    log = room_log()
    log.queue(own("x"))
    log.moved("x", "acked", offset=1, epoch="a")
    (event,) = take(log, item(1, id="x", user=ME, payload={"content": "\x1b"}))
    assert isinstance(event, Spoken)
    assert event.message.content == "mine"
    assert log.skipped == 1


def test_failed_message_is_shown_until_it_is_dismissed() -> None:
    """With why; a retry is behind what was queued since."""
    log = room_log()
    log.queue(own("x"))
    log.queue(own("y"))
    message = log.moved("x", "failed", failure="no")
    assert message is not None
    assert message.failure == "no"
    assert brief(log.messages) == [("x", "failed"), ("y", "queued")]
    again = log.moved("x", "queued")
    assert again is not None
    assert again.failure == ""
    assert brief(log.messages) == [("y", "queued"), ("x", "queued")]
    assert log.dismiss("x")
    assert not log.dismiss("x")
    assert log.moved("x", "sent") is None
    assert brief(log.messages) == [("y", "queued")]


def test_reset_keeps_what_is_pending() -> None:
    """Nothing of the old log is left, and nothing of one's own is lost."""
    log = room_log(item(1), edit(3, 2, "old"))
    log.queue(own("x"))
    log.take(Marked("ann", 1), until=3)
    assert log.take(Reset(), until=3) == [Reset()]
    assert brief(log.messages) == [("x", "queued")]
    assert log.marks == {}
    take(log, item(1, epoch="b"), item(2, epoch="b"))
    assert brief(log.messages) == [1, 2, ("x", "queued")]
    assert log.messages[1].content == "said 2"


def test_another_epoch_is_a_reset_even_if_nobody_says_so() -> None:
    """Messages of two logs are never together."""
    log = room_log(item(1), item(2))
    reset, spoken = take(log, item(1, epoch="b"))
    assert reset == Reset()
    assert isinstance(spoken, Spoken)
    assert [message.id for message in log.messages] == ["b1"]


def test_answer_of_the_new_log_has_no_place_in_the_old_one() -> None:
    """Not even where there is a gap."""
    log = room_log(item(1))
    log.take(Gap(1), until=1)
    take(log, item(3))
    log.queue(own("x"))
    log.moved("x", "acked", offset=2, epoch="b")
    assert brief(log.messages) == [1, 3, ("x", "acked")]


def test_how_far_the_old_log_went_says_nothing_of_the_new_one() -> None:
    """A membership has the old position until the first message of the new log."""
    log = room_log(*(item(offset) for offset in range(1, 6)))
    log.take(Reset(), until=5)
    log.take(Marked("ann", 1), until=5)
    take(log, item(1, epoch="b"))
    log.queue(own("x"))
    log.moved("x", "acked", offset=3, epoch="b")
    assert brief(log.messages) == [1, ("x", "acked")]


def test_answer_of_the_new_log_waits_for_its_echo() -> None:
    """Its offset means nothing in the log that is still shown."""
    log = room_log(*(item(offset) for offset in range(1, 6)))
    log.queue(own("x"))
    log.moved("x", "acked", offset=2, epoch="b")
    assert brief(log.messages)[-1] == ("x", "acked")
    log.take(Reset(), until=5)
    assert log.stranded == ()
    take(log, item(1, epoch="b"))
    assert brief(log.messages) == [1, ("x", "acked")]
    take(log, item(2, epoch="b", id="x", user=ME))
    assert brief(log.messages) == [1, 2]


def test_a_log_that_is_lost_before_its_first_message_strands_too() -> None:
    """If the log was told which one it is; then a gap alone is enough to place, too."""
    for lost in (True, False):
        log = room_log()
        log.begin(Position("a", 2))
        log.queue(own("x"))
        log.moved("x", "acked", offset=3, epoch="a")
        events = log.take(Reset(), until=2) if lost else log.take(Gap(1), until=2)
        assert len(events) == (1 if lost else 2)
        assert log.stranded == (("x",) if lost else ())


@pytest.mark.parametrize("epoch", ["a", "b"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_acked_in_a_lost_log_is_stranded(when: str, epoch: str) -> None:
    """It is still shown, has no place, and is never put in another log, whatever its name."""
    log = room_log(item(1))
    log.queue(own("x"))
    if when == "before":
        log.moved("x", "acked", offset=3, epoch="a")
    log.take(Reset(), until=1)
    if when == "after":
        log.moved("x", "acked", offset=3, epoch="a")
    take(log, *(item(offset, epoch=epoch) for offset in range(1, 6)))
    assert log.stranded == ("x",)
    assert log.pending[0].offset == 0
    assert brief(log.messages)[-1] == ("x", "acked")
    log.moved("x", "failed", failure="lost")
    assert not log.stranded


# What is read


def test_unread_is_what_others_said_behind_ones_own_mark() -> None:
    """One's own do not count, nor what was deleted, nor what is pending."""
    log = room_log(item(1), item(2, user=ME), item(3), item(4), delete(5, 4))
    log.queue(own("x"))
    assert log.unread == 2
    assert log.take(Marked("ann", 3), until=5) == [ReadMoved(ann(), 3)]
    assert log.unread == 2
    log.take(Marked(ME, 1), until=5)
    assert log.unread == 1
    take(log, item(6))
    assert log.unread == 2
    log.take(Marked(ME, 6), until=6)
    assert (log.unread, log.marks) == (0, {"ann": 3, ME: 6})


# Users


def test_roster_says_how_a_user_is_shown() -> None:
    """Joined, changed and left are told with the user; the same again is not."""
    log = room_log()
    info = {"name": "Ann", "status": "away", "avatar": "/a.png"}
    user = User("ann", "Ann", "away", "/a.png")
    assert log.take(Joined("ann", info), until=0) == [UserJoined(user)]
    assert log.take(Joined("ann", info), until=0) == []
    assert log.members == {"ann": user}
    back = User("ann", "Ann", "online", "/a.png")
    assert log.take(Joined("ann", {**info, "status": "online"}), until=0) == [UserChanged(back)]
    gone = User("ann", "Ann", "offline", "/a.png")
    assert log.take(Left("ann"), until=0) == [UserLeft(gone)]
    assert log.take(Left("ann"), until=0) == []
    assert (log.members, log.users) == ({}, {"ann": gone})


def test_leaving_clears_nothing_else() -> None:
    """What a user said and read stays."""
    log = room_log(item(1))
    log.take(Joined("ann", {"name": "Ann"}), until=1)
    log.take(Marked("ann", 1), until=1)
    log.take(Left("ann"), until=1)
    assert (brief(log.messages), log.marks) == ([1], {"ann": 1})


@pytest.mark.parametrize(
    "info",
    [
        None,
        "Ann",
        7,
        [],
        {},
        {"name": 5, "status": [], "avatar": {}},
        {"name": "", "status": "offline", "avatar": None},
        {"name": "A\x1b[2J", "status": "sleeping", "avatar": "\n"},
        {"name": "a" * 129, "avatar": "b" * 5000},
        {"name": "\u202eevil"},
    ],
)
def test_malformed_info_leaves_the_id(info: Any) -> None:
    """Whatever a hub says of a user, there is something that can be shown."""
    log = room_log()
    assert log.take(Joined("ann", info), until=0) == [UserJoined(User("ann", "ann"))]


def test_a_name_that_can_be_shown_is_not_lost_with_the_rest() -> None:
    """Each field of the info stands for itself."""
    log = room_log()
    log.take(Joined("ann", {"name": "Ann", "status": 1, "avatar": "\x00"}), until=0)
    assert log.members["ann"] == User("ann", "Ann")


def test_a_message_names_who_is_not_there() -> None:
    """Of a member the roster's name counts; of another the one that was said."""
    log = room_log()
    log.take(Joined("bob", {"name": "Bob"}), until=0)
    log.take(Joined("cat", None), until=0)
    for offset, user in enumerate(("ann", "bob", "cat"), 1):
        take(log, item(offset, payload={"content": "x", "name": "Said"}, user=user))
    assert [message.user.name for message in log.messages] == ["Said", "Bob", "Said"]
    assert log.user("ann") == User("ann", "Said", "offline")
    assert log.user("dan") == User("dan", "dan", "offline")


def test_a_name_that_cannot_be_shown_is_none() -> None:
    """The message is shown, under the id."""
    log = room_log(item(1, payload={"content": "x", "name": "\x1b[31mAnn"}))
    assert log.messages[0].user.name == "ann"


def test_history_does_not_rename() -> None:
    """A page shows the names of its time, and changes nobody's."""
    log = room_log(item(9, payload={"content": "x", "name": "New"}))
    said = {"content": "x", "name": "Old"}
    found = log.page(page(item(1, payload=said), item(2, payload=said, user="bob")))
    assert [message.user.name for message in found] == ["Old", "Old"]
    assert (log.user("ann").name, log.user("bob").name) == ("New", "Old")


def test_history_shows_members_as_they_are() -> None:
    """Who is there has one name and one picture everywhere."""
    log = room_log()
    log.take(Joined("ann", {"name": "Ann", "avatar": "/a"}), until=0)
    (message,) = log.page(page(item(1, payload={"content": "x", "name": "Old"})))
    assert message.user == User("ann", "Ann", "online", "/a")


def test_meeting_tells_what_is_new() -> None:
    """How it is, compared with what was known: after a loss only real changes are news."""
    log = room_log()
    log.meet({"ann": {"name": "Ann"}, "bob": None}, {"ann": 1})
    assert log.meet({"ann": {"name": "Ann"}, "bob": None}, {"ann": 1}) == []
    events = log.meet({"ann": {"name": "Anna"}, "cat": None}, {"ann": 2})
    assert events == [
        UserLeft(User("bob", "bob", "offline")),
        UserChanged(User("ann", "Anna")),
        UserJoined(User("cat", "cat")),
        ReadMoved(User("ann", "Anna"), 2),
    ]


def test_a_room_that_has_grown_too_large_names_nobody() -> None:
    """Nobody has left it for that."""
    log = room_log()
    log.meet({"ann": {"name": "Ann"}, "bob": None}, {})
    assert log.meet({}, {"ann": 3}) == [ReadMoved(User("ann", "Ann", "offline"), 3)]
    assert log.members == {}


def test_seen_users_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those are forgotten who said something longest ago; who is there is not."""
    monkeypatch.setattr("trio_rt.chat._client.people.SEEN", 3)
    log = room_log()
    log.take(Joined("u8", {"name": "Eight"}), until=0)
    for offset in range(1, 8):
        take(log, item(offset, user=f"u{offset}"))
    take(log, item(8, user="u5"), item(9, user="u9"), item(10, user="u8"))
    assert sorted(log.users) == ["u5", "u7", "u8", "u9"]


# What is not for the program


GOOD = {"content": "x"}
BAD: list[tuple[str, Any]] = [
    ("text", None),
    ("text", "x"),
    ("text", {}),
    ("text", {"content": 5}),
    ("text", {"content": ""}),
    ("text", {"content": "  \n"}),
    ("text", {"content": "\x1b]0;pwned\x07"}),
    ("text", {"content": "a\x9bb"}),
    ("text", {"content": "\ud800"}),
    ("text", {"content": "x" * (16 << 10) + "y"}),
    ("text", {"content": "x", "more": 1}),
    ("text", {"content": "x", "reply": "1"}),
    ("text", {"content": "x", "metadata": []}),
    ("text", {"content": "x", "metadata": {"a": "x" * 5000}}),
    ("text", {"content": "x", "metadata": {"a": "\ud800"}}),
    ("edit", {"target": 1, "content": "\x00"}),
    ("edit", {"target": 1}),
    ("edit", {"target": True, "content": "x"}),
    ("edit", {"target": 9, "content": "x"}),
    ("delete", {"target": 0}),
    ("delete", {"target": -1}),
    ("delete", {"target": 10}),
    ("delete", {"target": 1.5}),
    ("react", {"target": 1, "reaction": ""}),
    ("react", {"target": 1, "reaction": "a\nb"}),
    ("react", {"target": 1, "reaction": "x" * 65}),
    ("react", {"target": 1, "reaction": "x", "on": 1}),
    ("moderation", {"action": "mute", "user": "bob", "by": "ann"}),  # by a member
    ("typing", {"on": True}),  # stored
    ("message", GOOD),
    ("", GOOD),
]


@pytest.mark.parametrize(("type", "payload"), BAD)
def test_what_no_service_should_let_through_is_skipped(type: str, payload: Any) -> None:
    """It is counted, and changes nothing: taken, or in a page."""
    log = room_log(item(1))
    assert take(log, item(9, type, payload if payload is not None else [])) == []
    assert brief(log.messages) == [1]
    assert log.messages[0].content == "said 1"
    assert log.page(page(item(9, type, payload if payload is not None else []))) == ()
    assert log.skipped == 2


@pytest.mark.parametrize("field", ["id", "user"])
@pytest.mark.parametrize("name", ["", "a\x1b", " a", "x" * 200])
def test_names_that_cannot_be_shown_are_skipped(field: str, name: str) -> None:
    """Of users and of messages."""
    log = room_log()
    wrong = msgspec.structs.replace(item(1), **{field: name})
    assert log.take(wrong, until=1) == []
    assert (log.messages, log.skipped) == ((), 1)
    for each in (Joined(name), Left(name), Marked(name, 1)):
        if field == "user":
            assert log.take(each, until=1) == []
    assert (log.members, log.marks) == ({}, {})


@pytest.mark.parametrize("at", [-1, 0, 1 << 60])
def test_impossible_times_are_none(at: int) -> None:
    """What is no time of a `datetime` does not come to the program."""
    log = room_log()
    log.take(msgspec.structs.replace(item(1), at=at), until=1)
    assert log.messages[0].at == 0


def test_what_passes_is_not_in_the_room() -> None:
    """Typing is for others to look at; a text that was not stored is none."""
    log = room_log()
    typing = RoomMessage(None, "x", "ann", "d", "typing", {"on": True}, 1, False)
    assert log.take(typing, until=0) == []
    assert log.skipped == 0
    assert log.take(msgspec.structs.replace(typing, type="text", payload=GOOD), until=0) == []
    assert (log.skipped, log.messages) == (1, ())


# Moderation


def test_moderation_is_told_if_the_service_said_it() -> None:
    """A message of the service has no device."""
    log = room_log()
    payload = {"action": "mute", "user": "bob", "by": "ann", "until": 5}
    (event,) = take(log, item(1, "moderation", payload, user="hub", device=""))
    assert event == Moderated("mute", User("bob", "bob", "offline"), ann(), 5)
    assert log.messages == ()


@pytest.mark.parametrize(
    "change", [{"user": "\x00"}, {"by": ""}, {"action": "kill"}, {"until": -1}, {"role": "god"}]
)
def test_moderation_of_a_wrong_shape_is_skipped(change: dict[str, Any]) -> None:
    """Also if the service said it."""
    log = room_log()
    payload = {"action": "mute", "user": "bob", "by": "ann", **change}
    assert take(log, item(1, "moderation", payload, user="hub", device="")) == []
    assert log.page(page(item(1, "moderation", payload, user="hub", device=""))) == ()
    assert log.skipped == 2


# Bounds


def test_a_thousand_short_messages_take_half_a_megabyte() -> None:
    """So a client may be in many rooms."""
    payload = {"content": "how are you?", "name": "Ann"}
    take(room_log(), item(1, payload=payload))  # imports and caches
    tracemalloc.start()
    try:
        log = room_log(keep=1000)
        for offset in range(1, 1201):
            said = {**payload, "content": f"how are you? {offset}"}
            take(
                log, item(offset, id=f"{offset:032x}", payload=said, at=1_700_000_000_000 + offset)
            )
        assert len(log.messages) == 1000
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


def test_amendments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was spoken longest ago nothing is known any more; what is kept stays amended."""
    monkeypatch.setattr(amendments, "ALL_BYTES", 2000)
    log = room_log(*(item(offset) for offset in range(1, 41)), keep=35)
    take(log, react(50, 7), react(51, 7, user="bob"))
    take(log, *(edit(60 + offset, offset) for offset in range(8, 30)))
    take(log, react(100, 7, user="cat"))
    found = {message.offset: message for message in log.messages}
    assert found[7].reactions == {"+": {"ann", "bob", "cat"}}
    assert found[8].content == "edited 68"
    assert 2 < len(log._stored._amendments._about) < 8


def test_amending_one_message_often_forgets_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the room of one."""
    monkeypatch.setattr(amendments, "ALL_BYTES", 2000)
    log = room_log(item(10), edit(11, 3, "new"))
    take(log, *(edit(offset, 10) for offset in range(12, 60)))
    (message,) = log.page(page(item(3)))
    assert message.content == "new"


def test_deleted_message_stays_so_when_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown does not depend on what is remembered besides."""
    monkeypatch.setattr(amendments, "ALL_BYTES", 1)
    log = room_log(item(1), delete(2, 1))
    assert take(log, edit(3, 1), react(4, 1), delete(5, 1)) == []
    assert log.messages[0].deleted
    assert log.page(page(item(1), edit(3, 1))) == log.messages


def test_reactions_to_one_message_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More are not taken; those that are there may be taken back."""
    monkeypatch.setattr(amendments, "ONE_REACTIONS", 3)
    log = room_log(item(1), *(react(offset, 1, user=f"u{offset}") for offset in range(2, 9)))
    assert log.messages[0].reactions == {"+": {"u2", "u3", "u4"}}
    take(log, react(9, 1, on=False, user="u2"))
    assert log.messages[0].reactions == {"+": {"u3", "u4"}}


def test_most_messages_share_their_empty_dictionaries() -> None:
    """One for all, which nobody can change, and which is a plain value otherwise."""
    log = room_log(item(1), react(2, 1), react(3, 1, on=False))
    message = log.messages[0]
    assert message.metadata is message.reactions is EMPTY
    empty: Any = message.metadata
    with pytest.raises(TypeError):
        empty["a"] = 1
    with pytest.raises(TypeError):
        empty.update(a=1)
    with pytest.raises(TypeError):
        empty.setdefault("a", 1)
    assert copy.deepcopy(message) == message == pickle.loads(pickle.dumps(message))
    assert msgspec.json.decode(msgspec.json.encode(message))["metadata"] == {}
