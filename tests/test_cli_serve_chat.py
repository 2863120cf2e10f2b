"""`trio-rt serve --chat`: the chat, its page and its files from one process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import httpx
import pytest
import trio
from click.testing import CliRunner

from trio_rt import ConnectionFailed, Credentials, Refused
from trio_rt.chat import Spoken, open_chat, sign_token
from trio_rt.cli._serve_command import serve

from .test_cli_serve import COMMAND, POSIX, serving

pytestmark = POSIX

SECRET: Final = "canary-of-the-secret-0123456789-0123456789"


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return str(path)


def token(user: str) -> Credentials:
    return Credentials(token=sign_token(SECRET, user))


async def test_a_page_and_a_chat() -> None:
    """Guests talk, the page is there with a strict policy, and nothing else of the package is."""
    async with serving("--chat") as served:
        base = f"http://127.0.0.1:{served.port}"
        async with httpx.AsyncClient(base_url=base) as client:
            page = await client.get("/")
            assert page.headers["Content-Type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            for path in ("trio-rt.js", "app.js", "style.css"):
                assert (await client.get(f"/{path}")).status_code == 200
            for path in ("__init__.py", "../chat/models.py", "files"):
                assert (await client.get(f"/{path}")).status_code == 404
        async with (
            open_chat(served.url) as ada,
            open_chat(served.url) as bob,
            ada.room("lobby") as room,
            bob.room("lobby") as other,
        ):
            with other.events() as events:
                await room.say("hello")
                async for event in events:
                    if isinstance(event, Spoken):
                        assert event.message.content == "hello"
                        break
        served.process.terminate()
        assert await served.process.wait() == 0


async def test_tokens(secret_file: str) -> None:
    """Who has one is that user; who has none, or a wrong one, is not let in."""
    async with serving("--chat", "--secret-file", secret_file) as served:
        async with (
            open_chat(served.url, credentials=token("ada")) as chat,
            chat.room("lobby") as room,
        ):
            assert room.me.id == "ada"
        for wrong in (
            None,
            Credentials(token="x.y.z"),
            Credentials(token=sign_token("y" * 40, "a")),
        ):
            with pytest.raises(ConnectionFailed):
                async with open_chat(served.url, credentials=wrong) as chat:
                    await chat.conn.wait_connected()
        served.process.terminate()
        assert await served.process.wait() == 0
        assert b"canary" not in served.errors


async def test_owners_and_what_they_decide(secret_file: str, tmp_path: Path) -> None:
    """A ban outlives the process."""
    options = ("--secret-file", secret_file, "--standings", str(tmp_path / "standings"))
    async with serving("--chat", *options, "--owner", "lobby=ada", "--owner", "den=bob") as served:
        async with (
            open_chat(served.url, credentials=token("ada")) as chat,
            chat.room("lobby") as room,
            chat.room("den") as den,
        ):
            await room.moderate("ban", "mallory")
            with pytest.raises(Refused, match="forbidden"):
                await den.moderate("ban", "mallory")
        served.process.send_signal(signal.SIGTERM)
        assert await served.process.wait() == 0
    async with (
        serving("--chat", *options) as served,
        open_chat(served.url, credentials=token("mallory")) as chat,
    ):
        with pytest.raises(Refused, match="no_room"):
            async with chat.room("lobby"):
                pass
        async with chat.room("den"):
            pass


async def test_files(secret_file: str, tmp_path: Path) -> None:
    """Who has a token uploads, and whoever has the address reads."""
    directory = tmp_path / "files"
    options = ("--secret-file", secret_file, "--files", str(directory))
    async with serving("--chat", *options) as served:
        base = f"http://127.0.0.1:{served.port}"
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": "2000000",
            "Upload-Metadata": "filename aS50eHQ=",
            "Content-Type": "application/offset+octet-stream",
        }
        known = {"Authorization": f"Bearer {sign_token(SECRET, 'ada')}"}
        async with httpx.AsyncClient(base_url=base) as client:
            refused = await client.post("/files", headers=headers, content=b"x")
            assert refused.status_code == 401
            content = b"x" * 2_000_000
            made = await client.post("/files", headers={**headers, **known}, content=content)
            assert made.status_code == 201
            found = await client.get(made.headers["Content-Location"])
            assert (found.content, found.headers["Content-Disposition"][:10]) == (
                content,
                "attachment",
            )
        assert any(directory.rglob("*"))


async def test_a_directory_that_cannot_be_one(tmp_path: Path) -> None:
    """That is said in one line, and with the status of a wrong command line."""
    path = tmp_path / "file"
    path.write_text("")
    with trio.fail_after(30):
        done = await trio.run_process(
            [*COMMAND, "--port", "0", "--chat", "--files", str(path / "below")],
            capture_stderr=True,
            capture_stdout=True,
            check=False,
        )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--owner", "lobby=ada"),
        ("--files", "x"),
        ("--standings", "x"),
        ("--secret-file", __file__),
        ("--chat", "--owner", "lobby"),
        ("--chat", "--owner", "=ada"),
        ("--chat", "--secret-file", __file__),
        ("--chat", "--secret-file", __file__, "--token-file", __file__),
    ],
)
def test_bad_options(arguments: tuple[str, ...]) -> None:
    """Each is said, with exit status 2."""
    done = CliRunner().invoke(serve, arguments)
    assert done.exit_code == 2, done.output
    assert "Error: " in done.output
