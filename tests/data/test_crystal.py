"""Laws of CrystalBatch: a batch is its crystals, whatever their order and company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError

LAWS = settings(max_examples=40, deadline=None)


def random_crystal(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A skewed cell of either handedness, with n atoms."""
    rng = np.random.default_rng(seed)
    lattice = np.diag(rng.uniform(2, 12, 3)) + np.triu(rng.uniform(-20, 20, (3, 3)), 1)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return lattice @ rotation, rng.random((n, 3)), rng.integers(1, 119, n)


@st.composite
def crystal_lists(draw: st.DrawFn, min_size: int = 1) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=min_size, max_size=5))
    seed = draw(st.integers(0, 10**6))
    return [random_crystal(seed + i, n) for i, n in enumerate(sizes)]


def same(a: CrystalBatch, b: CrystalBatch) -> bool:
    pairs = zip(
        (a.lattice, a.frac_coords, a.atomic_numbers, a.n_atoms),
        (b.lattice, b.frac_coords, b.atomic_numbers, b.n_atoms),
        strict=True,
    )
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@LAWS
@given(crystal_lists())
def test_unbatch_is_the_inverse_of_from_list(crystals):
    batch = CrystalBatch.from_list(crystals)
    assert len(batch) == len(crystals)
    for (lattice, coords, numbers), (lattice2, coords2, numbers2) in zip(crystals, batch.unbatch(), strict=True):
        assert np.array_equal(lattice, lattice2)
        assert np.array_equal(coords, coords2)
        assert np.array_equal(numbers, numbers2)
    assert same(CrystalBatch.from_list(batch.unbatch()), batch)


@LAWS
@given(crystal_lists(), st.data())
def test_indexing_takes_crystals_in_the_order_asked_for(crystals, data):
    batch = CrystalBatch.from_list(crystals)
    chosen = data.draw(st.lists(st.integers(-len(crystals), len(crystals) - 1), max_size=6))
    assert same(batch[chosen], CrystalBatch.from_list([crystals[i] for i in chosen]))
    again = data.draw(st.lists(st.integers(0, len(chosen) - 1), max_size=4)) if chosen else []
    assert same(batch[chosen][again], batch[[chosen[i] for i in again]])
    start, stop, step = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 6)), data.draw(st.integers(1, 3))
    assert same(batch[start:stop:step], CrystalBatch.from_list(crystals[start:stop:step]))


@LAWS
@given(crystal_lists())
def test_concatenation_and_single_crystals_undo_each_other(crystals):
    batch = CrystalBatch.from_list(crystals)
    assert same(CrystalBatch.cat([batch[i] for i in range(len(batch))]), batch)
    assert same(CrystalBatch.cat([batch[:1], batch[1:]]), batch)
    assert same(CrystalBatch.cat([batch, batch])[len(batch) :], batch)


@LAWS
@given(crystal_lists())
def test_derived_quantities_agree_with_each_crystal(crystals):
    batch = CrystalBatch.from_list(crystals)
    assert batch.validate() is batch
    assert batch.batch.tolist() == [i for i, c in enumerate(crystals) for _ in c[2]]
    assert batch.offsets.tolist() == [sum(len(c[2]) for c in crystals[:i]) for i in range(len(crystals))]
    np.testing.assert_allclose(batch.cart_coords, np.concatenate([x @ lat for lat, x, _ in crystals]), atol=1e-10)
    np.testing.assert_allclose(batch.volume, [abs(np.linalg.det(lat)) for lat, _, _ in crystals], rtol=1e-10)
    assert bool((batch.volume > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_changed_only_where_asked(dtype):
    batch = CrystalBatch.from_list([random_crystal(0, 3), random_crystal(1, 1)], dtype=dtype)
    assert batch.lattice.dtype == batch.frac_coords.dtype == batch[1].lattice.dtype == dtype
    other = batch.to(dtype=torch.float64, device="cpu")
    assert other.lattice.dtype == other.frac_coords.dtype == torch.float64
    assert other.atomic_numbers.dtype == other.n_atoms.dtype == torch.long
    assert torch.get_default_dtype() == torch.float32


def test_replace_wraps_coordinates_and_keeps_atoms():
    batch = CrystalBatch.from_list([random_crystal(0, 2)])
    moved = batch.replace(frac_coords=torch.tensor([[-0.25, 1.5, 3.0], [0.0, -2.0, 0.75]], dtype=torch.float64))
    assert moved.frac_coords.tolist() == [[0.75, 0.5, 0.0], [0.0, 0.0, 0.75]]
    assert torch.equal(moved.atomic_numbers, batch.atomic_numbers)
    assert torch.equal(moved.lattice, batch.lattice)
    assert torch.equal(batch.replace(lattice=2 * batch.lattice).frac_coords, batch.frac_coords)


def test_gradients_pass_through_replace_and_cart_coords():
    batch = CrystalBatch.from_list([random_crystal(0, 2)])
    x = batch.frac_coords.clone().requires_grad_()
    batch.replace(frac_coords=x + 1.25).cart_coords.sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, np.tile(batch.lattice[0].sum(-1), (2, 1)), atol=1e-12)


def test_an_empty_batch_is_a_batch():
    empty = CrystalBatch.from_list([])
    assert len(empty) == 0
    assert empty.unbatch() == []
    assert empty.validate() is empty
    full = CrystalBatch.from_list([random_crystal(0, 2)])
    assert same(CrystalBatch.cat([empty, full, empty]), full)
    assert same(full[[]], empty)


def test_index_beyond_the_end_is_an_index_error_so_that_loops_end():
    batch = CrystalBatch.from_list([random_crystal(0, 2), random_crystal(1, 1)])
    with pytest.raises(IndexError):
        batch[2]
    assert [len(b.atomic_numbers) for b in batch] == [2, 1]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((3, 3), (1, 3), (1,), (1,)), "[B, 3, 3] and [N, 3]"),
        (((1, 3, 3), (2, 2), (2,), (1,)), "[B, 3, 3] and [N, 3]"),
        (((1, 3, 3), (2, 3), (1,), (1,)), "2 atoms in 1 crystals"),
        (((2, 3, 3), (2, 3), (2,), (1,)), "2 atoms in 2 crystals"),
        (((1, 3, 3), (2, 3), (2,), (1,)), "must agree"),
    ],
)
def test_shapes_that_do_not_agree_are_refused(shapes, words):
    lattice, coords, numbers, counts = shapes
    with pytest.raises(StructureError) as error:
        CrystalBatch(
            torch.ones(lattice),
            torch.zeros(coords),
            torch.ones(numbers, dtype=torch.long),
            torch.ones(counts, dtype=torch.long),
        )
    assert words in str(error.value)
    assert "\n" not in str(error.value)


CUBE = np.eye(3) * 4.0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ((CUBE * np.nan, [[0, 0, 0]], [1]), ["crystal 1", "NaN", "lattice"]),
        ((CUBE + np.inf, [[0, 0, 0]], [1]), ["crystal 1", "infinity", "lattice"]),
        ((CUBE, [[0, np.nan, 0]], [1]), ["crystal 1", "NaN", "coordinates"]),
        ((CUBE, [[0, 0, np.inf]], [1]), ["crystal 1", "infinity", "coordinates"]),
        ((CUBE, [[0, 0, 0]], [0]), ["crystal 1", "atomic number 0", "118"]),
        ((CUBE, [[0, 0, 0]], [119]), ["crystal 1", "atomic number 119", "118"]),
        ((CUBE * 0, [[0, 0, 0]], [1]), ["crystal 1", "volume", "span space"]),
        ((CUBE[[0, 1, 1]], [[0, 0, 0]], [1]), ["crystal 1", "volume", "span space"]),
        ((CUBE, np.zeros((0, 3)), []), ["crystal 1", "no atoms"]),
    ],
)
def test_validate_names_the_crystal_and_the_trouble(bad, words):
    with pytest.raises(StructureError) as error:
        CrystalBatch.from_list([(CUBE, [[0, 0, 0]], [1]), bad]).validate()
    assert all(w in str(error.value) for w in words)
    assert "\n" not in str(error.value)
