"""Training of the lattice relaxer: a few passes in a row, each asked for the exponent that is left and for how sure it
is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.geometry.lattice import change_basis, exponent_to, lengths_angles, symmetric_exp, symmetric_matrix
from autoperi.geometry.reduction import niggli_reduce
from autoperi.models.lattice_relaxer import LatticeRelaxer
from autoperi.processes.lattice import lattice_step
from autoperi.symmetry.analysis import analyse
from autoperi.training.tasks.base import Batch, CrystalTask

START_SHARES = {"clean": 0.1, "strained": 0.35, "symmetric": 0.15, "cube": 0.4}
"""How the crystals of a batch begin: as they are; strained; strained without a loss of symmetry; in a cube of the
volume V̂.
"""
SIGMA_RANGE = (0.003, 0.3)
"""Standard deviations of the entries of a strain, drawn log-uniformly."""
MIN_EXPONENT_FOR_ALL_PASSES = 0.25
"""Exponent, |tr A|/√3 + ‖A - I tr A/3‖, from which a start goes through all passes: that of nearly all cubes."""
MIN_SPREAD = 2e-3
"""Added to a predicted spread (a strain): a network gains nothing by being surer than this."""


def split_norms(strain: Tensor) -> Tensor:
    """Sizes ``[B, 2]`` of the volume part, |tr A|/√3, and of the shape, ‖A - I tr A/3‖, of symmetric ``[B, 3, 3]``;
    differentiable at zero.
    """
    trace = strain.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = (strain**2).sum((-1, -2))
    return torch.stack([trace.abs() / 3**0.5, torch.sqrt((square - trace**2 / 3).clamp(min=0.0) + 1e-12)], -1)


class LatticeRelaxerTask(CrystalTask):
    """A few passes from each start, detached from one another; after each, the exponent to the true cell is asked for.

    The loss of a pass is, for volume and shape by themselves, e/b + log b + ``absolute`` e with e the error that is
    left and b the predicted spread: the likelihood of a Laplace distribution, which weighs crystals by what can be
    known of them, plus the plain error.

    Args:
        model: the network.
        passes: in a row; starts that are nearer than :data:`MIN_EXPONENT_FOR_ALL_PASSES` go through half of them.
        absolute: weight of the plain error, per unit of strain.
        rattle: largest standard deviation of the displacement of atoms in Å, in ``rattled`` of the strained crystals.
        rattled: share.
        options: of :class:`~autoperi.training.tasks.base.CrystalTask`.
    """

    def __init__(
        self,
        model: LatticeRelaxer,
        *,
        passes: int = 4,
        absolute: float = 10.0,
        rattle: float = 0.05,
        rattled: float = 0.2,
        warmup: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(model, warmup=warmup, **options)
        self.passes, self.absolute, self.rattle, self.rattled = passes, absolute, rattle, rattled
        self._projections: dict[int, Tensor] = {}

    @property
    def relaxer(self) -> LatticeRelaxer:
        """The network that is trained."""
        assert isinstance(self.model, LatticeRelaxer)
        return self.model

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        crystals, labels = batch
        generator = self.generator(batch_idx, self.current_epoch)
        start, truth = self.starts(crystals, labels["row"], generator)
        state = start
        volumes = (torch.log(self.relaxer.natural_volume(crystals)) - torch.log(crystals.volume)).abs().mean()
        losses = []
        for k in range(self.passes):
            if k == self.passes // 2:  # only cubes have far to go
                exponent = split_norms(exponent_to(start.lattice, truth)).sum(-1)
                far = (exponent > MIN_EXPONENT_FOR_ALL_PASSES).nonzero().squeeze(-1)
                state, truth = state[far], truth[far]
                if not len(far):
                    break
            step = self.relaxer.step(state)
            left = split_norms(step.strain - exponent_to(state.lattice, truth))
            spread = step.spread + MIN_SPREAD
            losses.append((left / spread + torch.log(spread) + self.absolute * left).sum(-1))
            state = lattice_step(state, step.strain.detach())
        loss = torch.cat(losses).mean()
        self.log("train_loss", loss, batch_size=len(crystals))
        self.log("train_error", left.sum(-1).mean(), batch_size=len(crystals))
        return loss + volumes

    def starts(self, crystals: CrystalBatch, rows: Tensor, generator: torch.Generator) -> tuple[CrystalBatch, Tensor]:
        """Start crystals of :data:`START_SHARES`, and the lattices that they should end in, ``[B, 3, 3]`` in the same
        basis.

        Args:
            crystals: B relaxed crystals.
            rows: which rows of the training data they are, ``[B]``.
            generator: CPU generator.
        """
        b = len(crystals)
        edges = torch.cumsum(torch.tensor(list(START_SHARES.values())), 0)[:-1]
        kind = torch.bucketize(torch.rand(b, generator=generator), edges).to(crystals.lattice.device)
        low, high = (float(np.log(s)) for s in SIGMA_RANGE)
        sigma = torch.exp(low + (high - low) * torch.rand(b, generator=generator)).to(crystals.lattice)
        entries = torch.randn(b, 6, generator=generator).to(crystals.lattice)
        rattled = torch.rand(b, generator=generator).to(crystals.lattice) < self.rattled
        rattle = self.rattle * torch.rand(b, generator=generator).to(crystals.lattice) * (rattled & (kind == 1))
        moves = torch.randn(len(crystals.atomic_numbers), 3, generator=generator).to(crystals.lattice)
        # cubes of the Niggli cell mostly, of the cell as it is given else
        given = torch.rand(b, generator=generator) < 0.2
        for k in (kind == 2).nonzero().squeeze(-1).tolist():
            entries[k] = self._projection(int(rows[k]), crystals, k).to(entries) @ entries[k]
        strain = symmetric_matrix(entries) * (sigma * ((kind == 1) | (kind == 2)))[:, None, None]
        inverse = torch.linalg.inv(crystals.lattice)[crystals.batch]
        fractional = torch.einsum("ni,nij->nj", moves * rattle[crystals.batch, None], inverse)
        cube = (kind == 3).nonzero().squeeze(-1)
        if len(cube):
            reduce = cube[~given.to(cube.device)[cube]]
            transform = torch.eye(3, dtype=torch.long, device=cube.device).repeat(b, 1, 1)
            if len(reduce):
                transform[reduce] = niggli_reduce(crystals.lattice[reduce])[1].to(transform)
            crystals = change_basis(crystals, transform)
        start = crystals.lattice @ symmetric_exp(strain)
        if len(cube):
            with torch.no_grad():
                edge = self.relaxer.natural_volume(crystals)[cube].pow(1 / 3)
            start[cube] = edge[:, None, None] * torch.eye(3, dtype=start.dtype, device=start.device)
        return crystals.replace(lattice=start, frac_coords=crystals.frac_coords + fractional), crystals.lattice

    def _projection(self, row: int, crystals: CrystalBatch, k: int) -> Tensor:
        """Projection of six strain entries onto those that keep the crystal's point group, ``[6, 6]``; found once a
        row.
        """
        if row not in self._projections:
            crystal = crystals[k].to(dtype=torch.float64, device="cpu")
            lattice, coords, numbers = (t.numpy() for t in crystal.unbatch()[0])
            found = analyse(lattice, coords, numbers, symprec=0.05, on_failure="p1")
            rotations = np.asarray(found.rotations, dtype=np.float64)
            # x' = R x for fractional columns: Cartesian Q = Lᵀ R Lᵀ⁻¹
            turns = torch.as_tensor(lattice.T @ rotations @ np.linalg.inv(lattice.T), dtype=torch.float64)
            basis = symmetric_matrix(torch.eye(6, dtype=torch.float64))
            images = torch.einsum("gab,kbc,gdc->kad", turns, basis, turns) / len(turns)
            self._projections[row] = images[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]].T.float()
        return self._projections[row]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        crystals, _ = batch
        model = self.average.module
        assert isinstance(model, LatticeRelaxer)
        generator = torch_generator(self.seed, 2**31, self.place(batch_idx))
        noise = torch.randn(len(crystals), 6, generator=generator).to(crystals.lattice)
        truth = crystals.lattice
        with torch.no_grad():
            for sigma, word in ((0.1, "0.1"), (0.01, "0.01"), (0.0, "0")):
                start = truth @ symmetric_exp(symmetric_matrix(sigma * noise))
                end = self._run(model, crystals.replace(lattice=start))
                self._log_errors(f"val_{word}", end, truth)
            reduced = change_basis(crystals, niggli_reduce(truth)[1])
            edge = model.natural_volume(reduced).pow(1 / 3)
            cubes = reduced.replace(lattice=edge[:, None, None] * torch.eye(3).to(truth))
            self._log_errors("val_cube", self._run(model, cubes), reduced.lattice)

    def _run(self, model: LatticeRelaxer, state: CrystalBatch) -> Tensor:
        for _ in range(self.passes):
            state = lattice_step(state, model.step(state).strain)
        return state.lattice

    def _log_errors(self, name: str, found: Tensor, truth: Tensor) -> None:
        for word, one, other in zip(("lengths", "angles"), lengths_angles(found), lengths_angles(truth), strict=True):
            self.log(f"{name}_{word}", (one - other).abs().mean(), batch_size=len(truth))
