"""Credentials that expire: a fresh token when the server refuses the old one.

    python examples/token_refresh.py

`credentials` is asked before every dial, and told whether the server has just
refused what it gave last (401 here; 1008, 3000 or 4401 if it closes a link).
If fresh ones are refused too, it is for good, and `connect()` raises.
"""

from __future__ import annotations

from functools import partial

import trio

import trio_rt
from trio_rt import Attempt, Credentials, CredentialsRefused, Handshake, Message, Refuse
from trio_rt.testing import VirtualNetwork, run


class Accounts:
    """The server's side: it issues tokens, and forgets them."""

    def __init__(self) -> None:
        self.users_by_token: dict[str, str] = {}
        self.locked = False
        self._issued = 0

    async def log_in(self, user: str) -> str:
        """Stands for a request over HTTPS, with a secret in it."""
        await trio.sleep(0.1)
        self._issued += 1
        token = f"token-{self._issued}"
        if not self.locked:
            self.users_by_token[token] = user
        return token

    async def check(self, handshake: Handshake) -> str:
        """The accept hook. What it returns is the peer's `identity`."""
        token = handshake.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.users_by_token:
            print(f"server: 401, {token} is not good")
            raise Refuse(401)
        print(f"server: {token} is good")
        return self.users_by_token[token]

    async def welcome(self, peer: trio_rt.Peer) -> None:
        await peer.send("welcome", peer.identity)
        await trio.sleep_forever()


class Login:
    """The client's side: it keeps a token for as long as the server takes it."""

    def __init__(self, accounts: Accounts, user: str) -> None:
        self._accounts = accounts
        self._user = user
        self._token: str | None = None

    async def credentials(self, attempt: Attempt) -> Credentials:
        if self._token is None or attempt.refused:
            self._token = await self._accounts.log_in(self._user)
        return Credentials(token=self._token)


async def listen(conn: trio_rt.Connection) -> None:
    with conn.subscribe("welcome") as stream:
        async for item in stream:
            if isinstance(item, Message):
                print(f"client: I am {item.payload}")


async def break_things(network: VirtualNetwork, accounts: Accounts) -> None:
    """A minute of peace before each."""
    await trio.sleep(60)
    print("-- the link is cut")
    network.cut()
    await trio.sleep(60)
    print("-- the token expires, and the link is cut")
    accounts.users_by_token.clear()
    network.cut()
    await trio.sleep(60)
    print("-- the account is locked, and the link is cut")
    accounts.users_by_token.clear()
    accounts.locked = True
    network.cut()


async def main() -> None:
    network, accounts = VirtualNetwork(seed=1), Accounts()
    login = Login(accounts, "ada")
    serve = partial(trio_rt.serve_listeners, accept=accounts.check)
    async with trio.open_nursery() as nursery:
        listener = network.listen("server", 80)
        server: trio_rt.Server = await nursery.start(serve, accounts.welcome, [listener])
        nursery.start_soon(break_things, network, accounts)
        try:
            async with trio_rt.connect(
                "ws://server", credentials=login.credentials, open_stream=network.open_stream
            ) as conn:
                await listen(conn)
        except CredentialsRefused as error:
            print(f"client: gave up: {error}")
        await server.drain()


if __name__ == "__main__":
    run(main, seed=1)
