"""Lattice relaxation as a process: passes L' = L·exp(A) (EMPNN, eq. 10a) until a pass changes nothing, each crystal by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoperi.crystal import CrystalBatch
from autoperi.geometry.lattice import metric, symmetric_exp, symmetric_log
from autoperi.models.lattice_relaxer import LatticeRelaxer

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

    With a network that knows what it does not know (:class:`~autoperi.models.lattice_relaxer.LatticeRelaxer`), crystals that have come to rest
    are left out of the passes that follow; the error that is left is estimated; cells of absurd density are brought to the volume of
    their composition before the first pass, because no network reads a crystal in which hundreds of atoms lie within a bond; and of
    every other crystal's way only as much is gone as stands out from that error (:func:`cautious`).

    Args:
        network: crystals to exponents A, ``[B, 3, 3]``.
        batch: B crystals.
        passes: 0 changes nothing but absurd densities.
    """
    if not isinstance(network, LatticeRelaxer):
        return _plain(network, batch, passes)
    start, absurd = _plausible(batch, network.natural_volume(batch))
    lattice, strain = start.lattice.clone(), torch.zeros_like(start.lattice)
    spread = lattice.new_zeros(len(batch), 2)
    done = torch.zeros(len(batch), dtype=torch.long, device=lattice.device)
    isolated = torch.zeros_like(done, dtype=torch.bool)
    moving = torch.arange(len(batch), device=lattice.device)
    for _ in range(passes):
        if not len(moving):
            break
        part = start[moving].replace(lattice=lattice[moving])
        step = network.step(part)
        strain[moving], spread[moving], isolated[moving] = step.strain, step.spread, ~step.connected
        lattice[moving] = lattice_step(part, step.strain).lattice
        done[moving] += 1
        usable = torch.isfinite(lattice[moving]).flatten(1).all(1)
        moving = moving[usable & (step.strain.abs().amax((-1, -2)) >= STILL)]
    status = relaxation_status(start.lattice, lattice, strain)
    status = ["isolated" if alone and word == "converged" else word for word, alone in zip(status, isolated.tolist(), strict=True)]
    near = torch.tensor([word in ("converged", "max_steps") for word in status], device=lattice.device) & ~absurd
    if bool(near.any()) and passes:
        lattice[near] = cautious(start.lattice[near], lattice[near], spread[near], caution=network.caution)
    return LatticeRelaxation(batch.replace(lattice=lattice), strain, done, status, _length_error(spread) if passes else None)


def _plain(network: Callable[[CrystalBatch], Tensor], batch: CrystalBatch, passes: int) -> LatticeRelaxation:
    moved, strain = batch, torch.zeros_like(batch.lattice)
    for _ in range(passes):
        strain = network(moved)
        moved = lattice_step(moved, strain)
    done = torch.full((len(batch),), passes, device=strain.device)
    return LatticeRelaxation(moved, strain, done, relaxation_status(batch.lattice, moved.lattice, strain), None)


def exponent_to(lattice: Tensor, target: Tensor) -> Tensor:
    """The symmetric A with metric(L·exp(A)) = metric(target), ``[B, 3, 3]``: ½ log(L⁻¹ G Lᵀ⁻¹), the exact answer of eq. 10a."""
    inverse = torch.linalg.inv(lattice.double())
    return (0.5 * symmetric_log(inverse @ metric(target.double()) @ inverse.mT)).to(lattice.dtype)


def cautious(start: Tensor, end: Tensor, spread: Tensor, *, caution: float) -> Tensor:
    """Lattices ``[B, 3, 3]`` on the way from ``start`` to ``end``: the farther, the more the way exceeds what the network cannot know.

    With A = D + I tr A/3 the exponent from start to end, t = |tr A|/√3 and d = ‖D‖, its parts are shortened by x²/(x² + caution²), where x = d/b_dev for
    D, and x = √(t² + d²/7)/b_iso for the trace: a crystal that was deformed in shape was deformed in volume too, by as much as an
    isotropic strain's trace has of its norm. A relaxed cell thus stays nearly where it is, and a deformed one goes all the way.

    Args:
        start, end: lattices, ``[B, 3, 3]``.
        spread: expected errors (b_iso, b_dev) of ``end``, ``[B, 2]``.
        caution: 0 goes all the way.
    """
    strain = exponent_to(start, end)
    trace = strain.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] / 3 * torch.eye(3, dtype=strain.dtype, device=strain.device)
    shape = strain - trace
    t2, d2 = (trace**2).sum((-1, -2)), (shape**2).sum((-1, -2))
    limit = (caution * spread.clamp(min=1e-9)) ** 2
    volume_kept = (t2 + d2 / 7) / (t2 + d2 / 7 + limit[:, 0]).clamp(min=1e-30)
    shape_kept = d2 / (d2 + limit[:, 1]).clamp(min=1e-30)
    return start @ symmetric_exp(volume_kept[:, None, None] * trace + shape_kept[:, None, None] * shape)


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


def _plausible(batch: CrystalBatch, natural: Tensor) -> tuple[CrystalBatch, Tensor]:
    """Cells far too small, grown to the volume of their composition, and which they are: a scaling, so every law of the field holds for it too."""
    ratio = natural / batch.volume
    absurd = torch.log(ratio) > ABSURD
    scale = torch.where(absurd, ratio.pow(1 / 3), torch.ones_like(ratio))
    return batch.replace(lattice=batch.lattice * scale[:, None, None]), absurd


def _length_error(spread: Tensor) -> Tensor:
    """Relative error of a length from errors of volume |tr e|/√3 and shape ‖dev e‖, ``[B, 2]``: uᵀeu has the mean square t²/3 + 2d²/15."""
    return torch.sqrt(spread[:, 0] ** 2 / 3 + spread[:, 1] ** 2 * 2 / 15)
