"""Rows of a table on their way: crystals that are kept, entries that are refused with a reason, and their files."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.data.files import dumps, write_atomically, write_table
from autoperi.data.tables import CrystalTable, table_bytes
from autoperi.errors import DataError, one_line

if TYPE_CHECKING:
    from autoperi.data.convert import Arrays, Crystal

MIN_DISTANCE_A = 0.5
"""Å, below which two atoms are one that is listed twice: no bond is so short (H2 has 0.74 Å)."""
MAX_ENERGY_EV = {"formation_energy_per_atom": 25.0, "e_above_hull": 25.0, "band_gap": 50.0}
"""Beyond these no crystal is: a total energy, another unit, or a calculation that failed."""
_NUMBERS = {*MAX_ENERGY_EV, "k_vrh", "g_vrh", "energy_per_atom_eV", "uncorrected_energy_per_atom_eV", "space_group"}
"""Columns that must hold numbers."""
MAX_VOLUME_PER_ATOM_A3 = 1e5
"""Beyond this no crystal is, however much vacuum it holds: a lattice in picometres."""
REFUSED = ".refused.csv"
"""What the table of refused entries is called, after the name of the table of crystals."""


@dataclass(frozen=True)
class Refusal:
    """An entry that becomes no row.

    Attributes:
        id: its name; that of its file or its place in it, where it has none.
        reason: ``disordered``, ``partially occupied``, ``duplicate``, ``not periodic``, ``incomplete``, ``missing``,
            ``retracted``, ``deprecated``, ``label``, ``too large``, ``volume`` or ``broken``.
        detail: one line.
        source_file: where it stood.
    """

    id: str
    reason: str
    detail: str
    source_file: str = ""


@dataclass(frozen=True, eq=False)
class Row:
    """A crystal and its labels.

    Attributes:
        id: its name.
        arrays: lattice ``[3, 3]`` in Å, fractional coordinates ``[n, 3]``, atomic numbers ``[n]``.
        labels: column to value.
    """

    id: str
    arrays: Arrays
    labels: Mapping[str, Any]


class EntryError(DataError):
    """An entry that is refused for a reason that its own fields give."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def row_of(name: str, make: Callable[[], tuple[Crystal, Mapping[str, Any]]]) -> Row | Refusal:
    """A row of what ``make`` gives, or why there is none; no entry is worth the end of an import.

    Args:
        name: of the entry; a label ``id`` goes before it.
        make: gives the crystal and its labels, or fails.
    """
    from vesin import NeighborList

    from autoperi.data.convert import kind_of, to_arrays

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them becomes a refusal
            crystal, given = make()
        labels = checked(given)
        name = str(labels.pop("id", name))
        if kind_of(crystal) == "structure":
            _check_order(crystal)
        arrays = to_arrays(crystal)
        lattice, coords, numbers = arrays
        if (volume := abs(float(np.linalg.det(lattice))) / len(numbers)) > MAX_VOLUME_PER_ATOM_A3:
            raise EntryError("volume", f"{volume:.3g} Å³ an atom; check the unit of its lattice, which must be Å")
        pairs = NeighborList(cutoff=MIN_DISTANCE_A, full_list=False)
        if len(pairs.compute(points=coords % 1.0 @ lattice, box=lattice, periodic=True, quantities="i")[0]):
            raise EntryError("broken", f"two atoms are within {MIN_DISTANCE_A} Å of each other")
        return Row(name, arrays, labels)
    except EntryError as refused:
        return Refusal(name, refused.reason, one_line(refused))
    except Exception as error:  # pymatgen and ASE fail in many ways on files that no program of theirs wrote
        said = f"it has no field {error}" if isinstance(error, KeyError) else one_line(error)
        return Refusal(name, "not periodic" if "is not periodic" in said else "broken", said)


def checked(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Labels without missing ones, those that commands read as numbers as numbers.

    Raises:
        EntryError: a label that commands read as a number is none, or is beyond :data:`MAX_ENERGY_EV`.
    """
    found = {name: value for name, value in labels.items() if value is not None}
    group = found.get("space_group")
    if isinstance(group, str) and not group.isdigit():
        found["space_group_symbol"] = found.pop("space_group")
    for name in found.keys() & _NUMBERS:
        try:
            number = float(found[name])
        except (TypeError, ValueError):
            raise EntryError("label", f"{name} is {found[name]!r}, no number; mend it or leave it out") from None
        if not abs(number) <= MAX_ENERGY_EV.get(name, math.inf) and not math.isnan(number):
            said = f"{name} is {number:g}, beyond {MAX_ENERGY_EV[name]:g} eV; check its unit, or leave it out"
            raise EntryError("label", said)
        found[name] = int(number) if name == "space_group" and number.is_integer() else number
    return found


def storable(value: Any) -> Any:
    """``value`` as Parquet holds it: no half characters, no whole number of more than 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def _check_order(structure: Any) -> None:
    for i, site in enumerate(structure):
        if not site.is_ordered:
            reason = "disordered" if len(site.species) > 1 else "partially occupied"
            raise EntryError(reason, f"site {i} holds {site.species_string}")


def within(row: Row | Refusal, *, max_atoms: int | None, volume: tuple[float, float] | None) -> Row | Refusal:
    """A row, or its refusal where it has more atoms than ``max_atoms`` or a volume per atom (Å³) out of ``volume``."""
    if isinstance(row, Refusal):
        return row
    n, file = len(row.arrays[2]), str(row.labels.get("source_file", ""))
    if max_atoms is not None and n > max_atoms:
        return Refusal(row.id, "too large", f"{n} atoms, more than {max_atoms}", file)
    per_atom = abs(float(np.linalg.det(row.arrays[0]))) / n
    if volume is not None and not volume[0] <= per_atom <= volume[1]:
        return Refusal(row.id, "volume", f"{per_atom:.4g} Å³ an atom, not {volume[0]:g} to {volume[1]:g}", file)
    return row


def collect(found: Iterable[Row | Refusal]) -> tuple[CrystalTable, list[Refusal]]:
    """The rows as a table, each crystal once, and what was refused, both in the order given.

    A second entry of an id is refused as a duplicate, and so is one that repeats geometry and numbers of another.
    """
    import pandas as pd

    rows: list[Row] = []
    refused: list[Refusal] = []
    names: set[str] = set()
    contents: dict[str, str] = {}
    for one in found:
        if isinstance(one, Refusal):
            refused.append(Refusal(*map(storable, astuple(one))))
            continue
        one = Row(storable(one.id), one.arrays, {storable(str(k)): storable(v) for k, v in one.labels.items()})
        file = str(one.labels.get("source_file", ""))
        same = contents.setdefault(_content(one), one.id)
        if one.id in names:
            refused.append(Refusal(one.id, "duplicate", "an entry of this id came before", file))
        elif same != one.id:
            refused.append(Refusal(one.id, "duplicate", f"the same crystal with the same numbers as {same}", file))
        else:
            names.add(one.id)
            rows.append(one)
    labels = pd.DataFrame([dict(row.labels) for row in rows], index=range(len(rows)))
    table = CrystalTable(
        np.array([row.arrays[0] for row in rows], dtype=np.float64).reshape(-1, 3, 3),
        [row.arrays[1] for row in rows],
        [row.arrays[2] for row in rows],
        [row.id for row in rows],
        labels,
    )
    return table, refused


def _content(row: Row) -> str:
    """A hash of the geometry to 1e-6 and of all labels that are numbers."""
    lattice, coords, numbers = row.arrays
    digest = hashlib.sha256()
    for array in (lattice, coords % 1.0):
        digest.update((np.round(array, 6) + 0.0).tobytes())  # -0.0 is 0.0
    digest.update(numbers.tobytes())
    figures = {k: v for k, v in row.labels.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    digest.update(dumps(dict(sorted(figures.items()))).encode())
    return digest.hexdigest()


def write(table: CrystalTable, refused: list[Refusal], out: Path) -> dict[str, Any]:
    """Write ``out``, and beside it the refused entries (no such file where there are none).

    Returns:
        ``crystals``, ``refused`` (reason to number), ``files`` and ``sha256`` of the table.

    Raises:
        DataError: nothing is left, or a place that cannot be written.
    """
    beside = out.with_name(out.name.removesuffix(out.suffix) + REFUSED)
    beside.unlink(missing_ok=True)
    files = [write_table([vars(r) for r in refused], beside)] if refused else []
    if not len(table):
        said = f"; {beside} says why each of {len(refused)} entries was refused" if refused else ""
        raise DataError(f"there is no crystal to write to {out}{said}")
    content = table_bytes(table, reduced_formulas(table))
    write_atomically(out, content)
    return {
        "crystals": len(table),
        "refused": dict(Counter(r.reason for r in refused).most_common()),
        "files": [str(file) for file in (out, *files)],
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def reduced_formulas(table: CrystalTable) -> list[str]:
    """pymatgen's reduced formula of each row."""
    return [_formula(tuple(sorted(Counter(numbers.tolist()).items()))) for numbers in table.atomic_numbers]


@lru_cache(maxsize=100_000)
def _formula(counts: tuple[tuple[int, int], ...]) -> str:
    from pymatgen.core import Composition, Element

    return str(Composition({Element.from_Z(z): n for z, n in counts}).reduced_formula)
