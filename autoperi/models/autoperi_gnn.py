"""AutoPeri-GNN: a periodic equivariant autoencoder whose decoder is a continuous normalizing flow (AutoPeri-GNN,
section 3.2).

- **Encoder** (section 3.2.1): the shared backbone reads a crystal; a mean over atoms gives the latent vector z, normal
  with mean μ and variance σ².
- **Decoder** (section 3.2.2): a flow on the free parameters of the crystal in its space group
  (:mod:`autoperi.symmetry.freedom`), lattice and positions together. Its field is the backbone again, conditioned on
  the time t, on z and on where the flow starts, and acts through a strain rate and displacements that turn with the
  crystal. Such a field cannot leave the space group, and what the network says of a crystal knows no basis, origin or
  order of atoms. Coordinates and densities are those of the standard primitive cell: another cell of a triclinic or
  monoclinic crystal has other strains from its reference.

Two starts share one network: *noise* (uniform positions, a wide spread of cells around one of equal edges and additive
volume) and *near* (a narrow spread around a crystal proposed by something else, such as the prototype prior).

The network gives velocities and densities at the start; :mod:`autoperi.pipelines.flow` draws crystals with it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.segments import segment_sum
from autoperi.nn.backbone import MEAN_VOLUME_PER_ATOM, Backbone
from autoperi.nn.config import config_of
from autoperi.nn.heads import sum_per_crystal
from autoperi.nn.mlp import mlp
from autoperi.nn.node_field import NodeField
from autoperi.processes.flow import UNIFORM_SCALE, Base
from autoperi.symmetry.freedom import STRAINS, Freedom
from autoperi.units import MAX_ATOMIC_NUMBER


@dataclass(frozen=True)
class Start:
    """Where a flow begins: standard deviations of the base density.

    Attributes:
        volume: of the isotropic strain coordinate (tr S/√3).
        shape: of the other strain coordinates.
        position: of free coordinates, in Å of the scaled cell; None is the uniform density.
    """

    volume: float
    shape: float
    position: float | None


NOISE = Start(0.08, 0.35, None)
"""A start that knows composition, space group and orbits alone; the spread of ``mp_train`` about cells of equal edges
and additive volume.
"""
NEAR = Start(0.04, 0.06, 0.25)
"""A start about a proposed crystal; the spread of the prior's proposals about the crystals they match."""


class AutoPeriGnn(nn.Module):
    """Encoder and flow decoder; see the module's docstring.

    Args:
        channels, cutoff, n_radial, l_max: of both backbones; the cutoff in Å of the scaled crystal.
        layers, encoder_layers: interactions of decoder and encoder.
        latent: dimension of z.
        hidden: width of heads and conditions.
    """

    element_volume: Tensor
    frequencies: Tensor

    def __init__(
        self,
        *,
        channels: int = 64,
        layers: int = 4,
        encoder_layers: int = 2,
        cutoff: float = 5.0,
        n_radial: int = 8,
        l_max: int = 2,
        latent: int = 16,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.latent = latent
        shared: dict[str, Any] = {"channels": channels, "cutoff": cutoff, "n_radial": n_radial, "l_max": l_max}
        self.encoder = Backbone(layers=encoder_layers, **shared)
        self.posterior = mlp(channels, hidden, 2 * latent, norm=True)
        self.backbone = Backbone(layers=layers, **shared)
        self.register_buffer("frequencies", torch.arange(1, 9) * torch.pi, persistent=False)
        # time, kind of start, whether z is given, z
        self.condition = mlp(16 + 2 + latent, hidden, channels)
        self.field_head = NodeField(channels, hidden=hidden)
        self.register_buffer("element_volume", torch.full((MAX_ATOMIC_NUMBER + 1,), MEAN_VOLUME_PER_ATOM))

    def additive_volume(self, atomic_numbers: Tensor, crystal: Tensor, n: int) -> Tensor:
        """Σ of the elements' volumes in Å³, ``[n]``; what :data:`NOISE` starts at."""
        return segment_sum(self.element_volume.to(torch.float64)[atomic_numbers], crystal, n)

    def encode(self, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | crystal), each ``[B, latent]``."""
        output = self.encoder(batch.replace(lattice=batch.lattice / self.unit(batch)))
        pooled = sum_per_crystal(output.scalars, batch) / batch.n_atoms.to(output.scalars.dtype).unsqueeze(-1)
        mean, log_variance = self.posterior(pooled).chunk(2, -1)
        return mean, log_variance.clamp(-8.0, 4.0)

    def base(self, freedom: Freedom, centre: Tensor | None, start: Start) -> Base:
        """The density at t = 0.

        Args:
            freedom: the crystals.
            centre: coordinates of proposed crystals, ``[B, D]``; None is the reference cell, positions uniform.
            start: its widths.
        """
        space = freedom.space
        mean = freedom.reference.new_zeros(len(freedom), freedom.width) if centre is None else centre
        scale = torch.full_like(mean, UNIFORM_SCALE)
        scale[:, :1], scale[:, 1:STRAINS] = start.volume, start.shape
        if start.position is not None:
            # Å to turns by the mean edge; a number of the reference cell alone, so that the density stays a simple one
            edge = torch.linalg.vector_norm(freedom.reference, dim=-1).mean(1) / self._reference_unit(freedom)
            scale[:, STRAINS:] = (start.position / edge).unsqueeze(1)
        return Base(space, mean, scale)

    def velocity(
        self,
        y: Tensor,
        t: Tensor,
        freedom: Freedom,
        *,
        near: Tensor,
        z: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """The field v(y, t), ``[B, D]``: :meth:`rates` of the crystals with coordinates y, on their free parameters.

        Args:
            y: coordinates, ``[B, D]``.
            t, freedom, near, z, given: as in :meth:`rates`.
        """
        return freedom.velocity(*self.rates(freedom.crystals(y), t, freedom, near=near, z=z, given=given))

    def rates(
        self,
        crystals: CrystalBatch,
        t: Tensor,
        freedom: Freedom,
        *,
        near: Tensor,
        z: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the network says of crystals before any projection: dS/dt ``[B, 3, 3]`` and the atoms' dx/dt,
        fractional, ``[N, 3]``.

        Of a crystal that obeys its group these obey it too, to rounding; of another they do not.

        Args:
            crystals: with the atoms of ``freedom``.
            t: times, ``[B]``.
            freedom: whose reference cells say how large the crystals are.
            near: whether each flow starts near a proposal, ``[B]``.
            z: latent vectors, ``[B, latent]``, or None where no crystal has one.
            given: which crystals see their z, ``[B]``; None is all of them.
        """
        dtype, real = self.backbone.embedding.weight.dtype, crystals.lattice.dtype
        unit = self._reference_unit(freedom)
        scaled = crystals.replace(
            lattice=(crystals.lattice / unit[:, None, None]).to(dtype), frac_coords=crystals.frac_coords.to(dtype)
        )
        phase = t.to(dtype).unsqueeze(1) * self.frequencies.to(dtype)
        known = torch.full_like(near, z is not None) if given is None else given
        code = phase.new_zeros(len(t), self.latent) if z is None else z.to(dtype) * known.unsqueeze(1)
        facts = torch.stack([near.to(dtype), known.to(dtype)], 1)
        condition = self.condition(torch.cat([torch.sin(phase), torch.cos(phase), facts, code], 1))
        output = self.backbone.features(
            scaled.atomic_numbers, self.backbone.geometry(scaled), condition=condition.index_select(0, scaled.batch)
        )
        moves, strain = self.field_head(output, scaled)
        inverse = torch.linalg.inv(scaled.lattice).index_select(0, scaled.batch)
        fractional = torch.einsum("ni,nij->nj", moves, inverse)
        return strain.to(real), fractional.to(real)

    def unit(self, batch: CrystalBatch) -> Tensor:
        """Length in Å that the networks read as one, ``[B, 1, 1]``: the cube root of the additive volume over
        :data:`~autoperi.nn.backbone.MEAN_VOLUME_PER_ATOM` an atom.
        """
        return self._unit(batch.atomic_numbers, batch.batch, batch.n_atoms, batch.lattice.dtype)[:, None, None]

    def _reference_unit(self, freedom: Freedom) -> Tensor:
        crystal = freedom.crystal.index_select(0, freedom.orbit)
        return self._unit(freedom.atomic_numbers, crystal, freedom.n_atoms, freedom.reference.dtype)

    def _unit(self, numbers: Tensor, crystal: Tensor, n_atoms: Tensor, dtype: torch.dtype) -> Tensor:
        volume = self.additive_volume(numbers, crystal, len(n_atoms)).to(dtype)
        return (volume / (MEAN_VOLUME_PER_ATOM * n_atoms)).pow(1 / 3)


def __getattr__(name: str) -> Any:
    """``crystal_noise`` was here before version 0.2."""
    if name != "crystal_noise":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autoperi.processes.flow import crystal_noise

    warnings.warn("crystal_noise is in autoperi.processes.flow since AutoPeri 0.2", DeprecationWarning, stacklevel=2)
    return crystal_noise
