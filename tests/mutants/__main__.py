"""`python -m tests.mutants`: does a test notice each known mistake?"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, TypeAlias

from .chat import CHAT_MUTANTS
from .http import HTTP_MUTANTS
from .hub import HUB_MUTANTS
from .sessions import SESSION_MUTANTS
from .table import MUTANTS, Mutant

ROOT: Final = Path(__file__).parents[2]

ALL: Final = (*MUTANTS, *SESSION_MUTANTS, *HTTP_MUTANTS, *HUB_MUTANTS, *CHAT_MUTANTS)

#: Real seconds for one run of tests. A mutant may well make them hang.
LIMIT_S: Final = 120.0

#: What is shown of a failure.
CHARACTERS: Final = 150

Verdict: TypeAlias = Literal["killed", "hung", "SURVIVED", "STALE", "BROKEN"]

#: Compiled modules are told apart by their second and size: a mutant may share both.
ENV: Final = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}

#: pytest's exit status when tests failed, and Python's for an uncaught exception.
FAILED: Final = 1


def _command(test: str) -> list[str]:
    kind, _, rest = test.partition(" ")
    if kind == "sweep":
        return [
            sys.executable,
            "-m",
            "tests.promises",
            "--fail-fast",
            "--seeds",
            rest,
            "--wire",
            "websockets",
        ]
    if kind == "sessions":
        first, _, end = rest.partition(":")
        count = str(int(end) - int(first))
        return [sys.executable, "-m", "tests.sessions", "--first", first, "--seeds", count]
    flags = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:warnings"]
    return [sys.executable, "-m", "pytest", *flags, test]


def _run(tree: Path, tests: Iterable[str]) -> tuple[Verdict, str]:
    """Run tests until one fails; the verdict, and what has noticed the mutant."""
    for test in tests:
        try:
            done = subprocess.run(
                _command(test), cwd=tree, env=ENV, capture_output=True, text=True, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return "hung", test
        if done.returncode == FAILED and "Traceback" not in done.stderr:
            return "killed", _witness(done.stdout)
        if done.returncode:
            return "BROKEN", done.stderr[-CHARACTERS:]
    return "SURVIVED", ""


def _witness(output: str) -> str:
    """The first breach of a sweep, or the first failure of pytest."""
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("seed "):
            return f"{line.partition(';')[0]}: {lines[number + 1].strip()}"[:CHARACTERS]
        if line.startswith(("FAILED ", "ERROR ")):
            return line[:CHARACTERS]
    return ""


def judge(tree: Path, mutant: Mutant) -> tuple[Verdict, str]:
    """Apply `mutant` to the copy in `tree`, run its tests, and take it back."""
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return "STALE", f"{text.count(mutant.old)} places in {mutant.file}"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        return _run(tree, mutant.tests)
    finally:
        path.write_text(text)


def _copy(tree: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in ("trio_rt", "tests", "docs"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree / name)


def main() -> int:
    """The command line; the exit status is 1 if one survived or cannot be applied."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants with one of these in their name")
    parser.set_defaults(mutants=ALL)
    part = parser.add_mutually_exclusive_group()
    for flag, mutants, label in (
        ("--sessions", SESSION_MUTANTS, "sessions"),
        ("--http", HTTP_MUTANTS, "the HTTP client"),
        ("--hub", HUB_MUTANTS, "the hub"),
        ("--chat", CHAT_MUTANTS, "the chat"),
    ):
        part.add_argument(
            flag, dest="mutants", action="store_const", const=mutants, help=f"only those of {label}"
        )
    options = parser.parse_args()
    words, mutants = options.words, options.mutants
    chosen = [m for m in mutants if not words or any(word in m.name for word in words)]
    bad = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        tree = Path(name)
        _copy(tree)
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        verdict, why = _run(tree, tests)
        if verdict != "SURVIVED":
            print(f"the tests fail without any mutant: {why}")
            return 1
        for mutant in chosen:
            began = time.perf_counter()
            verdict, why = judge(tree, mutant)
            bad += verdict not in ("killed", "hung")
            spent_s = time.perf_counter() - began
            print(f"{verdict:9} {spent_s:5.1f} s  {mutant.name}\n{'':19}{why}", flush=True)
    print(f"{len(chosen)} mutants, {bad} not noticed")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
