"""An adversary for crystals: a small network that tells true ones from a decoder's estimates, and the losses of both
sides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoperi.data.crystal import CrystalBatch
from autoperi.nn.backbone import Backbone
from autoperi.nn.heads import ScalarHead, sum_per_crystal


class Discriminator(nn.Module):
    """Scores of crystals, high for true ones: the mean over atoms of a scalar on the shared backbone, invariant as
    everything on it.

    Args:
        channels, layers, cutoff: of the backbone; the cutoff in Å of the crystals that it is given.
        hidden: width of the head.
    """

    def __init__(self, *, channels: int = 32, layers: int = 2, cutoff: float = 5.0, hidden: int = 32) -> None:
        super().__init__()
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff)
        self.head = ScalarHead(channels, hidden=hidden)

    def forward(self, crystals: CrystalBatch) -> Tensor:
        """Scores, ``[B]``."""
        return sum_per_crystal(self.head(self.backbone(crystals)).squeeze(-1), crystals) / crystals.n_atoms


def hinge_losses(discriminator: nn.Module, estimate: CrystalBatch, truth: CrystalBatch) -> tuple[Tensor, Tensor]:
    """The hinge losses of a generative adversarial network (Lim & Ye 2017; Miyato et al. 2018), each ``[B]``.

    Both are minimised at once by one optimiser: −D(x̂), whose gradient reaches the decoder alone, and [1 − D(x)]₊ + [1
    + D(x̂)]₊, whose gradient reaches the discriminator D alone.

    Args:
        discriminator: D.
        estimate: what the decoder made, x̂.
        truth: true crystals, x.

    Returns:
        The loss of the decoder and that of the discriminator.
    """
    frozen: dict[str, Any] = {name: value.detach() for name, value in discriminator.state_dict(keep_vars=True).items()}
    fooled = -functional_call(discriminator, frozen, (estimate,))
    made = discriminator(estimate.replace(lattice=estimate.lattice.detach(), frac_coords=estimate.frac_coords.detach()))
    return fooled, torch.relu(1 - discriminator(truth)) + torch.relu(1 + made)
