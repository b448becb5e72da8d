"""``score``: one table row per crystal, each number with its unit in the name and each refusal with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi.chemistry.properties import PROPERTIES
from autoperi.chemistry.smact import StateSet, charge_neutral
from autoperi.data.convert import as_structure, to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError, StructureError
from autoperi.geometry.distances import minimum_distance_ratios, minimum_distances
from autoperi.hub.networks import LoadedBundle
from autoperi.metrics.features import MIN_VOLUME
from autoperi.metrics.hull import energies_above_hull
from autoperi.metrics.validity import validity
from autoperi.models.property_heads import encode, properties_of
from autoperi.pipelines.cell_sizes import MAX_ATOMS, cell_size_log_probabilities
from autoperi.pipelines.request import make_request
from autoperi.pipelines.settings import Settings
from autoperi.prior.locate import log_probability_of
from autoperi.prior.propose import Proposer
from autoperi.progress import progress_bar
from autoperi.symmetry.analysis import STRICT_SYMPREC, SYMPREC, analyse

if TYPE_CHECKING:
    import pandas as pd

ENERGY = PROPERTIES["formation_energy"].column
OXIDATION_STATES: StateSet = "pymatgen-all"
"""The list that ``generate`` filters de novo compositions with; the closest of pymatgen's to SMACT's own."""

FACTS: dict[str, tuple[str, ...]] = {
    "formula": ("formula", "n_atoms"),
    "validity": ("valid", "reason"),
    "distance": ("min_distance_A", "min_distance_ratio"),
    "charge": ("charge_neutral",),
    "density": ("density_g_per_cm3", "volume_per_atom_A3"),
    "symmetry": ("space_group", "space_group_symbol"),
}
"""What needs no model, and the columns each brings."""
METAL_COLUMN = "is_metal_probability"
"""The third column of the band gap."""
LIKELIHOOD = "log_likelihood"
"""The column that the prototype prior fills."""
NAMES = (*FACTS, *PROPERTIES, LIKELIHOOD)
"""What ``properties=`` may name."""


def score_table(
    crystals: Sequence[Any],
    model: LoadedBundle,
    settings: Settings,
    *,
    properties: Iterable[str] | None = None,
    references: Mapping[str, float] | Iterable[tuple[str, float]] | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Score crystals; see :meth:`autoperi.AutoPeri.score`."""
    import pandas as pd

    offered = columns_of(model)
    if isinstance(properties, str) or not isinstance(properties, Iterable | None):
        raise RequestError(f"properties={properties!r} is no list of names; give one such as ['formula', 'density']")
    chosen = list(offered) if properties is None else list(properties)
    unknown = [p for p in chosen if p not in NAMES]
    if unknown:
        raise RequestError(f"properties={unknown!r} are not known; choose from {', '.join(NAMES)}")
    lacks = [p for p in chosen if p not in offered]
    if lacks:
        raise RequestError(
            f"this model predicts no {', '.join(lacks)}; choose from {', '.join(offered)}, or load a model that does"
        )
    if not isinstance(references, Iterable | None):
        raise RequestError(f"references={references!r} are no formation energies; give one for each formula")
    if references is not None and "formation_energy" not in chosen:
        raise RequestError(
            "references need the formation energy; add 'formation_energy' to properties, or drop references"
        )
    proposer = model.find("prior") if LIKELIHOOD in chosen else None
    if proposer is not None:
        proposer = proposer.with_settings(known_weight=settings.known_weight)
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
                columns |= _predicted(part, model, [c for name in chosen for c in offered[name]])
            for k in range(len(part)):
                row = {name: values[k] for name, values in columns.items()}
                rows[start + k] = {**_describe(structures[start + k], chosen, proposer), **row}
            bar.update(len(part))
    names = [column for name in chosen for column in offered[name]]
    table = pd.DataFrame(rows, columns=names)
    if references is not None:
        formulas = [s.composition.reduced_formula for s in structures]
        energies = table[ENERGY].tolist()
        table["energy_above_hull_eV"] = energies_above_hull(formulas, energies, references)
    return table


def columns_of(model: LoadedBundle) -> dict[str, tuple[str, ...]]:
    """What ``properties=`` may name with this model, and the columns each brings."""
    heads = model.find("property_heads")
    groups = {} if heads is None else heads.config["heads"]
    offered = dict(FACTS)
    for p in PROPERTIES.values():
        columns: tuple[str, ...] = (p.column, p.std) if p.group in groups else ()
        if p.column == ENERGY and "formation_energy" in model:
            columns = (ENERGY, *columns[1:])
        if p.name == "band_gap" and columns:
            columns = (*columns, METAL_COLUMN)
        if columns:
            offered[p.name] = columns
    return offered | ({LIKELIHOOD: (LIKELIHOOD,)} if "prior" in model else {})


def _predicted(part: CrystalBatch, model: LoadedBundle, columns: Sequence[str]) -> dict[str, Sequence[float]]:
    """:func:`_of_networks`, and NaN for crystals denser than any: their thousands of neighbours fill the memory and
    mean nothing.
    """
    room = part.volume >= MIN_VOLUME * part.n_atoms
    if bool(room.all()):
        return _of_networks(part, model, columns)
    places = room.nonzero().squeeze(-1).tolist()
    found = _of_networks(part[places], model, columns) if places else {}
    out: dict[str, Sequence[float]] = {}
    for column in (c for c in columns if c in _HEADS or c == ENERGY):
        values = [math.nan] * len(part)
        for k, value in zip(places, found.get(column, ()), strict=False):
            values[k] = value
        out[column] = values
    return out


_HEADS = {c: n for p in PROPERTIES.values() for c, n in ((p.column, p.name), (p.std, f"{p.name}_std")) if c != ENERGY}
_HEADS[METAL_COLUMN] = METAL_COLUMN
"""Columns that property heads fill, and what :func:`autoperi.models.property_heads.properties_of` calls them."""


def _of_networks(part: CrystalBatch, model: LoadedBundle, columns: Sequence[str]) -> dict[str, Sequence[float]]:
    """The formation energy and what the heads predict, as far as ``columns`` ask for it; one pass of the encoder."""
    asked = [c for c in columns if c in _HEADS]
    if not asked and ENERGY not in columns:
        return {}
    energy = model.need("formation_energy", "score")
    part = part.to(device=model.device)
    if not asked:
        return {ENERGY: _plain(energy(part))}
    features = encode(energy, part)
    values = properties_of(model.find("property_heads")(features))
    found: dict[str, Sequence[float]] = {c: _plain(values[_HEADS[c]]) for c in asked}
    if ENERGY in columns:
        found[ENERGY] = _plain(features.energy)
    return found


def _plain(values: torch.Tensor) -> list[float]:
    return [round(float(v), 6) for v in values]


def _describe(structure: Any, chosen: Sequence[str], proposer: Proposer | None) -> dict[str, Any]:
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
            info = analyse(structure.lattice.matrix, structure.frac_coords, numbers, symprec=STRICT_SYMPREC)
            row |= {"space_group": info.number, "space_group_symbol": info.symbol}
        except StructureError:
            row |= {"space_group": None, "space_group_symbol": None}
    if proposer is not None:
        row[LIKELIHOOD] = _log_likelihood(structure, numbers, proposer)
    return row


def _log_likelihood(structure: Any, numbers: np.ndarray, proposer: Proposer) -> float | None:
    """ln p(cell size, prototype, assignment | composition), as ``generate`` gives it.

    None where the prior knows no such crystal.
    """
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
