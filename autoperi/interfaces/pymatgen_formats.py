"""Entry point of pymatgen (group ``pymatgen.io.structure_formats``): ``Structure.from_file`` and ``Structure.to`` with
extended XYZ and Parquet, as :mod:`autoperi.data.io` writes them, provenance included.

Files of several crystals have an ``index``, 0 by default: ``Structure.from_file("found.extxyz", index=2)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymatgen.io.registry import StructureFormat, register_structure_format

from autoperi.errors import DataError

if TYPE_CHECKING:
    from pymatgen.core import Structure

# pymatgen passes ``primitive`` to every reader; like most formats of its own, these leave the cell as the file has it


def _read_extxyz(text: str, *, index: int = 0, primitive: bool = False) -> Structure:  # noqa: ARG001
    from autoperi.data.formats import read_extxyz

    return _one(read_extxyz(text, _limit(index)), index)


def _write_extxyz(structure: Structure) -> str:
    from autoperi.data.formats import extxyz_text

    return extxyz_text([structure])


def _read_parquet(filename: str, *, index: int = 0, primitive: bool = False) -> Structure:  # noqa: ARG001
    from autoperi.data.io import read_crystals

    return _one(read_crystals(filename, limit=_limit(index)), index)


def _write_parquet(structure: Structure, filename: str) -> None:
    from autoperi.data.io import write_crystals

    write_crystals(structure, filename)


def _limit(index: int) -> int | None:
    return index + 1 if index >= 0 else None


def _one(crystals: list[Structure], index: int) -> Structure:
    try:
        return crystals[index]
    except IndexError:
        raise DataError(f"index={index} is not in a file of {len(crystals)} crystals; give a smaller one") from None


register_structure_format(
    StructureFormat("extxyz", patterns=("*.extxyz*",), read_str=_read_extxyz, write_str=_write_extxyz)
)
register_structure_format(
    StructureFormat("parquet", patterns=("*.parquet",), read_file=_read_parquet, write_file=_write_parquet, binary=True)
)
