"""Training of CGCNN, and of any network of formation energies that reads the nearest neighbours of fixed crystals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from autoperi.data.crystal import CrystalBatch
from autoperi.models.cgcnn import Neighbours
from autoperi.training.tasks.base import Batch, CrystalTask, weighted_error


class NeighbourTask(CrystalTask):
    """Formation energy in eV/atom by a network of nearest neighbours: weighted mean absolute error on the crystals as
    they are.

    The crystals never change, so the edges of each are found in the first epoch and kept (about 6 kB a crystal).
    """

    labelled: ClassVar[bool] = True

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        self._edges: dict[tuple[str, int], Neighbours] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002, D102
        crystals, labels = batch
        loss = weighted_error(self.model(crystals, self._neighbours("train", *batch)), labels)
        self.log("train_mae", loss, batch_size=len(crystals))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002, D102
        crystals, labels = batch
        error = (self.average(crystals, self._neighbours("val", *batch)) - labels["formation_energy_per_atom"]).abs()
        self.log("val_mae", error.nanmean(), batch_size=len(crystals), prog_bar=True)

    def _neighbours(self, stage: str, crystals: CrystalBatch, labels: dict[str, Tensor]) -> Neighbours:
        keys = [(stage, row) for row in labels["row"].tolist()]
        if any(key not in self._edges for key in keys):
            found: Neighbours = self.model.neighbours(crystals)  # type: ignore[operator]
            sizes = torch.bincount(crystals.batch[found.centre], minlength=len(crystals)).tolist()
            start = crystals.offsets[crystals.batch[found.centre]]
            local = found._replace(centre=(found.centre - start).short(), neighbour=(found.neighbour - start).short())
            parts = zip(*(column.cpu().split(sizes) for column in local), strict=True)
            # clones, because a view would keep the whole batch alive
            self._edges |= {key: Neighbours(*(t.clone() for t in part)) for key, part in zip(keys, parts, strict=True)}
        every = [self._edges[key] for key in keys]
        device = crystals.lattice.device
        shift = torch.repeat_interleave(crystals.offsets, torch.tensor([len(e.centre) for e in every], device=device))
        joined = Neighbours(*(torch.cat(column).to(device) for column in zip(*every, strict=True)))
        return joined._replace(centre=joined.centre.long() + shift, neighbour=joined.neighbour.long() + shift)


class CgcnnTask(NeighbourTask):
    """Formation energy in eV/atom by CGCNN, as :class:`NeighbourTask`.

    After the last epoch the statistics of batch normalisation are taken anew over the training crystals with the
    averaged weights: those gathered on the way belong to the last few batches and to other weights.
    """

    def on_train_end(self) -> None:  # noqa: D102
        batches = ((crystals.to(device=self.device), labels) for crystals, labels in self.trainer.train_dataloader)
        fit_statistics(self.average.module, batches)


def fit_statistics(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Put the mean statistics of ``batches`` into every batch normalisation of ``model`` (Izmailov et al. 2018, for
    averaged weights).
    """
    update_bn(((crystals,) for crystals, _ in batches), model)
