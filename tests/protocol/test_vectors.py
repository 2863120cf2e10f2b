"""The talks of `vectors/*.json`, with our session at one end and the file at the other.

What the file has our side say, it has to say; what the other side says, it hears.
docs/protocol.md tells the format.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import trio

from trio_rt._welcome import receive_hello
from trio_rt.errors import LinkClosed, Refused
from trio_rt.message import Message
from trio_rt.options import InboxLimits, OutboxLimits
from trio_rt.protocol.calls import Ask, Call
from trio_rt.protocol.codec import Codec, JsonCodec, MsgpackCodec, payload_reader
from trio_rt.protocol.frames import (
    JSON_SYNTAX,
    MSGPACK_SYNTAX,
    Aside,
    Bye,
    Cancel,
    Control,
    End,
    Fail,
    Frame,
    Header,
    Hello,
    More,
    Part,
    Req,
    Syntax,
    Terms,
    Void,
)
from trio_rt.protocol.inquiries import Inquiry
from trio_rt.protocol.lanes import Entry
from trio_rt.protocol.ledger import ACK_S, Bounds
from trio_rt.protocol.numbered import Batch, Numbered
from trio_rt.protocol.plain import Heartbeat
from trio_rt.protocol.session import Session

FILES = sorted((Path(__file__).parent / "vectors").glob("*.json"))
PAGE = Path(__file__).parents[2] / "docs/protocol.md"

SYNTAXES: Final[dict[str, tuple[Syntax, Codec]]] = {
    "json": (JSON_SYNTAX, JsonCodec()),
    "msgpack": (MSGPACK_SYNTAX, MsgpackCodec()),
}

#: What a side takes that says nothing of it before the talk is over.
TERMS: Final = Terms((4, 2048), (0, 0), (8, 4096), 512)

Step = dict[str, Any]


class Vector(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    about: str
    syntax: str
    roles: list[str]
    steps: list[Step]
    #: The vector whose steps go before these.
    after: str | None = None


class File(msgspec.Struct, forbid_unknown_fields=True):
    about: str
    vectors: list[Vector]


def load(path: Path) -> list[Vector]:
    """The vectors of a file, each with all of its steps."""
    vectors = msgspec.json.decode(path.read_bytes(), type=File).vectors
    by_name = {(each.name, each.syntax): each for each in vectors}
    assert len(by_name) == len(vectors)
    for each in vectors:
        if each.after is not None:
            each.steps = by_name[each.after, each.syntax].steps + each.steps
    return vectors


def cases() -> list[Any]:
    return [
        pytest.param(vector, role, id=f"{path.stem}-{vector.name}-{vector.syntax}-{role}")
        for path in FILES
        for vector in load(path)
        for role in vector.roles
    ]


class Lines:
    """A wire that has brought these messages."""

    wants_flush = False

    def __init__(self, *messages: str | bytes) -> None:
        self._messages = list(messages)

    async def receive(self) -> list[str | bytes]:
        await trio.lowlevel.checkpoint()
        return self._messages


def frame_bytes(frame: Frame) -> bytes:
    return frame if isinstance(frame, bytes) else frame.encode()


class Player:
    """Our session, in the role of one of the two."""

    def __init__(self, vector: Vector, role: str) -> None:
        self.syntax, self.codec = SYNTAXES[vector.syntax]
        self.role = role
        self.now = 0.0
        self.terms = self.own_terms(vector.steps)
        self.linked = False
        #: What the client has said in this link, as a server hears it.
        self.words: list[str | bytes] = []
        self.hello: Hello
        self.resumed = False
        self.sent: list[Entry] = []
        self.calls: dict[int, Call] = {}
        self.inquiries: dict[int, Inquiry] = {}
        self.begin()

    def own_terms(self, steps: list[Step]) -> Terms:
        """What this side says that it takes."""
        for step in steps:
            if step.get("from") == self.role:
                data = self.data(step)
                words = self.syntax.hello if self.role == "client" else self.syntax.welcome
                try:
                    return words(data).terms
                except LinkClosed:
                    break
        return TERMS

    def begin(self) -> None:
        terms = self.terms
        self.session = Session(
            self.codec.decode,
            OutboxLimits(),
            InboxLimits(
                messages=terms.window[0],
                total_bytes=terms.window[1],
                message_bytes=terms.message_bytes,
            ),
            self.syntax,
            Bounds(*terms.replay),
        )
        self.queues = {
            type: self.session.inbox.open(
                frozenset({type}),
                reader=payload_reader(self.codec),
                capacity=None,
                on_full="pause",
            )
            for type in ("chat", "slow")
        }
        self.served = self.session.requests.serve(None)
        self.session.requests.hand_out()

    @property
    def numbered(self) -> Numbered:
        assert self.session.numbered is not None
        return self.session.numbered

    def data(self, step: Step) -> str | bytes:
        binary = self.syntax.binary
        if "kind" in step:
            binary = step["kind"] == "binary"
        return bytes.fromhex(step["data"]) if binary else str(step["data"])

    def play(self, step: Step) -> None:
        match step:
            case {"link": "lost"}:
                self.linked = False
                self.words.clear()
                self.session.link_down(self.now)
            case {"server": "forgets"}:
                if self.role == "server":
                    self.begin()
            case {"at": at}:
                if at == self.role:
                    self.act(step)
            case {"from": at}:
                if at == self.role:
                    self.say(step)
                elif not step.get("lost"):
                    self.hear(step)
            case _:
                pytest.fail(f"no step: {step}")

    # The program

    def act(self, step: Step) -> None:
        got: list[object] = []
        for type, count in step.get("takes", {}).items():
            for item in self.queues[type].take_many(count):
                assert isinstance(item, Message)
                got.append(item.payload)
        for number in step.get("withdraws", ()):
            (entry,) = (each for each in self.sent if each.number == number)
            self.session.withdraw(entry)
        for id, count in step.get("takes_parts", {}).items():
            for _ in range(count):
                part = self.calls[int(id)].take_part()
                assert part is not None
                got.append(payload_reader(self.codec)(part.payload))
        if "begins" in step:
            inquiry = self.served.inquiries.popleft()
            assert inquiry.id == step["begins"]
            inquiry.begin()
            self.inquiries[inquiry.id] = inquiry
            assert payload_reader(self.codec)(inquiry.message.payload) == step["gets"]
        else:
            assert got == step.get("gets", [])

    # Out

    def say(self, step: Step) -> None:
        """Say what the step has, and nothing else."""
        expected = self.data(step)
        if self.linked:
            header, frames = self.syntax.split(expected)
            for frame in self.new(header, frames):
                self.prompt(frame)
            self.now = max(self.now, min(self.session.ready_at(self.now), self.now + ACK_S))
            last = self.syntax.is_control(frames[-1]) if frames else False
            bye = self.syntax.control(frames[-1]) if last else None
            if isinstance(bye, Bye):
                batches: list[Any] = list(self.session.farewell(bye.reason))
            else:
                batches = list(self.session.take(self.now))
            assert len(batches) == 1
            said, parts = self.syntax.split(self.wire(batches[0]))
            assert said == header
            assert [*map(frame_bytes, parts)] == [*map(frame_bytes, frames)]
        elif self.role == "client":
            words = self.wire(self.session.hello())
            assert self.syntax.hello(words) == self.syntax.hello(expected)
        else:
            welcome = self.syntax.welcome(expected)
            words = self.wire(self.session.welcome(self.hello, welcome.session, welcome.token))
            assert self.syntax.welcome(words) == welcome
            self.link_up()

    def new(self, header: Header, frames: Any) -> list[Frame]:
        """Those that this side has not sent before."""
        number, found = header.first, []
        for frame in frames:
            control = self.syntax.control(frame) if self.syntax.is_control(frame) else None
            if isinstance(control, (Aside, Bye)):
                found.append(frame)
                continue
            if number > self.numbered.out.sent:
                found.append(frame)
            number += 1
        return found

    def prompt(self, frame: Frame) -> None:
        """Have the program do what makes this frame."""
        requests, data = self.session.requests, frame_bytes(frame)
        control: Control | None = None
        if self.syntax.is_control(frame):
            control = self.syntax.control(frame)
        match control:
            case None:
                self.offer(Entry(data, self.syntax.binary))
            case Aside(envelope=envelope):
                self.session.beat(Heartbeat(bytes(envelope), self.syntax.binary))
            case Req(id=id, parts=parts):
                self.calls[id] = call = requests.call(Bounds(*parts))
                assert call.id == id
                call.ask = Ask(data, self.syntax.binary, call=call, session=self.session)
                self.offer(call.ask)
            case Part(id=id, envelope=envelope):
                self.inquiries[id].send_part(bytes(envelope))
            case End(id=id, envelope=envelope):
                self.inquiries[id].end(bytes(envelope))
            case Fail(id=id, code=code, text=text):
                self.inquiries[id].fail(code, text)
            case Cancel(id=id):
                requests.cancel(self.calls[id])
            case Void() | More() | Bye():
                pass  # they come by themselves

    def offer(self, entry: Entry) -> None:
        assert self.session.offer(entry, self.now)
        self.sent.append(entry)

    def wire(self, batch: Batch) -> str | bytes:
        assert batch.binary is self.syntax.binary
        return batch.data if batch.binary else batch.data.decode()

    # In

    def hear(self, step: Step) -> None:
        then = step.get("then", {})
        if "close" in then:
            with pytest.raises(LinkClosed) as caught:
                self.take_in(self.data(step))
            assert (caught.value.code, caught.value.by_peer) == (then["close"], False)
            if self.linked:
                assert self.numbered.over is not None
            return
        self.take_in(self.data(step))
        for name, value in then.items():
            assert self.look(name) == value, name

    def take_in(self, data: str | bytes) -> None:
        if self.linked:
            self.session.receive([data], self.now)
            self.session.route()
        elif self.role == "client":
            self.resumed = self.session.welcomed(data, None)
            self.link_up()
        else:
            self.words.append(data)
            wire: Any = Lines(*self.words)
            self.hello = trio.run(receive_hello, wire, self.syntax)
            if self.session.numbered is not None:
                self.session.check_hello(self.hello)

    def link_up(self) -> None:
        self.linked = True
        self.session.link_up(self.now, 0)

    def look(self, name: str) -> object:
        match name:
            case "received":
                return self.numbered.into.received
            case "consumed":
                return self.numbered.into.consumed
            case "in_flight":
                return list(self.numbered.out.in_window)
            case "outcomes":
                settled = [each for each in self.sent if each.outcome is not None]
                return {str(each.number): str(each.outcome) for each in settled}
            case "malformed":
                return self.session.inbox.malformed_count
            case "over":
                return self.numbered.over
            case "resumed":
                return self.resumed
            case "reply":
                return self.reply()
            case _:
                pytest.fail(f"nothing to look at: {name}")

    def reply(self) -> object:
        (call,) = self.calls.values()
        if isinstance(call.failure, Refused):
            return {"id": call.id, "fail": [call.failure.code, call.failure.text]}
        assert call.reply is not None
        return {"id": call.id, "end": payload_reader(self.codec)(call.reply.payload)}


@pytest.mark.parametrize(("vector", "role"), cases())
def test_vector(vector: Vector, role: str) -> None:
    player = Player(vector, role)
    for step in vector.steps:
        player.play(step)


def test_there_are_vectors() -> None:
    """Each file has some, in both syntaxes; what is said in JSON is one line a frame."""
    assert {path.stem for path in FILES} == {"illegal", "requests", "resume", "talk"}
    for path in FILES:
        vectors = load(path)
        assert {each.syntax for each in vectors} == set(SYNTAXES)
        assert all(each.roles for each in vectors)


def test_every_row_has_a_vector() -> None:
    """The table of illegal input in docs/protocol.md names the vectors of each row, and all."""
    table = PAGE.read_text().partition("## Illegal input")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"\|([^|]+)\|$", table, re.MULTILINE))))
    (path,) = (path for path in FILES if path.stem == "illegal")
    assert named == {each.name for each in load(path)} - {"on the way"}


def test_json_data_is_json() -> None:
    """Whoever has no decoder of ours can read the legal ones line by line."""
    for path in FILES:
        for vector in load(path):
            if vector.syntax == "json" and path.stem not in ("illegal", "talk"):
                for step in vector.steps:
                    for line in step.get("data", "null").split("\n"):
                        json.loads(line)


def test_examples_of_the_page() -> None:
    """The hello, the welcome and the two batches in docs/protocol.md are what they are said to be."""
    blocks = re.findall(r"^```json\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    envelope, hello, welcome, batch = blocks
    (message,) = JsonCodec().decode(envelope)
    assert message.type == "chat"
    assert JSON_SYNTAX.hello(hello).session == ""
    assert not JSON_SYNTAX.welcome(welcome).resumed
    header, frames = JSON_SYNTAX.split(batch)
    (block,) = re.findall(r"^```hex\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    same, others = MSGPACK_SYNTAX.split(bytes.fromhex(block))
    assert header == same
    assert [msgspec.msgpack.decode(frame_bytes(each)) for each in others] == [
        json.loads(each) for each in frames
    ]
