from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.errors import RequestError
from autoperi.geometry.lattice import metric
from autoperi.geometry.torus import wrap_centered
from autoperi.processes.base import Condition
from autoperi.processes.diffusion import LATTICES, POSITIONS, Diffusion, DiffusionState, Prediction

CONDITION = Condition(torch.tensor([3, 8, 8, 11, 17]), torch.tensor([3, 2]))


def crystals(n: int = 2) -> CrystalBatch:
    generator = torch.Generator().manual_seed(0)
    lattice = torch.eye(3, dtype=torch.float64) + 0.2 * torch.randn(n, 3, 3, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([3, 2] * (n // 2))
    frac = torch.rand(int(sizes.sum()), 3, generator=generator, dtype=torch.float64)
    return CrystalBatch(lattice, frac, torch.ones(len(frac), dtype=torch.long), sizes)


def known(batch: CrystalBatch, state: DiffusionState) -> Prediction:
    """What a network says that knows the crystals."""
    return Prediction(batch.lattice, wrap_centered(batch.frac_coords - state.frac_coords), torch.ones(len(batch)))


def test_nothing_is_lost_at_first_and_the_cell_entirely_at_last() -> None:
    process = Diffusion()
    cell, atoms = process.kept(torch.tensor([0.0, 1.0]))
    assert cell[0] == atoms[0] == 1
    assert cell[1] < 0.01
    beta = np.linspace(1e-6, 2e-3, 100)
    assert float(atoms[1]) == pytest.approx(np.prod(1 - beta))  # equation 16 with Table 1's numbers
    every, _ = process.kept(torch.linspace(0, 1, 333, dtype=torch.float64))
    assert bool((every.diff() < 0).all())


@pytest.mark.parametrize(("t", "later"), [(1.0, 0.99), (0.5, 0.2), (0.03, 0.0)])
def test_the_posterior_of_cells_gives_the_marginal_at_an_earlier_time(t: float, later: float) -> None:
    """Mean and variance of q(x_later | x₀) = ∫ q(x_later | xₜ, x₀) q(xₜ | x₀), for x₀ = 1."""
    process = Diffusion()
    one = torch.ones(1, 9, dtype=torch.float64)
    (now, _), (then, _) = process.kept(t), process.kept(later)
    mean, variance = process.posterior(now.sqrt() * one, one, t, later)
    slope = process.posterior(one, 0 * one, t, later)[0]
    torch.testing.assert_close(mean, then.sqrt() * one)
    torch.testing.assert_close(slope[:, :1] ** 2 * (1 - now) + variance, (1 - then).expand(1, 1))


def test_the_bridge_of_atoms_gives_the_marginal_at_an_earlier_time() -> None:
    """The variance of the walk after a step from xₜ with x₀ known is that of q(x_later | x₀)."""
    process = Diffusion(positions="bridge")
    batch = crystals(2000)
    t, later = 0.5, 0.3
    state, way = process.noised(batch, torch.ones(2000), torch.full((2000,), t), torch.Generator().manual_seed(1))
    found = known(batch, state)._replace(moves=way)
    after = process.step(state, found, t, later - t, [torch_generator(0, k) for k in range(2000)])
    off = wrap_centered(after.frac_coords - batch.frac_coords)
    assert float(off.var()) == pytest.approx(1 - float(process.kept(later)[1]), rel=0.02)
    assert abs(float(off.mean())) < 0.01


@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_a_network_that_knows_the_crystals_gets_them(lattice: str, positions: str, steps: int) -> None:
    process, batch = Diffusion(lattice=lattice, positions=positions), crystals()
    generators = [torch_generator(0, k) for k in range(2)]
    state = process.start(CONDITION, generators)
    times = process.times(steps)
    assert len(times) == steps + 1
    for t, later in pairwise(times):
        state = process.step(state, known(batch, state), t, later - t, generators)
    torch.testing.assert_close(metric(state.crystals().lattice), metric(batch.lattice), rtol=1e-9, atol=1e-9)
    assert float(wrap_centered(state.frac_coords - batch.frac_coords).abs().max()) < 1e-9


def test_noise_forgets_the_crystal() -> None:
    process, batch = Diffusion(position_beta=(1e-2, 1e-1)), crystals(2000)
    state, way = process.noised(batch, torch.ones(2000), torch.ones(2000), torch.Generator().manual_seed(2))
    assert kstest(state.frac_coords.flatten().numpy(), "uniform").pvalue > 1e-3
    assert kstest(state.x.flatten().numpy(), "norm").pvalue > 1e-4
    assert float(way.abs().max()) <= 0.5  # the shortest way, equation 20
    assert float(wrap_centered(state.frac_coords + way - batch.frac_coords).abs().max()) < 1e-12


def test_cells_in_the_log_metric_do_not_turn_and_without_diffusion_do_not_move() -> None:
    generators = [torch_generator(0, k) for k in range(2)]
    turned, still = (Diffusion(lattice=name).start(CONDITION, generators) for name in ("log_metric", "none"))
    assert not turned.x[:, :3].any()
    assert bool(turned.x[:, 3:].all())
    torch.testing.assert_close(turned.lattice, turned.lattice.mT)
    torch.testing.assert_close(still.lattice, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


@pytest.mark.parametrize("option", [{"lattice": "cell"}, {"positions": "leap"}])
def test_unknown_names_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="is not known; choose"):
        Diffusion(**option)
