"""Batched relaxation of positions and cell with a potential: wires the network, its neighbour lists and FIRE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoperi.data.checks import whole_number
from autoperi.data.containers import with_geometry
from autoperi.data.convert import as_list, to_arrays, to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError, StructureError
from autoperi.geometry.lattice import from_symmetric_coords, to_symmetric_coords
from autoperi.geometry.neighbours import NeighbourLists
from autoperi.models.evaluate import MAX_EDGES, passes
from autoperi.models.potential import Potential
from autoperi.processes.fire import FireState, cell_force, fire_start, fire_step, largest_force
from autoperi.progress import progress_bar
from autoperi.symmetry.analysis import (
    analyse,
    atom_permutations,
    strain_projector,
    symmetrize_coords,
    symmetrize_lattice,
    symmetrize_vectors,
)
from autoperi.units import RELAX_FMAX, RELAX_STEPS, SAME_PLACE_A

MAX_FORCE = 1000.0
"""eV/Å, above which a relaxation is given up."""
VOLUME_FACTOR = 4.0
"""A cell that grows or shrinks by this factor is no longer the crystal that was given."""


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What a relaxation made of one crystal.

    Attributes:
        structure: of the kind that was given; where ``status`` is a failure, as it was given.
        status: ``converged``, ``max_steps``, or ``failed: `` and the reason.
        steps: FIRE steps taken.
        energy_before, energy: total energies in eV; None where there is none.
        largest_force: eV/Å at the end, what was compared with ``fmax``.
        forces: in eV/Å, ``[n, 3]``, and stress: in eV/Å³, tension positive, ``[3, 3]``, at the end.
    """

    structure: Any
    status: str
    steps: int
    energy_before: float | None = None
    energy: float | None = None
    largest_force: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None


def relax(
    potential: Potential,
    crystals: Any,
    *,
    fmax: float = RELAX_FMAX,
    steps: int = RELAX_STEPS,
    cell: bool = True,
    fix_symmetry: bool = False,
    symprec: float = 0.01,
    symmetry_of: Any = None,
    skin: float = 0.5,
    max_edges: int = MAX_EDGES,
    progress: bool | None = None,
) -> list[Relaxed]:
    """Relax crystals to zero force, and zero stress, in batches that shrink as crystals converge.

    A crystal's path does not depend on its batchmates, up to rounding. Geometry is float64, the network of its own
    precision.

    Args:
        potential: the network, on any device.
        crystals: one pymatgen ``Structure`` or ASE ``Atoms``, or several.
        fmax: eV/Å; converged where every atom's force and the norm of Vσ/n are smaller.
        steps: most FIRE steps.
        cell: relax the lattice, too.
        fix_symmetry: keep the space group found at ``symprec`` exactly; the crystal is first moved onto it.
        symprec: Å.
        symmetry_of: crystals whose groups ``fix_symmetry`` keeps, where a strain has already been put on ``crystals``;
            the same atoms at the same fractional coordinates.
        skin: of the neighbour lists in Å.
        max_edges: estimated edges that are evaluated together; bounds memory, changes no result.
        progress: show a bar; None shows it on a terminal.

    Raises:
        StructureError: a crystal that cannot be read. RequestError: a setting that makes no sense, or atoms that are
        held fixed.
    """
    steps = check_fire_steps(steps)
    if not 0 < fmax < np.inf:
        raise RequestError(f"fmax={fmax!r} is not a positive force; give eV/Å, for example 0.05")
    given = as_list(crystals)
    refuse_constraints(given)
    if symmetry_of is not None and len(symmetry_of := as_list(symmetry_of)) != len(given):
        raise RequestError(f"symmetry_of has {len(symmetry_of)} crystals for {len(given)}; give one for each")
    device = potential.reference.device
    batch = to_batch(given, dtype=torch.float64, device=device)
    reference = batch if symmetry_of is None else to_batch(symmetry_of, dtype=torch.float64, device=device)
    results: list[Relaxed | None] = [None] * len(given)
    ready, symmetries = [], []
    for k in range(len(given)):
        try:
            potential.check_elements(batch[k].atomic_numbers)
            symmetries.append(_Symmetry(reference[k], symprec) if fix_symmetry else None)
            ready.append(k)
        except StructureError as error:
            results[k] = Relaxed(given[k], f"failed: {error}", 0)
    chosen = batch[ready]
    with progress_bar(len(given), enabled=progress, description="relaxing") as bar:
        bar.update(len(given) - len(ready))
        for part in passes(chosen, potential.cutoff, max_edges=max_edges):
            run = _Run(potential, chosen[part], symmetries[part], fmax=fmax, steps=steps, cell=cell, skin=skin)
            for k, outcome in zip(ready[part], run.run(bar), strict=True):
                results[k] = outcome.describe(given[k], batch[k])
    return [r for r in results if r is not None]


@dataclass(frozen=True, eq=False)
class _Outcome:
    lattice: Tensor
    frac: Tensor
    status: str
    steps: int
    energy_before: float
    energy: float
    largest: float
    forces: Tensor
    stress: Tensor

    def describe(self, original: Any, start: CrystalBatch) -> Relaxed:
        if self.status.startswith("failed"):
            return Relaxed(original, self.status, self.steps, _finite(self.energy_before))
        images = np.rint(to_arrays(original)[1] - start.frac_coords.cpu().numpy())  # batches are wrapped
        return Relaxed(
            with_geometry(original, self.lattice.cpu().numpy(), self.frac.cpu().numpy() + images),
            self.status,
            self.steps,
            self.energy_before,
            self.energy,
            self.largest,
            self.forces.cpu().numpy(),
            self.stress.cpu().numpy(),
        )


class _Run:
    """One batch on its way down."""

    def __init__(
        self,
        potential: Potential,
        batch: CrystalBatch,
        symmetries: Sequence[_Symmetry | None],
        *,
        fmax: float,
        steps: int,
        cell: bool,
        skin: float,
    ) -> None:
        self.potential, self.fmax, self.steps, self.cell = potential, fmax, steps, cell
        self.symmetries = list(symmetries)
        self.batch = self._exact(batch)
        self.alive = list(range(len(batch)))
        self.volume = batch.volume
        self.lists = NeighbourLists(potential.cutoff, skin=skin)
        self.before = torch.zeros(0, dtype=torch.float64)
        self.outcomes: list[_Outcome | None] = [None] * len(batch)

    def run(self, bar: Any) -> list[_Outcome]:
        state = fire_start(self.batch)
        for step in range(self.steps + 1):
            energy, forces, stress, closest = self._evaluate()
            if step == 0:
                self.before = energy
            on_cell = cell_force(self.batch, stress) if self.cell else None
            largest = largest_force(self.batch, forces, on_cell)
            statuses = self._statuses(energy, largest, closest, last=step == self.steps)
            going = [b for b, status in enumerate(statuses) if not status]
            if len(going) < len(statuses):
                parts = forces.split(self.batch.n_atoms.tolist())
                for b, (lattice, frac, _) in enumerate(self.batch.unbatch()):
                    if statuses[b]:
                        k = self.alive[b]
                        self.outcomes[k] = _Outcome(
                            lattice,
                            frac,
                            statuses[b],
                            step,
                            float(self.before[k]),
                            float(energy[b]),
                            float(largest[b]),
                            parts[b],
                            stress[b],
                        )
                        bar.update()
                if not going:
                    break
                state, forces, on_cell = self._keep(going, state, forces, on_cell)
            self.batch, state = fire_step(self.batch, state, forces, on_cell)
            self.batch = self._exact(self.batch) if step % 10 == 9 else self.batch  # rounding must not pile up
        return [outcome for outcome in self.outcomes if outcome is not None]

    def _evaluate(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energies, forces, stresses, and the shortest distance within the cutoff in each crystal."""
        with torch.no_grad():
            graph, vectors = self.lists.edges(self.batch)
            found = self.potential(self.batch, graph=graph, vectors=vectors)
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        closest = torch.full_like(found.energy, np.inf).scatter_reduce(
            0, self.batch.batch[graph.edge_index[0]], lengths, "amin"
        )
        assert found.forces is not None
        assert found.stress is not None
        forces, stress = found.forces.detach(), found.stress.detach()
        if any(self.symmetries):
            parts = list(forces.split(self.batch.n_atoms.tolist()))
            stress = stress.clone()
            for b, symmetry in enumerate(self.symmetries):
                if symmetry is not None:
                    parts[b], stress[b] = symmetry.project(self.batch.lattice[b], parts[b], stress[b])
            forces = torch.cat(parts)
        return found.energy.detach(), forces, stress, closest.detach()

    def _statuses(self, energy: Tensor, largest: Tensor, closest: Tensor, *, last: bool) -> list[str]:
        growth = self.batch.volume / self.volume[self.alive]
        statuses = []
        for b in range(len(self.batch)):
            force, factor = float(largest[b]), float(growth[b])
            if not (np.isfinite(force) and np.isfinite(float(energy[b]))):
                statuses.append("failed: energy or forces are not finite")
            elif float(closest[b]) < SAME_PLACE_A:
                statuses.append("failed: two atoms are at the same place")
            elif force > MAX_FORCE:
                statuses.append(f"failed: a force of {force:.3g} eV/Å, more than {MAX_FORCE:g}")
            elif not 1 / VOLUME_FACTOR < factor < VOLUME_FACTOR:
                statuses.append(f"failed: the volume changed by a factor of {factor:.3g}")
            else:
                statuses.append("converged" if force < self.fmax else "max_steps" if last else "")
        return statuses

    def _keep(
        self, going: list[int], state: FireState, forces: Tensor, on_cell: Tensor | None
    ) -> tuple[FireState, Tensor, Tensor | None]:
        state = state.keep(self.batch, going)
        self.lists.keep(self.batch, going)
        parts = forces.split(self.batch.n_atoms.tolist())
        self.alive, self.symmetries = [self.alive[b] for b in going], [self.symmetries[b] for b in going]
        self.batch = self.batch[going]
        return state, torch.cat([parts[b] for b in going]), None if on_cell is None else on_cell[going]

    def _exact(self, batch: CrystalBatch) -> CrystalBatch:
        """The crystals on their space groups."""
        if not any(self.symmetries):
            return batch
        parts = [
            (lattice, frac) if symmetry is None else symmetry.exact(lattice, frac)
            for symmetry, (lattice, frac, _) in zip(self.symmetries, batch.unbatch(), strict=True)
        ]
        return CrystalBatch(
            torch.stack([p[0] for p in parts]), torch.cat([p[1] for p in parts]), batch.atomic_numbers, batch.n_atoms
        )


class _Symmetry:
    """The space group of one crystal in its own cell.

    Raises:
        StructureError: there is none to be found.
    """

    def __init__(self, crystal: CrystalBatch, symprec: float) -> None:
        lattice, frac, numbers = (t.cpu().numpy() for t in crystal.unbatch()[0])
        info = analyse(lattice, frac, numbers, symprec=symprec)
        self.group = info.input_group
        # symprec is in Å, the tolerance of the permutations in parts of the cell
        tolerance = 5 * symprec * float(np.linalg.norm(np.linalg.inv(lattice), ord=2))
        self.permutations = atom_permutations(frac, numbers, self.group, tolerance=tolerance)

    def exact(self, lattice: Tensor, frac: Tensor) -> tuple[Tensor, Tensor]:
        """Lattice and coordinates moved onto the group, each coordinate by its nearest image."""
        x = frac.cpu().numpy()
        new = symmetrize_coords(x, self.group, self.permutations)
        new = new + np.rint(x - new)  # symmetrize_coords wraps
        rows = symmetrize_lattice(lattice.cpu().numpy(), self.group.rotations)
        return torch.as_tensor(rows).to(lattice), torch.as_tensor(new).to(frac)

    def project(self, lattice: Tensor, forces: Tensor, stress: Tensor) -> tuple[Tensor, Tensor]:
        """Forces and stress without what would break the group."""
        rows = lattice.cpu().numpy()
        fractional = symmetrize_vectors(forces.cpu().numpy() @ np.linalg.inv(rows), self.group, self.permutations)
        projector = torch.as_tensor(strain_projector(rows, self.group.rotations)).to(stress)
        return torch.as_tensor(fractional @ rows).to(forces), from_symmetric_coords(
            to_symmetric_coords(stress) @ projector.T
        )


def check_fire_steps(steps: Any) -> int:
    """``steps`` if it is a number of FIRE steps.

    Raises:
        RequestError: it is none.
    """
    return whole_number(steps, "steps", least=0, refusal="is not a whole number of steps; give 0 or more")


def refuse_constraints(crystals: Sequence[Any]) -> None:
    """Refuse what a batched relaxation would ignore.

    Raises:
        RequestError: a crystal with atoms held fixed.
    """
    for k, crystal in enumerate(crystals):
        mobile = getattr(crystal, "site_properties", {}).get("selective_dynamics") or []
        # a site without a mask, as a site that was added later, is free
        if getattr(crystal, "constraints", None) or not all(np.all(mask) for mask in mobile if mask is not None):
            raise RequestError(
                f"crystal {k} holds atoms fixed, which a batched relaxation does not; remove the constraints, or "
                "relax it with the "
                "optimisers of ASE and the calculator"
            )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


__all__ = ["Relaxed", "check_fire_steps", "refuse_constraints", "relax"]
