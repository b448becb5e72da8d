"""Learned features: of the crystal alone, by their definition, remembered by content."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from autoperi.data.convert import to_batch
from autoperi.errors import RequestError, WeightsError
from autoperi.evaluation.extractors import FEATURES, extractor
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.networks import LoadedBundle, network_component
from autoperi.metrics.features import Extractor, feature_matrix, features_of
from autoperi.metrics.parallel import Failure, featurise_batched
from autoperi.models.cgcnn import Cgcnn
from autoperi.testing import tiny_crystals

if TYPE_CHECKING:
    from pathlib import Path

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CGCNN as a model directory."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "small"
    save_bundle(Bundle("small", {"cgcnn": network_component(Cgcnn(channels=8, layers=1, hidden=6))}), folder)
    return folder


def learned_features(crystals: Any, *, features: Any = "cgcnn", model: Any = None, **how: Any) -> list[Any]:
    return features_of(crystals, extractor(features, model=model), **how)


def weights(kind: str, small: Path, tiny_dir: Path) -> Path | None:
    return {"cgcnn": small, "autoperi": tiny_dir}.get(kind)


@pytest.mark.parametrize("kind", FEATURES)
def test_features_belong_to_a_crystal_alone(kind: str, small: Path, tiny_dir: Path) -> None:
    if kind == "chgnet" and importlib.util.find_spec("chgnet") is None:
        pytest.skip("chgnet is not installed")
    crystals = tiny_crystals()[:8]
    model = weights(kind, small, tiny_dir)
    together = learned_features(crystals, features=kind, model=model, cache=False, progress=False)
    alone = learned_features(crystals[::-1], features=kind, model=model, batch_size=1, cache=False, progress=False)[
        ::-1
    ]
    matrix = feature_matrix(together)
    assert matrix.shape == (8, {"cgcnn": 6, "autoperi": 8, "chgnet": 64}[kind])
    np.testing.assert_allclose(feature_matrix(alone), matrix, rtol=1e-10, atol=1e-10)
    assert np.linalg.matrix_rank(matrix - matrix.mean(0)) > 2  # they tell crystals apart
    supercell = crystals[0].copy()
    supercell.make_supercell([1, 2, 1])
    (double,) = learned_features([supercell], features=kind, model=model, cache=False, progress=False)
    np.testing.assert_allclose(double, matrix[0], rtol=1e-4, atol=1e-4 if kind == "chgnet" else 1e-9)


def test_autoperi_is_the_mean_of_what_the_head_reads(tiny_dir: Path, tiny_bundle: Bundle) -> None:
    crystals = tiny_crystals()[:4]
    energy = LoadedBundle(tiny_bundle).find("formation_energy")
    found = learned_features(crystals, features="autoperi", model=tiny_dir, cache=False, progress=False)
    with torch.no_grad():
        expected = [energy.backbone(to_batch(c, dtype=torch.float64)).scalars.mean(0).numpy() for c in crystals]
    np.testing.assert_allclose(feature_matrix(found), np.stack(expected), atol=1e-12)


def test_failures_and_their_places(small: Path) -> None:
    crushed = bulk("Cu", "fcc", a=0.5)
    flat = Atoms("Cu", cell=np.zeros((3, 3)), pbc=True)
    rows = learned_features([bulk("Cu"), crushed, flat, bulk("Al")], model=small, cache=False, progress=False)
    assert [isinstance(r, Failure) for r in rows] == [False, True, True, False]
    assert "per atom" in rows[1].reason
    assert feature_matrix(rows).shape == (2, 6)
    assert feature_matrix([Failure("no")]).shape == (0, 0)


def test_unavailable_features(small: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"alignn.*weights.*Extractor"):
        extractor("alignn")
    with pytest.raises(RequestError, match=r"'alexnet' is unknown.*cgcnn"):
        extractor("alexnet")
    with pytest.raises(RequestError, match="no component 'formation_energy'"):
        extractor("autoperi", model=small)
    with pytest.raises(WeightsError, match="no component 'cgcnn'"):
        extractor("cgcnn", model=tiny_dir)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match="pip install"):
        extractor("chgnet")


def test_other_weights_have_another_key(small: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_bundle(
        Bundle("other", {"cgcnn": network_component(Cgcnn(channels=8, layers=1, hidden=6))}), tmp_path / "other"
    )
    crystals = tiny_crystals()[:3]
    cache = tmp_path / "cache"
    first, other, again = (
        feature_matrix(learned_features(crystals, model=model, cache=cache, progress=False))
        for model in (small, tmp_path / "other", small)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    # a copy under another name is the same network
    assert extractor("cgcnn", model=small).parameters != extractor("cgcnn", model=tmp_path / "other").parameters


class Counter:
    """A feature that remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, batch: list[Any]) -> np.ndarray:
        self.batches.append([len(c) for c in batch])
        if any(c.get_chemical_symbols()[0] == "Pb" for c in batch):
            raise ValueError("lead")
        return np.array([[len(c)] for c in batch])


def test_batches_and_cache(tmp_path: Path) -> None:
    crystals = [bulk(s).repeat((n, 1, 1)) for s, n in (("Cu", 3), ("Al", 1), ("Ag", 2), ("Cu", 3), ("Au", 5))]
    counter = Counter()

    def run(crystals: list[Any], version: int = 1) -> list[Any]:
        return featurise_batched(
            counter, crystals, name="size", version=version, batch_size=2, cache=tmp_path, progress=False
        )

    assert [int(r[0]) for r in run(crystals)] == [3, 1, 2, 3, 5]
    assert counter.batches == [[1, 2], [3, 5]]  # like sizes together, and the twin once
    counter.batches.clear()
    assert [int(r[0]) for r in run([*crystals, bulk("Ni")])] == [3, 1, 2, 3, 5, 1]
    assert counter.batches == [[1]]
    run(crystals, version=2)
    assert len(counter.batches) == 3


def test_one_bad_crystal_fails_alone(tmp_path: Path) -> None:
    counter = Counter()
    rows = featurise_batched(
        counter, [bulk("Cu"), bulk("Pb"), bulk("Al")], name="size", version=1, cache=tmp_path, progress=False
    )
    assert [r.reason if isinstance(r, Failure) else int(r[0]) for r in rows] == [1, "ValueError: lead", 1]
    counter.batches.clear()
    again = featurise_batched(counter, [bulk("Pb")], name="size", version=1, cache=tmp_path, progress=False)
    assert again[0].reason == "ValueError: lead"
    assert counter.batches == []
    with pytest.raises(RequestError, match="batch_size=0"):
        featurise_batched(counter, [], name="size", version=1, batch_size=0)


def test_rows_must_be_one_a_crystal() -> None:
    rows = featurise_batched(
        lambda _: np.zeros((3, 2)),
        [bulk("Cu")],
        name="wrong",
        version=1,
        cache=False,
        progress=False,
    )
    assert "3 rows for 1 crystals" in rows[0].reason


def test_an_extractor_of_ones_own() -> None:
    source = Extractor("volume", lambda batch: [[c.get_volume()] for c in batch])
    (row,) = learned_features([bulk("Cu", a=3.6)], features=source, cache=False, progress=False)
    assert row.tolist() == pytest.approx([3.6**3 / 4])
