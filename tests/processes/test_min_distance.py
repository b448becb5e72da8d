"""Atoms kept apart on the free parameters of a space group."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.random import torch_generator
from autoperi.geometry.distances import minimum_distance_ratios
from autoperi.models.autoperi_gnn import NOISE as NOISE_START
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.pipelines.flow import sample
from autoperi.processes.flow import crystal_noise
from autoperi.processes.min_distance import FLOW_MIN_DISTANCE_RATIO, keep_apart
from autoperi.symmetry.freedom import Freedom, Orbit, equal_edges, freedom_of
from autoperi.symmetry.wyckoff import wyckoff_positions

torch.set_num_threads(1)
CASES = {
    1: [(8, 0), (3, 0), (8, 0), (14, 0)],
    2: [(22, 0), (8, 8), (8, 8)],
    62: [(20, 2), (8, 3)],
    136: [(22, 0), (8, 5)],
    227: [(12, 0), (13, 3), (8, 4)],
}
"""Elements on Wyckoff positions, by index."""


def crystals(numbers: list[int], volume: float = 12.0) -> tuple[Freedom, torch.Tensor]:
    sites = [[Orbit(z, wyckoff_positions(g)[k], np.array([0.11, 0.23, 0.37])) for z, k in CASES[g]] for g in numbers]
    cells = [
        equal_edges(g) * (volume * sum(o.position.primitive_multiplicity for o in own)) ** (1 / 3)
        for g, own in zip(numbers, sites, strict=True)
    ]
    freedom, s = freedom_of(numbers, sites, cells)
    return freedom, freedom.coordinates(freedom.reference, s)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(CASES)), st.integers(0, 10_000))
def test_atoms_end_apart_within_the_group(number: int, seed: int) -> None:
    freedom, _ = crystals([number])
    noise = crystal_noise(freedom, [torch_generator(seed)])
    start = AutoPeriGnn(channels=4, layers=1, encoder_layers=1).base(freedom, None, NOISE_START).draw(noise)
    end, held = keep_apart(freedom, start)
    ratio = minimum_distance_ratios(freedom.crystals(end))
    assert bool(held.all()) == bool((ratio >= FLOW_MIN_DISTANCE_RATIO - 1e-6).all())
    before = minimum_distance_ratios(freedom.crystals(start))
    if bool((before >= FLOW_MIN_DISTANCE_RATIO).all()):
        assert torch.equal(end, start)  # nothing is done to a crystal that is inside
    assert torch.equal(end * ~freedom.space.present, torch.zeros_like(end))  # only free parameters move


def test_most_random_crystals_can_be_brought_inside() -> None:
    numbers = list(CASES) * 12
    freedom, _ = crystals(numbers)
    network = AutoPeriGnn(channels=4, layers=1, encoder_layers=1)
    start = network.base(freedom, None, NOISE_START).draw(
        crystal_noise(freedom, [torch_generator(0, k) for k in range(len(numbers))])
    )
    inside = minimum_distance_ratios(freedom.crystals(start)) >= FLOW_MIN_DISTANCE_RATIO
    _, held = keep_apart(freedom, start)
    assert float(inside.double().mean()) < 0.5
    assert float(held.double().mean()) > 0.9


def test_each_crystal_by_itself() -> None:
    freedom, _ = crystals(list(CASES))
    start = (
        torch.rand(len(freedom), freedom.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        * freedom.space.present
    )
    start[:, :6] *= 0.1
    together, held = keep_apart(freedom, start)
    for k in range(len(freedom)):
        own = freedom[torch.tensor([k])]
        alone, success = keep_apart(own, start[k : k + 1, : own.width])
        assert torch.allclose(together[k, : own.width], alone[0], atol=1e-9)
        assert bool(success) == bool(held[k])


def test_the_whole_way_of_a_flow_stays_inside() -> None:
    freedom, _ = crystals([136, 62])
    torch.manual_seed(0)
    network = AutoPeriGnn(channels=8, layers=1, encoder_layers=1).double()
    noise = crystal_noise(freedom, [torch_generator(3, k) for k in range(2)])
    with torch.no_grad():
        for steps in (1, 2, 5):
            end = sample(network, freedom, noise, steps=steps, min_distance_ratio=FLOW_MIN_DISTANCE_RATIO)
            assert bool((minimum_distance_ratios(freedom.crystals(end)) >= FLOW_MIN_DISTANCE_RATIO - 1e-6).all())


def test_zero_lets_everything_pass() -> None:
    freedom, y = crystals([1], volume=0.5)
    end, held = keep_apart(freedom, y, min_distance_ratio=0.0)
    assert torch.equal(end, y)
    assert bool(held.all())


def test_what_cannot_move_is_said() -> None:
    """Two atoms on two fixed places of a cubic cell: only the cell can grow, and a few steps do not suffice for a tiny
    one.
    """
    sites = [[Orbit(55, wyckoff_positions(221)[0], np.zeros(3)), Orbit(55, wyckoff_positions(221)[1], np.zeros(3))]]
    freedom, s = freedom_of([221], sites, [equal_edges(221) * 0.2])
    y = freedom.coordinates(freedom.reference, s)
    _, held = keep_apart(freedom, y, max_projections=2)
    assert not bool(held.any())
    end, held = keep_apart(freedom, freedom.coordinates(freedom.reference * 15, s))
    assert bool(held.all())
    assert float(minimum_distance_ratios(freedom.crystals(end))) == pytest.approx(FLOW_MIN_DISTANCE_RATIO, abs=0.1)
