"""The flow inside generate: free parameters move, and nothing else."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from autoperi import AutoPeri
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.models.orbit_network import OrbitNetwork, tables
from autoperi.pipelines.decoder import Decoder
from autoperi.pipelines.mixture import Mixture
from autoperi.pipelines.prototype_stream import OrbitCandidate, candidates
from autoperi.pipelines.request import make_request
from autoperi.symmetry.analysis import atom_permutations

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stream() -> list[OrbitCandidate]:
    torch.manual_seed(0)
    network = OrbitNetwork(channels=16, layers=1, encoder_layers=1, heads=2)
    network.load_state_dict(tables(), strict=False)
    mixture = Mixture(AutoPeri.from_pretrained()._model.find("prior"), network.double().eval(), share=0.4, novelty=0.9)
    request = make_request("SrTiO3", n=10, num_atoms=5, seed=0)
    found = [p for p in islice(candidates(request, mixture), 24) if p is not None]
    assert {p.origin for p in found} == {"prototype", "orbits"}
    return found


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(1)
    return Decoder(
        AutoPeriGnn(channels=8, layers=1, encoder_layers=1).double().eval(), None, near_steps=2, noise_steps=2, draws=2
    )


def test_group_composition_and_probability_stay(stream: list[OrbitCandidate], decoder: Decoder) -> None:
    moved = decoder(stream, 0)
    assert any(
        not np.allclose(a.lattice @ a.lattice.T, b.lattice @ b.lattice.T) for a, b in zip(stream, moved, strict=True)
    )
    for old, new in zip(stream, moved, strict=True):
        assert (old.index, old.log_p, old.origin, old.prototype) == (new.index, new.log_p, new.origin, new.prototype)
        assert sorted(old.numbers.tolist()) == sorted(new.numbers.tolist())
        assert len(new.orbits) == len(new.numbers)
        atom_permutations(new.frac_coords, new.numbers, new.group, tolerance=1e-6)  # raises where an operation is lost
        metric = new.lattice @ new.lattice.T
        for r in new.group.rotations:
            assert np.allclose(r.T @ metric @ r, metric, atol=1e-6 * metric.max())


def test_each_proposal_by_itself_and_by_its_seed(stream: list[OrbitCandidate], decoder: Decoder) -> None:
    stream = stream[::2]
    together = decoder(stream, 5)
    alone = [decoder([p], 5)[0] for p in stream]
    other = decoder(stream, 6)
    for p, a, b, c in zip(stream, together, alone, other, strict=True):
        assert np.allclose(a.lattice, b.lattice, atol=1e-8)
        assert np.allclose(a.frac_coords, b.frac_coords, atol=1e-8)
        if p.origin == "prototype":  # a start near the answer draws nothing
            assert np.array_equal(a.lattice, c.lattice)
    assert any(
        p.origin == "orbits" and not np.allclose(a.lattice, c.lattice, atol=1e-6)
        for p, a, c in zip(stream, together, other, strict=True)
    )


def test_no_steps_leave_prototypes_as_they_are(stream: list[OrbitCandidate], decoder: Decoder) -> None:
    still = Decoder(decoder.network, None, near_steps=0, noise_steps=1, draws=1)
    for old, new in zip(stream, still(stream, 0), strict=True):
        assert (old is new) == (old.origin == "prototype")


def test_nothing_to_decode(decoder: Decoder) -> None:
    assert decoder([], 0) == []
