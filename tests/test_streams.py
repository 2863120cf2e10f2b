"""trio_rt._streams"""

from __future__ import annotations

import errno
import gc
import os
import socket
import ssl
import struct
from collections.abc import Iterator

import pytest
import trio
import trio.testing
import trustme

from trio_rt._streams import (
    NOTSENT_LOWAT_BYTES,
    READ_BYTES,
    DirectStream,
    abort_stream,
    as_direct,
    direct_stream,
)
from trio_rt._tls import TlsStream

CLOGGING = b"x" * 65_536


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a loopback connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


def direct_pair() -> tuple[DirectStream, DirectStream]:
    left, right = tcp_pair()
    return DirectStream(left), DirectStream(right)


def clog(stream: DirectStream) -> int:
    """Write until the kernel takes no more: how much it took."""
    taken = 0
    while sent := stream.try_send(CLOGGING):
        taken += sent
    return taken


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org").configure_cert(context)
    return context


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """No file descriptor is left open."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


# -- DirectStream -----------------------------------------------------------


async def test_a_direct_stream_is_a_half_closeable_trio_stream() -> None:
    """It passes trio's own conformance checks, over TCP and on a full socket."""

    async def make() -> tuple[DirectStream, DirectStream]:
        return direct_pair()

    async def make_clogged() -> tuple[DirectStream, DirectStream]:
        left, right = direct_pair()
        clog(left)
        clog(right)
        return left, right

    with trio.fail_after(20):
        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_try_send_tells_how_much_the_kernel_took() -> None:
    """A full socket takes 0 bytes, and what was taken arrives whole."""
    left, right = direct_pair()
    async with left, right:
        taken = clog(left)
        assert left.try_send(b"more") == 0
        received = 0
        with trio.fail_after(5):
            while received < taken:
                received += len(await right.receive_some())
        assert received == taken
        assert left.try_send(b"more") == 4


async def test_try_send_on_a_reset_connection_is_broken() -> None:
    """A reset shows as BrokenResourceError, also in send_all and receive_some."""
    left, right = direct_pair()
    right.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    right.abort()
    async with left:
        with trio.fail_after(5):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await left.receive_some()
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.ECONNRESET
            with pytest.raises(trio.BrokenResourceError):
                left.try_send(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await left.send_all(b"x")


async def test_try_send_does_not_get_between_the_bytes_of_send_all() -> None:
    """While another task is in send_all, try_send is busy."""
    left, right = direct_pair()
    async with left, right, trio.open_nursery() as nursery:
        clog(left)
        nursery.start_soon(left.send_all, b"late")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            left.try_send(b"x")
        nursery.cancel_scope.cancel()


async def test_nothing_can_be_sent_after_eof() -> None:
    """try_send and send_all refuse after send_eof."""
    left, right = direct_pair()
    async with left, right:
        await left.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            left.try_send(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await left.send_all(b"x")
        assert await right.receive_some() == b""


async def test_abort_wakes_whoever_waits(no_leaks: None) -> None:
    """A reader and a writer that wait get ClosedResourceError; abort may be repeated."""
    left, right = direct_pair()
    clog(left)
    ended = []

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await left.receive_some()
        ended.append("read")

    async def write() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await left.send_all(b"x")
        ended.append("write")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            left.abort()
            left.abort()
    right.abort()
    assert sorted(ended) == ["read", "write"]


async def test_every_receive_is_one_checkpoint_and_loses_nothing_by_cancelling() -> None:
    """Data that is there is not taken by a cancelled receive_some."""
    left, right = direct_pair()
    async with left, right:
        left.try_send(b"kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            await right.receive_some()
        assert scope.cancelled_caught
        with trio.testing.assert_checkpoints():
            assert await right.receive_some() == b"kept"
        assert READ_BYTES == 65_536


async def test_options_are_set_on_tcp() -> None:
    """No Nagle delay, and little unsent data in the kernel."""
    left, right = direct_pair()
    async with left, right:
        assert left.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            lowat = left.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            assert lowat == NOTSENT_LOWAT_BYTES


async def test_a_unix_socket_will_do() -> None:
    """Options that a socket of another family lacks are no error."""
    left, right = map(DirectStream, socket.socketpair())
    async with left, right:
        assert left.try_send(b"hello") == 5
        assert await right.receive_some() == b"hello"


async def test_trios_own_stream_becomes_direct_and_others_stay(no_leaks: None) -> None:
    """A SocketStream hands its socket over; another stream is left alone."""
    left, right = tcp_pair()
    ours = direct_stream(trio.SocketStream(trio.socket.from_stdlib_socket(left)))
    left.detach()
    assert isinstance(ours, DirectStream)
    assert ours.socket.getblocking() is False
    async with ours, DirectStream(right) as theirs:
        await ours.send_all(b"hello")
        assert await theirs.receive_some() == b"hello"
    memory, _ = trio.testing.memory_stream_pair()
    assert direct_stream(memory) is memory


async def test_a_stream_without_abort_is_closed_in_the_next_turn() -> None:
    """abort_stream closes what has only aclose."""
    left, right = trio.testing.memory_stream_pair()
    abort_stream(left)
    with trio.fail_after(5):
        assert await right.receive_some() == b""


# -- TlsStream --------------------------------------------------------------


async def shake(client: TlsStream, server: TlsStream) -> tuple[TlsStream, TlsStream]:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
    return client, server


def wrap(
    left: trio.abc.Stream,
    right: trio.abc.Stream,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> tuple[TlsStream, TlsStream]:
    return (
        TlsStream(left, client_context, server_hostname="example.org"),
        TlsStream(right, server_context, server_side=True),
    )


async def test_tls_over_a_socket_is_a_trio_stream(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """It passes trio's own conformance checks over a direct stream."""

    async def make() -> tuple[TlsStream, TlsStream]:
        return await shake(*wrap(*direct_pair(), client_context, server_context))

    with trio.fail_after(20):
        await trio.testing.check_two_way_stream(make, None)
        client, server = await make()
        async with client, server:
            assert as_direct(client) is client


async def test_tls_over_any_stream_is_a_trio_stream(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """It passes trio's own conformance checks over a stream that is not direct."""

    async def make() -> tuple[TlsStream, TlsStream]:
        pair = trio.testing.memory_stream_pair()
        return await shake(*wrap(*pair, client_context, server_context))

    with trio.fail_after(20):
        await trio.testing.check_two_way_stream(make, None)
        client, _ = await make()
    assert as_direct(client) is None
    assert client.try_send(b"x") == 0


async def test_tls_keeps_the_ciphertext_that_the_kernel_did_not_take(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """`pending` is 0 only once all is out; more plaintext is refused until then."""
    client, server = await shake(*wrap(*direct_pair(), client_context, server_context))
    async with client, server:
        sent = 0
        while not client.pending:
            sent += client.try_send(CLOGGING)
        assert client.try_send(b"more") == 0
        received = bytearray()

        async def read() -> None:
            while len(received) < sent + 4:
                received.extend(await server.receive_some())

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await client.flush()
                assert client.pending == 0
                assert client.try_send(b"last") == 4
        assert received == b"x" * sent + b"last"


async def test_writable_and_an_empty_try_move_the_ciphertext_along(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """wait_send_all_might_not_block and try_send(b"") are enough to flush."""
    client, server = await shake(*wrap(*direct_pair(), client_context, server_context))
    async with client, server, trio.open_nursery() as nursery:
        while not client.pending:
            client.try_send(CLOGGING)

        async def read() -> None:
            while True:
                await server.receive_some()

        nursery.start_soon(read)
        with trio.fail_after(5):
            while client.pending:
                await client.wait_send_all_might_not_block()
                assert client.try_send(b"") == 0
        assert client.pending == 0
        nursery.cancel_scope.cancel()


async def test_an_end_without_close_notify_is_broken(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """A ragged end of file is no orderly end; what came before is delivered."""
    client, server = await shake(*wrap(*direct_pair(), client_context, server_context))
    async with client:
        server.try_send(b"hello")
        server.abort()
        with trio.fail_after(5):
            assert await client.receive_some() == b"hello"
            with pytest.raises(trio.BrokenResourceError, match="close_notify"):
                await client.receive_some()


async def test_a_close_notify_is_an_orderly_end(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """After the peer's aclose, receive_some gives b""."""
    client, server = await shake(*wrap(*direct_pair(), client_context, server_context))
    async with client:
        await server.aclose()
        with trio.fail_after(5):
            assert await client.receive_some() == b""


async def test_garbage_inside_tls_is_broken(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """A record that cannot be decrypted raises BrokenResourceError, the SSLError chained."""
    client, server = await shake(*wrap(*direct_pair(), client_context, server_context))
    async with client, server:
        await server.lower.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
            await client.receive_some()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        # The alert that reading made went out by itself.
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match=r"(?i)alert"):
            await server.receive_some()


async def test_a_part_of_a_record_is_heard(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """Ciphertext that gives no plaintext yet shows that the peer lives."""
    client, server = await shake(*wrap(*direct_pair(), client_context, server_context))
    async with client, server:
        before = client.heard_at
        await server.lower.send_all(b"\x17\x03\x03\x00\x20" + bytes(31))
        with trio.move_on_after(0.1) as scope:
            await client.receive_some()
        assert scope.cancelled_caught
        assert client.heard_at > before


async def test_a_wrong_host_name_fails_the_handshake_on_both_sides(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """The client chains SSLCertVerificationError, and its alert reaches the server."""
    left, right = direct_pair()
    client = TlsStream(left, client_context, server_hostname="example.com")
    server = TlsStream(right, server_context, server_side=True)
    causes: dict[str, BaseException | None] = {}

    async def use(stream: TlsStream) -> None:
        await stream.do_handshake()
        await stream.receive_some()

    async def fail(name: str, stream: TlsStream) -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await use(stream)
        causes[name] = caught.value.__cause__

    async with client, server:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail, "client", client)
                nursery.start_soon(fail, "server", server)
    assert isinstance(causes["client"], ssl.SSLCertVerificationError)
    assert isinstance(causes["server"], ssl.SSLError)


async def test_a_cancelled_tls_send_breaks_the_stream(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """Half a record is never followed by another one."""
    client, server = await shake(*wrap(*direct_pair(), client_context, server_context))
    async with client, server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, b"x" * (16 << 20))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            client.try_send(b"x")


async def test_both_directions_of_tls_work_at_once(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """Many large TLS messages in both directions at once arrive whole."""
    client, server = await shake(*wrap(*direct_pair(), client_context, server_context))
    data = os.urandom(1 << 20)
    received: dict[TlsStream, bytearray] = {client: bytearray(), server: bytearray()}

    async def read(stream: TlsStream) -> None:
        while len(received[stream]) < len(data):
            received[stream] += await stream.receive_some()

    async with client, server:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, client)
                nursery.start_soon(read, server)
                nursery.start_soon(client.send_all, data)
                nursery.start_soon(server.send_all, data)
    assert received[client] == received[server] == data


async def test_closing_tls_before_the_handshake_closes_the_socket(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, no_leaks: None
) -> None:
    """aclose and aclose_forcefully work on a stream that never shook hands."""
    client, server = wrap(*direct_pair(), client_context, server_context)
    with trio.fail_after(5):
        await client.aclose()
        await trio.aclose_forcefully(server)
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()
    assert isinstance(client.lower, DirectStream)
    assert client.lower.socket.fileno() == -1
