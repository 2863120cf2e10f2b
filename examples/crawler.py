"""A polite crawler, and a user who does not wait for it.

    python examples/crawler.py [httpx2]

It reads robots.txt, then pages, and with less priority the pictures on them. All
that it finds waits in the client's gate, which lets two requests through at once
to each host, and thirty a second. The user wants a page that waits there already:
it is fetched once for both, and next. The second crawl is answered by the cache.

The site is in the same program, at two ports, which count as two hosts.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from functools import partial
from urllib.robotparser import RobotFileParser

import trio
from trio.testing import wait_all_tasks_blocked

from trio_rt import Priority, http

AGENT = "example-crawler"
LINK = re.compile(r"(href|src)='(.+?)'")


class Crawler:
    """Once over a site. `found` are the URLs that it visits."""

    def __init__(self, client: http.Client, robots: str) -> None:
        self._client = client
        self._robots = RobotFileParser()
        self._robots.parse(robots.splitlines())
        self.found: defaultdict[str, trio.Event] = defaultdict(trio.Event)
        self.answers: Counter[str] = Counter()

    async def crawl(self, url: str) -> None:
        async with trio.open_nursery() as nursery:
            self._follow(nursery, url, Priority.NORMAL)

    def _follow(self, nursery: trio.Nursery, url: str, priority: Priority) -> None:
        if self._robots.can_fetch(AGENT, url) and not self.found[url].is_set():
            self.found[url].set()
            nursery.start_soon(self._visit, nursery, url, priority)

    async def _visit(self, nursery: trio.Nursery, url: str, priority: Priority) -> None:
        response = await self._client.get(url, priority=priority)
        self.answers[response.extensions["trio_rt.cache"]] += 1
        for kind, link in LINK.findall(response.text):
            wanted = Priority.NORMAL if kind == "href" else Priority.LOW
            self._follow(nursery, str(response.url.join(link)), wanted)


async def click(client: http.Client, crawler: Crawler, url: str) -> None:
    """What a user waits for overtakes all that the crawler has found, itself included."""
    await crawler.found[url].wait()
    await wait_all_tasks_blocked()  # until the crawler's task waits for it, too
    waiting = client.statistics().gate.waiting
    began = trio.current_time()
    response = await client.get(url, priority=Priority.CRITICAL)
    how = response.extensions["trio_rt.cache"]
    print(f"the user: after {trio.current_time() - began:.2f} s, {how}; {waiting} waited")


class Site:
    """Each page leads to two more, and shows three pictures of another host."""

    def __init__(self, pictures: str = "") -> None:
        self.pictures = pictures
        self.requests: Counter[str] = Counter()
        self.running = self.most = 0

    def body(self, path: str) -> str:
        if path == "/robots.txt":
            return "User-agent: *\nDisallow: /private"
        if not path.startswith("/page/"):
            return "a picture"
        number = int(path.removeprefix("/page/"))
        shown = [f"<img src='{self.pictures}/{number}-{each}.png'>" for each in range(3)]
        after = [f"/page/{number * 2}", f"/page/{number * 2 + 1}"] if number < 6 else []
        return "".join([*shown, *(f"<a href='{url}'>" for url in [*after, "/private"])])

    async def serve(self, stream: trio.SocketStream) -> None:
        """As much of HTTP as this needs."""
        while request := await stream.receive_some():
            path = request.split()[1].decode()
            self.requests[path] += 1
            self.running += 1
            self.most = max(self.most, self.running)
            await trio.sleep(0.08)
            self.running -= 1
            body = self.body(path)
            head = f"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {len(body)}"
            await stream.send_all(f"{head}\r\n\r\n{body}".encode())


async def open_site(nursery: trio.Nursery, site: Site) -> str:
    serve = partial(trio.serve_tcp, site.serve, 0, host="127.0.0.1")
    (listener,) = await nursery.start(serve)
    return f"http://127.0.0.1:{listener.socket.getsockname()[1]}"


async def main(backend: http.BackendName) -> None:
    async with trio.open_nursery() as servers:
        pictures = Site()
        pages = Site(await open_site(servers, pictures))
        url = await open_site(servers, pages)
        gate = http.Gate(8, per_host=2, rate_per_s=30, max_waiting=math.inf)
        async with (
            http.open_client(
                backend=backend, gate=gate, timeout_s=60, headers={"User-Agent": AGENT}
            ) as client,
            trio.open_nursery() as nursery,
        ):
            robots = (await client.get(url + "/robots.txt")).text
            crawlers = [Crawler(client, robots) for _ in range(2)]
            nursery.start_soon(click, client, crawlers[0], url + "/page/9")
            for crawler in crawlers:
                began = trio.current_time()
                await crawler.crawl(url + "/page/1")
                answers = ", ".join(f"{count} {how}" for how, count in crawler.answers.items())
                print(f"the crawler: after {trio.current_time() - began:.2f} s, {answers}")
        print(f"the site: at most {pages.most} and {pictures.most} requests at once")
        print(f"the site: {max(pages.requests.values())} request for each page")
        servers.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, "httpx2" if "httpx2" in sys.argv else "httpx")
