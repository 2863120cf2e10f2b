"""What README and docs say is so: their code runs, their links lead somewhere."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import trio_rt
import trio_rt.http
import trio_rt.testing

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
EXAMPLES = sorted((ROOT / "examples").rglob("[!_]*.py"))
HOWTOS = sorted((ROOT / "examples/howto").glob("[!_]*.py"))

#: How deep an excerpt may be indented in its file.
INDENTS = ("", " " * 4, " " * 8, " " * 12)


def blocks(page: Path, language: str) -> list[str]:
    """What stands between ```language and ```."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def is_excerpt(block: str, text: str) -> bool:
    """Whether `block` is some whole lines of `text`, all indented alike."""
    return any(f"\n{textwrap.indent(block, indent)}" in f"\n{text}\n" for indent in INDENTS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_from_an_example(page: Path) -> None:
    """Each piece of Python is an excerpt of a file in examples/, which the tests run."""
    texts = [path.read_text() for path in EXAMPLES]
    for block in blocks(page, "python"):
        assert any(is_excerpt(block, text) for text in texts), block


def test_is_excerpt_can_tell() -> None:
    """Whole lines, in order, and only those."""
    text = "def f():\n    if x:\n        a()\n\n        b()\n"
    assert is_excerpt("a()\n\nb()\n", text)
    assert not is_excerpt("b()\na()\n", text)
    assert not is_excerpt("a()\nb()\n", text)
    assert not is_excerpt("x:\n", text)


def promised(path: Path) -> str:
    """What the program says that it prints, "*" for what is not always the same."""
    text = re.search(r'^"""(.*?)"""', path.read_text(), re.DOTALL)
    assert text is not None
    assert "Prints:\n\n" in text[1], path
    return textwrap.dedent(text[1].partition("Prints:\n\n")[2])


@pytest.mark.parametrize(
    "path", [path for path in HOWTOS if "test_" not in path.stem], ids=lambda path: path.stem
)
def test_howto(path: Path) -> None:
    """Each program of docs/howto.md prints what its text says, and warns of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", path], capture_output=True, text=True, timeout=60
    )
    assert (done.stderr, done.returncode) == ("", 0)
    patterns = [line.replace("[", "[[]") for line in promised(path).splitlines()]
    lines = done.stdout.splitlines()
    assert len(lines) == len(patterns), done.stdout
    for line, pattern in zip(lines, patterns, strict=True):
        assert fnmatch.fnmatchcase(line, pattern)


def test_the_example_of_a_test() -> None:
    """The tests that the tutorial shows pass."""
    path = ROOT / "examples/howto/test_my_program.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "11 passed" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_text_is_what_a_program_prints(page: Path) -> None:
    """Output shown beside an example is what its program promises, or its test asks for."""
    known = [promised(path) for path in HOWTOS if "Prints:" in path.read_text()]
    stories: dict[str, str] = runpy.run_path(str(ROOT / "tests/test_examples.py"))["STORIES"]
    told = [re.sub(r"\n +", "\n", story).removeprefix("\n") for story in stories.values()]
    for block in blocks(page, "text"):
        assert block in known or any(re.fullmatch(story, block) for story in told), block


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page have on the usual hosts."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    """The targets inside the project."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link inside the project is to a file, and to a heading in it."""
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Each `python -m module` and each `examples/...` that is named is there."""
    text = page.read_text()
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module) is not None, module
    for path in re.findall(r"(?:examples|tests|trio_rt|docs)/[\w/]+\.\w+", text):
        assert (ROOT / path).exists(), path


def test_promises_are_tested() -> None:
    """Each check that the README's table names is a function in the file behind it."""
    rows = re.findall(r"^\| P\d+ .*\|(.*)\|$", README.read_text(), re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        for names, path in re.findall(r"((?:`\w+` ?)+)in \[[\w.]+\]\(([\w/.]+)\)", row):
            source = (ROOT / path).read_text()
            for name in re.findall(r"`(\w+)`", names):
                assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), name


def test_the_reference_is_up_to_date() -> None:
    """docs/reference.md is what docs/make_reference.py makes of the package, and has all of it."""
    path = ROOT / "docs/make_reference.py"
    page = runpy.run_path(str(path))["page"]()
    assert path.with_name("reference.md").read_text(encoding="utf-8") == page
    for name in (*trio_rt.__all__, *trio_rt.http.__all__, *trio_rt.testing.__all__):
        assert f"**`{name}`**" in page


def test_the_readme_has_two_blocks_to_run() -> None:
    """The first sets up and runs the demo, the second passes the tests."""
    setup, tests = blocks(README, "sh")
    assert "trio-rt demo" in setup
    assert "pytest" in tests


def test_every_cancellation_is_told() -> None:
    """docs/concepts.md says of each public await what cancelling it does."""
    table = (ROOT / "docs/concepts.md").read_text().partition("## Cancellation")[2]
    reference = (ROOT / "docs/reference.md").read_text().partition("## `trio_rt.testing`")[0]
    for name in set(re.findall(r"`await (\w+)\(\)`", reference)) - {"aclose"}:
        assert f"{name}()`" in table.partition("## Errors")[0], name


def test_every_error_is_told() -> None:
    """docs/concepts.md says of each error whose doing it is."""
    table = (ROOT / "docs/concepts.md").read_text().partition("## Errors")[2]
    errors = [
        name
        for name, thing in vars(trio_rt).items()
        if isinstance(thing, type) and issubclass(thing, trio_rt.TrioRtError)
    ]
    assert len(errors) > 20
    for name in set(errors) - {"TrioRtError"}:
        assert f"`{name}`" in table, name
