"""Everything the documentation shows is run here: each block of README.md and docs/*.md in order, and each file of
examples/.

A page is a session: its ```python blocks share one namespace, its ```bash and ```console blocks run in the same empty
directory. ``autoperi`` commands run; in a ```console block what is shown below a command must be what it prints (``…``
stands for anything), and ``<!-- exit 2 -->`` above a block names the exit code that is expected. Commands that change
the installation or run the project's own checks (pip, pytest, …) are not run, but what they name must exist. The one
way to leave a block unrun is the line ``<!-- not run: REASON -->`` directly above it, with a reason of :data:`REASONS`;
then it must still compile, or parse.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import socket
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoperi.cli.main import main, make_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LANGUAGES = {"python", "bash", "console", "text", "json", "toml", "yaml"}
REASONS = ("needs the network", "needs a data set", "takes too long", "tests/conformance runs it")
UNRUN = {".", "pip", "pre-commit", "pytest", "ruff", "mypy", "mkdocs", "git", "python", "python3", ".ci/run"}
"""Commands that are looked at but not run."""
MAX_LINES = 40


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the page's line where the text begins, and what the comment above it
    says.
    """

    language: str
    text: str
    line: int
    comment: str

    @property
    def unrun(self) -> str | None:
        """Why the block is not run, or None."""
        found = re.fullmatch(r"<!-- not run:(.*)-->", self.comment)
        return found and found[1].strip()

    @property
    def exit_code(self) -> int:
        found = re.fullmatch(r"<!-- exit (\d+) -->", self.comment)
        return int(found[1]) if found else 0


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def read_blocks(text: str) -> list[Block]:
    lines, found, start = text.split("\n"), [], None
    for k, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        assert line.startswith("```"), f"line {k + 1}: an indented fence escapes this test; begin it at the margin"
        if start is None:
            start = k
            continue
        assert line.strip() == "```", f"line {k + 1}: a fence opens within the one of line {start + 1}"
        above = lines[start - 1].strip() if start else ""
        found.append(
            Block(
                lines[start][3:].strip(),
                "\n".join(lines[start + 1 : k]),
                start + 2,
                above if above.startswith("<!--") else "",
            )
        )
        start = None
    assert start is None, "the last fence is not closed"
    return found


def read_commands(block: Block) -> list[tuple[str, list[str]]]:
    """Each command with the lines shown below it (console blocks only)."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.replace("\\\n", " ").split("\n"):
        if block.language == "console" and not line.startswith("$ "):
            found[-1][1].append(line)
            continue
        for command in line.removeprefix("$ ").split("&&"):
            words = command.split(" # ")[0].strip()
            if words and not words.startswith("#"):
                found.append((words, []))
    return found


def run_autoperi(words: list[str]) -> tuple[int, str]:
    """Exit code and all output of a command; ``> FILE`` at its end is honoured."""
    target = None
    if len(words) > 2 and words[-2] == ">":
        words, target = words[:-2], words[-1]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    if target:
        Path(target).write_text(out.getvalue(), encoding="utf-8")
    return code, err.getvalue() + ("" if target else out.getvalue())


def check_shown(shown: list[str], printed: str) -> None:
    """Every shown line is printed, in this order; lines of ``…`` stand for any others, ``…`` within a line for any
    text.
    """
    lines = iter(printed.splitlines())
    for line in (s.rstrip() for s in shown):
        if line and line != "…":
            pattern = ".*".join(re.escape(part) for part in line.split("…"))
            assert any(re.fullmatch(pattern, p.rstrip()) for p in lines), (
                f"{line!r} is shown, but printed is:\n{printed}"
            )


def check_command(words: list[str]) -> None:
    """A command that is not run: the files and extras it names exist."""
    if words[0] == "pip":
        extras = {e for word in words for found in re.findall(r"\[([\w,]+)\]", word) for e in found.split(",")}
        known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        assert extras <= set(known), f"no such extra: {extras - set(known)}"
        assert "-c" in words, "users must get the tested versions: pip install -c constraints.txt"
    for word in words:
        is_path = word.endswith((".py", ".txt")) or word.startswith(
            (".ci/", "tests/", "examples/", "benchmarks/", "tools/")
        )
        assert not is_path or (ROOT / word).exists(), f"{word} does not exist"


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, no network, no window."""

    def refuse(*_: Any) -> None:
        raise OSError("the documentation must work without network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path


def run_block(block: Block, page: Path, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if block.language == "python":
        # padded, so that a traceback names the line of the page
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        if block.unrun is None:
            exec(code, namespace)
        return
    for command, shown in read_commands(block):
        words = shlex.split(command)
        with monkeypatch.context() as context:
            while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                context.setenv(*words.pop(0).split("=", 1))
            if words[0] == "autoperi" and block.unrun is None:
                code, printed = run_autoperi(words[1:])
                assert code == block.exit_code, f"`{command}` ended with {code}:\n{printed}"
                check_shown(shown, printed)
            elif words[0] == "autoperi":
                make_parser().parse_args(words[1 : words.index(">") if ">" in words else None])
            else:
                assert words[0] in UNRUN, f"`{command}`: this test does not know how to check {words[0]!r}"
                check_command(words)


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_blocks_of_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in read_blocks(page.read_text(encoding="utf-8")):
        assert block.language in LANGUAGES, (
            f"{page.name}:{block.line}: name the language of the block, one of {sorted(LANGUAGES)}"
        )
        assert block.unrun is None or block.unrun.startswith(REASONS), (
            f"{page.name}:{block.line}: {block.unrun!r} is no reason of {REASONS}"
        )
        if block.language in {"python", "bash", "console"}:
            try:
                run_block(block, page, namespace, monkeypatch)
            except Exception as error:
                error.add_note(f"in the block at {page.name}:{block.line}")
                raise


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(
    example: Path, session: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = example.read_text(encoding="utf-8")
    assert text.startswith('"""'), "an example begins with what it shows"
    assert len(text.splitlines()) <= MAX_LINES
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out or list(session.iterdir()), "an example prints or writes something"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=page_id)
def test_links_and_placeholders(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"\{\{.*?\}\}", text), "a number is still missing"
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), (
            f"{page.name} links to {target}, which does not exist"
        )


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_numbers_are_those_of_the_results(page: Path) -> None:
    """A table row that names ``benchmarks/results/FILE.json`` and a key states the number found there, to its last
    digit.
    """
    for line in page.read_text(encoding="utf-8").split("\n"):
        source = re.search(r"`(benchmarks/results/[\w.-]+\.json)`: `([\w.]+)`", line)
        if source is None:
            continue
        found: Any = json.loads((ROOT / source[1]).read_text(encoding="utf-8"))
        for key in source[2].split("."):
            found = found[int(key) if isinstance(found, list) else key]
        cell = line.split("|")[2].strip()
        stated = re.match(r"\**(-?\d[\d,]*\.?(\d*))\**( ?%)?", cell.replace("−", "-"))
        assert stated is not None, f"{cell!r} is not a number; {source[0]}"
        value = float(stated[1].replace(",", ""))
        true = float(found) * (100 if stated[3] else 1)
        assert abs(value - true) <= 0.5 * 10 ** -len(stated[2]) + 1e-9, (
            f"{cell} is stated, {source[1]} has {source[2]} = {found}"
        )
        command = re.search(r"`((?:autoperi|python) [^`]+)`", line)
        assert command is not None, f"name the command that prints {cell}"
        words = shlex.split(command[1])
        if words[0] == "autoperi" and words[-1] != "…":
            make_parser().parse_args(words[1:])


def test_every_example_is_mentioned() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [e.name for e in EXAMPLES if e.name not in pages] == []


def test_ci_and_readme_agree() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in readme
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert 'pip install --quiet --quiet --no-compile -c constraints.txt -e ".[test]"' in (
        ROOT / ".ci" / "run"
    ).read_text(encoding="utf-8")
