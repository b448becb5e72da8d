"""From a provider's document to a crystal with labels, one function a form; whoever fetched or saved it.

Labels are called as AutoPeri's commands read them: ``formation_energy_per_atom`` and ``e_above_hull`` (eV/atom),
``band_gap`` (eV), ``k_vrh`` and ``g_vrh`` (GPa), ``space_group``; the others carry their unit. What a provider corrects
stands in columns of its own: the corrected and the uncorrected total energy and their difference, the fit, the entry
that is duplicated, what the editors noted. A numeric or textual field without a name here keeps its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

from autoperi.data.formats import read_cif, refuse_foreign_classes
from autoperi.data.sources.rows import EntryError
from autoperi.errors import DataError

if TYPE_CHECKING:
    from autoperi.data.convert import Crystal

Made: TypeAlias = "tuple[Crystal, dict[str, Any]]"
"""A crystal and its labels."""

COLUMNS = {
    "energy_above_hull": "e_above_hull",
    "energy_per_atom": "energy_per_atom_eV",
    "uncorrected_energy_per_atom": "uncorrected_energy_per_atom_eV",
    "correction_per_atom": "correction_per_atom_eV",
    "total_magnetization": "total_magnetization_muB",
    "spacegroup.number": "space_group",
    "e_form": "formation_energy_per_atom",
    "gap pbe": "band_gap",
    "last phdos peak": "last_phdos_peak_per_cm",
    "K_VRH": "k_vrh",
    "G_VRH": "g_vrh",
    "bulk_modulus_vrh": "k_vrh",
    "shear_modulus_vrh": "g_vrh",
    "delta_e": "formation_energy_per_atom",
    "stability": "e_above_hull",
    "fit": "correction_fit",
    "duplicate_entry_id": "duplicate_of",
    "oqmd_delta_e": "formation_energy_per_atom",
    "oqmd_stability": "e_above_hull",
    "oqmd_band_gap": "band_gap",
    "alexandria_formation_energy_per_atom": "formation_energy_per_atom",
    "alexandria_hull_distance": "e_above_hull",
    "alexandria_band_gap": "band_gap",
}
"""Fields of databases and data sets whose columns are called otherwise here; the units are the same."""
_LOGARITHMS = {"log10(K_VRH)": "k_vrh", "log10(G_VRH)": "g_vrh"}
"""Columns of matbench that hold the decimal logarithm of GPa."""
_IDS = ("material_id", "mp_id", "entry_id", "id", "task_id")
_STRUCTURES = ("structure", "final_structure", "cif")
_DERIVED = (
    *("formula", "pretty_formula", "formula_pretty", "nsites", "n_atoms"),
    *("natoms", "volume", "elements", "poscar"),
)
"""What the crystal itself says."""


SOURCES = {
    "mp": {"source": "Materials Project", "licence": "CC-BY-4.0"},
    "oqmd": {"source": "OQMD", "licence": "CC-BY-4.0"},
    "cod": {"source": "COD", "licence": "CC0-1.0"},
}
"""Databases and the licences of their data, as columns."""


def mapping(value: Any) -> Mapping[Any, Any]:
    """``value`` where it is a JSON object, else an empty one: a provider may send anything."""
    return value if isinstance(value, Mapping) else {}


def structure_of(value: Any) -> Crystal:
    """The one crystal of a pymatgen dictionary or of the text of a CIF.

    Raises:
        DataError: it is neither, names foreign classes, or the CIF holds several crystals.
    """
    from pymatgen.core import Structure

    if isinstance(value, str):
        found = read_cif(value, None)
        if len(found) > 1:
            raise DataError(f"the CIF holds {len(found)} crystals; write one a file")
        return found[0]
    refuse_foreign_classes(_needed(value, "sites"))
    lattice = _needed(value, "lattice")
    return Structure.from_dict({"lattice": lattice, "sites": value["sites"], "charge": value.get("charge")})


def record(document: Mapping[str, Any]) -> Made:
    """A record that holds a structure and labels: ``SummaryDoc`` of Materials Project, a row of matbench or matminer,
    of ``mp.2018.6.1.json`` or of CDVAE's tables.
    """
    key = next((k for k in _STRUCTURES if document.get(k) is not None), "structure")
    if document.get("deprecated") is True:
        raise EntryError("deprecated", "the provider has withdrawn it: " + _text(document.get("deprecation_reasons")))
    labels = scalars({k: v for k, v in document.items() if k not in (*_STRUCTURES, *_DERIVED, "deprecated")})
    if (group := _space_group(document)) is not None:
        labels["space_group"] = group
    for field, column in (("bulk_modulus", "k_vrh"), ("shear_modulus", "g_vrh")):
        if (modulus := mapping(document.get(field)).get("vrh")) is not None:
            labels[column] = modulus
    if re.match(r"(mp|mvc)-\w", id_of(document) or ""):
        labels = {**SOURCES["mp"], **labels}
    labels["source_version"] = mapping(document.get("builder_meta")).get("database_version")
    corrected, raw = labels.get("energy_per_atom_eV"), labels.get("uncorrected_energy_per_atom_eV")
    if isinstance(corrected, Real) and isinstance(raw, Real):
        labels["correction_per_atom_eV"] = float(corrected) - float(raw)
    return structure_of(document.get(key)), labels


def entry(document: Mapping[str, Any]) -> Made:
    """A ``ComputedStructureEntry`` of pymatgen: total energy with and without its corrections, and their names."""
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    fields = ("structure", "correction", "energy_adjustments", "entry_id")
    kept = {k: document[k] for k in fields if document.get(k) is not None} | {"energy": _needed(document, "energy")}
    refuse_foreign_classes(kept)
    found = ComputedStructureEntry.from_dict({"correction": 0.0, **kept, "parameters": {}, "data": {}})
    parameters, data = (mapping(document.get(k)) for k in ("parameters", "data"))
    names = [adjustment.name for adjustment in found.energy_adjustments]
    labels = scalars({k: v for k, v in data.items() if k not in (*_IDS, *_DERIVED)}) | {
        "energy_per_atom_eV": found.energy_per_atom,
        "uncorrected_energy_per_atom_eV": found.uncorrected_energy_per_atom,
        "correction_per_atom_eV": found.correction_per_atom,
        "corrections": "; ".join(names) or None,
        "run_type": _text(parameters.get("run_type")) or None,
    }
    return found.structure, labels


def oqmd(document: Mapping[str, Any]) -> Made:
    """An element of ``data`` in an answer of OQMD's ``formationenergy``: rows of the cell in Å and sites as
    ``"Na @ 0 0 0.5"``.
    """
    from pymatgen.core import Lattice, Structure

    pairs = [str(site).partition("@") for site in _needed(document, "sites")]
    species = [name.strip() for name, _, _ in pairs]
    coords = [[float(x) for x in place.split()] for _, _, place in pairs]
    apart = ("unit_cell", "sites", "name", "spacegroup", "composition", "composition_generic", "entry_id", "ntypes")
    labels = scalars({k: v for k, v in document.items() if k not in (*apart, *_DERIVED)})
    labels["space_group_symbol"] = document.get("spacegroup")
    return Structure(Lattice(_needed(document, "unit_cell")), species, coords), labels


def optimade(document: Mapping[str, Any]) -> Made:
    """A ``structures`` resource of the OPTIMADE standard; a provider's own fields lose their first underscore."""
    from pymatgen.core import Lattice, Structure

    fields = _needed(document, "attributes")
    features = fields.get("structure_features") or []
    if "implicit_atoms" in features:
        raise EntryError("incomplete", "some atoms have no positions (implicit_atoms)")
    if "assemblies" in features:
        raise EntryError("disordered", "the sites are alternatives of one another (assemblies)")
    named = {
        s["name"]: dict(zip(s["chemical_symbols"], s["concentration"], strict=True))
        for s in fields.get("species") or []
    }
    # what is left of a site beside a vacancy is a partial occupancy
    species: list[Any] = [
        {symbol: x for symbol, x in named[name].items() if symbol != "vacancy"} if name in named else name
        for name in _needed(fields, "species_at_sites")
    ]
    pbc = [bool(d) for d in fields.get("dimension_types") or (1, 1, 1)]
    lattice = Lattice(_needed(fields, "lattice_vectors"), pbc=pbc)
    crystal = Structure(lattice, species, _needed(fields, "cartesian_site_positions"), coords_are_cartesian=True)
    own = {k.removeprefix("_"): v for k, v in fields.items() if k.startswith("_")}
    kept = {k: fields.get(k) for k in ("immutable_id", "last_modified", "space_group_it_number")}
    labels = scalars({**kept, **own})
    if (group := labels.pop("space_group_it_number", None)) is not None:
        labels["space_group"] = group
    return crystal, labels


_COD_TAGS = {
    "_cod_duplicate_entry": "duplicate_of",
    "_cod_error_flag": "cod_error_flag",
    "_cod_depositor_comments": "cod_comments",
    "_journal_paper_doi": "doi",
    "_journal_year": "year",
    "_cell_measurement_temperature": "temperature_K",
    "_space_group_IT_number": "space_group",
    "_symmetry_Int_Tables_number": "space_group",
}
"""Items of a CIF that become columns; the comments are where COD's editors say what they corrected."""


def cif(text: str) -> Made:
    """A CIF of one crystal, with what COD says of it: its number, duplicates, errors and comments.

    A file whose formula has elements or ratios that its sites have not is refused as incomplete.
    """
    from pymatgen.io.cif import CifParser, str2float

    crystal, parser = structure_of(text), CifParser.from_str(text)
    blocks = parser.as_dict().values()
    tags = {key.lower(): value for block in blocks for key, value in block.items() if isinstance(value, str)}
    labels: dict[str, Any] = {}
    for tag, column in _COD_TAGS.items():
        value = tags.get(tag.lower(), "?").strip()
        if value not in ("", "?", "."):
            number = str2float(value) if column in ("year", "temperature_K", "space_group") else value
            labels.setdefault(column, int(number) if column in ("year", "space_group") else number)
    if tags.get("_cod_error_flag", "").strip() == "retracted":
        raise EntryError("retracted", "COD marks it as retracted")
    if (number := tags.get("_cod_database_code", "").strip()).isdigit():
        labels |= {"id": f"cod-{number}", **SOURCES["cod"]}
    missing = parser.check(crystal) if crystal.is_ordered else None
    if missing and missing.startswith(("Missing", "Incorrect")):
        made, said = crystal.composition.reduced_formula, tags.get("_chemical_formula_sum")
        raise EntryError("incomplete", f"its formula is {said}, and its sites are {made}")
    return crystal, labels


def cod_file(document: Mapping[str, Any]) -> Made:
    """What a fetch keeps of COD: the number of an entry and the text of its CIF."""
    if not document["cif"]:
        raise EntryError("missing", "COD has no file of this number")
    return cif(document["cif"])


def ase_row(row: Any) -> Made:
    """A row of an ASE database: key-value pairs, and the total energy where it was calculated."""
    labels = scalars(row.key_value_pairs)
    energy = row.get("energy")
    if energy is not None:
        labels["energy_per_atom_eV"] = float(energy) / row.natoms
    return row.toatoms(), labels


def scalars(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that fit into one cell of a table, by the names of :data:`COLUMNS`; no ids, no missing numbers."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        if key == "autoperi":  # provenance, which may be nested
            found[key] = value
        if str(key) in _IDS or str(key).startswith(("@", "Unnamed:")) or not isinstance(value, (str, bool, Real)):
            continue
        if isinstance(value, Real) and math.isnan(value):
            continue
        if key in _LOGARITHMS:
            found[_LOGARITHMS[key]] = 10.0 ** float(value)
        else:
            found[COLUMNS.get(str(key), str(key))] = value.item() if hasattr(value, "item") else value
    return found


def id_of(document: Any, *, prefix: str = "") -> str | None:
    """What a document is called, whether or not a crystal can be made of it.

    Args:
        document: of any form.
        prefix: of an OPTIMADE provider, which goes before an id that is a bare number.
    """
    if not isinstance(document, Mapping):
        return None
    if "cod" in document:
        return f"cod-{document['cod']}"
    if "unit_cell" in document:
        return f"oqmd-{document.get('entry_id')}"
    if "attributes" in document:
        name = str(document.get("id"))
        return f"{prefix}-{name}" if prefix and name.isdigit() else name
    for fields in (document, mapping(document.get("properties")), mapping(document.get("data"))):
        for value in map(fields.get, _IDS):
            if value is not None and not isinstance(value, float):
                return str(value.get("string", value) if isinstance(value, Mapping) else value)
    return None


def _space_group(document: Mapping[str, Any]) -> Any:
    return mapping(document.get("symmetry") or document.get("spacegroup")).get("number")


def _text(value: Any) -> str:
    """What an enumeration, a list or a word says."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def structure(document: Mapping[str, Any]) -> Made:
    """A pymatgen ``Structure`` as a dictionary; its properties are the labels."""
    return structure_of(document), scalars(mapping(document.get("properties")))


def _needed(fields: Any, name: str) -> Any:
    """A field that an entry must have.

    Raises:
        DataError: it has not.
    """
    if (value := mapping(fields).get(name)) is None:
        raise DataError(f"the entry has no {name}")
    return value


FORMS: dict[str, Callable[[Any], Made]] = {
    "OPTIMADE resources": optimade,
    "an answer of OQMD": oqmd,
    "ComputedStructureEntry objects": entry,
    "pymatgen structures": structure,
    "CIFs": cif,
    "CIFs of COD": cod_file,
    "records with a structure": record,
}
"""What a file or an answer may hold, in words, and the function of it."""


def form_of(document: Any) -> str | None:
    """The entry of :data:`FORMS` that a document is, None where it is none."""
    if isinstance(document, str):
        return "CIFs" if "_cell_length_a" in document.lower() else None
    if not isinstance(document, Mapping):
        return None
    keys = document.keys()
    if {"cod", "cif"} <= keys:
        return "CIFs of COD"
    if "attributes" in keys:
        return "OPTIMADE resources"
    if {"unit_cell", "sites"} <= keys:
        return "an answer of OQMD"
    marks = {"correction", "energy_adjustments", "parameters"}
    if {"structure", "energy"} <= keys and (keys & marks or document.get("@class") == "ComputedStructureEntry"):
        return "ComputedStructureEntry objects"
    if {"lattice", "sites"} <= keys:
        return "pymatgen structures"
    return "records with a structure" if keys & {*_STRUCTURES} else None
