"""The one-shot lattice process: L' = L·exp(A), EMPNN eq. 10a, applied once or a few times."""

from __future__ import annotations

import torch
from torch import Tensor

from autoperi.crystal import CrystalBatch
from autoperi.geometry.lattice import symmetric_exp

CONVERGED = 1e-2
"""Largest entry of A (a strain) below which a further pass would change nothing of interest."""
LARGEST_STRAIN = 2.5
"""Change of the log volume beyond which a relaxation is called exploded or collapsed."""


def lattice_step(batch: CrystalBatch, strain: Tensor) -> CrystalBatch:
    """One step L' = L·exp(A) with fractional coordinates unchanged.

    Args:
        batch: B crystals.
        strain: symmetric A, ``[B, 3, 3]``.
    """
    return batch.replace(lattice=batch.lattice @ symmetric_exp(strain))


def relaxation_status(start: Tensor, end: Tensor, last_strain: Tensor) -> list[str]:
    """``converged``, ``max_steps``, ``exploded``, ``collapsed`` or ``nan`` of each crystal.

    Args:
        start, end: lattices before and after, ``[B, 3, 3]``.
        last_strain: A of the last pass, ``[B, 3, 3]``.
    """
    growth = torch.log(torch.linalg.det(end).abs() / torch.linalg.det(start).abs())
    status = []
    for b in range(len(start)):
        if not bool(torch.isfinite(end[b]).all()):
            status.append("nan")
        elif float(growth[b]) > LARGEST_STRAIN:
            status.append("exploded")
        elif float(growth[b]) < -LARGEST_STRAIN:
            status.append("collapsed")
        else:
            status.append("converged" if float(last_strain[b].abs().max()) < CONVERGED else "max_steps")
    return status
