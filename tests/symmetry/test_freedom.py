"""Free parameters of crystals: exact symmetry, round trips, velocities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.models.potential import Potential
from autoperi.symmetry.analysis import atom_permutations, symmetrize_lattice, symmetrize_vectors
from autoperi.symmetry.freedom import STRAINS, Freedom, Orbit, freedom_of
from autoperi.symmetry.spacegroup import space_group
from autoperi.symmetry.wyckoff import wyckoff_position, wyckoff_positions

FREE_CELL_PARAMETERS = {
    "triclinic": 6,
    "monoclinic": 4,
    "orthorhombic": 3,
    "tetragonal": 2,
    "trigonal": 2,
    "hexagonal": 2,
    "cubic": 1,
}


def reference(number: int, size: float = 6.0) -> np.ndarray:
    return symmetrize_lattice(size * np.eye(3), space_group(number).primitive.rotations)


def build(number: int, letters: str, seed: int = 0) -> tuple[Freedom, torch.Tensor]:
    rng = np.random.default_rng(seed)
    orbits = [Orbit(8 + k, wyckoff_position(number, letter), rng.random(3)) for k, letter in enumerate(letters)]
    return freedom_of([number], [orbits], [reference(number)])


def random_coordinates(freedom: Freedom, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(len(freedom), freedom.width, generator=generator, dtype=torch.float64)
    y[:, :STRAINS] = 0.2 * (y[:, :STRAINS] - 0.5)
    return freedom.space.wrap(y)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 230), st.integers(0, 2**20))
def test_every_choice_of_parameters_keeps_the_group(number, seed):
    positions = wyckoff_positions(number)
    rng = np.random.default_rng(seed)
    letters = "".join(positions[int(k)].letter for k in rng.integers(0, len(positions), 2))
    if len(set(letters)) == 1 and positions[[p.letter for p in positions].index(letters[0])].dof == 0:
        letters = letters[0]
    freedom, _ = build(number, letters, seed)
    crystal = freedom.crystals(random_coordinates(freedom, seed))
    group = space_group(number).primitive
    lattice = crystal.lattice[0].numpy()
    metric = lattice @ lattice.T
    for r in group.rotations:
        np.testing.assert_allclose(r.T @ metric @ r, metric, atol=1e-9)
    # every operation takes each orbit to itself: positions repeat modulo 1, with their multiplicity
    x = crystal.frac_coords.numpy()
    for z in np.unique(crystal.atomic_numbers.numpy()):
        own = x[crystal.atomic_numbers.numpy() == z]
        for r, t in zip(group.rotations, group.translations, strict=True):
            offset = (own @ r.T + t)[:, None] - own[None]
            distance = np.abs(offset - np.rint(offset)).max(-1)
            assert distance.min(1).max() < 1e-7


@pytest.mark.parametrize("number", [1, 2, 5, 12, 47, 62, 75, 136, 146, 166, 194, 221, 225, 227])
def test_as_many_strains_as_free_cell_parameters(number):
    freedom, _ = build(number, wyckoff_positions(number)[-1].letter)
    assert int(freedom.space.present[0, :STRAINS].sum()) == FREE_CELL_PARAMETERS[space_group(number).crystal_system]
    gram = torch.einsum("bkij,blij->bkl", freedom.strains, freedom.strains)
    present = freedom.space.present[0, :STRAINS].to(gram)
    torch.testing.assert_close(gram[0], torch.diag(present), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("number", "letters"),
    [(1, "aaa"), (62, "cca"), (166, "ab" + "c"), (194, "cf"), (225, "ab"), (99, "ab"), (14, "ee")],
)
def test_coordinates_are_the_inverse(number, letters):
    freedom, _ = build(number, letters)
    y = random_coordinates(freedom, 3)
    crystal = freedom.crystals(y)
    s = y[:, STRAINS:].reshape(-1, 3)[: len(freedom.free)]
    turned = (
        crystal.lattice
        @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    )
    back = freedom.coordinates(turned, s)
    difference = freedom.space.difference(back, y)
    torch.testing.assert_close(difference, torch.zeros_like(y), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("number", "letters"), [(1, "aaa"), (62, "cca"), (166, "abc"), (194, "cf"), (99, "abc"), (14, "ee"), (227, "ae")]
)
def test_symmetric_displacements_come_from_their_velocity(number, letters):
    freedom, _ = build(number, letters)
    y = random_coordinates(freedom, 5)
    crystal = freedom.crystals(y)
    group = space_group(number).primitive
    rng = np.random.default_rng(1)
    permutations = atom_permutations(crystal.frac_coords.numpy(), crystal.atomic_numbers.numpy(), group)
    moves = symmetrize_vectors(rng.normal(size=(len(crystal.frac_coords), 3)), group, permutations)
    # the translations that a polar group leaves free move nothing
    moves = torch.as_tensor(moves - moves.mean(0) @ freedom.polar[0].numpy().T)
    rate = freedom.velocity(torch.zeros(1, 3, 3, dtype=torch.float64), moves)
    h = 1e-6
    ahead = freedom.crystals(y + h * rate)
    step = ahead.frac_coords - crystal.frac_coords
    torch.testing.assert_close((step - torch.round(step)) / h, moves, atol=1e-6, rtol=0)


def test_an_equivariant_network_is_already_symmetric():
    torch.manual_seed(0)
    network = Potential(channels=8, layers=2).double()
    freedom, _ = build(62, "cca")
    y = random_coordinates(freedom, 7)
    crystal = freedom.crystals(y)
    found = network(crystal)
    assert found.forces is not None
    fractional = torch.einsum("ni,nij->nj", found.forces, torch.linalg.inv(crystal.lattice)[crystal.batch])
    rate = freedom.velocity(torch.zeros(1, 3, 3, dtype=torch.float64), fractional)
    h = 1e-6
    step = freedom.crystals(y + h * rate).frac_coords - crystal.frac_coords
    torch.testing.assert_close((step - torch.round(step)) / h, fractional, atol=1e-6, rtol=1e-5)


def test_gradients_reach_the_coordinates():
    freedom, _ = build(166, "abc")
    y = random_coordinates(freedom, 2)

    def scalar(at: torch.Tensor) -> torch.Tensor:
        crystal = freedom.crystals(at)
        cart = torch.einsum("ni,nij->nj", crystal.frac_coords, crystal.lattice[crystal.batch])
        return (torch.sin(cart) * torch.arange(1.0, 4.0, dtype=cart.dtype)).sum()

    assert torch.autograd.gradcheck(scalar, y.requires_grad_(), atol=1e-6)


def test_a_batch_is_its_crystals():
    parts = [build(225, "ab"), build(62, "cca"), build(1, "aaaa")]
    joint, _ = freedom_of(
        [225, 62, 1],
        [
            [
                Orbit(8 + k, wyckoff_position(n, letter), np.random.default_rng(0).random((len(letters), 3))[k])
                for k, letter in enumerate(letters)
            ]
            for n, letters in ((225, "ab"), (62, "cca"), (1, "aaaa"))
        ],
        [reference(n) for n in (225, 62, 1)],
    )
    y = random_coordinates(joint, 9)
    whole = joint.crystals(y)
    moves = torch.randn(len(whole.frac_coords), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rates = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    velocity = joint.velocity(rates, moves)
    start = 0
    for b, (freedom, _) in enumerate(parts):
        own = y[b : b + 1, : freedom.width]
        alone = freedom.crystals(own)
        n = len(alone.frac_coords)
        torch.testing.assert_close(alone.lattice[0], whole.lattice[b])
        torch.testing.assert_close(alone.frac_coords, whole.frac_coords[start : start + n])
        torch.testing.assert_close(
            freedom.velocity(rates[b : b + 1], moves[start : start + n])[0], velocity[b, : freedom.width]
        )
        assert not bool(joint.space.present[b, freedom.width :].any())
        start += n
