"""PGCGM: a physics-guided generative adversarial network over space groups (Zhao et al., npj Comput. Mater. 9, 38
(2023), Figure 5).

The *generator* makes three sets of base sites and the cell of a crystal from noise, elements and a space group
(equation 3); the *discriminator* scores a representation of a crystal M* = (B⁰, B¹, B², P, E, sgp) and all that follows
from it (Table 7), and exists in training alone. Both read the group as its affine matrices, padded to 192 × 4 × 4.

Figure 5 gives sites that know nothing of the group and lengths that know nothing of the elements. With ``joined``, both
outputs read all three branches. What the paper leaves open, widths above all, is ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, pad, softplus

from autoperi.chemistry.descriptors import PGCGM_PROPERTIES
from autoperi.errors import RequestError
from autoperi.nn.backbone import MEAN_VOLUME_PER_ATOM
from autoperi.nn.config import config_of
from autoperi.processes.base import Condition
from autoperi.processes.one_shot import BaseSites, OneShot, OneShotState
from autoperi.symmetry.base_sites import affine_matrices, cells, distances, image_distances, images, multiplicities
from autoperi.units import MAX_ATOMIC_NUMBER

SETS = 3
N_GROUPS = 231
EDGE, ANGLE_RANGE, MAX_GROWTH = 6.0, 45.0, 0.3
"""Å of an edge of which the network says 0, degrees by which a free angle may differ from 90°, and by how much the
logarithm of a volume may differ from that of the natural one.
"""
SIDE = 8
"""Of the square into which the representation is folded, with as many channels as it takes."""


class SiteFacts(NamedTuple):
    """What follows from base sites (Table 7), and what the losses of the generator are of.

    Attributes:
        full: F, averaged full coordinates, ``[B, 3, K, 3]``.
        inter, intra: distances in Å, ``[B, 3, K(K-1)/2]`` and ``[B, K, 3]``; 0 beside an empty slot.
    """

    full: Tensor
    inter: Tensor
    intra: Tensor


class Pgcgm(nn.Module):
    """The generator.

    Args:
        slots: K, the most elements of a crystal.
        noise: length of the noise.
        hidden: width.
        joined: sites read the group, and the cell the elements.
        natural: the volume of the cell follows from what its base sites stand for: that of its elements, times a factor
            that the network says.
        merge: up to how many sums of atomic radii images of a site are one atom.
    """

    properties: Tensor
    element_volume: Tensor
    occurrences: Tensor
    together: Tensor

    def __init__(
        self,
        *,
        slots: int = 3,
        noise: int = 128,
        hidden: int = 256,
        joined: bool = False,
        natural: bool = False,
        merge: float = 1.2,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        if slots < 2:
            raise RequestError(f"slots={slots!r} is too few; crystals of PGCGM have at least two elements")
        if hidden < 2:
            raise RequestError(f"hidden={hidden!r} is too small; give 2 or more")
        OneShot(**self.process_options)  # refuses what no process can be made of
        self.slots, self.joined, self.natural, self.merge = slots, joined, natural, merge
        branch = hidden // 2
        self.noise = nn.Sequential(nn.Linear(noise, hidden), nn.LeakyReLU(0.2))
        self.group = AffineBranch(branch)
        self.element = nn.Sequential(
            nn.Conv1d(len(PGCGM_PROPERTIES), branch, 1),
            nn.LeakyReLU(0.2),
            nn.Conv1d(branch, branch, slots),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        width = hidden + branch * (2 if joined else 1)
        self.cell = nn.Sequential(
            nn.Linear(width, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 7 if natural else 6),
        )
        self.site = nn.Sequential(
            nn.Linear(width, 2 * hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * hidden, 2 * hidden),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (2 * hidden, 1, 1)),
            Deconvolution(2 * hidden, hidden, 2),
            nn.LeakyReLU(0.2),
            Deconvolution(hidden, branch, (slots - 1, 2)),
            nn.LeakyReLU(0.2),
            Deconvolution(branch, SETS, 1),
        )
        # filled by the training: volumes of elements in Å³, Table 6, which elements take which slot in which group, and
        # which of them meet
        self.register_buffer("element_volume", torch.full((MAX_ATOMIC_NUMBER + 1,), MEAN_VOLUME_PER_ATOM))
        self.register_buffer("properties", torch.zeros(MAX_ATOMIC_NUMBER + 1, len(PGCGM_PROPERTIES)))
        counts = torch.zeros(N_GROUPS, slots, slots, MAX_ATOMIC_NUMBER + 1, dtype=torch.int16)
        self.register_buffer("occurrences", counts)
        size = MAX_ATOMIC_NUMBER + 1
        self.register_buffer("together", torch.zeros(size, size, dtype=torch.bool))

    @property
    def process_options(self) -> dict[str, Any]:
        """Options of the process that this network was made for."""
        return {name: self.config[name] for name in ("noise", "slots", "merge")}

    def forward(self, noise: Tensor, elements: Tensor, groups: Tensor) -> BaseSites:
        """Equation 3.

        Args:
            noise: ``[B, noise]``; elements: by slot, 0 for none, ``[B, K]``; groups: ``[B]``.
        """
        z, group = self.noise(noise), self.group(groups)
        element = self.element(self.properties[elements].mT)
        every = torch.cat([z, group, element], 1)
        raw = self.cell(every if self.joined else torch.cat([z, group], 1))
        sites = self.site(every if self.joined else torch.cat([z, element], 1)) + 0.5
        lengths = EDGE * softplus(raw[:, :3] + 0.5413)  # softplus(0.5413) is 1
        angles = 90 + ANGLE_RANGE * torch.tanh(raw[:, 3:6])
        sites = sites * (elements > 0)[:, None, :, None]
        lattice = cells(torch.cat([lengths, angles], 1), groups)
        if not self.natural:
            return BaseSites(sites, lattice)
        with torch.no_grad():
            each, which = affine_matrices(groups)
            counts = multiplicities(elements, sites[:, 0], each[which], lattice, merge=self.merge)
            natural = (counts.to(raw) * self.element_volume[elements]).sum(1)
        growth = natural.log() + MAX_GROWTH * torch.tanh(raw[:, 6]) - torch.linalg.det(lattice).log()
        return BaseSites(sites, lattice * (growth / 3).exp()[:, None, None], growth)

    def predict(self, state: OneShotState, t: float, condition: Condition | None = None) -> BaseSites:  # noqa: ARG002
        """Base sites and cells of the state's noise."""
        return self(state.noise.to(self.properties), state.elements, state.groups)


class Deconvolution(nn.ConvTranspose2d):
    """A transposed convolution of stride 1 as one product of matrices: torch's own takes samples one by one in float64,
    which costs the generator a third of its time.
    """

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:  # noqa: ARG002
        """``[B, C, H, W]`` to ``[B, C', H + m - 1, W + n - 1]`` for a kernel of m × n."""
        assert self.bias is not None
        (h, w), (m, n) = x.shape[2:], self.kernel_size
        columns = (x.flatten(2).mT @ self.weight.flatten(1)).mT
        return fold(columns, (h + m - 1, w + n - 1), (m, n)) + self.bias[:, None, None]


class AffineBranch(nn.Module):
    """A space group as its affine matrices: 2D convolutions on 192 channels of 4 × 4.

    Args:
        width: of the output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(192, 64, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(64 * 16, width),
            nn.LeakyReLU(0.2),
        )

    def forward(self, groups: Tensor) -> Tensor:
        """``[B, width]``; each group that occurs is read once."""
        each, which = affine_matrices(groups)
        read: Tensor = self.layers(each.to(next(self.parameters())))
        return read[which]


class Discriminator(nn.Module):
    """Scores, high for real crystals.

    Args:
        slots: K. hidden: width.
    """

    def __init__(self, *, slots: int = 3, hidden: int = 256) -> None:
        super().__init__()
        branch = hidden // 2
        self.group = AffineBranch(branch)
        self.crystal = nn.Sequential(
            nn.Conv2d(channels_of(slots), branch, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(branch, branch, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.score = nn.Sequential(
            nn.Linear(4 * branch + branch, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )

    def forward(self, matrix: Tensor, groups: Tensor) -> Tensor:
        """Scores ``[B]`` of representations ``[B, C, 8, 8]`` in groups ``[B]``."""
        return self.score(torch.cat([self.crystal(matrix), self.group(groups)], 1)).squeeze(1)


def channels_of(slots: int) -> int:
    """Squares of 8 × 8 that the representation of ``slots`` elements fills: 3 for ternaries."""
    pairs = slots * (slots - 1) // 2
    size = SETS * slots * 9 + slots * len(PGCGM_PROPERTIES) + 6 + SETS * pairs + slots * SETS + 9
    return -(-size // SIDE**2)


def site_facts(made: BaseSites, elements: Tensor, groups: Tensor, *, nearest: bool = False) -> SiteFacts:
    """Of real or generated crystals.

    Args:
        made: base sites and cells.
        elements: ``[B, K]``; groups: ``[B]``.
        nearest: distances to the nearest images instead of those in the cell.
    """
    sites, lattice, _ = made
    held = (elements > 0).to(sites)
    each, which = affine_matrices(groups)
    operations = each[which]
    # the mean over the operations that there are: a mean over the padding too would only tell how many these are
    order = operations[:, :, 3, 3].sum(1).to(sites)
    full = images(sites, operations).sum(1) / order[:, None, None, None] * held[:, None, :, None]
    inter, intra = image_distances(sites, operations, lattice) if nearest else distances(sites, lattice)
    one, other = torch.triu_indices(elements.shape[1], elements.shape[1], 1, device=elements.device)
    return SiteFacts(full, inter * (held[:, one] * held[:, other]).unsqueeze(1), intra * held.unsqueeze(2))


def represent(made: BaseSites, facts: SiteFacts, elements: Tensor, properties: Tensor) -> Tensor:
    """M* as the discriminator reads it: all parts of Table 7, each of order one, padded with zeros, ``[B, C, 8, 8]``.

    Args:
        made: base sites and cells, and the facts of them.
        elements: ``[B, K]``; properties: of elements, ``[119, 23]``.
    """
    sites, lattice, _ = made
    held = (elements > 0).to(sites)
    place = torch.einsum("bski,bij->bskj", sites, lattice)
    lengths, volume = torch.linalg.vector_norm(lattice, dim=-1), torch.linalg.det(lattice)
    parts = (
        sites,
        facts.full,
        place / 10,
        properties[elements] * held.unsqueeze(2),
        lengths / 10,
        (volume / 500).unsqueeze(1).expand(-1, 3),
        facts.inter / 5,
        facts.intra / 5,
        lattice / 10,
    )
    flat = torch.cat([part.flatten(1) for part in parts], 1)
    channels = channels_of(elements.shape[1])
    return pad(flat, (0, channels * SIDE**2 - flat.shape[1])).view(-1, channels, SIDE, SIDE)
