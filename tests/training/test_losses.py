"""Physical losses: closed forms, invariances, gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autoperi.data.convert import to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.lattice import symmetric_exp
from autoperi.laws import random_orthogonal
from autoperi.symmetry.freedom import Freedom, Orbit, equal_edges, freedom_of
from autoperi.symmetry.operations import operations_of
from autoperi.symmetry.spacegroup import space_group
from autoperi.symmetry.wyckoff import wyckoff_position
from autoperi.testing import tiny_crystals
from autoperi.training.losses import (
    excess_energy,
    nearest_distances,
    plausible,
    reconstruction_error,
    symmetry_deviation,
)

F64 = torch.float64
CRYSTALS = ((225, "ab"), (62, "cca"), (194, "cf"), (2, "aii"), (186, "bb"), (148, "abf"), (1, "aa"))


def freedom(
    chosen: tuple[tuple[int, str], ...] = CRYSTALS, seed: int = 0
) -> tuple[Freedom, torch.Tensor, torch.Tensor]:
    """Crystals with random free parameters and strains, and their groups."""
    rng = np.random.default_rng(seed)
    orbits = [
        [Orbit(8 + k, wyckoff_position(g, w), rng.random(3)) for k, w in enumerate(letters)] for g, letters in chosen
    ]
    sizes = [sum(o.position.primitive_multiplicity for o in own) for own in orbits]
    free, s = freedom_of(
        [g for g, _ in chosen],
        orbits,
        [equal_edges(g) * (18.0 * n) ** (1 / 3) for (g, _), n in zip(chosen, sizes, strict=True)],
    )
    y = free.coordinates(free.reference, s)
    y[:, :6] += 0.1 * torch.as_tensor(rng.standard_normal((len(y), 6))) * free.space.present[:, :6]
    return free, y, torch.tensor([g for g, _ in chosen])


def rattled(crystals: CrystalBatch, size: float, seed: int = 0) -> CrystalBatch:
    g = torch.Generator().manual_seed(seed)
    strain = 0.1 * size * torch.randn(len(crystals), 3, 3, generator=g, dtype=F64)
    moves = size * torch.randn(crystals.frac_coords.shape, generator=g, dtype=F64)
    moves = torch.einsum("ni,nij->nj", moves, torch.linalg.inv(crystals.lattice)[crystals.batch])
    return crystals.replace(lattice=crystals.lattice @ symmetric_exp(strain), frac_coords=crystals.frac_coords + moves)


def turned(crystals: CrystalBatch, seed: int = 1) -> CrystalBatch:
    """Another orientation and another origin."""
    g = torch.Generator().manual_seed(seed)
    q = torch.stack([random_orthogonal(g) for _ in range(len(crystals))])
    shift = torch.rand(len(crystals), 3, generator=g, dtype=F64)[crystals.batch]
    return crystals.replace(lattice=crystals.lattice @ q, frac_coords=crystals.frac_coords + shift)


def gradient_checked(function, crystals: CrystalBatch) -> None:
    """Whether the gradient in lattice and coordinates is that of finite differences."""
    lattice, x = crystals.lattice.clone().requires_grad_(), crystals.frac_coords.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda cell, at: function(CrystalBatch(cell, at, crystals.atomic_numbers, crystals.n_atoms)),
        (lattice, x),
        eps=1e-6,
        atol=1e-6,
    )


def test_an_energy_counts_above_the_true_one_and_not_beyond_its_ceiling():
    energy = torch.tensor([-3.0, -2.0, -1.9, 0.0, 1e6], dtype=F64, requires_grad=True)
    found = excess_energy(energy, torch.full((5,), -2.0, dtype=F64), ceiling=0.5)
    assert found.detach().tolist() == pytest.approx([0, 0, 0.5 * (1 - math.exp(-0.2)), 0.5 * (1 - math.exp(-4)), 0.5])
    (slope,) = torch.autograd.grad(found.sum(), energy)
    assert slope.tolist() == pytest.approx([0, 0, math.exp(-0.2), math.exp(-4), 0])
    assert torch.autograd.gradcheck(
        lambda e: excess_energy(e, torch.full((3,), -2.0, dtype=F64)), energy.detach()[2:].requires_grad_()
    )


def test_symmetric_crystals_have_no_deviation_and_others_do():
    free, y, groups = freedom()
    crystals, operations = free.crystals(y), operations_of(free, groups)
    assert len(operations) == sum(len(space_group(g).primitive) for g, _ in CRYSTALS)
    assert float(symmetry_deviation(crystals, operations).max()) < 1e-20
    broken = symmetry_deviation(rattled(crystals, 0.05), operations)
    assert bool((broken[:-1] > 1e-3).all())
    assert float(broken[-1]) < 1e-20  # P1 has nothing to break
    # quadratic in what is broken
    little, more = (symmetry_deviation(rattled(crystals, size), operations) for size in (1e-5, 1e-2))
    torch.testing.assert_close(1e6 * little, more, rtol=0.1, atol=1e-9)


def test_the_deviation_of_an_atom_off_an_inversion_centre():
    """Two atoms at ±x in P-1; one is moved by d Å: inversion finds each of them d from the other's image, d/2 of it a
    shift of the origin.
    """
    free, y, groups = freedom(((2, "i"),))
    crystals = free.crystals(y)
    d = torch.tensor([0.03, -0.04, 0.12], dtype=F64)
    moves = torch.stack([d, 0 * d]) @ torch.linalg.inv(crystals.lattice[0])
    found = symmetry_deviation(crystals.replace(frac_coords=crystals.frac_coords + moves), operations_of(free, groups))
    # both offsets are d, in one direction: another origin makes the crystal symmetric again
    assert float(found) < 1e-20
    free, y, groups = freedom(((2, "ai"),))
    crystals = free.crystals(y)
    moves = torch.stack([0 * d, d, 0 * d]) @ torch.linalg.inv(crystals.lattice[0])
    found = symmetry_deviation(crystals.replace(frac_coords=crystals.frac_coords + moves), operations_of(free, groups))
    # offsets 0, d, d under inversion, without their mean: (4 + 1 + 1)/9 d² over three atoms; the identity adds nothing
    assert float(found) == pytest.approx(0.5 * 6 / 9 / 3 * 0.13**2)


def test_the_deviation_of_a_sheared_cube():
    free, y, groups = freedom(((221, "a"),))
    y[:, :6] = 0
    cube = free.crystals(y)
    stretched = cube.replace(lattice=cube.lattice @ torch.diag(torch.tensor([1.02, 1, 1], dtype=F64)))
    found = symmetry_deviation(stretched, operations_of(free, groups))
    # a third of the operations keep x; the others take x and one more axis to each other
    away = (0.5 * (1 / 1.02**2 - 1)) ** 2 + (0.5 * (1.02**2 - 1)) ** 2
    assert float(found) == pytest.approx(2 / 3 * away * float(stretched.volume) ** (2 / 3))


def test_the_deviation_knows_no_orientation_and_no_origin():
    free, y, groups = freedom()
    crystals, operations = rattled(free.crystals(y), 0.05), operations_of(free, groups)
    expected = symmetry_deviation(crystals, operations)
    torch.testing.assert_close(symmetry_deviation(turned(crystals), operations), expected)
    # each crystal by itself, and in single precision
    for b in range(len(groups)):
        own = operations_of(free[torch.tensor([b])], groups[[b]])
        torch.testing.assert_close(symmetry_deviation(crystals[b], own)[0], expected[b])
    single = operations_of(free.to(dtype=torch.float32), groups)
    torch.testing.assert_close(
        symmetry_deviation(crystals.to(dtype=torch.float32), single), expected.float(), rtol=1e-3, atol=1e-8
    )


def test_gradient_of_the_deviation():
    free, y, groups = freedom(((62, "ca"), (2, "i"), (221, "ab")))
    operations = operations_of(free, groups)
    gradient_checked(lambda c: symmetry_deviation(c, operations), rattled(free.crystals(y), 0.05))


def test_nearest_distances_of_textbook_crystals():
    crystals = to_batch([c for c in tiny_crystals() if c.reduced_formula in ("Cu", "NaCl")], dtype=F64)
    salt, copper = crystals[0], crystals[1]
    found = nearest_distances(crystals, 13)
    assert found.shape == (len(salt.atomic_numbers) + len(copper.atomic_numbers), 13)
    expected = torch.tensor([5.64 / 2] * 6 + [5.64 / 2**0.5] * 7, dtype=F64)
    torch.testing.assert_close(found[: len(salt.atomic_numbers)], expected.expand(len(salt.atomic_numbers), 13))
    expected = torch.tensor([3.61 / 2**0.5] * 12 + [3.61], dtype=F64)
    torch.testing.assert_close(found[len(salt.atomic_numbers) :], expected.expand(len(copper.atomic_numbers), 13))


def test_reconstruction_error_of_a_larger_cube():
    copper = to_batch([next(c for c in tiny_crystals() if c.reduced_formula == "Cu")], dtype=F64)
    grown = copper.replace(lattice=1.01 * copper.lattice)
    assert float(reconstruction_error(grown, copper, neighbours=12)) == pytest.approx((0.01 * 3.61 / 2**0.5) ** 2)


def test_reconstruction_error_knows_no_description():
    crystals = freedom()[0].crystals(freedom()[1])
    away = rattled(crystals, 0.1)
    expected = reconstruction_error(away, crystals)
    assert bool((expected > 1e-3).all())
    assert float(reconstruction_error(crystals, crystals).max()) == 0
    torch.testing.assert_close(reconstruction_error(turned(away), crystals), expected)
    torch.testing.assert_close(reconstruction_error(away, turned(crystals)), expected)
    # atoms in another order, in both crystals or in one
    order = torch.cat(
        [
            torch.arange(n).flip(0) + first
            for n, first in zip(crystals.n_atoms.tolist(), crystals.offsets.tolist(), strict=True)
        ]
    )

    def flipped(c: CrystalBatch) -> CrystalBatch:
        return CrystalBatch(c.lattice, c.frac_coords[order], c.atomic_numbers[order], c.n_atoms)

    torch.testing.assert_close(reconstruction_error(flipped(away), flipped(crystals)), expected)
    torch.testing.assert_close(reconstruction_error(flipped(away), crystals), expected)
    for b in range(len(crystals)):
        torch.testing.assert_close(reconstruction_error(away[b], crystals[b])[0], expected[b])


def test_gradient_of_the_reconstruction_error():
    free, y, _ = freedom(((62, "ca"), (2, "i")))
    crystals = free.crystals(y)
    gradient_checked(lambda c: reconstruction_error(c, crystals, neighbours=5), rattled(crystals, 0.1))


def test_what_is_no_crystal():
    crystals = to_batch(tiny_crystals()[:4], dtype=F64)
    factors = torch.tensor([1.0, 1.2, 1.3, 0.75], dtype=F64)
    away = crystals.replace(lattice=factors[:, None, None] * crystals.lattice)
    assert plausible(away, crystals).tolist() == [True, True, False, False]
    lattice, x = crystals.lattice.clone(), crystals.frac_coords.clone()
    lattice[0, 0, 0], x[-1, 1] = torch.nan, torch.inf
    spoiled = CrystalBatch(lattice, x, crystals.atomic_numbers, crystals.n_atoms)
    assert plausible(spoiled, crystals).tolist() == [False, True, True, False]
