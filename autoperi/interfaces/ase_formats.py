"""Entry point of ASE (group ``ase.ioformats``): ``ase.io.read`` and ``ase.io.write`` with the Parquet tables of
:mod:`autoperi.data.io`. Extended XYZ needs none: it is ASE's own.

ASE imports this module with :mod:`ase.io`, so it imports nothing else of AutoPeri.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ase.utils.plugins import ExternalIOFormat

if TYPE_CHECKING:
    from ase import Atoms

parquet = ExternalIOFormat("AutoPeri table of crystals", code="+S", module=__name__, ext="parquet")
"""Its name, ``autoperi-parquet``, is that of the entry point, and so are the names of reader and writer."""


def read_autoperi_parquet(filename: str, index: slice) -> list[Atoms]:
    """The chosen crystals of a table.

    Raises:
        DataError: the table cannot be read.
    """
    from autoperi.data.convert import structure_to_atoms
    from autoperi.data.io import read_crystals

    return [structure_to_atoms(structure) for structure in read_crystals(filename)[index]]


def write_autoperi_parquet(filename: str, images: Atoms | Iterable[Atoms]) -> None:
    """Write crystals as a table.

    Raises:
        DataError: the place cannot be written. StructureError: atoms that are no crystal.
    """
    from autoperi.data.io import write_crystals

    write_crystals(images, filename)
