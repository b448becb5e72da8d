"""Training of the crystal transformer."""

from __future__ import annotations

from autoperi.training.tasks.cgcnn import NeighbourTask


class CrystalTransformerTask(NeighbourTask):
    """Formation energy in eV/atom by the crystal transformer: all is as
    :class:`~autoperi.training.tasks.cgcnn.NeighbourTask` has it.
    """
