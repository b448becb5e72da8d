"""Crystal transformer: the laws, what its equations say, and a model by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi import AutoPeri
from autoperi.data.convert import to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import WeightsError
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.networks import network_component
from autoperi.laws import check_batch_independent, check_invariant
from autoperi.models.crystal_transformer import CrystalTransformer, edge_tables, load_crystal_transformer
from autoperi.testing import tiny_crystals
from autoperi.training.data import TensorCrystals
from autoperi.training.run import TrainingConfig, train

if TYPE_CHECKING:
    from pathlib import Path

torch.set_num_threads(1)
SMALL = {"channels": 16, "edge_channels": 8, "layers": 2, "heads": 2, "hidden": 10, "n_gaussians": 21}


def network(dtype: torch.dtype = torch.float64, **options: int) -> CrystalTransformer:
    """An untrained network whose angles and attention weigh enough to show."""
    torch.manual_seed(0)
    model = CrystalTransformer(**{**SMALL, **options})
    with torch.no_grad():
        for layer in model.local:
            layer.angular.weight.mul_(4)
            layer.qkv.weight.mul_(2)
            layer.mix.weight.mul_(4)
            layer.message.weight.mul_(4)
    return model.to(dtype).eval()


def random_crystals(seed: int, sizes: tuple[int, ...] = (1, 3, 6)) -> CrystalBatch:
    """Skewed cells with atoms anywhere."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for n in sizes:
        while True:
            lattice = torch.randn(3, 3, generator=g, dtype=torch.float64) * 2 + 3 * torch.eye(3, dtype=torch.float64)
            if 8 * n < float(torch.linalg.det(lattice).abs()) < 60 * n:
                break
        made.append(
            (lattice, torch.rand(n, 3, generator=g, dtype=torch.float64), torch.randint(1, 90, (n,), generator=g))
        )
    return CrystalBatch.from_list(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_laws_on_symmetric_crystals(dtype: torch.dtype) -> None:
    batch, model = to_batch(tiny_crystals(), dtype=dtype), network(dtype)
    with torch.no_grad():
        check_invariant(model, batch)
        check_invariant(model.features, batch)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_laws_on_random_crystals(seed: int) -> None:
    with torch.no_grad():
        check_invariant(network(), random_crystals(seed), seed=seed)


def test_no_edges_and_one_atom() -> None:
    lonely = CrystalBatch.from_list(
        [(torch.eye(3) * 50, torch.zeros(1, 3), [18]), (torch.eye(3) * 3, torch.zeros(1, 3), [26])]
    )
    model = network()
    with torch.no_grad():
        assert torch.isfinite(model(lonely)).all()
        check_batch_independent(model.features, lonely)
        edges = model.neighbours(lonely)
        basis = torch.rand(len(edges.centre), SMALL["n_gaussians"], dtype=torch.float64)
        added = model.local[0](model.embedding(lonely.atomic_numbers), edges, basis, edge_tables(edges, 2, 3))
        assert bool((added[0] == 0).all())
        assert bool((added[1] != 0).any())
        torch.testing.assert_close(
            network(torch.float32)(lonely.to(dtype=torch.float32)).double(), model(lonely), rtol=1e-4, atol=1e-5
        )
    for batch in (lonely, lonely[:1]):
        model.zero_grad()
        model(batch).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_attention_is_what_the_docstring_says() -> None:
    """Against sums over edges one by one, with shared last places."""
    model = network(layers=1)
    batch = CrystalBatch.cat([random_crystals(3, (4,)), to_batch(bulk("Cu", "fcc", a=3.6), dtype=torch.float64)])
    layer = model.local[0]
    with torch.no_grad():
        edges = model.neighbours(batch)
        tables = edge_tables(edges, len(batch.atomic_numbers), 3)
        assert len(tables) > 1  # more than one number of edges
        tokens = torch.randn(
            len(edges.centre), SMALL["edge_channels"], dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        found = layer.attend(tokens, tables)
        heads, width = SMALL["heads"], SMALL["edge_channels"] // SMALL["heads"]
        q, k, v = (x.view(-1, heads, width) for x in layer.qkv(tokens).chunk(3, -1))
        beta = layer.angular(tokens).view(-1, heads, 3)
        unit = edges.vector / edges.distance.unsqueeze(-1)
        expected = torch.zeros_like(found)
        for j in range(len(tokens)):
            others = (edges.centre == edges.centre[j]).nonzero().squeeze(-1)
            x = unit[others] @ unit[j]
            legendre = torch.stack([x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2], -1)
            logits = torch.stack([k[others, h] @ q[j, h] / width**0.5 + legendre @ beta[j, h] for h in range(heads)])
            weight = torch.softmax(logits + torch.log(edges.occupation[others]), -1)
            values = [weight[h] @ v[others, h] for h in range(heads)]
            expected[j] = torch.cat([*values, *(weight[h] @ legendre for h in range(heads))])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_angles_are_seen() -> None:
    """A bent and a straight molecule of three equal bonds; within 2.5 Å nothing but the angle differs."""

    def molecule(third: list[int]) -> CrystalBatch:
        return to_batch(
            Atoms("OCO", positions=[[8, 10, 10], [10, 10, 10], third], cell=[20, 20, 20], pbc=True), dtype=torch.float64
        )

    straight, bent = molecule([12, 10, 10]), molecule([10, 12, 10])
    model = network(cutoff=2.5, layers=1)
    with torch.no_grad():
        assert torch.allclose(model.neighbours(bent).distance, model.neighbours(straight).distance)
        assert abs(float(model(bent) - model(straight))) > 1e-6
        model.local[0].mix.weight[:, SMALL["edge_channels"] :] = (
            0  # two edges alike: their values say nothing of the angle
        )
        assert abs(float(model(bent) - model(straight))) < 1e-12


def test_output_is_continuous_where_neighbours_change_places() -> None:
    model = network()

    def energy(strain: float) -> float:
        atoms = bulk("Fe", "bcc", a=2.87, cubic=True)
        atoms.set_cell(atoms.cell[:] * [1, 1, 1 + strain], scale_atoms=True)
        with torch.no_grad():
            return float(model(to_batch(atoms, dtype=torch.float64)))

    assert abs(energy(1e-7) - energy(-1e-7)) < 1e-5
    assert abs(energy(0.02) - energy(0.0)) > 1e-5


def test_atoms_of_a_crystal_see_each_other_beyond_the_cutoff() -> None:
    """The second transformer: an atom 15 Å from all others counts."""

    def pair(symbol: str) -> CrystalBatch:
        return to_batch(
            Atoms(f"HH{symbol}", positions=[[0, 0, 0], [1, 0, 0], [15, 15, 15]], cell=[30] * 3, pbc=True),
            dtype=torch.float64,
        )

    model = network()
    seen: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.no_grad():
        model(pair("He"))
        model(pair("U"))
    assert float((seen[0][:2] - seen[1][:2]).abs().max()) > 1e-6


def test_training_learns_and_repeats(tmp_path: Path) -> None:
    batch = to_batch(tiny_crystals())
    energy = torch.stack([-x.float().mean() / 20 for x in batch.atomic_numbers.split(batch.n_atoms.tolist())])
    energy[0] = float("nan")
    data = TensorCrystals(batch, {"formation_energy_per_atom": energy, "label_weight": torch.ones(len(batch))})
    options = {"train_data": data, "val_data": data, "device": "cpu"}
    config = TrainingConfig(
        "crystal_transformer", epochs=12, batch_size=8, learning_rate=1e-2, ema=0.9, model_config=SMALL
    )
    model, summary = train(config, directory=tmp_path / "whole", **options)
    first = (tmp_path / "whole" / "history.jsonl").read_text().splitlines()[0]
    assert summary["final"]["train_mae"] < 0.5 * float(first.split('"train_mae": ')[1].split("}")[0])
    again, _ = train(config, directory=tmp_path / "again", **options)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_model_by_itself(tmp_path: Path, tiny_dir: Path) -> None:
    model = network(torch.float32)
    save_bundle(Bundle("mine", {"crystal_transformer": network_component(model)}), tmp_path / "mine")
    loaded = load_crystal_transformer(tmp_path / "mine", dtype=torch.float32)
    batch = to_batch(bulk("Fe", "bcc", a=2.87))
    with torch.no_grad():
        assert torch.equal(loaded(batch), model(batch))
    with pytest.raises(WeightsError, match=r"baseline.*crystal_transformer.load_crystal_transformer.*autoperi-base"):
        AutoPeri.from_pretrained(tmp_path / "mine")
    with pytest.raises(WeightsError, match=r"no component 'crystal_transformer'.*autoperi train crystal-transformer"):
        load_crystal_transformer(tiny_dir)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="3 heads must divide 16"):
        CrystalTransformer(**{**SMALL, "heads": 3})
