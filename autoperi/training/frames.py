"""Frames to train a potential on: crystals with energies, forces and stresses, as calculations leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoperi.data.convert import batch_arrays
from autoperi.errors import DataError
from autoperi.training.data import TensorCrystals
from autoperi.units import EV_PER_A3_IN_GPA

ENERGY, FORCES, STRESS = "energy", "forces", "stress"
"""Labels of a frame: total energy in eV, forces in eV/Å (per atom), stress in eV/Å³; energy and stress NaN where
missing.
"""
COLUMNS = ("energy_eV", "forces_eV_per_A", "stress_GPa")
"""Columns of a table of frames: total energy, forces atom by atom, and the stress row by row, tension positive."""


def frames(path: str | Path, *, max_atoms: int | None = None) -> TensorCrystals:
    """The frames of a file: a table with the columns :data:`COLUMNS`, or any file in which ASE finds them.

    Args:
        path: ``.parquet``, or extended XYZ, an ASE trajectory or database, the output of a DFT code.
        max_atoms: leave out larger ones.

    Raises:
        DataError: the file cannot be read, a frame has no forces, or none is small enough.
    """
    found = _of_table(Path(path)) if Path(path).suffix.lower() == ".parquet" else _of_ase(Path(path))
    found = [f for f in found if max_atoms is None or len(f[2]) <= max_atoms]
    if not found:
        raise DataError(f"{path} has no frame of at most {max_atoms} atoms; allow more, or give other data")
    lattice, coords, numbers, energy, forces, stress = zip(*found, strict=True)
    labels = {
        ENERGY: torch.tensor(energy, dtype=torch.float64),
        STRESS: torch.as_tensor(np.stack(stress)).float(),
    }
    atom_labels = {FORCES: torch.as_tensor(np.concatenate(forces)).float()}
    return TensorCrystals(batch_arrays(lattice, coords, numbers), labels, atom_labels)


def _of_table(path: Path) -> list[tuple[Any, ...]]:
    from autoperi.data.io import read_table

    table = read_table(path)
    if COLUMNS[1] not in table.labels:
        raise DataError(f"{path} has no column {COLUMNS[1]!r}; give a table of frames with {', '.join(COLUMNS)}")
    columns: list[Any] = [table.labels[c] if c in table.labels else [None] * len(table) for c in COLUMNS]
    energy, forces, stress = columns
    found = []
    for k, crystal in enumerate(zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True)):
        gpa = np.full(9, np.nan) if stress[k] is None else np.asarray(stress[k], dtype=np.float64)
        e = np.nan if energy[k] is None else float(energy[k])
        found.append((*crystal, e, _forces(forces[k], len(crystal[2]), path, k), gpa.reshape(3, 3) / EV_PER_A3_IN_GPA))
    return found


def _of_ase(path: Path) -> list[tuple[Any, ...]]:
    import ase.io
    from ase.stress import voigt_6_to_full_3x3_stress

    from autoperi.data.convert import to_arrays

    try:
        images = ase.io.read(path, index=":")
    except Exception as error:
        raise DataError(
            f"{path} cannot be read by ASE ({' '.join(str(error).split())}); give frames it knows"
        ) from None
    found = []
    for k, atoms in enumerate(images):
        results = {} if atoms.calc is None else atoms.calc.results
        stress = np.asarray(results.get("stress", np.full(6, np.nan)), dtype=np.float64)
        full = stress if stress.shape == (3, 3) else voigt_6_to_full_3x3_stress(stress)
        forces = _forces(results.get("forces"), len(atoms), path, k)
        found.append((*to_arrays(atoms, name=f"frame {k} of {path}"), results.get("energy", np.nan), forces, full))
    return found


def _forces(values: Any, n: int, path: Path, k: int) -> np.ndarray:
    if values is None or np.size(values) != 3 * n:
        raise DataError(f"frame {k} of {path} has no forces for its {n} atoms; a potential learns from forces")
    return np.asarray(values, dtype=np.float64).reshape(n, 3)
