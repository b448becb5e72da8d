"""Log-likelihoods of crystals under the bundled orbit network and flow."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from autoperi import AutoPeri
from autoperi.errors import RequestError

SILICON = bulk("Si", "diamond", 5.47)
SALT = bulk("NaCl", "rocksalt", 5.69)
RUTILE = Atoms(
    "Ti2O4",
    cell=[4.65, 4.65, 2.97],
    scaled_positions=[
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [0.305, 0.305, 0],
        [0.695, 0.695, 0],
        [0.195, 0.805, 0.5],
        [0.805, 0.195, 0.5],
    ],
    pbc=True,
)


@pytest.fixture(scope="module")
def peri() -> AutoPeri:
    return AutoPeri.from_pretrained()


def test_columns_and_free_parameters(peri: AutoPeri) -> None:
    table = peri.log_likelihood([SILICON, SALT, RUTILE])
    assert table["free_parameters"].tolist() == [1, 1, 3]
    assert table["space_group"].tolist() == [227, 225, 136]
    assert (table["log_p_orbits"] < 0).all()
    assert (table["standard_error"] == 0).all()  # few parameters: exact
    assert np.allclose(table["bits_per_parameter"], -table["log_density"] / np.log(2) / table["free_parameters"])
    # rock salt is what a composition of one alkali and one halogen is expected to be, and rutile what TiO2 may be
    assert table["log_p_orbits"][1] > -1.5
    assert table["log_p_orbits"][2] > -5


def test_the_same_crystal_in_other_clothes(peri: AutoPeri) -> None:
    turned = RUTILE.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    turned.set_scaled_positions(turned.get_scaled_positions() + np.array([0.1, 0.2, 0.3]))
    double = RUTILE.repeat((2, 1, 1))
    table = peri.log_likelihood([RUTILE, turned, double, AseAtomsAdaptor.get_structure(RUTILE)])
    for column in ("log_p_orbits", "log_density"):
        assert np.allclose(table[column], table[column][0], atol=1e-4), column


def test_far_from_any_crystal_is_unlikely(peri: AutoPeri) -> None:
    wrong = RUTILE.copy()
    wrong.set_cell([6.5, 6.5, 2.0], scale_atoms=True)
    table = peri.log_likelihood([RUTILE, wrong])
    assert table["log_density"][0] > table["log_density"][1] + 3


def test_index_is_kept_and_bad_crystals_have_a_reason(peri: AutoPeri) -> None:
    overlap = Atoms(
        "Na2Cl2",
        cell=[4, 4, 4],
        scaled_positions=[[0, 0, 0], [0, 0, 1e-5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.50001]],
        pbc=True,
    )
    table = peri.log_likelihood(pd.Series([SALT, overlap], index=["good", "bad"]))
    assert table.index.tolist() == ["good", "bad"]
    assert table["reason"]["bad"]
    assert np.isnan(table["log_density"]["bad"])


def test_the_density_is_that_of_the_equation_whatever_the_steps(peri: AutoPeri) -> None:
    rough, fine = (peri.log_likelihood([SALT, RUTILE], tolerance=t)["log_density"] for t in (1e-4, 1e-6))
    assert np.allclose(rough, fine, atol=0.02)


def test_neither_the_place_in_a_list_nor_the_others_matter(peri: AutoPeri) -> None:
    together = peri.log_likelihood([SILICON, RUTILE, SALT])["log_density"]
    alone = [peri.log_likelihood(s)["log_density"][0] for s in (SILICON, RUTILE, SALT)]
    assert np.allclose(together, alone, atol=1e-3)  # rounding may move a step


@pytest.mark.parametrize("options", [{"tolerance": 0}, {"probes": 1}, {"tolerance": "small"}, {"probes": 2.5}])
def test_bad_numbers(peri: AutoPeri, options: dict) -> None:
    with pytest.raises(RequestError, match="is not a"):
        peri.log_likelihood([SALT], **options)
