"""Serves `page.html` at /page.html, and prints what the page posts to /result."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .words import arguments, say

PAGE = Path(__file__).with_name("page.html")


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path.partition("?")[0] == "/page.html"
        self._answer(200 if found else 404, PAGE.read_bytes() if found else b"")

    def do_POST(self) -> None:
        posted = self.rfile.read(int(self.headers["Content-Length"]))
        say("result", posted.decode())
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    told = arguments()
    with ThreadingHTTPServer(("127.0.0.1", told.port), Pages) as server:
        say("port", told.port)
        server.serve_forever()


main()
