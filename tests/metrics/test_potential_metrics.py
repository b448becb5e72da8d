from __future__ import annotations

import numpy as np
import pytest

from autoperi.errors import DataError, RequestError
from autoperi.metrics.potential import (
    Frame,
    compositions,
    element_constants,
    energy_errors,
    fit_element_energies,
    force_errors,
    potential_errors,
    stress_errors,
)

CU, NI, AL = 29, 28, 13


@pytest.fixture
def frames() -> tuple[list[np.ndarray], np.ndarray]:
    """Twelve frames of Cu, Ni and alloys, and their energies."""
    rng = np.random.default_rng(0)
    numbers = [rng.choice([CU, NI, AL], size=n) for n in (4, 4, 3, 5, 6, 2, 8, 4, 4, 7, 3, 5)]
    return numbers, rng.normal(size=12) * 3


def test_offsets_of_elements_are_removed_and_no_more(frames):
    numbers, truth = frames
    counts = compositions(numbers)
    offset = counts[:, CU] * -3.0 + counts[:, NI] * 1.5 + counts[:, AL] * 0.25
    found = energy_errors(truth + offset, truth, counts)
    assert found["mae_shifted"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["r2_shifted"]["value"] == pytest.approx(1, abs=1e-6)
    assert found["mae"]["value"] == pytest.approx(1000 * np.abs(offset / counts.sum(1)).mean(), abs=1e-4)
    constants, leverage = fit_element_energies(truth + offset, truth, counts)
    assert constants == pytest.approx({CU: -3.0, NI: 1.5, AL: 0.25})
    assert leverage.sum() == pytest.approx(3)


def test_fit_agrees_with_least_squares_of_scikit_learn(frames):
    linear = pytest.importorskip("sklearn.linear_model")
    numbers, truth = frames
    guess = truth + np.random.default_rng(1).normal(size=12)
    counts = compositions(numbers)
    n = counts.sum(1)
    model = linear.LinearRegression(fit_intercept=False).fit(counts / n[:, None], (guess - truth) / n)
    left = (guess - truth) / n - model.predict(counts / n[:, None])
    found = energy_errors(guess, truth, counts)
    assert found["mae_shifted"]["value"] == pytest.approx(1000 * np.abs(left).mean(), abs=1e-3)
    assert found["rmse_shifted"]["value"] == pytest.approx(1000 * np.sqrt((left**2).mean()), abs=1e-3)


def test_given_constants_are_used_as_they_are():
    counts = compositions([[CU, CU], [CU, NI]])
    found = energy_errors([2.0, 2.0], [0.0, 0.0], counts, constants={CU: 1.0, NI: 0.5})
    assert found["mae_shifted"]["value"] == pytest.approx(125)  # 0 and 0.5 eV over two atoms
    lacking = energy_errors([2.0, 2.0], [0.0, 0.0], counts, constants={CU: 1.0})
    assert (lacking["mae_shifted"]["of"], lacking["mae_shifted"]["missing"]) == (1, 1)


def test_a_frame_that_fixes_its_constant_is_no_success():
    counts = compositions([[CU], [CU, CU], [NI, NI]])
    found = energy_errors([1.0, 3.0, 100.0], [0.0, 0.0, 0.0], counts)
    shifted = found["mae_shifted"]
    assert (shifted["of"], shifted["missing"], shifted["fixed_by_the_fit"]) == (2, 1, 1)
    assert shifted["value"] == pytest.approx(250)  # 1 and 1.5 eV/atom around 1.25
    alone = energy_errors([1.0], [0.0], compositions([[CU]]))["mae_shifted"]
    assert alone["value"] is None
    assert "leaves nothing" in alone["reason"]


def test_elements_in_one_ratio_are_one_degree_of_freedom():
    counts = compositions([[CU, NI], [CU, NI, CU, NI], [CU, NI]])
    constants, leverage = fit_element_energies([1.0, 4.0, 3.0], [0.0, 0.0, 0.0], counts)
    assert leverage.sum() == pytest.approx(1)
    assert constants[CU] == pytest.approx(constants[NI]) == pytest.approx(1.0)


def test_forces_by_hand():
    reference = [np.array([[1.0, 0, 0], [0, 0, 0]]), np.array([[0, 2.0, 0]]), None]
    predicted = [np.array([[1.0, 1.0, 0], [0, 0, 0.3]]), np.array([[0, -2.0, 0]]), np.zeros((4, 3))]
    found = force_errors(predicted, reference)
    assert found["mae"]["value"] == pytest.approx(1000 * (1 + 0.3 + 4) / 9, abs=1e-6)
    assert found["rmse"]["value"] == pytest.approx(1000 * np.sqrt((1 + 0.09 + 16) / 9), abs=1e-5)
    assert found["mae_of_zero"]["value"] == pytest.approx(1000 * (1 + 2) / 9, abs=1e-6)
    assert found["cosine"]["value"] == pytest.approx((np.sqrt(0.5) - 1) / 2, abs=1e-6)
    assert (found["cosine"]["of"], found["cosine"]["missing"]) == (2, 1)  # an atom without force has no direction
    assert (found["frames"], found["missing_frames"]) == (2, 1)


def test_stress_by_hand():
    one = np.diag([1.0, 2, 3])
    one[0, 1] = one[1, 0] = 6.0
    found = stress_errors([one, None], [np.zeros((3, 3)), np.eye(3)])
    assert found["mae"]["value"] == pytest.approx((1 + 2 + 3 + 6) / 6)
    assert found["pressure_mae"]["value"] == pytest.approx(2)
    assert (found["frames"], found["missing_frames"]) == (1, 1)


def test_all_together_and_by_group():
    numbers = [[CU, CU], [CU], [NI], [NI, NI], [NI]]
    reference = [Frame(float(k), np.full((len(z), 3), 0.1 * k), np.eye(3) * k) for k, z in enumerate(numbers)]
    predicted = [Frame(f.energy + len(z), f.forces + 0.2, None) for f, z in zip(reference, numbers, strict=True)]
    predicted[4] = Frame()
    found = potential_errors(predicted, reference, numbers, groups=[("Cu", "Cu/a"), ("Cu", "Cu/b"), "Ni", "Ni", "Ni"])
    assert found["energy"]["mae"]["value"] == pytest.approx(1000)
    assert found["energy"]["mae_shifted"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["element_energies"] == pytest.approx({"Cu": 1.0, "Ni": 1.0})
    assert found["force"]["mae"]["value"] == pytest.approx(200)
    assert found["energy"]["mae"]["missing"] == 1
    assert found["stress"]["mae"]["value"] is None
    assert found["stress"]["missing_frames"] == 5
    assert list(found["by_group"]) == ["Cu", "Cu/a", "Cu/b", "Ni"]
    assert [found["by_group"][g]["n"] for g in found["by_group"]] == [2, 1, 1, 3]
    # the constant of copper was fitted on two frames, so one of them alone still has an error to measure
    assert found["by_group"]["Cu/a"]["energy"]["mae_shifted"]["of"] == 1
    given = potential_errors(predicted, reference, numbers, element_energies={"Cu": 0.0, "Ni": 1.0})
    assert given["element_energies_from"] == "given"
    assert given["energy"]["mae_shifted"]["value"] == pytest.approx(500)


def test_nothing_is_none_not_zero():
    found = potential_errors([], [], [])
    for part in ("energy", "force", "stress"):
        assert found[part]["mae"]["value"] is None
        assert found[part]["mae"]["reason"] is not None


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="shape"):
        force_errors([np.zeros((2, 3))], [np.zeros((3, 3))])
    with pytest.raises(RequestError, match="2 predicted and 1 reference"):
        potential_errors([Frame(), Frame()], [Frame()], [[CU]])
    with pytest.raises(RequestError, match="'Xx'"):
        element_constants({"Xx": 1.0})
    with pytest.raises(RequestError, match="finite"):
        element_constants({"Cu": float("nan")})
    assert element_constants({"Cu": 1, 28: 2, "13": 3}) == {CU: 1.0, NI: 2.0, AL: 3.0}
