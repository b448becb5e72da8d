"""Uniqueness, novelty and rediscovery: by hand, against pymatgen's grouping, and the laws that they obey."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from autoperi.data.io import CrystalTable
from autoperi.errors import RequestError
from autoperi.metrics.novelty import (
    novelty,
    prototype_keys,
    prototype_novelty,
    prototype_uniqueness,
    rediscovery,
    structure_type_keys,
    structure_type_novelty,
    uniqueness,
)
from autoperi.testing import tiny_crystals


def rock_salt(a: float = 5.64) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(a: float = 3.5) -> Structure:
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])


def zinc_blende(a: float = 6.0) -> Structure:
    return Structure.from_spacegroup(216, Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.25] * 3])


def described_otherwise(structure: Structure) -> Structure:
    """The same crystal: a supercell, turned, moved, its sites in another order."""
    cell = structure * (1, 2, 1)
    order = np.random.default_rng(0).permutation(len(cell))
    matrix = np.array(cell.lattice.matrix)[:, [2, 0, 1]]
    return Structure(matrix, [cell.species[i] for i in order], (cell.frac_coords + np.array([0.1, 0.2, 0.3]))[order])


def unreadable() -> Structure:
    return Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])


def test_uniqueness_by_hand() -> None:
    crystals = [
        rock_salt(),
        caesium_chloride(),
        described_otherwise(rock_salt()),
        unreadable(),
        zinc_blende(),
        caesium_chloride(3.6),
    ]
    result = uniqueness(crystals, processes=1)
    assert result["flags"] == [True, True, False, None, True, False]
    assert result["same_as"] == [0, 1, 0, None, 4, 1]
    assert result["unique"] == {"value": 0.6, "count": 3, "of": 5, "missing": 1, "reason": None}
    assert result["matcher"] == {"stol": 0.3, "ltol": 0.2, "angle_tol": 5.0}


def test_uniqueness_is_pymatgens_grouping() -> None:
    rng = np.random.default_rng(1)
    crystals = []
    for _ in range(6):
        for base in (rock_salt(), caesium_chloride(), tiny_crystals()[-1]):
            moved = base.cart_coords + 0.35 * rng.normal(size=(len(base), 3))
            crystals.append(Structure(base.lattice, base.species, moved, coords_are_cartesian=True))
    for name, options in (("default", {}), ("adit", {"stol": 0.5, "ltol": 0.3, "angle_tol": 10})):
        groups = StructureMatcher(**options).group_structures(crystals)
        result = uniqueness(crystals, tolerances=name, processes=1)
        assert result["unique"]["count"] == len(groups)
        position = {id(c): i for i, c in enumerate(crystals)}
        wanted = {position[id(c)]: position[id(group[0])] for group in groups for c in group}
        assert result["same_as"] == [wanted[i] for i in range(len(crystals))]
        assert uniqueness(crystals, tolerances=name, processes=2) == result
    assert 1 < result["unique"]["count"] < len(crystals)


def test_novelty_by_hand() -> None:
    known = [tiny_crystals()[0], rock_salt(), caesium_chloride()]
    crystals = [
        described_otherwise(caesium_chloride()),
        zinc_blende(),
        unreadable(),
        Structure(Lattice.cubic(4), ["Fe"], [[0, 0, 0]]),
    ]
    result = novelty(crystals, known, processes=1)
    assert result["flags"] == [False, True, None, True]
    assert result["same_as"] == [2, None, None, None]
    assert result["novel"] == {"value": round(2 / 3, 6), "count": 2, "of": 3, "missing": 1, "reason": None}
    assert result["new_composition"]["count"] == 1
    table = CrystalTable.from_structures(known)
    assert novelty(crystals, table, processes=1) == result
    direct = [any(StructureMatcher().fit(k, c) for k in known) for c in (crystals[0], crystals[1], crystals[3])]
    assert [f for f in result["flags"] if f is not None] == [not d for d in direct]


def test_novelty_laws() -> None:
    crystals = tiny_crystals()
    assert novelty(crystals, crystals, processes=1)["novel"]["value"] == 0
    assert novelty(crystals, [], processes=1)["novel"]["value"] == 1
    assert novelty([described_otherwise(c) for c in crystals[:6]], crystals, processes=1)["novel"]["value"] == 0


def test_nothing_gives_none_with_its_reason() -> None:
    for share in (uniqueness([])["unique"], novelty([], [rock_salt()])["novel"], prototype_uniqueness([])["unique"]):
        assert share["value"] is None
        assert share["reason"] == "no crystals"
    assert uniqueness([unreadable()], processes=1)["unique"]["reason"] == "no crystal can be compared"
    empty = rediscovery([], [rock_salt()], cache=False, processes=1)
    assert empty["curve"] == []
    assert empty["match_rate"]["value"] is None
    assert empty["rms"]["reason"] == "no crystals"


def test_tolerances() -> None:
    stretched = Structure(Lattice.tetragonal(3.5, 4.85), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    pair = [caesium_chloride(), stretched]
    assert uniqueness(pair, processes=1)["flags"] == [True, True]
    assert uniqueness(pair, tolerances="adit", processes=1)["flags"] == [True, False]
    assert uniqueness(pair, ltol=0.3, processes=1)["matcher"] == {"stol": 0.3, "ltol": 0.3, "angle_tol": 5.0}
    with pytest.raises(RequestError, match="choose one of csp, default, adit"):
        uniqueness(pair, tolerances="strict")


def test_prototype_keys() -> None:
    keys = prototype_keys(
        [rock_salt(), rock_salt().get_primitive_structure(), described_otherwise(rock_salt()), zinc_blende()],
        cache=False,
    )
    assert keys == ["NaCl-225-8"] * 3 + ["NaCl-216-8"]
    assert prototype_keys([unreadable()], cache=False) == [None]
    result = prototype_uniqueness([*keys, None])
    assert result["flags"] == [True, False, False, True, None]
    assert result["unique"]["value"] == 0.5
    novel = prototype_novelty(
        [zinc_blende(), rock_salt(4.0)], [rock_salt(), tiny_crystals()[0]], cache=False, processes=1
    )
    assert novel["flags"] == [True, False]  # a key knows no lengths
    with pytest.raises(RequestError, match="symprec"):
        prototype_keys([], symprec=0)


def test_rediscovery_by_hand() -> None:
    references = [rock_salt(), caesium_chloride(), zinc_blende(), rock_salt(5.7)]
    tetragonal = Structure(Lattice.tetragonal(3.5, 4.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    crystals = [tetragonal, described_otherwise(zinc_blende()), rock_salt(5.0), zinc_blende(), unreadable()]
    result = rediscovery(crystals, references, at=[1, 2, 3, 5], cache=False, processes=1)
    assert result["prototypes"] == 3  # the two rock salts are one
    assert [p["rediscovered"]["count"] for p in result["curve"]] == [0, 1, 2, 2]
    assert [p["matched"]["count"] for p in result["curve"]] == [0, 1, 2, 2]
    assert result["curve"][-1]["rediscovered"]["value"] == round(2 / 3, 6)
    assert result["match_rate"] == {"value": 1.0, "count": 2, "of": 2, "missing": 0, "reason": None}
    assert result["rms"]["value"] == pytest.approx(0, abs=1e-6)
    assert {(i, j) for i, j, _ in result["pairs"]} <= {(1, 2), (3, 2), (2, 0), (2, 3)}
    assert result["without_key"] == {"generated": 1, "references": 0}
    everything = rediscovery(references, CrystalTable.from_structures(references), cache=False, processes=1)
    assert everything["curve"][-1]["matched"]["value"] == 1
    with pytest.raises(RequestError, match="numbers from 1 to 5"):
        rediscovery(crystals, references, at=[6], cache=False)


def test_least_rms_is_pymatgens() -> None:
    base = tiny_crystals()[-1]  # GaN, with a free coordinate
    made = []
    for z in (0.03, 0.012, 0.02):
        moved = base.copy()
        moved.translate_sites([i for i, s in enumerate(base) if s.specie.symbol == "N"], [0, 0, z])
        made.append(moved)
    result = rediscovery(made, [base], at=[3], cache=False, processes=1)
    wanted = [StructureMatcher().get_rms_dist(m, base)[0] for m in made]
    assert result["pairs"] == [(int(np.argmin(wanted)), 0, pytest.approx(min(wanted)))]
    assert result["rms"]["value"] == pytest.approx(min(wanted), abs=1e-6)


def carbon(n: int, seed: int) -> list[Structure]:
    """Crystals of one composition, of two sizes of cell, many of them alike."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        sites = int(rng.integers(5, 7))
        x = np.random.default_rng(int(rng.integers(0, 12))).random((sites, 3)) + 0.02 * rng.normal(size=(sites, 3))
        out.append(Structure(Lattice.orthorhombic(3.0, 3.4, 4.1), ["C"] * sites, x))
    return out


def test_one_composition_in_blocks_is_one_by_one() -> None:
    crystals = carbon(26, 0)  # some of the first block, some of the next
    result = uniqueness(crystals, processes=1)
    judge, firsts, wanted = StructureMatcher(), [], []
    for i, crystal in enumerate(crystals):
        wanted.append(next((j for j in firsts if judge.fit(crystals[j], crystal)), i))
        firsts += [i] if wanted[-1] == i else []
    assert result["same_as"] == wanted
    assert 10 < len(firsts) < 24
    assert uniqueness(crystals, processes=2) == result
    known = carbon(8, 1)
    found = novelty(crystals, known, processes=1)
    assert found["same_as"] == [next((j for j, k in enumerate(known) if judge.fit(k, c)), None) for c in crystals]
    assert 0 < found["novel"]["count"] < 26
    assert novelty(crystals, known, processes=2) == found


def test_what_cannot_be_compared_has_no_verdict() -> None:
    needle = Structure(Lattice.orthorhombic(0.7, 0.7, 5000), ["C"], [[0, 0, 0]])
    crystals = [needle, *carbon(3, 0)]
    found = uniqueness(crystals, processes=1)
    assert found["flags"][0] is None
    assert None not in found["flags"][1:]  # the needle is no member of any group
    assert uniqueness([needle], processes=1)["flags"] == [True]
    against = novelty(crystals, [needle, crystals[1]], processes=1)
    assert against["flags"][:2] == [None, False]
    assert all(flag in (None, False) for flag in against["flags"][2:])  # it might be the needle


def test_structure_types_have_no_elements() -> None:
    magnesia = Structure.from_spacegroup(225, Lattice.cubic(4.2), ["O", "Mg"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    same = [rock_salt(), described_otherwise(rock_salt()), magnesia]
    keys = structure_type_keys([*same, zinc_blende(), unreadable()], cache=False, processes=1)
    assert keys == ["225: a b", "225: a b", "225: a b", "216: a c", None]
    found = structure_type_novelty(
        [magnesia, zinc_blende(), caesium_chloride(), unreadable()], [rock_salt()], cache=False
    )
    assert found["flags"] == [False, True, True, None]
    assert found["novel"] == {
        "value": pytest.approx(2 / 3, abs=1e-6),
        "count": 2,
        "of": 3,
        "missing": 1,
        "reason": None,
    }
    assert structure_type_novelty(same, tiny_crystals(), cache=False)["known"] == len(tiny_crystals())
