"""What the server of the benchmark reads and writes."""

from __future__ import annotations

import json

from .server import BODY_BYTES, HOUR, answer, padded, paths


def test_a_body_has_its_size_whatever_it_says() -> None:
    """All answers are of one size, so that they cost the same."""
    assert len(padded({})) == len(padded({"at": 1234.56789})) == BODY_BYTES
    assert json.loads(padded({"hits": 3}))["hits"] == 3


def test_an_answer_is_whole() -> None:
    """Status, the length of the body, and what caches are told."""
    head, _, body = answer(b"12345", HOUR).partition(b"\r\n\r\n")
    assert body == b"12345"
    assert head.startswith(b"HTTP/1.1 200 OK\r\nDate: ")
    assert head.endswith(b"Content-Length: 5\r\nCache-Control: max-age=3600")


def test_a_request_is_read_when_it_is_whole() -> None:
    """What has not come to its end is nobody's yet."""
    whole = b"GET /wait/50/a HTTP/1.1\r\nHost: x\r\n\r\n"
    assert list(paths(whole + whole + whole[:-1])) == [b"/wait/50/a", b"/wait/50/a"]
    assert list(paths(whole[:-1])) == []
