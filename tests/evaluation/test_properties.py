from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from autoperi.chemistry.properties import Property
from autoperi.data.io import write_crystals
from autoperi.errors import DataError, RequestError, WeightsError
from autoperi.evaluation import properties
from autoperi.evaluation.properties import LABEL, evaluate_properties, targets
from autoperi.testing import tiny_crystals

if TYPE_CHECKING:
    from pathlib import Path

LABELS = np.linspace(-3, 1, len(tiny_crystals()))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny crystals; every fifth has no label."""
    crystals = tiny_crystals()
    for k, crystal in enumerate(crystals):
        crystal.properties.update({"k_vrh": 10.0 * k, **({LABEL: LABELS[k]} if k % 5 else {})})
    path = tmp_path_factory.mktemp("data") / "crystals.parquet"
    write_crystals(crystals, path)
    return path


class Oracle:
    """Predicts the label that a crystal carries, plus an error of its own."""

    def __init__(self, error: Any = 0.0, label: str = LABEL, column: str = "formation_energy_per_atom_eV") -> None:
        self.error, self.label, self.column = error, label, column

    def score(self, structures: list[Any], *, properties: list[str], progress: Any = None) -> pd.DataFrame:
        del properties, progress
        return pd.DataFrame({self.column: np.array([s.properties[self.label] for s in structures]) + self.error})

    def provenance(self) -> dict[str, Any]:
        return {"model": "oracle", "sha256": None}


@pytest.fixture(autouse=True)
def short_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "BASELINE_STEPS", 1)


@pytest.fixture
def no_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "_predictor", lambda _: None)


@pytest.mark.usefixtures("no_baselines")
def test_perfect_and_shifted_predictions(table):
    known = LABELS[np.arange(len(LABELS)) % 5 > 0]
    exact = evaluate_properties(Oracle(), table)
    assert exact["mae_eV_per_atom"] == 0
    assert exact["errors"]["r2"]["value"] == 1.0
    assert (exact["n"], exact["without_label"]) == (len(known), len(LABELS) - len(known))
    assert exact["mean_predictor_mae_eV"] == pytest.approx(np.abs(known - known.mean()).mean(), abs=1e-4)
    assert exact["cgcnn"] is None
    off = evaluate_properties(Oracle(0.25), table)
    assert off["mae_eV_per_atom"] == off["median_error_eV_per_atom"] == off["errors"]["bias"]["value"] == 0.25
    assert off["errors"]["pearson"]["value"] == 1.0
    assert off["errors"]["r2"]["value"] == pytest.approx(1 - 0.25**2 / known.var(), abs=1e-6)
    json.dumps({k: v for k, v in off.items() if k != "series"}, allow_nan=False)
    np.testing.assert_allclose(off["series"]["parity"]["y"] - off["series"]["parity"]["x"], 0.25)


@pytest.mark.usefixtures("no_baselines")
def test_by_number_of_elements(table):
    crystals = [s for k, s in enumerate(tiny_crystals()) if k % 5]
    counts = [len(s.composition.elements) for s in crystals]
    found = evaluate_properties(Oracle(np.array(counts) * 0.1), table)["mae_by_elements"]
    assert {name: (row["value"], row["of"]) for name, row in found.items()} == {
        str(c): (pytest.approx(0.1 * c), counts.count(c)) for c in sorted(set(counts))
    }


@pytest.mark.usefixtures("no_baselines")
def test_baselines_are_fitted_on_the_other_table(table, tmp_path):
    train = tmp_path / "train.parquet"
    crystals = tiny_crystals()
    for crystal in crystals:
        crystal.properties[LABEL] = -1.0
    write_crystals(crystals, train)
    found = evaluate_properties(Oracle(), table, train=train, limit=8, seed=2)
    labels = found["series"]["parity"]["x"]
    assert found["mean_predictor_mae_eV"] == pytest.approx(np.abs(labels + 1.0).mean(), abs=1e-4)
    assert found["composition_only_mae_eV"] > 0
    assert set(found["series"]["errors"]["sets"]) == {"AutoPeri", "composition only"}
    again = evaluate_properties(Oracle(), table, train=train, limit=8, seed=2)
    assert again["composition_only_mae_eV"] == found["composition_only_mae_eV"]


def test_baselines_stand_beside_the_model(table, monkeypatch):
    off = {"cgcnn": 0.5, "crystal_transformer": 0.25}

    def predictor(name: str) -> Any:
        return lambda picked, _: picked.labels[LABEL].to_numpy() + off[name]

    monkeypatch.setattr(properties, "_predictor", predictor)
    found = evaluate_properties(Oracle(), table)
    for name, shift in off.items():
        assert found[name]["mae"]["value"] == shift
        assert found[name]["mae_by_elements"]["2"]["value"] == shift
    assert set(found["series"]) == {"parity", "errors", "parity_cgcnn", "parity_crystal_transformer"}
    assert {"CGCNN", "crystal transformer"} < set(found["series"]["errors"]["sets"])


@pytest.mark.parametrize("name", properties.BASELINES)
def test_real_baselines_predict_each_crystal_once(table, monkeypatch, name):
    import torch

    from autoperi.data.io import read_table
    from autoperi.hub import networks
    from autoperi.registry import kind_named, load

    torch.manual_seed(0)
    sizes = {
        "cgcnn": {"channels": 4, "layers": 1, "hidden": 4},
        "crystal_transformer": {"channels": 4, "edge_channels": 4, "layers": 1},
    }
    network = load(kind_named(name).model)(**sizes[name]).eval()
    monkeypatch.setattr(networks, "load_pretrained_network", lambda *_: network)
    predict = properties._predictor(name)
    assert predict is not None
    picked = read_table(table)
    with torch.no_grad():
        expected = network(picked.batch(dtype=torch.float64)).numpy()
    np.testing.assert_allclose(predict(picked, False), expected, rtol=1e-10)


def test_a_baseline_without_weights_is_left_out(monkeypatch):
    from autoperi.hub import networks

    def missing(*_):
        raise WeightsError("no such model")

    monkeypatch.setattr(networks, "load_pretrained_network", missing)
    assert properties._predictor("cgcnn") is None


@pytest.mark.usefixtures("no_baselines")
def test_another_property(table, monkeypatch):
    monkeypatch.setitem(properties.PROPERTIES, "moduli", Property("moduli", "k_vrh_GPa", "GPa", "elastic", 0.1))
    found = evaluate_properties(
        Oracle(np.array([1.0] + [0.0] * (len(LABELS) - 1)), "k_vrh", "k_vrh_GPa"), table, label="k_vrh"
    )
    assert found["mae_GPa"] == pytest.approx(1 / len(LABELS), abs=1e-4)
    # the first label is 0 GPa and has no logarithm
    assert (found["mae_log10_GPa"]["value"], found["mae_log10_GPa"]["missing"]) == (0.0, 1)
    assert "cgcnn" not in found


def test_targets_are_the_columns_of_score():
    assert targets()[LABEL] == properties.PROPERTIES["formation_energy"]
    assert targets()[LABEL].unit == "eV/atom"
    assert "space_group" not in targets()


@pytest.mark.usefixtures("no_baselines")
def test_no_label_anywhere_is_no_number(tmp_path):
    crystals = tiny_crystals()[:3]
    crystals[0].properties[LABEL] = 1.0
    path = tmp_path / "one.parquet"
    write_crystals(crystals, path)
    found = evaluate_properties(Oracle(), path, limit=1, seed=1)
    if found["n"]:
        found = evaluate_properties(Oracle(), path, limit=1, seed=0)
    assert (found["n"], found["without_label"], found["mae_eV_per_atom"]) == (0, 1, None)
    assert found["errors"]["mae"]["reason"] == "no crystals"
    json.dumps({k: v for k, v in found.items() if k != "series"}, allow_nan=False)


def test_a_label_of_words_is_refused(tmp_path):
    crystals = tiny_crystals()[:2]
    for crystal, word in zip(crystals, ("low", "high"), strict=True):
        crystal.properties["band_gap"] = word
    path = tmp_path / "words.parquet"
    write_crystals(crystals, path)
    with pytest.raises(DataError, match=r"'band_gap' holds what is no number.*'low'.*give numbers"):
        evaluate_properties(SimpleNamespace(), path, label="band_gap")


@pytest.mark.usefixtures("no_baselines")
def test_every_option_is_recorded(table):
    found = evaluate_properties(Oracle(), table, train=table, limit=5, seed=3)
    assert found["parameters"] == {"label": LABEL, "train": table.name, "split": None, "limit": 5, "seed": 3}
    assert found["train_sha256"] == found["data_sha256"]


def test_bad_requests(table, tmp_path):
    with pytest.raises(RequestError, match=f"'colour'.*{LABEL}"):
        evaluate_properties(SimpleNamespace(), table, label="colour")
    with pytest.raises(RequestError, match="'band_gap' is not predicted by this model"):
        evaluate_properties(SimpleNamespace(score_properties={"formation_energy": (LABEL,)}), table, label="band_gap")
    with pytest.raises(RequestError, match="split 'dev'"):
        evaluate_properties(SimpleNamespace(), table, split="dev")
    bare = tmp_path / "bare.parquet"
    write_crystals(tiny_crystals()[:2], bare)
    with pytest.raises(DataError, match="has no column"):
        evaluate_properties(SimpleNamespace(), bare)
    with pytest.raises(DataError, match="has no column"):
        evaluate_properties(SimpleNamespace(), table, train=bare)


def test_model(table, tiny_bundle):
    from autoperi import AutoPeri

    found = evaluate_properties(AutoPeri(tiny_bundle, device="cpu"), table, limit=6, progress=False)
    assert found["n"] + found["without_label"] == 6
    assert found["mae_eV_per_atom"] > 0
    assert found["model"] == "tiny"


class Uncertain:
    """Predicts each label times a factor, with a std of one tenth of the prediction, and metals by their gap."""

    def __init__(self, label: str, column: str, factor: float) -> None:
        self.label, self.column, self.factor = label, column, factor

    def score(self, structures: list[Any], *, properties: list[str], progress: Any = None) -> pd.DataFrame:
        del properties, progress
        value = self.factor * np.array([s.properties[self.label] for s in structures])
        return pd.DataFrame(
            {self.column: value, f"{self.column}_std": 0.1 * value, "is_metal_probability": 0.9 * (value < 0.1)}
        )

    def provenance(self) -> dict[str, Any]:
        return {"model": "uncertain", "sha256": None}


def _labelled(path: Path, label: str, values: np.ndarray) -> Path:
    crystals = tiny_crystals()
    for k, (crystal, value) in enumerate(zip(crystals, values, strict=True)):
        crystal.properties.update({label: float(value), "id": f"mp-{k}"})
    write_crystals(crystals, path)
    return path


def test_uncertainty_of_a_modulus_is_that_of_its_logarithm(tmp_path):
    """5 % off with σ = 10 %: within one σ; 25 % off: within three only."""
    path = _labelled(tmp_path / "k.parquet", "k_vrh", np.linspace(20, 300, len(LABELS)))
    near = evaluate_properties(Uncertain("k_vrh", "bulk_modulus_GPa", 1.05), path, label="k_vrh")
    assert near["mae_log10_GPa"]["value"] == pytest.approx(np.log10(1.05), abs=1e-5)
    assert near["uncertainty"]["coverage_68"]["value"] == 1.0
    assert near["uncertainty"]["mean_std"]["value"] == pytest.approx(0.1 / np.log(10), abs=1e-5)
    far = evaluate_properties(Uncertain("k_vrh", "bulk_modulus_GPa", 1.25), path, label="k_vrh")
    assert far["uncertainty"]["coverage_95"]["value"] == 0.0


def test_metals_beside_a_gap(tmp_path):
    gaps = np.where(np.arange(len(LABELS)) % 2 == 0, 0.0, 2.0)
    path = _labelled(tmp_path / "gap.parquet", "band_gap", gaps)
    found = evaluate_properties(Uncertain("band_gap", "band_gap_eV", 1.0), path, label="band_gap")
    assert found["is_metal"]["accuracy"]["value"] == 1.0
    assert found["is_metal"]["brier"]["value"] == pytest.approx(0.01 * (gaps == 0).mean(), abs=1e-5)
    assert "mae_log10_GPa" not in found


def test_split_by_id(tmp_path):
    from autoperi.data.splits import splits_of

    path = _labelled(tmp_path / "k.parquet", "k_vrh", np.linspace(20, 300, len(LABELS)))
    parts = splits_of([f"mp-{k}" for k in range(len(LABELS))])
    oracle = Uncertain("k_vrh", "bulk_modulus_GPa", 1.0)
    counts = {
        part: evaluate_properties(oracle, path, label="k_vrh", split=part)["n"] for part in ("train", "val", "test")
    }
    assert counts == {part: parts.count(part) for part in counts}
    # baselines see the train rows alone: of a table with other labels elsewhere they give the same
    other = np.where([p == "train" for p in parts], np.linspace(20, 300, len(LABELS)), 1e6)
    train = _labelled(tmp_path / "other.parquet", "k_vrh", other)
    first = evaluate_properties(oracle, path, label="k_vrh", split="train", train=path)
    second = evaluate_properties(oracle, path, label="k_vrh", split="train", train=train)
    assert first["composition_only_mae_GPa"] == second["composition_only_mae_GPa"]
    assert first["mean_predictor_mae_log10_GPa"] == second["mean_predictor_mae_log10_GPa"]
    bare = tmp_path / "bare.csv"
    crystals = tiny_crystals()
    pd.DataFrame({"cif": [c.to(fmt="cif") for c in crystals], "k_vrh": LABELS}).to_csv(bare, index=False)
    with pytest.raises(DataError, match="by which rows are split"):
        evaluate_properties(oracle, bare, label="k_vrh", split="test")
