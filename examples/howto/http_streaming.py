"""Bodies that are not held in memory, down and up.

    python examples/howto/http_streaming.py

Prints:

    row 99
    row 199
    row 299
    received: first second third
    the body has more bytes than 1000
"""

from __future__ import annotations

from functools import partial

import trio

from trio_rt import BodyTooLarge, http


async def download(client: http.Client) -> None:
    async with client.stream("GET", "/rows", timeout_s=60) as response:
        async for line in response.aiter_lines():
            if line.endswith("99"):
                print(line)


async def upload(client: http.Client) -> None:
    send, receive = trio.open_memory_channel[bytes](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, send)
        response = await client.post("/rows", content=receive)
    print("received:", response.text)


async def produce(send: trio.MemorySendChannel[bytes]) -> None:
    async with send:
        for row in (b"first ", b"second ", b"third"):
            await send.send(row)


async def be_careful(client: http.Client) -> None:
    try:
        await client.get("/rows")
    except BodyTooLarge as error:
        print(error)


async def serve(stream: trio.SocketStream) -> None:
    """As much of HTTP as this needs."""
    data = b""
    while more := await stream.receive_some():
        data += more
        head, _, body = data.partition(b"\r\n\r\n")
        if head.startswith(b"POST") and not body.endswith(b"0\r\n\r\n"):
            continue
        data = b""
        answer = b"".join(body.split(b"\r\n")[1::2])  # between the sizes of the chunks
        if head.startswith(b"GET"):
            answer = b"".join(b"row %d\n" % number for number in range(300))
        length = b"Content-Length: %d" % len(answer)
        await stream.send_all(b"\r\n".join([b"HTTP/1.1 200 OK", length, b"", answer]))


async def serve_some(stream: trio.SocketStream) -> None:
    try:
        await serve(stream)
    except trio.BrokenResourceError:
        pass  # somebody did not want all of it


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve_some, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with http.open_client(url) as client:
            await download(client)
            await upload(client)
        async with http.open_client(url, max_body_bytes=1000) as client:
            await be_careful(client)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
