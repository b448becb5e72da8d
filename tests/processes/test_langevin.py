from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from autoperi.data.random import torch_generator
from autoperi.errors import RequestError
from autoperi.geometry.torus import wrap_centered
from autoperi.processes.base import Condition
from autoperi.processes.langevin import Langevin, Scores, SiteState, moved_by
from autoperi.symmetry.sites import Sites, sites_of
from autoperi.symmetry.wyckoff import wyckoff_positions

GROUPS = [62, 136, 225, 14]


def sites(copies: int = 1) -> Sites:
    members = [[(11, wyckoff_positions(g)[0]), (17, wyckoff_positions(g)[-1])] for g in GROUPS]
    return sites_of(GROUPS * copies, members * copies, [300.0] * 4 * copies)


def condition(given: Sites) -> Condition:
    return Condition(given.atomic_numbers, given.counts, given.group, given)


def test_the_ladder_falls_from_the_first_level_to_the_last() -> None:
    process = Langevin(position_sigma=(2.0, 0.02), lattice_sigma=(1.0, 0.1), levels=5)
    positions, cells = process.sigma(torch.arange(5))
    torch.testing.assert_close(positions[[0, -1]], torch.tensor([2.0, 0.02]).double())
    torch.testing.assert_close(positions[1:] / positions[:-1], torch.full((4,), 0.01**0.25).double())
    torch.testing.assert_close(cells[2], torch.tensor(0.1**0.5).double())
    times = process.times(20)
    assert [int(process.level(t)) for t in times[:-1]] == [k // 4 for k in range(20)]  # equally many steps on each


def test_steps_follow_algorithm_1() -> None:
    """x ← x + ½ ε s + √ε z with ε = γ σ²: mean and spread of one step with a known score."""
    copies = 3000
    many = sites_of([62] * copies, [[(17, wyckoff_positions(62)[-1])]] * copies, [300.0] * copies)
    process = Langevin(position_rate=0.2, lattice_rate=0.1)
    generators = [torch_generator(1, k) for k in range(copies)]
    state = SiteState(many, torch.full((copies, 3), 0.2).double(), many.natural())
    score = Scores(torch.tensor([1.0, 0.0, -2.0]).double().expand(copies, 3), torch.ones(copies, 6).double())
    after = process.step(state, score, 1.0, -0.01, generators)
    sigma_cell = float(process.sigma(torch.tensor(0))[1])
    lattice = many.lattice(state.parameters)
    # σ is larger than the cell, so that only the mean direction survives the wrapping: take a small level
    late = process.step(state, score, 0.05, -0.01, generators)
    sigma = float(process.sigma(process.level(0.05))[0])
    way = torch.einsum("si,sij->sj", wrap_centered(late.frac_coords - state.frac_coords), lattice)
    torch.testing.assert_close(way.mean(0), sigma * 0.1 * torch.tensor([1.0, 0.0, -2.0]).double(), rtol=0.1, atol=2e-3)
    torch.testing.assert_close(way.std(0), torch.full((3,), 0.2**0.5 * sigma).double(), rtol=0.05, atol=0)
    moved = (after.parameters - state.parameters)[:, :3]
    torch.testing.assert_close(moved.mean(0), torch.full((3,), 0.05 * sigma_cell).double(), rtol=0.1, atol=5e-3)
    torch.testing.assert_close(moved.std(0), torch.full((3,), 0.15 * 0.1**0.5 * sigma_cell).double(), rtol=0.05, atol=0)


def test_the_true_score_leads_to_the_crystal() -> None:
    given = sites()
    process = Langevin()
    generators = [torch_generator(0, k) for k in range(4)]
    target = process.start(condition(given), [torch_generator(7, k) for k in range(4)])
    state = process.start(condition(given), generators)
    times = process.times(60)
    for t, later in pairwise(times):
        sigma, sigma_cell = (float(s) for s in process.sigma(process.level(t)))
        lattice = given.lattice(state.parameters)[given.crystal]
        way = torch.einsum("si,sij->sj", wrap_centered(target.frac_coords - state.frac_coords), lattice)
        score = Scores(way / sigma, (target.parameters - state.parameters) / sigma_cell)
        state = process.step(state, score, t, later - t, generators)
    torch.testing.assert_close(state.parameters, target.parameters)
    assert float(wrap_centered(state.frac_coords - target.frac_coords).abs().max()) < 1e-9
    assert torch.equal(state.crystals().n_atoms, target.crystals().n_atoms)


def test_sites_never_leave_their_positions_and_cells_their_family() -> None:
    given = sites()
    process = Langevin()
    state = process.start(condition(given), [torch_generator(0, k) for k in range(4)])
    noise = Scores(torch.randn(8, 3).double(), torch.randn(4, 6).double())
    generators = [torch_generator(1, k) for k in range(4)]
    for t, later in ((1.0, 0.5), (0.5, 0.1), (0.1, 0.0)):
        state = process.step(state, noise, t, later - t, generators)
        assert float(wrap_centered(given.placed(state.frac_coords) - state.frac_coords).abs().max()) < 1e-9
        torch.testing.assert_close(given.free(state.parameters), state.parameters)


def test_noise_is_what_leads_back() -> None:
    given = sites(50)
    process = Langevin(position_sigma=(0.5, 0.1))
    clean = process.start(condition(given), [torch_generator(0, k) for k in range(200)])
    cells = torch.arange(200) % 2 == 0
    level = torch.full((200,), process.levels - 1)
    args: tuple[Any, ...] = (given, clean.frac_coords, clean.parameters, level, cells)
    state, wanted = process.noised(*args, torch.Generator().manual_seed(0))
    sigma, sigma_cell = (float(s[0]) for s in process.sigma(level))
    lattice = given.lattice(clean.parameters)
    back = moved_by(given, state.frac_coords, lattice, sigma * wanted.positions)
    assert float(wrap_centered(back - clean.frac_coords).abs().max()) < 1e-9
    torch.testing.assert_close(state.parameters + sigma_cell * wanted.parameters, clean.parameters)
    assert not wanted.parameters[~cells].any()  # these keep their cells
    free = given.tangent(lattice).diagonal(dim1=1, dim2=2).sum(-1)
    assert float((wanted.positions**2).sum() / free.sum()) == pytest.approx(1.0, rel=0.15)


def test_what_makes_no_ladder_is_refused() -> None:
    for options in ({"position_sigma": (0.1, 1.0)}, {"lattice_sigma": (1.0, 0.0)}, {"levels": 1}):
        with pytest.raises(RequestError, match="no ladder"):
            Langevin(**options)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="needs the sites"):
        Langevin().start(Condition(torch.tensor([1]), torch.tensor([1])), [torch_generator(0)])


@pytest.mark.parametrize("number", range(1, 231))
def test_sites_are_moved_along_their_positions_and_nowhere_else(number: int) -> None:
    """To be moved by nothing changes nothing, and two moves are the move by their sum; also where the map of a position
    has fractions in the primitive cell.
    """
    positions = [p for p in wyckoff_positions(number) if p.dof]
    if not positions:
        return
    given = sites_of([number], [[(11, p) for p in positions]], [500.0])
    lattice, n = given.lattice(given.natural()), len(positions)
    generator = torch.Generator().manual_seed(number)
    at = given.placed(torch.rand(n, 3, generator=generator, dtype=torch.float64))
    one, other = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    one, other = (torch.einsum("sij,sj->si", given.tangent(lattice), v) for v in (one, other))
    assert float(wrap_centered(moved_by(given, at, lattice, 0 * one) - at).abs().max()) < 1e-12
    twice = moved_by(given, moved_by(given, at, lattice, one), lattice, other)
    assert float(wrap_centered(twice - moved_by(given, at, lattice, one + other)).abs().max()) < 1e-12
    atoms = given.images(twice, lattice)[1]
    assert torch.bincount(atoms).tolist() == [p.primitive_multiplicity for p in positions]
