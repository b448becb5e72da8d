"""Losses on the crystal that AutoPeri-GNN's decoder is on its way to: energy, symmetry, reconstruction, and an
adversary (AutoPeri-GNN, section 3.2.3).

From a point y_t of a path the decoder's estimate of its end is ŷ₁ = y_t + (1 − t) v(y_t, t), one step without an
integration and with a gradient. Early on a path from noise this is a mean over what the crystal may become and no
crystal itself; energies and distances of it say nothing. So all but the symmetry count by how little way is left
(:func:`nearness`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.lattice import symmetric_matrix
from autoperi.geometry.multigraph import edge_vectors, radius_graph
from autoperi.models.potential import Potential
from autoperi.nn.heads import sum_per_crystal
from autoperi.symmetry.freedom import Freedom
from autoperi.symmetry.operations import operations_of
from autoperi.training.adversarial import Discriminator, hinge_losses
from autoperi.training.losses import excess_energy, plausible, reconstruction_error, symmetry_deviation

ESTIMATE_REACH_A = 0.5
"""Way left, in Å of the scaled cell, at which an estimate counts 1/e."""
MIN_ESTIMATE_WEIGHT = 0.02
"""Below this weight an estimate is left out, and costs no evaluation."""
RATTLE_STRAIN_PER_A = 0.2
"""Standard deviation of the strain that goes with a rattle, per Å of it: 0.02 beside 0.1 Å."""

Rates = Callable[[CrystalBatch], tuple[Tensor, Tensor]]
"""A network's answer to crystals: dS/dt ``[B, 3, 3]`` and the atoms' dx/dt, fractional, ``[N, 3]``."""


@dataclass(frozen=True)
class Weights:
    """Weights of the losses in the sum that is minimised; 0 means that a loss is not even evaluated.

    Attributes:
        energy: of the energy per atom above that of the true crystal, in eV
            (:func:`~autoperi.training.losses.excess_energy`).
        symmetry: of the mean squared distance from the crystal to its images, in Å².
        reconstruction: of the squared difference of neighbours' distances, in Å², where z is given.
        adversarial: of what a discriminator says of the estimate.
    """

    energy: float = 0.0
    symmetry: float = 0.0
    reconstruction: float = 0.0
    adversarial: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise RequestError(f"{name}_weight={value!r} is not a weight; give 0 or more")

    @property
    def on_estimate(self) -> bool:
        """Whether any loss needs the estimate ŷ₁."""
        return self.energy > 0 or self.reconstruction > 0 or self.adversarial > 0


def nearness(t: Tensor, spread: Tensor) -> Tensor:
    """How much an estimate at time t counts, exp(−((1 − t) s / :data:`ESTIMATE_REACH_A`)²), ``[B]``; s Å is the typical
    way of an atom from its start.
    """
    return torch.exp(-(((1 - t) * spread / ESTIMATE_REACH_A) ** 2))


class PhysicalLosses:
    """Evaluates the losses whose weight is not 0; each is 0 for a crystal that does not count.

    Args:
        weights: of the losses.
        potential: frozen, moved to where the crystals are; needed for the energy.
        discriminator: needed for the adversarial loss.
    """

    def __init__(
        self, weights: Weights, *, potential: Potential | None = None, discriminator: Discriminator | None = None
    ) -> None:
        self.weights, self.discriminator = weights, discriminator
        self.potential = None if potential is None else potential.requires_grad_(False).eval()

    def __call__(
        self, estimate: CrystalBatch, truth: CrystalBatch, count: Tensor, given: Tensor, unit: Tensor
    ) -> dict[str, Tensor]:
        """Losses on the estimate, each ``[B]``.

        Args:
            estimate: crystals at ŷ₁; truth: those at the end of the path.
            count: how much each counts, ``[B]``, of :func:`nearness`.
            given: which decoders see the z of their crystal, ``[B]``.
            unit: Å of the scaled cell, ``[B, 1, 1]``.
        """
        # an estimate without a finite volume near the true one has no energy that is worth an evaluation
        count = torch.where(plausible(estimate, truth), count, torch.zeros_like(count))
        count = torch.where(count > MIN_ESTIMATE_WEIGHT, count, torch.zeros_like(count))
        found = {}
        if self.weights.energy:
            rows = (count > 0) & self._known(truth)
            found["energy"] = _spread(rows, count, lambda r: [self._excess(estimate[r], truth[r])])[0]
        if self.weights.reconstruction:
            rows = (count > 0) & given  # a decoder that does not see z cannot know which crystal it should be
            found["reconstruction"] = _spread(rows, count, lambda r: [reconstruction_error(estimate[r], truth[r])])[0]
        if self.weights.adversarial:
            adversary = self.discriminator
            assert adversary is not None
            # the discriminator's cutoff, as the decoder's, is a length of the scaled cell
            scaled = [c.replace(lattice=c.lattice / unit) for c in (estimate, truth)]
            found["adversarial"], found["discriminator"] = _spread(
                count > 0, count, lambda r: list(hinge_losses(adversary, *(c[r] for c in scaled))), parts=2
            )
        return found

    def total(self, found: dict[str, Tensor]) -> Tensor | float:
        """Their weighted sum, each a mean over crystals; the discriminator's own loss has the weight 1."""
        weights = vars(self.weights) | {"discriminator": 1.0}
        return sum(weight * found[name].mean() for name, weight in weights.items() if name in found)

    def _known(self, crystals: CrystalBatch) -> Tensor:
        """Whose elements the potential has seen, ``[B]``."""
        assert self.potential is not None
        self.potential.to(device=crystals.lattice.device, dtype=crystals.lattice.dtype)
        unseen = (~self.potential.seen[crystals.atomic_numbers]).long()
        return unseen.new_zeros(len(crystals)).index_add(0, crystals.batch, unseen) == 0

    def _excess(self, estimate: CrystalBatch, truth: CrystalBatch) -> Tensor:
        # the gradient goes to the decoder through the estimate alone
        with torch.no_grad():
            true = self._energy(truth)
        return excess_energy(self._energy(estimate), true)

    def _energy(self, crystals: CrystalBatch) -> Tensor:
        assert self.potential is not None
        graph = radius_graph(crystals, self.potential.cutoff)
        vectors = edge_vectors(crystals, graph)
        energies = self.potential.edge_energies(crystals.atomic_numbers, graph, vectors, once=True)
        return sum_per_crystal(energies, crystals) / crystals.n_atoms


def _spread(rows: Tensor, count: Tensor, losses: Callable[[Tensor], list[Tensor]], *, parts: int = 1) -> list[Tensor]:
    """``parts`` losses of the crystals of ``rows`` ``[B]`` bool, times what they count, and 0 elsewhere, each
    ``[B]``.
    """
    chosen = rows.nonzero().squeeze(1)
    none = count.new_zeros(len(count))
    if not len(chosen):
        return [none] * parts
    return [none.index_add(0, chosen, count[chosen] * loss) for loss in losses(chosen)]


def symmetry_loss(
    freedom: Freedom, at: Tensor, t: Tensor, groups: Tensor, rates: Rates, *, rattle: float, generator: torch.Generator
) -> Tensor:
    """L_sym of the decoder's estimate as the network gives it, before the projection on free parameters, in Å²,
    ``[B]``.

    Of a crystal that obeys its group an equivariant network cannot lead away from it: without a rattle this is 0 to
    rounding, whatever the weights. With one, the network reads a crystal whose symmetry is broken, by (1 − t) times a
    normal displacement of each atom and a strain, as on a path that starts outside the group, and the loss asks that
    its one step ends inside.

    Args:
        freedom: B crystals.
        at: coordinates of the points on the paths, ``[B, D]``; t: their times, ``[B]``.
        groups: space-group numbers, ``[B]``.
        rates: the network at these times.
        rattle: standard deviation of the displacements in Å, and of strains in 1/:data:`RATTLE_STRAIN_PER_A` Å; 0 is
            none.
        generator: CPU generator.
    """
    left = (1 - t)[:, None, None]
    owner = freedom.crystal.index_select(0, freedom.orbit)
    strain, moves = at.new_zeros(len(freedom), 3, 3), at.new_zeros(len(owner), 3)
    if rattle > 0:
        noise = symmetric_matrix(torch.randn(len(freedom), 6, generator=generator).to(at))
        strain = rattle * RATTLE_STRAIN_PER_A * left * noise
        moves = rattle * left[owner, 0] * torch.randn(len(owner), 3, generator=generator).to(at)
        moves = torch.einsum("ni,nij->nj", moves, torch.linalg.inv(freedom.crystals(at).lattice)[owner])
    rate, velocity = rates(freedom.crystals(at, strain=strain, moves=moves))
    end = freedom.crystals(at, strain=strain + left * rate, moves=moves + left[owner, 0] * velocity)
    return symmetry_deviation(end, operations_of(freedom, groups))
