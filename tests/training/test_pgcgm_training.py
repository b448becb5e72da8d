"""PGCGM: its data, its representation, and the losses of both sides (Zhao et al. 2023, equations 4 to 7, Table 7)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoperi.chemistry.descriptors import PGCGM_PROPERTIES, pgcgm_properties
from autoperi.cli.main import main
from autoperi.data.io import write_crystals
from autoperi.errors import DataError, RequestError
from autoperi.geometry.distances import minimum_distance_ratios
from autoperi.models.pgcgm import (
    MAX_GROWTH,
    Deconvolution,
    Discriminator,
    Pgcgm,
    channels_of,
    represent,
    site_facts,
)
from autoperi.processes.base import Condition
from autoperi.processes.one_shot import BaseSites, OneShot
from autoperi.symmetry.base_sites import (
    affine_matrices,
    affine_matrix,
    cells,
    images,
    merged,
    multiplicities,
    radius_sums,
)
from autoperi.symmetry.spacegroup import space_group
from autoperi.testing import tiny_crystals
from autoperi.training.base_site_data import (
    BaseSiteCrystals,
    augmented,
    base_site_crystals,
    element_volumes,
    occurrences_of,
)
from autoperi.training.tasks.pgcgm import PgcgmTask, bound_loss, cosines, normalised


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> BaseSiteCrystals:
    path = tmp_path_factory.mktemp("pgcgm") / "crystals.parquet"
    write_crystals(tiny_crystals(), path)
    return base_site_crystals(path, slots=4, fewest=2, repeats=3)


def network(**options: Any) -> Pgcgm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Pgcgm(**{"slots": 4, "noise": 8, "hidden": 16, **options})
    made.properties.copy_(torch.as_tensor(pgcgm_properties()))
    return made


def task_of(model: Pgcgm, **options: Any) -> PgcgmTask:
    found = PgcgmTask(model, total_steps=10, **options)
    found.log = lambda *_, **__: None  # type: ignore[method-assign]
    return found


def rows(data: BaseSiteCrystals, n: int = 12) -> Any:
    return data.take(torch.arange(0, len(data), 2)[:n])[0]


# --- data


def test_a_row_is_its_crystal(data: BaseSiteCrystals, tmp_path: Path) -> None:
    """All sets of base sites give back the crystal, elements in the order of slots; saved and loaded the same."""
    crystals = [c for c in tiny_crystals() if len(c.composition) > 1]
    assert len(data) == 3 * len(crystals)
    batch, labels = data.take(torch.arange(len(data)))
    assert labels["row"].tolist() == list(range(len(data)))
    for chosen in range(3):
        sites = batch.made.sites[:, chosen].double()
        made = merged(batch.elements, sites, batch.made.lattice.double(), batch.groups, merge=0.3)
        assert bool((minimum_distance_ratios(made) > 0.5).all())
        for k, (lattice, frac, numbers) in enumerate(made.unbatch()):
            from pymatgen.core import Structure

            assert Structure(lattice.numpy(), numbers.tolist(), frac.numpy()).matches(crystals[k // 3])
    data.save(tmp_path / "data.safetensors")
    again = BaseSiteCrystals.load(tmp_path / "data.safetensors")
    assert torch.equal(again.sites, data.sites)


def test_augmentation_takes_the_nearest_atoms() -> None:
    atoms = [
        np.array([[0.0, 0, 0], [0.5, 0, 0]]),
        np.array([[0.1, 0, 0], [0.9, 0, 0]]),
        np.array([[0.3, 0, 0], [0.7, 0, 0]]),
    ]
    found = augmented(atoms, np.eye(3) * 10, 60, np.random.default_rng(0))
    assert found.shape == (60, 3, 3)
    distinct = {tuple(row[:, 0]) for row in found}
    # whichever comes first, the others are those nearest to it and to each other
    assert distinct <= {(0.0, 0.1, 0.3), (0.5, 0.1, 0.3), (0.5, 0.9, 0.7), (0.5, 0.1, 0.7), (0.5, 0.9, 0.3)}
    assert (0.0, 0.1, 0.3) in distinct
    assert len(distinct) > 2
    again = augmented(atoms, np.eye(3) * 10, 60, np.random.default_rng(0))
    np.testing.assert_array_equal(found, again)


def test_what_occurs(data: BaseSiteCrystals) -> None:
    counts, together = occurrences_of(data)
    assert counts[225, 1, 0, 11] == 1  # NaCl
    assert counts[221, 2, 2, 8] == 2  # oxygen is the third of SrTiO3 and BaTiO3
    assert counts[:, :, 0].sum() == len(data.groups)
    assert together[38, 22]
    assert together[22, 38]
    assert not together[38, 17]


def test_data_without_such_crystals_are_refused(tmp_path: Path) -> None:
    write_crystals(tiny_crystals()[:1], tmp_path / "one.parquet")
    with pytest.raises(DataError, match="no crystal of 3 to 3 elements with one orbit each"):
        base_site_crystals(tmp_path / "one.parquet", slots=3, fewest=3)
    with pytest.raises(DataError, match="5 in a space group"):
        base_site_crystals(tmp_path / "one.parquet", slots=3, fewest=2, min_crystals=5)


# --- representation


def test_table_7(data: BaseSiteCrystals) -> None:
    """The parts of the matrix of a ternary fill 3 × 61 places, and the rest of 3 × 8 × 8 is zero."""
    assert len(PGCGM_PROPERTIES) == 23
    assert channels_of(3) == 3
    batch = rows(data)
    model = network(slots=3)
    part = BaseSites(batch.made.sites[:, :, :3], batch.made.lattice)
    facts = site_facts(part, batch.elements[:, :3], batch.groups)
    made = represent(part, facts, batch.elements[:, :3], model.properties)
    flat = made.flatten(1)
    assert made.shape[1:] == (3, 8, 8)
    assert not flat[:, 183:].any()
    assert torch.equal(flat[:, :27], part.sites.flatten(1))
    assert torch.equal(flat[:, 174:183], batch.made.lattice.flatten(1) / 10)
    assert torch.allclose(flat[:, 153:156], torch.linalg.det(batch.made.lattice)[:, None].expand(-1, 3) / 500)


def test_averaged_full_coordinates_of_real_sets_are_the_same(data: BaseSiteCrystals) -> None:
    batch = rows(data)
    made = site_facts(batch.made, batch.elements, batch.groups, nearest=True)
    for ours, known in zip(made, batch.facts, strict=True):  # those that training reads
        assert torch.allclose(ours, known, atol=2e-4)
    off = (made.full - made.full[:, :1] + 0.5) % 1 - 0.5
    assert off.abs().max() < 1e-5


def test_averages_of_groups_without_a_polar_axis_do_not_move() -> None:
    """Σ R = 0: L_full has no gradient there, whatever the base sites are."""
    for number, polar in ((225, False), (62, False), (216, False), (186, True), (1, True)):
        sites = torch.rand(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
        images(sites, affine_matrix(number)[None]).sum().backward()
        assert bool((sites.grad.abs() > 1e-9).any()) is polar


# --- losses


def test_equation_5() -> None:
    distances = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 9.0]])
    radii = torch.tensor([[2.0, 2.0, 2.0], [2.0, 2.0, 0.0]])  # the last is no pair
    expected = ((1.6 - 1.0) ** 2 * 2 + (4.0 - 3.0) ** 2) / 5
    assert bound_loss(distances, radii, (0.8, 1.5)).item() == pytest.approx(expected)
    assert bound_loss(distances, radii, (0.5, 2.0)).item() == 0
    distances.requires_grad_(True)
    bound_loss(distances, radii, (0.8, 1.5)).backward()
    assert distances.grad[0].tolist() == pytest.approx([-2 * 0.6 / 5, 0, 2 / 5])
    assert distances.grad[1, 2] == 0


def test_bounds_hold_for_real_crystals(data: BaseSiteCrystals) -> None:
    batch, _ = data.take(torch.arange(len(data)))
    for nearest, intra in ((False, (0.0, 3.3)), (True, (0.0, 0.0))):
        task = task_of(network(), nearest=nearest, intra=intra)
        facts = site_facts(batch.made, batch.elements, batch.groups, nearest=nearest)
        own = task.generator_losses(batch.made.sites, facts, batch.elements)
        assert own["inter"] < 2e-3
        assert own["intra"] < 0.05


def test_equation_6_as_the_text_has_it_and_as_printed(data: BaseSiteCrystals) -> None:
    batch = rows(data)
    full = torch.rand(len(batch), 3, 4, 3)
    sites = torch.rand(len(batch), 3, 4, 3)
    facts = batch.facts._replace(full=full)
    losses = {p: task_of(network(), printed=p).generator_losses(sites, facts, batch.elements) for p in (False, True)}
    for name, x in (("full", full), ("base", sites)):
        cosine = cosines(normalised(x))
        same, different = ((v.sum(1).mean() / 9).item() for v in (1 - cosine, cosine.clamp(min=0)))
        text, printed = (losses[p][name].item() for p in (False, True))
        assert (text, printed) == pytest.approx((same, different) if name == "full" else (different, same))
    equal = facts._replace(full=full[:, :1].expand(-1, 3, -1, -1))
    assert task_of(network()).generator_losses(sites, equal, batch.elements)["full"].item() == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("nearest", [False, True])
def test_gradients_of_the_losses_against_differences(data: BaseSiteCrystals, nearest: bool) -> None:
    batch = rows(data, 4)
    task = task_of(network().double(), nearest=nearest, weights=(1, 1, 0.5, 0.5))
    task.discriminator.double()
    raw = torch.tensor([[6.0, 6.5, 7.0, 90, 90, 90]], dtype=torch.float64).repeat(4, 1)
    sites = torch.rand(4, 3, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    held = (batch.elements > 0)[:, None, :, None]

    def loss(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        made = BaseSites(x * held, cells(lengths, batch.groups))
        facts = site_facts(made, batch.elements, batch.groups, nearest=nearest)
        matrix = represent(made, facts, batch.elements, task.model.properties)
        own = task.generator_losses(made.sites, facts, batch.elements)
        return sum(own.values()) - task.discriminator(matrix, batch.groups).mean()

    torch.autograd.gradcheck(loss, (sites.requires_grad_(True), raw.requires_grad_(True)), atol=1e-4, eps=1e-7)


def test_the_gradient_penalty_is_of_the_slope(data: BaseSiteCrystals) -> None:
    """A discriminator of slope 2 has a penalty of 1, and its gap is that of the means."""
    batch = rows(data)
    task = task_of(network())
    real = task.real(batch)
    nearest = task_of(network(), nearest=True).real(batch)
    assert torch.equal(real[:, :2], nearest[:, :2])  # they differ in the distances alone
    assert not torch.equal(real, nearest)

    class Linear(torch.nn.Module):
        def forward(self, matrix: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            return 2 * matrix[:, 0, 0, 0]

    task.discriminator = Linear()  # type: ignore[assignment]
    gap, penalty = task.discriminator_loss(batch, torch.Generator().manual_seed(0))
    assert penalty.item() == pytest.approx(1.0)
    noise = torch.randn(len(batch), 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fake = task.model(noise, batch.elements, batch.groups).sites[:, 0, 0, 0]
    assert gap.item() == pytest.approx(2 * (fake - batch.made.sites[:, 0, 0, 0]).mean().item(), abs=1e-5)


def test_each_side_learns_alone(data: BaseSiteCrystals) -> None:
    task = task_of(network(joined=True), critic_steps=2, nearest=True)
    batch = (rows(data), {})
    for index, learns, rests in ((0, task.discriminator, task.model), (2, task.model, task.discriminator)):
        task.zero_grad(set_to_none=True)
        task.training_step(batch, index).backward()
        assert all(p.grad is None for p in rests.parameters())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learns.parameters())
        assert all(p.requires_grad for p in task.learning.parameters())


def test_options_that_make_no_loss_are_refused() -> None:
    for options, words in (
        ({"inter": [2, 1]}, "inter=.* is no lower and upper bound"),
        ({"intra": [1]}, "intra=.* is no lower and upper bound"),
        ({"intra": ["a", "b"]}, "intra=.* is no lower and upper bound"),
        ({"critic_steps": 0}, "critic_steps=0 is below 1"),
        ({"min_crystals": 0}, "min_crystals=0 is below 1"),
        ({"weights": [1.0, -1.0, 0.0, 0.0]}, "weights=.* are no four weights"),
        ({"weights": [1.0]}, "weights=.* are no four weights"),
    ):
        with pytest.raises(RequestError, match=words):
            PgcgmTask.check_options(options, None)  # type: ignore[arg-type]
    for wrong, words in (({"slots": 1}, "slots=1"), ({"hidden": 1}, "hidden=1"), ({"noise": 0}, "noise=0")):
        with pytest.raises(RequestError, match=words):
            Pgcgm(**wrong)
    with pytest.raises(RequestError, match="all 2 batches of this run would teach the discriminator"):
        PgcgmTask(network(), total_steps=2, critic_steps=2)


def test_a_run_with_few_batches_an_epoch(tmp_path: Path) -> None:
    """The generator learns although no epoch has as many batches as the discriminator takes; what is read on a resume,
    or for a base model, is what their options say.
    """
    write_crystals(tiny_crystals(), tmp_path / "crystals.parquet")
    table, words = str(tmp_path / "crystals.parquet"), ["train", "pgcgm", "--device", "cpu", "--quiet"]
    words += ["--data", table, "--val", table, "--batch-size", "64", "--seed", "1"]
    small = {"paper_groups": "false", "min_crystals": 1, "fewest_elements": 2, "repeats": 3}
    options = [w for k, v in small.items() for w in ("--set", f"{k}={v}")]
    sizes = ["--set", "slots=4", "--set", "hidden=8", "--set", "noise=4"]
    run, again = tmp_path / "run", tmp_path / "again"
    assert main([*words, *options, *sizes, "--set", "critic_steps=2", "--out", str(run), "--epochs", "4"]) == 0
    assert "train_inter" in (run / "checkpoints" / "history.jsonl").read_text()
    for other in ("joined=true", "slots=3", "repeats=4"):  # said or not at the beginning
        assert main([*words, "--out", str(run), "--epochs", "5", "--resume", "--set", other]) == 2
    assert main([*words, "--out", str(run), "--epochs", "5", "--resume"]) == 0
    assert main([*words, *options, "--out", str(again), "--epochs", "6", "--base", str(run / "model")]) == 0
    assert json.loads((again / "model" / "config.json").read_text())["components"]["pgcgm"]["config"]["slots"] == 4
    over = ["--set", "fewest_elements=5", "--out", str(tmp_path / "over"), "--base", str(run / "model")]
    assert main([*words, *options, *over]) == 2


# --- generator and process


def test_figure_5_and_its_branches() -> None:
    """As drawn, sites know no group and cells no elements; joined, both know both."""
    noise = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    elements = torch.tensor([[38, 22, 8, 0], [38, 22, 8, 0], [12, 14, 7, 0]])
    groups = torch.tensor([225, 221, 225])
    for joined in (False, True):
        with torch.no_grad():
            sites, lattice, _ = network(joined=joined)(noise, elements, groups)
        assert sites.shape == (3, 3, 4, 3)
        assert not sites[:, :, 3].any()
        assert torch.allclose(sites[0], sites[1]) is not joined
        assert torch.allclose(lattice[0], lattice[2]) is not joined
        assert not torch.allclose(lattice[0], lattice[1])
        assert not torch.allclose(sites[0], sites[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deconvolutions_are_transposed_convolutions(dtype: torch.dtype) -> None:
    for kernel, size in ((2, (1, 1)), ((3, 2), (2, 2)), (1, (4, 3))):
        ours = Deconvolution(5, 4, kernel).to(dtype)
        theirs = torch.nn.ConvTranspose2d(5, 4, kernel).to(dtype)
        theirs.load_state_dict(ours.state_dict())
        given = torch.randn(3, 5, *size, dtype=dtype)
        torch.testing.assert_close(ours(given), theirs(given))


def test_natural_volumes(data: BaseSiteCrystals) -> None:
    """The volume is that of what the sites stand for, within the network's factor; real crystals are so too."""
    model = network(natural=True, merge=0.6)
    volumes = element_volumes(data, merge=0.6)
    model.element_volume.copy_(volumes)
    batch = rows(data)
    noise = torch.randn(len(batch), 8, generator=torch.Generator().manual_seed(0))
    sites, lattice, growth = model(noise, batch.elements, batch.groups)
    assert growth is not None
    each, which = affine_matrices(batch.groups)
    before = lattice / (growth / 3).exp()[:, None, None]
    counts = multiplicities(batch.elements, sites[:, 0], each[which], before, merge=0.6)
    assert bool((counts[batch.elements > 0] >= 1).all())
    assert not counts[batch.elements == 0].any()
    ratio = torch.linalg.det(lattice) / (counts * volumes[batch.elements]).sum(1)
    assert bool((ratio.log().abs() <= MAX_GROWTH + 1e-4).all())
    (growth**2).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.cell.parameters())
    counts = multiplicities(batch.elements, batch.made.sites[:, 1], each[which], batch.made.lattice, merge=0.6)
    made = merged(batch.elements, batch.made.sites[:, 1].double(), batch.made.lattice.double(), batch.groups, merge=0.6)
    cells_in_one = torch.tensor([space_group(g).n_centring for g in batch.groups.tolist()])
    assert counts.sum(1).tolist() == (made.n_atoms * cells_in_one).tolist()
    ratio = torch.linalg.det(batch.made.lattice) / (counts * volumes[batch.elements]).sum(1)
    assert bool(((ratio > 0.7) & (ratio < 1.4)).all())


def test_one_shot() -> None:
    process = OneShot(noise=8, slots=4)
    condition = Condition(torch.tensor([38, 22, 8, 11, 17]), torch.tensor([3, 2]), torch.tensor([221, 225]))
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    state = process.start(condition, generators)
    assert state.elements.tolist() == [[38, 22, 8, 0], [11, 17, 0, 0]]
    assert process.times(50) == [0.0, 1.0]
    made = process.step(state, network().predict(state, 0.0), 0.0, 1.0, generators)
    assert len(made.crystals()) == 2
    for wrong, words in (
        (lambda: process.start(Condition(*(condition.atomic_numbers, condition.n_atoms)), generators), "needs a space"),
        (lambda: OneShot(noise=8, slots=2).start(condition, generators), "3 elements are more than the 2"),
        (lambda: OneShot(noise=0), "noise=0"),
    ):
        with pytest.raises(RequestError, match=words):
            wrong()


def test_the_discriminator_reads_the_group(data: BaseSiteCrystals) -> None:
    batch, judge = rows(data, 2), Discriminator(slots=4, hidden=16)
    made = represent(batch.made, batch.facts, batch.elements, network().properties)
    scores = judge(made[:1].repeat(2, 1, 1, 1), torch.tensor([225, 62]))
    assert scores.shape == (2,)
    assert scores[0] != scores[1]
    inter, _ = radius_sums(batch.elements)
    assert inter.shape == (2, 6)
