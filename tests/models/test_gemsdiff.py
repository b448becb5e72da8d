"""What holds of GemsDiff whatever it has learned: equations 7, 9c, 10 and 11 of Klipfel et al. (AAAI 2024)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.lattice import metric
from autoperi.laws import check_lattice_field, permuted, random_orthogonal, rotated, translated
from autoperi.models.gemsdiff import GemsDiff
from autoperi.processes.diffusion import Diffusion, DiffusionState

SMALL: dict[str, Any] = {"channels": 16, "encoder_layers": 1, "layers": 1, "hidden": 16, "knn": 16}


def network(dtype: torch.dtype = torch.float64, **config: Any) -> GemsDiff:
    torch.manual_seed(0)
    model = GemsDiff(**{**SMALL, **config}).to(dtype)
    with torch.no_grad():
        model.field_head.net[-1].weight.mul_(5)  # so that a broken law shows
    return model.eval()


def crystals(seed: int, sizes: tuple[int, ...] = (1, 3, 5)) -> CrystalBatch:
    """Skewed cells of 20 Å³ an atom."""
    g = torch.Generator().manual_seed(seed)
    n = torch.tensor(sizes)
    lattice = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(len(n), 3, 3, generator=g, dtype=torch.float64)
    lattice = lattice * (20.0 * n / torch.linalg.det(lattice).abs()).pow(1 / 3)[:, None, None]
    frac = torch.rand(int(n.sum()), 3, generator=g, dtype=torch.float64)
    return CrystalBatch(lattice, frac, torch.randint(1, 90, (len(frac),), generator=g), n)


def state_of(batch: CrystalBatch, process: Diffusion, seed: int = 0) -> DiffusionState:
    unit = batch.n_atoms.to(torch.float64).pow(1 / 3) * 2.7
    return process.noised(batch, unit, torch.full_like(unit, 0.4), torch.Generator().manual_seed(seed))[0]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 16]), st.floats(0.0, 1.0))
def test_the_action_turns_with_the_crystal_and_knows_no_description(seed: int, knn: int, t: float) -> None:
    model, batch = network(knn=knn), crystals(seed)

    def at(b: CrystalBatch) -> Tensor:
        return torch.full((len(b),), t, dtype=b.lattice.dtype)

    check_lattice_field(lambda b: model.action(b, at(b))[1], batch, seed=seed)
    moves = model.action(batch, at(batch))[0]
    g = torch.Generator().manual_seed(seed)
    rotation = random_orthogonal(g)
    torch.testing.assert_close(model.action(rotated(batch, rotation), at(batch))[0], moves @ rotation.T)
    torch.testing.assert_close(model.action(translated(batch, g), at(batch))[0], moves)
    alone = torch.cat([model.action(batch[k], at(batch[k]))[0] for k in range(len(batch))])
    torch.testing.assert_close(alone, moves)


@pytest.mark.parametrize("decode", ["cube", "cell"])
@pytest.mark.parametrize("lattice", ["algebra", "none", "log_metric"])
def test_a_prediction_knows_no_origin_and_no_order(decode: str, lattice: str) -> None:
    model = network(decode=decode, lattice=lattice)
    batch = crystals(1)
    state = state_of(batch, model.process)
    found = model.predict(state, 0.4, batch)
    assert found.lattice.shape == (3, 3, 3)
    assert float(found.moves.detach().abs().max()) > 1e-3
    for other in (
        translated(batch, torch.Generator().manual_seed(3)),
        permuted(batch, torch.Generator().manual_seed(3)),
    ):
        moved = DiffusionState(state.x, other.frac_coords, other.atomic_numbers, other.n_atoms, state.unit)
        reference = DiffusionState(state.x, batch.frac_coords, batch.atomic_numbers, batch.n_atoms, state.unit)
        expected, again = model.predict(reference, 0.4, batch), model.predict(moved, 0.4, other)
        torch.testing.assert_close(again.lattice, expected.lattice)
        torch.testing.assert_close(again.moves.sort(0).values, expected.moves.sort(0).values)


def test_a_decoder_of_the_cell_turns_with_it_and_one_of_the_cube_does_not_move_it() -> None:
    """Equation 9c acts on the diffused cell; equation 11 on a cube, whatever the cell."""
    for decode in ("cell", "cube"):
        model = network(decode=decode, lattice="log_metric")
        with torch.no_grad():
            for p in model.field_head.parameters():
                p.zero_()  # no action
        state = state_of(crystals(2), model.process)
        found = model.predict(state, 0.4, crystals(2)).lattice
        expected = state.lattice if decode == "cell" else torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
        torch.testing.assert_close(metric(found), metric(expected.contiguous()))


def test_natural_volumes_add_up() -> None:
    model = network()
    with torch.no_grad():
        model.element_volume[[11, 17]] = torch.tensor([20.0, 25.0]).double()
    salt = CrystalBatch.from_list([(torch.eye(3), torch.zeros(3, 3), [11, 17, 17])])
    torch.testing.assert_close(model.unit(salt) ** 3, torch.tensor([70.0], dtype=torch.float64))


def test_a_float32_network_agrees_with_a_float64_one() -> None:
    batch = crystals(4)
    wide, narrow = network(), network(torch.float32)
    state = state_of(batch, wide.process)
    for a, b in zip(wide.predict(state, 0.4, batch), narrow.predict(state, 0.4, batch), strict=True):
        torch.testing.assert_close(a, b.to(a), rtol=1e-3, atol=1e-4)


def test_gradients_of_the_prediction_are_those_of_finite_differences() -> None:
    model, batch = network(knn=0, cutoff=5.0), crystals(5, (2, 3))
    state = state_of(batch, model.process)

    def predicted(x: Tensor, frac: Tensor) -> Tensor:
        found = model.predict(DiffusionState(x, frac, state.atomic_numbers, state.n_atoms, state.unit), 0.4, batch)
        return torch.cat([found.lattice.flatten(), found.moves.flatten()])

    inputs = (state.x.clone().requires_grad_(), state.frac_coords.clone().requires_grad_())
    assert torch.autograd.gradcheck(predicted, inputs, rtol=1e-4, atol=1e-6)


def test_unknown_decoders_are_refused() -> None:
    with pytest.raises(RequestError, match="choose cube or cell"):
        GemsDiff(decode="sphere")
