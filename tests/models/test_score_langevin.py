from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from autoperi.data.convert import to_arrays
from autoperi.data.random import torch_generator
from autoperi.geometry.torus import wrap
from autoperi.models.score_langevin import ScoreLangevin, occurrences
from autoperi.processes.base import Condition
from autoperi.processes.langevin import SiteState
from autoperi.symmetry.sites import sites_of
from autoperi.symmetry.wyckoff import wyckoff_positions
from autoperi.testing import tiny_crystals
from autoperi.training.site_data import site_crystals
from autoperi.training.tasks.score_langevin import ScoreLangevinTask

SMALL: dict[str, Any] = {"channels": 16, "layers": 2, "hidden": 16}


def network(dtype: torch.dtype = torch.float64) -> ScoreLangevin:
    torch.manual_seed(0)
    return ScoreLangevin(**SMALL).to(dtype).eval()


def state(dtype: torch.dtype = torch.float64, *, bound: bool = True) -> SiteState:
    groups = [1, 14, 62, 129, 194, 216]
    members = [
        [(z, wyckoff_positions(g)[k] if bound else None) for z, k in ((11, -1), (17, 0), (8, -1))] for g in groups
    ]
    sites = sites_of(groups, members, [400.0] * 6).to(dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    frac = torch.rand(18, 3, generator=generator, dtype=torch.float64).to(dtype)
    noise = torch.randn(6, 6, generator=generator, dtype=torch.float64).to(dtype)
    return SiteState(sites, sites.placed(frac), sites.natural() + 0.2 * sites.free(noise))


@pytest.mark.parametrize("bound", [True, False])
def test_scores_turn_with_the_operations_of_the_group(bound: bool) -> None:
    """Another image of a site has the score that the operation makes of it; that of cells does not change."""
    model, at = network(), state(bound=False)
    level = torch.arange(6)
    expected = model.scores(at, level)
    sites, lattice = at.sites, at.sites.lattice(at.parameters)
    start = torch.cumsum(sites.operations, 0) - sites.operations
    for turn in range(3):
        # the same operation on every site of a crystal
        chosen = (start + turn % sites.operations)[sites.crystal]
        r, t = sites.rotations[chosen], sites.translations[chosen]
        moved = wrap(torch.einsum("sij,sj->si", r, at.frac_coords) + t)
        found = model.scores(SiteState(sites, moved, at.parameters), level)
        torch.testing.assert_close(found.parameters, expected.parameters)
        own = lattice[sites.crystal]
        cartesian = torch.linalg.inv(own) @ r.mT @ own  # rows: v' = v · L⁻¹ Rᵀ L
        torch.testing.assert_close(found.positions, torch.einsum("si,sij->sj", expected.positions, cartesian))
    if bound:  # a site on its position is not pulled off it
        tied = state()
        pull = model.scores(tied, level).positions
        tangent = tied.sites.tangent(tied.sites.lattice(tied.parameters))
        torch.testing.assert_close(torch.einsum("sij,sj->si", tangent, pull), pull, rtol=1e-6, atol=1e-8)


def test_crystals_do_not_see_each_other_and_cells_keep_their_family() -> None:
    model, at = network(), state()
    level = torch.arange(6)
    found = model.scores(at, level)
    torch.testing.assert_close(at.sites.free(found.parameters), found.parameters)
    assert bool((found.parameters.detach().abs().sum(1) > 0).all())
    groups = [1, 14, 62, 129, 194, 216]
    for b, g in enumerate(groups):
        members = [[(z, wyckoff_positions(g)[k]) for z, k in ((11, -1), (17, 0), (8, -1))]]
        alone = SiteState(sites_of([g], members, [400.0]), at.frac_coords[3 * b : 3 * b + 3], at.parameters[b : b + 1])
        one = model.scores(alone, level[b : b + 1])
        torch.testing.assert_close(one.positions, found.positions[3 * b : 3 * b + 3])
        torch.testing.assert_close(one.parameters, found.parameters[b : b + 1])


def test_the_score_of_a_site_depends_on_whether_it_is_bound() -> None:
    model, at = network(), state()
    torch.nn.init.normal_(model.group.weight)
    free = SiteState(at.sites.freed(at.sites.volume), at.frac_coords, at.parameters)
    level = torch.arange(6)
    one, other = (model.scores(s, level).positions.detach() for s in (at, free))
    # the first site of each crystal is on a general position either way, and its images are the same
    assert float((one - other).abs()[::3].sum(1).min()) > 1e-6


def test_scores_have_gradients_and_agree_in_both_precisions() -> None:
    wide, narrow = network(), network(torch.float32)
    level = torch.arange(6)
    a, b = wide.scores(state(), level), narrow.scores(state(torch.float32), level)
    torch.testing.assert_close(a.positions, b.positions.double(), rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(a.parameters, b.parameters.double(), rtol=2e-2, atol=2e-3)
    (b.positions.square().sum() + b.parameters.square().sum()).backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in narrow.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in narrow.position_weight.parameters())


def test_a_request_is_completed_by_sites_that_hold_it_exactly() -> None:
    model = network()
    numbers = torch.tensor([22, 22, 8, 8, 8, 8, 11, 17])
    condition = Condition(numbers, torch.tensor([6, 2]), None)
    for seed in range(20):
        found = model.completed(condition, [torch_generator(seed, k) for k in range(2)])
        assert found.space_group is not None
        crystals = found.sites.crystals(
            found.sites.placed(torch.rand(len(found.sites.crystal), 3).double()), found.sites.natural()
        )
        for (_, _, z), wanted in zip(crystals.unbatch(), numbers.split([6, 2]), strict=True):
            assert torch.equal(z.sort().values, wanted.sort().values)
    asked = Condition(numbers, torch.tensor([6, 2]), torch.tensor([136, 225]))
    given = model.completed(asked, [torch_generator(0, k) for k in range(2)])
    assert given.sites.group.tolist() == [136, 225]


@pytest.mark.parametrize("free", [False, True])
def test_sites_take_positions_of_their_own_or_are_free(free: bool) -> None:
    model = network()
    model.free_sites = free
    condition = Condition(torch.tensor([22, 8, 8] * 30), torch.full((30,), 3), torch.full((30,), 136), are_sites=True)
    found = model.completed(condition, [torch_generator(0, k) for k in range(30)]).sites
    assert found.counts.tolist() == [3] * 30
    assert found.unbound.tolist() == [free] * 90
    assert bool((found.volume > 0).all())
    at = found.placed(torch.rand(90, 3, generator=torch.Generator().manual_seed(0)).double())
    owner = found.images(at, found.lattice(found.natural()))[1]
    sizes = torch.bincount(owner)
    assert float((sizes == 16).double().mean()) > 0.6 if free else len(set(sizes.tolist())) > 3
    if not free:  # 2a and 2b have no freedom: no two sites of a crystal are on one of them
        fixed = ((found.maps == 0).all(2).all(1)).view(30, 3)
        where = at.view(30, 3, 3)
        for k in range(30):
            points = [tuple(x.tolist()) for x, f in zip(where[k], fixed[k], strict=True) if f]
            assert len(set(points)) == len(points)


def test_frequent_groups_and_positions_are_drawn_more_often() -> None:
    data = site_crystals([to_arrays(c) for c in tiny_crystals()])
    groups, letters = occurrences(data.group, data.sites_of_crystal, data.letters)
    assert int(groups.argmax()) == 225
    assert float(groups.exp().sum()) == pytest.approx(1.0, rel=1e-5)
    assert letters[225].argmax() in (0, 1, 2)
    assert float(letters[225, 0]) > float(letters[225, 11])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_training_lowers_the_loss(share: float) -> None:
    data = site_crystals([to_arrays(c) for c in tiny_crystals()])
    batch, _ = data.take(torch.arange(len(data)))
    model = network(torch.float32).train()
    task = ScoreLangevinTask(model, total_steps=10, unbound_share=share)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> torch.Tensor:
        position, cell = task.losses(model, batch, torch.Generator().manual_seed(0))
        return position + cell

    before = float(loss().detach())
    for _ in range(12):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < 0.9 * before


def test_where_nothing_is_known_all_ways_to_place_atoms_are_as_likely() -> None:
    """Two atoms on the lines and planes of Pmm2: letters a to d are lines that hold any number of orbits of one atom,
    and e to h planes with two.
    """
    model, n = network(), 4000
    letters = [model._sentence(25, (2,), torch_generator(0, k))[0] for k in range(n)]
    found = Counter(letters)
    assert len(found) == 14  # ten pairs of lines and four planes
    planes = sum(count for own, count in found.items() if len(own) == 1) / n
    # nine positions have a share of a ninth each, so that a plane is nine times as likely as a pair of lines
    assert planes == pytest.approx(36 / 46, abs=0.03)
    pairs = [count / n for own, count in found.items() if len(own) == 2]
    assert max(pairs) - min(pairs) < 0.02


def test_positions_do_not_depend_on_the_choice_of_basis_origin_or_order() -> None:
    model = network()
    p1, general = wyckoff_positions(1)[0], [(11, 0.1), (17, 0.4), (8, 0.7)]
    frac = torch.tensor([[x, (x * 3.7) % 1, (x * 2.3) % 1] for _, x in general], dtype=torch.float64)
    sites = sites_of([1], [[(z, p1) for z, _ in general]], [60.0])
    cell = torch.tensor([[[4.1, 0.0, 0.0], [0.3, 3.9, 0.0], [0.2, -0.4, 4.4]]], dtype=torch.float64)
    basis = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)

    def positions(lattice: torch.Tensor, at: torch.Tensor, given: Any = sites) -> torch.Tensor:
        parameters = given.parameters(lattice)
        found = model.scores(SiteState(given, at, parameters), torch.tensor([4])).positions.detach()
        # a cell of these parameters may be turned: compare in the cell
        return (
            torch.einsum("si,sij->sj", found, torch.linalg.inv(given.lattice(parameters))[given.crystal]) @ lattice[0]
        )

    expected = positions(cell, frac)
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(positions(basis @ cell, frac @ torch.linalg.inv(basis[0])), expected)
    torch.testing.assert_close(positions(cell, wrap(frac + 0.37)), expected)
    turned = sites_of([1], [[(z, p1) for z, _ in general[::-1]]], [60.0])
    torch.testing.assert_close(positions(cell, frac.flip(0), turned), expected.flip(0))
