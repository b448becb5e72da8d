"""The flow decoder: invariance, symmetry along the way, exact densities."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoperi.data.random import torch_generator
from autoperi.errors import RequestError
from autoperi.models.autoperi_gnn import NEAR, NOISE, AutoPeriGnn
from autoperi.pipelines import flow
from autoperi.processes.flow import crystal_noise, integrate, log_likelihood
from autoperi.symmetry.analysis import analyse
from autoperi.symmetry.freedom import STRAINS, Freedom, Orbit, equal_edges, freedom_of
from autoperi.symmetry.wyckoff import wyckoff_position

CRYSTALS = ((225, "ab"), (62, "cca"), (194, "cf"), (1, "aaa"))


def model() -> AutoPeriGnn:
    torch.manual_seed(1)
    return AutoPeriGnn(channels=16, layers=2, encoder_layers=1, latent=4, hidden=16).double()


def freedom_and_start(chosen: tuple[tuple[int, str], ...] = CRYSTALS, seed: int = 0) -> tuple[Freedom, torch.Tensor]:
    rng = np.random.default_rng(seed)
    orbits = [
        [Orbit(8 + k, wyckoff_position(g, w), rng.random(3)) for k, w in enumerate(letters)] for g, letters in chosen
    ]
    sizes = [sum(o.position.primitive_multiplicity for o in members) for members in orbits]
    freedom, s = freedom_of(
        [g for g, _ in chosen],
        orbits,
        [equal_edges(g) * (18.0 * n) ** (1 / 3) for (g, _), n in zip(chosen, sizes, strict=True)],
    )
    return freedom, freedom.coordinates(freedom.reference, s)


def field(network: AutoPeriGnn, freedom: Freedom, **options):
    near = torch.zeros(len(freedom), dtype=torch.bool)
    return lambda y, t: network.velocity(y, t, freedom, near=near, **options)


def test_velocity_does_not_see_the_basis_the_frame_or_the_origin():
    network = model()
    freedom, y = freedom_and_start(((1, "aaa"),))
    t = torch.tensor([0.3], dtype=torch.float64)
    base = field(network, freedom)(y, t)
    # another basis: rows T L0, coordinates s T^-1
    transform = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, -1, 1]], dtype=torch.float64)
    other = replace(freedom, reference=transform @ freedom.reference)
    inverse = torch.linalg.inv(transform)
    s = (y[:, STRAINS:].view(-1, 3) @ inverse).reshape(1, -1)
    moved = field(network, other)(torch.cat([y[:, :STRAINS], s], 1), t)
    torch.testing.assert_close(moved[:, :STRAINS], base[:, :STRAINS])
    torch.testing.assert_close(moved[:, STRAINS:].view(-1, 3), base[:, STRAINS:].view(-1, 3) @ inverse)
    # another frame: strains turn with it
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    turned = replace(freedom, reference=freedom.reference @ q, strains=q.T @ freedom.strains @ q)
    torch.testing.assert_close(field(network, turned)(y, t), base)
    # another origin
    shifted = y.clone()
    shifted[:, STRAINS:] += torch.tensor([0.1, 0.37, 0.9], dtype=torch.float64).repeat(3)
    torch.testing.assert_close(field(network, freedom)(shifted, t), base)


@pytest.mark.parametrize("k", range(len(CRYSTALS)))
def test_the_flow_keeps_the_space_group(k):
    network = model()
    freedom, y = freedom_and_start((CRYSTALS[k],))
    end = integrate(field(network, freedom), y, freedom.space, steps=6)
    assert bool((end != y).any())
    crystal = freedom.crystals(end)
    info = analyse(
        crystal.lattice[0].numpy(), crystal.frac_coords.numpy(), crystal.atomic_numbers.numpy(), symprec=1e-6
    )
    assert info.number == CRYSTALS[k][0]


def test_a_sample_does_not_depend_on_its_batchmates():
    network = model()
    freedom, y = freedom_and_start()
    every = integrate(field(network, freedom), y, freedom.space, steps=4)
    for k, crystal in enumerate(CRYSTALS):
        rng_start = y[k : k + 1]
        alone, _ = freedom_and_start((crystal,))
        own = integrate(field(network, alone), rng_start[:, : alone.width], alone.space, steps=4)
        torch.testing.assert_close(own[0], every[k, : alone.width], atol=1e-9, rtol=0)


def test_density_of_a_cubic_crystal_integrates_to_one():
    # rock salt has one free parameter, its volume
    network = model()
    _, y = freedom_and_start(((225, "ab"),))
    grid = torch.linspace(-0.9, 0.9, 361, dtype=torch.float64)
    many, _ = freedom_and_start(((225, "ab"),) * len(grid))
    points = y.repeat(len(grid), 1)
    points[:, 0] = grid
    found = log_likelihood(field(network, many), network.base(many, None, NOISE), points, steps=6)
    assert found.dimensions.tolist() == [1] * len(grid)
    assert float(found.nats.exp().sum() * (grid[1] - grid[0])) == pytest.approx(1.0, abs=1e-3)
    bits = -found.nats[180] / math.log(2)
    assert float(found.bits_per_dimension[180]) == pytest.approx(float(bits))


def test_latent_changes_the_flow_of_those_who_see_it():
    network = model()
    freedom, y = freedom_and_start()
    t = torch.full((len(freedom),), 0.5, dtype=torch.float64)
    none = field(network, freedom)(y, t)
    z = torch.ones(len(freedom), 4, dtype=torch.float64)
    given = torch.tensor([True, False, False, False])
    some = field(network, freedom, z=z, given=given)(y, t)
    assert not torch.allclose(some[0], none[0])
    torch.testing.assert_close(some[1:], none[1:])
    assert not torch.allclose(field(network, freedom, z=z)(y, t)[1:], none[1:])


def test_noise_of_a_crystal_does_not_depend_on_its_batchmates():
    freedom, _ = freedom_and_start()
    every = crystal_noise(freedom, [torch_generator(3, k) for k in range(len(CRYSTALS))])
    for k, crystal in enumerate(CRYSTALS):
        alone, _ = freedom_and_start((crystal,))
        own = crystal_noise(alone, [torch_generator(3, k)])
        assert torch.equal(own[0], every[k, : alone.width])
        assert bool((every[k, alone.width :] == 0).all())


def test_bases_start_where_they_should():
    network = model()
    freedom, y = freedom_and_start()
    noise = torch.randn(len(freedom), freedom.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = network.base(freedom, y, NEAR).draw(0.0 * noise)
    torch.testing.assert_close(freedom.space.difference(near, y), torch.zeros_like(y))
    far = network.base(freedom, None, NOISE)
    assert bool(torch.isfinite(far.log_prob(far.draw(noise))).all())
    # uniform positions: their value does not change the density
    moved = far.draw(noise)
    other = freedom.space.wrap(torch.cat([moved[:, :STRAINS], moved[:, STRAINS:] + 0.31], 1))
    torch.testing.assert_close(far.log_prob(moved), far.log_prob(other))


def test_encoder_is_invariant():
    network = model()
    freedom, y = freedom_and_start()
    crystals = freedom.crystals(y)
    mean, log_variance = network.encode(crystals)
    assert mean.shape == log_variance.shape == (len(freedom), 4)
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    turned, _ = network.encode(
        crystals.replace(lattice=crystals.lattice @ q, frac_coords=(crystals.frac_coords + 0.4) % 1)
    )
    torch.testing.assert_close(turned, mean)


def test_samples_and_likelihoods_of_a_mixed_batch_are_those_of_its_crystals():
    network = model()
    chosen = ((225, "ab"), (1, "a" * 15), (62, "cca"))
    freedom, y = freedom_and_start(chosen)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    probes = torch.randint(0, 2, (3, *y.shape), generator=generator).to(y) * 2 - 1
    drawn = flow.sample(network, freedom, noise, steps=3)
    likelihood = flow.log_likelihood(network, freedom, drawn, steps=2, probes=probes)
    assert likelihood.dimensions.tolist() == [1, 51, 7]
    assert (likelihood.standard_error > 0).tolist() == [False, True, False]
    for k, crystal in enumerate(chosen):
        alone, _ = freedom_and_start((crystal,))
        own = flow.sample(network, alone, noise[k : k + 1, : alone.width], steps=3)
        torch.testing.assert_close(own[0], drawn[k, : alone.width], atol=1e-9, rtol=0)
        found = flow.log_likelihood(network, alone, own, steps=2, probes=probes[:, k : k + 1, : alone.width])
        torch.testing.assert_close(found.nats[0], likelihood.nats[k], atol=1e-7, rtol=0)
    with pytest.raises(RequestError, match="give probes"):
        flow.log_likelihood(network, freedom, drawn, steps=2)


def test_starting_near_a_crystal_gives_another_density():
    network = model()
    freedom, y = freedom_and_start(((62, "cca"),))
    near = flow.log_likelihood(network, freedom, y, centre=y, steps=2)
    far = flow.log_likelihood(network, freedom, y, steps=2)
    assert float(near.nats[0]) > float(far.nats[0]) + 3


def test_annealed_samples_move_coordinates_alone_and_depend_on_no_batchmates():
    network = model()
    freedom, y = freedom_and_start()
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, quick = (flow.sample(network, freedom, noise, steps=1, method="euler", anneal=a) for a in (0.0, 5.0))
    torch.testing.assert_close(plain, quick)  # there is no sooner in one step
    plain, quick = (flow.sample(network, freedom, noise, steps=4, method="euler", anneal=a) for a in (0.0, 5.0))
    free = freedom.space.present[:, STRAINS:].any(1)
    assert bool((plain != quick)[free].any())
    torch.testing.assert_close(plain[~free], quick[~free])
    for k, crystal in enumerate(CRYSTALS):
        alone, _ = freedom_and_start((crystal,))
        own = flow.sample(network, alone, noise[k : k + 1, : alone.width], steps=4, method="euler", anneal=5.0)
        torch.testing.assert_close(own[0], quick[k, : alone.width], atol=1e-9, rtol=0)
        info = analyse(*(x.numpy() for x in alone.crystals(own).unbatch()[0]), symprec=1e-6)
        assert info.number == crystal[0]


def test_of_several_draws_the_one_nearest_to_z_is_the_reconstruction():
    network = model()
    freedom, y = freedom_and_start()
    how = {"steps": 2, "method": "euler"}
    noise = torch.stack(
        [crystal_noise(freedom, [torch_generator(k, b) for b in range(len(CRYSTALS))]) for k in range(4)]
    )
    with torch.no_grad():
        z, _ = network.encode(freedom.crystals(y))
        each = [flow.reconstruct(network, freedom, z, own.unsqueeze(0), **how) for own in noise]
        found, distance = flow.reconstruct(network, freedom, z, noise, **how)
        torch.testing.assert_close(each[0][0], flow.sample(network, freedom, noise[0], z=z, **how))
        apart = torch.stack([d for _, d in each])
        torch.testing.assert_close(distance, apart.min(0).values)
        for b, k in enumerate(apart.argmin(0).tolist()):
            torch.testing.assert_close(found[b], each[k][0][b])
        torch.testing.assert_close((network.encode(freedom.crystals(found))[0] - z).square().sum(1), distance)
        # whatever the order of the draws
        torch.testing.assert_close(flow.reconstruct(network, freedom, z, noise.flip(0), **how)[0], found)
