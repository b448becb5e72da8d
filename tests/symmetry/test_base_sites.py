"""Base sites: Algorithm 1, averaged coordinates, distances, cells and merging (Zhao et al. 2023)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from autoperi.symmetry.analysis import analyse, orbit
from autoperi.symmetry.base_sites import (
    affine_matrices,
    affine_matrix,
    atomic_radii,
    cells,
    distances,
    image_distances,
    images,
    in_slots,
    merged,
    radius_sums,
)
from autoperi.symmetry.spacegroup import crystal_system, space_group
from autoperi.symmetry.wyckoff import wyckoff_positions

GROUPS = st.integers(1, 230)
SEEDS = st.integers(0, 2**31)
GENERIC = np.array([0.137, 0.311, 0.429])
RAW = torch.tensor([[5.1, 6.3, 7.7, 81.0, 97.0, 103.0]], dtype=torch.float64)


def sites_of(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operations(number: int) -> torch.Tensor:
    return affine_matrix(number)[None]


def test_a_group_is_padded_with_zeros() -> None:
    each, which = affine_matrices(torch.tensor([225, 1, 225]))
    assert each.shape == (2, 192, 4, 4)
    assert which.tolist() == [1, 0, 1]
    assert each[0, 0].tolist() == torch.eye(4).tolist()
    assert not each[0, 1:].any()
    assert bool((each[1].diagonal(dim1=1, dim2=2)[:, 3] == 1).all())


@given(GROUPS, SEEDS)
@settings(max_examples=60, deadline=None)
def test_images_are_algorithm_1_before_uniqueness(number: int, seed: int) -> None:
    point = sites_of(seed, 1, 1, 1)
    every = images(point, operations(number))[0, : len(space_group(number)), 0, 0].numpy()
    assert (every >= 0).all()
    assert (every < 1 + 1e-12).all()
    unique, index = orbit(point.numpy().reshape(3), space_group(number))
    np.testing.assert_allclose((every[index] - unique + 0.5) % 1, 0.5, atol=1e-9)
    assert not images(point, operations(number))[0, len(space_group(number)) :].any()


@given(GROUPS, SEEDS, st.data())
@settings(max_examples=60, deadline=None)
def test_what_does_not_depend_on_which_atoms_are_base_sites(number: int, seed: int, data: st.DataObject) -> None:
    """Nearest distances, and averages over the full coordinates, are those of the crystal."""
    first = sites_of(seed, 1, 1, 2)
    every = images(first, operations(number))[0, : len(space_group(number))]
    picks = [data.draw(st.integers(0, len(every) - 1)) for _ in range(2)]
    other = torch.stack([every[picks[0], 0, 0], every[picks[1], 0, 1]])[None, None]
    sets = torch.cat([first, other, first], 1)
    lattice = cells(RAW, torch.tensor([number]))
    inter, intra = image_distances(sets, operations(number), lattice)
    assert torch.allclose(inter[:, 0], inter[:, 1], atol=1e-7)
    assert torch.allclose(intra, torch.full_like(intra, 1e-4), atol=1e-5)
    full = images(sets, operations(number)).sum(1)
    # a coordinate on the border may be wrapped to either side
    assert torch.allclose((full[:, 0] - full[:, 1] + 0.5) % 1, torch.full_like(full[:, 0], 0.5), atol=1e-6)


@pytest.mark.parametrize("number", [2, 14, 62, 139, 166, 194, 225, 227])
def test_image_distances_are_those_of_pymatgen(number: int) -> None:
    sets = sites_of(number, 1, 1, 3)
    lattice = cells(RAW, torch.tensor([number]))
    group = space_group(number)
    found = image_distances(sets, operations(number), lattice)[0][0, 0]
    atoms = [orbit(point, group)[0] for point in sets[0, 0].numpy()]
    lattice_of = Lattice(lattice[0].numpy())
    for value, (i, j) in zip(found.tolist(), ((0, 1), (0, 2), (1, 2)), strict=True):
        every = lattice_of.get_all_distances(atoms[i][:1], atoms[j])
        assert value == pytest.approx(every.min(), abs=1e-6)


def test_the_nearest_image_in_a_hexagonal_cell() -> None:
    """Along the long diagonal of the cell the nearest image is across one border, not across none."""
    sets = torch.tensor([[[[0.0, 0.0, 0.0], [0.45, -0.45, 0.0]]]], dtype=torch.float64)
    lattice = cells(torch.tensor([[9.0, 9.0, 9.0, 90, 90, 90]], dtype=torch.float64), torch.tensor([143]))
    inter, _ = image_distances(sets, operations(143)[:, :1], lattice)
    assert inter.item() == pytest.approx(9 * (0.45**2 + 0.55**2 - 0.45 * 0.55) ** 0.5, abs=1e-6)


def test_distances_in_the_cell() -> None:
    sets = sites_of(0, 2, 3, 4)
    lattice = cells(RAW.repeat(2, 1), torch.tensor([1, 225]))
    inter, intra = distances(sets, lattice)
    assert inter.shape == (2, 3, 6)
    assert intra.shape == (2, 4, 3)
    place = torch.einsum("bski,bij->bskj", sets, lattice)
    assert inter[1, 2, 4].item() == pytest.approx((place[1, 2, 1] - place[1, 2, 3]).norm().item(), abs=1e-6)
    assert intra[0, 3, 1].item() == pytest.approx((place[0, 0, 3] - place[0, 2, 3]).norm().item(), abs=1e-6)
    again = distances(sets[:, [1, 1, 1]], lattice)[1]
    assert again.max() < 1e-3


@given(GROUPS)
@settings(max_examples=60, deadline=None)
def test_cells_are_equation_9_and_obey_their_group(number: int) -> None:
    lattice = cells(RAW, torch.tensor([number]))[0].numpy()
    system = crystal_system(number)
    a, b, c, *angles = RAW[0].tolist()
    a, b, c = {"cubic": ((a + b + c) / 3,) * 3, "orthorhombic": (a, b, c), "monoclinic": (a, b, c)}.get(
        system, (a, b, c) if system == "triclinic" else ((a + b) / 2, (a + b) / 2, c)
    )
    if system != "triclinic":
        angles = [90, angles[1] if system == "monoclinic" else 90, 120 if system in ("trigonal", "hexagonal") else 90]
    assert Lattice(lattice).parameters == pytest.approx((a, b, c, *angles))
    metric = lattice @ lattice.T
    for rotation in space_group(number).rotations:
        np.testing.assert_allclose(rotation.T @ metric @ rotation, metric, atol=1e-9)


@given(GROUPS, SEEDS)
@settings(max_examples=60, deadline=None)
def test_sites_near_wyckoff_positions_are_merged_onto_them(number: int, seed: int) -> None:
    """A site 0.1 Å off a position of the group gives the atoms of that position, exactly."""
    generator = np.random.default_rng(seed)
    positions = wyckoff_positions(number)
    position = positions[generator.integers(len(positions))]
    exact = position.points(GENERIC)
    far = RAW * torch.tensor([10, 10, 10, 1, 1, 1])  # from every other position
    lattice = cells(far, torch.tensor([number]))
    off = generator.normal(size=3)
    off *= 0.1 / np.linalg.norm(off)
    point = torch.as_tensor(exact[0] + off @ np.linalg.inv(lattice[0].numpy()))[None, None]
    made = merged(torch.tensor([[11]]), point, lattice, torch.tensor([number]), merge=0.2)
    assert int(made.n_atoms) == position.primitive_multiplicity
    # with a second, general orbit the group is found in the very crystal
    second = torch.as_tensor(GENERIC + 0.031)[None, None]
    both = merged(torch.tensor([[11, 9]]), torch.cat([point, second], 1), lattice, torch.tensor([number]), merge=0.2)
    info = analyse(both.lattice[0].numpy(), both.frac_coords.numpy(), both.atomic_numbers.numpy(), symprec=1e-4)
    assert info.number == number


def test_merging_across_the_border_of_the_cell() -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    near = torch.tensor([[[0.99, 0.015, 0.0], [0.49, 0.51, 0.5]]], dtype=torch.float64)
    cubic = cells(torch.tensor([[5.64, 5.64, 5.64, 90.0, 90.0, 90.0]], dtype=torch.float64), torch.tensor([225]))
    made = merged(torch.tensor([[11, 17]]), near, cubic, torch.tensor([225]), merge=0.5)
    assert made.n_atoms.tolist() == [2]
    found = Structure(made.lattice[0].numpy(), made.atomic_numbers.tolist(), made.frac_coords.numpy())
    assert found.matches(salt)
    assert found.distance_matrix[0, 1] == pytest.approx(2.82, abs=1e-9)
    # what is farther apart than any two atoms, and not merged, is an atom each
    apart = torch.tensor([[[0.9, 0.15, 0.0], [0.4, 0.6, 0.5]]], dtype=torch.float64)
    raw = merged(torch.tensor([[11, 17]]), apart, 4 * cubic, torch.tensor([225]), merge=0.0)
    every = [orbit(point, space_group(225))[0] for point in apart[0].numpy()]
    assert raw.n_atoms.tolist() == [sum(map(len, every)) // 4]


@given(GROUPS, SEEDS, st.sampled_from([0.3, 0.6, 1.2, 2.0]))
@settings(max_examples=100, deadline=None)
def test_merged_crystals_keep_their_group_in_small_cells(number: int, seed: int, merge: float) -> None:
    """Where clusters are as large as the cell, or have no end, operations still take atoms to atoms."""
    elements, site = torch.tensor([[55, 17]]), sites_of(seed, 1, 2)
    lattice = cells(RAW, torch.tensor([number]))
    made = merged(elements, site, lattice, torch.tensor([number]), merge=merge)
    group, cell = space_group(number).primitive, made.lattice[0].numpy()
    frac, numbers = made.frac_coords.numpy(), made.atomic_numbers.numpy()
    for rotation, translation in zip(group.rotations, group.translations, strict=True):
        apart = (frac @ np.asarray(rotation).T + translation)[:, None] - frac
        far = np.linalg.norm((apart - np.round(apart)) @ cell, axis=-1)
        far[numbers[:, None] != numbers] = np.inf
        assert far.min(1).max() < 1e-3
    # any atom of the crystal as base site gives the same crystal
    every = images(site[:, None], operations(number))[0, : len(space_group(number)), 0]
    again = merged(elements, every[-1:], lattice, torch.tensor([number]), merge=merge)
    assert torch.equal(again.atomic_numbers, made.atomic_numbers)
    apart = again.frac_coords.numpy()[:, None] - frac
    far = np.linalg.norm((apart - np.round(apart)) @ cell, axis=-1)
    far[numbers[:, None] != numbers] = np.inf
    assert far.min(1).max() < 1e-3


def test_empty_slots_and_batches() -> None:
    """A crystal is the same alone and beside others, with empty slots and without."""
    elements = torch.tensor([[38, 22, 8], [11, 17, 0]])
    sites = sites_of(5, 2, 3)
    groups = torch.tensor([221, 62])
    lattice = cells(RAW.repeat(2, 1), groups)
    both = merged(elements, sites, lattice, groups, merge=0.4)
    for k, (_, frac, numbers) in enumerate(both.unbatch()):
        kept = int((elements[k] > 0).sum())
        one = merged(
            elements[k : k + 1, :kept], sites[k : k + 1, :kept], lattice[k : k + 1], groups[k : k + 1], merge=0.4
        )
        assert torch.equal(one.atomic_numbers, numbers)
        assert torch.allclose(one.frac_coords, frac, atol=1e-12)


def test_radius_sums() -> None:
    inter, intra = radius_sums(torch.tensor([[38, 22, 8], [11, 17, 0]]))
    radii = atomic_radii()
    assert inter[0].tolist() == [radii[a] + radii[b] for a, b in ((38, 22), (38, 8), (22, 8))]
    assert inter[1].tolist() == [radii[11] + radii[17], 0, 0]
    assert intra[1].tolist() == [2 * radii[11], 2 * radii[17], 0]
    assert radii[1:].min() > 0


def test_slots_are_ordered_as_formulas_are_written() -> None:
    assert in_slots([8, 22, 38]) == [38, 22, 8]
    assert in_slots({17, 11}) == [11, 17]
    assert in_slots([2, 9]) == [9, 2]  # helium has no electronegativity
