"""Pages in a headless Chromium, driven by its DevTools protocol.

Each page has storage of its own, as another user's browser has.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
import trio_websocket

from tests.net.support import Command, running, tool
from tests.net.test_browser import FLAGS

__all__ = ["DESK", "Browser", "Page", "open_browser"]

DESK: Final = (1280, 800)

#: How often a page is asked whether something holds.
POLL_S: Final = 0.03
MESSAGE_BYTES: Final = 64 << 20
READY: Final = "DevTools listening on "

#: Pages that are not on top must go on as if they were.
AWAKE: Final = (
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--remote-allow-origins=*",
)

#: What a page does that its policy forbids, from before its first script.
WATCH: Final = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""

KEYS: Final = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "End": 35}


class Browser:
    """A running browser, made by `open_browser()`."""

    def __init__(self, socket: trio_websocket.WebSocketConnection, nursery: trio.Nursery) -> None:
        self._socket = socket
        self._nursery = nursery
        self._count = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self._news = trio.Event()

    async def call(self, method: str, session: str = "", **params: Any) -> Any:
        """One command; its result."""
        self._count += 1
        number = self._count
        command = {"id": number, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        await self._socket.send_message(json.dumps(command))
        while number not in self._answers:
            await self._news.wait()
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    async def open(self, url: str, size: tuple[int, int] = DESK, *, dark: bool = False) -> Page:
        """A page of this size, of another user than all other pages; loaded when it returns."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        made = await self.call(
            "Target.createTarget", url="about:blank", browserContextId=context, newWindow=True
        )
        target = made["targetId"]
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        await page.begin(*size, dark)
        await page.load(url)
        return page

    async def read(self) -> None:
        """Take what the browser says, until it says no more."""
        while True:
            try:
                said = json.loads(await self._socket.get_message())
            except trio_websocket.ConnectionClosed:
                return
            if "id" in said:
                self._answers[said["id"]] = said
                self._news.set()
                self._news = trio.Event()
            elif page := self._pages.get(said.get("sessionId", "")):
                page.heard(said["method"], said["params"])
                if said["method"] == "Page.javascriptDialogOpening":
                    self._nursery.start_soon(page.agree)


class Page:
    """One page. What failed in it is in `errors`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        #: Exceptions that nobody caught, and errors in its console.
        self.errors: list[str] = []

    async def call(self, method: str, **params: Any) -> Any:
        return await self._browser.call(method, self._session, **params)

    async def begin(self, width: int, height: int, dark: bool) -> None:
        is_phone = width < 600
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=is_phone,
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)
        await self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    async def load(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.wait(
            f"document.readyState == 'complete' && location.href != 'about:blank' /* {url} */"
        )

    def heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.errors.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")

    async def agree(self) -> None:
        """Say yes to what a dialog of the browser's asks."""
        await self.call("Page.handleJavaScriptDialog", accept=True)

    async def eval(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it resolves to."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    async def wait(self, expression: str, limit_s: float = 15.0) -> Any:
        """The first value of it that is true; fails after `limit_s`."""
        with trio.move_on_after(limit_s):
            while True:
                if value := await self.eval(expression):
                    return value
                await trio.sleep(POLL_S)
        shown = await self.eval("document.body.innerText.slice(-1500)")
        raise AssertionError(f"never true: {expression}\n{self.errors}\n{shown}")

    async def text(self, selector: str) -> str:
        """What is to be read there."""
        shown: str = await self.eval(f"document.querySelector({json.dumps(selector)}).innerText")
        return shown

    async def click(self, selector: str, button: str = "left") -> None:
        """With the mouse, in the middle of the first element that is so."""
        where = await self.eval(
            f"""(() => {{ const box = document.querySelector({json.dumps(selector)})
            .getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] }})()"""
        )
        await self.move(*where)
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=where[0],
                y=where[1],
                button=button,
                clickCount=1,
            )

    async def move(self, x: float, y: float) -> None:
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def type(self, text: str, selector: str = "#text") -> None:
        """As from a keyboard, into this field."""
        await self.eval(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, *, shift: bool = False) -> None:
        code = KEYS[key]
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=8 if shift else 0,
                **(more if kind == "keyDown" else {}),
            )

    async def choose_files(self, selector: str, *files: Path) -> None:
        """As from the dialog of a file input."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        found = await self.call("DOM.querySelector", nodeId=root, selector=selector)
        names = [str(file) for file in files]
        await self.call("DOM.setFileInputFiles", files=names, nodeId=found["nodeId"])

    async def screenshot(self, file: Path, *, scale: float = 1.0) -> None:
        """What it looks like, as a PNG."""
        size = await self.eval("[innerWidth, innerHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": scale}
        taken = await self.call("Page.captureScreenshot", format="png", clip=clip)
        file.write_bytes(base64.b64decode(taken["data"]))

    async def violations(self) -> list[str]:
        """What it did that its policy forbids."""
        found: list[str] = await self.eval("window.violations")
        return found


def _command(folder: Path) -> Command:
    return lambda port: [
        str(tool("chromium")),
        *FLAGS,
        *AWAKE,
        f"--user-data-dir={folder}/profile",
        f"--remote-debugging-port={port}",
        "about:blank",
    ]


@asynccontextmanager
async def open_browser(folder: Path) -> AsyncIterator[Browser]:
    """A browser with its profile in `folder`, for as long as the block lasts."""
    async with running(_command(folder), ready=READY) as program:
        url = (await program.wait_line(READY)).partition(READY)[2].strip()
        async with (
            trio_websocket.open_websocket_url(url, max_message_size=MESSAGE_BYTES) as socket,
            trio.open_nursery() as nursery,
        ):
            browser = Browser(socket, nursery)
            nursery.start_soon(browser.read)
            yield browser
            nursery.cancel_scope.cancel()
