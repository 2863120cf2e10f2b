"""The streams below httpcore, on real sockets, without httpcore above them."""

from __future__ import annotations

import importlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trio_rt._streams import abort_stream
from trio_rt.http._network import Attempt, attempt, network_of

from ..clocked import Steps, clocked
from .peers import certified, serve, trusting

pytestmark = pytest.mark.parametrize("core", ["httpcore", "httpcore2"], indirect=True)

#: More than the buffers of two sockets, and no part of it like the next.
LARGE = b"".join(i.to_bytes(4, "big") for i in range(2_000_000))


@pytest.fixture
def core(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


@asynccontextmanager
async def open_server(
    *, tls: bool = False, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, trio.MemoryReceiveChannel[Any]]]:
    """A port, and the streams that it has got. A failed handshake gives none."""
    send, receive = trio.open_memory_channel[trio.abc.Stream](1)
    leave = trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        if not tls:
            await send.send(stream)
        else:
            chosen = context or certified("here.example")
            far = trio.SSLStream(stream, chosen, server_side=True, https_compatible=True)
            try:
                await far.do_handshake()
            except trio.BrokenResourceError:
                return
            await send.send(far)
        await leave.wait()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            yield await serve(nursery, handler), receive
            leave.set()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_pair(core: Any, *, tls: bool = False) -> AsyncIterator[tuple[Any, Any]]:
    """Our stream, and trio's at the other end of it."""
    async with open_server(tls=tls) as (port, ends):
        with attempted():
            stream = await network_of(core)().connect_tcp("127.0.0.1", port)
            if tls:
                stream = await stream.start_tls(trusting(), "here.example")
        try:
            yield stream, await ends.receive()
        finally:
            abort_stream(stream._stream)


class attempted:
    """A call is under way in the block."""

    def __enter__(self) -> Attempt:
        own = Attempt()
        self.mark = attempt.set(own)
        self.own = own
        return own

    def __exit__(self, *raised: object) -> None:
        self.own.unshield()
        attempt.reset(self.mark)


async def read_all(stream: Any) -> bytes:
    parts = []
    try:
        while data := await stream.receive_some(1 << 16):
            parts.append(data)
    except trio.BrokenResourceError:
        pass
    return b"".join(parts)


async def read_bytes(stream: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await stream.receive_some(1 << 20)
        assert more
        data += more
    return data


def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


secure = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


# What is written


@secure
@pytest.mark.parametrize("timeout", [None, 10])
async def test_short_writes(core: Any, tls: bool, timeout: float | None) -> None:
    """What the kernel does not take at once follows, whole and in order."""
    async with open_pair(core, tls=tls) as (stream, far):
        done = False

        async def write() -> None:
            nonlocal done
            await stream.write(LARGE, timeout)
            done = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not done
            assert await read_bytes(far, len(LARGE)) == LARGE


@secure
async def test_cancelled_part_way(core: Any, tls: bool) -> None:
    """A cancelled write leaves at once, and what the peer has is a beginning of it."""
    async with open_pair(core, tls=tls) as (stream, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, LARGE)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        await stream.aclose()
        got = await read_all(far)
        assert 0 < len(got) < len(LARGE)
        assert LARGE.startswith(got)


@secure
async def test_cancelled_before(core: Any, tls: bool) -> None:
    """A call that is cancelled already writes nothing, not even what the kernel would take."""
    async with open_pair(core, tls=tls) as (stream, far):
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.write(b"small")
        assert scope.cancelled_caught
        await stream.aclose()
        assert await read_all(far) == b""


async def test_small_write_is_one_step(core: Any) -> None:
    """What the kernel takes at once costs no turn of the loop."""
    async with open_pair(core) as (stream, far):
        with Steps() as steps:
            await stream.write(b"small")
        assert steps.count == 0
        assert await far.receive_some() == b"small"


@secure
async def test_write_timeout(core: Any, tls: bool) -> None:
    """A peer that does not read is the core's WriteTimeout."""
    async with open_pair(core, tls=tls) as (stream, _far):
        with pytest.raises(core.WriteTimeout):
            await stream.write(LARGE, 0.02)


async def test_write_to_the_gone(core: Any) -> None:
    """A reset connection is the core's WriteError, with what the system says."""
    async with open_pair(core) as (stream, far):
        reset(far)
        await trio.lowlevel.wait_readable(stream.get_extra_info("socket"))
        with pytest.raises(core.WriteError, match="Errno"):
            await stream.write(b"x")


@secure
async def test_closed(core: Any, tls: bool) -> None:
    """A closed stream is a ReadError and a WriteError; closing it again is nothing."""
    async with open_pair(core, tls=tls) as (stream, _far):
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(core.WriteError, match=r"[Cc]losed"):
            await stream.write(b"x")
        with pytest.raises(core.ReadError, match=r"[Cc]losed"):
            await stream.read(10)


@secure
async def test_write_nothing(core: Any, tls: bool) -> None:
    """Writing nothing sends nothing, but ends the shield."""
    async with open_pair(core, tls=tls) as (stream, far):
        with trio.CancelScope() as scope, attempted() as own:
            own.connected(stream._stream)
            scope.cancel()
            await trio.lowlevel.checkpoint()
            await stream.write(b"")
            with pytest.raises(trio.Cancelled):
                await trio.lowlevel.checkpoint()
        assert not scope.cancelled_caught
        await stream.write(b"next")
        assert await far.receive_some() == b"next"


# What is read


@secure
@pytest.mark.parametrize("timeout", [None, 10])
async def test_read(core: Any, tls: bool, timeout: float | None) -> None:
    """At most so many bytes, then the rest, then the end."""
    async with open_pair(core, tls=tls) as (stream, far):
        await far.send_all(b"abcdef")
        assert await stream.read(4, timeout) == b"abcd"
        assert await stream.read(4, timeout) == b"ef"
        await far.aclose()
        assert await stream.read(4, timeout) == b""


@secure
async def test_read_loses_nothing(core: Any, tls: bool) -> None:
    """After a cancelled read, and one that took too long, all comes with the next."""
    async with open_pair(core, tls=tls) as (stream, far):
        with trio.move_on_after(0.01):
            await stream.read(100)
        with pytest.raises(core.ReadTimeout):
            await stream.read(100, 0.01)
        await far.send_all(b"late")
        assert await stream.read(100) == b"late"


async def test_read_from_the_gone(core: Any) -> None:
    """A reset connection is the core's ReadError, with what the system says."""
    async with open_pair(core) as (stream, far):
        reset(far)
        with pytest.raises(core.ReadError, match="reset by peer"):
            await stream.read(10)


async def test_half_closed(core: Any) -> None:
    """A peer that has sent its end still reads."""
    async with open_pair(core) as (stream, far):
        await far.send_eof()
        assert await stream.read(10) == b""
        await stream.write(b"still")
        assert await far.receive_some() == b"still"


async def test_cut_tls(core: Any) -> None:
    """A TLS connection that ends without goodbye ends, as HTTP has it."""
    async with open_pair(core, tls=True) as (stream, far):
        await far.transport_stream.aclose()
        assert await stream.read(10) == b""


async def test_garbage_in_tls(core: Any) -> None:
    """Bytes that are no TLS are a ReadError that says so."""
    async with open_pair(core, tls=True) as (stream, far):
        await far.transport_stream.send_all(b"this is no record of TLS at all")
        with pytest.raises(core.ReadError, match="SSL"):
            await stream.read(10)


@secure
async def test_both_ways(core: Any, tls: bool) -> None:
    """Large bodies both ways at once."""
    async with open_pair(core, tls=tls) as (stream, far):
        got = bytearray()

        async def read() -> None:
            while len(got) < len(LARGE):
                got.extend(await stream.read(65536))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(far.send_all, LARGE)
            nursery.start_soon(stream.write, LARGE)
            assert await read_bytes(far, len(LARGE)) == LARGE
        assert got == LARGE


# What is told


@secure
async def test_is_readable(core: Any, tls: bool) -> None:
    """Readable is a stream with something to read, at its end, or closed by us."""
    async with open_pair(core, tls=tls) as (stream, far):
        assert stream.get_extra_info("is_readable") is False
        await far.send_all(b"x")
        await trio.lowlevel.wait_readable(stream.get_extra_info("socket"))
        assert stream.get_extra_info("is_readable") is True
        await stream.read(10)
        assert stream.get_extra_info("is_readable") is False
        await far.aclose()
        await trio.lowlevel.wait_readable(stream.get_extra_info("socket"))
        assert stream.get_extra_info("is_readable") is True
        await stream.aclose()
        assert stream.get_extra_info("is_readable") is True


@secure
async def test_extra_info(core: Any, tls: bool) -> None:
    """The addresses, the socket, TLS; None for what is not known."""
    async with open_pair(core, tls=tls) as (stream, far):
        sock = (far.transport_stream if tls else far).socket
        assert stream.get_extra_info("server_addr") == sock.getsockname()
        assert stream.get_extra_info("client_addr") == sock.getpeername()
        assert stream.get_extra_info("socket").getpeername() == sock.getsockname()
        assert stream.get_extra_info("other") is None
        secret = stream.get_extra_info("ssl_object")
        assert isinstance(secret, ssl.SSLObject) if tls else secret is None


async def test_no_delay(core: Any) -> None:
    """Small writes are not held back."""
    async with open_pair(core) as (stream, _far):
        sock = stream.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# The connect


async def test_ipv6(core: Any) -> None:
    """An address of the other family, and the names in it."""
    try:
        (listener,) = await trio.open_tcp_listeners(0, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    async with listener:
        port = listener.socket.getsockname()[1]
        with attempted():
            stream = await network_of(core)().connect_tcp("::1", port)
        assert stream.get_extra_info("server_addr")[:2] == ("::1", port)
        await stream.aclose()


async def test_local_address(core: Any) -> None:
    """The connection comes from the address that is asked for."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with attempted():
            stream = await network_of(core)().connect_tcp(
                "127.0.0.1", port, local_address="127.0.0.2"
            )
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.2"
        await stream.aclose()


async def test_refused(core: Any) -> None:
    """Nobody listens: ConnectError, whose text says where and why."""
    before = descriptors()
    with attempted(), pytest.raises(core.ConnectError) as caught:
        await network_of(core)().connect_tcp("127.0.0.1", free_port())
    assert "127.0.0.1" in str(caught.value)
    assert "refused" in str(caught.value)
    assert descriptors() == before


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def open_full() -> AsyncIterator[int]:
    """A port whose queue is full: a connect to it waits."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(sock.getsockname())
        try:
            yield sock.getsockname()[1]
        finally:
            for one in fill:
                one.close()


async def test_connect_timeout(core: Any) -> None:
    """A connect that takes too long is the core's ConnectTimeout, and no socket is left."""
    async with open_full() as port:
        before = descriptors()
        with trio.fail_after(10), attempted(), pytest.raises(core.ConnectTimeout):
            await network_of(core)().connect_tcp("127.0.0.1", port, timeout=0.03)
        assert descriptors() == before


async def test_cancelled_connect(core: Any) -> None:
    """A cancelled connect leaves at once, with no socket and no shield."""
    async with open_full() as port:
        before = descriptors()
        with trio.fail_after(10), attempted(), trio.move_on_after(0.03) as scope:
            await network_of(core)().connect_tcp("127.0.0.1", port)
        assert scope.cancelled_caught
        assert descriptors() == before
        await trio.lowlevel.checkpoint()


# The shield


@secure
async def test_shielded_until_written(core: Any, tls: bool) -> None:
    """From the end of a connect or a handshake to the next byte nothing cancels; then it does."""
    async with open_server(tls=tls) as (port, ends):
        with trio.CancelScope() as scope, attempted():
            stream = await network_of(core)().connect_tcp("127.0.0.1", port)
            if tls:
                stream = await stream.start_tls(trusting(), "here.example")
            scope.cancel()
            await trio.lowlevel.checkpoint()
            with pytest.raises(trio.Cancelled):
                await stream.write(b"x")
        assert not scope.cancelled_caught  # not before the write
        await stream.aclose()
        assert await read_all(await ends.receive()) == b""


@asynccontextmanager
async def open_silent() -> AsyncIterator[tuple[int, trio.Event]]:
    """A port that never shakes hands, and the event of a connection's end."""
    closed = trio.Event()

    async def silent(stream: trio.SocketStream) -> None:
        await read_all(stream)
        closed.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            yield await serve(nursery, silent), closed
            nursery.cancel_scope.cancel()


async def test_cancelled_handshake(core: Any) -> None:
    """A cancelled handshake leaves at once, and closes its socket by itself."""
    async with open_silent() as (port, closed):
        with trio.CancelScope() as scope, attempted():
            plain = await network_of(core)().connect_tcp("127.0.0.1", port)
            scope.cancel()
            await plain.start_tls(trusting(), "here.example")
        assert scope.cancelled_caught
        assert plain.get_extra_info("socket").fileno() == -1
        await closed.wait()


async def test_handshake_timeout(core: Any) -> None:
    """One that takes too long is the core's ConnectTimeout, and its socket is closed."""
    async with open_silent() as (port, closed):
        with attempted():
            plain = await network_of(core)().connect_tcp("127.0.0.1", port)
            with pytest.raises(core.ConnectTimeout):
                await plain.start_tls(trusting(), "here.example", timeout=0.02)
            assert plain.get_extra_info("socket").fileno() == -1
            await closed.wait()


@pytest.mark.parametrize(
    ("name", "trusts", "says"),
    [
        ("there.example", True, "Hostname mismatch.*'there.example'"),
        ("here.example", False, "CERTIFICATE_VERIFY_FAILED.*unable to get local issuer"),
    ],
)
async def test_bad_certificate(core: Any, name: str, trusts: bool, says: str) -> None:
    """A wrong certificate is a ConnectError that says what is wrong, and the socket is closed."""
    async with open_server(tls=True) as (port, _ends):
        with attempted() as own:
            plain = await network_of(core)().connect_tcp("127.0.0.1", port)
            context = trusting() if trusts else ssl.create_default_context()
            with pytest.raises(core.ConnectError, match=says):
                await plain.start_tls(context, name)
            assert plain.get_extra_info("socket").fileno() == -1
            own.failed()


async def test_no_handshake(core: Any) -> None:
    """A server that hangs up, or speaks something else, is a ConnectError."""

    async def other(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def gone(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for handler in (other, gone):
                port = await serve(nursery, handler)
                with attempted():
                    plain = await network_of(core)().connect_tcp("127.0.0.1", port)
                    with pytest.raises(core.ConnectError, match=r"SSL|reset"):
                        await plain.start_tls(trusting(), "here.example")
                    assert plain.get_extra_info("socket").fileno() == -1
            nursery.cancel_scope.cancel()


async def test_server_hostname(core: Any) -> None:
    """The name goes to the server, which chooses its certificate by it."""
    asked: list[str | None] = []
    context = certified("here.example")
    context.sni_callback = lambda sock, name, context: asked.append(name)
    async with open_server(tls=True, context=context) as (port, _ends):
        with attempted():
            plain = await network_of(core)().connect_tcp("127.0.0.1", port)
            stream = await plain.start_tls(trusting(), "here.example")
        await stream.aclose()
    assert asked == ["here.example"]


@secure
async def test_failed(core: Any, tls: bool) -> None:
    """What a failed call had connected is closed, twice if need be; the pool drops its entry."""

    class Entry:
        def is_closed(self) -> bool:
            return False

    async with open_pair(core, tls=tls) as (stream, far):
        own = Attempt()
        own.made = Entry()
        own.failed()
        assert own.made.is_closed()
        own.connected(stream._stream)
        own.unshield()
        own.failed()
        own.failed()
        assert await read_all(far) == b""


async def test_without_a_call(core: Any) -> None:
    """Who has upgraded a connection writes, and starts TLS, outside of any call."""
    async with open_server(tls=True) as (port, ends):
        with attempted():
            plain = await network_of(core)().connect_tcp("127.0.0.1", port)
        assert attempt.get() is None
        stream = await plain.start_tls(trusting(), "here.example")
        await stream.write(b"hello")
        assert await (await ends.receive()).receive_some() == b"hello"
        with trio.move_on_after(0) as scope:
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        await stream.aclose()


async def test_tls_in_tls(core: Any) -> None:
    """TLS goes over TLS, as through an https proxy, and knows its socket."""
    async with open_pair(core, tls=True) as (stream, far):
        inner = trio.SSLStream(
            far, certified("inner.example"), server_side=True, https_compatible=True
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inner.do_handshake)
            both = await stream.start_tls(trusting(), "inner.example")
        await both.write(b"deep")
        assert await inner.receive_some() == b"deep"
        assert both.get_extra_info("is_readable") is False
        assert both.get_extra_info("socket") is stream.get_extra_info("socket")
        await both.aclose()
        assert await read_all(far) == b""


@clocked
async def test_sleep(core: Any) -> None:
    """The core's sleep is trio's."""
    await network_of(core)().sleep(5)
    assert trio.current_time() == 5
