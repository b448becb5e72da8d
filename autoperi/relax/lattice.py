"""``relax_lattice``: the passes of EMPNN, and with ``positions=True`` then positions and cell to zero force and stress
with the potential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi.data.containers import like_container, with_geometry
from autoperi.data.convert import as_list, as_structure, to_arrays, to_batch
from autoperi.errors import RelaxationInterrupted, RequestError, StructureError
from autoperi.hub.bundle import Bundle
from autoperi.models.potential import Potential
from autoperi.pipelines.bundle import potential_of
from autoperi.processes.lattice import LATTICE_DIGITS, LatticeRelaxation, relax_cells
from autoperi.progress import progress_bar
from autoperi.relax.positions import Relaxed, refuse_constraints, relax
from autoperi.symmetry.analysis import analyse, symmetrize_lattice
from autoperi.units import RELAX_FMAX, RELAX_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoperi.models.empnn import Empnn
    from autoperi.models.lattice_relaxer import LatticeRelaxer

DIGITS = 8
"""Decimals of lattices (Å) and fractional coordinates that FIRE gave: what is left of rounding in other batches lies
below.
"""
FAILED = ("exploded", "collapsed", "nan", "failed")
"""Statuses of crystals that come back as they were given."""


def relax_lattices(
    structures: Any,
    *,
    network: Empnn | LatticeRelaxer,
    device: torch.device,
    dtype: torch.dtype,
    passes: int,
    fix_symmetry: bool,
    symprec: float,
    batch_size: int,
    provenance: dict[str, Any],
    progress: bool | None,
) -> Any:
    """Relax lattices by passes of ``network``; fractional coordinates stay.

    Args:
        structures: one ``Structure`` or ``Atoms``, or a sequence of them.
        network: gives the strains.
        device, dtype: of the network.
        passes: the most.
        fix_symmetry: project each lattice onto the space group of its crystal, found at ``symprec`` (Å).
        batch_size: crystals that are relaxed together; changes no result.
        provenance: of the model.
        progress: show a bar; None shows it on a terminal.

    Returns:
        The same kind and container; a crystal whose status is one of :data:`FAILED` comes back as it was given.

    Raises:
        StructureError: a crystal that cannot be read.
    """
    crystals = as_list(structures)
    if not crystals:
        return like_container(structures, [])
    batch = to_batch(crystals, dtype=dtype).to(device=device)
    with progress_bar(len(crystals), enabled=progress, description="relaxing") as bar, torch.no_grad():
        found = relax_cells(network, batch, passes=passes, batch_size=batch_size, on_rest=bar.update)
    symmetry = symprec if fix_symmetry else None
    return like_container(
        structures, [_strained(crystal, found, k, symmetry, provenance) for k, crystal in enumerate(crystals)]
    )


def _strained(crystal: Any, found: LatticeRelaxation, k: int, symprec: float | None, provenance: dict[str, Any]) -> Any:
    """The ``k``-th crystal in its relaxed cell, held to its space group at ``symprec``, with a note of what was done to
    it.
    """
    old, coords, numbers = to_arrays(crystal)
    status, reason = found.status[k], {}
    new = np.round(found.crystals.lattice[k].double().cpu().numpy(), LATTICE_DIGITS) + 0.0
    if status in FAILED:
        new = old
    elif symprec is not None:
        try:
            new = symmetrize_lattice(new, analyse(old, coords, numbers, symprec=symprec).rotations)
        except StructureError as error:
            status, new, reason = "failed", old, {"reason": f"fix_symmetry=True: {error}"}
    note = provenance | {
        "status": status,
        **reason,
        "passes": int(found.passes[k]),
        "last_strain": round(float(found.strain[k].abs().max()), 6),
        "volume_ratio": round(float(abs(np.linalg.det(new)) / abs(np.linalg.det(old))), 6),
    }
    if (
        found.expected_error is not None
        and found.confidence is not None
        and bool(torch.isfinite(found.expected_error[k]))
    ):
        note |= {
            "expected_error": round(float(found.expected_error[k]), 5),
            "confidence": round(float(found.confidence[k]), 4),
        }
    return with_geometry(crystal, None if new is old else new, relaxation=note)


def relax_positions(
    structures: Any,
    *,
    lattice_pass: Callable[[list[Any]], list[Any]],
    bundle: Bundle,
    device: torch.device,
    dtype: torch.dtype,
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
        lattice_pass: gives relaxed crystals, in order, with what it did in ``["autoperi"]["relaxation"]``.
        bundle: the model.
        device, dtype: of the potential.
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
    potential = _potential(bundle).to(device=device, dtype=dtype)
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
                strained = lattice_pass(part)
                found = relax(potential, strained, symmetry_of=part, **settings)
                out += [_described(*three, provenance) for three in zip(part, strained, found, strict=True)]
                bar.update(len(part))
        except KeyboardInterrupt:
            raise RelaxationInterrupted(out, len(crystals)) from None
    return like_container(structures, out)


def _potential(bundle: Bundle) -> Potential:
    if "potential" not in bundle.components:
        raise RequestError(
            f"positions=True needs a potential, which model {bundle.name!r} lacks; use a model with the component "
            "'potential', such as "
            "'autoperi-base', or relax the lattice alone"
        )
    return potential_of(bundle)


def _described(given: Any, strained: Any, found: Relaxed, provenance: dict[str, Any]) -> Any:
    """The relaxed crystal with a note of what was done to it."""
    status, _, reason = found.status.partition(": ")
    old, _, numbers = to_arrays(given)
    lattice, coords = None, None
    if status not in FAILED:
        lattice, coords, _ = to_arrays(found.structure)
        lattice, coords = np.round(lattice, DIGITS) + 0.0, np.round(coords, DIGITS) + 0.0
    lattice_note = as_structure(strained).properties["autoperi"]["relaxation"]
    note = provenance | {
        "status": status,
        **({"reason": reason} if reason else {}),
        "passes": lattice_note["passes"],
        "last_strain": lattice_note["last_strain"],
        "lattice_status": lattice_note["status"],
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
