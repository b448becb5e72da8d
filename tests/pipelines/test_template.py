"""generate(composition, like=crystal)."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk

from autoperi import AutoPeri
from autoperi.data.io import write_crystals
from autoperi.errors import RequestError, StructureError
from autoperi.pipelines.template import template_of

SALT = bulk("NaCl", "rocksalt", 5.64)
PEROVSKITE = Atoms(
    "SrTiO3",
    cell=[3.94] * 3,
    scaled_positions=[[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    pbc=True,
)
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


def test_other_elements_on_the_same_orbits(peri: AutoPeri) -> None:
    found = peri.generate("BaZrO3", like=PEROVSKITE, n=2, seed=0)
    assert [s.properties["autoperi"]["space_group"] for s in found] == [221, 221]
    assert all(s.properties["autoperi"]["origin"] == "like" for s in found)
    best = found[0]
    barium = next(site for site in best if site.specie.symbol == "Ba")
    assert len(best.get_neighbors(barium, 0.75 * best.lattice.a)) == 12  # the large ion where strontium was
    assert best.volume > 1.1 * PEROVSKITE.get_volume()


def test_the_same_crystal_is_not_given_twice(peri: AutoPeri) -> None:
    assert len(peri.generate("KBr", like=SALT, n=1, seed=0)) == 1
    with pytest.raises(RequestError, match="only 1 of 2"):
        peri.generate("KBr", like=SALT, n=2, seed=0)


def test_free_coordinates_are_moved_and_the_cell_any_basis_has_does_not_matter(peri: AutoPeri) -> None:
    (one,) = peri.generate("SnF2", like=RUTILE, seed=0)
    (other,) = peri.generate("SnF2", like=RUTILE.repeat((1, 1, 2)), seed=1)
    assert one.properties["autoperi"]["space_group"] == 136
    assert one.volume == pytest.approx(other.volume, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"composition": "KBr2", "like": SALT}, "ratio 1:1"),
        ({"like": SALT}, "needs a composition"),
        ({"composition": "KBr", "like": SALT, "space_group": 221}, "drop space_group"),
        ({"composition": "KBr", "like": SALT, "num_atoms": 8}, "drop num_atoms"),
    ],
)
def test_what_cannot_be_imitated(peri: AutoPeri, options: dict, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        peri.generate(**options)


def test_no_crystal(peri: AutoPeri) -> None:
    with pytest.raises(StructureError, match="int"):
        peri.generate("KBr", like=3)


def test_on_the_command_line(tmp_path, capsys) -> None:
    from autoperi.cli.main import main

    write_crystals([SALT], tmp_path / "salt.extxyz")
    assert main(["generate", "KBr", "--like", str(tmp_path / "salt.extxyz"), "--seed", "0", "--json"]) == 0
    assert '"like"' in capsys.readouterr().out


def test_a_small_distortion_is_part_of_the_crystal() -> None:
    """Tetragonal BaTiO3, titanium 0.03 Å off the centre: the group that ``score`` finds is the group that is
    imitated.
    """
    titanate = Atoms(
        "BaTiO3",
        cell=[4.00, 4.00, 4.02],
        scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5075], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        pbc=True,
    )
    assert template_of(titanate).number == 99
