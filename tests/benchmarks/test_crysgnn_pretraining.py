"""Pre-training and distillation: what each loss sees, and that a student learns from a teacher."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from ase.build import bulk
from crysgnn_pretraining import (
    MASK,
    TEACHER,
    CrysGnn,
    CrysGnnTask,
    DistilledTask,
    contrastive_loss,
    crystal_systems,
    joined,
    masked,
    random_pairs,
    with_teacher,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.convert import to_batch, to_structures
from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.multigraph import edge_vectors, radius_graph
from autoperi.metrics.distribution import space_groups
from autoperi.models.formation_energy import FormationEnergy
from autoperi.testing import tiny_crystals
from autoperi.training.data import Batches, TensorCrystals
from autoperi.training.run import TrainingConfig, train

if TYPE_CHECKING:
    from pathlib import Path

torch.set_num_threads(1)
SMALL = {"channels": 16, "layers": 1, "cutoff": 4.0}


@pytest.fixture(scope="module")
def data() -> TensorCrystals:
    """Textbook crystals with their space groups and energies that are a function of their elements."""
    batch = to_batch(tiny_crystals())
    groups = torch.tensor(
        [g or 0 for g in space_groups(tiny_crystals(), cache=False, processes=1)], dtype=torch.float32
    )
    energy = torch.stack([-x.float().mean() / 20 for x in batch.atomic_numbers.split(batch.n_atoms.tolist())])
    labels = {"space_group": groups, "formation_energy_per_atom": energy, "label_weight": torch.ones(len(batch))}
    return TensorCrystals(batch, labels)


def test_crystal_systems() -> None:
    found = crystal_systems()
    assert found.shape == (231,)
    assert int(found[0]) == -1
    assert int(found.max()) == 6
    assert len({int(found[g]) for g in (2, 15, 74, 142, 167, 194, 230)}) == 7
    assert int(found[225]) == int(found[195])
    assert int(found[194]) != int(found[195])


def test_masked_atoms_are_of_no_element(data: TensorCrystals) -> None:
    batch = CrystalBatch.cat([data.crystals] * 8)
    seen, hidden = masked(batch, 0.3, torch.Generator().manual_seed(0))
    assert bool((seen.atomic_numbers[hidden] == MASK).all())
    assert torch.equal(seen.atomic_numbers[~hidden], batch.atomic_numbers[~hidden])
    assert torch.equal(seen.frac_coords, batch.frac_coords)
    assert abs(float(hidden.float().mean()) - 0.3) < 5 * math.sqrt(0.21 / len(hidden))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_joined_against_pymatgen(seed: int) -> None:
    batch = to_batch(tiny_crystals(), dtype=torch.float64)
    first, second = random_pairs(batch, torch.Generator().manual_seed(seed))
    assert torch.equal(batch.batch[first], batch.batch[second])
    graph = radius_graph(batch, 2.9)
    distances = torch.linalg.vector_norm(edge_vectors(batch, graph), dim=-1)
    count, shortest = joined(graph, distances, first, second)
    neighbours = [n for s in to_structures(batch) for n in s.get_all_neighbors(2.9)]
    for p, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        mine = [n.nn_distance for n in neighbours[a] if n.index == b - int(batch.offsets[batch.batch[a]])]
        assert int(count[p]) == len(mine)
        assert float(shortest[p]) == pytest.approx(min(mine, default=math.inf))


def test_no_edges_join_nothing() -> None:
    batch = CrystalBatch.from_list([(torch.eye(3) * 50, torch.zeros(1, 3), [18])])
    graph = radius_graph(batch, 4.0)
    zero = torch.zeros(1, dtype=torch.long)
    count, shortest = joined(graph, torch.zeros(0, dtype=torch.float64), zero, zero)
    assert (int(count), float(shortest)) == (0, math.inf)
    task = CrysGnnTask(CrysGnn(**SMALL).double(), total_steps=1)
    with torch.no_grad():
        found = task.losses(
            task.model, (batch, {"space_group": torch.tensor([float("nan")])}), torch.Generator().manual_seed(0)
        )
    assert all(math.isfinite(float(v)) for v in found.values())


def test_contrastive_loss_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    kind = torch.tensor([4, 2, 4, -1])
    # the two of kind 4 are parallel; the others stand at cosines 0 and -1
    expected = -math.log(math.exp(5) / (math.exp(5) + math.exp(0) + math.exp(-5)))
    assert float(contrastive_loss(vectors, kind)) == pytest.approx(expected)
    assert float(contrastive_loss(vectors, torch.tensor([0, 1, 2, -1]))) == 0.0
    assert (
        float(contrastive_loss(vectors, torch.tensor([0, 1, -1, -1]))) == 0.0
    )  # what is unknown is like nothing, not even its like


def test_the_losses_know_the_right_answers(data: TensorCrystals) -> None:
    """Heads that are made to give the truth have the least loss."""
    batch = (data.crystals, data.labels)
    task = CrysGnnTask(CrysGnn(**SMALL), total_steps=1, share=1.0)
    model = task.model
    with torch.no_grad():
        for head, truth in ((model.element, 8), (model.space_group, 224)):
            head.weight.zero_()
            head.bias.fill_(-50)
            head.bias[truth] = 50
        found = task.losses(model, batch, torch.Generator().manual_seed(0))
    oxygen = float((data.crystals.atomic_numbers == 8).float().mean())
    fluorite = float((data.labels["space_group"] == 225).float().mean())  # class 224 is group 225
    assert 0 < oxygen < 1
    assert 0 < fluorite < 1
    assert float(found["element_right"]) == pytest.approx(oxygen)
    assert float(found["space_group_right"]) == pytest.approx(fluorite)
    assert float(found["element"]) == pytest.approx(100 * (1 - oxygen), rel=1e-3)
    assert float(found["space_group"]) == pytest.approx(100 * (1 - fluorite), rel=1e-3)


def test_pretraining_learns_and_its_backbone_begins_another(data: TensorCrystals, tmp_path: Path) -> None:
    options = {"train_data": data, "val_data": data, "device": "cpu"}
    config = TrainingConfig(
        "crysgnn", epochs=8, batch_size=8, learning_rate=5e-3, ema=0.9, warmup=5, model_config=SMALL
    )
    teacher, summary = train(config, kind=(CrysGnn, CrysGnnTask), directory=tmp_path / "teacher", **options)
    first = (tmp_path / "teacher" / "history.jsonl").read_text().splitlines()[0]
    assert summary["final"]["train_loss"] < 0.9 * float(first.split('"train_loss": ')[1].split("}")[0].split(",")[0])
    backbone = {k: v for k, v in teacher.state_dict().items() if k.startswith("backbone.")}
    tuned = TrainingConfig("formation_energy", epochs=1, batch_size=64, learning_rate=1e-9, ema=0.5, model_config=SMALL)
    student, _ = train(tuned, directory=tmp_path / "student", initial=backbone, **options)
    for key, value in backbone.items():
        torch.testing.assert_close(student.state_dict()[key], value, rtol=0, atol=1e-6)


def test_teacher_features_are_those_of_each_crystal(data: TensorCrystals) -> None:
    torch.manual_seed(0)
    teacher = CrysGnn(**SMALL)
    taught = with_teacher(teacher, data, batch_size=5)
    with torch.no_grad():
        for crystals, labels in Batches(taught, 4, seed=3):
            torch.testing.assert_close(labels[TEACHER], teacher.backbone(crystals).scalars, rtol=1e-4, atol=1e-5)
    assert TEACHER not in data.atom_labels


def test_distilled_loss(data: TensorCrystals) -> None:
    """(1-δ)·error + δ·difference; a student that is its own teacher has no difference."""
    torch.manual_seed(0)
    student = FormationEnergy(**SMALL)
    task = DistilledTask(student, total_steps=1, delta=0.25)
    own, other = with_teacher(student, data), with_teacher(CrysGnn(**SMALL), data)
    with torch.no_grad():
        crystals, labels = own.take(torch.arange(len(data)))
        loss, error = task.loss_of(crystals, labels)
        plain = (student(crystals) - labels["formation_energy_per_atom"]).abs().mean()
        assert float(error) == pytest.approx(float(plain), rel=1e-5)
        assert float(loss) == pytest.approx(0.75 * float(plain), rel=1e-5)
        loss, error = task.loss_of(*other.take(torch.arange(len(data))))
        x, y = (torch.nn.functional.layer_norm(d.atom_labels[TEACHER], (16,)) for d in (own, other))
        assert float(loss - 0.75 * error) == pytest.approx(0.25 * float(((x - y) ** 2).mean()), rel=1e-4)
        loss, error = task.loss_of(*data.take(torch.arange(len(data))))  # without a teacher
        assert float(loss) == float(error)


def test_a_student_takes_after_its_teacher(data: TensorCrystals, tmp_path: Path) -> None:
    torch.manual_seed(1)
    taught = with_teacher(CrysGnn(**SMALL), data)
    options = {"train_data": taught, "val_data": data, "device": "cpu"}
    config = TrainingConfig(
        "distilled", epochs=15, batch_size=8, learning_rate=2e-2, ema=0.5, warmup=5, model_config=SMALL
    )

    def distance(student: torch.nn.Module) -> float:
        found = with_teacher(student, data).atom_labels[TEACHER]  # type: ignore[arg-type]
        return float(
            torch.nn.functional.mse_loss(
                *(torch.nn.functional.layer_norm(x, (16,)) for x in (found, taught.atom_labels[TEACHER]))
            )
        )

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        before = distance(FormationEnergy(**SMALL))
    student, _ = train(config, kind=(FormationEnergy, DistilledTask), directory=tmp_path, **options)
    assert distance(student) < 0.8 * before


def test_fcc_shares_the_kind_of_bcc() -> None:
    groups = space_groups([bulk("Cu", "fcc", a=3.6), bulk("Fe", "bcc", a=2.87)], cache=False, processes=1)
    found = crystal_systems()[torch.tensor([int(g) for g in groups if g is not None])]
    assert groups == [225, 229]
    assert len(set(found.tolist())) == 1
