from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from autoperi.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refused(self, *words: str) -> str:
        """The one line of an error, which must hold all ``words``."""
        assert self.code == 2, (self.out, self.err)
        assert self.err.startswith("autoperi: error: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        assert all(word in self.err for word in words), (words, self.err)
        return self.err

    def done(self) -> Ran:
        assert self.code == 0, self.err
        assert "Traceback" not in self.err
        return self


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def rock_salt(tmp_path: Path) -> Path:
    """Two crystals in a file."""
    from autoperi.data.io import write_crystals
    from autoperi.testing import tiny_crystals

    crystals = [c for c in tiny_crystals() if c.composition.reduced_formula in {"NaCl", "TiO2"}]
    write_crystals(crystals, tmp_path / "crystals.extxyz")
    return tmp_path / "crystals.extxyz"


@pytest.fixture
def nothing_left(tmp_path: Path) -> Callable[[], None]:
    """Call it last: nothing was written since the test began, hidden files included."""
    before = set(tmp_path.rglob("*"))

    def check() -> None:
        assert set(tmp_path.rglob("*")) == before

    return check
