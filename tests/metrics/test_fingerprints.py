"""Fingerprints: equal to matminer's, one site of an orbit enough, blind to the choice of cell."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, graphene
from matminer.featurizers.composition.composite import ElementProperty
from matminer.featurizers.site.fingerprint import CrystalNNFingerprint
from pymatgen.core import Composition, Lattice, Structure

from autoperi.data.convert import as_structure, to_arrays
from autoperi.errors import RequestError, StructureError
from autoperi.metrics import fingerprints
from autoperi.metrics.crystalnn import LABELS, coordination_likelihood, site_fingerprint
from autoperi.metrics.fingerprints import (
    composition_fingerprints,
    scaler,
    structure_fingerprint,
    structure_fingerprints,
)
from autoperi.metrics.motifs import MOTIFS, neighbour_angles, order_parameter
from autoperi.metrics.parallel import Failure
from autoperi.testing import tiny_crystals

pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def matminer() -> Any:
    return CrystalNNFingerprint.from_preset("ops")


def direct(crystal: Structure) -> np.ndarray:
    """The mean over all sites, by matminer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.mean([matminer().featurize(crystal, i) for i in range(len(crystal))], axis=0)


def random_crystal(seed: int, n: int = 5) -> Structure:
    """A crystal without symmetry, atoms at least 1.5 Å apart."""
    rng = np.random.default_rng(seed)
    lattice = Lattice(np.diag(rng.uniform(4.0, 5.5, 3)) + rng.uniform(-0.8, 0.8, (3, 3)))
    coords: list[np.ndarray] = []
    while len(coords) < n:
        x = rng.random(3)
        if all(lattice.get_all_distances([x], [y])[0, 0] > 1.5 for y in coords):
            coords.append(x)
    return Structure(lattice, rng.choice(["Li", "Mg", "Fe", "O", "S", "Cl", "Xe"], n).tolist(), coords)


def layered() -> Structure:
    sheet = graphene(vacuum=9.0)
    sheet.pbc = True
    return as_structure(sheet)


def test_labels_are_matminers() -> None:
    assert list(LABELS) == matminer().feature_labels()
    assert len(LABELS) == fingerprints.STRUCTURE_FEATURES == 61


@pytest.mark.parametrize("seed", range(6))
def test_sites_of_random_crystals_agree_with_matminer(seed: int) -> None:
    crystal = random_crystal(seed)
    for i in range(len(crystal)):
        ours = site_fingerprint(*to_arrays(crystal), i)
        np.testing.assert_allclose(ours, matminer().featurize(crystal, i), atol=1e-6)


@pytest.mark.parametrize("crystal", [*tiny_crystals()[::3], layered()], ids=lambda c: c.composition.reduced_formula)
def test_textbook_crystals_agree_with_matminer(crystal: Structure) -> None:
    primitive = crystal.get_primitive_structure()
    np.testing.assert_allclose(structure_fingerprint(primitive), direct(primitive), atol=1e-3)


def test_lonely_atom_has_no_neighbours() -> None:
    far = Structure(Lattice.cubic(9.0), ["Ar"], [[0, 0, 0]])
    assert not structure_fingerprint(far).any()
    assert not direct(far).any()


@pytest.mark.parametrize("n", range(1, 13))
def test_order_parameters_agree_with_pymatgen(n: int) -> None:
    """Each of the 37 on random neighbours, where nothing is symmetric and every branch is taken."""
    rng = np.random.default_rng(n)
    names = matminer().ops[n][1:]
    assert len(names) == len(MOTIFS[n])
    seen = np.zeros(len(names))
    for _ in range(6):
        vectors = rng.normal(size=(n, 3))
        vectors *= rng.uniform(1.5, 3.0, (n, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
        sites = [SimpleNamespace(coords=v) for v in [np.zeros(3), *vectors]]
        angles = neighbour_angles(vectors)
        for i, (theirs, (_, family, parameters)) in enumerate(zip(names, MOTIFS[n], strict=True)):
            expected = theirs.get_order_parameters(sites, 0, indices_neighs=list(range(1, n + 1)))[0] or 0.0
            assert order_parameter(family, parameters, angles) == pytest.approx(expected, abs=1e-7)
            seen[i] += abs(expected)
    assert (seen > 0).all()


@pytest.mark.parametrize(
    ("name", "vectors"),
    [
        ("linear", [(1, 0, 0), (-1, 0, 0)]),
        ("trigonal planar", [(np.cos(t), np.sin(t), 0) for t in 2 * np.pi / 3 * np.arange(3)]),
        ("tetrahedral", [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]),
        ("square co-planar", [(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)]),
        ("octahedral", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0), (0, 0, -1)]),
        ("hexagonal planar", [(np.cos(t), np.sin(t), 0) for t in np.pi / 3 * np.arange(6)]),
        ("body-centered cubic", [(x, y, z) for x in (1, -1) for y in (1, -1) for z in (1, -1)]),
    ],
)
def test_ideal_motifs_are_one(name: str, vectors: list[tuple[float, float, float]]) -> None:
    family, parameters = next((f, p) for label, f, p in MOTIFS[len(vectors)] if label == name)
    assert order_parameter(family, parameters, neighbour_angles(np.array(vectors, dtype=float))) == pytest.approx(
        1.0, abs=0.03
    )


def test_coordination_likelihood_by_hand() -> None:
    assert coordination_likelihood(np.ones(4)) == {4: pytest.approx(1.0)}
    assert coordination_likelihood(np.array([])) == {}
    # area of the quarter circle right of 1/2: π/4 - (√3/8 + π/12), as a part of π/4
    right = 1 - (np.sqrt(3) / 8 + np.pi / 12) / (np.pi / 4)
    assert coordination_likelihood(np.array([1.0, 0.5, 0.5])) == {1: pytest.approx(right), 3: pytest.approx(1 - right)}


@pytest.mark.parametrize("crystal", tiny_crystals(), ids=lambda c: c.composition.reduced_formula)
def test_one_site_of_an_orbit_is_enough(crystal: Structure) -> None:
    arrays = to_arrays(crystal)
    every = np.mean([site_fingerprint(*arrays, i) for i in range(len(crystal))], axis=0)
    np.testing.assert_allclose(structure_fingerprint(crystal), every, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_invariances_of_the_structure_fingerprint(seed: int) -> None:
    crystal = random_crystal(seed)
    expected = structure_fingerprint(crystal)
    assert np.linalg.norm(expected) > 0.3
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(crystal))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    shear = np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]])
    lattice, coords, species = crystal.lattice.matrix, crystal.frac_coords, crystal.species
    for other in (
        Structure(lattice, [species[i] for i in order], coords[order]),
        Structure(lattice @ turn, species, coords),
        Structure(lattice, species, coords + rng.random(3)),
        Structure(shear @ lattice, species, coords @ np.linalg.inv(shear)),
        crystal * (2, 1, 1),
    ):
        np.testing.assert_allclose(structure_fingerprint(other), expected, atol=2e-3)


def test_different_crystals_have_different_fingerprints() -> None:
    salt, diamond = as_structure(bulk("NaCl", "rocksalt", a=5.64)), as_structure(bulk("C"))
    assert structure_fingerprint(salt)[LABELS.index("octahedral CN_6")] > 0.9
    assert structure_fingerprint(diamond)[LABELS.index("tetrahedral CN_4")] > 0.9


def test_bad_crystals_fail_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    good = as_structure(bulk("Si"))
    near = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.1, 0, 0]])
    small = Structure(Lattice.cubic(0.46), ["Fe"], [[0, 0, 0]])
    dense = Structure(Lattice.cubic(0.9), ["Fe"], [[0, 0, 0]])
    half = Structure(Lattice.cubic(4), [{"Fe": 0.5}], [[0, 0, 0]])
    found = structure_fingerprints([good, near, small, dense, half], processes=1, cache=False)
    assert found[0].shape == (61,)
    assert all(isinstance(f, Failure) for f in found[1:])
    assert [
        word in f.reason for word, f in zip(("0.4 Å", "volume", "too dense", "disordered"), found[1:], strict=True)
    ] == [True] * 4
    monkeypatch.setattr(fingerprints, "MAX_SITES", 3)
    with pytest.raises(StructureError, match="5 sites"):
        structure_fingerprint(random_crystal(0))


def test_flat_and_needle_cells_end() -> None:
    """What would make an open Voronoi cell, or a search without end, is an answer or an error in little time."""
    needle = Structure(Lattice.orthorhombic(2.0, 2.0, 300.0), ["Fe"], [[0, 0, 0]])
    thin = Structure(Lattice.orthorhombic(0.6, 0.6, 400.0), ["Fe"], [[0, 0, 0]])
    for crystal in (needle, thin):
        (found,) = structure_fingerprints([crystal], cache=False)
        assert isinstance(found, Failure)
        assert "no closed Voronoi cell" in found.reason or "atoms per" in found.reason
    slab = Structure(Lattice.orthorhombic(4, 4, 30), ["Fe"] * 3, [[0, 0, z] for z in (0, 0.08, 0.16)])
    (found,) = structure_fingerprints([slab], cache=False)
    np.testing.assert_allclose(found, direct(slab), atol=1e-3)


def test_cache_gives_back_what_was_computed(tmp_path: Path) -> None:
    crystals = [random_crystal(s) for s in range(3)] + [
        Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.1, 0, 0]])
    ]
    first = structure_fingerprints(crystals, processes=1, cache=tmp_path)
    again = structure_fingerprints(crystals[::-1], processes=1, cache=tmp_path)[::-1]
    for a, b in zip(first, again, strict=True):
        assert a == b if isinstance(a, Failure) else np.array_equal(a, b)
    assert structure_fingerprints([], cache=tmp_path) == []


def test_composition_agrees_with_matminer() -> None:
    featurizer = ElementProperty.from_preset("magpie")
    crystals = [as_structure(bulk("NaCl", "rocksalt", a=5.64)), *(random_crystal(s) for s in range(3))]
    raw = composition_fingerprints(crystals, scaled=False, cache=False)
    scaled = composition_fingerprints(crystals, cache=False)
    for crystal, values, standard in zip(crystals, raw, scaled, strict=True):
        expected = np.array(featurizer.featurize(Composition(crystal.formula)))
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9)
        by_hand = (expected - scaler()["means"]) / scaler()["stds"]
        np.testing.assert_allclose(standard, np.where(np.isnan(by_hand), 0, by_hand), atol=1e-9)
        assert standard.shape == (fingerprints.COMPOSITION_FEATURES,)


def test_missing_properties_become_the_mean() -> None:
    values = scaler()["means"] + scaler()["stds"]
    values[7] = np.nan
    expected = np.ones(132)
    expected[7] = 0
    np.testing.assert_allclose(fingerprints.standardise(values), expected)
    assert scaler()["means"].shape == scaler()["stds"].shape == (132,)
    assert (scaler()["stds"] > 0).all()
    assert "cdvae" in scaler()["source"]


def test_composition_does_not_see_the_structure() -> None:
    crystal = random_crystal(1)
    a, b, c = composition_fingerprints([crystal, crystal * (1, 2, 1), crystal.copy().scale_lattice(500.0)], cache=False)
    np.testing.assert_allclose(a, b, atol=1e-9)
    np.testing.assert_allclose(a, c, atol=1e-9)


def test_matminer_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"autoperi\[metrics\]"):
        composition_fingerprints([random_crystal(0)], cache=False)
