"""What the tests of explorations share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {"formula_atoms": 3, "n": 2, "num_atoms": 6, "relax": 2, "seed": 1, "progress": False}
"""Five compositions of two elements, in a second or two."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
