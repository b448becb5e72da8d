"""Space-group settings: numbers, symbols, operations, centrings.

An operation (R, t) takes the fractional coordinate x to R x + t, with x a column; coordinates are stored as rows, hence
``x @ R.T + t``. Settings are those spglib chooses by itself: the first Hall number of each type (unique axis b, origin
choice 1, hexagonal axes). spglib gives the operations of each Hall setting; what follows from them is algebra, in NumPy
float64.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoperi.errors import RequestError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CRYSTAL_SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
_LAST_OF_SYSTEM = (2, 15, 74, 142, 167, 194, 230)
# Rows of the primitive basis in the conventional one, as in spglib's standardised cells, times six to stay exact.
_PRIMITIVE_ROWS_TIMES_6 = {
    "P": ((6, 0, 0), (0, 6, 0), (0, 0, 6)),
    "A": ((6, 0, 0), (0, 3, 3), (0, -3, 3)),
    "B": ((3, 0, 3), (0, 6, 0), (-3, 0, 3)),
    "C": ((3, -3, 0), (3, 3, 0), (0, 0, 6)),
    "I": ((-3, 3, 3), (3, -3, 3), (3, 3, -3)),
    "F": ((0, 3, 3), (3, 0, 3), (3, 3, 0)),
    "R": ((4, 2, 2), (-2, 2, 2), (-2, -4, 2)),
}


# --- groups


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """One setting of a space-group type.

    Attributes:
        number: 1..230.
        hall_number: 1..530, the setting.
        rotations: integer matrices acting on fractional columns, ``[G, 3, 3]``; the identity comes first.
        translations: in [0, 1), ``[G, 3]``; the conventional cell's centrings are counted as operations.
        symbol: short Hermann–Mauguin symbol, such as ``"Fm-3m"``.
        crystal_system: triclinic, monoclinic, orthorhombic, tetragonal, trigonal, hexagonal or cubic.
    """

    number: int
    hall_number: int
    rotations: IntArray
    translations: FloatArray
    symbol: str
    crystal_system: str

    def __len__(self) -> int:
        return len(self.rotations)

    @cached_property
    def centring(self) -> str:
        """Letter of the Bravais centring, the first one of the Hall symbol: P, A, B, C, I, F or R (obverse)."""
        # the primitive basis of a centred setting has no pure translations left
        return "P" if self.n_centring == 1 else str(_hall_types()[self.hall_number - 1].hall_symbol).lstrip("-")[0]

    @cached_property
    def n_centring(self) -> int:
        """Primitive cells in the conventional cell: 1, 2, 3 or 4."""
        return int((self.rotations == np.eye(3, dtype=np.int64)).all((1, 2)).sum())

    @cached_property
    def primitive(self) -> SpaceGroup:
        """The same group in the basis of :func:`primitive_transform`, ``G / n_centring`` operations."""
        if self.centring == "P":
            return self
        rows = primitive_transform(self)
        to_new = np.linalg.inv(rows).T  # columns: x_primitive = (rowsᵀ)⁻¹ x_conventional
        rotations = np.rint(to_new @ self.rotations @ rows.T).astype(np.int64)
        translations = _snap(self.translations @ to_new.T)
        _, first = np.unique(rotations.reshape(-1, 9), axis=0, return_index=True)
        keep = np.sort(first)
        return replace(self, rotations=rotations[keep], translations=translations[keep])


def _snap(translations: FloatArray) -> FloatArray:
    """Translations wrapped to [0, 1) and rounded to the 24ths in which all of them are exact."""
    return np.mod(np.rint(translations * 24), 24) / 24


def crystal_system(number: int) -> str:
    """Crystal system of a space-group number 1..230."""
    return CRYSTAL_SYSTEMS[bisect_left(_LAST_OF_SYSTEM, check_number(number))]


def check_number(number: int) -> int:
    """``number`` as an ``int``.

    Raises:
        RequestError: not an integer in 1..230.
    """
    if not _counts(number, 230):
        raise RequestError(
            f"space group {number!r} does not exist; give an integer from 1 to 230, or a symbol such as 'Fm-3m'"
        )
    return int(number)


def _counts(value: Any, most: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= most


@lru_cache(maxsize=1)
def _hall_types() -> list[Any]:
    """spglib's description of Hall settings 1..530, index 0 being Hall number 1."""
    import spglib

    return [spglib.get_spacegroup_type(hall) for hall in range(1, 531)]


@lru_cache(maxsize=1)
def _first_hall() -> dict[int, int]:
    numbers = [int(kind.number) for kind in _hall_types()]
    return {number: numbers.index(number) + 1 for number in range(1, 231)}


@lru_cache(maxsize=600)
def space_group_from_hall(hall_number: int) -> SpaceGroup:
    """The group in the setting of a Hall number 1..530 (cached).

    Raises:
        RequestError: no such Hall number.
    """
    if not _counts(hall_number, 530):
        raise RequestError(f"Hall number {hall_number!r} does not exist; give an integer from 1 to 530")
    import spglib

    data = spglib.get_symmetry_from_database(int(hall_number))
    number = int(_hall_types()[int(hall_number) - 1].number)
    rotations = np.asarray(data["rotations"], dtype=np.int64)
    translations = _snap(np.asarray(data["translations"], dtype=np.float64))
    for array in (rotations, translations):
        array.setflags(write=False)
    symbol = str(_hall_types()[_first_hall()[number] - 1].international_short).replace("_", "")
    return SpaceGroup(number, int(hall_number), rotations, translations, symbol, crystal_system(number))


def space_group(number: int) -> SpaceGroup:
    """The group ``number`` 1..230 in spglib's default setting (cached).

    Raises:
        RequestError: not an integer in 1..230.
    """
    return space_group_from_hall(_first_hall()[check_number(number)])


def _plain(symbol: str) -> str:
    return symbol.split(":")[0].replace("_", "").replace(" ", "").lower()


@lru_cache(maxsize=1)
def _symbols() -> dict[str, int]:
    """Every spelling spglib knows, plain, with its number; where two types share one, the default setting's type
    wins.
    """
    table: dict[str, int] = {}
    kinds = _hall_types()
    defaults = [kinds[hall - 1] for hall in _first_hall().values()]
    for kind in (*defaults, *kinds):
        names = [kind.international_short, kind.international_full, *str(kind.international).split("=")]
        for name in names:
            table.setdefault(_plain(name), int(kind.number))
            # Monoclinic settings are usually written without their ones: I2/a for I 1 2/a 1.
            if 3 <= int(kind.number) <= 15:
                table.setdefault(_plain(" ".join(part for part in name.split() if part != "1")), int(kind.number))
    # Symbols with a glide "e" had older names that most of the literature uses.
    for old, number in {"Cmca": 64, "Abm2": 39, "Aba2": 41, "Cmma": 67, "Ccca": 68}.items():
        table.setdefault(old.lower(), number)
    return table


def parse_space_group(value: int | str) -> int:
    """Number of a space group given as ``225``, ``"225"``, ``"Fm-3m"``, ``"F m -3 m"``, ``"P2_1/c"`` or another
    setting's symbol.

    Raises:
        RequestError: no such number or symbol; the message offers the closest symbols.
    """
    if not isinstance(value, str):
        return check_number(value)
    text = value.strip()
    if text.lstrip("+-").isdigit():
        return check_number(int(text))
    number = _symbols().get(_plain(text))
    if number is None:
        close = difflib.get_close_matches(_plain(text), list(_symbols()), n=3, cutoff=0.5)
        numbers = dict.fromkeys(_symbols()[c] for c in close)
        names = ", ".join(f"{space_group(n).symbol} ({n})" for n in numbers) or "Fm-3m (225)"
        raise RequestError(
            f"space group {value!r} is not known; give a number from 1 to 230 or a symbol, for example {names}"
        )
    return number


def primitive_transform(group: SpaceGroup) -> FloatArray:
    """Rows T ``[3, 3]`` with primitive lattice = T @ conventional lattice, as spglib's
    ``standardize_cell(to_primitive=True)``.

    Coordinates follow as x_primitive = x_conventional @ inv(T).
    """
    return np.array(_PRIMITIVE_ROWS_TIMES_6[group.centring], dtype=np.float64) / 6
