"""Results in the form in which crystals were given: the container, and the crystal with all that no calculation
changed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.data.convert import kind_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def is_series(given: Any) -> bool:
    """Whether ``given`` is a pandas Series."""
    pandas = sys.modules.get("pandas")  # nobody holds a Series before pandas is imported, which takes long
    return pandas is not None and isinstance(given, pandas.Series)


def like_container(given: Any, results: Sequence[Any]) -> Any:
    """``results`` in the container of ``given``: one crystal, a tuple, a pandas Series with its index and name, or a
    list.
    """
    from ase import Atoms
    from pymatgen.core import SiteCollection

    if isinstance(given, (Atoms, SiteCollection)):  # as convert.as_list takes them
        return results[0]
    if is_series(given):
        return type(given)(list(results), index=given.index, name=given.name, dtype=object)
    return tuple(results) if isinstance(given, tuple) else list(results)


def indexed_like(given: Any, table: pd.DataFrame) -> pd.DataFrame:
    """``table``, with the index of ``given`` where that is a pandas Series."""
    if is_series(given):
        table.index = given.index
    return table


def with_geometry(
    crystal: Any,
    lattice: ArrayLike | None = None,
    frac_coords: ArrayLike | None = None,
    *,
    relaxation: Mapping[str, Any] | None = None,
) -> Any:
    """A copy of ``crystal`` in another geometry; labels, charge, site properties, arrays and the rest stay.

    Args:
        crystal: ``Structure`` or ``Atoms``; an ``IStructure`` becomes a ``Structure``. The copy has no calculator.
        lattice: rows in Å, ``[3, 3]``; None keeps it.
        frac_coords: ``[n, 3]``, not wrapped; None keeps them.
        relaxation: a note to leave as ``["autoperi"]["relaxation"]`` of ``properties`` or ``info``, beside what is
            there.

    Raises:
        StructureError: it is neither.
    """
    if kind_of(crystal) == "atoms":
        new = crystal.copy()
        new.info = record = deepcopy(crystal.info)
        if lattice is not None:
            new.set_cell(np.array(lattice, dtype=np.float64), scale_atoms=frac_coords is None, apply_constraint=False)
        if frac_coords is not None:
            new.positions = np.asarray(frac_coords, dtype=np.float64) @ new.cell[:]
    else:
        from pymatgen.core import Lattice, Structure

        mutable = isinstance(crystal, Structure)
        new = crystal.copy() if mutable else Structure.from_sites(list(crystal), charge=crystal._charge)
        new.properties = record = deepcopy(dict(crystal.properties))
        if lattice is not None:
            new.lattice = Lattice(lattice)
        if frac_coords is not None:
            for site, x in zip(new, np.asarray(frac_coords, dtype=np.float64), strict=True):
                site.frac_coords = x
    if relaxation is not None:
        record["autoperi"] = {**(record.get("autoperi") or {}), "relaxation": dict(relaxation)}
    return new
