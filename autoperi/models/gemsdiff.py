"""GemsDiff: a network that undoes the diffusion of a whole crystal, cell and atoms (Klipfel et al., AAAI 2024).

    GNN_AE = Decod ∘ Encod ∘ emb                                     (equation 9)

Encoder and decoder are the shared backbone on one multigraph of nearest images. The embedding joins element and time
(equation 8). The decoder acts on the crystal by displacements of atoms and an exponent A of the cell, L' = L exp(A)
(equations 7 and 9c); or, from a cube of the natural volume, L' = exp(A) (equation 11), of which the paper says that it
is more stable, and which gives up equivariance between input and output.

Displacements are read in units of the noise at a time, and so is A where it acts on the diffused cell: the network
predicts numbers of order one at every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.lattice import symmetric_exp
from autoperi.geometry.multigraph import nearest_images_graph, radius_graph
from autoperi.geometry.segments import segment_sum
from autoperi.nn.backbone import MEAN_VOLUME_PER_ATOM, Backbone
from autoperi.nn.config import config_of
from autoperi.nn.node_field import NodeField
from autoperi.processes.base import Condition
from autoperi.processes.diffusion import SHAPE_SPREAD, Diffusion, DiffusionState, Prediction
from autoperi.units import MAX_ATOMIC_NUMBER

DECODES = ("cube", "cell")
"""What the decoder's exponent acts on: a cube of the natural volume (equation 11), or the diffused cell (equation
9c).
"""


class GemsDiff(nn.Module):
    """See the module's docstring.

    Args:
        channels, n_radial, l_max: of both backbones; an even number of channels, and l_max 2 or 3.
        encoder_layers, layers: interactions of encoder and decoder.
        knn: nearest images that an atom sees (Table 1); 0 sees all within the cutoff.
        cutoff: Å of the crystal scaled to 20 Å³ an atom, beyond which nothing is seen.
        hidden: width of the heads.
        decode: of :data:`DECODES`.
        lattice, positions, lattice_beta, position_beta: of the process, a
            :class:`~autoperi.processes.diffusion.Diffusion`.

    Raises:
        RequestError: a name that is not among those, or a number that makes no network.
    """

    element_volume: Tensor
    wavelengths: Tensor

    def __init__(
        self,
        *,
        channels: int = 64,
        encoder_layers: int = 2,
        layers: int = 2,
        knn: int = 32,
        cutoff: float = 6.0,
        n_radial: int = 8,
        l_max: int = 2,
        hidden: int = 64,
        decode: str = "cube",
        lattice: str = "algebra",
        positions: str = "jump",
        lattice_beta: Sequence[float] = (1e-5, 1e-1),
        position_beta: Sequence[float] = (1e-6, 2e-3),
    ) -> None:
        if decode not in DECODES:
            raise RequestError(f"decode={decode!r} is not known; choose {' or '.join(DECODES)}")
        super().__init__()
        self.config = config_of(locals())
        for name, value, good, wanted in (
            ("channels", channels, channels % 2 == 0, "an even number, for pairs of sines and cosines"),
            ("cutoff", cutoff, cutoff > 0, "a length in Å above 0"),
            ("l_max", l_max, 2 <= l_max <= 3, "2 or 3; strains are of l = 2"),
            ("layers", layers, layers > 0, "1 or more"),
        ):
            if not good:
                raise RequestError(f"{name}={value!r} is not possible; give {wanted}")
        self.process = Diffusion(**self.process_options)
        self.knn, self.decode = knn, decode
        shared: dict[str, Any] = {"channels": channels, "cutoff": cutoff, "n_radial": n_radial, "l_max": l_max}
        self.encoder = Backbone(layers=encoder_layers, **shared)
        self.decoder = Backbone(layers=layers, **shared)
        self.field_head = NodeField(channels, hidden=hidden)
        self.register_buffer("element_volume", torch.full((MAX_ATOMIC_NUMBER + 1,), MEAN_VOLUME_PER_ATOM))
        wavelengths = 10_000.0 ** (torch.arange(0, channels, 2) / channels)
        self.register_buffer("wavelengths", wavelengths, persistent=False)

    @property
    def process_options(self) -> dict[str, Any]:
        """Options of the process that this network was made for."""
        return {name: self.config[name] for name in ("lattice", "positions", "lattice_beta", "position_beta")}

    def unit(self, condition: Condition | CrystalBatch) -> Tensor:
        """Edge of the cube of the composition's natural volume in Å, ``[B]``: the elements' volumes add up."""
        volumes = self.element_volume.double().index_select(0, condition.atomic_numbers)
        return segment_sum(volumes, condition.batch, len(condition)).pow(1 / 3)

    def predict(self, state: DiffusionState, t: Tensor | float, condition: Condition | CrystalBatch) -> Prediction:
        """The crystals at time 0.

        Args:
            state: crystals at ``t``.
            t: times in [0, 1], a number or ``[B]``.
            condition: the same atoms.
        """
        real, dtype = state.x.dtype, self.decoder.embedding.weight.dtype
        size = (MEAN_VOLUME_PER_ATOM * state.n_atoms.to(dtype)).pow(1 / 3)  # edge in Å of the scaled cube
        seen = CrystalBatch(
            state.lattice.to(dtype) * size[:, None, None],
            state.frac_coords.to(dtype),
            state.atomic_numbers,
            state.n_atoms,
        )
        times = torch.as_tensor(t, dtype=dtype, device=size.device).expand(len(size))
        moves, strain = self.action(seen, times)
        cell, atoms = (torch.sqrt(1 - kept).to(dtype) for kept in self.process.kept(times))
        moves = moves * (atoms * size)[seen.batch, None]
        fractional = torch.einsum("ni,nij->nj", moves, torch.linalg.inv(seen.lattice)[seen.batch])
        if self.decode == "cell":
            lattice = state.lattice.to(dtype) @ symmetric_exp(strain * (SHAPE_SPREAD * cell)[:, None, None])
        else:
            lattice = symmetric_exp(strain * SHAPE_SPREAD)
        return Prediction(lattice.to(real), fractional.to(real), self.unit(condition).to(real))

    def action(self, crystals: CrystalBatch, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder does to crystals of 20 Å³ an atom at times ``t`` ``[B]``, before it is scaled: displacements
        ``[N, 3]`` and exponents ``[B, 3, 3]``, which turn with the crystal and change under nothing else.
        """
        graph = nearest_images_graph(crystals, self.knn) if self.knn else radius_graph(crystals, self.decoder.cutoff)
        geometry = self.decoder.geometry(crystals, graph)
        phase = t[:, None] * self.process.schedule_steps / self.wavelengths.to(t)
        moment = torch.stack([torch.sin(phase), torch.cos(phase)], -1).flatten(1)
        encoded = self.encoder.features(crystals.atomic_numbers, geometry, condition=moment[crystals.batch])
        output = self.decoder.features(crystals.atomic_numbers, geometry, condition=encoded.scalars)
        return self.field_head(output, crystals)
