"""Descriptions of a crystal in its space group: all of them are the same crystal, and none is forgotten."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.errors import RequestError
from autoperi.symmetry.equivalents import descriptions
from autoperi.symmetry.normalizer import origin_shifts
from autoperi.symmetry.spacegroup import space_group
from autoperi.symmetry.wyckoff import wyckoff_positions


@settings(max_examples=60, deadline=None)
@given(number=st.integers(1, 230), seed=st.integers(0, 2**20))
def test_each_map_gives_the_shifted_orbit(number, seed):
    rng = np.random.default_rng(seed)
    s = rng.random(3)
    found = descriptions(number)
    description = found[int(rng.integers(len(found)))]
    k = int(rng.integers(len(description.letters)))
    old, new = wyckoff_positions(number)[k], wyckoff_positions(number)[description.letters[k]]
    a, b = description.maps[k]
    orbits = [new.points(r) for r in a @ s + b]
    # one orbit whichever representative is taken, and that of the old parameters moved as a whole
    shift = _shift(number, description)
    moved = (old.points(s) + shift) % 1.0
    for points in orbits:
        assert _same_sets(points, moved), (number, old.label, new.label)


def _shift(number, description):
    """The translation behind a description, from the general position's first map."""
    general = wyckoff_positions(number)[-1]
    a, b = description.maps[-1]
    identity = [r for r in range(len(a)) if np.allclose(a[r], np.eye(3))]
    assert general.dof == 3
    assert identity
    return b[identity[0]] - general.translation


def _same_sets(a, b):
    d = a[:, None] - b[None]
    return bool((np.abs(d - np.rint(d)).max(-1) < 1e-6).any(1).all()) and len(a) == len(b)


@pytest.mark.parametrize(("number", "shifts"), [(1, 27), (2, 8), (62, 8), (225, 2), (227, 2), (19, 8), (229, 1)])
def test_number_of_origins(number, shifts):
    assert len(descriptions(number)) == shifts


@pytest.mark.parametrize("number", [1, 2, 15, 62, 139, 166, 194, 225])
def test_the_group_is_carried_to_itself(number):
    group = space_group(number)
    operations = {
        (r.tobytes(), tuple(np.rint(24 * t).astype(int) % 24))
        for r, t in zip(group.rotations, group.translations, strict=True)
    }
    assert np.abs(origin_shifts(number)[0]).max() == 0
    for shift in origin_shifts(number):
        moved = {
            (r.tobytes(), tuple(np.rint(24 * (t + shift - r @ shift)).astype(int) % 24))
            for r, t in zip(group.rotations, group.translations, strict=True)
        }
        assert moved == operations


def test_general_position_has_one_representative_an_operation():
    for number in (2, 14, 62, 225):
        assert len(descriptions(number)[0].maps[-1][0]) == len(space_group(number))


def test_no_such_group():
    with pytest.raises(RequestError, match="231"):
        descriptions(231)


def test_no_global_state_is_touched():
    before = torch.random.get_rng_state()
    descriptions(14)
    assert torch.equal(before, torch.random.get_rng_state())
