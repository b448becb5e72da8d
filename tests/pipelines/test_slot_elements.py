"""Which elements and groups a one-shot generator draws."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from autoperi.errors import RequestError
from autoperi.pipelines.request import make_request
from autoperi.pipelines.slot_elements import SlotElements
from autoperi.symmetry.base_sites import in_slots

KNOWN = {225: [(11, 17)] * 6 + [(12, 8)] * 2, 221: [(55, 17)] * 2 + [(38, 22, 8), (56, 22, 8), (19, 12, 9)]}


def tables() -> tuple[np.ndarray, np.ndarray]:
    counts = np.zeros((231, 3, 3, 119), dtype=np.int16)  # as a model has it
    together = np.zeros((119, 119), dtype=bool)
    for group, crystals in KNOWN.items():
        for own in crystals:
            assert in_slots(own) == list(own)
            for slot, z in enumerate(own):
                counts[group, len(own) - 1, slot, z] += 1
                together[z, list(own)] = True
    return counts, together


def drawn(n: int = 400, **options: Any) -> list[tuple[int, tuple[int, ...]]]:
    elements = SlotElements.of_request(*tables(), make_request(**options))
    found = [elements.draw(np.random.default_rng(k)) for k in range(n)]
    return [(group, tuple(own)) for group, own in found]  # type: ignore[misc]


def test_groups_and_numbers_of_elements_as_often_as_they_occur() -> None:
    often = Counter((group, len(own)) for group, own in drawn(2000))
    assert often[225, 2] / 2000 == pytest.approx(8 / 13, abs=0.04)
    assert often[221, 3] / 2000 == pytest.approx(3 / 13, abs=0.04)


def test_elements_mix_where_all_have_met() -> None:
    pairs = {own for group, own in drawn() if group == 225}
    assert pairs == {(11, 17), (12, 8)}  # sodium and oxygen never met
    triples = {own for _, own in drawn(num_elements=3)}
    assert triples == {(38, 22, 8), (56, 22, 8), (19, 12, 9)}


def test_what_a_request_leaves() -> None:
    assert {group for group, _ in drawn(space_group=221)} == {221}
    assert {own for _, own in drawn(exclude_elements="Cl")} == {(12, 8), (38, 22, 8), (56, 22, 8), (19, 12, 9)}
    of_system = Counter(group for group, own in drawn(chemical_system="Cl-Na") if own == (11, 17))
    assert of_system[225] > of_system[221] > 0  # a group that never had sodium is rare, not impossible
    assert of_system.total() == 400


def test_a_number_of_atoms_leaves_what_fits() -> None:
    assert {len(own) for _, own in drawn(num_atoms=2)} == {2}
    assert {len(own) for _, own in drawn(num_atoms=(97, 100))} == {3}  # 48 operations for each element


def test_atoms_are_sums_of_what_the_positions_of_a_group_hold() -> None:
    """Primitive cells of 225: orbits of 1, 1, 2, 6, 8, …; of 221: 1, 1, 3, 3, 6, …."""
    assert {group for group, _ in drawn(num_atoms=4, num_elements=2)} == {221}
    for number, group in ((5, 227), (6, 62)):
        counts, together = tables()
        counts[group] = counts[225]
        with pytest.raises(RequestError, match=f"space group {group} is none of those"):
            SlotElements.of_request(counts, together, make_request(num_atoms=number, space_group=group))


def test_excluded_elements_leave_a_group_what_it_has_without_them() -> None:
    often = Counter(group for group, own in drawn(2000, exclude_elements="O", num_elements=2))
    assert often[225] / 2000 == pytest.approx(6 / 8, abs=0.04)
    counts, together = tables()
    counts[225, 1, 0, 11] += 90  # crystals of sodium and oxygen
    counts[225, 1, 1, 8] += 90
    found = SlotElements.of_request(counts, together, make_request(exclude_elements="O", num_elements=2))
    assert found.weight[225].sum() / found.weight[221].sum() == pytest.approx(6 / 2)


def test_what_a_chemical_system_does_not_hold_may_be_excluded() -> None:
    assert drawn(chemical_system="Na-Cl", exclude_elements="O,F,Mg") == drawn(chemical_system="Na-Cl")


def test_a_draw_depends_on_its_generator_alone() -> None:
    elements = SlotElements.of_request(*tables(), make_request())
    forward = [elements.draw(np.random.default_rng(k)) for k in range(20)]
    again = SlotElements.of_request(*tables(), make_request())
    assert forward == [again.draw(np.random.default_rng(k)) for k in range(20)]


def test_refusals_name_what_there_is() -> None:
    for options, words in (
        ({"space_group": 62}, "space group 62 is none .* it knows 221, 225"),
        ({"space_group": 225, "num_elements": 3}, "space group 225 is none .* it knows 221"),
        ({"num_elements": 4}, r"num_elements=\(4, 4\); this model makes crystals of 2 or 3 elements"),
        ({"chemical_system": "Na"}, "chemical_system of 1 elements; this model makes crystals of 2 or 3"),
        ({"chemical_system": "Na-Au"}, "Au occurs in no crystal"),
        ({"chemical_system": "Na-Cl", "num_elements": 3}, "num_elements"),
        (
            {"space_group": 221, "exclude_elements": "Cl,O,F"},
            "space group 221 is none .* it knows|leaves this model no",
        ),
        ({"exclude_elements": "Cl,O,F"}, "exclude_elements=O, F, Cl leaves this model no crystals"),
        # sodium and oxygen are left, which never met
        ({"exclude_elements": "Cl,Mg,Sr,Ba,K"}, "leaves this model no crystals"),
        ({"num_atoms": 1}, r"num_atoms=\(1, 1\) fits no crystal"),
        ({"num_atoms": (1, 2), "num_elements": 3}, r"num_atoms=\(1, 2\) fits no crystal"),
        ({"num_atoms": (1, 2), "chemical_system": "Sr-Ti-O"}, r"num_atoms=\(1, 2\) fits no crystal"),
        ({"num_atoms": (145, 150)}, r"num_atoms=\(145, 150\) fits no crystal"),
    ):
        with pytest.raises(RequestError, match=words) as caught:
            SlotElements.of_request(*tables(), make_request(**options))
        assert "\n" not in str(caught.value)
