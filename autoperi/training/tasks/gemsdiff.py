"""Training of GemsDiff (Klipfel et al., AAAI 2024, Algorithm 1)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.errors import RequestError
from autoperi.geometry.lattice import change_basis, exponent_to, lengths_angles
from autoperi.geometry.lie_algebra import from_algebra
from autoperi.geometry.reduction import niggli_reduce
from autoperi.models.gemsdiff import GemsDiff
from autoperi.prior.learn import additive_volumes
from autoperi.processes.diffusion import SHAPE_SPREAD, spread
from autoperi.training.coupling import nearest_ways
from autoperi.training.data import TensorCrystals
from autoperi.training.request import Sources, TrainingRequest
from autoperi.training.tasks.base import Batch, CrystalTask
from autoperi.units import MAX_ATOMIC_NUMBER

ENDS = ("given", "nearest")
"""Where the ways of atoms end: at the atom that each was, or so that all together are shortest."""


class GemsDiffTask(CrystalTask):
    """L = L^ρ + L^x (equations 15 and 20) at a time of the schedule drawn for each crystal.

    L^x is the squared error of the shortest way home. L^ρ is that of the cell parameters of the posterior mean that
    follows from the predicted cell, lengths in units of the natural cube's edge and angles in radians; where cells do
    not diffuse, that of the predicted cell itself. With ``weighted``, both are in units of the noise at a time, so that
    all times count alike (the factor 1/2σ² of equation 19, which equation 20 leaves out): L^x is that of displacements
    in the natural cube, L^ρ that of the exponent which takes what the decoder acts on to the true cell.

    Args:
        model: the network.
        weighted: see above.
        ends: ``given``, or ``nearest``: the shortest way may also exchange equal atoms and shift the origin, which the
            network sees nothing of (:func:`~autoperi.training.coupling.nearest_ways`).

    Raises:
        RequestError: other ends.
    """

    defaults: ClassVar[dict[str, Any]] = {"epochs": 512, "batch_size": 128, "learning_rate": 1e-3, "ema": 0.995}

    def __init__(self, model: GemsDiff, *, weighted: bool = False, ends: str = "given", **options: Any) -> None:
        super().__init__(model, **options)
        _check(ends)
        self.weighted, self.ends = weighted, ends

    @classmethod
    def check_options(cls, options: dict[str, Any], request: TrainingRequest) -> dict[str, Any]:  # noqa: ARG003
        """The options, where they make a run.

        Raises:
            RequestError: other ends.
        """
        _check(options.get("ends", "given"))
        return options

    @classmethod
    def sources(cls, request: TrainingRequest) -> Sources:
        """Crystals in their Niggli cells, and the volumes of elements that the network starts with."""
        train, val, _ = super().sources(request)
        assert isinstance(train, TensorCrystals)
        assert isinstance(val, TensorCrystals)
        crystals = train.crystals
        counts = torch.zeros(len(crystals), MAX_ATOMIC_NUMBER + 1)
        counts.index_put_((crystals.batch, crystals.atomic_numbers), torch.tensor(1.0), accumulate=True)
        volumes = torch.as_tensor(additive_volumes(counts.double().numpy(), crystals.volume.double().numpy()))
        return Sources(in_niggli_cells(train), in_niggli_cells(val), {"element_volume": volumes.float()})

    def losses(self, network: nn.Module, crystals: CrystalBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """L^ρ and L^x."""
        assert isinstance(network, GemsDiff)
        process = network.process
        t = torch.randint(1, process.schedule_steps + 1, (len(crystals),), generator=generator) / process.schedule_steps
        t, unit = t.to(crystals.lattice), network.unit(crystals).to(crystals.lattice)
        state, way = process.noised(crystals, unit, t, generator)
        if self.ends == "nearest":
            way = nearest_ways(state.frac_coords, crystals.frac_coords, crystals.atomic_numbers, crystals.n_atoms)
        found = network.predict(state, t, crystals)
        truth = crystals.lattice / unit[:, None, None]
        cell, atoms = (1 - kept for kept in process.kept(t))
        off = found.moves - way
        if self.weighted:
            # in edges of the natural cube, over the variance of the noise at that time
            off = torch.einsum("ni,nij->nj", off, state.lattice[crystals.batch])
            position = ((off**2).sum(-1) / atoms[crystals.batch]).mean()
            # the exponents that were said and that are wanted, of what the decoder acts on
            acts = network.decode == "cell"
            start = state.lattice if acts else torch.eye(3).to(truth).expand_as(truth)
            error = exponent_to(start, found.lattice) - exponent_to(start, truth)
            lattice = ((error**2).sum((-1, -2)) / (SHAPE_SPREAD**2 * (cell if acts else 1.0))).mean()
            return lattice, position
        position = (off**2).sum(-1).mean()
        if process.moves_cells:
            before = t - 1 / process.schedule_steps
            ends = (process.coordinates(found.lattice), process.coordinates(truth))
            means = [from_algebra(process.posterior(state.x, end, t, before)[0] * spread(end)) for end in ends]
        else:
            means = [found.lattice, truth]
        return parameter_error(*means), position

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        lattice, position = self.losses(self.model, batch[0], self.generator(batch_idx, self.current_epoch))
        self._tell("train", lattice, position, len(batch[0]))
        return lattice + position

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        generator = torch_generator(self.seed, 2**31, self.place(batch_idx))
        with torch.no_grad():
            self._tell("val", *self.losses(self.average.module, batch[0], generator), len(batch[0]))

    def _tell(self, stage: str, lattice: Tensor, position: Tensor, n: int) -> None:
        for name, value in (("loss", lattice + position), ("lattice", lattice), ("position", position)):
            self.log(f"{stage}_{name}", value, batch_size=n)


def _check(ends: str) -> None:
    if ends not in ENDS:
        raise RequestError(f"ends={ends!r} is not known; choose {' or '.join(ENDS)}")


def parameter_error(found: Tensor, truth: Tensor) -> Tensor:
    """‖p(L) - p(L')‖² of lengths and angles in radians (equation 15), the mean over lattices ``[B, 3, 3]``; no rotation
    changes it.
    """
    (a, x), (b, y) = lengths_angles(found), lengths_angles(truth)
    return ((a - b) ** 2).sum(-1).mean() + (torch.deg2rad(x - y) ** 2).sum(-1).mean()


def in_niggli_cells(data: TensorCrystals) -> TensorCrystals:
    """The same crystals, each in its Niggli cell."""
    transform = niggli_reduce(data.crystals.lattice.double())[1]
    crystals = change_basis(data.crystals.to(dtype=torch.float64), transform).to(dtype=torch.float32)
    return TensorCrystals(crystals, data.labels, data.atom_labels)
