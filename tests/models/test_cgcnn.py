"""CGCNN: the laws, the twelve nearest neighbours where they tie, eq. 5, and a model by itself."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi import AutoPeri
from autoperi.data.convert import atoms_to_structure, to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import WeightsError
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.networks import network_component
from autoperi.laws import check_batch_independent, check_invariant
from autoperi.models.cgcnn import Cgcnn, load_cgcnn, nearest_neighbours
from autoperi.testing import tiny_crystals
from autoperi.training.data import Batches, TensorCrystals
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks.cgcnn import CgcnnTask

if TYPE_CHECKING:
    from pathlib import Path

torch.set_num_threads(1)
SMALL = {"channels": 12, "layers": 2, "hidden": 10, "n_gaussians": 21}


@functools.cache
def statistics() -> dict[str, torch.Tensor]:
    """State of an untrained network whose running statistics are not the initial ones."""
    torch.manual_seed(0)
    model = Cgcnn(**SMALL)
    with torch.no_grad():
        model.train()
        for _ in range(3):
            model(to_batch(tiny_crystals()))
    return model.state_dict()


def network(dtype: torch.dtype = torch.float64) -> Cgcnn:
    model = Cgcnn(**SMALL)
    model.load_state_dict(statistics())
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
    """Textbook crystals are full of ties, which a choice of twelve would break."""
    batch, model = to_batch(tiny_crystals(), dtype=dtype), network(dtype)
    with torch.no_grad():
        check_invariant(model, batch)
        check_invariant(model.features, batch)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_laws_on_random_crystals(seed: int) -> None:
    with torch.no_grad():
        check_invariant(network(), random_crystals(seed), seed=seed)


@pytest.mark.parametrize(
    ("crystal", "shells"),
    [
        (bulk("Cu", "fcc", a=3.6), {2.5456: (12, 1.0)}),
        (bulk("Fe", "bcc", a=2.87), {2.4855: (8, 1.0), 2.87: (6, 4 / 6)}),
        (bulk("Po", "sc", a=3.35), {3.35: (6, 1.0), 4.7376: (12, 6 / 12)}),
    ],
)
def test_shells_share_the_last_places(crystal: object, shells: dict[float, tuple[int, float]]) -> None:
    edges = nearest_neighbours(to_batch(crystal, dtype=torch.float64))
    assert float(edges.occupation.sum()) == pytest.approx(12, abs=1e-9)
    for distance, (count, occupation) in shells.items():
        at = (edges.distance - distance).abs() < 1e-3
        assert int(at.sum()) == count
        assert edges.occupation[at].tolist() == pytest.approx([occupation] * count, abs=1e-9)
    assert len(edges.distance) == sum(count for count, _ in shells.values())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 5, 12]))
def test_occupations_against_all_distances(seed: int, k: int) -> None:
    """Against pymatgen's neighbour list: they add up to k, fall with distance, and 0.2 Å from the k-th they are 1 or
    0.
    """
    from autoperi.data.convert import to_structures

    batch = random_crystals(seed, (1, 4))
    edges = nearest_neighbours(batch, k=k)
    atom = 0
    for structure in to_structures(batch):
        for neighbours in structure.get_all_neighbors(10.0):
            every = np.sort([n.nn_distance for n in neighbours])
            mine = edges.centre == atom
            distance, order = torch.sort(edges.distance[mine])
            occupation = edges.occupation[mine][order]
            np.testing.assert_allclose(distance, every[: len(distance)], atol=1e-8)
            assert bool((torch.diff(occupation) <= 1e-9).all())
            if every[k - 1] < 7.6:
                assert float(occupation.sum()) == pytest.approx(k, abs=1e-8)
                assert int((occupation > 1 - 1e-12).sum()) >= int((every < every[k - 1] - 0.2).sum())
                assert float(distance[-1]) <= every[k - 1] + 0.2
            atom += 1


def test_convolution_is_equation_5() -> None:
    """On copper, twelve equal neighbours: the matrices of the three blocks put together act on v_i ⊕ v_j ⊕ u_ij."""
    model = network()
    layer = model.convolutions[0]
    batch = to_batch(bulk("Cu", "fcc", a=3.6), dtype=torch.float64)
    with torch.no_grad():
        edges = model.neighbours(batch)
        v = model.embedding(batch.atomic_numbers)
        u = torch.exp(-(((3.6 / 2**0.5 - torch.linspace(0, 8, 21, dtype=torch.float64)) / 0.4) ** 2))
        found = layer(v, u.expand(12, -1), edges)[0]
        w = torch.cat([layer.centre.weight, layer.neighbour.weight, layer.edge.weight], 1)

        def normalised(x: torch.Tensor, norm: torch.nn.BatchNorm1d) -> torch.Tensor:
            return (x - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps) * norm.weight + norm.bias

        z = normalised(w @ torch.cat([v[0], v[0], u]) + layer.centre.bias, layer.norm_edges)
        message = torch.sigmoid(z[:12]) * torch.log1p(torch.exp(z[12:]))
        expected = torch.log1p(torch.exp(v[0] + normalised(12 * message, layer.norm_atoms)))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_output_is_continuous_where_neighbours_change_places() -> None:
    """Bain's path takes the twelfth neighbour of bcc through a tie with the others of its shell."""
    model = network()

    def energy(strain: float) -> float:
        atoms = bulk("Fe", "bcc", a=2.87, cubic=True)
        atoms.set_cell(np.diag([2.87, 2.87, 2.87 * (1 + strain)]), scale_atoms=True)
        with torch.no_grad():
            return float(model(to_batch(atoms, dtype=torch.float64)))

    assert abs(energy(1e-7) - energy(-1e-7)) < 1e-5
    assert abs(energy(0.02) - energy(0.0)) > 1e-5  # it does read the strain


def test_isolated_atoms_and_precision() -> None:
    lonely = CrystalBatch.from_list(
        [(torch.eye(3) * 50, torch.zeros(1, 3), [18]), (torch.eye(3) * 3, torch.zeros(1, 3), [26])]
    )
    model = network()
    with torch.no_grad():
        assert torch.isfinite(model(lonely)).all()
        check_batch_independent(model.features, lonely)
        assert model.features(lonely).shape == (2, SMALL["hidden"])
        torch.testing.assert_close(
            network(torch.float32)(lonely.to(dtype=torch.float32)).double(), model(lonely), rtol=1e-4, atol=1e-5
        )
        assert bool((nearest_neighbours(lonely).centre == 1).all())


def test_training_mode_takes_one_atom() -> None:
    """No variance can be taken over one atom or no edge."""
    model = network().train()
    lonely = CrystalBatch.from_list([(torch.eye(3) * 50, torch.zeros(1, 3), [18])])
    model(lonely).sum().backward()
    assert torch.isfinite(model.out.weight.grad).all()


@pytest.fixture
def data() -> TensorCrystals:
    """Textbook crystals whose energy is a function of their elements."""
    batch = to_batch(tiny_crystals())
    energy = torch.stack([-x.float().mean() / 20 for x in batch.atomic_numbers.split(batch.n_atoms.tolist())])
    energy[0] = float("nan")
    return TensorCrystals(batch, {"formation_energy_per_atom": energy, "label_weight": torch.ones(len(batch))})


def test_training_learns_and_resumes(data: TensorCrystals, tmp_path: Path) -> None:
    options = {"train_data": data, "val_data": data, "device": "cpu"}
    config = TrainingConfig("cgcnn", epochs=12, batch_size=8, learning_rate=1e-2, ema=0.9, model_config=SMALL)
    model, summary = train(config, directory=tmp_path / "whole", **options)
    first = (tmp_path / "whole" / "history.jsonl").read_text().splitlines()[0]
    assert summary["final"]["train_mae"] < 0.5 * float(first.split('"train_mae": ')[1].split("}")[0])
    again, _ = train(config, directory=tmp_path / "again", **options)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_kept_edges_are_those_of_the_batch(data: TensorCrystals) -> None:
    task = CgcnnTask(network(torch.float32), total_steps=1)
    shuffled = Batches(data, 5, seed=1)
    for epoch in (0, 1):
        shuffled.set_epoch(epoch)
        for crystals, labels in shuffled:
            kept, fresh = task._neighbours("train", crystals, labels), task.model.neighbours(crystals)
            assert torch.equal(kept.centre, fresh.centre)
            assert torch.equal(kept.neighbour, fresh.neighbour)
            torch.testing.assert_close(kept.occupation, fresh.occupation)


def test_a_model_by_itself(tmp_path: Path) -> None:
    model = network(torch.float32)
    save_bundle(Bundle("mine", {"cgcnn": network_component(model)}), tmp_path / "mine")
    loaded = load_cgcnn(tmp_path / "mine", dtype=torch.float32)
    batch = to_batch(atoms_to_structure(bulk("Fe", "bcc", a=2.87)))
    with torch.no_grad():
        assert torch.equal(loaded(batch), model(batch))
    with pytest.raises(WeightsError, match=r"baseline.*load_cgcnn.*autoperi-base"):
        AutoPeri.from_pretrained(tmp_path / "mine")


def test_a_complete_model_is_no_cgcnn(tiny_dir: Path) -> None:
    with pytest.raises(WeightsError, match=r"no component 'cgcnn'.*autoperi train cgcnn"):
        load_cgcnn(tiny_dir)
