"""Structural validity as CDVAE counts it, and the two validities together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from autoperi.chemistry.smact import Validity
from autoperi.errors import RequestError, StructureError
from autoperi.metrics.consistency import cif_validity, recorded_group, symmetry_of
from autoperi.metrics.validity import VERDICTS, radii_validity, structural_validity, validity, validity_report
from autoperi.testing import tiny_crystals


def pair(distance: float, a: float = 4.0) -> Structure:
    """Two atoms ``distance`` Å apart across the boundary of the cell."""
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0.5 * distance / a, 0, 0], [1 - 0.5 * distance / a, 0, 0]])


def test_distance() -> None:
    assert structural_validity(pair(0.501)) == Validity(True, None)
    near = structural_validity(pair(0.499))
    assert not near.valid
    assert "0.499 Å between sites 0 and 1" in str(near.reason)
    assert not structural_validity(pair(0.0)).valid


def test_own_images_do_not_count() -> None:
    small = Structure(Lattice.cubic(0.48), ["Fe"], [[0, 0, 0]])
    assert structural_validity(small) == Validity(True, None)
    # the same crystal described by two cells has different sites at 0.48 Å: the definition is one of cells, not of
    # crystals
    assert not structural_validity(small * (2, 1, 1)).valid


def test_volume() -> None:
    tiny = structural_validity(Structure(Lattice.cubic(0.46), ["Fe"], [[0, 0, 0]]))
    assert not tiny.valid
    assert "volume 0.0973 Å³" in str(tiny.reason)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31 - 1), st.floats(1.5, 4.0))
def test_description_does_not_matter_in_one_cell(n: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    lattice, x = size * np.eye(3) + 0.2 * rng.normal(size=(3, 3)), rng.random((n, 3))
    basis = np.array([[1, rng.integers(-3, 4), 0], [0, 1, rng.integers(-3, 4)], [0, 0, 1]])
    order = rng.permutation(n)
    reference = Structure(lattice, ["Fe"] * n, x)
    other = Structure(
        basis @ lattice, ["Fe"] * n, ((x + rng.random(3)) @ np.linalg.inv(basis))[order] + rng.integers(-2, 3, (n, 3))
    )
    shifts = np.stack(np.meshgrid(*[[-2, -1, 0, 1, 2]] * 3), -1).reshape(-1, 3)
    nearest = min(np.linalg.norm((x[j] - x[i] + shifts) @ lattice, axis=-1).min() for i in range(n) for j in range(i))
    assert structural_validity(reference).valid == structural_validity(other).valid == bool(nearest >= 0.5)


def test_unreadable_crystals_are_invalid_with_a_reason() -> None:
    nan = bulk("NaCl", "rocksalt", a=5.6)
    nan.positions[0] = np.nan
    disordered = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    flat = Atoms("Fe", cell=[[3, 0, 0], [0, 3, 0], [0, 3, 0]], pbc=True)
    for crystal in (nan, disordered, flat, Atoms("Fe", cell=[3, 3, 3], pbc=False)):
        verdict = structural_validity(crystal)
        assert not verdict.valid
        assert verdict.reason
        assert validity(crystal).valid is False
        assert (validity(crystal).structural, validity(crystal).compositional) == (False, None)


def test_both_together() -> None:
    cases = {
        "fine": (bulk("NaCl", "rocksalt", a=5.64), (True, True, True), "composition: charge neutral"),
        "metal": (bulk("FeNi", "cesiumchloride", a=2.9), (True, True, True), "composition: all metals"),
        "charged": (
            Structure(Lattice.cubic(5), ["Na", "Cl", "Cl"], np.eye(3) / 2),
            (False, True, False),
            "composition: no neutral",
        ),
        "unknown": (
            Structure(Lattice.cubic(5), ["Pt", "O"], [[0, 0, 0], [0.5] * 3]),
            (None, True, None),
            "composition: no oxidation states",
        ),
        "near": (pair(0.3), (False, False, True), "structure: distance 0.3 Å"),
        "near and unknown": (
            Structure(Lattice.cubic(0.3), ["Pt", "O"], [[0] * 3, [0.5] * 3]),
            (False, False, None),
            "structure: volume",
        ),
    }
    for name, (crystal, verdicts, reason) in cases.items():
        got = validity(crystal)
        assert (got.valid, got.structural, got.compositional) == verdicts, name
        assert got.reason.startswith(reason), name
    assert validity(cases["unknown"][0], oxidation_states="pymatgen-common").valid is True  # 2 - 2


def test_kinds() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    structure = Structure(np.array(atoms.cell), ["Na", "Cl"], atoms.get_scaled_positions())
    assert validity(atoms) == validity(structure)
    for function in (structural_validity, validity):
        with pytest.raises(StructureError, match="int"):
            function(3)


def test_radii_by_hand() -> None:
    # Slater's radii: Na 1.80, Cl 1.00 Å; 0.75 of their sum is 2.1 Å
    assert radii_validity(pair(2.11, a=6.0)).valid is True
    near = radii_validity(pair(2.09, a=6.0))
    assert near.valid is False
    assert "sites 0 and 1 at 0.746" in near.reason
    assert radii_validity(pair(2.09, a=6.0), fraction=0.7).valid is True
    assert radii_validity(Structure(Lattice.cubic(1.0), ["Na"], [[0, 0, 0]])).valid is True
    helium = radii_validity(Structure(Lattice.cubic(5.0), ["He", "Na"], [[0, 0, 0], [0.5] * 3]))
    assert helium.valid is None
    assert "He" in helium.reason


@pytest.mark.parametrize("index", range(0, 20, 4))
def test_radii_agree_with_pymatgen(index: int) -> None:
    crystal = tiny_crystals()[index] * (1, 1, 2)
    crystal.perturb(0.6)
    d = crystal.distance_matrix
    pairs = [(i, j) for i in range(len(crystal)) for j in range(i)]
    ratio = min(d[i, j] / (crystal[i].specie.atomic_radius + crystal[j].specie.atomic_radius) for i, j in pairs)
    for fraction in (0.99 * ratio, 1.01 * ratio):
        assert radii_validity(crystal, fraction=fraction).valid is bool(ratio > fraction)


def test_cif_round_trip() -> None:
    assert all(cif_validity(c).valid for c in tiny_crystals())
    skew = Structure(
        Lattice.from_parameters(4, 5, 6, 71, 82, 103), ["Na", "Cl"], [[0.123456789, 0.99999, -0.2], [0.33334, 0.5, 1.7]]
    )
    assert cif_validity(skew).valid
    on_top = cif_validity(Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0, 0, 1e-6]]))
    assert on_top.valid is False
    assert "CIF" in on_top.reason


def test_symmetry_is_that_of_spglib() -> None:
    for crystal in tiny_crystals():
        for cell in (crystal, crystal.get_primitive_structure(), crystal * (1, 1, 2)):
            z = np.array([s.specie.Z for s in cell])
            verdict, group = symmetry_of(cell.lattice.matrix, cell.frac_coords, z, symprec=0.01)
            assert verdict.valid, verdict.reason
            assert group == SpacegroupAnalyzer(crystal, symprec=0.01).get_space_group_number()


def test_symmetry_failures_have_reasons() -> None:
    overlapping = symmetry_of(4 * np.eye(3), [[0, 0, 0], [0, 0, 1e-4]], [11, 11], symprec=0.1)
    assert overlapping[0].valid is False
    assert overlapping[1] is None
    assert "no space group" in overlapping[0].reason


def test_report_by_hand(tmp_path: Path) -> None:
    nan = bulk("NaCl", "rocksalt", a=5.64)
    nan.positions[0] = np.nan
    long = Structure(Lattice.orthorhombic(4, 4, 41), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.1]])
    crystals = [bulk("NaCl", "rocksalt", a=5.64), pair(0.3), bulk("FeNi", "cesiumchloride", a=2.9), long, nan]
    report = validity_report(
        crystals, space_groups=[225, None, 225, None, 225], angles=(50, 130), cache=tmp_path, processes=1
    )
    table = {name: [row[name] for row in report["crystals"]] for name in VERDICTS}
    assert table == {
        "valid": [True, False, True, True, False],
        "structural": [True, False, True, True, False],
        "distance": [True, False, True, True, False],
        "volume": [True, True, True, True, False],
        "compositional": [True, True, True, True, None],
        "radii": [True, False, True, True, None],
        "neutral": [True, True, False, True, None],
        "readable": [True, True, True, True, False],
        "symmetric": [True, True, True, True, None],
        "space_group_kept": [True, None, False, None, False],
        "cell": [True, True, True, False, False],
    }
    assert report["shares"]["compositional"] == {"value": 1.0, "count": 4, "of": 4, "missing": 1, "reason": None}
    assert report["shares"]["space_group_kept"]["of"] == 3
    assert report["unreadable"] == 1
    reasons = [row["reasons"] for row in report["crystals"]]
    assert reasons[0] == {}
    assert "0.3 Å between" in reasons[1]["distance"]
    assert reasons[2]["space_group_kept"] == "space group 221 where 225 is wanted"
    assert "41 Å" in reasons[3]["cell"]
    assert "NaN" in reasons[4]["valid"]
    assert json.loads(json.dumps(report)) == report
    again = validity_report(
        crystals, space_groups=[225, None, 225, None, 225], angles=(50, 130), cache=tmp_path, processes=1
    )
    assert again == report


def test_report_agrees_with_the_verdicts_on_one_crystal() -> None:
    crystals = tiny_crystals()
    report = validity_report(crystals, cache=False, processes=2)
    assert report == validity_report(crystals, cache=False, processes=1)
    for crystal, row in zip(crystals, report["crystals"], strict=True):
        one = validity(crystal, oxidation_states="pymatgen-all")
        assert (row["valid"], row["structural"], row["compositional"]) == (one.valid, one.structural, one.compositional)
        assert row["space_group"] == SpacegroupAnalyzer(crystal, symprec=0.1).get_space_group_number()
    # another origin, another order and another cell of the same lattice do not change a verdict
    basis = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    other = [
        Structure(basis @ c.lattice.matrix, c.species[::-1], ((c.frac_coords + 0.37) @ np.linalg.inv(basis))[::-1])
        for c in crystals
    ]
    assert [r["reasons"].keys() for r in validity_report(other, cache=False, processes=1)["crystals"]] == [
        r["reasons"].keys() for r in report["crystals"]
    ]


def test_recorded_group() -> None:
    noted = Structure(Lattice.cubic(4), ["Fe"], [[0, 0, 0]], properties={"autoperi": {"space_group": 221}})
    assert [recorded_group(c) for c in (noted, bulk("Fe"), pair(2.0))] == [221, None, None]
    (row,) = validity_report([noted], cache=False)["crystals"]
    assert (row["space_group"], row["wanted_space_group"], row["space_group_kept"]) == (221, 221, True)


def test_report_of_nothing() -> None:
    report = validity_report([], cache=False)
    assert all(share["value"] is None and share["reason"] == "no crystals" for share in report["shares"].values())


def test_report_refuses_what_makes_no_sense() -> None:
    for options, text in (
        ({"symprec": 0}, "symprec=0"),
        ({"angles": (130, 50)}, "angles"),
        ({"space_groups": [1]}, "1 space groups for 0"),
        ({"oxidation_states": "mine"}, "choose one of"),
    ):
        with pytest.raises(RequestError, match=text):
            validity_report([], **options)
    with pytest.raises(StructureError, match="crystal 1"):
        validity_report([pair(2.0), 3], cache=False)
