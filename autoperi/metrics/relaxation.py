"""One crystal relaxed, or its energy taken, with any ASE calculator; what explodes is a status with its reason, never
an exception.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoperi.data.checks import positive_number, whole_number
from autoperi.data.convert import arrays_to_structures, as_structure, to_arrays
from autoperi.errors import RequestError, StructureError
from autoperi.metrics._common import failure_of, quiet
from autoperi.metrics.validity import MIN_DISTANCE

OPTIMIZERS = ("FIRE", "BFGS", "LBFGS")
MAX_FORCE = 1000.0
"""eV/Å, above which a relaxation is given up."""
VOLUME_FACTOR = 4.0
"""A cell that grows or shrinks by this factor is no longer the crystal that was given."""


@dataclass(frozen=True)
class Relaxation:
    """What a relaxation did to one crystal.

    Attributes:
        structure: relaxed, or as given where it failed; None where it was no crystal.
        energy_before, energy_after: eV/atom; ``energy_after`` is None where it failed.
        status: ``converged``, ``not converged`` or ``failed``.
        reason: why it failed or did not converge, else None.
        force_calls: evaluations of energy, forces and stress.
        rms_displacement: Å, of the atoms against the given fractional coordinates, drift removed; see
            :func:`displacement`.
        volume_change: volume after over volume before, minus 1.
    """

    structure: Any
    energy_before: float | None
    energy_after: float | None
    status: str
    reason: str | None
    force_calls: int
    rms_displacement: float | None = None
    volume_change: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """All but the structure, for JSON."""
        return {name: value for name, value in vars(self).items() if name != "structure"}


@dataclass(frozen=True)
class SinglePoint:
    """Energy of one crystal as it is.

    Attributes:
        energy: eV/atom; None where it failed.
        reason: why, else None.
    """

    energy: float | None
    reason: str | None = None


def check_settings(steps: int, fmax: float, optimizer: str, seconds: float | None) -> None:
    """Refuse settings that cannot be followed.

    Raises:
        RequestError: steps below 0, a force that is not positive, an optimiser that is not offered.
    """
    most = "is not a whole number of at least 0; give the most optimiser steps for one crystal, such as 500"
    whole_number(steps, "steps", least=0, refusal=most)
    positive_number(fmax, "fmax", refusal="is not a positive force; give eV/Å, such as 0.05")
    if optimizer not in OPTIMIZERS:
        raise RequestError(f"optimizer={optimizer!r} is not offered; choose from {', '.join(OPTIMIZERS)}")
    if seconds is not None and not seconds > 0:
        raise RequestError(
            f"seconds={seconds!r} is not a positive time; give seconds for one crystal, or None for no limit but steps"
        )


def bare_atoms(crystal: Any, name: str = "the crystal") -> Any:
    """Periodic ASE atoms of a crystal: cell, elements and positions, without moments, constraints or calculator.

    Raises:
        StructureError: as :func:`autoperi.data.convert.to_arrays`.
    """
    from ase import Atoms

    lattice, coords, numbers = to_arrays(crystal, name=name)
    return Atoms(numbers=numbers, cell=lattice, positions=coords @ lattice, pbc=True)


def displacement(before: np.ndarray, after: np.ndarray, lattice: np.ndarray) -> float:
    """Root mean square displacement in Å between fractional coordinates ``[n, 3]`` in the ``lattice`` ``[3, 3]``, their
    mean removed.

    The cell's own change does not count, nor a drift of all atoms together; coordinates are followed, not wrapped.
    """
    shift = after - before
    shift = (shift - shift.mean(axis=0)) @ lattice
    return float(np.sqrt((shift**2).sum(axis=1).mean()))


def relax_one(
    crystal: Any,
    calculator: Any,
    *,
    steps: int = 500,
    fmax: float = 0.05,
    cell: bool = True,
    fix_symmetry: bool = False,
    optimizer: str = "FIRE",
    seconds: float | None = None,
) -> Relaxation:
    """Relax one crystal with ASE's own optimiser, cell by its ``FrechetCellFilter``.

    Args:
        crystal: pymatgen structure or ASE atoms.
        calculator: of ASE, with energy, forces and (for the cell) stress.
        steps: most optimiser steps; with one force call each this bounds the time.
        fmax: converged when no force, and no cell gradient of the filter, is larger (eV/Å).
        cell: relax the cell as well.
        fix_symmetry: keep the space group (ASE ``FixSymmetry``).
        optimizer: FIRE, BFGS or LBFGS.
        seconds: wall time after which a crystal is left as not converged; the result then depends on the machine.

    Returns:
        The relaxation; it fails where energies or forces are no numbers or exceed 1000 eV/Å, where the volume changes
        more than fourfold, where atoms end closer than 0.5 Å, or where the calculator raises.

    Raises:
        RequestError: bad settings.
    """
    from ase.neighborlist import neighbor_list

    check_settings(steps, fmax, optimizer, seconds)
    try:
        structure = as_structure(crystal)
        atoms = bare_atoms(crystal)
    except StructureError as error:
        return Relaxation(None, None, None, "failed", str(error), 0)
    state = _Watch(atoms, seconds)
    with quiet():
        try:
            converged = _descend(atoms, calculator, state, steps, fmax, cell, fix_symmetry, optimizer)
            arrays = (np.array(atoms.cell[:]), atoms.get_scaled_positions(wrap=False), np.array(atoms.numbers))
            final = arrays_to_structures([arrays], properties=[dict(structure.properties)])[0]
            # closer atoms at the end mean a hole in the potential, not a crystal
            if len(close := neighbor_list("d", atoms, MIN_DISTANCE)):
                raise StructureError(f"atoms came as close as {close.min():.3g} Å")
            energy = float(atoms.get_potential_energy()) / len(atoms)
        except Exception as error:  # a calculator may raise anything; the crystal failed, not the run
            return Relaxation(structure, state.before, None, "failed", failure_of(calculator, error), state.calls)
    move = displacement(state.coords, atoms.get_scaled_positions(wrap=False), atoms.cell[:])
    why = (
        None if converged else (f"stopped after {seconds:g} s" if state.late else f"not below fmax after {steps} steps")
    )
    change = float(atoms.cell.volume / state.volume - 1)
    status = "converged" if converged else "not converged"
    return Relaxation(final, state.before, energy, status, why, state.calls, round(move, 6), round(change, 6))


def single_point(crystal: Any, calculator: Any) -> SinglePoint:
    """Energy (eV/atom) of one crystal as it is; the reason where there is none."""
    with quiet():
        try:
            atoms = bare_atoms(crystal)
            atoms.calc = calculator
            energy = float(atoms.get_potential_energy()) / len(atoms)
        except Exception as error:  # as above
            return SinglePoint(None, failure_of(calculator, error))
    return SinglePoint(energy) if math.isfinite(energy) else SinglePoint(None, f"the energy is {energy}")


class _Watch:
    """Start of a relaxation, and whether it still is one."""

    def __init__(self, atoms: Any, seconds: float | None) -> None:
        self.coords = atoms.get_scaled_positions(wrap=False)
        self.volume = float(atoms.cell.volume)
        self.before: float | None = None
        self.calls = 0
        self.late = False
        self._end = None if seconds is None else time.monotonic() + seconds

    def check(self, atoms: Any) -> None:
        """Raise where energy, forces or volume left all bounds."""
        ratio = float(atoms.cell.volume) / self.volume
        if not 1 / VOLUME_FACTOR <= ratio <= VOLUME_FACTOR:
            raise StructureError(f"the volume became {ratio:.3g} times what it was")
        energy, forces = float(atoms.get_potential_energy()), np.asarray(atoms.get_forces(apply_constraint=False))
        if not math.isfinite(energy) or not np.isfinite(forces).all():
            raise StructureError("energy or forces are not finite")
        largest = float(np.sqrt((forces**2).sum(axis=1)).max())
        if largest > MAX_FORCE:
            raise StructureError(f"a force of {largest:.3g} eV/Å")
        if self.before is None:
            self.before = energy / len(atoms)
        self.late = self._end is not None and time.monotonic() > self._end


def _descend(
    atoms: Any, calculator: Any, state: _Watch, steps: int, fmax: float, cell: bool, fix_symmetry: bool, optimizer: str
) -> bool:
    from ase import optimize
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter

    atoms.calc = calculator
    if fix_symmetry:
        atoms.set_constraint(FixSymmetry(atoms))
    state.calls = 1
    state.check(atoms)
    target = FrechetCellFilter(atoms) if cell else atoms
    search = getattr(optimize, optimizer)(target, logfile=None)
    converged = False
    for done in search.irun(fmax=fmax, steps=steps):
        state.calls = int(search.nsteps) + 1
        state.check(atoms)
        converged = bool(done)
        if state.late:
            break
    return converged
