"""Where the server of the benchmark is, and what it says of itself."""

from __future__ import annotations

import json
import os
import socket
from itertools import count
from typing import Final

import attrs

_NUMBERS: Final = count()


def unique(path: str) -> str:
    """`path` with an end that no other process and no other call gets."""
    return f"{path}/{os.getpid()}-{next(_NUMBERS)}"


@attrs.frozen
class Origin:
    """The server, for a job."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A blocking connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def hits(self, path: str) -> int:
        """How often it was asked for `path`. Blocks."""
        with self.connect() as sock:
            sock.sendall(f"GET /hits{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            data = b""
            while not data.endswith(b"}"):
                data += sock.recv(4096)
        found: int = json.loads(data.partition(b"\r\n\r\n")[2])["hits"]
        return found
