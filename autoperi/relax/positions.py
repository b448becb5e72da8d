"""Relaxation of positions and cell with a potential, many crystals side by side: the network, its neighbour lists and
FIRE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoperi.data.checks import whole_number
from autoperi.data.containers import like_container, with_geometry
from autoperi.data.convert import as_list, as_structure, to_arrays, to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RelaxationInterrupted, RequestError, StructureError
from autoperi.geometry.neighbours import NeighbourLists
from autoperi.models.evaluate import MAX_EDGES, edge_batches
from autoperi.models.potential import Potential
from autoperi.processes.fire import FireState, cell_force, fire_start, fire_step, largest_force
from autoperi.progress import progress_bar
from autoperi.relax.lattice import FAILED
from autoperi.relax.symmetry import FixedSymmetry
from autoperi.units import RELAX_FMAX, RELAX_STEPS, SAME_PLACE_A

MAX_FORCE = 1000.0
"""eV/Å, above which a relaxation is given up."""
DIGITS = 8
"""Decimals of lattices (Å) and fractional coordinates that are kept: what is left of rounding in other batches lies
below.
"""
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
            symmetries.append(FixedSymmetry(reference[k], symprec) if fix_symmetry else None)
            ready.append(k)
        except StructureError as error:
            results[k] = Relaxed(given[k], f"failed: {error}", 0)
    chosen = batch[ready]
    with progress_bar(len(given), enabled=progress, description="relaxing") as bar:
        bar.update(len(given) - len(ready))
        for part in edge_batches(chosen, potential.cutoff, max_edges=max_edges):
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
        symmetries: Sequence[FixedSymmetry | None],
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


def relax_positions(
    structures: Any,
    *,
    potential: Potential,
    lattice_pass: Callable[[list[Any]], list[Any]] | None,
    steps: int | None,
    fix_symmetry: bool,
    symprec: float,
    batch_size: int,
    provenance: dict[str, Any],
    progress: bool | None,
) -> Any:
    """Relax lattices by ``lattice_pass``, then positions and cell by batched FIRE.

    Args:
        structures: one ``Structure`` or ``Atoms``, or a sequence of them.
        potential: the network.
        lattice_pass: what relaxes the lattices first, with what it did in ``["autoperi"]["relaxation"]``; None leaves
            them.
        steps: most FIRE steps; None is :data:`~autoperi.units.RELAX_STEPS`.
        fix_symmetry: keep the space groups of ``structures`` found at ``symprec`` (Å) exactly.
        batch_size: crystals that are relaxed together; changes no result.
        provenance: of the model.
        progress: show a bar; None shows it on a terminal.

    Returns:
        The same kind and container; a crystal whose status is one of :data:`FAILED` comes back as it was given.

    Raises:
        RequestError: the model has no potential, ``steps`` is no number of steps, or atoms are held fixed; before any
            work.
        StructureError: a crystal that cannot be read.
        RelaxationInterrupted: Ctrl-C; it holds the crystals of the batches that were finished.
    """
    crystals = as_list(structures)
    settings: dict[str, Any] = {"fmax": RELAX_FMAX, "fix_symmetry": fix_symmetry, "symprec": symprec, "progress": False}
    settings["steps"] = RELAX_STEPS if steps is None else steps
    relax(potential, [], **settings)  # errors come before any work
    refuse_constraints(crystals)
    to_batch(crystals)
    out: list[Any] = []
    with progress_bar(len(crystals), enabled=progress, description="relaxing") as bar:
        try:
            for start in range(0, len(crystals), batch_size):
                part = crystals[start : start + batch_size]
                strained = part if lattice_pass is None else lattice_pass(part)
                found = relax(potential, strained, symmetry_of=part, **settings)
                out += [_described(*three, provenance) for three in zip(part, strained, found, strict=True)]
                bar.update(len(part))
        except KeyboardInterrupt:
            raise RelaxationInterrupted(out, len(crystals)) from None
    return like_container(structures, out)


def _described(given: Any, strained: Any, found: Relaxed, provenance: dict[str, Any]) -> Any:
    """The relaxed crystal with a note of what was done to it."""
    status, _, reason = found.status.partition(": ")
    old, _, numbers = to_arrays(given)
    lattice, coords = None, None
    if status not in FAILED:
        lattice, coords, _ = to_arrays(found.structure)
        lattice, coords = np.round(lattice, DIGITS) + 0.0, np.round(coords, DIGITS) + 0.0
    passes: dict[str, Any] = {}
    if strained is not given:
        said = as_structure(strained).properties["autoperi"]["relaxation"]
        passes = {"passes": said["passes"], "last_strain": said["last_strain"], "lattice_status": said["status"]}
    note = provenance | {
        "status": status,
        **({"reason": reason} if reason else {}),
        **passes,
        "steps": found.steps,
        "fmax_eV_per_A": RELAX_FMAX,
        "largest_force_eV_per_A": _rounded(found.largest_force),
        "energy_before_eV_per_atom": _rounded(found.energy_before, len(numbers)),
        "energy_eV_per_atom": _rounded(found.energy, len(numbers)),
        "volume_ratio": 1.0 if lattice is None else round(float(abs(np.linalg.det(lattice) / np.linalg.det(old))), 6),
    }
    return with_geometry(given, lattice, coords, relaxation=note)


def _rounded(value: float | None, atoms: int = 1) -> float | None:
    return None if value is None else round(value / atoms, 6)


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
                f"crystal {k} holds atoms fixed, which a batched relaxation does not; remove the constraints, or relax "
                "it with the optimisers of ASE and the calculator"
            )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


__all__ = ["Relaxed", "check_fire_steps", "refuse_constraints", "relax", "relax_positions"]
