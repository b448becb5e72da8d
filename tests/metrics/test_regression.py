from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.errors import RequestError
from autoperi.metrics.regression import calibration, mae, mae_by, outliers, pearson, r2, regression, rmse, spearman


@pytest.fixture
def noisy() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=200)
    return reference + 0.3 * rng.normal(size=200) + 0.1, reference


def test_agrees_with_scikit_learn_and_scipy(noisy):
    metrics, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    predicted, reference = noisy
    found = regression(predicted, reference)
    expected = {
        "mae": metrics.mean_absolute_error(reference, predicted),
        "median_error": metrics.median_absolute_error(reference, predicted),
        "rmse": metrics.mean_squared_error(reference, predicted) ** 0.5,
        "bias": float(np.mean(predicted) - np.mean(reference)),
        "r2": metrics.r2_score(reference, predicted),
        "pearson": stats.pearsonr(predicted, reference)[0],
        "spearman": stats.spearmanr(predicted, reference)[0],
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-6), name
        assert found[name]["of"] == 200


def test_ties_share_their_rank():
    stats = pytest.importorskip("scipy.stats")
    predicted, reference = [1, 1, 2, 3, 3, 3], [2, 1, 1, 4, 3, 4]
    assert spearman(predicted, reference)["value"] == pytest.approx(stats.spearmanr(predicted, reference)[0], abs=1e-6)


def test_missing_pairs_are_counted_and_change_nothing_else():
    full = regression([1.0, 2.5, 2.0], [1.0, 2.0, 3.0])
    holes = regression([1.0, np.nan, 2.5, 5.0, 2.0], [1.0, 7.0, 2.0, None, 3.0])
    for name in full:
        assert holes[name]["value"] == full[name]["value"], name
        assert (holes[name]["of"], holes[name]["missing"]) == (3, 2)
    assert full["mae"]["value"] == 0.5  # (0 + 0.5 + 1) / 3


@pytest.mark.parametrize(
    ("predicted", "reference", "reason"),
    [
        ([], [], "no crystals"),
        ([None, None], [1.0, 2.0], "no pair of numbers"),
        ([1.0], [2.0], "one pair"),
        ([1.0, 2.0], [3.0, 3.0], "all reference values are equal"),
        ([0.1 + 0.2, 5.0], [0.1 + 0.2, 0.3], "all reference values are equal"),
    ],
)
def test_what_cannot_be_said_is_none_with_its_reason(predicted, reference, reason):
    found = r2(predicted, reference)
    assert found["value"] is None
    assert found["reason"] == reason


def test_correlation_with_a_constant_is_none():
    for function in (pearson, spearman):
        found = function([2.0, 2.0, 2.0], [1.0, 2.0, 3.0])
        assert found["value"] is None
        assert "equal" in found["reason"]


def test_outliers_lie_beyond_the_whiskers_of_matplotlib():
    cbook = pytest.importorskip("matplotlib.cbook")
    errors = np.random.default_rng(1).standard_t(2, size=500)
    drawn = cbook.boxplot_stats(errors, whis=1.5)[0]["fliers"]
    found = outliers(errors)
    assert found["count"] == len(drawn) > 0
    assert found["value"] == pytest.approx(len(drawn) / 500)


def test_outliers_by_hand():
    # quartiles of 0, 1, 2, 3, 100 are 1 and 3: fences at -2 and 6
    found = outliers([0, 1, 2, 3, 100, np.nan])
    assert (found["low"], found["high"], found["count"], found["of"], found["missing"]) == (-2.0, 6.0, 1, 5, 1)
    assert found["value"] == 0.2


def test_errors_equal_up_to_rounding_have_no_outliers():
    assert outliers([1e-16, 0.0, -1e-16, 0.0, 0.0, 3e-15])["value"] == 0.0
    assert outliers([np.nan])["value"] is None


def test_by_group():
    found = mae_by([2, 10, 2, 3], [1.0, 2.0, 3.0, np.nan], [0.0, 0.0, 0.0, 0.0])
    assert list(found) == ["2", "3", "10"]
    assert found["2"]["value"] == 2.0
    assert (found["3"]["value"], found["3"]["missing"]) == (None, 1)


def test_unequal_lengths_are_refused():
    with pytest.raises(RequestError, match="2 predicted and 1 reference"):
        mae([1.0, 2.0], [1.0])
    with pytest.raises(RequestError, match="1 groups"):
        mae_by(["a"], [1.0, 2.0], [1.0, 2.0])


values = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(values, st.floats(-10, 10))
def test_laws(found, constant):
    x, y = np.array(found).T
    assert mae(x, y)["value"] <= rmse(x, y)["value"] + 1e-6
    assert mae(x, y)["value"] == mae(y, x)["value"]
    assert mae(x + constant, y + constant)["value"] == pytest.approx(mae(x, y)["value"], abs=2e-6)
    perfect = r2(y, y)["value"]
    assert perfect is None or perfect == 1.0
    if np.ptp(y) > 1e-3:
        assert r2(np.full(len(y), y.mean()), y)["value"] == pytest.approx(0, abs=1e-6)


def test_calibration_of_normal_errors():
    rng = np.random.default_rng(0)
    std = rng.uniform(0.5, 2.0, 20_000)
    error = rng.normal(size=20_000) * std
    found = calibration(error, std, np.zeros_like(std))
    assert found["coverage_68"]["value"] == pytest.approx(0.6827, abs=0.01)
    assert found["coverage_95"]["value"] == pytest.approx(0.9545, abs=0.005)
    assert found["ence"]["value"] < 0.03
    assert found["spearman"]["value"] > 0.2
    double = calibration(error, 2 * std, np.zeros_like(std))
    assert double["ence"]["value"] == pytest.approx(0.5, abs=0.02)  # RMSE is half of what is said
    assert double["mean_std"]["value"] == pytest.approx(2 * found["mean_std"]["value"], abs=1e-5)


def test_calibration_by_hand():
    found = calibration([1.0, 2.0, 3.0, np.nan], [1.0, 1.0, 1.0, 1.0], [1.5, 3.5, 6.0, 1.0])
    assert (found["coverage_68"]["value"], found["coverage_95"]["value"]) == (
        pytest.approx(1 / 3, abs=1e-6),
        pytest.approx(2 / 3, abs=1e-6),
    )
    assert (found["coverage_68"]["of"], found["coverage_68"]["missing"]) == (3, 1)
    assert found["ence"]["value"] is None
    assert calibration([], [], [])["coverage_95"]["reason"] == "no crystals"
    with pytest.raises(RequestError, match="one of each"):
        calibration([1.0], [1.0, 2.0], [1.0])
