"""TLS, with a certificate authority of one's own at both ends.

    python examples/howto/tls.py

A public server needs none of this: `wss://` and no `ssl_context` is the `ssl`
module's default, which knows the system's authorities. `trustme` makes the
certificates here; it comes with the extra `dev`.

Prints:

    without the authority: ServerRefused
    with it: hello
"""

from __future__ import annotations

import ssl
from functools import partial

import trio
import trustme

import trio_rt
from trio_rt import Message, ServerRefused


def make_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """One for the server, which has the certificate, and one for the client, which trusts it."""
    authority = trustme.CA()
    for_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(for_server)
    for_client = ssl.create_default_context()
    authority.configure_trust(for_client)
    return for_server, for_client


async def greet(peer: trio_rt.Peer) -> None:
    await peer.send("greeting", "hello")
    await trio.sleep_forever()


async def receive_greeting(url: str, ssl_context: ssl.SSLContext | None) -> str:
    async with trio_rt.connect(url, ssl_context=ssl_context) as conn:
        with conn.subscribe("greeting", as_=str) as stream:
            item = await stream.receive()
            assert isinstance(item, Message)
            return item.payload


async def main() -> None:
    for_server, for_client = make_contexts()
    serve = partial(trio_rt.serve, ssl_context=for_server, close_timeout_s=0.1)
    async with trio.open_nursery() as nursery:
        server: trio_rt.Server = await nursery.start(serve, greet, "127.0.0.1", 0)
        try:
            await receive_greeting(server.url, None)
        except ServerRefused:
            print("without the authority: ServerRefused")
        print("with it:", await receive_greeting(server.url, for_client))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
