"""Lattice relaxation as a process: passes L' = L·exp(A) (EMPNN, eq. 10a) until a pass changes nothing, each crystal by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoperi.crystal import CrystalBatch
from autoperi.geometry.lattice import symmetric_exp

CONVERGED = 1e-2
"""Largest entry of A (a strain) below which a crystal counts as converged."""
STILL = 3e-3
"""Largest entry of A below which a further pass would change nothing of interest: the crystal stays where it is."""
LARGEST_STRAIN = 2.5
"""Change of the log volume beyond which a relaxation is called exploded or collapsed."""
ABSURD = math.log(4.0)
"""A cell smaller than its composition's volume by more than this factor (a log) is no crystal: it is brought to that volume first."""
CLOSE = 0.02
"""Relative error of lengths that ``confidence`` speaks of."""


@dataclass(frozen=True, eq=False)
class LatticeRelaxation:
    """What became of B crystals.

    Attributes:
        crystals: with their last lattices; fractional coordinates are those of the start.
        strain: A of each crystal's last pass, ``[B, 3, 3]``.
        passes: how many it went through, ``[B]``.
        status: ``converged``, ``max_steps``, ``isolated``, ``exploded``, ``collapsed`` or ``nan``.
        expected_error: mean relative error of the lengths that the network expects to be left, ``[B]``; None where it cannot tell.
    """

    crystals: CrystalBatch
    strain: Tensor
    passes: Tensor
    status: list[str]
    expected_error: Tensor | None

    @property
    def confidence(self) -> Tensor | None:
        """Probability that lengths are right within :data:`CLOSE`, ``[B]``, if errors fall off exponentially; None where nothing is expected."""
        return None if self.expected_error is None else 1 - torch.exp(-CLOSE / self.expected_error.clamp(min=1e-6))


def lattice_step(batch: CrystalBatch, strain: Tensor) -> CrystalBatch:
    """One step L' = L·exp(A) with fractional coordinates unchanged.

    Args:
        batch: B crystals.
        strain: symmetric A, ``[B, 3, 3]``.
    """
    return batch.replace(lattice=batch.lattice @ symmetric_exp(strain))


def relax_cells(network: Callable[[CrystalBatch], Tensor], batch: CrystalBatch, *, passes: int) -> LatticeRelaxation:
    """At most ``passes`` passes over each crystal; no crystal's result depends on the others.

    With a network that has ``step`` and ``natural_volume`` (:class:`~autoperi.models.lattice_relaxer.LatticeRelaxer`), crystals that have come
    to rest are left out of the passes that follow, the error that is left is estimated, and cells of absurd density are brought to
    the volume of their composition before the first pass: no network reads a crystal in which hundreds of atoms lie within a bond.

    Args:
        network: crystals to exponents A, ``[B, 3, 3]``.
        batch: B crystals.
        passes: 0 changes nothing but absurd densities.
    """
    step: Callable[[CrystalBatch], Any] | None = getattr(network, "step", None)
    start = batch if step is None else _plausible(batch, network.natural_volume(batch))  # type: ignore[attr-defined]
    lattice, strain = start.lattice.clone(), torch.zeros_like(start.lattice)
    done = torch.zeros(len(batch), dtype=torch.long, device=lattice.device)
    isolated = torch.zeros(len(batch), dtype=torch.bool, device=lattice.device)
    expected = None if step is None or passes == 0 else torch.zeros(len(batch), dtype=lattice.dtype, device=lattice.device)
    moving = torch.arange(len(batch), device=lattice.device)
    for _ in range(passes):
        if not len(moving):
            break
        part = start[moving].replace(lattice=lattice[moving])
        if step is None:
            strain[moving] = network(part)
        else:
            found = step(part)
            strain[moving], isolated[moving] = found.strain, ~found.connected
            assert expected is not None
            expected[moving] = _length_error(found.spread)
        lattice[moving] = lattice_step(part, strain[moving]).lattice
        done[moving] += 1
        if step is not None:
            usable = torch.isfinite(lattice[moving]).flatten(1).all(1)
            moving = moving[usable & (strain[moving].abs().amax((-1, -2)) >= STILL)]
    status = relaxation_status(start.lattice, lattice, strain)
    status = ["isolated" if alone and word == "converged" else word for word, alone in zip(status, isolated.tolist(), strict=True)]
    return LatticeRelaxation(batch.replace(lattice=lattice), strain, done, status, expected)


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


def _plausible(batch: CrystalBatch, natural: Tensor) -> CrystalBatch:
    """Cells far too small, grown to the volume of their composition: a scaling, so every law of the field holds for it too."""
    ratio = natural / batch.volume
    scale = torch.where(torch.log(ratio) > ABSURD, ratio.pow(1 / 3), torch.ones_like(ratio))
    return batch.replace(lattice=batch.lattice * scale[:, None, None])


def _length_error(spread: Tensor) -> Tensor:
    """Relative error of a length from errors of volume |tr e|/√3 and shape ‖dev e‖, ``[B, 2]``: uᵀeu has the mean square t²/3 + 2d²/15."""
    return torch.sqrt(spread[:, 0] ** 2 / 3 + spread[:, 1] ** 2 * 2 / 15)
