"""The relaxers of a model: its networks and settings joined with the functions that relax structures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from autoperi.errors import RequestError, WeightsError
from autoperi.hub.networks import LoadedBundle, lacking
from autoperi.processes.lattice import MAX_BATCH_CRYSTALS
from autoperi.relax.lattice import relax_lattices
from autoperi.relax.positions import relax_positions
from autoperi.symmetry.analysis import STRICT_SYMPREC

Relax = Callable[[Any], Any]
"""From structures to the same kind and container."""


@dataclass(frozen=True, eq=False)
class ModelRelaxer:
    """What a model relaxes with.

    Attributes:
        model: the networks.
        dtype: in which they run.
        passes: of the lattice relaxer, where nothing is said.
        provenance: of the model.
    """

    model: LoadedBundle
    dtype: torch.dtype
    passes: int
    provenance: dict[str, Any]

    def lattices(
        self,
        *,
        passes: int | None,
        fix_symmetry: bool,
        batch_size: int = MAX_BATCH_CRYSTALS,
        progress: bool | None = False,
    ) -> Relax:
        """Relaxes lattices, see :func:`~autoperi.relax.lattice.relax_lattices`.

        Raises:
            WeightsError: the model has no lattice relaxer.
        """
        network = self.model.relaxer(self.dtype)
        if network is None:
            raise WeightsError(lacking(self.model.bundle, "lattice_relaxer", "relax_lattice"))
        return partial(
            relax_lattices,
            network=network,
            device=self.model.device,
            dtype=self.dtype,
            passes=self.passes if passes is None else passes,
            fix_symmetry=fix_symmetry,
            symprec=STRICT_SYMPREC,
            batch_size=batch_size,
            provenance=self.provenance,
            progress=progress,
        )

    def positions(self, *, steps: int | None, fix_symmetry: bool, batch_size: int, progress: bool | None) -> Relax:
        """Relaxes lattices, where the model has a relaxer of them, then positions and cells with the potential.

        See :func:`~autoperi.relax.positions.relax_positions`.

        Raises:
            RequestError: the model has no potential.
        """
        potential = self.model.potential(self.dtype)
        if potential is None:
            raise RequestError(
                f"positions=True needs a potential, which model {self.model.bundle.name!r} lacks; use a model with the "
                "component 'potential', such as 'autoperi-base', or relax the lattice alone"
            )
        has_relaxer = bool(self.model.kinds("relaxer"))
        return partial(
            relax_positions,
            potential=potential,
            lattice_pass=self.lattices(passes=None, fix_symmetry=fix_symmetry) if has_relaxer else None,
            steps=steps,
            fix_symmetry=fix_symmetry,
            symprec=STRICT_SYMPREC,
            batch_size=batch_size,
            provenance=self.provenance,
            progress=progress,
        )
