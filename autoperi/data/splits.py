"""A fixed split of a table by the ids of its rows, the same on every machine and whatever else the table holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

SPLITS = ("train", "val", "test")
HELD_OUT = 0.2
"""Share of :func:`held_out`."""


def fold_of(identifier: str, *, folds: int = 10) -> int:
    """Fold of a row, 0 to ``folds`` - 1: the first eight hexadecimal digits of sha256(id), as a number, modulo
    ``folds``.
    """
    return int(hashlib.sha256(identifier.encode()).hexdigest()[:8], 16) % folds


def split_of(identifier: str) -> str:
    """``"test"`` for fold 0 of ten, ``"val"`` for fold 1, ``"train"`` for the others."""
    return {0: "test", 1: "val"}.get(fold_of(identifier), "train")


def splits_of(identifiers: Iterable[object]) -> list[str]:
    """:func:`split_of` of each id."""
    return [split_of(str(identifier)) for identifier in identifiers]


def held_out(identifiers: Iterable[object]) -> list[bool]:
    """Which rows a training that is given no validation data sets aside: fold 0 of five, about 20 % (AutoPeri-GNN,
    section 3.3), the test rows among them.
    """
    return [fold_of(str(identifier), folds=round(1 / HELD_OUT)) == 0 for identifier in identifiers]
