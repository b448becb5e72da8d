"""Training of the property heads: crystals are encoded once, then small heads learn from the features in a minute or
two.

The members of a group's ensemble are trained on all but one fold each of the training crystals, so that half of the
crystals have an error of a member that did not see them; the network of ε learns from these errors (see
:mod:`autoperi.models.property_heads`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autoperi.chemistry.properties import LABELS, METAL_EV
from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.property_heads import GROUPS, CrystalFeatures, PropertyHeads, PropertyPrediction, encode
from autoperi.progress import progress_bar
from autoperi.units import MAX_ATOMIC_NUMBER

DESCRIPTORS = (
    *(
        "mendeleev_no",
        "X",
        "row",
        "group",
        "atomic_radius",
        "atomic_radius_calculated",
        "average_ionic_radius",
        "van_der_waals_radius",
    ),
    *("highest_state", "lowest_state", "s", "p", "d", "f", "ionization_energy", "electron_affinity"),
)
LOGARITHMS = (
    *(
        "atomic_mass",
        "melting_point",
        "boiling_point",
        "bulk_modulus",
        "youngs_modulus",
        "rigidity_modulus",
        "density_of_solid",
    ),
    *("electrical_resistivity", "molar_volume", "brinell_hardness"),
)


@dataclass(frozen=True)
class HeadTraining:
    """How the heads of one group are trained.

    Attributes:
        epochs, batch_size, learning_rate, weight_decay: of each member.
        noise_epochs: of ε.
        ema: of the averaged weights.
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    noise_epochs: int = 20
    ema: float = 0.99


def descriptor_table() -> Tensor:
    """Standardised descriptors of the elements 0..118 from pymatgen's tables, ``[119, 26]``; gaps are zero.

    Those of :data:`DESCRIPTORS` as they are (``s p d f``: electrons outside the noble-gas core), of :data:`LOGARITHMS`
    the logarithm.
    """
    from pymatgen.core import Element

    table = np.full((MAX_ATOMIC_NUMBER + 1, len(DESCRIPTORS) + len(LOGARITHMS)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of elements without data; the gaps are filled below
        for z in range(1, MAX_ATOMIC_NUMBER + 1):
            element = Element.from_Z(z)
            states = element.common_oxidation_states
            known = {
                "highest_state": max(states, default=None),
                "lowest_state": min(states, default=None),
                **_valence(element),
            }
            plain = [known[name] if name in known else _entry(element, name) for name in DESCRIPTORS]
            logs = [_entry(element, name) for name in LOGARITHMS]
            table[z] = [_number(v) for v in plain] + [np.log(_number(v)) for v in logs]
    body = table[1:]
    mean, std = np.nanmean(body[:100], 0), np.nanstd(body[:100], 0)
    table[1:] = np.where(np.isfinite(body), (body - mean) / std, 0.0)
    table[0] = 0.0
    return torch.tensor(table, dtype=torch.float32)


def _entry(element: Any, name: str) -> Any:
    try:
        return getattr(element, name)
    except (AttributeError, KeyError):  # the heaviest elements have no such entry
        return None


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return np.nan
    return number


def _valence(element: Any) -> dict[str, int]:
    """Electrons outside the noble-gas core by l."""
    count = dict.fromkeys("spdf", 0)
    noble = max(n for n in (0, 2, 10, 18, 36, 54, 86) if n < element.Z)
    try:
        shells = sorted(
            element.full_electronic_structure, key=lambda shell: (shell[0] + "spdf".index(shell[1]), shell[0])
        )
    except KeyError:  # the heaviest elements have no entry
        return count
    seen = 0
    for _, ell, electrons in shells:
        seen += electrons
        if seen > noble:
            count[ell] += electrons
    return count


@torch.no_grad()
def encode_all(
    model: FormationEnergy, crystals: CrystalBatch, *, max_atoms: int = 600, progress: bool | None = False
) -> CrystalFeatures:
    """Features of many crystals, in the order given, in float32 on the CPU.

    Args:
        model: the encoder, in the precision and on the device of its work.
        crystals: any number.
        max_atoms: atoms of a pass, unless one crystal has more.
        progress: show a bar; None shows it on a terminal.
    """
    parameter = next(model.parameters())
    crystals = crystals.to(dtype=parameter.dtype, device=parameter.device)
    order = torch.argsort(crystals.n_atoms, stable=True)
    sizes = crystals.n_atoms[order].tolist()
    found: list[CrystalFeatures] = []
    start = 0
    with progress_bar(len(crystals), enabled=progress, description="encoding") as bar:
        while start < len(sizes):
            stop = start + 1
            while stop < len(sizes) and sizes[stop] * (stop + 1 - start) <= max_atoms:  # the last is the largest
                stop += 1
            found.append(encode(model, crystals[order[start:stop]]))
            bar.update(stop - start)
            start = stop
    if not found:
        return encode(model, crystals)
    joined = CrystalFeatures(
        *(
            torch.cat([getattr(f, name) for f in found]).cpu()
            for name in ("nodes", "atomic_numbers", "n_atoms", "volume", "energy")
        )
    )
    joined = CrystalFeatures(
        joined.nodes.float(), joined.atomic_numbers, joined.n_atoms, joined.volume.float(), joined.energy.float()
    )
    return joined.take(torch.argsort(order.cpu()))


def target_labels(group: str, labels: Mapping[str, Any]) -> Tensor:
    """Labels of a table as the targets of ``group``, ``[B, targets]``, in the units of :data:`GROUPS`; NaN where
    missing or not positive.

    Args:
        group: of :data:`GROUPS`.
        labels: columns, named as the targets or as :data:`LABELS` says; formation energies as
            ``formation_energy_per_atom``.
    """
    columns = []
    for target in GROUPS[group]:
        name = next(n for n in (target, LABELS.get(target, target), f"{target}_per_atom") if n in labels)
        values = torch.as_tensor(np.asarray(labels[name], dtype=np.float64))
        if group in ("elastic", "phonon"):
            values = torch.where(values > 0, values, torch.nan)
            values = torch.log10(values) if group == "elastic" else torch.log(values)
        columns.append(values)
    return torch.stack(columns, -1).float()


def fit_scales(model: PropertyHeads, crystals: CrystalFeatures) -> None:
    """Descriptors of the elements, and mean and deviation of the features over the atoms of ``crystals``, into
    ``model``.
    """
    model.descriptors.copy_(descriptor_table())
    model.feature_mean.copy_(crystals.nodes.mean(0))
    model.feature_std.copy_(crystals.nodes.std(0) + 1e-3)


def fit_group(
    model: PropertyHeads,
    group: str,
    crystals: CrystalFeatures,
    targets: Tensor,
    *,
    settings: HeadTraining | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train the members of ``group``, each without a fold of its own, and ε on the errors in those folds; in place.

    Args:
        model: with the scales of :func:`fit_scales`.
        group: of :data:`GROUPS`.
        crystals: B crystals.
        targets: ``[B, targets]``, all finite.
        settings: of the training.
        seed: of folds, weights, batches and dropout.

    Returns:
        Numbers of crystals and the mean absolute error of each target on the folds (cross-validation).
    """
    settings = settings or HeadTraining()
    getattr(model, f"{group}_centre").copy_(
        targets.mean(0) if group in ("elastic", "phonon") else torch.zeros(targets.shape[1])
    )
    getattr(model, f"{group}_scale").copy_(targets.std(0, correction=0).clamp(min=1e-3))
    members: Any = model.members[group]
    fold = _folds(len(crystals), len(members), seed)
    for k, member in enumerate(members):
        rows = (fold != k).nonzero().squeeze(-1)
        _fit(member, model, group, crystals, targets, rows, settings, settings.epochs, seed=(seed, 1, k))
    residual = held_out_errors(model, group, crystals, targets, seed=seed)
    known = torch.isfinite(residual).all(-1).nonzero().squeeze(-1)
    _fit(
        model.noise[group],
        model,
        group,
        crystals,
        residual,
        known,
        settings,
        settings.noise_epochs,
        seed=(seed, 2, 0),
        noise=True,
    )
    model.eval()
    return {"crystals": len(crystals), "cross_validation_mae": residual[known].abs().mean(0).tolist()}


def held_out_errors(
    model: PropertyHeads, group: str, crystals: CrystalFeatures, targets: Tensor, *, seed: int
) -> Tensor:
    """Label minus prediction of the member that did not see the crystal, ``[B, targets]``, NaN where all saw it.

    Of a group without members: of the encoder's own head. Arguments as :func:`fit_group` had them.
    """
    members: Any = model.members[group]
    if not len(members):
        return targets - crystals.energy.unsqueeze(-1)
    fold = _folds(len(crystals), len(members), seed)
    residual = torch.full_like(targets, torch.nan)
    for k, member in enumerate(members):
        held = (fold == k).nonzero().squeeze(-1)
        residual[held] = targets[held] - _values(member, model, group, crystals, held)
    return residual


def _folds(n: int, members: int, seed: int) -> Tensor:
    """Fold of each crystal; more folds than members: each sees most of the data, and enough errors are left to learn
    from.
    """
    return torch.randperm(n, generator=torch_generator(seed, 0)) % max(2 * members, 4)


def _fit(
    network: nn.Module,
    model: PropertyHeads,
    group: str,
    crystals: CrystalFeatures,
    targets: Tensor,
    rows: Tensor,
    settings: HeadTraining,
    epochs: int,
    *,
    seed: tuple[int, int, int],
    noise: bool = False,
) -> None:
    """One network on ``rows`` of the crystals; the averaged weights stay in it."""
    generator = torch_generator(*seed)
    steps = epochs * -(-len(rows) // settings.batch_size)
    centre, scale = getattr(model, f"{group}_centre"), getattr(model, f"{group}_scale")
    loss_of = _noise_loss if noise else _LOSSES[group]
    with torch.random.fork_rng(
        devices=[]
    ):  # dropout and initial weights draw from the global generator: the caller's stays as it was
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        for part in network.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()  # type: ignore[operator]
        optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=steps + 1, pct_start=0.15
        )
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        network.train()
        for _ in range(epochs):
            for chosen in rows[torch.randperm(len(rows), generator=generator)].split(settings.batch_size):
                part_of = crystals.take(chosen)
                loss = loss_of(network(part_of, *model.inputs(part_of)), targets[chosen], centre, scale)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                average.update_parameters(network)
        network.load_state_dict(average.module.state_dict())
    network.eval()


def _gap_loss(found: Tensor, label: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    metal = (label[:, 0] < METAL_EV).to(found.dtype)
    value = (found[:, :1] * scale + centre - label).abs().mean()
    return value + 0.5 * functional.binary_cross_entropy_with_logits(found[:, 1], metal)


def _elastic_loss(found: Tensor, label: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return (found - (label - centre) / scale).abs().mean()


def _phonon_loss(found: Tensor, label: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """Absolute errors in 1/cm, because that is what is reported, over a typical peak."""
    return (torch.exp((found * scale + centre).clamp(max=12)) - torch.exp(label)).abs().mean() / torch.exp(
        centre
    ).mean()


_LOSSES = {"band_gap": _gap_loss, "elastic": _elastic_loss, "phonon": _phonon_loss}


def _noise_loss(found: Tensor, residual: Tensor, centre: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001
    """Negative log-likelihood of a normal distribution, so that ε is a root mean square error.

    On the validation crystals its σ had lower calibration errors than that of a Laplace distribution, and the same for
    the phonon peak (``benchmarks/results/property_heads_noise_val.json``).
    """
    width = PropertyHeads.width_of(found)
    return (torch.log(width) + 0.5 * (residual / scale / width) ** 2).mean()


@torch.no_grad()
def _values(member: nn.Module, model: PropertyHeads, group: str, crystals: CrystalFeatures, rows: Tensor) -> Tensor:
    """What one member says of the crystals ``rows``."""
    member.eval()
    found = []
    for chosen in rows.split(512):
        part = crystals.take(chosen)
        found.append(model.decode(member(part, *model.inputs(part)), group)[0])
    return torch.cat(found) if found else torch.zeros(0, len(GROUPS[group]))


@torch.no_grad()
def predict_all(
    model: PropertyHeads, crystals: CrystalFeatures, *, batch_size: int = 512
) -> dict[str, PropertyPrediction]:
    """``model`` on many crystals, as its ``forward`` gives it for a few."""
    parts = [model(crystals.take(rows)) for rows in torch.arange(len(crystals)).split(batch_size)]
    found = {}
    for group in parts[0] if parts else ():
        metal = [p[group].is_metal for p in parts]
        found[group] = PropertyPrediction(
            torch.cat([p[group].mean for p in parts]),
            torch.cat([p[group].std for p in parts]),
            None if metal[0] is None else torch.cat(metal),
        )
    return found


def calibrate(model: PropertyHeads, group: str, crystals: CrystalFeatures, targets: Tensor) -> Tensor:
    """Set the factor s of each target such that intervals of two σ hold 95.45 % of the labels, as for a normal
    distribution.

    Errors have heavier tails than a normal distribution: where two σ hold the right share, one σ holds more than 68 %.
    The wider interval is the one to be relied on.

    Args:
        model: trained.
        group: of :data:`GROUPS`.
        crystals: not those of training.
        targets: ``[B, targets]``; NaN rows are left out.

    Returns:
        The factors, ``[targets]``.
    """
    factors: Tensor = getattr(model, f"{group}_calibration")
    factors.fill_(1.0)
    prediction = predict_all(model, crystals)[group]
    for k in range(targets.shape[1]):
        known = torch.isfinite(targets[:, k])
        ratio = ((prediction.mean[:, k] - targets[:, k]).abs() / prediction.std[:, k])[known].double()
        if len(ratio):
            factors[k] = (torch.quantile(ratio, 0.9545) / 2).clamp(min=1e-3).to(factors.dtype)
    return factors.clone()
