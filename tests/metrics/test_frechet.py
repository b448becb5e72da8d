"""Fréchet distance: closed forms, scipy, and what happens to sets that are too small."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.errors import RequestError
from autoperi.metrics.features import Extractor
from autoperi.metrics.frechet import (
    covariance,
    equal_numbers,
    frechet_distance,
    frechet_from_moments,
    frechet_quantity,
    frechet_report,
)
from autoperi.metrics.parallel import Failure

seeds = st.integers(0, 2**32 - 1)


def sample(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Correlated columns of different scales."""
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 4), st.floats(0, 4))
def test_one_dimension_is_closed(m1: float, m2: float, s1: float, s2: float) -> None:
    found = frechet_from_moments(np.array([m1]), np.array([[s1**2]]), np.array([m2]), np.array([[s2**2]]))
    assert found == pytest.approx((m1 - m2) ** 2 + (s1 - s2) ** 2, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 8))
def test_against_scipy_sqrtm(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = sample(rng, 60, d), sample(rng, 50, d)
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    inner = scipy.linalg.sqrtm(c1)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
        c1 + c2 - 2 * np.real(scipy.linalg.sqrtm(inner @ c2 @ inner))
    )
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 6))
def test_laws_of_a_distance(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, z = sample(rng, 30, d), sample(rng, 40, d), sample(rng, 20, d)
    far = frechet_distance(x, y)
    assert far >= 0
    assert frechet_distance(y, x) == pytest.approx(far, rel=1e-9, abs=1e-9)
    assert frechet_distance(x, rng.permutation(x)) == pytest.approx(0, abs=1e-9)
    # the root of FD is the Wasserstein-2 metric of the Gaussians
    assert far**0.5 <= frechet_distance(x, z) ** 0.5 + frechet_distance(z, y) ** 0.5 + 1e-9
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert frechet_distance(x @ rotation + 3, y @ rotation + 3) == pytest.approx(far, rel=1e-7, abs=1e-8)
    assert frechet_distance(2 * x, 2 * y) == pytest.approx(4 * far, rel=1e-9, abs=1e-9)


def test_a_shift_alone() -> None:
    x = np.random.default_rng(0).normal(size=(200, 5))
    assert frechet_distance(x, x + np.array([0, 3, 0, 4, 0])) == pytest.approx(25, rel=1e-9)


def test_singular_covariances() -> None:
    """Fewer crystals than features, constant features, and commuting covariances with zeros."""
    rng = np.random.default_rng(1)
    few, others = rng.normal(size=(5, 40)), rng.normal(size=(6, 40))
    assert np.isfinite(frechet_distance(few, others))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(np.ones((3, 4)), np.zeros((3, 4))) == pytest.approx(4)
    zero = np.zeros(3)
    assert frechet_from_moments(zero, np.diag([4.0, 0, 1]), zero, np.diag([1.0, 9, 0])) == pytest.approx(1 + 9 + 1)


def test_covariance_is_unbiased_and_two_dimensional() -> None:
    assert covariance(np.array([[1.0], [3.0]])).tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(3), "shape"),
        (np.zeros((1, 3)), "at least two"),
        (np.full((2, 3), np.nan), "NaN"),
        (np.zeros((4, 2)), "2 feat"),
    ],
)
def test_bad_arrays(x: np.ndarray, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        frechet_distance(x, np.zeros((4, 3)))


def test_failures_are_counted_and_small_sets_marked() -> None:
    rng = np.random.default_rng(2)
    rows = list(rng.normal(size=(10, 4)))
    found = frechet_quantity([*rows[:6], Failure("no"), None, np.full(4, np.nan)], rows)
    assert (found["of"], found["missing"], found["reference_of"], found["reference_missing"], found["dimension"]) == (
        6,
        3,
        10,
        0,
        4,
    )
    assert not found["rank_deficient"]
    assert found["value"] == pytest.approx(frechet_distance(np.array(rows[:6]), np.array(rows)), abs=1e-6)
    assert found["reference_variance"] == pytest.approx(np.trace(np.cov(np.array(rows), rowvar=False)), abs=1e-6)
    assert frechet_quantity(rows[:4], rows)["rank_deficient"]  # four points span three dimensions
    none = frechet_quantity([Failure("no")] * 3, rows)
    assert none["value"] is None
    assert none["missing"] == 3
    assert "generated" in none["reason"]
    assert "reference" in frechet_quantity(rows, [])["reason"]
    json.dumps([found, none], allow_nan=False)


def test_report() -> None:
    crystals = [bulk("Cu", "fcc", a=a) for a in np.linspace(3, 4, 6)]
    volume = Extractor("volume", lambda batch: [[c.get_volume(), 1.0] for c in batch], description="volumes")
    vectors = [[float(k)] for k in range(6)]
    found = frechet_report(
        crystals[:3],
        crystals,
        features=[volume],
        given={"mine": (vectors[:3], [*vectors[:5], Failure("no")])},
        cache=False,
        progress=False,
    )
    v = np.array([[c.get_volume()] for c in crystals])
    assert found["volume"]["value"] == pytest.approx(frechet_distance(v[:3], v), abs=1e-6)
    assert found["volume"]["definition"] == "volumes"
    assert found["mine"]["value"] == pytest.approx((2 - 1) ** 2 + (2.5**0.5 - 1) ** 2, abs=1e-6)
    assert found["mine"]["reference_missing"] == 1
    with pytest.raises(RequestError, match="repeat"):
        frechet_report(crystals, crystals, features=[volume, volume])
    with pytest.raises(RequestError, match="3 and 6 vectors for 6"):
        frechet_report(crystals, crystals, features=[], given={"mine": (vectors[:3], vectors)})


def test_sets_are_compared_at_equal_numbers() -> None:
    left, right = equal_numbers(3, 50, seed=1)
    assert left == [0, 1, 2]
    assert right == sorted(set(right))
    assert len(right) == 3
    assert equal_numbers(50, 3, seed=1) == (right, left)
    assert equal_numbers(3, 50, seed=2)[1] != right
    crystals = [bulk("Cu", "fcc", a=a) for a in np.linspace(3, 4, 50)]
    volume = Extractor("volume", lambda batch: [[c.get_volume()] for c in batch], description="volumes")
    vectors = [[float(k)] for k in range(50)]
    how = {"features": [volume], "given": {"mine": (vectors[:3], vectors)}, "cache": False, "progress": False}
    found = frechet_report(crystals[:3], crystals, equal_seed=1, **how)
    for name, values in (("volume", [[c.get_volume()] for c in crystals]), ("mine", vectors)):
        assert found[name]["of"] == found[name]["reference_of"] == 3
        assert found[name]["drawn_from"] == {"generated": 3, "reference": 50}
        expected = frechet_distance(np.array(values[:3]), np.array(values)[right])
        assert found[name]["value"] == pytest.approx(expected, abs=1e-6)
    assert (
        "drawn_from" not in frechet_report(crystals, crystals, equal_seed=1, features=[volume], cache=False)["volume"]
    )
