"""``score``: one table row per crystal, each number with its unit in the name and each refusal with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi.chemistry.smact import StateSet, charge_neutral
from autoperi.data.convert import as_structure, to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError, StructureError
from autoperi.geometry.distances import minimum_distance_ratios, minimum_distances
from autoperi.metrics.features import MIN_VOLUME
from autoperi.metrics.hull import energies_above_hull
from autoperi.metrics.validity import validity
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.property_heads import GROUPS, PropertyHeads, encode, properties_of
from autoperi.pipelines.candidates import cell_size_log_probabilities
from autoperi.pipelines.request import MAX_ATOMS, make_request
from autoperi.prior.locate import SYMPREC, log_probability_of
from autoperi.prior.propose import Proposer
from autoperi.progress import progress_bar
from autoperi.symmetry.analysis import analyse

if TYPE_CHECKING:
    import pandas as pd

OXIDATION_STATES: StateSet = "pymatgen-all"
"""The list that ``generate`` filters de novo compositions with; the closest of pymatgen's to SMACT's own."""

PROPERTIES = {
    "formula": ("formula", "n_atoms"),
    "validity": ("valid", "reason"),
    "distance": ("min_distance_A", "min_distance_ratio"),
    "charge": ("charge_neutral",),
    "density": ("density_g_per_cm3", "volume_per_atom_A3"),
    "symmetry": ("space_group", "space_group_symbol"),
    "formation_energy": ("formation_energy_per_atom_eV", "formation_energy_per_atom_eV_std"),
    "band_gap": ("band_gap_eV", "band_gap_eV_std", "is_metal_probability"),
    "bulk_modulus": ("bulk_modulus_GPa", "bulk_modulus_GPa_std"),
    "shear_modulus": ("shear_modulus_GPa", "shear_modulus_GPa_std"),
    "last_phonon_peak": ("last_phonon_peak_per_cm", "last_phonon_peak_per_cm_std"),
    "log_likelihood": ("log_likelihood",),
}
"""What ``properties=`` may name, and the columns each brings; ``_std`` is one standard deviation of what is before
it.
"""
HEADS = {
    "formation_energy_per_atom_eV_std": "formation_energy_std",
    "band_gap_eV": "band_gap",
    "band_gap_eV_std": "band_gap_std",
    "is_metal_probability": "is_metal_probability",
    "bulk_modulus_GPa": "bulk_modulus",
    "bulk_modulus_GPa_std": "bulk_modulus_std",
    "shear_modulus_GPa": "shear_modulus",
    "shear_modulus_GPa_std": "shear_modulus_std",
    "last_phonon_peak_per_cm": "last_phonon_peak",
    "last_phonon_peak_per_cm_std": "last_phonon_peak_std",
}
"""Columns that property heads fill, and what they call them (:func:`autoperi.models.property_heads.properties_of`)."""


def score_table(
    crystals: Sequence[Any],
    *,
    energy: FormationEnergy,
    proposer: Proposer,
    heads: PropertyHeads | None = None,
    properties: Iterable[str] | None = None,
    references: Mapping[str, float] | Iterable[tuple[str, float]] | None = None,
    batch_size: int = 32,
    symprec: float = 0.01,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Score crystals; see :meth:`autoperi.AutoPeri.score`."""
    import pandas as pd

    offered = columns_of(heads)
    chosen = list(offered) if properties is None else list(properties)
    unknown = [p for p in chosen if p not in PROPERTIES]
    if unknown:
        raise RequestError(f"properties={unknown!r} are not known; choose from {', '.join(PROPERTIES)}")
    lacking = [p for p in chosen if p not in offered]
    if lacking:
        raise RequestError(
            f"this model predicts no {', '.join(lacking)}; choose from {', '.join(offered)}, or load a model that does"
        )
    if references is not None and "formation_energy" not in chosen:
        raise RequestError(
            "references need the formation energy; add 'formation_energy' to properties, or drop references"
        )
    batch = to_batch(crystals, dtype=torch.float64)
    structures = [as_structure(c, name=f"crystal {i}") for i, c in enumerate(crystals)]
    rows: list[dict[str, Any]] = [{} for _ in structures]
    with progress_bar(len(structures), enabled=progress, description="scoring") as bar:
        for start in range(0, len(structures), batch_size):
            part = batch[start : start + batch_size]
            columns: dict[str, Sequence[Any]] = {}
            with torch.no_grad():
                if "distance" in chosen:
                    columns["min_distance_A"] = _plain(minimum_distances(part))
                    columns["min_distance_ratio"] = _plain(minimum_distance_ratios(part))
                columns |= _predicted(part, energy, heads, [c for name in chosen for c in offered[name]])
            for k in range(len(part)):
                row = {name: values[k] for name, values in columns.items()}
                rows[start + k] = {**_describe(structures[start + k], chosen, proposer, symprec), **row}
            bar.update(len(part))
    names = [column for name in chosen for column in offered[name]]
    table = pd.DataFrame(rows, columns=names)
    if references is not None:
        formulas = [s.composition.reduced_formula for s in structures]
        table["energy_above_hull_eV"] = energies_above_hull(
            formulas, table["formation_energy_per_atom_eV"].tolist(), references
        )
    return table


def columns_of(heads: PropertyHeads | None) -> dict[str, tuple[str, ...]]:
    """:data:`PROPERTIES` and their columns as far as a model with these ``heads`` has them."""
    groups = {} if heads is None else heads.config["heads"]
    known = {name for group in groups for target in GROUPS[group] for name in (target, f"{target}_std")}
    known |= {"is_metal_probability"} if "band_gap" in groups else set()
    offered = {
        name: tuple(c for c in columns if HEADS.get(c, c) in known or c not in HEADS)
        for name, columns in PROPERTIES.items()
    }
    return {name: columns for name, columns in offered.items() if columns}


def _predicted(
    part: CrystalBatch, energy: FormationEnergy, heads: PropertyHeads | None, columns: Sequence[str]
) -> dict[str, Sequence[float]]:
    """:func:`_of_networks`, and NaN for crystals denser than any: their thousands of neighbours fill the memory and
    mean nothing.
    """
    room = part.volume >= MIN_VOLUME * part.n_atoms
    if bool(room.all()):
        return _of_networks(part, energy, heads, columns)
    places = room.nonzero().squeeze(-1).tolist()
    found = _of_networks(part[places], energy, heads, columns) if places else {}
    out: dict[str, Sequence[float]] = {}
    for column in (c for c in columns if c in HEADS or c == "formation_energy_per_atom_eV"):
        values = [math.nan] * len(part)
        for k, value in zip(places, found.get(column, ()), strict=False):
            values[k] = value
        out[column] = values
    return out


def _of_networks(
    part: CrystalBatch, energy: FormationEnergy, heads: PropertyHeads | None, columns: Sequence[str]
) -> dict[str, Sequence[float]]:
    """The formation energy and what the heads predict, as far as ``columns`` ask for it; one pass of the encoder."""
    asked = [c for c in columns if c in HEADS]
    part = part.to(device=next(energy.parameters()).device)
    if heads is None or not asked:
        return (
            {"formation_energy_per_atom_eV": _plain(energy(part))} if "formation_energy_per_atom_eV" in columns else {}
        )
    features = encode(energy, part)
    values = properties_of(heads(features))
    found: dict[str, Sequence[float]] = {c: _plain(values[HEADS[c]]) for c in asked}
    if "formation_energy_per_atom_eV" in columns:
        found["formation_energy_per_atom_eV"] = _plain(features.energy)
    return found


def _plain(values: torch.Tensor) -> list[float]:
    return [round(float(v), 6) for v in values]


def _describe(structure: Any, chosen: Sequence[str], proposer: Proposer, symprec: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    numbers = np.array([site.specie.Z for site in structure])
    if "formula" in chosen:
        row |= {"formula": structure.composition.reduced_formula, "n_atoms": len(structure)}
    if "validity" in chosen:
        judged = validity(structure, oxidation_states=OXIDATION_STATES)
        row |= {"valid": judged.valid, "reason": judged.reason}
    if "charge" in chosen:
        row["charge_neutral"] = charge_neutral(
            {int(z): int(c) for z, c in zip(*np.unique(numbers, return_counts=True), strict=True)},
            oxidation_states=OXIDATION_STATES,
        )
    if "density" in chosen:
        row |= {
            "density_g_per_cm3": round(float(structure.density), 6),
            "volume_per_atom_A3": round(float(structure.volume) / len(structure), 6),
        }
    if "symmetry" in chosen:
        try:
            info = analyse(structure.lattice.matrix, structure.frac_coords, numbers, symprec=symprec)
            row |= {"space_group": info.number, "space_group_symbol": info.symbol}
        except StructureError:
            row |= {"space_group": None, "space_group_symbol": None}
    if "log_likelihood" in chosen:
        row["log_likelihood"] = _log_likelihood(structure, numbers, proposer)
    return row


def _log_likelihood(structure: Any, numbers: np.ndarray, proposer: Proposer) -> float | None:
    """ln p(cell size, prototype, assignment | composition), as ``generate`` gives it; None where the prior knows no such crystal."""
    try:
        info = analyse(structure.lattice.matrix, structure.frac_coords, numbers, symprec=SYMPREC)
    except StructureError:
        return None
    size = len(info.primitive_numbers)
    conditional = log_probability_of(proposer, info) if size <= MAX_ATOMS else None  # the prior knows no larger cells
    if conditional is None:
        return None
    request = make_request(structure.composition)
    log_size = cell_size_log_probabilities(request, proposer).get(size // request.atoms_per_unit)
    return None if log_size is None else round(log_size + conditional, 6)
