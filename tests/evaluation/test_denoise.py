from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autoperi.data.io import write_crystals
from autoperi.errors import RequestError
from autoperi.evaluation.denoise import evaluate_denoise
from autoperi.testing import tiny_crystals

if TYPE_CHECKING:
    from pathlib import Path

METALS = 2  # of the tiny crystals, copper and aluminium, which EMT knows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    crystals = tiny_crystals()
    for crystal in crystals:
        crystal.properties["source"] = "textbook"
    path = tmp_path_factory.mktemp("data") / "crystals.parquet"
    write_crystals(crystals, path)
    return path


@pytest.fixture(scope="module")
def metals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "metals.parquet"
    crystals = [s for s in tiny_crystals() if s.composition.reduced_formula in {"Cu", "Al"}]
    for crystal in crystals:
        crystal.properties["source"] = "textbook"
    write_crystals(crystals, path)
    return path


def identity(structures: list[Any]) -> list[Any]:
    return structures


def perfect(noisy: list[Any]) -> list[Any]:
    """The truth, found by its elements and number of atoms."""
    known = {(s.composition.formula, len(s)): s for s in tiny_crystals()}
    return [known[s.composition.formula, len(s)] for s in noisy]


def test_identity_gains_nothing(table):
    found = evaluate_denoise(None, table, relax=identity)
    assert found["length_error_removed"] == found["angle_error_removed"] == 0
    assert found["improvement"]["length_A"]["value"] == found["improvement"]["angle_deg"]["value"] == 0
    assert found["improvement"]["length_better"]["value"] == 0
    assert found["before"] == found["after"]
    assert found["model"] == "identity"
    assert found["status"] == {"answered": found["n"]}


def test_perfect_relaxer_removes_everything(table):
    found = evaluate_denoise(None, table, relax=perfect)
    assert found["length_error_removed"] == found["angle_error_removed"] == 1.0
    assert found["after"]["length_r2"]["value"] == 1.0
    assert found["improvement"]["length_A"]["value"] == found["before"]["length_mae_A"]["value"] > 0
    assert found["improvement"]["length_better"]["value"] == 1.0


def test_errors_before_are_those_of_the_deformation(table):
    """An independent calculation of the strained cells."""
    import scipy.linalg
    import torch

    from autoperi.data.random import torch_generator

    lengths = []
    for row, structure in enumerate(tiny_crystals()):
        xx, xy, xz, yy, yz, zz = (
            torch.randn(1, 6, generator=torch_generator(3, row), dtype=torch.float64)[0] * 0.1
        ).tolist()
        deformed = structure.lattice.matrix @ scipy.linalg.expm(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
        lengths.append(np.abs(np.linalg.norm(deformed, axis=1) - structure.lattice.abc).mean())
    found = evaluate_denoise(None, table, relax=identity, seed=3)
    assert found["before"]["length_mae_A"]["value"] == pytest.approx(np.mean(lengths), abs=1e-6)


def test_several_sigmas_are_in_the_summary_and_the_titles(table):
    found = evaluate_denoise(None, table, relax=identity, sigma=[0.05, 0.1], limit=6, seed=2)
    for word in ("0.05", "0.1"):
        paths = {label: at for label, at in found["headline"].items() if label.endswith(f"σ = {word}")}
        assert len(paths) == 5
        assert paths[f"length MAE after (Å), σ = {word}"] == f"per_sigma.{word}.after.length_mae_A"
    titles = [entry["title"] for entry in found["series"].values()]
    assert len(titles) == len(set(titles))
    assert all("σ" in title for title in titles)
    angles = found["series"]["angle_error_against_sigma"]["curves"]["before"]
    assert angles["y"] == [found["per_sigma"][word]["angle_mae_before_deg"] for word in ("0.05", "0.1")]
    assert found["parameters"] == {
        "sigma": [0.05, 0.1],
        "limit": 6,
        "seed": 2,
        "steps": None,
        "relax": "identity",
        "calculator": None,
        "calculator_limit": 32,
    }


def test_no_answer_is_missing_and_not_a_zero(table):
    found = evaluate_denoise(None, table, relax=lambda s: [None, *s[1:]])
    assert found["status"]["no answer"] == 1
    assert found["improvement"]["length_A"]["missing"] == 1
    assert found["after"]["volume_mae_A3"]["missing"] == 1
    nothing = evaluate_denoise(None, table, relax=lambda s: [None] * len(s))
    assert nothing["length_mae_after_A"] is None
    assert nothing["length_error_removed"] is None


def test_energies_by_emt(metals):
    found = evaluate_denoise(None, metals, relax=perfect, calculator="emt")
    gain = found["improvement"]
    assert gain["energy_eV_per_atom"]["value"] < 0
    assert gain["energy_lower"]["value"] == 1.0
    assert gain["energy_lower"]["of"] == METALS
    assert found["calculator"]["calculator"] == "emt"
    same = evaluate_denoise(None, metals, relax=identity, calculator="emt", calculator_limit=1)["improvement"]
    assert same["energy_eV_per_atom"]["value"] == same["energy_lower"]["value"] == 0
    assert same["energy_lower"]["of"] == 1


def test_energy_of_eq_13_by_hand(metals):
    from ase.calculators.emt import EMT

    from autoperi.data.convert import structure_to_atoms

    def energy(structure: Any) -> float:
        atoms = structure_to_atoms(structure)
        atoms.calc = EMT()
        return atoms.get_potential_energy() / len(atoms)

    seen: list[Any] = []

    def remember(structures: list[Any]) -> list[Any]:
        seen.extend(structures)
        return perfect(structures)

    found = evaluate_denoise(None, metals, relax=remember, calculator=EMT())
    expected = np.mean([energy(clean) - energy(noisy) for noisy, clean in zip(seen, perfect(seen), strict=True)])
    assert found["improvement"]["energy_eV_per_atom"]["value"] == pytest.approx(expected, abs=1e-6)


def test_energies_that_fail_are_counted_with_their_reason(table):
    found = evaluate_denoise(None, table, relax=perfect, calculator="emt", calculator_limit=None)["improvement"]
    assert found["energy_eV_per_atom"]["of"] < found["length_A"]["of"]
    assert found["energy_eV_per_atom"]["of"] + found["energy_eV_per_atom"]["missing"] == found["length_A"]["of"]
    assert sum(found["energy_failures"].values()) >= found["energy_eV_per_atom"]["missing"]


def test_several_sigmas_are_the_single_ones(table):
    both = evaluate_denoise(None, table, relax=identity, sigma=[0.05, 0.2])
    assert list(both["per_sigma"]) == ["0.05", "0.2"]
    for word, sigma in (("0.05", 0.05), ("0.2", 0.2)):
        alone = evaluate_denoise(None, table, relax=identity, sigma=sigma)
        assert both["per_sigma"][word]["before"] == alone["before"]
        assert both["per_sigma"][word]["sigma"] == sigma
    curve = both["series"]["error_against_sigma"]["curves"]["before"]
    assert curve["x"] == [0.05, 0.2]
    assert curve["y"][0] < curve["y"][1]
    assert evaluate_denoise(None, table, relax=identity, sigma=[0.1])["sigma"] == 0.1


def test_model_and_its_plain_keys(table, tiny_bundle):
    from autoperi import AutoPeri

    peri = AutoPeri(tiny_bundle, device="cpu")
    found = evaluate_denoise(peri, table, limit=6, seed=1, steps=1, progress=False)
    again = evaluate_denoise(peri, table, limit=6, seed=1, steps=1, progress=False)
    series = found.pop("series"), again.pop("series")
    timed = {"seconds", "crystals_per_second"}
    assert {k: v for k, v in found.items() if k not in timed} == {k: v for k, v in again.items() if k not in timed}
    assert found["n"] == 6
    assert found["model"] == "tiny"
    assert found["length_mae_before_A"] == pytest.approx(found["before"]["length_mae_A"]["value"], abs=5e-5)
    assert sum(found["status"].values()) == 6
    json.dumps(found, allow_nan=False)
    assert series[0]["length_errors"]["sets"]["before"].mean() == pytest.approx(
        found["before"]["length_mae_A"]["value"], abs=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -0.1}, "sigma -0.1 is not a standard deviation"),
        ({"sigma": []}, "holds no values"),
        ({"sigma": [0.1, 0.1]}, "twice"),
        ({"relax": None}, "nothing to measure"),
        ({"steps": 3}, "option of the model"),
        ({"relax": lambda s: s[1:]}, "returned"),
        ({"calculator": "nonsense"}, "nonsense"),
        ({"calculator_limit": 0}, "limit of 0 crystals is not positive"),
    ],
)
def test_bad_requests(table, options, message):
    with pytest.raises(RequestError, match=message):
        evaluate_denoise(None, table, **{"relax": identity, **options})
