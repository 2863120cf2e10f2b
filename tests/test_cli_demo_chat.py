"""`trio-rt demo --chat`: it is alive, greets who comes, and goes on over cut links."""

from __future__ import annotations

import re

import httpx
import pytest
import trio
from click.testing import CliRunner

from trio_rt.chat import Spoken, open_chat
from trio_rt.cli._commands import command
from trio_rt.cli.demo_chat import SCRIPT, ChatPlan, run_chat_demo

CAP_S = 30


@pytest.mark.parametrize("cut", [False, True])
async def test_it_is_alive(cut: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Its page is there, its users talk in turn, and who says something is greeted."""
    # Links that are cut need the time to come back, on a busy machine, too.
    plan = ChatPlan(cut=cut, pace_s=0.2 if cut else 0.05)
    with trio.fail_after(CAP_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_chat_demo, plan)
            said = ""
            while "Ctrl-C" not in said:
                await trio.sleep(0.01)
                said += capsys.readouterr().out
            page = re.search(r"http://\S+", said)
            place = re.search(r"ws://\S+", said)
            assert page is not None
            assert place is not None
            async with httpx.AsyncClient() as client:
                assert "<title>" in (await client.get(page[0])).text
            async with open_chat(place[0]) as chat:
                await chat.set_profile(name="Edsger")
                await _listen(chat)
            nursery.cancel_scope.cancel()
    if cut:
        assert "their links are cut" in capsys.readouterr().out


async def _listen(chat: object) -> None:
    lines = {text for _, text in SCRIPT}
    heard: set[str] = set()
    async with chat.room("lobby") as room:  # type: ignore[attr-defined]
        with room.events() as events:
            await room.say("hello everybody")
            async for event in events:
                if isinstance(event, Spoken):
                    heard.add(event.message.content)
                if "hello Edsger, nice to see you" in heard and len(heard & lines) > 5:
                    return


async def test_it_ends_by_itself() -> None:
    """After its time, with status 0."""
    with trio.fail_after(CAP_S):
        assert await run_chat_demo(ChatPlan(seconds=0.1)) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cut",),
        ("--port", "1"),
        ("--chat", "--cuts", "3"),
        ("--chat", "--plain"),
        ("--chat", "--json"),
    ],
)
def test_bad_options(arguments: tuple[str, ...]) -> None:
    """What does not go together is said, with exit status 2."""
    done = CliRunner().invoke(command, ["demo", *arguments])
    assert done.exit_code == 2
    assert "--chat" in done.output
