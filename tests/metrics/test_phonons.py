"""Phonons of crystals whose answer is known: a chain of springs, stable and unstable metals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from pymatgen.core import Lattice, Structure

pytest.importorskip("phonopy")

from autoperi.errors import RequestError
from autoperi.evaluation.calculators import make_calculator, relax
from autoperi.metrics.phonons import last_peak, mesh_frequencies, phonon_stability, phonons, supercell_repeats

FAST = {"min_length": 7.0, "mesh_length": 20.0}


@pytest.fixture(scope="module")
def emt():
    return make_calculator("emt")


class Springs(Calculator):
    """Simple cubic lattice of nearest-neighbour springs that resist along and across the bond alike (eV/Å²)."""

    implemented_properties = ("energy", "forces")

    def __init__(self, k: float, a: float) -> None:
        super().__init__()
        self.k, self.a = k, a

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        from ase.neighborlist import neighbor_list

        i, vectors = neighbor_list("iD", atoms, 1.2 * self.a)
        ideal = np.round(vectors / self.a) * self.a
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, self.k * (vectors - ideal))
        self.results = {"energy": 0.25 * self.k * float(((vectors - ideal) ** 2).sum()), "forces": forces}


class Unusable(Calculator):
    """Nothing may ask it for anything."""

    implemented_properties = ("energy", "forces")

    def calculate(self, *_, **__):
        pytest.fail("work before the check")


def test_springs_have_the_analytic_top_of_the_band():
    """ω² = (4 k / m) Σ sin²(q_i a / 2): at most 12 k / m, at the corner of the zone."""
    a, k = 3.0, 2.0
    found = phonons(bulk("Cu", "sc", a=a), Springs(k, a), min_length=12.0, mesh_length=24.0)
    amu, ev, angstrom = 1.66053906660e-27, 1.602176634e-19, 1e-10
    mass = 63.546 * amu
    top = np.sqrt(12 * k * ev / angstrom**2 / mass) / (2 * np.pi) / 1e12
    assert found["max_frequency_THz"] == pytest.approx(top, rel=2e-3)
    assert found["min_frequency_THz"] > 0
    assert found["dynamically_stable"] is True
    assert found["supercell"] == [4, 4, 4]


def test_springs_of_the_wrong_sign_are_unstable():
    found = phonons(bulk("Cu", "sc", a=3.0), Springs(-2.0, 3.0), **FAST)
    assert found["dynamically_stable"] is False
    assert found["min_frequency_THz"] < -1
    assert found["last_dos_peak_THz"] is None
    assert found["imaginary_modes"] == found["modes"] > 100


def test_copper_is_stable_and_other_lattices_of_it_are_not(emt):
    crystals = [
        relax([bulk("Cu", kind, a=a)], emt, fmax=0.001)[0].structure
        for kind, a in (("fcc", 3.6), ("sc", 2.4), ("bcc", 2.85))
    ]
    crystals.append(Structure(Lattice.cubic(5), ["Xe"], [[0, 0, 0]]))
    summary, rows = phonon_stability(crystals, emt, progress=False, **FAST)
    assert [row["dynamically_stable"] for row in rows] == [True, False, False, None]
    assert rows[0]["residual_force_eV_per_A"] < 1e-6
    assert 6 < rows[0]["last_dos_peak_THz"] < rows[0]["max_frequency_THz"] < 9  # copper: some 7.2 THz
    assert rows[0]["last_dos_peak_per_cm"] == pytest.approx(rows[0]["last_dos_peak_THz"] * 33.356, rel=1e-4)
    assert "Xe" in rows[3]["reason"]
    assert rows[3]["min_frequency_THz"] is None
    flag = summary["dynamically_stable"]
    assert (flag["value"], flag["of"], flag["missing"]) == (pytest.approx(1 / 3, abs=1e-6), 3, 1)
    assert summary["parameters"]["distance"] == 0.01
    json.dumps([summary, rows])


def test_the_choice_of_cell_does_not_matter(emt):
    a = relax([bulk("Al")], emt, fmax=0.001)[0].structure.lattice.a * 2**0.5
    cube = phonons(bulk("Al", a=a, cubic=True), emt, min_length=7.0, mesh_length=16.0)
    skewed = phonons(bulk("Al", a=a), emt, min_length=9.0, mesh_length=16.0)
    assert cube["max_frequency_THz"] == pytest.approx(skewed["max_frequency_THz"], rel=0.02)


def test_sizes_are_bounded(emt):
    found = phonons(bulk("Cu"), emt, min_length=20.0, max_atoms=100)
    assert found["dynamically_stable"] is None
    assert "more than 100" in found["reason"]
    assert found["force_calls"] == 0


def test_supercell_of_a_skewed_cell_is_thick_enough():
    lattice = np.array([[3.0, 0, 0], [2.8, 1.0, 0], [0.3, 0.2, 4.0]])
    n = supercell_repeats(lattice, 10.0)
    big = lattice * np.array(n)[:, None]
    volume = abs(np.linalg.det(big))
    heights = [volume / np.linalg.norm(np.cross(big[i - 1], big[i - 2])) for i in range(3)]
    assert min(heights) >= 10 - 1e-4
    assert supercell_repeats(np.eye(3) * 5.0, 10.0) == [2, 2, 2]


def test_acoustic_modes_at_gamma_are_left_out():
    q = np.array([[0.0, 0, 0], [0.5, 0, 0]])
    bands = np.array([[-0.3, 0.01, 0.02, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 7.0]])
    values, weights = mesh_frequencies(q, bands, np.array([1, 8]))
    assert (values.min(), values.max(), int(weights.sum())) == (1.0, 7.0, 3 + 6 * 8)
    bands[0, 3] = -4.0  # an optical mode at Γ is not
    values, weights = mesh_frequencies(q, bands, np.array([1, 8]))
    assert (values.min(), values.max(), int(weights[values < 0].sum())) == (-4.0, 7.0, 1)


def test_bands_of_springs_are_the_analytic_ones_along_any_path():
    """ω² = (4 k / m) Σ_j sin²(q_j a / 2), the same for all three branches."""
    a, k = 3.0, 2.0
    found = phonons(bulk("Cu", "sc", a=a), Springs(k, a), min_length=12.0, mesh_length=24.0, path="GX,MGR")
    scale = np.sqrt(4 * k * 1.602176634e-19 / 1e-20 / (63.546 * 1.66053906660e-27)) / (2 * np.pi) / 1e12
    bands = found["bands"]
    assert [name for _, name in bands["ticks"]] == ["Γ", "X|M", "Γ", "R"]
    lengths = np.diff([x for x, _ in bands["ticks"]]) * a
    assert lengths == pytest.approx([0.5, 0.5 * 2**0.5, 0.5 * 3**0.5], rel=1e-5)
    ends = [np.array(f)[i] for f in bands["frequency"] for i in (0, -1)]
    for values, waves in zip(ends, (0, 1, 2, 3), strict=True):
        assert values == pytest.approx(np.full(3, scale * waves**0.5), rel=2e-3, abs=0.02)
    assert [len(x) for x in bands["x"]] == [len(f) for f in bands["frequency"]]
    standard = phonons(bulk("Cu", "sc", a=a), Springs(k, a), **FAST, path=True)["bands"]
    assert standard["ticks"][0][1] == "Γ"
    assert "bands" not in phonons(bulk("Cu", "sc", a=a), Springs(k, a), **FAST)


def test_a_point_that_the_lattice_lacks_costs_the_bands_alone():
    a, k = 3.0, 2.0
    found = phonons(bulk("Cu", "sc", a=a), Springs(k, a), **FAST, path="GQ")
    plain = phonons(bulk("Cu", "sc", a=a), Springs(k, a), **FAST)
    assert found.pop("bands") is None
    assert "no point Q" in found.pop("bands_reason")
    assert found == plain
    assert found["min_frequency_THz"] > 0


@pytest.mark.parametrize("path", [3, None, ["GX"], "", "G", "GG", "GX,", "GX,M", "gx", "G X", "GX;MR", "1G"])
def test_what_is_no_path_is_refused_before_any_force(path):
    with pytest.raises(RequestError, match="path="):
        phonons(bulk("Cu", "sc", a=3.0), Unusable(), **FAST, path=path)


def test_last_peak():
    f = np.linspace(-1, 10, 1101)
    dos = np.exp(-((f - 3) ** 2) / 0.1) + 0.5 * np.exp(-((f - 7) ** 2) / 0.1) + 0.01 * np.exp(-((f - 9) ** 2) / 0.1)
    assert last_peak(f, dos) == pytest.approx(7, abs=0.011)
    assert last_peak(f, np.zeros_like(f)) is None


def test_bad_parameters(emt):
    for name in ("min_length", "distance", "mesh_length", "max_atoms", "symprec"):
        with pytest.raises(RequestError, match=name):
            phonons(bulk("Cu"), emt, **{name: 0})
    with pytest.raises(RequestError, match="tolerance"):
        phonons(bulk("Cu"), emt, tolerance=-1.0)


def test_missing_phonopy_is_named(monkeypatch, emt):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"autoperi\[metrics\]"):
        phonons(bulk("Cu"), emt)
