"""Draws without a composition: constraints, the reference, what is known and what was given, and an exact
probability.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from autoperi.chemistry.descriptors import element_descriptors
from autoperi.data.convert import to_arrays
from autoperi.prior.component import prior_component, proposer_of
from autoperi.prior.denovo import Constraints, DeNovo, balance, plausibility
from autoperi.prior.learn import learn_library
from autoperi.prior.library import PrototypeLibrary
from autoperi.prior.propose import Decoration, Proposer
from autoperi.prior.ranker import Ranker
from autoperi.testing import tiny_crystals


@pytest.fixture(scope="module")
def library() -> PrototypeLibrary:
    return learn_library([to_arrays(crystal) for crystal in tiny_crystals()])[0]


def proposer_with(
    library: PrototypeLibrary, weight: np.ndarray | None = None, *, temperature: float = 0.4, known: float = 0.0
) -> Proposer:
    """A prior whose element distance is that of the descriptors."""
    tensors = (
        library.tensors
        if weight is None
        else {**library.tensors, "member_weight": torch.as_tensor(weight.astype(np.uint8))}
    )
    torch.manual_seed(0)
    ranker = Ranker(descriptors=element_descriptors())
    return Proposer(PrototypeLibrary(tensors), ranker, denovo_temperature=temperature, denovo_known=known)


def drawn(draws: DeNovo, n: int) -> list[Decoration]:
    return [c for c in map(draws.draw, range(n)) if c is not None]


@pytest.fixture(autouse=True)
def _every_element_is_familiar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoperi.prior.denovo.MIN_MEMBERS_PER_ELEMENT", 1)


@pytest.mark.parametrize(
    "constraints",
    [
        Constraints(1, 60, excluded=frozenset({8, 17})),
        Constraints(3, 5),
        Constraints(1, 60, 225),
        Constraints(1, 60, elements=frozenset({11, 17})),
        Constraints(1, 60, min_elements=3),
        Constraints(1, 60, min_elements=1, max_elements=2, excluded=frozenset({9})),
    ],
)
def test_constraints_hold(library: PrototypeLibrary, constraints: Constraints) -> None:
    found = drawn(DeNovo(proposer_with(library), constraints, 1), 30)
    assert found
    for c in found:
        counts = library.counts[c.prototype]
        assert constraints.min_atoms <= sum(counts) <= constraints.max_atoms
        assert len(set(c.elements)) == len(c.elements) == len(counts)
        assert constraints.min_elements <= len(c.elements) <= constraints.max_elements
        assert not set(c.elements) & constraints.excluded
        if constraints.space_group is not None:
            assert library["space_group"][c.prototype] == constraints.space_group
        if constraints.elements is not None:
            assert set(c.elements) == constraints.elements


def test_what_nothing_satisfies_is_said_before_drawing(library: PrototypeLibrary) -> None:
    for constraints in (Constraints(1, 60, 62), Constraints(50, 60), Constraints(1, 60, min_elements=5)):
        assert not DeNovo(proposer_with(library), constraints)


def test_an_index_depends_on_the_seed_and_itself(library: PrototypeLibrary) -> None:
    def signature(seed: int, n: int) -> list[tuple]:
        return [
            (c.prototype, c.elements, c.log_p, c.log_volume_ratio)
            for c in drawn(DeNovo(proposer_with(library), Constraints(1, 60), seed), n)
        ]

    assert signature(3, 20)[:7] == signature(3, 20)[:7] == signature(3, 7)[:7]
    assert signature(3, 20) != signature(4, 20)


def test_probability_is_normalised(library: PrototypeLibrary) -> None:
    weight = np.arange(len(library["member_volume"])) % 3
    draws = DeNovo(
        proposer_with(library, weight), Constraints(1, 60, max_elements=2, excluded=frozenset(range(21, 120))), 0
    )
    total = 0.0
    for v in sorted(set(draws.owner[draws.rows].tolist())):
        for elements in permutations(draws.allowed.tolist(), len(library.counts[v])):
            total += math.exp(draws.log_probability(v, elements))
    assert total == pytest.approx(1, abs=1e-6)


def test_draws_follow_the_reference(library: PrototypeLibrary) -> None:
    cubic = library["space_group"][np.repeat(np.arange(len(library)), np.diff(library["member_start"]))] >= 195
    found = drawn(DeNovo(proposer_with(library, cubic), Constraints(1, 60), 0), 40)
    assert all(library["space_group"][c.prototype] >= 195 for c in found)
    # a request that the reference knows nothing of is met by the others
    found = drawn(DeNovo(proposer_with(library, cubic), Constraints(1, 60, 136), 0), 5)
    assert found
    assert all(library["space_group"][c.prototype] == 136 for c in found)


def test_sizes_beyond_the_reference_come_where_sizes_were_asked_for(library: PrototypeLibrary) -> None:
    sizes = np.array([sum(c) for c in library.counts])
    small = sizes[np.repeat(np.arange(len(library)), np.diff(library["member_start"]))] <= 2
    for sized, largest in ((False, 2), (True, int(sizes.max()))):
        draws = DeNovo(proposer_with(library, small), Constraints(1, 60, sized=sized), 0)
        assert sizes[draws.owner[draws.rows[draws.weights > 0]]].max() == largest


def test_members_are_spread_in_proportion(library: PrototypeLibrary) -> None:
    weight = 1 + np.arange(len(library["member_volume"])) % 4
    draws = DeNovo(proposer_with(library, weight), Constraints(1, 60), 5)
    count = Counter(draws.member(k) for k in range(1000))
    expected = 1000 * weight / weight.sum()
    assert max(abs(count[m] - e) for m, e in enumerate(expected)) < 3


def test_known_crystals_come_as_often_as_they_may(library: PrototypeLibrary) -> None:
    def share(known: float) -> float:
        draws = DeNovo(proposer_with(library, temperature=0.05, known=known), Constraints(1, 60), 0)
        return float(
            np.mean([any(draws.is_known(*s) for s in draws.same(c.prototype, c.elements)) for c in drawn(draws, 20)])
        )

    assert share(0.0) == 0.0
    assert share(1.0) > 0.5


def test_nothing_is_given_twice_and_a_narrow_request_ends(library: PrototypeLibrary) -> None:
    proposer = proposer_with(library, known=1.0)
    draws = DeNovo(proposer, Constraints(1, 60, elements=frozenset({11, 17})), 0)
    found = [draws.draw(k) for k in range(40)]
    given = [(c.prototype, c.elements) for c in found if c is not None]
    assert len(set(given)) == len(given) < 40
    for k, one in enumerate(given):
        assert not set(draws.same(*one)) & set(given[:k])
    # where only known crystals are left, they are given although new ones were wanted
    salt = DeNovo(proposer_with(library), Constraints(2, 2, 225, frozenset({11, 17})), 0)
    assert [sorted(c.elements) for c in drawn(salt, 5)] == [[11, 17]]


def test_draws_are_no_less_plausible_than_their_member(library: PrototypeLibrary) -> None:
    ionic = np.array([plausibility(e[e > 0].tolist(), library.counts[v]) == 2 for v, e in _members(library)])
    found = drawn(DeNovo(proposer_with(library, ionic, temperature=1.0), Constraints(1, 60), 0), 40)
    assert {plausibility(c.elements, library.counts[c.prototype]) for c in found} == {2}
    assert [plausibility(e, c) for e, c in (((11, 17), (1, 1)), ((29, 17), (1, 4)), ((11, 17), (1, 2)))] == [2, 1, 0]


def _members(library: PrototypeLibrary) -> list[tuple[int, np.ndarray]]:
    return [(v, row) for v in range(len(library)) for row in library.members(v)]


def test_substitution_keeps_elements_as_common_as_they_are() -> None:
    rng = np.random.default_rng(0)
    points, frequencies = rng.normal(size=(9, 3)), rng.dirichlet(np.ones(9))
    frequencies[4] = 0.0
    frequencies /= frequencies.sum()
    near = np.exp(-np.linalg.norm(points[:, None] - points[None], axis=-1))
    kernel = near * balance(near, frequencies)
    kernel /= kernel.sum(1, keepdims=True)
    assert np.allclose(frequencies @ kernel, frequencies, atol=1e-6)
    assert np.allclose(kernel[:, 4], 0)


def test_weights_of_members_survive_saving_and_may_be_missing(library: PrototypeLibrary) -> None:
    weight = np.arange(len(library["member_volume"])) % 2
    proposer = proposer_with(library, weight)
    component = prior_component(proposer.library, proposer.ranker)
    assert component.tensors["member_weight"].dtype == torch.uint8
    assert proposer_of(component, denovo_known=0.5).library["member_weight"].tolist() == weight.tolist()
    del component.tensors["member_weight"]
    assert proposer_of(component).library["member_weight"].tolist() == [1] * len(weight)


def test_narrow_requests_of_the_bundled_model_are_met():
    """Few elements: prototypes with more slots than that cannot be filled, and are not tried."""
    from autoperi import AutoPeri
    from autoperi.errors import RequestError
    from autoperi.pipelines.request import element_list

    peri = AutoPeri.from_pretrained()
    from ase.data import chemical_symbols

    others = [s for s in chemical_symbols[1:119] if s not in ("Na", "Cl")]
    assert element_list(others, "exclude_elements")
    found = peri.generate(n=4, exclude_elements=others, space_group=225, seed=0, progress=False)
    assert all({e.symbol for e in s.composition} <= {"Na", "Cl"} for s in found)
    assert {
        e.symbol for s in peri.generate(n=2, chemical_system="Po-O", seed=0, progress=False) for e in s.composition
    } == {"Po", "O"}
    with pytest.raises(RequestError, match="no structure type"):
        peri.generate(n=1, exclude_elements=others, num_elements=3, seed=0, progress=False)


def test_rare_groups_keep_their_variety():
    """One member of the reference does not hide the dozens that are none."""
    from autoperi import AutoPeri
    from autoperi.prior.denovo import Constraints, DeNovo

    proposer = AutoPeri.from_pretrained()._model.find("prior")
    draws = DeNovo(proposer, Constraints(1, 60, space_group=142), seed=0)
    found = [draws.draw(k) for k in range(20)]
    assert len({c.prototype for c in found if c is not None}) > 5
