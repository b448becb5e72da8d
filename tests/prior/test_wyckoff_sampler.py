"""Random crystals: exact composition, exact group, atoms apart, reproducible, and orbits drawn with the stated
probability.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.distances import minimum_distance_ratios
from autoperi.prior.wyckoff_sampler import Covers, SampledCrystal, sample_crystal
from autoperi.symmetry import analysis as sym
from autoperi.symmetry import spacegroup as spg
from autoperi.symmetry.wyckoff import WyckoffPosition, can_fit, wyckoff_position, wyckoff_positions

LAWS = settings(max_examples=40, deadline=None)
GROUPS = st.integers(1, 230)
SEEDS = st.integers(0, 2**31 - 1)


def obeys(crystal: SampledCrystal, content: dict[int, int], number: int, volume: float, ratio: float) -> None:
    """Everything that was asked for."""
    group = spg.space_group(number).primitive
    assert Counter(crystal.numbers.tolist()) == content
    assert (np.diff(crystal.numbers) >= 0).all()
    assert ((crystal.frac_coords >= 0) & (crystal.frac_coords < 1)).all()
    assert np.linalg.det(crystal.lattice) == pytest.approx(volume)
    assert crystal.lattice == pytest.approx(sym.symmetrize_lattice(crystal.lattice, group.rotations), abs=1e-9)
    permutations = sym.atom_permutations(crystal.frac_coords, crystal.numbers, group, tolerance=1e-9)
    for i, orbit in enumerate(crystal.orbits):
        assert set(permutations[:, i].tolist()) == set(np.nonzero(crystal.orbits == orbit)[0].tolist())
    assert crystal.orbits.tolist() == sorted(crystal.orbits.tolist())
    sizes = [wyckoff_position(number, letter).primitive_multiplicity for letter in crystal.letters]
    assert np.bincount(crystal.orbits).tolist() == sizes
    fixed = [letter for letter in crystal.letters if wyckoff_position(number, letter).dof == 0]
    assert len(fixed) == len(set(fixed))
    batch = CrystalBatch.from_list([(crystal.lattice, crystal.frac_coords, crystal.numbers)])
    assert minimum_distance_ratios(batch).item() >= ratio - 1e-9
    found = sym.analyse(crystal.lattice, crystal.frac_coords, crystal.numbers)
    assert (found.number, len(found.primitive_numbers)) == (number, len(crystal.numbers))


@pytest.mark.parametrize("number", [*range(1, 231, 7), 225, 227, 230])
def test_every_kind_of_group_gives_crystals(number: int) -> None:
    n = len(spg.space_group(number).primitive)
    content, volume = {8: n, 14: n}, 30.0 * n
    crystal = sample_crystal(content, number, volume, np.random.default_rng(number))
    assert crystal is not None
    obeys(crystal, content, number, volume, 0.6)


@LAWS
@given(GROUPS, SEEDS)
def test_what_comes_back_is_what_was_asked_for(number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content: Counter[int] = Counter()
    for p in rng.choice(np.array(wyckoff_positions(number), dtype=object), 3):
        if content.total() + p.primitive_multiplicity <= 40:
            content[int(rng.integers(3, 90))] += p.primitive_multiplicity
    content = content or Counter({6: wyckoff_positions(number)[0].primitive_multiplicity})
    volume, ratio = 25.0 * content.total(), 0.5
    crystal = sample_crystal(
        content, number, volume, np.random.default_rng(seed), attempts=10, min_distance_ratio=ratio
    )
    if crystal is not None:
        obeys(crystal, dict(content), number, volume, ratio)


@LAWS
@given(GROUPS, st.dictionaries(st.integers(1, 99), st.integers(1, 12), min_size=1, max_size=3))
def test_there_is_a_cover_exactly_where_the_composition_fits(number: int, content: dict[int, int]) -> None:
    counts = tuple(content.values())
    assert (Covers(number, counts).log_total > -math.inf) == can_fit(counts, number)
    if not can_fit(counts, number):
        assert sample_crystal(content, number, 1000.0, np.random.default_rng(0)) is None


def all_covers(number: int, counts: tuple[int, ...]) -> list[tuple[tuple[str, ...], ...]]:
    """Every cover by brute force, as sorted letters of each element."""
    positions = wyckoff_positions(number)

    def multisets(count: int, start: int) -> list[tuple[WyckoffPosition, ...]]:
        if count == 0:
            return [()]
        found = []
        for i in range(start, len(positions)):
            p = positions[i]
            if p.primitive_multiplicity <= count:
                found += [(p, *rest) for rest in multisets(count - p.primitive_multiplicity, i + (p.dof == 0))]
        return found

    covers = []
    for choice in itertools.product(*(multisets(c, 0) for c in counts)):
        fixed = [p.letter for group in choice for p in group if p.dof == 0]
        if len(fixed) == len(set(fixed)):
            covers.append(tuple(tuple(p.letter for p in group) for group in choice))
    return covers


def letters(cover: list[list[WyckoffPosition]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(p.letter for p in group) for group in cover)


@pytest.mark.parametrize(
    ("number", "counts"),
    [
        (2, (3, 2)),
        (12, (2, 4)),
        (16, (2, 3)),
        (62, (4, 8)),
        (123, (1, 2, 3)),
        (194, (2, 6)),
        (225, (1, 1, 6)),
        (227, (2, 4, 8)),
    ],
)
@pytest.mark.parametrize(("gain", "cost"), [(0.0, 0.0), (1.5, 1.5)])
def test_weights_of_covers_add_up(number: int, counts: tuple[int, ...], gain: float, cost: float) -> None:
    every = all_covers(number, counts)
    covers = Covers(number, counts, gain=gain, cost=cost)
    assert len(set(every)) == len(every) > 1
    p = {}
    for c in every:
        own = [wyckoff_position(number, w) for group in c for w in group]
        p[c] = math.exp(sum(gain * o.dof - cost for o in own) - covers.log_total)
    assert sum(p.values()) == pytest.approx(1)
    if gain == cost == 0:
        assert min(p.values()) == pytest.approx(1 / len(every))
    # and they are drawn with that probability
    rng, draws = np.random.default_rng(number), 1500
    seen = Counter(letters(covers.draw(rng)) for _ in range(draws))
    assert set(seen) <= set(every)
    top = sorted(p, key=lambda c: -p[c])[:10]
    for cover in top:
        assert abs(seen[cover] - draws * p[cover]) < 5 * math.sqrt(draws * p[cover] * (1 - p[cover])) + 1


def test_many_atoms_do_not_overflow() -> None:
    covers = Covers(14, (400, 800))
    cover = covers.draw(np.random.default_rng(0))
    assert [sum(p.primitive_multiplicity for p in group) for group in cover] == [400, 800]
    assert math.isfinite(covers.log_total)


def test_a_seed_gives_one_crystal_whatever_the_order_of_the_mapping() -> None:
    def make(content: dict[int, int], seed: int) -> SampledCrystal:
        crystal = sample_crystal(content, 62, 300.0, np.random.default_rng(seed))
        assert crystal is not None
        return crystal

    one, two, other = make({26: 4, 8: 12}, 5), make({8: 12, 26: 4}, 5), make({8: 12, 26: 4}, 6)
    assert np.array_equal(one.lattice, two.lattice)
    assert np.array_equal(one.frac_coords, two.frac_coords)
    assert one.letters == two.letters
    assert not np.array_equal(one.frac_coords, other.frac_coords)


def test_what_cannot_be_is_none() -> None:
    def ask(content: dict[int, int], number: int, volume: float, **options: float) -> SampledCrystal | None:
        return sample_crystal(content, number, volume, np.random.default_rng(0), attempts=20, **options)

    assert ask({11: 1, 17: 1}, 225, 45.0) is not None
    assert ask({11: 1}, 227, 20.0) is None  # smallest orbit: two atoms
    assert ask({11: 1, 17: 1}, 225, 5.0) is None  # no room
    assert ask({11: 1, 17: 1}, 225, 45.0, min_distance_ratio=2.0) is None
    assert ask({11: 1}, 1, 30.0) is None  # one atom always has an inversion centre
    assert sample_crystal({11: 1, 17: 1}, 225, 45.0, np.random.default_rng(0), attempts=0) is None


@pytest.mark.parametrize(
    ("content", "number", "volume"),
    [
        *[({}, 1, 10.0), ({0: 1}, 1, 10.0), ({119: 1}, 1, 10.0), ({6: 0}, 1, 10.0), ({6: 1.5}, 1, 10.0)],
        *[({6: 1}, 0, 10.0), ({6: 1}, 231, 10.0), ({6: 1}, 1, 0.0), ({6: 1}, 1, float("nan"))],
    ],
)
def test_what_does_not_exist_is_refused(content: dict, number: int, volume: float) -> None:
    with pytest.raises(RequestError):
        sample_crystal(content, number, volume, np.random.default_rng(0))


def test_shapes_vary_within_the_group() -> None:
    cells = [sample_crystal({22: 2, 8: 4}, 136, 62.0, np.random.default_rng(s)) for s in range(12)]
    ratios = [c.lattice[2, 2] / c.lattice[0, 0] for c in cells if c is not None]
    assert len(ratios) == 12
    assert np.std(np.log(ratios)) > 0.1
