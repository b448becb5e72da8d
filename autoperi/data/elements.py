"""What is known of the elements: numbers, radii and electronegativities, each table read in one place.

Three radii are in use, and differ: a metric must take the one that its definition names.

=============================  ===================================================================================
:func:`covalent_radii`         Cordero et al. 2008, from ASE: how near atoms come, the short-range repulsion
:func:`crystalnn_radius`       the covalent radii of pymatgen's ``CrystalNN``
:func:`atomic_radius`          Slater 1964, from pymatgen: PGCGM's test of distances
=============================  ===================================================================================
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import TYPE_CHECKING, Any

from autoperi.errors import AutoPeriError, StructureError
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    import numpy as np

DEFAULT_RADIUS = 1.69
"""Å, for the elements after curium, of which no crystal structure gives a radius: that of curium, the last one
measured.
"""

_LAST_MEASURED = 96
_ISOTOPES = {"D": 1, "T": 1}


@functools.lru_cache(maxsize=1)
def symbols() -> dict[str, int]:
    """Element symbols to atomic numbers, hydrogen to oganesson; ``D`` and ``T`` are hydrogen."""
    from ase.data import chemical_symbols

    return {**_ISOTOPES, **{s: z for z, s in enumerate(chemical_symbols) if 1 <= z <= MAX_ATOMIC_NUMBER}}


def element_number(symbol: str, *, error: type[AutoPeriError] = StructureError) -> int:
    """Atomic number of an element symbol; ``D`` and ``T`` are hydrogen.

    Args:
        symbol: as in ``"Li"``, ``"Fe"``, ``"O"``.
        error: class of the error.

    Raises:
        StructureError: no such element, with the nearest symbols (``error`` where another class is given).
    """
    number = symbols().get(symbol)
    if number is None:
        raise error(f"{symbol!r} is not a chemical element{symbol_hint(symbol)}")
    return number


def symbol_of(number: int) -> str:
    """Symbol of an element by its atomic number."""
    from ase.data import chemical_symbols

    return str(chemical_symbols[number])


def symbol_hint(symbol: str) -> str:
    """The end of a message about ``symbol``, which is no element: what may have been meant."""
    import difflib

    elements = [known for known in symbols() if known not in _ISOTOPES]
    close = difflib.get_close_matches(symbol.capitalize(), elements, n=2, cutoff=0.4)
    return f"; did you mean {' or '.join(close)}?" if close else "; use symbols such as Li, Fe, O"


@functools.lru_cache(maxsize=1)
def covalent_radii() -> np.ndarray:
    """Covalent radii in Å by atomic number, ``[119]``, read-only; entry 0 is NaN.

    Cordero et al., Dalton Trans. 2832 (2008), as tabulated by ASE: hydrogen to curium; :data:`DEFAULT_RADIUS` beyond.
    """
    import numpy as np
    from ase.data import covalent_radii as table

    radii = np.full(MAX_ATOMIC_NUMBER + 1, DEFAULT_RADIUS)
    # beyond curium ASE holds a placeholder that has changed from release to release
    radii[: _LAST_MEASURED + 1] = np.asarray(table, dtype=np.float64)[: _LAST_MEASURED + 1]
    radii[0] = np.nan
    radii.setflags(write=False)
    return radii


@functools.cache
def crystalnn_radius(number: int) -> float:
    """Covalent radius in Å that pymatgen's ``CrystalNN`` uses: its own table, else the atomic radius.

    Raises:
        StructureError: neither is known.
    """
    from pymatgen.core import Element

    element = Element.from_Z(number)
    radius = _pymatgen_radii().get(element.symbol, element.atomic_radius)
    if radius is None:
        raise StructureError(
            f"no covalent or atomic radius of {element.symbol} is known; leave out crystals that hold it"
        )
    return float(radius)


@functools.lru_cache(maxsize=1)
def _pymatgen_radii() -> dict[str, Any]:
    try:
        from pymatgen.core.molecule_structure_comparator import CovalentRadius
    except ImportError:  # pymatgen before the 2026 split
        from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
    return dict(CovalentRadius.radius)


@functools.cache
def atomic_radius(number: int) -> float | None:
    """pymatgen's atomic radius (Slater 1964) in Å, None where it has none (noble gases, heavy elements)."""
    radius = _of_pymatgen(number, "atomic_radius")
    return None if radius is None or math.isnan(float(radius)) else float(radius)


@functools.cache
def electronegativity(number: int) -> float:
    """Pauling electronegativity from pymatgen; NaN where it has none."""
    return float(_of_pymatgen(number, "X"))


def _of_pymatgen(number: int, name: str) -> Any:
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without a value, which is what None and NaN say
        return getattr(Element.from_Z(number), name)
