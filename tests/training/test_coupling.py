"""Paths to the nearest description: the crystal stays, the way gets shorter, and the choice is the best there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from autoperi.data.convert import to_arrays, to_structures
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.testing import tiny_crystals
from autoperi.training.coupling import nearest_ends
from autoperi.training.orbit_data import orbit_crystals
from autoperi.training.tasks.autoperi_gnn import AutoPeriGnnTask


@pytest.fixture(scope="module")
def chosen():
    lattice = Lattice.from_parameters(4.1, 5.2, 6.3, 81, 95, 102)
    skewed = Structure(
        lattice, ["O", "O", "O", "Ti"], [[0.1, 0.2, 0.3], [0.6, 0.5, 0.8], [0.35, 0.9, 0.55], [0.8, 0.05, 0.15]]
    )
    pairs = Structure.from_spacegroup(
        62, Lattice.orthorhombic(10, 6, 4.7), ["Fe", "O", "O"], [[0.1, 0.25, 0.2], [0.3, 0.05, 0.3], [0.4, 0.6, 0.1]]
    )
    data, failed = orbit_crystals([to_arrays(c) for c in [*tiny_crystals(), skewed, pairs]])
    assert failed == []
    return data.take(torch.arange(len(data)))[0]


def _length(chosen, start, end):
    _, moves = chosen.freedom.displacements(chosen.freedom.space.difference(start, end))
    crystal = chosen.freedom.crystal[chosen.freedom.orbit]
    square = torch.einsum("ni,nij->nj", moves, chosen.freedom.reference[crystal]).square().sum(1)
    return torch.zeros(len(chosen), dtype=square.dtype).index_add(0, crystal, square)


@pytest.mark.parametrize("seed", range(3))
def test_same_crystal_and_no_longer_way(chosen, seed):
    start = chosen.freedom.space.wrap(
        torch.rand(chosen.y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    end = nearest_ends(chosen.choices, chosen.freedom, start, chosen.y)
    before, after = _length(chosen, start, chosen.y), _length(chosen, start, end)
    assert bool((after <= before + 1e-6).all())
    assert float(after.sum()) < 0.7 * float(before.sum())
    assert torch.equal(end[:, :6], chosen.y[:, :6])
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1)
    for a, b in zip(
        to_structures(chosen.freedom.crystals(chosen.y)), to_structures(chosen.freedom.crystals(end)), strict=True
    ):
        assert matcher.fit(a, b), a.composition


def test_nearest_by_trying_every_exchange(chosen):
    """Against every permutation, representative and shift, for a crystal small enough."""
    for own in (c for c in chosen.choices if len(c.kind) <= 4 and len(c.shifted) <= 27):
        n = len(own.kind)
        rng = np.random.default_rng(n)
        start, metric = rng.random((n, 3)), np.stack([np.diag(rng.random(3)) for _ in range(n)])
        least = np.inf
        for s, order in itertools.product(range(len(own.shifted)), itertools.permutations(range(n))):
            if any(own.shifted[s, j] != own.kind[i] for i, j in enumerate(order)):
                continue
            total = 0.0
            for i, j in enumerate(order):
                reps = own.parameters[s, j]
                d = reps[~np.isnan(reps).any(-1)] - start[i]
                d -= np.floor(d + 0.5)
                total += np.einsum("ra,ab,rb->r", d, metric[i], d).min()
            least = min(least, total)
        d = own.nearest(start, metric) - start
        d -= np.floor(d + 0.5)
        assert np.einsum("ia,iab,ib->", d, metric, d) == pytest.approx(least, abs=1e-9)


def test_only_the_rows_that_are_asked_for(chosen):
    start = chosen.freedom.space.wrap(
        torch.rand(chosen.y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    )
    rows = torch.arange(len(chosen)) % 2 == 0
    end = nearest_ends(chosen.choices, chosen.freedom, start, chosen.y, rows=rows)
    assert torch.equal(end[~rows], chosen.y[~rows])
    assert torch.equal(end[rows], nearest_ends(chosen.choices, chosen.freedom, start, chosen.y)[rows])


def test_the_loss_of_coupled_paths_is_smaller_for_a_network_at_rest(chosen):
    torch.manual_seed(0)
    model = AutoPeriGnn(channels=8, layers=1, encoder_layers=1).double()
    for p in model.field_head.parameters():
        torch.nn.init.zeros_(p)
    errors = []
    for ends in ("given", "nearest"):
        task = AutoPeriGnnTask(model, total_steps=1, near_share=0.0, ends=ends)
        found = task.losses(model, chosen, torch.Generator().manual_seed(0))
        errors.append(float(found["error"].detach().mean()))
    assert errors[1] < 0.9 * errors[0]
