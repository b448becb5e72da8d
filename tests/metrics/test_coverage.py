"""COV and the mean nearest distances: by hand, against CDVAE's formula written out, and against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from autoperi.errors import RequestError
from autoperi.metrics.coverage import (
    CUTOFFS,
    NO_FINGERPRINT,
    coverage,
    coverage_curve,
    nearest_distances,
    resolve_cutoffs,
)
from autoperi.metrics.parallel import Failure

BAD = Failure("no fingerprint")
KEYS = ("cov_recall", "cov_precision", "amsd_recall", "amsd_precision", "amcd_recall", "amcd_precision")


def values(result: dict) -> dict[str, float | None]:
    return {key: result[key]["value"] for key in KEYS}


def rows(*numbers: float) -> list[np.ndarray]:
    return [np.array([n]) for n in numbers]


def test_by_hand() -> None:
    # on a line: generated structures at 0 and 1, compositions at 0 and 20; reference at 0.3 and 5, and at 1 and 2
    found = coverage(rows(0, 1), rows(0, 20), rows(0.3, 5), rows(1, 2), cutoffs=(0.4, 10))
    assert values(found) == {
        "cov_recall": 0.5,  # 0.3 is near by both, 5 is 4 away
        "cov_precision": 0.5,  # 0 is near by both, 1 is 0.7 away
        "amsd_recall": pytest.approx((0.3 + 4) / 2),
        "amsd_precision": pytest.approx((0.3 + 0.7) / 2),
        "amcd_recall": pytest.approx((1 + 2) / 2),
        "amcd_precision": pytest.approx((1 + 18) / 2),
    }
    assert found["cutoffs"] == {"structure": 0.4, "composition": 10.0}


def test_neighbours_may_be_two_crystals() -> None:
    # the reference at (0, 0): one generated crystal is near by structure, another by composition, none by both
    found = coverage(rows(0, 9), rows(99, 0), rows(0), rows(0), cutoffs=(0.4, 10))
    assert found["cov_recall"]["value"] == 1.0
    assert found["cov_precision"]["value"] == 0.0


def test_cutoff_is_inclusive() -> None:
    assert coverage(rows(0), rows(0), rows(0.5), rows(4), cutoffs=(0.5, 4))["cov_recall"]["value"] == 1.0
    assert coverage(rows(0), rows(0), rows(0.5), rows(4.001), cutoffs=(0.5, 4))["cov_recall"]["value"] == 0.0


def test_failures_count_against_precision_alone() -> None:
    found = coverage([*rows(0), BAD, *rows(0)], [*rows(0, 0), BAD], rows(0, 0), rows(0, 0))
    assert found["cov_precision"] == {
        "value": pytest.approx(1 / 3, abs=1e-6),
        "count": 1,
        "of": 3,
        "missing": 2,
        "reason": None,
    }
    assert found["cov_recall"]["value"] == 1.0
    assert found["amsd_precision"] == {"value": 0.0, "of": 1, "missing": 2, "reason": None}
    reference = coverage(rows(0), rows(0), [*rows(0), BAD], rows(0, 0))
    assert (reference["cov_recall"]["value"], reference["cov_recall"]["of"], reference["cov_recall"]["missing"]) == (
        1.0,
        1,
        1,
    )


@pytest.mark.parametrize("ours", [[], [BAD, BAD]])
@pytest.mark.parametrize("swap", [False, True])
def test_nothing_is_none_with_a_reason(ours: list, swap: bool) -> None:
    sides = [rows(0), rows(0), ours, ours] if swap else [ours, ours, rows(0), rows(0)]
    found = coverage(*sides)
    for key in KEYS:
        assert found[key]["value"] is None
        assert found[key]["reason"] in (NO_FINGERPRINT, "no crystals")


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 700), n=st.integers(1, 40), seed=st.integers(0, 99))
def test_agrees_with_the_formula_written_out(m: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    s, c, rs, rc = (rng.normal(size=shape) for shape in ((m, 4), (m, 6), (n, 4), (n, 6)))
    ds, dc = cdist(s, rs), cdist(c, rc)
    expected = {
        "cov_recall": np.mean((ds.min(0) <= 0.9) & (dc.min(0) <= 1.5)),
        "cov_precision": np.mean((ds.min(1) <= 0.9) & (dc.min(1) <= 1.5)),
        "amsd_recall": ds.min(0).mean(),
        "amsd_precision": ds.min(1).mean(),
        "amcd_recall": dc.min(0).mean(),
        "amcd_precision": dc.min(1).mean(),
    }
    assert values(coverage(list(s), list(c), list(rs), list(rc), cutoffs=(0.9, 1.5))) == pytest.approx(
        expected, abs=1e-6
    )


def test_against_itself_and_permuted() -> None:
    rng = np.random.default_rng(0)
    s, c = list(rng.normal(size=(50, 5))), list(rng.normal(size=(50, 7)))
    order = rng.permutation(50)
    for structure, composition in ((s, c), ([s[i] for i in order], [c[i] for i in order])):
        found = coverage(structure, composition, s, c, cutoffs="perovskite")
        assert values(found) == dict(zip(KEYS, (1.0, 1.0, 0.0, 0.0, 0.0, 0.0), strict=True))


def test_curve_grows_to_the_preset_and_beyond() -> None:
    rng = np.random.default_rng(1)
    sides = [list(rng.normal(size=shape)) for shape in ((40, 2), (40, 2), (30, 2), (30, 2))]
    found = nearest_distances(*sides)
    curve = coverage_curve(found, cutoffs=(0.3, 0.6), points=21)
    assert curve["factor"][0] == 0
    assert curve["factor"][10] == 1
    assert curve["cov_recall"][0] == 0.0
    for key in ("cov_recall", "cov_precision"):
        assert (np.diff(curve[key]) >= 0).all()
        assert curve[key][10] == coverage(*sides, cutoffs=(0.3, 0.6))[key]["value"]
    empty = nearest_distances([], [], *sides[2:])
    assert set(coverage_curve(empty)["cov_recall"]) == {None}


def test_cutoffs() -> None:
    assert {k: tuple(v) for k, v in CUTOFFS.items()} == {"mp20": (0.4, 10), "carbon": (0.2, 4), "perovskite": (0.2, 4)}
    assert resolve_cutoffs([1, 2]) == (1.0, 2.0)
    for bad in ("mp21", (1,), (0, 1), (1, float("nan"))):
        with pytest.raises(RequestError, match="cutoffs="):
            resolve_cutoffs(bad)
    with pytest.raises(RequestError, match="generated"):
        coverage(rows(0), rows(0, 1), rows(0), rows(0))
