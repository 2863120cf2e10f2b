"""A chat inside a program of one's own: rooms of its own making, the page, files, and a word of
the program itself.

Prints:

    the page: 200 text/html; charset=utf-8
    ada may not enter staff: no_room
    ada has uploaded notes.txt
    program: the office opens at nine
    ada has shared notes.txt
"""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

import trio_rt
from trio_rt import Refused
from trio_rt.chat import (
    PAGE,
    PAGE_POLICY,
    Chat,
    ChatRules,
    ChatService,
    FileStore,
    authorize_by,
    file_routes,
    open_chat,
    open_chat_service,
    open_upload,
    sign_token,
)
from trio_rt.http import open_client
from trio_rt.hub import Site, Who

SECRET = secrets.token_bytes(32)
STAFF = {"grace"}


class Rooms(ChatRules):
    """The staff has a room of its own."""

    async def may_join(self, who: Who, room: str) -> bool:
        is_open = room != "staff" or who.user in STAFF
        return is_open and await super().may_join(who, room)


def site(service: ChatService, directory: Path) -> Site:
    """The page, and files that whoever has a token may upload."""
    routes = file_routes(FileStore(directory), authorize_by(service.accept))
    return Site(routes, PAGE, policy=PAGE_POLICY)


async def look_at_the_page(base: str) -> None:
    async with open_client(base) as client:
        page = await client.get("/")
        print("the page:", page.status_code, page.headers["Content-Type"])


async def share(chat: Chat, base: str, token: str) -> None:
    """Upload a file, and say where it is."""
    try:
        async with chat.room("staff"):
            pass
    except Refused as refusal:
        print("ada may not enter staff:", refusal.code)
    async with open_upload(base, b"not much", name="notes.txt", token=token) as upload:
        stored = await upload.file()
    print("ada has uploaded", stored.name)
    async with chat.room("lobby") as room:
        for message in room.messages:
            print(f"{message.user.name}: {message.content}")
        said = await room.say(**stored.to_say())
        await said.wait_acked()
        print("ada has shared", said.message.metadata["name"])


async def announce(service: ChatService) -> None:
    """The program is no client: what it says goes straight into the room."""
    announcement = {"content": "the office opens at nine"}
    await service.hub.publish("lobby", announcement, type="text", user="program")


async def main(directory: Path) -> None:
    async with (
        open_chat_service(secret=SECRET, rules=Rooms) as service,
        trio.open_nursery() as nursery,
    ):
        serve = partial(
            trio_rt.serve,
            service,
            "127.0.0.1",
            0,
            accept=service.accept,
            path="/ws",
            http=site(service, directory),
        )
        server: trio_rt.Server = await nursery.start(serve)
        base = server.url.replace("ws:", "http:")
        await look_at_the_page(base)
        await announce(service)
        token = sign_token(SECRET, "ada")
        credentials = trio_rt.Credentials(token=token)
        async with open_chat(f"{server.url}/ws", credentials=credentials) as chat:
            await share(chat, base, token)
        await server.drain(over_s=0)


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        trio.run(main, Path(place))
