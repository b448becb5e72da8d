"""Pools and their order: the best first, copies last, random crystals only where nothing else is left."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autoperi import AutoPeri
from autoperi.pipelines import accept
from autoperi.pipelines.accept import Accepted, Tally, run
from autoperi.pipelines.base import Candidate
from autoperi.pipelines.ranking import Ranker
from autoperi.pipelines.request import make_request
from autoperi.pipelines.settings import Settings


def crystal(
    index: int,
    score: float,
    *,
    energy: float = -1.0,
    volume: float = 30.0,
    group: int = 225,
    log_p: float | None = -1.0,
) -> Accepted:
    """A crystal of a score: what the energies leave open is the log-probability's."""
    lattice = np.eye(3) * volume ** (1 / 3)
    numbers = np.array([11, 17])
    candidate = Candidate(index, lattice, np.zeros((2, 3)), numbers, log_p, "prototype")
    return Scored(candidate, energy, energy, 1.0, group, score)


@dataclasses.dataclass(frozen=True, eq=False)
class Scored(Accepted):
    score: float


@pytest.fixture(autouse=True)
def _scores_as_given(monkeypatch):
    monkeypatch.setattr(Ranker, "score", lambda _, a: a.score if isinstance(a, Scored) else 0.0)


def ranked(candidates: list[Accepted], rank: str) -> list[Accepted]:
    return Ranker(Settings(), rank).order(candidates)


def test_lowest_score_first_and_ties_by_index():
    found = ranked([crystal(2, 1.0, energy=-3), crystal(1, 0.5, energy=-1), crystal(0, 1.0, energy=-2)], "energy")
    assert [f.candidate.index for f in found] == [1, 0, 2]


def test_copies_come_last_and_nothing_is_lost():
    found = ranked(
        [crystal(0, 1.0), crystal(1, 1.1, energy=-1.0004, volume=30.1), crystal(2, 1.2, energy=-0.9)], "energy"
    )
    assert [f.candidate.index for f in found] == [0, 2, 1]


@pytest.mark.parametrize("other", [{"energy": -1.01}, {"volume": 31.0}, {"group": 216}])
def test_what_differs_is_no_copy(other):
    found = ranked([crystal(0, 1.0), crystal(1, 1.1, **other), crystal(2, 1.2, energy=-0.9)], "energy")
    assert [f.candidate.index for f in found] == [0, 1, 2]


def test_other_orders():
    finished = [crystal(0, 1.0, log_p=-3.0), crystal(1, 2.0, log_p=None), crystal(2, 3.0, log_p=-0.5)]
    assert [f.candidate.index for f in ranked(finished, "probability")] == [2, 0, 1]
    assert ranked(finished, "none") == finished


def test_score_is_energy_over_temperature_less_log_probability(monkeypatch):
    monkeypatch.undo()
    rule = Ranker(Settings(energy_temperature=0.5, potential_temperature=0.1))
    assert rule.cost(-2.0, -1.0, -3.0) == -17.0
    assert rule.cost(None, -1.0, -3.0) == 1.0
    assert rule.cost(None, None, -3.0) == 3.0
    assert rule.cost(None, -1.0, None) == 10.0
    assert rule.cost(float("nan"), -1.0, -3.0) == float("inf")


def test_size_of_a_pool():
    rule = Ranker(Settings(pool_least=16, pool_share=1.5))
    assert [rule.pool(make_request("NaCl", n=n)) for n in (1, 10, 20, 200)] == [16, 16, 30, 300]
    assert Ranker(rule.settings, "probability").pool(make_request("NaCl", n=5, rank="probability")) == 5
    assert rule.pool(make_request(None, n=5)) == 5
    assert Ranker(Settings()).pool(make_request("NaCl", n=5)) == 5


def test_one_of_many_is_the_first_of_many():
    peri = AutoPeri.from_pretrained().with_settings(pool_least=8)
    many = peri.generate("MgO", n=8, num_atoms=2, seed=1)
    few = peri.generate("MgO", n=2, num_atoms=2, seed=1)
    assert [s.properties["autoperi"]["index"] for s in few] == [s.properties["autoperi"]["index"] for s in many[:2]]


def test_random_crystals_fill_up_what_is_wanted_and_no_pool():
    peri = AutoPeri.from_pretrained()
    request = make_request("KMgF3", n=2, space_group=221, num_atoms=5, seed=0)
    alone = run(request, peri.pipeline, peri.judge)
    known = [
        f for f in run(dataclasses.replace(request, n=30), peri.pipeline, peri.judge) if f.candidate.origin != "random"
    ]
    for size in (7, 64):
        found = run(request, peri.pipeline, peri.judge, pool=30, batch_size=size)
        assert [f.candidate.index for f in found[:2]] == [f.candidate.index for f in alone]
        assert all(f.candidate.origin != "random" for f in found[2:])
        assert len(found) == max(2, len(known))


def test_hopeless_requests_end_soon_and_the_same_at_any_batch_size(monkeypatch):
    monkeypatch.setattr(accept, "MAX_EMPTY_INDICES", 2)
    peri = AutoPeri.from_pretrained()
    # fixed positions alone, whose crystals always have more symmetry than was asked for
    request = make_request("GaYAg", n=3, space_group=210, num_atoms=12, seed=0)
    tallies = []
    for size in (1, 64):
        tally = Tally()
        assert run(request, peri.pipeline, peri.judge, batch_size=size, tally=tally) == []
        tallies.append(tally)
    assert tallies[0] == tallies[1]
    assert tallies[0].nothing >= 2
    assert tallies[0].tried < 60
