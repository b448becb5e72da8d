"""FIRE by itself: springs instead of a network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.lattice import symmetric_log
from autoperi.processes.fire import (
    MAX_STEP_A,
    MAX_STEP_STRAIN,
    FireState,
    cell_force,
    fire_start,
    fire_step,
    largest_force,
)

EQUILIBRIUM_A = 4.0


def crystals(seed: int, sizes: tuple[int, ...] = (1, 3, 5)) -> CrystalBatch:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for n in sizes:
        lattice = EQUILIBRIUM_A * (torch.eye(3) + 0.1 * torch.randn(3, 3, generator=generator, dtype=torch.float64))
        made.append((lattice, torch.rand(n, 3, generator=generator, dtype=torch.float64), [6] * n))
    return CrystalBatch.from_list(made)


def springs(batch: CrystalBatch, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Energy ``[B]``, forces and stress of atoms on springs to fractional targets, and of cells on springs to cubes."""
    strain = 0.5 * symmetric_log(batch.lattice.mT @ batch.lattice / EQUILIBRIUM_A**2)
    away = torch.einsum("ni,nij->nj", batch.frac_coords - targets, batch.lattice[batch.batch])
    energy = 10 * strain.square().sum((-1, -2)) + torch.zeros(len(batch), dtype=away.dtype).index_add(
        0, batch.batch, away.square().sum(-1)
    )
    stress = 20 * strain / batch.volume.view(-1, 1, 1)  # the springs of the atoms are left out of the stress
    return energy, -2 * away, stress


def descend(
    batch: CrystalBatch, targets: torch.Tensor, steps: int, *, cell: bool = True
) -> tuple[CrystalBatch, FireState]:
    state = fire_start(batch)
    for _ in range(steps):
        _, forces, stress = springs(batch, targets)
        batch, state = fire_step(batch, state, forces, cell_force(batch, stress) if cell else None)
    return batch, state


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_it_goes_to_the_bottom_of_positions_and_cell(seed: int) -> None:
    start = crystals(seed)
    targets = start.frac_coords + 0.05
    end, _ = descend(start, targets, 150)
    _, forces, stress = springs(end, targets)
    assert float(largest_force(end, forces, cell_force(end, stress)).max()) < 1e-3
    assert torch.allclose(end.frac_coords, targets, atol=1e-3)
    assert torch.allclose(
        end.lattice @ end.lattice.mT, EQUILIBRIUM_A**2 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3), atol=1e-2
    )


def test_a_fixed_cell_stays_bit_for_bit() -> None:
    start = crystals(1)
    end, state = descend(start, start.frac_coords + 0.05, 60, cell=False)
    assert torch.equal(end.lattice, start.lattice)
    assert not state.cell_velocity.any()
    assert torch.allclose(end.frac_coords, start.frac_coords + 0.05, atol=1e-3)


def test_each_crystal_moves_as_it_does_alone() -> None:
    start = crystals(2)
    targets = start.frac_coords + 0.1 * torch.randn(
        start.frac_coords.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    end, state = descend(start, targets, 40)
    for b, own in enumerate(targets.split(start.n_atoms.tolist())):
        alone, remembered = descend(start[b], own, 40)
        assert torch.allclose(alone.lattice[0], end.lattice[b], atol=1e-12)
        assert torch.allclose(alone.frac_coords, end[b].frac_coords, atol=1e-12)
        assert float(remembered.dt[0]) == float(state.dt[b])
        assert int(remembered.downhill[0]) == int(state.downhill[b])


def test_dropping_a_crystal_changes_nothing_for_the_rest() -> None:
    start = crystals(3)
    targets = start.frac_coords + 0.07
    middle, state = descend(start, targets, 10)
    state, rest, own = state.keep(middle, [2, 0]), middle[[2, 0]], torch.cat([targets[4:], targets[:1]])
    _, forces, stress = springs(rest, own)
    after, _ = fire_step(rest, state, forces, cell_force(rest, stress))
    expected, _ = descend(start, targets, 11)
    assert torch.allclose(after.lattice, expected.lattice[[2, 0]], atol=1e-12)
    assert torch.allclose(after.frac_coords, expected[[2, 0]].frac_coords, atol=1e-12)


def test_it_turns_with_the_crystal() -> None:
    from autoperi.laws import random_orthogonal, rotated

    start, turn = crystals(4), random_orthogonal(torch.Generator().manual_seed(4))
    targets = start.frac_coords + 0.05
    end, turned = descend(start, targets, 20)[0], descend(rotated(start, turn), targets, 20)[0]
    assert torch.allclose(turned.lattice, end.lattice @ turn.T, atol=1e-10)


@pytest.mark.parametrize("force", [1.0, 1e6])
def test_no_step_is_longer_than_it_may_be(force: float) -> None:
    batch, state = crystals(5), fire_start(crystals(5))
    forces = torch.zeros_like(batch.frac_coords)
    forces[0, 0] = force
    on_cell = force * torch.ones_like(batch.lattice)
    for _ in range(12):
        before = batch
        batch, state = fire_step(batch, state, forces, on_cell)
        move = torch.einsum("ni,nij->nj", batch.frac_coords - before.frac_coords, before.lattice[batch.batch])
        strain = symmetric_log(torch.linalg.solve(before.lattice, batch.lattice))
        assert float(torch.linalg.vector_norm(move, dim=-1).max()) <= MAX_STEP_A + 1e-9
        assert float(torch.linalg.matrix_norm(strain).max()) <= MAX_STEP_STRAIN + 1e-9


def test_uphill_it_stops_and_slows_down() -> None:
    batch = crystals(6, (2,))
    state = fire_start(batch)
    forces = torch.ones_like(batch.frac_coords)
    for _ in range(10):
        batch, state = fire_step(batch, state, forces)
    fast = float(state.dt[0])
    assert fast > 0.1
    assert float(state.alpha[0]) < 0.1
    batch, state = fire_step(batch, state, -forces)
    assert float(state.dt[0]) == pytest.approx(fast / 2)
    assert float(state.alpha[0]) == pytest.approx(0.1)
    assert torch.allclose(state.velocity, -forces * state.dt[0])
    assert int(state.downhill[0]) == 0


def test_the_force_on_the_cell_is_minus_the_work_of_a_strain() -> None:
    batch = crystals(7)
    targets = batch.frac_coords
    energy, _, stress = springs(batch, targets)
    step = 1e-6
    strain = torch.zeros(3, 3, dtype=torch.float64)
    strain[0, 1] = strain[1, 0] = step
    from autoperi.geometry.lattice import symmetric_exp

    moved = batch.replace(lattice=batch.lattice @ symmetric_exp(strain.expand(3, 3, 3)))
    work = (springs(moved, moved.frac_coords)[0] - energy) / step
    assert torch.allclose(-2 * cell_force(batch, stress)[:, 0, 1] * batch.n_atoms, work, rtol=1e-3, atol=1e-4)
