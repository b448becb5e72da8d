"""Structural validity as CDVAE counts it, and the two validities together."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from autoperi.errors import StructureError
from autoperi.metrics.validity import structural_validity, validity


def pair(distance: float, a: float = 4.0) -> Structure:
    """Two atoms ``distance`` Å apart across the boundary of the cell."""
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0.5 * distance / a, 0, 0], [1 - 0.5 * distance / a, 0, 0]])


def test_distance() -> None:
    assert structural_validity(pair(0.501)) == (True, None)
    near = structural_validity(pair(0.499))
    assert not near.valid
    assert "0.499 Å between sites 0 and 1" in str(near.reason)
    assert not structural_validity(pair(0.0)).valid


def test_own_images_do_not_count() -> None:
    small = Structure(Lattice.cubic(0.48), ["Fe"], [[0, 0, 0]])
    assert structural_validity(small) == (True, None)
    # the same crystal described by two cells has different sites at 0.48 Å: the definition is one of cells, not of crystals
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
    other = Structure(basis @ lattice, ["Fe"] * n, ((x + rng.random(3)) @ np.linalg.inv(basis))[order] + rng.integers(-2, 3, (n, 3)))
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
        "charged": (Structure(Lattice.cubic(5), ["Na", "Cl", "Cl"], np.eye(3) / 2), (False, True, False), "composition: no neutral"),
        "unknown": (
            Structure(Lattice.cubic(5), ["Pt", "O"], [[0, 0, 0], [0.5] * 3]),
            (None, True, None),
            "composition: no oxidation states",
        ),
        "near": (pair(0.3), (False, False, True), "structure: distance 0.3 Å"),
        "near and unknown": (Structure(Lattice.cubic(0.3), ["Pt", "O"], [[0] * 3, [0.5] * 3]), (False, False, None), "structure: volume"),
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
