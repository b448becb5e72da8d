"""Splits of a table whose parts share no id, no formula, or no crystal that the metrics would call a match.

A training set that holds the answers of its test set measures memory. Ids are not enough: databases hold one crystal
under many ids. What counts as the same crystal here is what counts as a hit in an evaluation of crystal structure
prediction: :func:`autoperi.metrics.pairs.compare_pairs` with the tolerances 0.5/0.3/10, asked in both orders, since the
matcher is not symmetric.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

from autoperi.data.splits import SPLITS
from autoperi.data.tables import CrystalTable
from autoperi.errors import RequestError
from autoperi.metrics.match import same_composition
from autoperi.metrics.pairs import CSP, Arrays, compare_pairs, composition_key
from autoperi.metrics.parallel import Failure, Run

WAYS = ("id", "formula", "match")
"""What the parts of a split may not share."""


@dataclass
class Split:
    """Rows of a table and their parts.

    Attributes:
        parts: of each row: ``train``, ``val``, ``test``, or None for one that is removed.
        removed: of each removed row: ``id``, ``part`` that it would have been of, ``reason`` and ``like``, the row or
            the crystal of another table that it equals.
        absent: ids that were asked for and are not in the table, by part.
    """

    parts: list[str | None]
    removed: list[dict[str, str]] = field(default_factory=list)
    absent: dict[str, int] = field(default_factory=dict)

    def rows(self, part: str) -> list[int]:
        """Positions of the rows of a part."""
        return [i for i, one in enumerate(self.parts) if one == part]


def split_table(
    table: CrystalTable,
    *,
    by: str = "id",
    val: float | Sequence[str] = 0.1,
    test: float | Sequence[str] = 0.1,
    seed: int = 0,
    apart_from: Iterable[CrystalTable] = (),
    **run: Unpack[Run],
) -> Split:
    """Split a table into train, val and test.

    A share is drawn by a hash of the seed and the id (of the formula with ``by="formula"``), so that a row keeps its
    part whatever else the table holds. Where a listed part shares a formula, or any part a match, with another, the row
    of the lesser part is removed: train before val before test.

    Args:
        table: crystals; their ids must differ.
        by: ``"id"``, ``"formula"`` (reduced) or ``"match"``.
        val, test: a share from 0 to 1, or the ids of the part.
        seed: of the shares.
        apart_from: other tables, such as the test set of a benchmark: rows that equal one of theirs are removed.
        **run: see :class:`~autoperi.metrics.parallel.Run`.

    Raises:
        RequestError: a way that is not known, shares that are none or leave nothing to train on, an id in two parts,
            ids none of which are there, or an id that the table holds twice.
    """
    if by not in WAYS:
        raise RequestError(f"by={by!r} is not known; choose one of {', '.join(WAYS)}")
    twice = [name for name, n in Counter(table.ids).items() if n > 1]
    if twice:
        raise RequestError(
            f"the id {twice[0]!r} is in the table {table.ids.count(twice[0])} times; give every row its own"
        )
    formulas = [composition_key(numbers) for numbers in table.atomic_numbers]
    keys: list[Hashable] = list(formulas if by == "formula" else table.ids)
    split = _drawn(table, keys, {"val": val, "test": test}, seed)
    crystals = _arrays(table)

    def part_from(rows: list[int], others: Sequence[Arrays | Failure], names: Sequence[str], where: str) -> None:
        found: list[int | Failure | None]
        if by == "id":
            place = {name: j for j, name in enumerate(names)}
            found = [place.get(table.ids[i]) for i in rows]
        else:
            found = _equal(by, [crystals[i] for i in rows], others, **run)
        for i, match in zip(rows, found, strict=True):
            if match is not None:  # one that could not be compared may be equal, and goes too
                failed = f"could not be compared: {match.reason}" if isinstance(match, Failure) else ""
                reason, like = failed or f"same {by} in {where}", "" if isinstance(match, Failure) else names[match]
                split.removed.append({"id": table.ids[i], "part": str(split.parts[i]), "reason": reason, "like": like})
                split.parts[i] = None

    for lesser, greater in (("val", "test"), ("train", "test"), ("train", "val")):
        others = split.rows(greater)
        part_from(split.rows(lesser), [crystals[j] for j in others], [table.ids[j] for j in others], greater)
    for other in apart_from:
        left = [i for i, part in enumerate(split.parts) if part is not None]
        part_from(left, _arrays(other), other.ids, "another table")
    if not split.rows(SPLITS[0]):
        raise RequestError(
            f"nothing is left to train on of {len(table)} crystals, {len(split.removed)} of which equal others by {by}"
            "; give smaller parts, or another way"
        )
    return split


def _drawn(table: CrystalTable, keys: Sequence[Hashable], asked: dict[str, Any], seed: int) -> Split:
    shares = {part: float(v) for part, v in asked.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    for part, share in shares.items():
        if not 0 <= share < 1:
            raise RequestError(f"{part}={share} is no share; give a number from 0 to 1, or ids")
    if sum(shares.values()) >= 1:
        raise RequestError(
            f"val={asked['val']} and test={asked['test']} leave nothing to train on; give smaller shares"
        )
    listed: dict[str, str] = {}
    split = Split([])
    known = set(table.ids)
    for part in ("val", "test"):
        if part in shares:
            continue
        names = list(asked[part])
        for name in names:
            if listed.setdefault(name, part) != part:
                raise RequestError(f"the id {name!r} is both in val and in test; leave it out of one")
        split.absent[part] = sum(name not in known for name in names)
        if split.absent[part] == len(names):
            raise RequestError(f"none of the {len(names)} ids of {part} is in the table, such as {names[0]!r}")
    for name, key in zip(table.ids, keys, strict=True):
        if name in listed:
            split.parts.append(listed[name])
            continue
        place, share = _place(seed, key), shares.get("test", 0.0)
        split.parts.append("test" if place < share else "val" if place < share + shares.get("val", 0.0) else SPLITS[0])
    return split


def _place(seed: int, key: Hashable) -> float:
    """Where a key lies between 0 and 1."""
    return int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:12], 16) / 16**12


def _arrays(table: CrystalTable) -> list[Arrays | Failure]:
    return list(zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True))


def _equal(
    by: str, rows: Sequence[Arrays | Failure], others: Sequence[Arrays | Failure], **run: Unpack[Run]
) -> list[int | Failure | None]:
    """For each of ``rows`` one of ``others`` that it equals; only crystals of one reduced formula are compared."""
    pairs = same_composition(rows, others)
    out: list[int | Failure | None] = [None] * len(rows)
    if by == "formula":
        for i, j in reversed(pairs):
            out[i] = j
        return out
    forward = compare_pairs(rows, others, pairs, tolerances=dict(CSP), description="matching", **run)
    rest = [(i, j) for (i, j), rms in zip(pairs, forward, strict=True) if rms is None]
    turned = [(j, i) for i, j in rest]
    backward = compare_pairs(others, rows, turned, tolerances=dict(CSP), description="matching back", **run)
    for (i, j), rms in (*zip(pairs, forward, strict=True), *zip(rest, backward, strict=True)):
        if isinstance(rms, float) and not isinstance(out[i], int):
            out[i] = j
        elif isinstance(rms, Failure) and out[i] is None:
            out[i] = rms
    return out
