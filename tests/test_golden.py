"""The bundled weights give what they gave when they were released, on every platform and version that runs them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from autoperi import AutoPeri

CRYSTALS: dict[str, Atoms] = {
    "NaCl": bulk("NaCl", "rocksalt", 5.69),
    "Si": bulk("Si", "diamond", 5.47),
    "Cu": bulk("Cu", "fcc", 3.62),
    "MgO": bulk("MgO", "rocksalt", 4.25),
    "ZnO": bulk("ZnO", "wurtzite", 3.28, 5.28),
}
FORMATION_ENERGY = {"NaCl": -2.11055, "Si": 0.168785, "Cu": 0.095479, "MgO": -2.992823, "ZnO": -1.814594}
LOG_LIKELIHOOD = {"NaCl": -0.781585, "Si": -3.704391, "Cu": -0.988021, "MgO": -2.32336, "ZnO": -1.735729}
RELAXED_VOLUME = {"NaCl": 46.055, "Si": 40.9168, "Cu": 11.8595, "MgO": 19.1914, "ZnO": 49.194}
SRTIO3 = [(140, 123.4641, -3.512496), (140, 124.0914, -3.523977), (221, 62.2183, -3.509241)]
DRAWN_NACL = {
    "gemsdiff": [(2, 46.5992), (4, 76.1283), (6, 156.7783)],
    "score-langevin": [(2, 45.762), (6, 158.2224), (8, 206.0281)],
}
"""Atoms and volumes in Å³."""
DRAWN_PGCGM = [("Hf2Zr4O16", 141, 200.4885), ("Yb2Ge2C12", 194, 157.6568), ("Mn4N2", 136, 82.3546)]
"""Formulas, space groups and volumes in Å³."""
DE_NOVO = [("Cs3Ho1Cl6", 225, 406.8503), ("Sr4Ge8Pt4", 44, 355.9011), ("V1Cr1As2", 164, 63.1458)]


@pytest.fixture(scope="module")
def base() -> AutoPeri:
    return AutoPeri.from_pretrained()


def test_scores(base: AutoPeri) -> None:
    table = base.score(list(CRYSTALS.values()))
    assert np.allclose(table["formation_energy_per_atom_eV"], list(FORMATION_ENERGY.values()), atol=2e-5)
    assert np.allclose(table["log_likelihood"].astype(float), list(LOG_LIKELIHOOD.values()), atol=1e-4)


def test_relaxed_volumes(base: AutoPeri) -> None:
    volumes = [a.get_volume() for a in base.relax_lattice(list(CRYSTALS.values()))]
    assert np.allclose(volumes, list(RELAXED_VOLUME.values()), atol=1e-3)


def test_generated(base: AutoPeri) -> None:
    for (group, volume, energy), s in zip(SRTIO3, base.generate("SrTiO3", n=3, seed=0), strict=True):
        note = s.properties["autoperi"]
        assert (note["space_group"], s.volume, note["formation_energy_per_atom_eV"]) == pytest.approx(
            (group, volume, energy), abs=1e-3
        )
    for (formula, group, volume), s in zip(DE_NOVO, base.generate(n=3, seed=0), strict=True):
        assert s.formula.replace(" ", "") == formula
        assert s.properties["autoperi"]["space_group"] == group
        assert s.volume == pytest.approx(volume, abs=1e-2)


def test_what_is_drawn_from_noise() -> None:
    """The bundled samplers, at two sizes of batches."""
    for name, expected in DRAWN_NACL.items():
        peri = AutoPeri.from_pretrained(name, device="cpu")
        found = [
            peri.generate("NaCl", n=3, seed=0, steps=20, rank="probability", batch_size=size, progress=False)
            for size in (1, 8)
        ]
        for one, other, (atoms, volume) in zip(*found, expected, strict=True):
            assert np.array_equal(one.lattice.matrix, other.lattice.matrix)
            assert np.array_equal(one.frac_coords, other.frac_coords)
            assert (len(one), one.volume) == (atoms, pytest.approx(volume, abs=1e-2))


def test_what_is_drawn_in_one_step() -> None:
    peri = AutoPeri.from_pretrained("pgcgm", device="cpu")
    for size in (1, 8):
        found = peri.generate(n=3, seed=0, rank="none", batch_size=size, progress=False)
        for crystal, (formula, group, volume) in zip(found, DRAWN_PGCGM, strict=True):
            assert crystal.formula.replace(" ", "") == formula
            assert crystal.properties["autoperi"]["space_group"] == group
            assert crystal.volume == pytest.approx(volume, abs=1e-2)


def test_chemistry_comes_first(base: AutoPeri) -> None:
    """What a chemist expects at the top, among the three first."""
    for formula, group in (
        ("NaCl", 225),
        ("TiO2", 136),
        ("MgAl2O4", 227),
        ("BaTiO3", 221),
        ("CaCO3", 167),
        ("CaF2", 225),
    ):
        groups = [
            s.properties["autoperi"]["space_group"] for s in base.generate(formula, n=3, num_atoms=(1, 14), seed=0)
        ]
        assert group in groups, f"{formula}: {groups}"


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import autoperi; s = time.perf_counter() - t; "
        "print(s, 'torch' in sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
        for _ in range(3)
    ]
    assert all(loaded == "False" for _, loaded in runs)
    assert min(float(seconds) for seconds, _ in runs) < 0.3
