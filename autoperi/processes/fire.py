"""The fast inertial relaxation engine on positions and cell, many crystals side by side (Bitzek et al., PRL 97, 170201,
2006).

A crystal moves along its Cartesian displacements u (Å) at fixed cell, and along the logarithm of its deformation: a
step takes L to L·exp(S) with S symmetric, fractional coordinates carried along. The strain enters as n·S, with n atoms,
so that its generalised force -V σ / n is of the size of a force on an atom, whatever the cell (the scaling of ASE's
``FrechetCellFilter``). Every crystal has its own velocities, time step and mixing, so batchmates cannot change its
path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.lattice import symmetric_exp
from autoperi.geometry.segments import segment_max, segment_sum

DT_START, DT_MAX = 0.1, 1.0
"""Time steps in √(u Å²/eV) of unit masses; the values of ASE's FIRE."""
N_MIN, F_INC, F_DEC, ALPHA_START, F_ALPHA = 5, 1.1, 0.5, 0.1, 0.99
"""Table and text of the paper."""
MAX_STEP_A, MAX_STEP_STRAIN = 0.2, 0.05
"""A step is shortened, as a whole, until no atom moves further and the norm of the strain is not larger."""


@dataclass(frozen=True, eq=False)
class FireState:
    """What FIRE remembers of B crystals with N atoms.

    Attributes:
        velocity: of the atoms, ``[N, 3]``.
        cell_velocity: of n·S, symmetric, ``[B, 3, 3]``.
        dt: time steps, ``[B]``.
        alpha: mixing of velocity and force, ``[B]``.
        downhill: steps since the power was last negative, integer, ``[B]``.
    """

    velocity: Tensor
    cell_velocity: Tensor
    dt: Tensor
    alpha: Tensor
    downhill: Tensor

    def keep(self, batch: CrystalBatch, chosen: Sequence[int]) -> FireState:
        """The state of the ``chosen`` crystals of ``batch``."""
        index = torch.as_tensor(chosen, dtype=torch.long, device=self.dt.device)
        velocity = CrystalBatch(batch.lattice, self.velocity, batch.atomic_numbers, batch.n_atoms)[index].frac_coords
        return FireState(velocity, self.cell_velocity[index], self.dt[index], self.alpha[index], self.downhill[index])


def fire_start(batch: CrystalBatch) -> FireState:
    """Crystals at rest."""
    one = torch.ones(len(batch), dtype=batch.lattice.dtype, device=batch.lattice.device)
    velocity, cell_velocity = torch.zeros_like(batch.frac_coords), torch.zeros_like(batch.lattice)
    return FireState(velocity, cell_velocity, DT_START * one, ALPHA_START * one, torch.zeros_like(batch.n_atoms))


def cell_force(batch: CrystalBatch, stress: Tensor) -> Tensor:
    """Generalised force -V σ / n on the strain, in eV, ``[B, 3, 3]``, from the stress in eV/Å³."""
    return -stress * (batch.volume / batch.n_atoms).view(-1, 1, 1)


def largest_force(batch: CrystalBatch, forces: Tensor, on_cell: Tensor | None) -> Tensor:
    """Largest force on an atom, or norm of the generalised force on the cell, ``[B]``; what ``fmax`` is compared
    with.
    """
    largest = segment_max(torch.linalg.vector_norm(forces, dim=-1), batch.batch, len(batch))
    return largest if on_cell is None else torch.maximum(largest, torch.linalg.matrix_norm(on_cell))


def fire_step(
    batch: CrystalBatch, state: FireState, forces: Tensor, on_cell: Tensor | None = None
) -> tuple[CrystalBatch, FireState]:
    """One step of every crystal; coordinates are not wrapped.

    Args:
        batch: B crystals.
        state: of the last step, or :func:`fire_start`.
        forces: in eV/Å, ``[N, 3]``.
        on_cell: :func:`cell_force`; None leaves the cells as they are.
    """
    owner = batch.batch

    def dot(a: Tensor, b: Tensor, x: Tensor | None, y: Tensor | None) -> Tensor:
        out = segment_sum((a * b).sum(-1), owner, len(batch))
        return out if x is None or y is None else out + (x * y).sum((-1, -2))

    velocity, cell_velocity = state.velocity, (None if on_cell is None else state.cell_velocity)
    power = dot(forces, velocity, on_cell, cell_velocity)
    uphill = power < 0
    # F2 of the paper: v ← (1 - α) v + α F |v| / |F|
    speed, force = (dot(a, a, x, x).sqrt() for a, x in ((velocity, cell_velocity), (forces, on_cell)))
    # at the first step v = 0 and the mixing does nothing
    along = state.alpha * speed / force.clamp(min=1e-30)
    rest = 1 - state.alpha

    def mixed(v: Tensor, f: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
        new = rest[index].view(shape) * v + along[index].view(shape) * f
        new = torch.where(uphill[index].view(shape), torch.zeros_like(new), new)
        return new + dt[index].view(shape) * f

    # F3 and F4: faster after N_min steps downhill, slower and at rest after one uphill
    faster = ~uphill & (state.downhill > N_MIN)
    dt = torch.where(uphill, state.dt * F_DEC, torch.where(faster, (state.dt * F_INC).clamp(max=DT_MAX), state.dt))
    alpha = torch.where(uphill, ALPHA_START, torch.where(faster, state.alpha * F_ALPHA, state.alpha))
    downhill = torch.where(uphill, torch.zeros_like(state.downhill), state.downhill + 1)
    crystals = torch.arange(len(batch), device=owner.device)
    velocity = mixed(velocity, forces, owner, (-1, 1))
    move = dt[owner].unsqueeze(-1) * velocity
    excess = largest_force(batch, move, None) / MAX_STEP_A
    lattice, strain = batch.lattice, None
    if on_cell is not None and cell_velocity is not None:
        cell_velocity = mixed(cell_velocity, on_cell, crystals, (-1, 1, 1))
        strain = (dt / batch.n_atoms).view(-1, 1, 1) * cell_velocity
        excess = torch.maximum(excess, torch.linalg.matrix_norm(strain) / MAX_STEP_STRAIN)
    scale = 1 / excess.clamp(min=1.0)
    move = move * scale[owner].unsqueeze(-1)
    frac = batch.frac_coords + torch.einsum("ni,nij->nj", move, torch.linalg.inv(lattice)[owner])
    if strain is not None:
        lattice = lattice @ symmetric_exp(strain * scale.view(-1, 1, 1))
    moved = CrystalBatch(lattice, frac, batch.atomic_numbers, batch.n_atoms)
    cell_velocity = state.cell_velocity if cell_velocity is None else cell_velocity
    return moved, FireState(velocity, cell_velocity, dt, alpha, downhill)
