"""The prior and the orbit network, mixed into one distribution."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from autoperi import AutoPeri
from autoperi.models.orbit_network import OrbitNetwork, tables
from autoperi.pipelines.mixture import Mixture, NewOrbits
from autoperi.pipelines.prototype_stream import candidates
from autoperi.pipelines.request import make_request
from autoperi.prior.propose import Decoration, Proposer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def proposer() -> Proposer:
    return AutoPeri.from_pretrained()._model.find("prior")


@pytest.fixture(scope="module")
def network() -> OrbitNetwork:
    torch.manual_seed(0)
    model = OrbitNetwork(channels=16, layers=1, encoder_layers=1, heads=2)
    model.load_state_dict(tables(), strict=False)
    return model.double().eval()


def test_without_a_network_it_is_the_prior(proposer: Proposer) -> None:
    mixture = Mixture(proposer, None, share=0.4, novelty=0.01)
    found, plain = (
        mixture.answers([38, 22, 8], [1, 1, 3], limit=20),
        proposer.decorations([38, 22, 8], [1, 1, 3], limit=20),
    )
    assert [vars(a) for a in found] == [vars(c) for c in plain]


@pytest.mark.parametrize("group", [None, 221])
@pytest.mark.parametrize(("elements", "counts"), [([38, 22, 8], [1, 1, 3]), ([17, 11], [1, 1])])
def test_probabilities_add_up_to_one(proposer: Proposer, network: OrbitNetwork, elements, counts, group) -> None:
    found = Mixture(proposer, network, share=0.4, novelty=0.05).answers(elements, counts, limit=512, space_group=group)
    total = sum(math.exp(a.log_p) for a in found)
    assert total <= 1 + 1e-9
    # what is lacking are new orbits beyond those that are looked at: part of the novelty
    assert total > 1 - 0.05 / 0.6
    assert [a.log_p for a in found] == sorted((a.log_p for a in found), reverse=True)
    if group is not None:
        groups = {
            a.space_group if isinstance(a, NewOrbits) else int(proposer.library["space_group"][a.prototype])
            for a in found
        }
        assert groups == {group}


def test_shares_of_nothing_leave_the_order_of_the_prior(proposer: Proposer, network: OrbitNetwork) -> None:
    mixed = Mixture(proposer, network, share=0.0, novelty=0.0).answers([38, 22, 8], [1, 1, 3], limit=50)
    plain = proposer.decorations([38, 22, 8], [1, 1, 3], limit=50)
    assert all(isinstance(a, Decoration) for a in mixed)
    assert [a.log_p for a in mixed] == pytest.approx([c.log_p for c in plain], abs=1e-6)


def test_new_orbits_become_proposals_of_the_composition(proposer: Proposer, network: OrbitNetwork) -> None:
    mixture = Mixture(proposer, network, share=0.4, novelty=0.9)
    request = make_request("SrTiO3", n=10, num_atoms=5, seed=0)
    stream = [p for p in islice(candidates(request, mixture), 40) if p is not None]
    new = [p for p in stream if p.origin == "orbits"]
    assert new
    for p in new:
        assert sorted(p.numbers.tolist()) == [8, 8, 8, 22, 38]
        assert p.sites is not None
        assert sum(o.position.primitive_multiplicity for o in p.sites) == 5
        assert len(p.group.rotations)
    assert [p.index for p in stream] == list(range(len(stream)))
