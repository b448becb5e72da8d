"""The prototype prior: fingerprints, learning, probabilities, candidates, de novo draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from autoperi.chemistry.descriptors import DESCRIPTORS, element_descriptors
from autoperi.metrics.match import matcher
from autoperi.prior.fingerprint import (
    BLOCK,
    CENTRES,
    all_distances,
    distances,
    fingerprints,
    slot_order,
    tie_permutations,
)
from autoperi.prior.learn import additive_volumes, learn_library
from autoperi.prior.library import PrototypeLibrary
from autoperi.prior.locate import log_probability_of
from autoperi.prior.propose import Proposer
from autoperi.prior.ranker import make_bucket, ranking_loss, sort_elements, train_ranker
from autoperi.symmetry.analysis import SYMPREC, analyse


def crystal(
    group: str | int, lattice: Lattice, species: list[str], sites: list[list[float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    s = Structure.from_spacegroup(group, lattice, species, sites).get_primitive_structure()
    return s.lattice.matrix, s.frac_coords, np.array([site.specie.Z for site in s])


def rocksalt(a: str, b: str, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return crystal("Fm-3m", Lattice.cubic(size), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(a: str, b: str, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return crystal("Pm-3m", Lattice.cubic(size), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]])


def perovskite(a: str, b: str, x: str, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return crystal("Pm-3m", Lattice.cubic(size), [a, b, x], [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0]])


def rutile(a: str, x: str, size: float, u: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return crystal("P4_2/mnm", Lattice.tetragonal(size, size * 0.65), [a, x], [[0, 0, 0], [u, u, 0]])


CRYSTALS = [
    *(
        rocksalt(a, x, 5 + 0.1 * k)
        for k, (a, x) in enumerate([("Na", "Cl"), ("K", "Cl"), ("Na", "Br"), ("Mg", "O"), ("Ca", "O"), ("Li", "F")])
    ),
    *(
        caesium_chloride(a, x, 4 + 0.1 * k)
        for k, (a, x) in enumerate([("Cs", "Cl"), ("Cs", "Br"), ("Cs", "I"), ("Tl", "Cl")])
    ),
    *(
        perovskite(a, b, "O", 3.9 + 0.02 * k)
        for k, (a, b) in enumerate([("Sr", "Ti"), ("Ba", "Ti"), ("Ca", "Zr"), ("Ba", "Zr")])
    ),
    *(
        rutile(a, "O", 4.6 + 0.05 * k, u)
        for k, (a, u) in enumerate([("Ti", 0.305), ("Sn", 0.307), ("Ru", 0.303), ("Mn", 0.305)])
    ),
]


@pytest.fixture(scope="module")
def learned() -> tuple[PrototypeLibrary, np.ndarray, np.ndarray]:
    return learn_library(CRYSTALS)


@pytest.fixture(scope="module")
def proposer(learned: tuple[PrototypeLibrary, np.ndarray, np.ndarray]) -> Proposer:
    library, _, _ = learned
    return Proposer(library, train_ranker(library, descriptors=element_descriptors(), epochs=2))


def test_descriptors_are_finite_and_tell_elements_apart() -> None:
    table = element_descriptors()
    assert table.shape == (119, len(DESCRIPTORS))
    assert np.isfinite(table).all()
    assert np.linalg.norm(table[11] - table[19]) < np.linalg.norm(table[11] - table[17])  # Na is nearer to K than to Cl


def test_fingerprints_ignore_volume_basis_origin_and_elements() -> None:
    lattice, coords, numbers = rutile("Ti", "O", 4.6, 0.305)
    _, slots, counts = slot_order(numbers)
    sheared = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]])
    other = (sheared @ (lattice * 1.3), (coords + 0.37) @ np.linalg.inv(sheared), slots)
    first, second = fingerprints([(lattice, coords, slots), other], [2, 2])
    assert np.allclose(first, second, atol=1e-5)
    assert distances(first, second[None], counts)[0][0] < 1e-5


def test_fingerprint_distance_finds_the_renumbering() -> None:
    lattice, coords, numbers = perovskite("Sr", "Ti", "O", 3.9)
    _, slots, counts = slot_order(numbers)
    swapped = np.array([1, 0, 2])[slots]
    one, two = fingerprints([(lattice, coords, slots), (lattice, coords, swapped)], [3, 3])
    apart, which = distances(one, two[None], counts)
    assert apart[0] < 1e-5
    assert tie_permutations(counts)[which[0]] == (1, 0, 2)


@pytest.mark.parametrize("counts", [(6,), (1, 1, 3), (2, 2, 2)])
def test_all_distances_are_those_of_each(counts: tuple[int, ...]) -> None:
    n, s = BLOCK + 7, len(counts)
    table = np.random.default_rng(0).random((n, s, s, len(CENTRES))).astype(np.float32)
    table[5] = table[3][np.ix_(tie_permutations(counts)[-1], tie_permutations(counts)[-1])]
    apart, which = all_distances(table, counts)
    for a in (0, 3, 5, n - 1):
        d, p = distances(table[a], table, counts)
        np.testing.assert_allclose(apart[a], d, atol=1e-6)
        assert (which[a] == p).all()
    assert apart[3, 5] < 1e-6


def test_clusters_are_structure_types(learned: tuple[PrototypeLibrary, np.ndarray, np.ndarray]) -> None:
    library, owner, origin = learned
    assert len(library) == 4
    assert sorted(library["space_group"].tolist()) == [136, 221, 221, 225]
    assert sorted(origin.tolist()) == list(range(len(CRYSTALS)))
    for v in range(len(library)):
        assert len(library.members(v)) == int((owner == v).sum())


def test_library_keeps_no_volume_and_no_ids(learned: tuple[PrototypeLibrary, np.ndarray, np.ndarray]) -> None:
    library = learned[0]
    for v in range(len(library)):
        lattice, coords, _, _ = library.skeleton(v)
        assert abs(np.linalg.det(lattice)) == pytest.approx(len(coords))
    assert all(t.dtype not in (torch.int64,) for t in library.tensors.values())


def test_skeletons_have_exactly_their_space_group(learned: tuple[PrototypeLibrary, np.ndarray, np.ndarray]) -> None:
    library = learned[0]
    for v in range(len(library)):
        lattice, coords, slots, orbits = library.skeleton(v)
        assert analyse(lattice * 3, coords, slots + 1, symprec=1e-5).number == library["space_group"][v]
        assert tuple(np.bincount(slots)) == library.counts[v]
        assert all(len(set(slots[orbits == o])) == 1 for o in set(orbits.tolist()))


def test_mean_parameter_of_rutile(learned: tuple[PrototypeLibrary, np.ndarray, np.ndarray]) -> None:
    library = learned[0]
    v = library["space_group"].tolist().index(136)
    free = library["orbit_coord"][library["orbit_start"][v] : library["orbit_start"][v + 1]]
    u = np.abs(((free[free.any(1)] + 0.5) % 1) - 0.5)
    assert np.isclose(u.max(), 0.305, atol=0.002) or np.isclose(u.max(), 0.195, atol=0.002)


def test_additive_volumes_recover_a_sum() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((400, 119))
    for row in counts:
        row[rng.choice(np.arange(1, 11), 3, replace=False)] = rng.integers(1, 4, 3)
    true = np.zeros(119)
    true[1:11] = rng.uniform(8, 25, 10)
    assert np.allclose(additive_volumes(counts, counts @ true)[1:11], true[1:11], rtol=0.02)


def test_probabilities_add_up_to_one(proposer: Proposer) -> None:
    for elements, counts in (([11, 17], [1, 1]), ([20, 22, 8], [1, 1, 3]), ([22, 8], [2, 4])):
        answers = proposer.decorations(elements, counts, limit=1000)
        assert answers
        assert sum(math.exp(a.log_p) for a in answers) == pytest.approx(1, abs=1e-6)
        every = proposer.decorations(elements, counts, limit=1000, distinct=False)
        assert sum(math.exp(a.log_p) for a in every) == pytest.approx(1, abs=1e-6)


def test_order_of_elements_does_not_matter(proposer: Proposer) -> None:
    one = proposer.decorations([38, 22, 8], [1, 1, 3], limit=9)
    two = proposer.decorations([8, 38, 22], [3, 1, 1], limit=9)
    assert [(c.prototype, c.elements, c.log_p) for c in one] == [(c.prototype, c.elements, c.log_p) for c in two]


def test_answers_are_distinct_and_honour_the_space_group(proposer: Proposer) -> None:
    judge = matcher()

    def structures(**options: int) -> list[Structure]:
        found = proposer.decorations([11, 17], [1, 1], limit=9, **options)
        return [Structure(Lattice(c[0]), c[2], c[1]) for c in map(proposer.crystal, found)]

    both = structures()
    assert len(both) == 2
    assert not judge.fit(both[0], both[1])
    only = proposer.decorations([11, 17], [1, 1], limit=9, space_group=221)
    assert [int(proposer.library["space_group"][c.prototype]) for c in only] == [221]
    assert only[0].log_p == pytest.approx(0)
    assert proposer.decorations([11, 17], [1, 1], limit=9, space_group=62) == []


def test_unknown_counts_have_no_candidates(proposer: Proposer) -> None:
    assert proposer.decorations([11, 17], [5, 7], limit=9) == []
    assert proposer.support([11, 17], [5, 7]) == 0


def test_volume_is_additive_times_what_members_show(proposer: Proposer) -> None:
    found = proposer.decorations([12, 8], [1, 1], limit=1, space_group=225)[0]
    additive = proposer.library.additive_volume([12, 8], [1, 1])
    volume = abs(float(np.linalg.det(proposer.crystal(found)[0])))
    assert volume == pytest.approx(additive * math.exp(found.log_volume_ratio))
    a, b = proposer.library["member_start"][found.prototype : found.prototype + 2]
    ratios = proposer.library["member_volume"][a:b]
    assert ratios.min() <= found.log_volume_ratio <= ratios.max()


def test_leave_one_out_hides_the_crystal_itself(
    learned: tuple[PrototypeLibrary, np.ndarray, np.ndarray], proposer: Proposer
) -> None:
    bucket = make_bucket(learned[0], (2, 4))
    assert bucket is not None
    member = bucket.member_elements[0].tolist()
    ordered, assignment = sort_elements(member, bucket.counts)
    assert [ordered[k] for k in assignment] == member
    query = torch.tensor([ordered])
    ranker = proposer.ranker
    with torch.no_grad():
        seen, _, _ = ranker.features(bucket, query)
        hidden, _, _ = ranker.features(bucket, query, torch.tensor([0]))
    assert not torch.allclose(seen, hidden)
    log_p, _ = ranker(bucket, query, torch.tensor([0]))
    loss, reachable = ranking_loss(log_p, bucket, torch.tensor([0]))
    assert bool(reachable.all())
    assert torch.isfinite(loss).all()


def test_locate_gives_the_probability_of_a_known_type_and_none_of_an_unknown(proposer: Proposer) -> None:
    known = log_probability_of(proposer, analyse(*rocksalt("Na", "Cl", 5.7), symprec=SYMPREC))
    rare = log_probability_of(proposer, analyse(*caesium_chloride("Na", "Cl", 3.4), symprec=SYMPREC))
    assert known is not None
    assert rare is not None
    assert math.exp(known) + math.exp(rare) == pytest.approx(1, abs=1e-4)
    lonely = (np.eye(3) * 6, np.array([[0, 0, 0], [0.2, 0.1, 0.3]]), np.array([11, 17]))
    assert log_probability_of(proposer, analyse(*lonely, symprec=SYMPREC)) is None


def test_a_library_without_a_field_is_refused(learned: tuple[PrototypeLibrary, np.ndarray, np.ndarray]) -> None:
    tensors = dict(learned[0].tensors)
    del tensors["shape"]
    with pytest.raises(ValueError, match="shape"):
        PrototypeLibrary(tensors)


def test_weights_of_members_are_optional_and_checked(learned: tuple[PrototypeLibrary, np.ndarray, np.ndarray]) -> None:
    tensors = {k: v for k, v in learned[0].tensors.items() if k != "member_weight"}
    assert PrototypeLibrary(tensors)["member_weight"].tolist() == [1] * len(CRYSTALS)
    weight = torch.arange(len(CRYSTALS), dtype=torch.uint8)
    assert PrototypeLibrary({**tensors, "member_weight": weight})["member_weight"].tolist() == weight.tolist()
    for wrong in (weight[1:], weight.float()):
        with pytest.raises(ValueError, match="member_weight"):
            PrototypeLibrary({**tensors, "member_weight": wrong})
