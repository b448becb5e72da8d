"""The orbit network: probabilities that add up to one over exactly the ways to build a composition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.models.orbit_network import OrbitNetwork, tables
from autoperi.symmetry.orbit_grammar import element_order
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks.orbit_network import OrbitSentences, orbit_sentences

torch.set_num_threads(1)
SMALL = {"channels": 16, "layers": 1, "encoder_layers": 1, "heads": 2}
ROCK_SALT = (225, {11: [0], 17: [1]}, {11: 1, 17: 1})
PEROVSKITE = (221, {38: [0], 22: [1], 8: [3]}, {38: 1, 22: 1, 8: 3})
RUTILE = (136, {22: [0], 8: [5]}, {22: 2, 8: 4})
LOW = (1, {3: [0, 0], 8: [0]}, {3: 2, 8: 1})
CRYSTALS = [ROCK_SALT, PEROVSKITE, RUTILE, LOW]


@pytest.fixture(scope="module")
def network() -> OrbitNetwork:
    torch.manual_seed(0)
    model = OrbitNetwork(**SMALL)
    model.load_state_dict(tables(), strict=False)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.ndim > 1 else None
    return model.double().eval()


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([([11, 17], [1, 1]), ([14], [2]), ([22, 8], [1, 2]), ([3], [1])]))
def test_probabilities_of_all_answers_add_up_to_one(network: OrbitNetwork, asked: tuple[list[int], list[int]]) -> None:
    elements, counts = asked
    every = network.likeliest(elements, counts, limit=10**6, beam=10**6)
    assert math.isclose(sum(math.exp(a.log_p) for a in every), 1.0, abs_tol=1e-6)
    assert len({(a.group, a.sentence) for a in every}) == len(every)
    best = network.likeliest(elements, counts, limit=5, beam=10**6)
    assert best == every[:5]


def test_search_and_likelihood_are_the_same_number(network: OrbitNetwork) -> None:
    data = orbit_sentences(CRYSTALS)
    batch, labels = data.take(torch.arange(len(data)))
    assert labels["row"].tolist() == [0, 1, 2, 3]
    group, sentence = network(batch)
    for k, (number, letters, content) in enumerate(CRYSTALS[:3]):
        elements = element_order(list(letters))
        answers = network.likeliest(
            elements, [content[z] for z in elements], limit=10**5, beam=10**5, space_group=number
        )
        own = next(a for a in answers if a.sentence == _sentence(data, k))
        assert own.log_p == pytest.approx(sentence[k].item(), abs=1e-6)  # given the group
        assert math.isclose(sum(math.exp(a.log_p) for a in answers), 1.0, abs_tol=1e-6)
    assert bool((group < 0).all())


def _sentence(data: OrbitSentences, k: int) -> tuple[tuple[int, ...], ...]:
    batch, _ = data.take(torch.tensor([k]))
    words = [(int(e), int(x)) for e, x in zip(batch.element[0], batch.letter[0], strict=True) if x >= 0]
    return tuple(tuple(x for e, x in words if e == j) for j in range(int(data.n_elements[k])))


def test_a_crystal_does_not_depend_on_those_beside_it(network: OrbitNetwork) -> None:
    data = orbit_sentences(CRYSTALS)
    together = sum(network(data.take(torch.arange(len(data)))[0]))
    alone = torch.cat([sum(network(data.take(torch.tensor([k]))[0])) for k in range(len(data))])
    assert torch.allclose(together, alone, atol=1e-10)


def test_what_cannot_be_built_has_no_answer(network: OrbitNetwork) -> None:
    assert network.likeliest([11, 17], [1, 2], limit=5, space_group=227) == []  # the smallest orbit has two atoms


def test_sentences_survive_a_file_and_training_resumes(tmp_path) -> None:
    data = orbit_sentences(CRYSTALS)
    data.save(tmp_path / "data.safetensors")
    loaded = OrbitSentences.load(tmp_path / "data.safetensors")
    assert all(torch.equal(getattr(data, k), getattr(loaded, k)) for k in vars(data))
    config = TrainingConfig("orbit_network", 30, 4, 1e-2, warmup=2, ema=0.5, model_config=SMALL | {"dropout": 0.0})
    whole, summary = train(
        config, train_data=data, val_data=data, directory=tmp_path / "a", device="cpu", initial=tables()
    )
    assert summary["final"]["val_nats"] < 2.0  # of about 10 before: it knows its four crystals
    resumed = _interrupted(config, data, tmp_path / "b")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


def _interrupted(config: TrainingConfig, data: OrbitSentences, directory) -> torch.nn.Module:
    """The same training, stopped after half of its epochs and taken up again."""
    from unittest.mock import patch

    import lightning

    stop = config.epochs // 2
    real = lightning.Trainer

    def short(**options: object) -> lightning.Trainer:
        return real(**{**options, "max_epochs": stop})

    with patch("lightning.Trainer", short):
        train(config, train_data=data, val_data=data, directory=directory, device="cpu", initial=tables())
    model, _ = train(
        config, train_data=data, val_data=data, directory=directory, device="cpu", resume=True, initial=tables()
    )
    return model
