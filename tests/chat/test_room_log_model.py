"""`RoomLog` against models: whatever is known first, and whatever comes or is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_rt import Gap, Reset
from trio_rt.chat._client.log import RoomLog
from trio_rt.chat.models import ChatMessage, RoomEvent, Spoken, User
from trio_rt.hub._broker import Position
from trio_rt.hub._client.items import HistoryPage, Marked, RoomMessage

from .room_items import ME, delete, edit, item, own, react, room_log, take

USERS = ["ann", "bob", ME]
Log = list[RoomMessage[Any]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """A log from offset 1 on; what is amended may be anything that was there before."""
    log: Log = []
    kinds = st.sampled_from(["text", "text", "edit", "delete", "react", "react", "foreign"])
    for offset in range(1, draw(st.integers(1, 24)) + 1):
        user, kind = draw(st.sampled_from(USERS)), draw(kinds)
        if kind == "foreign" or (kind != "text" and offset == 1):
            log.append(item(offset, "foreign", user=user))
        elif kind == "text":
            log.append(item(offset, payload={"content": f"c{offset}", "name": "N"}, user=user))
        else:
            target = draw(st.integers(1, min(offset - 1, draw(st.sampled_from([2, 5, 30])))))
            if kind == "edit":
                log.append(edit(offset, target, user=user))
            elif kind == "delete":
                log.append(delete(offset, target, user=user))
            else:
                reaction, on = draw(st.sampled_from("+-")), draw(st.booleans())
                log.append(react(offset, target, reaction, on, user=user))
    return log


def told(log: Log) -> dict[int, ChatMessage]:
    """What the messages of a log are in the end, by the simplest way to say it."""
    found = {}
    for offset, said in enumerate(log, 1):
        if said.type != "text":
            continue
        about = [each for each in log if each.payload.get("target") == offset]
        is_deleted = any(each.type == "delete" for each in about)
        edits = [each for each in about if each.type == "edit" and not is_deleted]
        reactions: dict[str, frozenset[str]] = {}
        for each in [] if is_deleted else [each for each in about if each.type == "react"]:
            users = reactions.get(each.payload["reaction"], frozenset()) - {each.user}
            reactions[each.payload["reaction"]] = users | ({each.user} & _on(each))
        content = edits[-1].payload["content"] if edits else said.payload["content"]
        found[offset] = ChatMessage(
            id=said.id,
            user=User(said.user, "N", "offline"),
            kind="text",
            content="" if is_deleted else content,
            offset=offset,
            at=said.at,
            edited_at=edits[-1].at if edits else 0,
            deleted=is_deleted,
            reactions={reaction: users for reaction, users in reactions.items() if users},
            mine=said.user == ME,
        )
    return found


def _on(word: RoomMessage[Any]) -> set[str]:
    return {word.user} if word.payload["on"] else set()


def last(found: dict[int, ChatMessage], keep: int) -> list[ChatMessage]:
    return [found[offset] for offset in sorted(found)][-keep:]


def piece(log: Log, first: int, end: int) -> HistoryPage[Any]:
    """Offsets `first` to before `end`."""
    return HistoryPage(tuple(log[first - 1 : end - 1]), 1, len(log), "a")


def page_all(room: RoomLog, log: Log, size: int) -> dict[int, ChatMessage]:
    """All of the log, backwards."""
    found: dict[int, ChatMessage] = {}
    end = len(log) + 1
    while end > 1:
        first = max(1, end - size)
        found |= {message.offset: message for message in room.page(piece(log, first, end))}
        end = first
    return found


@given(logs(), st.integers(1, 8))
def test_in_order_it_shows_what_was_said(log: Log, keep: int) -> None:
    """The last messages are as a model of the whole log says, at each point of it."""
    room = room_log(keep=keep)
    for count, each in enumerate(log, 1):
        take(room, each)
        assert list(room.messages) == last(told(log[:count]), keep)


@given(logs(), st.integers(1, 8), st.integers(0, 24), st.integers(1, 7))
def test_backwards_it_shows_the_same(log: Log, keep: int, begin: int, size: int) -> None:
    """Who begins in the middle, and pages back, sees each message as who was there always."""
    room = room_log(*log[begin:], keep=keep)
    before = list(room.messages)
    assert page_all(room, log, size) == told(log)
    assert list(room.messages) == before


@given(logs(), st.integers(1, 8), st.integers(1, 7), st.data())
def test_gaps_are_mended_by_pages(log: Log, keep: int, size: int, data: st.DataObject) -> None:
    """What was lost, and paged while the room goes on, counts as if it had been there."""
    room, at, known = room_log(keep=keep), 0, set()
    while at < len(log):
        match data.draw(st.sampled_from(["take", "take", "gap", "page"])):
            case "take":
                take(room, log[at])
                known.add(at := at + 1)
            case "gap":
                room.take(Gap(1), until=at)
                at += 1
            case _:
                end = data.draw(st.integers(1, at + 1))
                room.page(piece(log, max(1, end - size), end))
    found = told(log)
    assert page_all(room, log, size) == found
    kept = {offset: message for offset, message in found.items() if offset in known}
    assert list(room.messages) == last(kept, keep)


class OwnMessages(RuleBasedStateMachine):
    """A hub and one client, whose answers, echoes, gaps and resets come in any order.

    `hub` is the log as it is, `at` how far the client took it. A lost log (`old`) may have
    items that the client still takes.
    """

    keep = 6

    @initialize()
    def begin(self) -> None:
        self.room = room_log(keep=self.keep)
        self.room.begin(Position("e0", 0))
        self.number = 0
        self.hub: Log = []
        self.epoch = "e0"
        self.old: tuple[Log, str] | None = None
        self.at = 0
        # Of own ones: those that are to be shown as pending, with their last state.
        self.pending: dict[str, str] = {}
        self.answers: list[tuple[str, str, int]] = []
        # Of which log the answer to each was.
        self.acked: dict[str, str] = {}
        self.spoken: list[tuple[str, str]] = []
        self.followed = "e0"
        self.mark = 0

    def new(self) -> str:
        self.number += 1
        return f"m{self.number}"

    def hear(self, events: list[RoomEvent]) -> None:
        for event in events:
            if isinstance(event, Spoken):
                self.speak(event.message)

    def speak(self, message: ChatMessage) -> None:
        assert message.state == "echoed"
        key = (self.followed, message.id)
        assert key not in self.spoken
        self.spoken.append(key)
        self.pending.pop(message.id, None)

    # The hub

    @rule()
    def another_says(self) -> None:
        offset = len(self.hub) + 1
        id = f"{self.epoch}-{offset}"
        self.hub.append(item(offset, id=id, epoch=self.epoch))

    @rule(data=st.data())
    def store(self, data: st.DataObject) -> None:
        """What was sent, once in each log, and its answer is on its way."""
        stored = {each.id for each in self.hub}
        ids = [id for id, state in self.pending.items() if state == "sent" and id not in stored]
        if ids:
            id = data.draw(st.sampled_from(ids))
            offset = len(self.hub) + 1
            self.hub.append(item(offset, id=id, user=ME, epoch=self.epoch))
            self.answers.append((id, self.epoch, offset))

    @precondition(lambda self: self.old is None)
    @rule()
    def lose_log(self) -> None:
        self.old = (self.hub, self.epoch)
        self.hub, self.epoch = [], f"e{int(self.epoch[1:]) + 1}"

    # The client's membership

    @property
    def ahead(self) -> Log:
        return (self.hub if self.old is None else self.old[0])[self.at :]

    @precondition(lambda self: self.ahead)
    @rule()
    def take_next(self) -> None:
        each = self.ahead[0]
        self.at += 1
        self.hear(self.room.take(each, until=self.at))

    @precondition(lambda self: self.ahead)
    @rule(data=st.data())
    def lose_some(self, data: st.DataObject) -> None:
        """The position of a membership moves only with the next message."""
        count = data.draw(st.integers(1, len(self.ahead)))
        before, self.at = self.at, self.at + count
        events = self.room.take(Gap(count), until=before)
        assert events[0] == Gap(count)
        self.hear(events)

    @precondition(lambda self: self.old is not None)
    @rule()
    def take_reset(self) -> None:
        self.old = None
        before, self.at = self.at, 0
        self.followed, self.mark = self.epoch, 0
        assert self.room.take(Reset(), until=before) == [Reset()]

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        self.mark = data.draw(st.integers(self.mark, max(self.mark, self.at)))
        self.room.take(Marked(ME, self.mark), until=self.at)

    # The client's own

    @rule()
    def say(self) -> None:
        id = self.new()
        self.room.queue(own(id))
        self.pending[id] = "queued"

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        self.move(data, ("queued",), "sent")

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.move(data, ("queued", "sent"), "failed")

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self.move(data, ("failed",), "queued")

    @precondition(lambda self: self.room.stranded)
    @rule()
    def fail_stranded(self) -> None:
        id = self.room.stranded[0]
        self.pending[id] = "failed"
        assert self.room.moved(id, "failed") is not None

    def move(self, data: st.DataObject, states: tuple[str, ...], to: Any) -> None:
        ids = [id for id, state in self.pending.items() if state in states]
        if ids:
            id = data.draw(st.sampled_from(ids))
            if to == "queued":
                del self.pending[id]
            self.pending[id] = to
            message = self.room.moved(id, to)
            assert message is not None
            assert message.state == to

    @rule(data=st.data())
    def dismiss(self, data: st.DataObject) -> None:
        if self.pending:
            id = data.draw(st.sampled_from(sorted(self.pending)))
            del self.pending[id]
            assert self.room.dismiss(id)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Of what was sent: the last to be stored may be answered first."""
        answer = data.draw(st.sampled_from(self.answers))
        self.answers.remove(answer)
        id, epoch, offset = answer
        if self.pending.get(id, "sent") != "sent":
            return
        self.acked[id] = epoch
        message = self.room.moved(id, "acked", offset=offset, epoch=epoch)
        if id not in self.pending:
            assert message is None
        elif message is not None and message.state == "echoed":
            self.speak(message)
        else:
            self.pending[id] = "acked"

    # What holds

    @invariant()
    def own_messages_are_shown_once(self) -> None:
        """Neither twice nor not at all: pending ones at the end, in the order of saying."""
        shown = [message for message in self.room.messages if message.state != "echoed"]
        assert [(message.id, message.state) for message in shown] == list(self.pending.items())
        assert list(self.room.messages[len(self.room.messages) - len(shown) :]) == shown
        assert self.room.pending == tuple(shown)
        ids = [message.id for message in self.room.messages]
        assert len(ids) == len(set(ids))

    @invariant()
    def the_log_is_in_order_and_the_last_of_it(self) -> None:
        stored = [message for message in self.room.messages if message.state == "echoed"]
        offsets = [message.offset for message in stored]
        assert offsets == sorted(set(offsets))
        assert len(stored) <= self.keep
        log = self.hub if self.old is None else self.old[0]
        assert all(log[message.offset - 1].id == message.id for message in stored)
        spoken = [id for epoch, id in self.spoken if epoch == self.followed]
        in_order = [each.id for each in log if each.id in spoken]
        assert [message.id for message in stored] == in_order[-self.keep :]

    @invariant()
    def nothing_that_is_known_to_be_behind_is_pending(self) -> None:
        """Acked in this log, and taken or lost: it is in its place as soon as that is sure."""
        until = max((m.offset for m in self.room.messages if m.state == "echoed"), default=0)
        for message in self.room.pending:
            if message.state == "acked" and self.acked[message.id] == self.followed:
                assert message.offset > until

    @invariant()
    def only_what_is_in_no_log_is_stranded(self) -> None:
        for id in self.room.stranded:
            assert self.pending[id] == "acked"
            assert self.acked[id] not in (self.followed, self.epoch)

    @invariant()
    def unread_is_what_a_count_says(self) -> None:
        stored = [message for message in self.room.messages if message.state == "echoed"]
        unread = [m for m in stored if not m.mine and m.offset > self.mark]
        assert self.room.unread == len(unread)


TestOwnMessages = OwnMessages.TestCase
TestOwnMessages.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
