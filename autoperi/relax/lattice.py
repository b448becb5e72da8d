"""Relaxation of lattices by passes of a network; fractional coordinates stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi.data.containers import like_container, with_geometry
from autoperi.data.convert import as_list, to_arrays, to_batch
from autoperi.errors import StructureError
from autoperi.processes.lattice import LATTICE_DIGITS, LatticeRelaxation, largest_strain, relax_cells
from autoperi.progress import progress_bar
from autoperi.symmetry.analysis import analyse, symmetrize_lattice

if TYPE_CHECKING:
    from autoperi.models.empnn import Empnn
    from autoperi.models.lattice_relaxer import LatticeRelaxer

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
        "last_strain": round(float(largest_strain(found.strain[k : k + 1])), 6),
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
