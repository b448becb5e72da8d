"""Self-supervised pre-training of the encoder and its distillation, after CrysGNN (Das et al., AAAI 2023).

The teacher is our backbone with small heads that are thrown away afterwards (:class:`CrysGnn`). It learns from crystals
without labels:

* **node level**: the elements of masked atoms; of pairs of atoms, how many edges join them (connectivity) and how long
  the shortest is;
* **graph level**: the space group, and a contrastive loss (NT-Xent) in which the crystals of a batch with the same
  crystal system belong together.

As in the paper the four kinds of loss weigh the same. The paper reconstructs the features of all atoms; here 15 % of
the atoms are masked, without which our encoder, whose first layer knows the element, would have nothing to learn from
this. Distances are ours too.

What it learned is then used in one of two ways. *Fine-tuning*: a property model begins with its backbone (``initial``
of :func:`autoperi.training.run.train`). *Distillation*, as in the paper: a property model that begins at random adds to
its loss the mean squared difference between its own atom features and the teacher's (:class:`DistilledTask`), which are
found once (:func:`with_teacher`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.multigraph import Multigraph
from autoperi.models.formation_energy import FormationEnergy
from autoperi.nn.backbone import Backbone, EdgeGeometry
from autoperi.nn.heads import sum_per_crystal
from autoperi.symmetry.spacegroup import crystal_system
from autoperi.training.data import TensorCrystals
from autoperi.training.tasks.base import Batch, CrystalTask, weighted_error
from autoperi.training.tasks.formation_energy import FormationEnergyTask
from autoperi.units import MAX_ATOMIC_NUMBER

MASK = 0
"""Atomic number of a masked atom."""
TEACHER = "teacher"
"""Atom label that holds the teacher's features."""
N_GROUPS = 230


class CrysGnn(nn.Module):
    """The backbone and what its pre-training reads from it; see the module's docstring.

    Args:
        channels, layers, cutoff, n_radial, l_max: of the :class:`~autoperi.nn.backbone.Backbone`.
    """

    def __init__(
        self, *, channels: int = 64, layers: int = 3, cutoff: float = 5.0, n_radial: int = 8, l_max: int = 2
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "channels": channels,
            "layers": layers,
            "cutoff": cutoff,
            "n_radial": n_radial,
            "l_max": l_max,
        }
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff, n_radial=n_radial, l_max=l_max)
        self.norm = nn.LayerNorm(channels)
        self.element = nn.Linear(channels, MAX_ATOMIC_NUMBER + 1)
        self.pair = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, 2))
        self.space_group = nn.Linear(channels, N_GROUPS)
        self.projection = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, batch: CrystalBatch) -> tuple[Tensor, EdgeGeometry]:
        """Normalised features of the atoms, ``[N, C]``, and the edges that they came from."""
        output = self.backbone(batch)
        return self.norm(output.scalars), output.geometry

    def pooled(self, atoms: Tensor, batch: CrystalBatch) -> Tensor:
        """Mean over the atoms of each crystal, ``[B, C]``."""
        return sum_per_crystal(atoms, batch) / batch.n_atoms.to(atoms.dtype).unsqueeze(-1)

    def pairs(self, atoms: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Of pairs of atoms: ln(1 + number of edges), and the length of the shortest in Å, ``[P, 2]``; the order of a
        pair is of no matter.
        """
        a, b = atoms[first], atoms[second]
        return self.pair(torch.cat([a + b, a * b], -1))


def masked(batch: CrystalBatch, share: float, generator: torch.Generator) -> tuple[CrystalBatch, Tensor]:
    """The crystals with about ``share`` of their atoms of no element, and which these are, ``[N]``."""
    hidden = (torch.rand(len(batch.atomic_numbers), generator=generator) < share).to(batch.n_atoms.device)
    numbers = torch.where(hidden, torch.full_like(batch.atomic_numbers, MASK), batch.atomic_numbers)
    return CrystalBatch(batch.lattice, batch.frac_coords, numbers, batch.n_atoms), hidden


def random_pairs(batch: CrystalBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each atom with a random atom of its crystal, which may be itself, ``[N]`` each."""
    first = torch.arange(len(batch.atomic_numbers), device=batch.n_atoms.device)
    draw = torch.rand(len(first), generator=generator).to(batch.lattice)
    counts = batch.n_atoms[batch.batch]
    return first, batch.offsets[batch.batch] + (draw * counts).long().clamp(max=counts - 1)


def joined(graph: Multigraph, distances: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Number of edges between the atoms of each pair, ``[P]``, and the length of the shortest in Å, infinite where
    there is none, ``[P]``.

    Args:
        graph: all edges.
        distances: their lengths, ``[E]``.
        first, second: atoms of P pairs.
    """
    keys = graph.edge_index[0] * graph.n_nodes + graph.edge_index[1]
    known, place, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    shortest = torch.full((len(known),), torch.inf, dtype=distances.dtype, device=distances.device)
    shortest = shortest.scatter_reduce(0, place, distances, "amin")
    # one row more, for pairs that no edge joins
    counts, shortest = (functional.pad(x, (0, 1), value=v) for x, v in ((counts, 0), (shortest, torch.inf)))
    wanted = first * graph.n_nodes + second
    row = torch.searchsorted(known, wanted)
    found = row.clamp(max=len(known) - 1) if len(known) else row
    row = torch.where(
        (known[found] == wanted) if len(known) else torch.zeros_like(wanted, dtype=torch.bool), found, len(known)
    )
    return counts[row], shortest[row]


def contrastive_loss(vectors: Tensor, kind: Tensor, *, temperature: float = 0.2) -> Tensor:
    """NT-Xent: crystals of the same kind belong together, all others of the batch apart; zero where no two are alike.

    Mean over the ordered pairs (a, p) of one kind of -ln(exp(s_ap/τ) / Σ_{b≠a} exp(s_ab/τ)), with s the cosine.

    Args:
        vectors: ``[B, C]``.
        kind: ``[B]``; negative where unknown, which is like no other.
        temperature: τ.
    """
    unit = functional.normalize(vectors, dim=-1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similarity = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    log_share = similarity - torch.logsumexp(similarity, -1, keepdim=True)
    alike = (kind.unsqueeze(0) == kind.unsqueeze(1)) & ~itself & (kind >= 0)
    return -torch.where(alike, log_share, torch.zeros_like(log_share)).sum() / alike.sum().clamp(min=1)


def crystal_systems() -> Tensor:
    """Index of the crystal system of each space-group number 0..230, -1 for 0, ``[231]``."""
    names = [crystal_system(number) for number in range(1, N_GROUPS + 1)]
    order = list(dict.fromkeys(names))
    return torch.tensor([-1] + [order.index(name) for name in names])


class CrysGnnTask(CrystalTask):
    """Pre-training on crystals with the label ``space_group`` (1..230, NaN or 0 where unknown); no other label is read.

    Args:
        model: the teacher.
        share: of the atoms that are masked.
    """

    systems: Tensor

    def __init__(self, model: CrysGnn, *, share: float = 0.15, **options: Any) -> None:
        super().__init__(model, **options)
        self.share = share
        self.register_buffer("systems", crystal_systems(), persistent=False)

    def losses(self, model: CrysGnn, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The four losses, and of what is classified the share that is right."""
        crystals, labels = batch
        group = labels["space_group"].nan_to_num(0.0).long()
        seen, hidden = masked(crystals, self.share, generator)
        atoms, geometry = model(seen)
        first, second = random_pairs(crystals, generator)
        count, shortest = joined(geometry.graph, geometry.distances, first, second)
        found = model.pairs(atoms, first, second)
        near = torch.isfinite(shortest)
        distance = functional.smooth_l1_loss(found[:, 1], shortest.nan_to_num(posinf=0.0), reduction="none") * near
        whole = model.pooled(atoms, crystals)
        elements, groups = model.element(atoms[hidden]), model.space_group(whole)
        target, known = group - 1, group > 0
        return {
            "element": functional.cross_entropy(elements, crystals.atomic_numbers[hidden], reduction="sum")
            / hidden.sum().clamp(min=1),
            "pairs": functional.smooth_l1_loss(found[:, 0], torch.log1p(count.to(found)))
            + distance.sum() / near.sum().clamp(min=1),
            "space_group": functional.cross_entropy(groups, target, ignore_index=-1, reduction="sum")
            / known.sum().clamp(min=1),
            "contrast": contrastive_loss(model.projection(whole), self.systems[group]),
            "element_right": (elements.argmax(-1) == crystals.atomic_numbers[hidden]).sum() / hidden.sum().clamp(min=1),
            "space_group_right": ((groups.argmax(-1) == target) & known).sum() / known.sum().clamp(min=1),
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        teacher: CrysGnn = self.model  # type: ignore[assignment]
        found = self.losses(teacher, batch, self.generator(batch_idx, self.current_epoch))
        loss = torch.stack([v for k, v in found.items() if not k.endswith("_right")]).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        teacher: CrysGnn = self.average.module  # type: ignore[assignment]
        for key, value in self.losses(teacher, batch, self.generator(batch_idx, 2**31)).items():
            self.log(f"val_{key}", value, batch_size=len(batch[0]))


class DistilledTask(FormationEnergyTask):
    """A property with the teacher's atom features as a second target: L = (1-δ)·(weighted absolute error) + δ·(feature
    difference).

    The difference is the mean square of that of the two features, each of mean 0 and variance 1 over its channels.
    Crystals without the atom label ``teacher`` are learned from their label alone.

    Args:
        model: the student.
        delta: δ, in [0, 1).
    """

    def __init__(self, model: FormationEnergy, *, delta: float = 0.1, **options: Any) -> None:
        super().__init__(model, **options)
        self.delta = delta

    def loss_of(self, moved: CrystalBatch, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        student: FormationEnergy = self.model  # type: ignore[assignment]
        output = student.backbone(moved)
        error = weighted_error(student.read(output, moved), labels)
        if TEACHER not in labels:
            return error, error
        shape = output.scalars.shape[-1:]
        mine, theirs = (functional.layer_norm(x, shape) for x in (output.scalars, labels[TEACHER]))
        return (1 - self.delta) * error + self.delta * functional.mse_loss(mine, theirs), error


@torch.no_grad()
def with_teacher(teacher: CrysGnn | FormationEnergy, data: TensorCrystals, *, batch_size: int = 64) -> TensorCrystals:
    """The same data with the atom features of ``teacher`` as the atom label ``teacher``, ``[N, C]``."""
    teacher.eval()
    found = [teacher.backbone(data.crystals[rows]).scalars for rows in torch.arange(len(data)).split(batch_size)]
    return TensorCrystals(data.crystals, data.labels, {**data.atom_labels, TEACHER: torch.cat(found)})
