"""The chat's page, in Chromium, at the sizes of a phone and of a desk."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from tests.net.support import requires
from trio_rt.chat import sign_token

from .browser import DESK, Page, open_browser
from .support import (
    PAGE,
    PHONE,
    SECRET,
    Chat,
    contents,
    open_chat_world,
    png,
    say,
    sign_in,
)

pytestmark = requires("chromium")

#: For one test, the start of its browser included.
LIMIT_S: Final = 60.0

AUDIT: Final = (Path(__file__).parent / "audit.js").read_text()
ROOM: Final = (Path(__file__).parent / "room.js").read_text()

#: The state of the connection, as it is shown.
STATE: Final = "document.querySelector('#status').dataset.state"

#: What no page may do, whatever it is told.
TRAPS: Final = "window.pwned ?? null"


@asynccontextmanager
async def chatting(folder: Path, **options: Any) -> AsyncIterator[Chat]:
    with trio.fail_after(LIMIT_S):
        async with (
            open_browser(folder) as browser,
            open_chat_world(browser, folder, **options) as chat,
        ):
            yield chat


def shows(text: str) -> str:
    """Whether a message with exactly this text is there."""
    return f"[...document.querySelectorAll('.msg .body')].some((b) => b.innerText === {json.dumps(text)})"


def has(selector: str, text: str) -> str:
    """Whether this is to be read there; marks of direction around names are left out."""
    found = f"document.querySelector({json.dumps(selector)})?.innerText"
    return f"{found}?.replace(/[\u2068\u2069]/g, '').includes({json.dumps(text)})"


async def use(page: Page, text: str, tool: str) -> None:
    """Choose an action for the message with this text, from the keyboard, once it is sent."""
    item = f"[...document.querySelectorAll('.msg:not(.waits)')].find((m) => m.innerText.includes({json.dumps(text)}))"
    await page.wait(f"{item} !== undefined")
    await page.eval(f"{item}.focus()")
    await page.eval(f"""document.querySelector('#tools button[aria-label="{tool}"]').click()""")


async def is_clean(page: Page) -> bool:
    """Nothing failed in the page but its link, and nothing was forbidden by its policy."""
    others = [error for error in page.errors if "WebSocket connection to" not in error]
    assert others == []
    assert await page.violations() == []
    return True


async def test_two_pages_talk(tmp_path: Path) -> None:
    """Messages, typing, replies, reactions, edits and deletions get from a desk to a phone."""
    async with chatting(tmp_path) as chat:
        ada, bob = await chat.enter("Ada", size=DESK), await chat.enter("Bob", size=PHONE)
        await ada.wait(has("#about", "2 members"))
        await ada.type("first ")
        await bob.wait(has("#typing.on", "Ada is typing"))
        await ada.press("Enter", shift=True)
        await say(ada, "second")
        await bob.wait(shows("first \nsecond"))
        await bob.wait("!document.querySelector('#typing').classList.contains('on')")
        await bob.wait(has("#live", "Ada: first second"))
        await use(bob, "second", "Reply")
        await say(bob, "an answer")
        await ada.wait(has(".quote", "Ada: first second"))
        assert await ada.text(".msg:last-child .name") == "Bob"
        await use(ada, "an answer", "React with 👍")
        await bob.wait(has(".marks", "1"))
        await use(bob, "an answer", "Edit")
        assert await bob.eval("document.querySelector('#text').value") == "an answer"
        await bob.eval("document.querySelector('#text').value = ''")
        await say(bob, "a better one")
        for page in (ada, bob):
            await page.wait(shows("a better one"))
        assert "edited" in await ada.text(".msg:last-child")
        await use(bob, "a better one", "Delete")
        await ada.wait(shows("This message was deleted."))
        await say(bob, "/me leaves")
        await ada.wait(shows("Bob leaves"))
        assert await contents(bob) == await contents(ada)
        assert await is_clean(ada)
        assert await is_clean(bob)


async def test_rooms_and_unread(tmp_path: Path) -> None:
    """What is said in a room that is not looked at is counted, and marked as new when it is."""
    async with chatting(tmp_path) as chat:
        ada, bob = await chat.enter("Ada"), await chat.enter("Bob", size=PHONE)
        await say(ada, "before")
        await bob.wait(shows("before"))
        await bob.click("#side-open")
        await bob.type("quiet place", "#join-name")
        await bob.press("Enter")
        await bob.wait("document.querySelector('#title').innerText === 'quiet place'")
        await say(ada, "one", "two", "three")
        await bob.wait("document.title === '(3) quiet place · Chat'")
        await bob.wait("!document.querySelector('#side-unread').hidden")
        await bob.click("#side-open")
        assert await bob.text("[data-room=lobby] .count") == "3\nunread"
        await bob.eval("document.querySelector('[data-room=lobby]').click()")
        await bob.wait(shows("three"))
        shown = await bob.eval(
            "[...document.querySelectorAll('#messages > li')].map((i) => i.querySelector('.body')?.innerText ?? i.innerText)"
        )
        assert shown == ["Today", "before", "New", "one", "two", "three"]
        await bob.wait("document.title === 'lobby · Chat'")
        await bob.eval("history.back()")
        await bob.wait("document.querySelector('#title').innerText === 'quiet place'")
        await bob.load(f"{chat.url}?again#lobby")
        await bob.wait(shows("three"))
        assert await bob.eval("document.querySelectorAll('.room').length") == 2
        assert await is_clean(bob)


async def test_members_have_names_and_a_status(tmp_path: Path) -> None:
    """Users are shown by name; those of one name with their ids, too; a new name is told."""
    async with chatting(tmp_path) as chat:
        ada, bob = await chat.enter("Ada"), await chat.enter("Ada")
        await ada.wait(has("#about", "2 members"))
        await ada.click("#people-open")
        await ada.wait("document.querySelectorAll('.member').length === 2")
        small = await ada.eval(
            "[...document.querySelectorAll('.member small')].map((s) => s.innerText)"
        )
        assert all("guest-" in text for text in small)
        await bob.click("#me")
        await bob.eval("document.querySelector('#sign-name').value = 'Grace'")
        await bob.click("#sign-form .wide")
        await ada.wait(has("#members", "Grace"))
        await say(bob, "under a new name")
        await ada.wait(has(".msg:last-child .name", "Grace"))
        assert await is_clean(ada)


async def test_files(tmp_path: Path) -> None:
    """A picture is shown, another file is a link with its size; both get to the other page."""
    async with chatting(tmp_path) as chat:
        ada, bob = await chat.enter("Ada", size=PHONE), await chat.enter("Bob")
        text = tmp_path / "no<b>tes.txt"
        text.write_bytes(b"x" * 1_234_567)
        await ada.choose_files("#files", png(tmp_path / "sea.png"))
        await bob.wait("document.querySelector('.shot img')?.naturalWidth === 64")
        assert await bob.eval("document.querySelector('.shot img').alt") == "sea.png"
        await ada.choose_files("#files", text)
        await ada.wait("document.querySelector('.up progress')?.value > 0")
        await bob.wait(has(".file", "1.2 MB"))
        assert (await bob.text(".file bdi")).startswith("no")
        link = await bob.eval(
            "(({ href, rel }) => [new URL(href).origin + '/', rel])(document.querySelector('.file'))"
        )
        assert link == [chat.url, "noopener noreferrer"]
        size = await bob.eval(
            "fetch(document.querySelector('.file').href).then((a) => a.blob()).then((b) => b.size)"
        )
        assert size == 1_234_567
        for kind, event in (("DragEvent", "drop"), ("ClipboardEvent", "paste")):
            await ada.eval(DROP % (event, kind, event))
            await bob.wait(has(".msg:last-child .file", f"{event}.txt"))
        await ada.wait("document.querySelectorAll('.up').length === 0")
        assert await is_clean(ada)
        assert await is_clean(bob)


#: A file that is dropped on the field, or pasted into it.
DROP: Final = """(() => {
  const data = new DataTransfer();
  data.items.add(new File(["some text"], "%s.txt", { type: "text/plain" }));
  const init = { dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true };
  document.querySelector("#text").dispatchEvent(new %s("%s", init));
})()"""


async def test_a_file_that_is_refused(tmp_path: Path) -> None:
    """Why is shown, and it can be tried again or dismissed; nothing is said in the room."""
    async with chatting(tmp_path, guests_upload=False) as chat:
        ada = await chat.enter("Ada")
        await ada.choose_files("#files", png(tmp_path / "sea.png"))
        await ada.wait(has(".up.bad", "users with a token only"))
        assert await ada.eval(AUDIT) == []
        await ada.click(".again")
        await ada.wait(has(".up.bad", "users with a token only"))
        await ada.click(".up .icon")
        assert await ada.eval("document.querySelectorAll('.up').length") == 0
        bob = await chat.browser.open(f"{chat.url}#lobby")
        await sign_in(bob, "Bob", sign_token(SECRET, "bob"))
        await bob.choose_files("#files", png(tmp_path / "sea.png"))
        await ada.wait("document.querySelector('.shot img')?.naturalWidth === 64")
        assert await ada.text(".msg .name") == "Bob"
        assert await bob.eval("JSON.stringify({...localStorage}).includes('eyJ')") is False


async def test_cut_and_restored(tmp_path: Path) -> None:
    """What is said without a link waits, can be taken back, and comes once, in order."""
    async with chatting(tmp_path) as chat:
        ada, bob = await chat.enter("Ada", size=PHONE), await chat.enter("Bob")
        await say(ada, "before")
        await bob.wait(shows("before"))
        chat.relay.refuse()
        chat.relay.rst()
        await ada.wait(f"{STATE} === 'wait'")
        await say(ada, "one", "two", "three")
        await ada.wait(has("#banner", "3 messages wait"))
        await ada.wait(has("#banner", "next try in"))
        assert await ada.eval("document.querySelectorAll('.msg.waits').length") == 3
        await ada.eval("document.querySelectorAll('.msg.waits .own button')[1].click()")
        await ada.wait(has("#banner", "2 messages wait"))
        chat.relay.accept()
        await ada.click("#try-now")
        await ada.wait(f"{STATE} === 'on'")
        await bob.click("#try-now")
        await bob.wait(shows("three"))
        assert await contents(bob) == await contents(ada) == ["before", "one", "three"]
        for number in range(20):
            await say(ada, f"number {number}")
            if number % 7 == 3:
                chat.relay.cut_after(number)
        await bob.wait(shows("number 19"), 30)
        wanted = ["before", "one", "three", *(f"number {number}" for number in range(20))]
        assert await contents(bob) == wanted
        await ada.wait("document.querySelectorAll('.msg.waits').length === 0")
        assert await contents(ada) == wanted
        assert await is_clean(ada)


async def test_a_bad_token(tmp_path: Path) -> None:
    """One that cannot be a token is not tried; with one that is refused the page says so."""
    async with chatting(tmp_path) as chat:
        page = await chat.browser.open(f"{chat.url}#lobby")
        await page.wait("document.querySelector('#sign').open")
        await page.eval("document.querySelector('#sign-more').open = true")
        await page.type("no token", "#sign-token")
        await page.press("Enter")
        await page.wait(has("#sign-error", "That is no token"))
        await page.eval("document.querySelector('#sign-token').value = 'not.signed.well'")
        await page.press("Enter")
        await page.wait(has("#banner", "Is the token good?"))
        assert await page.eval(AUDIT) == []
        await page.click("#me")
        token = sign_token(SECRET, "ada", name="Ada")
        await page.eval(f"document.querySelector('#sign-token').value = {json.dumps(token)}")
        await page.click("#sign-form .solid")
        await page.wait(has("#me-name", "Ada"))
        assert await page.text("#me-id") == "ada"
        assert await page.violations() == []


async def test_leaving_a_room(tmp_path: Path) -> None:
    """A room that is left is gone from the list, and can be joined again."""
    async with chatting(tmp_path) as chat:
        ada, bob = await chat.enter("Ada"), await chat.enter("Bob")
        await say(ada, "before")
        await bob.wait(shows("before"))
        await bob.type("garden", "#join-name")
        await bob.press("Enter")
        await bob.eval("document.querySelector('[aria-label=\"Leave lobby\"]').click()")
        await bob.wait("document.querySelectorAll('.room').length === 1")
        await say(ada, "meanwhile")
        await bob.type("lobby", "#join-name")
        await bob.press("Enter")
        await bob.wait(shows("meanwhile"))
        assert await contents(bob) == ["before", "meanwhile"]
        await say(bob, "back")
        await ada.wait(shows("back"))
        assert await is_clean(bob)


async def test_a_lost_session(tmp_path: Path) -> None:
    """A guest that the hub has forgotten is another user, with its name, and nothing is twice."""
    async with chatting(tmp_path, keep_s=0.05) as chat:
        ada, bob = await chat.enter("Ada"), await chat.enter("Bob")
        await say(ada, "before")
        await bob.wait(shows("before"))
        first = await ada.text("#me-id")
        chat.relay.refuse()
        chat.relay.rst()
        await ada.wait(f"{STATE} === 'wait'")
        await say(ada, "while it was away", "and more")
        await trio.sleep(0.3)
        chat.relay.accept()
        await ada.click("#try-now")
        await bob.click("#try-now")
        await bob.wait(shows("and more"), 30)
        await ada.wait("document.querySelectorAll('.msg.waits').length === 0")
        assert (
            await contents(ada)
            == await contents(bob)
            == ["before", "while it was away", "and more"]
        )
        assert await ada.text("#me-id") != first
        await bob.wait(has(".msg:last-child, .msg.head:nth-last-child(2)", "Ada"))
        assert await is_clean(ada)


async def test_what_is_refused_is_shown(tmp_path: Path) -> None:
    """A message that the service will not have says why, and can be dismissed."""
    async with chatting(tmp_path) as chat:
        ada = await chat.enter("Ada")
        user = await ada.text("#me-id")
        await chat.service.moderate("lobby", "mute", user)
        await ada.wait(has(".note", "is muted"))
        await say(ada, "hello?")
        await ada.wait(has(".msg.failed", "you are muted"))
        assert await ada.eval(AUDIT) == []
        await chat.service.moderate("lobby", "unmute", user)
        await ada.eval("document.querySelector('.msg.failed .own button').click()")
        await ada.wait("document.querySelector('.msg.failed, .msg.waits') === null")
        await say(ada, "x" * 16_400)
        await ada.wait(has("#notice", "too long by 16 bytes"))
        await chat.service.moderate("lobby", "ban", user)
        await ada.wait(has("#empty-text", "You cannot be in this room"))
        assert await is_clean(ada)


async def test_many_messages(tmp_path: Path) -> None:
    """Of 10,000 messages a bounded number is on the page, and scrolling jumps nowhere."""
    async with chatting(tmp_path) as chat:
        ada, bob = await chat.enter("Ada", size=PHONE), await chat.enter("Bob")
        for number in range(10_000):
            body = {"content": f"message {number}", "name": "Robot"}
            await chat.service.hub.publish("lobby", body, type="text", user="robot")
        await ada.wait(shows("message 9999"), 30)
        count = "document.querySelectorAll('#messages > li').length"
        assert await ada.eval(count) < 300
        # Up: what is under the reader's eyes stays where it is.
        drift = await ada.eval(SCROLL_UP)
        assert drift["most"] <= 2
        assert drift["reached"] < 9_000
        # At the very top there is more above, and one is not at its top.
        await ada.eval("document.querySelector('#scroller').scrollTop = 0")
        await ada.wait("document.querySelector('#scroller').scrollTop > 500")
        assert await ada.eval(count) < 300
        await chat.service.hub.publish("lobby", {"content": "news"}, type="text", user="robot")
        await ada.wait(has("#newer", "1 new"))
        assert not await ada.eval(shows("news"))
        await ada.click("#newer")
        await ada.wait(shows("news"))
        assert await ada.eval("document.querySelector('#newer').hidden")
        await say(bob, "still here")
        await ada.wait(shows("still here"))
        assert await is_clean(ada)


#: How far what is in a button or in a round picture is from its middle, at most.
OFF_CENTRE: Final = """(() => {
  const middle = ({ left, right, top, bottom }) => [(left + right) / 2, (top + bottom) / 2];
  const inside = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    return node.querySelector("svg")?.getBoundingClientRect() ?? range.getBoundingClientRect();
  };
  const off = (node) => {
    const [box, content] = [node.getBoundingClientRect(), inside(node)].map(middle);
    return Math.max(...box.map((place, axis) => Math.abs(place - content[axis])));
  };
  const shown = [...document.querySelectorAll(".icon, .face")].filter((node) => node.checkVisibility());
  return shown.length < 5 ? NaN : Math.max(...shown.map(off));
})()"""

#: Scrolls up in steps for 1000 messages; how far anything moved that should not have.
SCROLL_UP: Final = """(async () => {
  const scroller = document.querySelector("#scroller");
  const frame = () => new Promise((next) => setTimeout(next, 20));
  const top = () => [...document.querySelectorAll(".msg")].find((item) => item.getBoundingClientRect().bottom > scroller.getBoundingClientRect().top + 5);
  let most = 0;
  let reached = Infinity;
  for (let step = 0; step < 400 && reached >= 9000; step += 1) {
    const item = top();
    const before = item.getBoundingClientRect().top;
    scroller.scrollTop -= 200;
    const moved = item.getBoundingClientRect().top - before;
    await frame();
    if (item.isConnected) most = Math.max(most, Math.abs(item.getBoundingClientRect().top - before - moved));
    reached = Number(top().querySelector(".body").innerText.split(" ")[1]);
  }
  return { most, reached };
})()"""

#: Contents, names and files that are no good.
HOSTILE: Final[list[tuple[str, Any]]] = [
    ("text", {"content": "<script>pwned = 1</script><img src=x onerror='pwned = 1'>"}),
    ("text", {"content": "left \u202egnp.exe\u2066 right\u0007\u0000", "name": "<b>\u202eBob\u200b</b>"}),
    ("text", {"content": "javascript:pwned=1 https://good.example/a) https://u:p@bad.example/ data:text/html,x"}),
    ("text", {"content": "z\u0310" + "\u0310" * 3000}),
    ("text", {"content": "w" * 16_000, "name": "n" * 5000}),
    ("text", {"content": "\n" * 8000 + "end"}),
    ("text", {"content": 5}),
    ("text", None),
    ("text", ["content"]),
    ("image", {"content": "https://evil.example/pixel.png", "metadata": {"name": "<i>", "width": "x"}}),
    ("image", {"content": "/files/../hub.js", "metadata": []}),
    ("image", {"content": "//evil.example/files/" + "0" * 64 + "/x.png"}),
    ("file", {"content": "javascript:pwned=1", "metadata": {"name": {}, "size": "big"}}),
    ("file", {"content": "data:text/html,<script>pwned=1</script>", "metadata": {"size": 1e300}}),
    ("edit", {"target": 1, "content": "<svg onload=pwned=1>"}),
    ("react", {"target": 1, "reaction": "<u>" * 5000}),
    ("react", {"target": "1", "reaction": "x"}),
    ("moderation", {"action": "__proto__", "user": "<s>", "by": "x", "until": 1e300}),
    ("__proto__", {"content": "x"}),
    ("constructor", {"target": 1}),
    ("text", {"content": "the end", "reply": 1}),
]  # fmt: skip


async def test_hostile_contents(tmp_path: Path) -> None:
    """Whatever is in a message is text, or nothing: no markup, no request, no other order."""
    async with chatting(tmp_path) as chat:
        ada = await chat.enter("Ada", size=PHONE)
        for number, (kind, payload) in enumerate(HOSTILE):
            user = f"<img src=x onerror=pwned=1>{number}"
            await chat.service.hub.publish("lobby", payload, type=kind, user=user)
        await ada.wait(shows("the end"))
        tags = await ada.eval(
            "[...new Set([...document.querySelectorAll('#messages *')].map((e) => e.localName))].sort()"
        )
        allowed = {"a", "bdi", "button", "div", "li", "p", "small", "span", "svg", "time", "path"}
        assert set(tags) <= allowed
        links = await ada.eval(
            "[...document.querySelectorAll('#messages a')].map((a) => [a.href, a.rel])"
        )
        evil = "https://evil.example/"
        assert links == [
            ["https://good.example/a", "noopener noreferrer"],
            [f"{evil}pixel.png", "noopener noreferrer"],
        ]
        text = await ada.text("#messages")
        assert not set("\u202e\u2066\u0007\u0000\u200b") & set(text)
        assert "<svg onload=pwned=1>" in text
        widths = await ada.eval(
            "[document.documentElement.scrollWidth, document.querySelector('#messages').scrollWidth]"
        )
        assert max(widths) <= 390
        tallest = await ada.eval(
            "Math.max(...[...document.querySelectorAll('.msg')].map((m) => m.offsetHeight))"
        )
        assert tallest < 844
        assert await ada.eval(TRAPS) is None
        assert await is_clean(ada)


async def test_hostile_rooms_and_names(tmp_path: Path) -> None:
    """A room's name from a link, and names of users, are text."""
    async with chatting(tmp_path) as chat:
        ada = await chat.browser.open(f"{chat.url}#%3Cimg%20src%3Dx%20onerror%3Dpwned%3D1%3E")
        await sign_in(ada, "<script>pwned=1</script>")
        assert await ada.text("#title") == "<img src=x onerror=pwned=1>"
        await ada.wait(has("#me-name", "<script>pwned=1</script>"))
        await say(ada, "hi")
        await ada.wait(has(".msg .name", "<script>pwned=1</script>"))
        bad = await chat.browser.open(f"{chat.url}#%E2%80%AEabc%00%ff")
        await bad.wait("document.querySelector('#sign').open")
        assert await ada.eval(TRAPS) is None
        assert await is_clean(ada)
        assert await is_clean(bad)


async def test_accessibility(tmp_path: Path) -> None:
    """Names for all controls, contrast as of WCAG AA, one h1, landmarks, a live region."""
    async with chatting(tmp_path) as chat:
        for dark in (False, True):
            for size in (DESK, PHONE):
                page = await chat.browser.open(f"{chat.url}#lobby", size, dark=dark)
                assert await page.eval(AUDIT) == []
                await sign_in(page, "Ada")
                await say(page, "a message with https://example.org/", "/me waves")
                await use(page, "a message", "Reply")
                await say(page, "an answer")
                await page.wait(shows("an answer"))
                await use(page, "a message", "React with ❤️")
                await page.wait("document.querySelector('.marks') !== null")
                await page.click("#people-open")
                assert await page.eval(AUDIT) == []
                assert await page.eval(OFF_CENTRE) < 2
                await page.press("Escape")
                if size is PHONE:
                    await page.click("#side-open")
                    await trio.sleep(0.3)
                    assert await page.eval(AUDIT) == []
        chat.relay.refuse()
        chat.relay.rst()
        await page.wait(f"{STATE} === 'wait'")
        assert await page.eval(AUDIT) == []
        assert await page.eval("document.getAnimations().length") > 0
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await page.call("Emulation.setEmulatedMedia", features=[still])
        await page.wait("document.getAnimations().length === 0")


async def test_keyboard(tmp_path: Path) -> None:
    """Messages and what can be done with them are reached by keys, and focus is visible."""
    async with chatting(tmp_path) as chat:
        ada = await chat.enter("Ada")
        await say(ada, "one", "two", "three")
        await ada.wait("document.querySelectorAll('.msg:not(.waits)').length === 3")
        await ada.eval("document.querySelector('#scroller').focus()")
        await ada.press("Tab")
        assert await ada.eval("document.activeElement.querySelector('.body').innerText") == "three"
        await ada.press("ArrowUp")
        assert await ada.eval("document.activeElement.querySelector('.body').innerText") == "two"
        assert await ada.eval("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        await ada.press("Tab")
        assert await ada.eval("document.activeElement.ariaLabel") == "React with 👍"
        await ada.press("Enter")
        await ada.wait("document.querySelector('.marks button') !== null")
        await ada.press("Escape")
        assert await ada.eval("document.activeElement.id") == "text"
        await ada.press("ArrowUp")
        assert await ada.eval("document.querySelector('#text').value") == "three"
        await ada.press("Escape")
        assert await ada.eval("document.querySelector('#text').value") == ""


async def test_the_model_of_a_room(tmp_path: Path) -> None:
    """`room.js` alone: holes, doubles, lost answers, logs that begin anew; see `room.js` here."""
    async with chatting(tmp_path) as chat:
        page = await chat.browser.open(chat.url)
        assert await page.eval(ROOM) == []


def test_size() -> None:
    """The page is small, has no scripts of its own in the markup, and asks nobody else."""
    files = [
        file for file in PAGE.iterdir() if file.name.endswith((".js", ".css", ".html", ".svg"))
    ]
    own = [file for file in files if not file.name.startswith("trio-rt")]
    assert sum(len(file.read_bytes()) for file in own) < 80_000
    html = (PAGE / "index.html").read_text()
    assert "style=" not in html
    assert "default-src 'none'" in html
    texts = [file.read_text() for file in own]
    assert not any("innerHTML" in text or "eval(" in text for text in texts)
    addresses = set(re.findall(r"https?://[\w./-]+", "".join(texts)))
    assert addresses == {"http://www.w3.org/2000/svg", "https://tus.io/protocols/resumable-upload"}
