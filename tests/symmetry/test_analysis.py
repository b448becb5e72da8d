"""Laws of space groups: settings, orbits, Wyckoff positions, projectors, analysis, and which compositions fit."""

from __future__ import annotations

import numpy as np
import pytest
import spglib
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.errors import RequestError, StructureError
from autoperi.symmetry import analysis as sym
from autoperi.symmetry import spacegroup as spg
from autoperi.symmetry import wyckoff as wyc

GROUPS = st.integers(1, 230)
SEEDS = st.integers(0, 2**31 - 1)


def key(rotation: np.ndarray, translation: np.ndarray) -> tuple[int, ...]:
    return (*rotation.astype(int).ravel().tolist(), *(np.rint(translation * 24).astype(int) % 24).tolist())


def random_crystal(group: spg.SpaceGroup, seed: int, n_orbits: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three general orbits of different species in the primitive cell: its group is exactly ``group``."""
    rng = np.random.default_rng(seed)
    lattice = spg.primitive_transform(group) @ sym.symmetrize_lattice(
        6 * np.eye(3) + rng.normal(size=(3, 3)), group.rotations
    )
    orbits = [sym.orbit(rng.random(3), group.primitive)[0] for _ in range(n_orbits)]
    return lattice, np.concatenate(orbits), np.repeat(np.arange(1, n_orbits + 1), [len(o) for o in orbits])


# --- settings


def test_every_setting_is_a_closed_group_and_has_a_primitive_cell() -> None:
    for hall in range(1, 531):
        group = spg.space_group_from_hall(hall)
        assert (group.rotations[0] == np.eye(3)).all()
        assert len(group) == len(group.primitive) * group.n_centring
        for g in (group, group.primitive):
            table = {key(r, t) for r, t in zip(g.rotations, g.translations, strict=True)}
            assert len(table) == len(g)
            r, t = g.rotations[-1], g.translations[-1]
            for r2, t2 in zip(g.rotations, g.translations, strict=True):
                assert key(r @ r2, r @ t2 + t) in table


def test_numbers_systems_and_orders() -> None:
    expected = {
        1: (1, "triclinic"),
        2: (2, "triclinic"),
        15: (8, "monoclinic"),
        62: (8, "orthorhombic"),
        141: (32, "tetragonal"),
    }
    expected |= {
        167: (36, "trigonal"),
        194: (24, "hexagonal"),
        225: (192, "cubic"),
        227: (192, "cubic"),
        230: (96, "cubic"),
    }
    for number, (order, system) in expected.items():
        group = spg.space_group(number)
        assert (group.number, len(group), group.crystal_system) == (number, order, system)
    assert [spg.space_group(n).centring for n in (1, 12, 38, 44, 69, 166, 225, 229)] == list("PCAIFRFI")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[
            ("Fm-3m", 225),
            ("225", 225),
            (225, 225),
            (np.int64(62), 62),
            ("P2_1/c", 14),
            ("P 21/c", 14),
            ("Pbnm", 62),
            ("I2/a", 15),
        ],
        *[("P6_3/mmc", 194), ("Cmca", 64), ("Cmce", 64), ("F d -3 m:2", 227), ("r-3m", 166), ("P 1 21/c 1", 14)],
    ],
)
def test_parse_space_group(text: int | str, number: int) -> None:
    assert spg.parse_space_group(text) == number


@pytest.mark.parametrize("bad", [0, 231, -1, "0", "-3", "231", "Fm4m", "", 2.5, True, None])
def test_unknown_groups_are_refused_by_name(bad: object) -> None:
    with pytest.raises(RequestError, match="space group") as error:
        spg.parse_space_group(bad)  # type: ignore[arg-type]
    assert repr(bad).strip("'") in str(error.value)
    assert "\n" not in str(error.value)


def test_every_default_symbol_is_read_back() -> None:
    for number in range(1, 231):
        assert spg.parse_space_group(spg.space_group(number).symbol) == number
    with pytest.raises(RequestError, match="Hall number 531"):
        spg.space_group_from_hall(531)


# --- agreement with spglib, for every group


def test_primitive_cells_and_settings_are_spglib_s() -> None:
    for number in range(1, 231):
        group = spg.space_group(number)
        lattice, x, z = random_crystal(group, number)
        info = sym.analyse(lattice, x, z, symprec=1e-4)
        assert (info.number, info.hall_number) == (number, group.hall_number)
        assert len(info.primitive_numbers) == len(z)
        assert (
            info.primitive_equivalent_atoms.tolist()
            == np.repeat(np.unique(info.primitive_equivalent_atoms), len(group.primitive)).tolist()
        )
        cell = spglib.standardize_cell((lattice, x, z), to_primitive=True, symprec=1e-4)
        np.testing.assert_allclose(cell[0], info.primitive_lattice, atol=1e-6)
        permutations = sym.atom_permutations(
            info.primitive_frac_coords, info.primitive_numbers, info.group.primitive, tolerance=1e-6
        )
        assert permutations.shape == (len(group.primitive), len(z))


# --- orbits and Wyckoff positions


def test_wyckoff_table_is_complete_and_distinct() -> None:
    """1731 positions in all; each is found again from any point of its own orbit, so no two are the same."""
    rng, total = np.random.default_rng(0), 0
    for number in range(1, 231):
        group, positions = spg.space_group(number), wyc.wyckoff_positions(number)
        total += len(positions)
        multiplicities = [p.multiplicity for p in positions]
        assert multiplicities == sorted(multiplicities)
        assert (positions[-1].multiplicity, positions[-1].dof) == (len(group), 3)
        for p in positions:
            s = rng.random(3)
            points = p.points(s)
            projector, _ = sym.site_symmetry_projector(points[0], group)
            assert round(np.trace(projector)) == p.dof
            assert len(group) % p.multiplicity == 0
            assert p.primitive_multiplicity * group.n_centring == p.multiplicity
            assert len(p.points(s, primitive=True)) == p.primitive_multiplicity
            found, free = wyc.locate(points[-1], number)
            assert found is p
            gap = np.abs(sym.torus_difference(p.points(free)[:, None], points[None])).max(-1).min(1)
            assert gap.max() < 1e-9
    assert total == 1731


@pytest.mark.parametrize("number", [2, 12, 36, 62, 88, 123, 139, 148, 166, 186, 194, 198, 216, 221, 225, 227])
def test_letters_are_spglib_s(number: int) -> None:
    """spglib may choose another origin; its letter is then that of the point in its own axes."""
    group, rng = spg.space_group(number), np.random.default_rng(number)
    for p in wyc.wyckoff_positions(number):
        lattice, x, z = random_crystal(group, number, n_orbits=2)
        extra = p.points(rng.random(3) * 0.2 + 0.05, primitive=True)
        data = spglib.get_symmetry_dataset((lattice, np.concatenate([x, extra]), [*z, *[9] * len(extra)]), symprec=1e-5)
        assert data.hall_number == group.hall_number
        y = data.transformation_matrix @ extra[0] + data.origin_shift
        assert wyc.locate(y, number)[0].letter == data.wyckoffs[-1]


@pytest.mark.parametrize(
    ("number", "labels"),
    [
        (1, "1a"),
        (62, "4a 4b 4c 8d"),
        (194, "2a 2b 2c 2d 4e 4f 6g 6h 12i 12j 12k 24l"),
        (225, "4a 4b 8c 24d 24e 32f 48g 48h 48i 96j 96k 192l"),
        (227, "8a 8b 16c 16d 32e 48f 96g 96h 192i"),
    ],
)
def test_well_known_multiplicities(number: int, labels: str) -> None:
    assert " ".join(p.label for p in wyc.wyckoff_positions(number)) == labels


def test_olivine_and_wurtzite_letters() -> None:
    assert wyc.locate([0, 0, 0], 62)[0].letter == "a"
    assert wyc.locate([0.28, 0.25, 0.97], 62)[0].letter == "c"
    assert wyc.locate([0.16, 0.05, 0.28], 62)[0].letter == "d"
    assert wyc.locate([1 / 3, 2 / 3, 0.25], 194)[0].letter == "c"
    assert wyc.locate([0.2, 0.4, 0.25], 194)[0].letter == "h"
    assert wyc.locate([0.5, 0.5, 0.5], 225)[0].letter == "b"
    assert wyc.locate([0.2500001, 0.25, 0.7499999], 225)[0].letter == "c"
    assert len(wyc.wyckoff_positions(47)) == 27
    assert wyc.wyckoff_position(47, "A").dof == 3


def test_unknown_letters_are_refused() -> None:
    for letter in ("e", "A", "", "ab", "1"):
        with pytest.raises(RequestError, match="no Wyckoff letter"):
            wyc.wyckoff_position(62, letter)


@settings(max_examples=40, deadline=None)
@given(GROUPS, SEEDS)
def test_orbits_are_closed_and_projectors_idempotent(number: int, seed: int) -> None:
    group, rng = spg.space_group(number), np.random.default_rng(seed)
    position = rng.choice(np.array(wyc.wyckoff_positions(number)))
    point = position.points(rng.random(3))[0]
    images, index = sym.orbit(point, group)
    assert len(images) == position.multiplicity
    assert len(np.unique(index)) == len(index)
    np.testing.assert_allclose(sym.torus_difference(images[0], point), 0, atol=1e-12)
    again = sym.apply_operations(images, group).reshape(-1, 3)
    assert np.abs(sym.torus_difference(again[:, None], images[None])).max(-1).min(1).max() < 1e-9
    projector, offset = sym.site_symmetry_projector(point, group)
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-12)
    np.testing.assert_allclose(projector @ point + offset, point, atol=1e-9)
    noisy = point + 1e-4 * rng.uniform(-1, 1, 3)
    wide, shift = sym.site_symmetry_projector(noisy, group, tolerance=5e-4)
    np.testing.assert_allclose(wide @ (wide @ noisy + shift) + shift, wide @ noisy + shift, atol=1e-9)
    indices, shifts = sym.stabiliser(point, group)
    assert len(indices) * len(images) == len(group)
    moved = np.einsum("sij,j->si", group.rotations[indices], point) + group.translations[indices] - shifts
    np.testing.assert_allclose(moved, np.broadcast_to(point, moved.shape), atol=1e-9)


# --- symmetric coordinates and lattices


@settings(max_examples=25, deadline=None)
@given(GROUPS, SEEDS)
def test_coordinates_and_displacements_project(number: int, seed: int) -> None:
    rng, positions = np.random.default_rng(seed), wyc.wyckoff_positions(number)
    group = spg.space_group(number).primitive
    chosen = [positions[0], positions[int(rng.integers(len(positions)))]]
    orbits = [p.points(0.1 + 0.3 * rng.random(3), primitive=True) for p in chosen]
    x, z = np.concatenate(orbits), np.repeat([1, 2], [len(o) for o in orbits])
    table = sym.atom_permutations(x, z, group, tolerance=1e-6)
    np.testing.assert_allclose(sym.torus_difference(sym.symmetrize_coords(x, group, table), x), 0, atol=1e-12)
    noisy = x + rng.uniform(-2e-4, 2e-4, x.shape)
    fixed = sym.symmetrize_coords(noisy, group, table)
    np.testing.assert_allclose(sym.torus_difference(sym.symmetrize_coords(fixed, group, table), fixed), 0, atol=1e-12)
    sym.atom_permutations(fixed, z, group, tolerance=1e-9)
    mean = sym.symmetrize_vectors(rng.normal(size=x.shape), group, table)
    np.testing.assert_allclose(sym.symmetrize_vectors(mean, group, table), mean, atol=1e-10)
    # averaged displacements keep every operation
    sym.atom_permutations(x + 1e-3 * mean, z, group, tolerance=1e-9)


def test_broken_symmetry_is_named() -> None:
    group = spg.space_group(225).primitive
    with pytest.raises(StructureError, match="Fm-3m"):
        sym.project_coordinates([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]], [11, 17], group)
    x = sym.project_coordinates([[0.001, 0, 0], [0.5, 0.499, 0.5]], [11, 17], group)
    np.testing.assert_allclose(sym.torus_difference(x, [[0.00025, 0, 0], [0.5, 0.5, 0.5]]), 0, atol=2e-3)
    sym.atom_permutations(x - x[0], [11, 17], group, tolerance=2e-3)


def test_lattices_of_every_group() -> None:
    free = {
        "triclinic": 6,
        "monoclinic": 4,
        "orthorhombic": 3,
        "tetragonal": 2,
        "trigonal": 2,
        "hexagonal": 2,
        "cubic": 1,
    }
    rng = np.random.default_rng(0)
    for number in range(1, 231):
        for group in {id(g): g for g in (spg.space_group(number), spg.space_group(number).primitive)}.values():
            start = 5 * np.eye(3) + rng.normal(size=(3, 3))
            lattice = sym.symmetrize_lattice(start, group.rotations)
            metric = lattice @ lattice.T
            assert np.abs(group.rotations.transpose(0, 2, 1) @ metric @ group.rotations - metric).max() < 1e-9
            assert np.isclose(np.linalg.det(lattice), np.linalg.det(start))
            np.testing.assert_allclose(sym.symmetrize_lattice(lattice, group.rotations), lattice, atol=1e-9)
            strains = sym.strain_projector(lattice, group.rotations)
            np.testing.assert_allclose(strains @ strains, strains, atol=1e-9)
            assert round(np.trace(strains)) == free[group.crystal_system]
            np.testing.assert_allclose(strains, strains.T, atol=1e-9)


def test_strain_projector_keeps_symmetry() -> None:
    import torch

    from autoperi.geometry.lattice import from_symmetric_coords, symmetric_exp

    rng = np.random.default_rng(1)
    for number in (5, 62, 141, 166, 194, 227):
        group = spg.space_group(number).primitive
        lattice = sym.symmetrize_lattice(5 * np.eye(3) + rng.normal(size=(3, 3)), group.rotations)
        k = sym.strain_projector(lattice, group.rotations) @ rng.normal(size=6) * 0.2
        strained = lattice @ symmetric_exp(from_symmetric_coords(torch.from_numpy(k)[None]))[0].numpy()
        np.testing.assert_allclose(sym.symmetrize_lattice(strained, group.rotations), strained, atol=1e-9)


# --- analysis


def rock_salt() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from ase.build import bulk

    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    return atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers


def test_analyse_rock_salt() -> None:
    lattice, x, z = rock_salt()
    info = sym.analyse(lattice, x, z)
    assert (info.number, info.symbol) == (225, "Fm-3m")
    assert set(info.wyckoffs) == {"a", "b"}
    assert len(set(info.equivalent_atoms.tolist())) == 2
    assert sorted(info.primitive_numbers.tolist()) == [11, 17]
    assert len(set(info.primitive_wyckoffs)) == 2
    assert np.isclose(np.linalg.det(info.primitive_lattice), np.linalg.det(lattice) / 4)
    assert len(info.rotations) == 192
    assert len(info.input_group) == 192
    np.testing.assert_array_equal(np.sort(np.unique(sym.atom_permutations(x, z, info.input_group))), np.arange(8))


def test_analyse_says_what_failed_or_falls_back() -> None:
    lattice = 4 * np.eye(3)
    for x in ([[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [np.nan, 0, 0]]):
        with pytest.raises(StructureError, match="2 atoms"):
            sym.analyse(lattice, x, [11, 11])
        info = sym.analyse(lattice, x, [11, 11], on_failure="p1")
        assert (info.number, info.wyckoffs, len(info.rotations)) == (1, ("a", "a"), 1)


@settings(max_examples=15, deadline=None)
@given(GROUPS, SEEDS)
def test_analysis_primitive_letters_match_the_input(number: int, seed: int) -> None:
    group, rng, positions = spg.space_group(number), np.random.default_rng(seed), wyc.wyckoff_positions(number)
    lattice, x, z = random_crystal(group, seed, n_orbits=2)
    extra = positions[int(rng.integers(len(positions)))].points(0.05 + 0.2 * rng.random(3), primitive=True)
    info = sym.analyse(lattice, np.concatenate([x, extra]), [*z, *[9] * len(extra)], symprec=1e-5)
    assert info.number == number
    # The cell given is primitive already, so the letters are the same up to the order of atoms.
    assert sorted(info.primitive_wyckoffs) == sorted(info.wyckoffs)
    conventional = info.primitive_frac_coords @ spg.primitive_transform(info.group)
    for point, letter in zip(conventional, info.primitive_wyckoffs, strict=True):
        assert wyc.locate(point, number)[0].letter == letter


# --- which compositions fit


@pytest.mark.parametrize(
    ("counts", "number", "fits"),
    [
        ([1, 1], 225, True),
        ([1, 1, 1], 225, False),
        ([1, 1, 2], 225, True),
        ([1, 1, 2, 2], 225, False),  # one 8c only, two atoms a primitive cell
        ([1], 62, False),
        ([4, 4, 4, 16], 62, True),
        ([1, 1, 1, 4], 62, False),
        ([1] * 8, 47, True),
        ([1] * 9, 47, False),
        ([7, 3, 1], 1, True),
        ([2, 2], 227, True),
        ([1, 1], 227, False),
    ],
)
def test_can_fit_known_cases(counts: list[int], number: int, fits: bool) -> None:
    assert wyc.can_fit(counts, number) is fits


def brute_force(counts: list[int], number: int) -> bool:
    """Give orbits to the first element that lacks atoms, in every way."""
    positions = wyc.wyckoff_positions(number)

    def fill(left: tuple[int, ...], used: frozenset[str], start: int) -> bool:
        if not left:
            return True
        if left[0] == 0:
            return fill(left[1:], used, 0)
        return any(
            fill((left[0] - p.primitive_multiplicity, *left[1:]), used | {p.letter} if p.dof == 0 else used, i)
            for i, p in enumerate(positions)
            if i >= start and p.primitive_multiplicity <= left[0] and p.letter not in used
        )

    return fill(tuple(counts), frozenset(), 0)


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.lists(st.integers(1, 8), min_size=1, max_size=3))
def test_can_fit_agrees_with_brute_force(number: int, counts: list[int]) -> None:
    assert wyc.can_fit(counts, number) == brute_force(counts, number)


def test_bad_counts() -> None:
    for bad in ([], [0], [-1, 2], [1.5]):
        with pytest.raises(RequestError, match="positive integers"):
            wyc.can_fit(bad, 225)
    with pytest.raises(RequestError, match="231"):
        wyc.can_fit([1], 231)
