"""The log of `trio-rt serve`: lines on standard error, without secrets, that hold up nobody.

**Goal.** Each record is one line (as text: and the lines of its traceback), and none has a
token or a password in it, whoever wrote the record.

**What does not work.** `logging.StreamHandler`: a reader that does not read fills the pipe,
and the write then stops the whole server.

**The rule.** Records are made into lines at once, with the secrets taken out, and written by
a thread of their own. What does not fit into its queue is lost, and counted in the log.
Secrets are those that are known, and what looks like one: credentials in a URL, what
follows `Bearer`, the subprotocol with a token, and the values of telling parameters.

**The remaining hole.** A secret that nothing marks as one, in a record of a foreign library.
Lines that are still in the queue when the process is killed are lost.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from ._door import TOKEN_PROTOCOL
from ._text import printable

__all__ = ["LineWriter", "Lines", "Redactor", "open_logs"]

#: Lines that wait for who reads them.
QUEUE_LINES: Final = 10_000
#: How long the last ones are waited for at the end.
FLUSH_S: Final = 1.0
#: Longer texts are cut.
MOST_CHARACTERS: Final = 16_000

HIDDEN: Final = "[redacted]"
_PATTERNS: Final = (
    (re.compile(re.escape(TOKEN_PROTOCOL) + r"[^\s,;\"']+"), TOKEN_PROTOCOL + HIDDEN),
    (re.compile(r"\b(bearer|basic)\s+[^\s,;\"']+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"(://)[^\s/?#\"']*@"), rf"\1{HIDDEN}@"),
    (
        re.compile(
            r"\b((?:\w+_)?(?:token|passw(?:or)?d|secret|api_?key))=[^\s&\"']+", re.IGNORECASE
        ),
        rf"\1={HIDDEN}",
    ),
)

#: Records of the library itself that say who was sent away, and why.
_REFUSALS: Final = ("refused with", "too many connections", "no handshake", "no session")


class Redactor:
    """Takes secrets out of texts: those it is told, and what looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


class Lines(logging.Formatter):
    """A record as one JSON object, or as text: with the fields in its `extra["fields"]`.

    By a habit of the library a record that begins with "%s: " is about the peer whose
    address that is.
    """

    def __init__(self, redact: Redactor, *, as_json: bool) -> None:
        super().__init__()
        self._redact = redact
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: self._clean(value) for name, value in _fields(record).items()}
        message = self._redact(record.getMessage())
        trace = ""
        if record.exc_info:
            trace = self._redact(self.formatException(record.exc_info))
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        at = at.replace("+00:00", "Z")
        level = record.levelname.lower()
        if self._as_json:
            known = {"time": at, "level": level, "logger": record.name, "message": message}
            fault = {"exception": trace} if trace else {}
            return json.dumps(known | fields | known | fault)
        more = "".join(f" {name}={printable(str(value))}" for name, value in fields.items())
        head = f"{at} {level:<8} {printable(message)}{more}"
        return "\n".join([head, *(f"    {printable(line)}" for line in trace.splitlines())])

    def _clean(self, value: object) -> object:
        return value if isinstance(value, (int, float)) else self._redact(str(value))


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    if fields is not None:
        return dict(fields)
    found: dict[str, Any] = {}
    text = str(record.msg)
    if text.startswith("%s: ") and isinstance(record.args, tuple) and record.args:
        if text.removeprefix("%s: ").startswith(_REFUSALS):
            found["event"] = "refused"
        found["peer"] = str(record.args[0])
    return found


class LineWriter(logging.Handler):
    """Writes to a descriptor, in a thread; `close()` waits for it a little."""

    def __init__(self, fd: int = 2, most: int = QUEUE_LINES) -> None:
        super().__init__()
        self._fd = fd
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._lost = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Does not wait. What has no place is counted."""
        try:
            if self._lost:
                lost = f"{self._lost} lines of the log are lost: nobody reads it fast enough"
                gap = logging.LogRecord("trio_rt.serve", logging.WARNING, "", 0, lost, None, None)
                self._lines.put_nowait(self.format(gap))
                self._lost = 0
            self._lines.put_nowait(self.format(record))
        except Exception:  # no place for it, or a record that cannot be shown
            self._lost += 1

    def close(self) -> None:
        """Write what waits, for at most `FLUSH_S`. What nobody reads then is lost."""
        try:
            self._lines.put(None, timeout=FLUSH_S)
            self._thread.join(FLUSH_S)
        except queue.Full:
            pass
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(f"{line}\n".encode(errors="backslashreplace"))
            except OSError:  # nobody will ever read it
                pass

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # somebody else has made it so
                time.sleep(0.05)


@contextmanager
def open_logs(level: str, redact: Redactor, *, as_json: bool) -> Iterator[None]:
    """The log of this process, on standard error. Of others' loggers the warnings are in it.

    Not what coredis says of a link that fails, or is given up, while it is opened, with a
    traceback each time: that the broker is down is in it anyhow.
    """
    writer = LineWriter()
    writer.setFormatter(Lines(redact, as_json=as_json))
    root, own = logging.getLogger(), logging.getLogger("trio_rt")
    links = logging.getLogger("coredis")
    levels = root.level, own.level, links.level
    root.addHandler(writer)
    root.setLevel(logging.WARNING)
    own.setLevel(level.upper())
    links.setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(levels[0])
        own.setLevel(levels[1])
        links.setLevel(levels[2])
        root.removeHandler(writer)
        writer.close()
