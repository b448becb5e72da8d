from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.errors import RequestError, StructureError
from autoperi.metrics.lattice import (
    absolute_parameter_errors,
    energy_improvement,
    lattice_errors,
    lattice_improvement,
    lattice_parameters,
)
from autoperi.testing import tiny_crystals


def cell(*parameters: float) -> np.ndarray:
    from pymatgen.core import Lattice

    return np.array(Lattice.from_parameters(*parameters).matrix)


def test_parameters_agree_with_pymatgen():
    rng = np.random.default_rng(0)
    from pymatgen.core import Lattice

    cells = rng.normal(size=(20, 3, 3)) * 4
    found = lattice_parameters(cells)
    for k, matrix in enumerate(cells):
        lattice = Lattice(matrix)
        np.testing.assert_allclose(found.lengths[k], lattice.abc, rtol=1e-12)
        np.testing.assert_allclose(found.angles[k], lattice.angles, rtol=1e-9)
        assert found.volumes[k] == pytest.approx(abs(np.linalg.det(matrix)))


def test_structures_atoms_and_arrays_are_one_thing():
    structure = tiny_crystals()[-1]
    from autoperi.data.convert import structure_to_atoms

    mixed = lattice_parameters([structure, structure_to_atoms(structure), np.array(structure.lattice.matrix)])
    for values in mixed:
        np.testing.assert_array_equal(values[0], values[1])
        np.testing.assert_array_equal(values[0], values[2])


def test_errors_by_hand():
    truth = [cell(3, 4, 5, 90, 90, 90), cell(2, 2, 2, 90, 90, 90)]
    guess = [cell(3.3, 4, 4.4, 90, 96, 90), cell(2, 2, 2, 90, 90, 90)]
    found = lattice_errors(guess, truth)
    assert found["length_mae_A"]["value"] == pytest.approx(0.9 / 6)
    assert found["angle_mae_deg"]["value"] == pytest.approx(1.0)
    assert found["length_rmse_A"]["value"] == pytest.approx(np.sqrt((0.09 + 0.36) / 6), abs=1e-6)
    lengths = np.array([3, 4, 5, 2, 2, 2])
    assert found["length_r2"]["value"] == pytest.approx(1 - 0.45 / ((lengths - 3) ** 2).sum(), abs=1e-6)
    volume = 3.3 * 4 * 4.4 * np.sin(np.radians(96))
    assert found["volume_mae_A3"]["value"] == pytest.approx((60 - volume) / 2, abs=1e-6)
    assert found["volume_relative_error"]["value"] == pytest.approx((60 - volume) / 60 / 2, abs=1e-6)
    assert found["volume_bias"]["value"] == pytest.approx((volume - 60) / 60 / 2, abs=1e-6)
    assert found["each_length"]["a"]["rmse_A"]["value"] == pytest.approx(0.3 / np.sqrt(2), abs=1e-6)
    assert found["length_mae_A"]["of"] == 6
    assert found["volume_mae_A3"]["of"] == 2


def test_improvement_by_hand_and_against_the_papers_formula():
    clean = [cell(3, 4, 5, 90, 90, 90), cell(2, 2, 2, 60, 60, 60)]
    noisy = [cell(3.6, 4, 5, 90, 90, 93), cell(2, 1.4, 2, 60, 60, 60)]
    denoised = [cell(3.3, 4, 5, 90, 90, 90), cell(2, 1.1, 2, 60, 63, 60)]
    found = lattice_improvement(noisy, denoised, clean)
    assert found["length_A"]["value"] == pytest.approx(((0.6 - 0.3) + (0.6 - 0.9)) / 3 / 2, abs=1e-6)
    assert found["angle_deg"]["value"] == pytest.approx((3 - 3) / 3 / 2, abs=1e-6)
    assert found["length_better"]["value"] == 0.5
    a, b, c = (lattice_parameters(x).lengths for x in (noisy, denoised, clean))
    by_formula = sum(np.abs(a[k] - c[k]).sum() - np.abs(b[k] - c[k]).sum() for k in range(2)) / (3 * 2)  # eq. 11
    assert found["length_A"]["value"] == pytest.approx(by_formula, abs=1e-6)


def test_perfect_denoiser_gains_all_and_identity_nothing():
    clean = tiny_crystals()
    noisy = [np.array(s.lattice.matrix) @ (np.eye(3) + 0.1 * np.diag([1.0, -1, 0.5]) + 0.03) for s in clean]
    perfect = lattice_improvement(noisy, clean, clean)
    assert perfect["length_A"]["value"] == lattice_errors(noisy, clean)["length_mae_A"]["value"] > 0
    assert perfect["angle_deg"]["value"] == lattice_errors(noisy, clean)["angle_mae_deg"]["value"] > 0
    same = lattice_improvement(noisy, noisy, clean)
    assert same["length_A"]["value"] == same["angle_deg"]["value"] == same["length_better"]["value"] == 0
    exact = lattice_errors(clean, clean)
    assert exact["length_r2"]["value"] == 1.0
    assert exact["length_outliers"]["value"] == 0.0


seeds = st.integers(0, 2**31)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_rotations_and_reflections_change_nothing(seed):
    rng = np.random.default_rng(seed)
    truth, guess = (np.eye(3) * 4 + rng.normal(size=(5, 3, 3)) for _ in range(2))
    turned = []
    for cells in (truth, guess):
        q = np.linalg.qr(rng.normal(size=(5, 3, 3)))[0]
        turned.append(cells @ (q * np.where(rng.random(5) < 0.5, -1, 1)[:, None, None]))
    plain, moved = lattice_errors(guess, truth), lattice_errors(turned[1], turned[0])
    for key in ("length_mae_A", "angle_mae_deg", "length_r2", "volume_mae_A3"):
        assert moved[key]["value"] == pytest.approx(plain[key]["value"], abs=1e-5), key


def test_the_basis_matters_and_is_not_mended():
    truth = [cell(3, 4, 5, 90, 90, 90)]
    found = lattice_errors([cell(4, 3, 5, 90, 90, 90)], truth)
    assert found["length_mae_A"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["volume_mae_A3"]["value"] == pytest.approx(0, abs=1e-6)


def test_left_handed_cell_is_its_mirror_image():
    right = cell(3, 4, 5, 80, 95, 110)
    found = lattice_errors([right * [1, 1, -1]], [right])
    assert found["angle_mae_deg"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["volume_mae_A3"]["value"] == pytest.approx(0, abs=1e-6)


def test_missing_cells_are_counted_not_zero():
    truth = [cell(3, 3, 3, 90, 90, 90)] * 4
    found = lattice_errors([None, cell(3.3, 3, 3, 90, 90, 90), np.full((3, 3), np.nan), np.zeros((3, 3))], truth)
    assert found["length_mae_A"]["value"] == pytest.approx(0.1, abs=1e-6)
    assert (found["length_mae_A"]["of"], found["length_mae_A"]["missing"]) == (3, 9)
    assert (found["volume_mae_A3"]["of"], found["volume_mae_A3"]["missing"]) == (1, 3)
    none = lattice_improvement(truth, [None] * 4, truth)
    assert none["length_A"]["value"] is None
    assert none["length_better"]["reason"] == "no denoised cell"
    assert lattice_errors([], [])["length_mae_A"]["reason"] == "no crystals"


def test_pairs_that_are_none_are_refused():
    salt, silicon = tiny_crystals()[0], bulk("Si")
    with pytest.raises(RequestError, match="1 predicted and 2 reference"):
        lattice_errors([salt], [salt, salt])
    with pytest.raises(StructureError, match="2 atoms predicted, 8 in the reference"):
        lattice_errors([silicon], [salt])
    with pytest.raises(StructureError, match="crystal 0 is of type str"):
        absolute_parameter_errors(["abc"], [salt.lattice.matrix])


def test_energy_improvement_by_hand():
    found = energy_improvement([1.0, 2.0, None, 0.5, float("nan")], [0.5, 2.5, 1.0, 0.5, 0.0])
    assert found["energy_eV_per_atom"]["value"] == pytest.approx(0.0)
    assert (found["energy_eV_per_atom"]["of"], found["energy_eV_per_atom"]["missing"]) == (3, 2)
    assert found["energy_lower"]["value"] == pytest.approx(1 / 3, abs=1e-6)  # equal is not lower
    assert energy_improvement([None], [1.0])["energy_lower"]["value"] is None
    with pytest.raises(RequestError):
        energy_improvement([1.0], [])
