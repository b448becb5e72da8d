"""Laws of nearest distances: against brute force, and under every change of description of one crystal."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.convert import to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.data.elements import DEFAULT_RADIUS, covalent_radii
from autoperi.errors import StructureError
from autoperi.geometry.distances import minimum_distance_ratios, minimum_distances

LAWS = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
RADII = covalent_radii()
Crystal = tuple[np.ndarray, np.ndarray, np.ndarray]


def random_crystal(seed: int, n: int) -> Crystal:
    rng = np.random.default_rng(seed)
    lattice = rng.uniform(2, 7) * (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
    return lattice, rng.random((n, 3)), rng.integers(1, 119, n)


def both(*crystals: Crystal) -> tuple[torch.Tensor, torch.Tensor]:
    batch = CrystalBatch.from_list(crystals)
    return minimum_distances(batch), minimum_distance_ratios(batch)


def brute_force(crystal: Crystal, reach: int = 6) -> tuple[float, float]:
    lattice, x, z = crystal
    shifts = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    difference = x[None, :, None] - x[:, None, None] + shifts[None, None]
    distance = np.linalg.norm(difference @ lattice, axis=-1)
    home = (shifts == 0).all(-1)
    distance[np.eye(len(x), dtype=bool)[..., None] & home] = np.inf
    return float(distance.min()), float((distance.min(-1) / (RADII[z][:, None] + RADII[z])).min())


def test_radii() -> None:
    assert RADII.shape == (119,)
    assert np.isnan(RADII[0])
    assert ((RADII[1:] > 0.2) & (RADII[1:] < 2.7)).all()
    assert [RADII[z] for z in (1, 8, 26, 55)] == [0.31, 0.66, 1.32, 2.44]
    assert (RADII[97:] == DEFAULT_RADIUS).all()
    with pytest.raises(ValueError, match="read-only"):
        RADII[1] = 1.0


def test_known_crystals() -> None:
    batch = to_batch(
        [
            bulk("Po", "sc", a=3.35),
            bulk("NaCl", "rocksalt", a=5.64),
            bulk("Cu", "fcc", a=3.61),
            bulk("C", "diamond", a=3.57),
        ]
    )
    expected = np.array([3.35, 5.64 / 2, 3.61 / 2**0.5, 3.57 * 3**0.5 / 4])
    sums = np.array([2 * RADII[84], RADII[11] + RADII[17], 2 * RADII[29], 2 * RADII[6]])
    assert minimum_distances(batch).numpy() == pytest.approx(expected)
    assert minimum_distance_ratios(batch).numpy() == pytest.approx(expected / sums)


@LAWS
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), SEEDS)
def test_brute_force_agrees_for_every_crystal_of_a_batch(sizes: list[int], seed: int) -> None:
    crystals = [random_crystal(seed + k, n) for k, n in enumerate(sizes)]
    distances, ratios = both(*crystals)
    for k, crystal in enumerate(crystals):
        assert (distances[k].item(), ratios[k].item()) == pytest.approx(brute_force(crystal), rel=1e-9, abs=1e-9)


@LAWS
@given(st.integers(1, 6), SEEDS)
def test_the_description_of_a_crystal_does_not_matter(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lattice, x, z = random_crystal(seed, n)
    reference = both((lattice, x, z))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shear = np.eye(3, dtype=int)
    for _ in range(4):
        i, j = rng.choice(3, 2, replace=False)
        step = np.eye(3, dtype=int)
        step[i, j] = rng.integers(-3, 4)
        shear = step @ shear
    order = rng.permutation(n)
    changed = shear @ lattice @ rotation, ((x + rng.random(3)) @ np.linalg.inv(shear))[order] % 1.0, z[order]
    cells = np.stack(np.meshgrid([0, 1], [0, 1, 2], [0], indexing="ij"), -1).reshape(-1, 3)
    repeated = (
        np.array([2, 3, 1])[:, None] * lattice,
        ((x[:, None] + cells) / [2, 3, 1]).reshape(-1, 3),
        np.repeat(z, len(cells)),
    )
    for other in (changed, repeated):
        for a, b in zip(both(other), reference, strict=True):
            assert a.item() == pytest.approx(b.item(), rel=1e-7, abs=1e-9)


@LAWS
@given(st.integers(1, 6), SEEDS, st.floats(0.1, 50))
def test_both_grow_with_the_crystal(n: int, seed: int, scale: float) -> None:
    lattice, x, z = random_crystal(seed, n)
    for small, large in zip(both((lattice, x, z)), both((scale * lattice, x, z)), strict=True):
        assert large.item() == pytest.approx(scale * small.item(), rel=1e-9)


def test_the_nearest_pair_need_not_have_the_smallest_ratio() -> None:
    # Cs–Cs at 4 Å is nearer, for caesium, than H–H at 0.9 Å is for hydrogen
    far = (np.diag([4.0, 30.0, 30.0]), np.array([[0, 0, 0], [0, 0, 0.03], [0, 0.5, 0.5]]), np.array([1, 1, 55]))
    distance, ratio = both(far)
    assert distance.item() == pytest.approx(0.9)
    assert ratio.item() == pytest.approx(4.0 / (2 * RADII[55]))


def test_sparse_dense_flat_and_overlapping_crystals_share_a_batch() -> None:
    crystals: list[Crystal] = [
        (300 * np.eye(3), np.zeros((1, 3)), np.array([1])),
        (np.diag([0.5, 0.5, 0.5]), np.zeros((1, 3)), np.array([55])),
        (np.diag([0.1, 40.0, 40.0]), np.array([[0, 0, 0], [0, 0.5, 0.5]]), np.array([8, 26])),
        (4 * np.eye(3), np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]), np.array([8, 26])),
        (np.array([[3.0, 0, 0], [900.0, 3.0, 0], [-700.0, 800.0, 3.0]]), np.zeros((1, 3)), np.array([29])),
    ]
    start = time.perf_counter()
    distances, ratios = both(*crystals)
    assert time.perf_counter() - start < 2
    assert distances.tolist()[:4] == pytest.approx([300, 0.5, 0.1, 0])
    assert distances[4].item() <= 3.0 * 2**0.5
    assert ratios.tolist()[:4] == pytest.approx([300 / 0.62, 0.5 / 4.88, 0.1 / 2.64, 0])


def test_float32_and_gradients() -> None:
    batch = CrystalBatch.from_list([random_crystal(k, k) for k in range(1, 6)])
    single = batch.to(dtype=torch.float32)
    for function in (minimum_distances, minimum_distance_ratios):
        assert function(single).dtype == torch.float32
        assert torch.allclose(function(single).double(), function(batch), rtol=1e-4)
        lattice = batch.lattice.clone().requires_grad_()
        value = function(batch.replace(lattice=lattice))
        (gradient,) = torch.autograd.grad(value.sum(), lattice)
        # distances are homogeneous of degree one in the lattice (Euler)
        assert torch.allclose((gradient * lattice).sum((1, 2)), value)


def test_nothing_and_bad_cells() -> None:
    empty = CrystalBatch.from_list([])
    assert minimum_distances(empty).shape == minimum_distance_ratios(empty).shape == (0,)
    for lattice in (np.zeros((3, 3)), np.full((3, 3), np.nan)):
        for function in (minimum_distances, minimum_distance_ratios):
            with pytest.raises(StructureError, match="crystal 0"):
                function(CrystalBatch.from_list([(lattice, np.zeros((1, 3)), [6])]))
