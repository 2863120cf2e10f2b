"""Fail if `import trio_rt` takes 1.5 times what it stands on takes.

    python -m tests.import_time

Run apart from the suite, since it measures time: the best of several fresh
processes each, turn by turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

BASE = "import trio, trio_websocket, websockets"
OURS = "import trio_rt"
LIMIT = 1.5
ROUNDS = 15

#: pip compiles what it installs; a checkout is compiled by its first import, unless forbidden.
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(statement: str) -> float:
    """A fresh process's time for `statement`, start-up of Python included in neither side."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=ENV
    )
    return float(result.stdout)


def main() -> int:
    started = time.perf_counter()
    pairs = [(seconds(BASE), seconds(OURS)) for _ in range(ROUNDS)]
    base, ours = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    print(
        f"{BASE}: {base * 1e3:.0f} ms; {OURS}: {ours * 1e3:.0f} ms; "
        f"ratio {ours / base:.2f}, limit {LIMIT} ({time.perf_counter() - started:.0f} s)"
    )
    return 0 if ours < LIMIT * base else 1


if __name__ == "__main__":
    sys.exit(main())
