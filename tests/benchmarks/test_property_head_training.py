from __future__ import annotations

import numpy as np
import pytest
import torch
from property_head_training import (
    DESCRIPTORS,
    LOGARITHMS,
    HeadTraining,
    calibrate,
    descriptor_table,
    encode_all,
    fit_group,
    fit_scales,
    predict_all,
    target_labels,
)

from autoperi.data.convert import to_batch
from autoperi.data.splits import fold_of, split_of, splits_of
from autoperi.geometry.lattice import supercell
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.property_heads import PropertyHeads, encode
from autoperi.testing import tiny_crystals

torch.set_num_threads(1)
SIZES = len(DESCRIPTORS) + len(LOGARITHMS)


@pytest.fixture(scope="module")
def crystals():
    """Textbook crystals at several volumes, encoded."""
    torch.manual_seed(0)
    model = FormationEnergy(channels=8, layers=1).eval()
    batch = to_batch(tiny_crystals(), dtype=torch.float32)
    scaled = [batch.replace(lattice=batch.lattice * s) for s in (0.94, 0.97, 1.0, 1.03, 1.06, 1.09)]
    return encode_all(model, type(batch).cat(scaled))


def heads(group: str, members: int = 2) -> PropertyHeads:
    shape = {"members": members, "width": 8, "hidden": 16} if members else {"members": 0}
    return PropertyHeads(features=24, descriptors=SIZES, heads={group: shape})


def test_descriptors():
    table = descriptor_table()
    assert table.shape == (119, SIZES)
    assert bool(torch.isfinite(table).all())
    assert float(table[1:101].std(0).max()) < 1.2
    order = [table[z, DESCRIPTORS.index("X")] for z in (55, 26, 8, 9)]  # Cs < Fe < O < F
    assert order == sorted(order)
    # valence electrons: Fe 4s2 3d6, outside Ar
    iron, zinc = table[26], table[30]
    assert float(iron[DESCRIPTORS.index("d")]) < float(zinc[DESCRIPTORS.index("d")])
    assert float(iron[DESCRIPTORS.index("s")]) == float(zinc[DESCRIPTORS.index("s")])


def test_encoding_keeps_the_order():
    model = FormationEnergy(channels=8, layers=1).eval()
    batch = to_batch(tiny_crystals(), dtype=torch.float32)
    batch = type(batch).cat([supercell(batch[:3], (1, 1, 3)), batch])
    with torch.no_grad():
        expected = encode(model, batch)
    found = encode_all(model, batch, max_atoms=20)
    assert found.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
    torch.testing.assert_close(found.nodes, expected.nodes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.energy, expected.energy, atol=1e-4, rtol=1e-4)


def test_labels_of_tables():
    moduli = target_labels("elastic", {"k_vrh": [100.0, np.nan, 10.0], "g_vrh": [1.0, 2.0, 0.0]})
    assert moduli[0].tolist() == [2.0, 0.0]
    assert np.isnan(moduli[1, 0])
    assert np.isnan(moduli[2, 1])
    assert target_labels("formation_energy", {"formation_energy_per_atom": [-1.0]}).tolist() == [[-1.0]]
    assert target_labels("band_gap", {"band_gap": [0.5]}).tolist() == [[0.5]]


def test_heads_learn_and_repeat(crystals):
    """log10 K falls linearly with ln volume: heads must find it on volumes between those they saw."""
    volume = torch.log(crystals.volume / crystals.n_atoms)
    targets = torch.stack([3 - 0.5 * volume, 2 - 0.5 * volume], -1)
    settings = HeadTraining(epochs=25, batch_size=16, noise_epochs=5, learning_rate=5e-3, ema=0.9)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = heads("elastic")
        fit_scales(model, crystals)
        before = torch.random.get_rng_state()
        report = fit_group(model, "elastic", crystals, targets, settings=settings, seed=4)
        assert torch.equal(before, torch.random.get_rng_state())
        found.append(predict_all(model, crystals)["elastic"])
    spread = float((targets[:, 0] - targets[:, 0].mean()).abs().mean())
    assert report["crystals"] == len(crystals)
    assert max(report["cross_validation_mae"]) < 0.5 * spread
    assert float((found[0].mean - targets).abs().mean()) < 0.5 * spread
    assert torch.equal(found[0].mean, found[1].mean)
    assert torch.equal(found[0].std, found[1].std)


def test_metals_are_told_from_insulators(crystals):
    targets = torch.where(crystals.take(torch.arange(len(crystals))).volume.unsqueeze(-1) > 150, 2.0, 0.0)
    model = heads("band_gap")
    fit_scales(model, crystals)
    fit_group(
        model,
        "band_gap",
        crystals,
        targets,
        settings=HeadTraining(epochs=30, batch_size=16, noise_epochs=2, learning_rate=5e-3, ema=0.9),
    )
    prediction = predict_all(model, crystals)["band_gap"]
    assert prediction.is_metal is not None
    assert float(((prediction.is_metal > 0.5) == (targets[:, 0] == 0)).float().mean()) > 0.9
    assert float((prediction.mean - targets).abs().mean()) < 0.3


def test_errors_of_the_formation_energy_are_learned(crystals):
    """Without members, σ is that of the encoder's own errors: large for one element, small elsewhere."""
    has_oxygen = torch.zeros(len(crystals)).index_add(
        0,
        torch.repeat_interleave(torch.arange(len(crystals)), crystals.n_atoms),
        (crystals.atomic_numbers == 8).float(),
    )
    width = torch.where(has_oxygen > 0, 0.5, 0.05)
    noise = torch.randn(len(crystals), generator=torch.Generator().manual_seed(0)) * width
    model = heads("formation_energy", members=0)
    fit_scales(model, crystals)
    settings = HeadTraining(batch_size=16, noise_epochs=60, learning_rate=5e-3, ema=0.9)
    fit_group(model, "formation_energy", crystals, (crystals.energy + noise).unsqueeze(-1), settings=settings)
    std = predict_all(model, crystals)["formation_energy"].std[:, 0]
    assert float(std[has_oxygen > 0].median()) > 3 * float(std[has_oxygen == 0].median())


@pytest.mark.parametrize("factor", [0.3, 4.0])
def test_calibration_finds_the_factor(crystals, factor):
    model = heads("phonon", members=1)
    fit_scales(model, crystals)
    many = crystals.take(torch.arange(len(crystals)).repeat(20))
    model.eval()
    prediction = predict_all(model, many)["phonon"]
    noise = torch.randn(prediction.mean.shape, generator=torch.Generator().manual_seed(1))
    targets = prediction.mean + factor * prediction.std * noise
    found = calibrate(model, "phonon", many, targets)
    assert found.tolist() == pytest.approx([factor], rel=0.06)
    after = predict_all(model, many)["phonon"]
    assert float(((after.mean - targets).abs() < after.std).float().mean()) == pytest.approx(0.683, abs=0.02)
    assert float(((after.mean - targets).abs() < 2 * after.std).float().mean()) == pytest.approx(0.9545, abs=0.001)


def test_fixed_split():
    """The split of published numbers: these folds must never change."""
    assert [fold_of(name) for name in ("mp-149", "mp-30", "mp-22862", "mp-1265")] == [8, 6, 4, 9]
    names = [f"mp-{k}" for k in range(4000)]
    shares = {part: splits_of(names).count(part) / len(names) for part in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.02)
    assert split_of("mp-149") == splits_of(["mp-149"])[0]
