"""Properties of a crystal read from the frozen encoder of the formation energy, each with its uncertainty.

One pass of the encoder gives every atom's features; what the heads read of them is set out in :func:`encode`. A head
turns the atoms of a crystal into numbers of the crystal (:class:`PropertyHead`); several heads trained on different
parts of the data make the ensemble of a group of targets (:class:`PropertyHeads`). The uncertainty of a target is

    σ = s·(spread of the members² + ε²)^(1/2)

with ε a small network trained on the errors that members make on crystals they did not see, and s one number a
target, such that intervals of two σ hold 95 % of the labels of validation crystals (Scalia et al., J. Chem. Inf. Model.
60, 2697 (2020), scale calibration).

All inputs are invariant, and atoms are pooled by means, variances, extremes and weighted means: invariant under the
order of atoms and the choice of a supercell. Hence all outputs are invariant under Euc(3) × S_n × SL3(Z).
"""

from __future__ import annotations

import hashlib
import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import WeightsError
from autoperi.geometry.segments import ranges, segment_sum
from autoperi.models.formation_energy import FormationEnergy
from autoperi.nn.backbone import Backbone, BackboneOutput
from autoperi.nn.config import config_of
from autoperi.nn.mlp import mlp
from autoperi.units import MAX_ATOMIC_NUMBER

GROUPS: dict[str, tuple[str, ...]] = {
    "band_gap": ("band_gap",),
    "elastic": ("bulk_modulus", "shear_modulus"),
    "phonon": ("last_phonon_peak",),
    "formation_energy": ("formation_energy",),
}
"""Groups of targets that share heads. Gaps and formation energies are in eV, moduli in log10 GPa, the peak in ln
1/cm.
"""
_VARIANCE = 1e-2  # added to variances, so that their roots are smooth where all atoms are alike
_FLOOR = 0.01  # of the deviation of the labels: no error is smaller
_ATTENTION = 8.0  # largest logarithm of an attention weight


@dataclass(frozen=True, eq=False)
class CrystalFeatures:
    """What the heads read of B crystals with N atoms.

    Attributes:
        nodes: invariant features of the atoms, ``[N, F]``.
        atomic_numbers: ``[N]``.
        n_atoms: ``[B]``.
        volume: in Å³, ``[B]``.
        energy: predicted formation energy in eV/atom, ``[B]``.
    """

    nodes: Tensor
    atomic_numbers: Tensor
    n_atoms: Tensor
    volume: Tensor
    energy: Tensor

    def __len__(self) -> int:
        return len(self.n_atoms)

    def take(self, rows: Tensor) -> CrystalFeatures:
        """The crystals ``rows``, in that order."""
        counts = self.n_atoms[rows]
        atoms = ranges((torch.cumsum(self.n_atoms, 0) - self.n_atoms)[rows], counts)
        return CrystalFeatures(
            self.nodes[atoms], self.atomic_numbers[atoms], counts, self.volume[rows], self.energy[rows]
        )


class PropertyPrediction(NamedTuple):
    """Targets of one group, in the units of :data:`GROUPS`.

    Attributes:
        mean: ``[B, targets]``.
        std: ``[B, targets]``.
        is_metal: probability of a band gap of zero, ``[B]``; None for other groups.
    """

    mean: Tensor
    std: Tensor
    is_metal: Tensor | None


def node_features(backbone: Backbone, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
    """The last scalars ``[N, C]``, and all features that the heads read, ``[N, (layers + l_max)·C]``.

    These are the scalars after each layer, and of the last layer's features of l > 0 the logarithm of one plus their
    norm.
    """
    output, nodes = _all_features(backbone, batch)
    return output.scalars, nodes


def _all_features(backbone: Backbone, batch: CrystalBatch) -> tuple[BackboneOutput, Tensor]:
    geometry = backbone.geometry(batch)
    scalars = backbone.embedding(batch.atomic_numbers)
    found: list[Tensor] = []
    equivariant: list[Tensor] = []
    for layer in backbone.interactions:
        scalars, equivariant = layer(scalars, geometry)
        found.append(scalars)
    found += [torch.log1p(torch.linalg.vector_norm(block, dim=1)) for block in equivariant[1:]]
    return BackboneOutput(scalars, equivariant, geometry), torch.cat(found, -1)


def encode(model: FormationEnergy, batch: CrystalBatch) -> CrystalFeatures:
    """One pass of the encoder over ``batch``; the formation energy is that of ``model`` itself."""
    output, nodes = _all_features(model.backbone, batch)
    return CrystalFeatures(nodes, batch.atomic_numbers, batch.n_atoms, batch.volume, model.read(output, batch))


def encoder_fingerprint(backbone: Backbone) -> str:
    """sha256 of the encoder's weights in float32: heads fit the encoder they were trained on, and no other."""
    digest = hashlib.sha256()
    for key, value in sorted(backbone.state_dict().items()):
        digest.update(key.encode() + b"\0" + value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


class PropertyHead(nn.Module):
    """From the atoms of a crystal to numbers of the crystal.

    Each atom's features, element descriptors and a learned element vector pass a small network; means, deviations,
    extremes and attention-weighted means over the atoms, the same of the descriptors themselves, the logarithm of the
    volume per atom and the formation energy pass another.

    Args:
        features: F.
        descriptors: number of descriptors of an element.
        width: of an atom's vector.
        hidden: of the second network.
        outputs: numbers of a crystal.
        embedding: length of the learned element vector.
        attention: weighted means.
        dropout: in training.
    """

    def __init__(
        self,
        *,
        features: int,
        descriptors: int,
        width: int = 32,
        hidden: int = 64,
        outputs: int = 1,
        embedding: int = 16,
        attention: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, embedding)
        self.atom = mlp(features + descriptors + embedding, width, width)
        self.attention = nn.Linear(width, attention)
        pooled = (4 + attention) * width + 4 * descriptors + 2 * embedding + 2
        first = [nn.LayerNorm(pooled), nn.Dropout(dropout), nn.Linear(pooled, hidden), nn.SiLU(), nn.Dropout(dropout)]
        self.crystal = nn.Sequential(*first, *mlp(hidden, hidden, outputs))

    def forward(self, crystals: CrystalFeatures, nodes: Tensor, descriptors: Tensor) -> Tensor:
        """Outputs ``[B, outputs]``.

        Args:
            crystals: B crystals.
            nodes: their features, standardised, ``[N, F]``.
            descriptors: of their atoms, ``[N, descriptors]``.
        """
        element = self.embedding(crystals.atomic_numbers)
        atoms = self.atom(torch.cat([nodes, descriptors, element], -1))
        segment = torch.repeat_interleave(torch.arange(len(crystals), device=nodes.device), crystals.n_atoms)
        weight = torch.exp(_ATTENTION * torch.tanh(self.attention(atoms) / _ATTENTION))
        total = segment_sum(weight, segment, len(crystals))
        weighted = segment_sum((weight.unsqueeze(-1) * atoms.unsqueeze(1)).flatten(1), segment, len(crystals))
        parts = [
            *_moments(atoms, segment, crystals.n_atoms),
            *_extremes(atoms, segment, len(crystals)),
            (weighted.view(*total.shape, -1) / total.unsqueeze(-1)).flatten(1),
            *_moments(descriptors, segment, crystals.n_atoms),
            *_extremes(descriptors, segment, len(crystals)),
            *_moments(element, segment, crystals.n_atoms),
            torch.log(crystals.volume / crystals.n_atoms).unsqueeze(-1),
            crystals.energy.unsqueeze(-1),
        ]
        return self.crystal(torch.cat(parts, -1))


class PropertyHeads(nn.Module):
    """Ensembles of heads on one frozen encoder; see the module's docstring.

    Args:
        features: F, as :func:`node_features` gives them.
        descriptors: number of descriptors of an element.
        heads: group of :data:`GROUPS` to its ``members``, and what :class:`PropertyHead` is to be of (``width``,
            ``hidden``). A group without members has no mean of its own, only σ.
        noise: the same for the networks of ε.
        encoder: :func:`encoder_fingerprint` of the encoder, "" where it does not matter.
    """

    descriptors: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        *,
        features: int,
        descriptors: int,
        heads: dict[str, dict[str, int]],
        noise: dict[str, int] | None = None,
        encoder: str = "",
    ) -> None:
        super().__init__()
        noise = {"width": 8, "hidden": 16, "embedding": 4} if noise is None else noise
        self.config = deepcopy(config_of(locals()))
        unknown = set(heads) - set(GROUPS)
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} are no groups of properties")
        sizes = {"features": features, "descriptors": descriptors}
        self.register_buffer("descriptors", torch.zeros(MAX_ATOMIC_NUMBER + 1, descriptors))
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_std", torch.ones(features))
        self.members, self.noise = nn.ModuleDict(), nn.ModuleDict()
        for name, options in heads.items():
            targets = len(GROUPS[name])
            outputs = targets + (name == "band_gap")
            shape = {k: v for k, v in options.items() if k != "members"}
            self.members[name] = nn.ModuleList(
                PropertyHead(**sizes, outputs=outputs, **shape) for _ in range(options["members"])
            )
            self.noise[name] = PropertyHead(**sizes, outputs=targets, **noise)
            # labels are learned as (label - centre) / scale
            self.register_buffer(f"{name}_centre", torch.zeros(targets))
            self.register_buffer(f"{name}_scale", torch.ones(targets))
            self.register_buffer(f"{name}_calibration", torch.ones(targets))

    def inputs(self, crystals: CrystalFeatures) -> tuple[Tensor, Tensor]:
        """Standardised features and descriptors of the atoms, which every head takes."""
        return (crystals.nodes - self.feature_mean) / self.feature_std, self.descriptors[crystals.atomic_numbers]

    def spread(self, crystals: CrystalFeatures, group: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean and deviation of the members ``[B, targets]``, and the probability of a metal ``[B]`` where the group
        has one.

        Raises:
            KeyError: the model lacks the group, or it has no members.
        """
        inputs = self.inputs(crystals)
        members: Any = self.members[group]
        decoded = [self.decode(member(crystals, *inputs), group) for member in members]
        values = torch.stack([value for value, _ in decoded])
        metal = torch.stack([m for _, m in decoded if m is not None]).mean(0) if group == "band_gap" else None
        return values.mean(0), values.std(0, correction=0), metal

    def decode(self, outputs: Tensor, group: str) -> tuple[Tensor, Tensor | None]:
        """What a member's outputs ``[B, outputs]`` mean: targets ``[B, targets]``, and the probability of a metal
        ``[B]`` or None.

        A band gap is never negative, fades to zero where the probability of a metal goes from 0.4 to 0.6, and is zero
        beyond.
        """
        targets = len(GROUPS[group])
        values = outputs[:, :targets] * getattr(self, f"{group}_scale") + getattr(self, f"{group}_centre")
        if group != "band_gap":
            return values, None
        metal = torch.sigmoid(outputs[:, targets])
        return values.clamp(min=0) * ((0.6 - metal) / 0.2).clamp(0, 1).unsqueeze(-1), metal

    def error(self, crystals: CrystalFeatures, group: str) -> Tensor:
        """ε of each target, ``[B, targets]``."""
        return self.width_of(self.noise[group](crystals, *self.inputs(crystals))) * getattr(self, f"{group}_scale")

    @staticmethod
    def width_of(outputs: Tensor) -> Tensor:
        """Positive widths from what a network of ε gives, in units of the targets' scale."""
        return _FLOOR + torch.exp(outputs.clamp(-12, 4))

    def check_beside(self, model: Any) -> None:
        """Refuse an encoder other than the one these heads were trained on.

        Args:
            model: a :class:`~autoperi.hub.networks.LoadedBundle` that holds these heads.

        Raises:
            WeightsError: the model has no formation energy, or another than that of the training.
        """
        encoder = model.need("formation_energy", "property_heads").backbone
        if self.config["encoder"] not in ("", encoder_fingerprint(encoder)):
            raise WeightsError(
                f"component 'property_heads' of model {model.bundle.name!r} was trained on another encoder than its "
                "'formation_energy'; train it anew on this one, or leave it out"
            )

    def forward(self, crystals: CrystalFeatures) -> dict[str, PropertyPrediction]:
        """Predictions of every group of the model; the mean formation energy is that of the encoder's own head."""
        found = {}
        for name in self.members:
            error = self.error(crystals, name)
            mean, deviation, metal = (
                self.spread(crystals, name)
                if len(self.members[name])  # type: ignore[arg-type]
                else (crystals.energy.unsqueeze(-1), torch.zeros_like(error), None)
            )
            std = getattr(self, f"{name}_calibration") * torch.sqrt(deviation**2 + error**2)
            found[name] = PropertyPrediction(mean, std, metal)
        return found


def properties_of(predictions: dict[str, PropertyPrediction]) -> dict[str, Tensor]:
    """Columns of a table, ``[B]`` each: gaps and formation energies in eV, moduli in GPa, the last phonon peak in 1/cm.

    The uncertainty of what is predicted as a logarithm is that of the logarithm times the value: σ(K) = ln 10 · K ·
    σ(log10 K).
    """
    columns: dict[str, Tensor] = {}
    for group, prediction in predictions.items():
        for k, target in enumerate(GROUPS[group]):
            value, std = prediction.mean[:, k], prediction.std[:, k]
            if group == "elastic":
                value = torch.pow(10.0, value)
                std = math.log(10) * value * std
            elif group == "phonon":
                value = torch.exp(value)
                std = value * std
            columns[target], columns[f"{target}_std"] = value, std
        if prediction.is_metal is not None:
            columns["is_metal_probability"] = prediction.is_metal
    return columns


def _moments(values: Tensor, segment: Tensor, n_atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over each crystal's atoms."""
    n = n_atoms.unsqueeze(-1).to(values.dtype)
    mean = segment_sum(values, segment, len(n_atoms)) / n
    variance = segment_sum((values - mean[segment]) ** 2, segment, len(n_atoms)) / n
    return mean, torch.sqrt(variance + _VARIANCE)


def _extremes(values: Tensor, segment: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Largest and smallest over each crystal's atoms."""
    index = segment.unsqueeze(-1).expand_as(values)
    empty = torch.zeros(size, values.shape[1], dtype=values.dtype, device=values.device)
    return tuple(empty.scatter_reduce(0, index, values, kind, include_self=False) for kind in ("amax", "amin"))  # type: ignore[return-value]
