"""What is done for a composition, and what is kept of it: crystals generated, relaxed by the judge, told apart, and
written as a part of the run, from which a later process goes on.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoperi.data.convert import as_structure, to_arrays, to_batch
from autoperi.data.files import check_exists, plain
from autoperi.data.formats import read_json
from autoperi.data.io import read_crystals
from autoperi.errors import AutoPeriError, AutoPeriWarning, DataError, RequestError, StructureError, one_line
from autoperi.geometry.distances import MIN_DISTANCE_RATIO, minimum_distance_ratios
from autoperi.metrics.groups import group_crystals
from autoperi.metrics.pairs import TOLERANCES
from autoperi.metrics.references import References, reference_entries
from autoperi.pipelines.request import Request
from autoperi.relax.lattice import FAILED
from autoperi.relax.positions import relax_positions
from autoperi.symmetry.analysis import STRICT_SYMPREC, SYMPREC, analyse

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from autoperi.auto import AutoPeri
    from autoperi.models.potential import Potential

MATCHER = dict(TOLERANCES["default"])
"""Tolerances at which two crystals are one: pymatgen's own."""
TOO_CLOSE = "too_close"
"""Status of a crystal whose atoms the relaxation brought nearer than 0.55 of the sum of their covalent radii."""
BEFORE = ("formation_energy_per_atom_eV", "potential_energy_per_atom_eV", "space_group", "min_distance_ratio")
"""What the provenance of a generated crystal says that is no longer so after relaxation."""
UNUSABLE = (*FAILED, TOO_CLOSE)
"""Statuses of crystals that have no energy and take no part in the hull."""
_DIGITS = 4


@dataclass(frozen=True)
class Part:
    """What came of one composition.

    Attributes:
        formula: as pymatgen reduces it.
        requested, generated: crystals.
        merged: generated crystals that relaxed to one that is kept.
        note: why there are fewer than requested, or None.
        crystals: those that are kept, lowest energy first, and after them those that failed; each with ``status``,
            ``energy_per_atom_eV`` and more in ``["autoperi"]["explore"]``.
    """

    formula: str
    requested: int
    generated: int
    merged: int
    note: str | None
    crystals: tuple[Structure, ...]

    @property
    def usable(self) -> list[Structure]:
        """The crystals with an energy."""
        return [c for c in self.crystals if note_of(c)["energy_per_atom_eV"] is not None]

    @property
    def lost(self) -> list[Structure]:
        """The crystals without one, which failed."""
        return [c for c in self.crystals if note_of(c)["energy_per_atom_eV"] is None]

    def to_text(self) -> str:
        """As JSON, bit for bit."""
        fields = {name: getattr(self, name) for name in ("formula", "requested", "generated", "merged", "note")}
        return json.dumps({**fields, "crystals": [plain(c.as_dict()) for c in self.crystals]}) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Part:
        """What :meth:`to_text` wrote.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        content = dict(json.loads(text))
        crystals = content.pop("crystals")
        part = cls(**content, crystals=tuple(read_json(json.dumps(crystals), None) if crystals else ()))
        if len(part.usable) + len(part.lost) + part.merged != part.generated:
            raise ValueError("crystals are missing")
        return part


def note_of(crystal: Structure) -> dict[str, Any]:
    """What an exploration says of a crystal."""
    note: dict[str, Any] = crystal.properties["autoperi"]["explore"]
    return note


@dataclass(frozen=True, eq=False)
class EnergyJudge:
    """The one model whose potential gives every energy of an exploration.

    Attributes:
        potential: in float64.
        provenance: of its model.
        steps: most FIRE steps of a relaxation; 0 leaves crystals as they are.
        batch_size: crystals that are relaxed together; None for all that are at hand. It changes no result.
    """

    potential: Potential
    provenance: dict[str, Any]
    steps: int
    batch_size: int | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What names it in every output."""
        return {name: self.provenance[name] for name in ("model", "revision", "sha256")}

    def settle(self, crystals: Sequence[Structure]) -> list[Structure]:
        """Crystals relaxed, each with its status and energy in ``["autoperi"]["explore"]``."""
        if not crystals:
            return []
        found = relax_positions(
            list(crystals),
            potential=self.potential,
            lattice_pass=None,
            steps=self.steps,
            fix_symmetry=False,
            symprec=SYMPREC,
            batch_size=self.batch_size or len(crystals),
            provenance=self.provenance,
            progress=False,
        )
        ratios = minimum_distance_ratios(to_batch(found, dtype=torch.float64, device=self.potential.reference.device))
        for crystal, ratio in zip(found, ratios.tolist(), strict=True):
            for name in BEFORE:
                crystal.properties["autoperi"].pop(name, None)
            did = crystal.properties["autoperi"]["relaxation"]
            status, reason = did["status"], did.get("reason")
            if status not in FAILED and ratio < MIN_DISTANCE_RATIO:
                status, reason = TOO_CLOSE, f"atoms at {ratio:.2f} of the sum of their covalent radii"
            elif self.steps == 0 and status not in FAILED:
                status = "not_relaxed"
            usable = status not in UNUSABLE
            crystal.properties["autoperi"]["explore"] = {
                "judge": self.facts,
                "status": status,
                "reason": reason,
                "energy_per_atom_eV": did["energy_eV_per_atom"] if usable else None,
                "space_group": _space_group(crystal) if usable else None,
                "min_distance_ratio": round(ratio, _DIGITS),
                "merged": 0,
            }
        return list(found)


def _space_group(crystal: Structure) -> int | None:
    """At 0.1 Å, and where spglib fails, which it does on nearly symmetric crystals, at 0.01 Å; else None."""
    lattice, coords, numbers = to_arrays(crystal)
    for symprec in (SYMPREC, STRICT_SYMPREC):
        with suppress(StructureError):
            return analyse(lattice, coords, numbers, symprec=symprec).number
    return None


def generate(peri: AutoPeri, request: Request, batch_size: int | str) -> tuple[list[Structure], str | None]:
    """Crystals of one composition, and why there are fewer than requested."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", AutoPeriWarning)
        try:
            made = peri.generate(request, strict=False, batch_size=batch_size, progress=False)
        except RequestError as error:
            return [], one_line(error)
    told = [
        one_line(w.message) for w in said if issubclass(w.category, AutoPeriWarning) and isinstance(w.message, Warning)
    ]
    return made, ("; ".join(dict.fromkeys(told)) or None) if len(made) < request.n else None


def part_of(
    formula: str, settled: Sequence[Structure], *, requested: int, note: str | None, merge: bool = True
) -> Part:
    """The part of one composition: of crystals that are one only the lowest is kept, with the number of the others.

    The part has been through its text, so that a run that goes on with it computes with the same numbers.
    """
    usable = sorted(
        (c for c in settled if note_of(c)["energy_per_atom_eV"] is not None),
        key=lambda c: note_of(c)["energy_per_atom_eV"],
    )
    kept = usable
    if merge:
        same = group_crystals([to_arrays(c) for c in usable], tolerances=MATCHER, processes=1, progress=False)
        first = [k if group is None else group for k, group in enumerate(same)]
        for k, group in enumerate(first):
            note_of(usable[group])["merged"] += int(group != k)
        kept = [c for k, c in enumerate(usable) if first[k] == k]
    failed = [c for c in settled if note_of(c)["energy_per_atom_eV"] is None]
    part = Part(formula, requested, len(settled), len(usable) - len(kept), note, (*kept, *failed))
    return Part.from_text(part.to_text())


# --- known crystals ---------------------------------------------------------------------------------------------------


def known_crystals(source: Any, elements: Iterable[str], judge: str) -> list[Structure]:
    """The known crystals of a system, each with its name as ``["autoperi"]["known"]``; others are left out.

    Args:
        source: a file of crystals, a file of entries with structures, crystals, or pymatgen entries.
        elements: of the system.
        judge: name of the model that will give their energies, for messages.

    Raises:
        RequestError: an entry of the system without a structure, or none of the system at all. DataError: a file that
            cannot be read. StructureError: a crystal that no model can read.
    """
    system, found = set(elements), list[tuple[Any, str]]()
    for crystal, name in _read(source, system, judge):
        arrays = to_arrays(crystal, name=f"known crystal {name}")
        structure = as_structure(crystal)
        if {e.symbol for e in structure.composition.element_composition} <= system and len(arrays[2]):
            found.append((structure, name))
    if not found:
        raise RequestError(f"known holds no crystal of {'-'.join(sorted(system))}; give some, or leave it out")
    out = []
    for structure, name in found:
        plain_crystal = type(structure)(structure.lattice, structure.species, structure.frac_coords)
        for site in plain_crystal:  # oxidation states are no part of a composition
            site.species = site.species.element_composition
        plain_crystal.properties = {"autoperi": {"origin": "known", "known": name}}
        out.append(plain_crystal)
    return out


def _read(source: Any, system: set[str], judge: str) -> list[tuple[Any, str]]:
    if isinstance(source, str):
        path = Path(source)
        check_exists(path)
        try:
            references = reference_entries(path)
        except AutoPeriError as no_entries:
            try:
                return _named(read_crystals(path))
            except DataError as no_crystals:
                raise (no_entries if path.suffix in (".json", ".gz") else no_crystals) from None
        return _of_entries(references, system, judge)
    if isinstance(source, References):
        return _of_entries(source, system, judge)
    if not isinstance(source, Iterable):
        raise RequestError(
            f"known is a {type(source).__name__}; give a file, or a list of crystals or entries, or leave it out"
        )
    items = [source] if _is_crystal(source) else list(source.items() if hasattr(source, "items") else source)
    if not items:
        raise RequestError("known is empty; give crystals, or leave it out")
    if items and all(_is_crystal(item) for item in items):
        return _named(items)
    return _of_entries(reference_entries(items), system, judge)


def _named(crystals: Sequence[Any]) -> list[tuple[Any, str]]:
    return [(crystal, _name(crystal, k)) for k, crystal in enumerate(crystals)]


def _is_crystal(item: Any) -> bool:
    return hasattr(item, "lattice") or hasattr(item, "get_chemical_symbols")


def _name(crystal: Any, position: int) -> str:
    labels = getattr(crystal, "properties", None) or getattr(crystal, "info", None) or {}
    return str(next((labels[key] for key in ("material_id", "id") if labels.get(key)), position))


def _of_entries(references: References, system: set[str], judge: str) -> list[tuple[Any, str]]:
    found = []
    for k, composition in enumerate(references.compositions):
        if not {e.symbol for e in composition.element_composition} <= system:
            continue
        structure = references.structure_of(k)
        if structure is None:
            raise RequestError(
                f"known: entry {k} ({composition.reduced_formula}) has an energy but no structure, and energies of "
                f"another method are never mixed with those of {judge!r}, which would have to compute it; give "
                "ComputedStructureEntry, or a file of crystals"
            )
        found.append((structure, str((references.ids[k] if references.ids else None) or k)))
    return found


def digest(crystals: Sequence[Structure]) -> str:
    """What tells one list of crystals from another: sha256 of cells, coordinates and elements."""
    import hashlib

    total = hashlib.sha256()
    for crystal in crystals:
        for array in to_arrays(crystal):
            total.update(array.tobytes())
    return total.hexdigest()
