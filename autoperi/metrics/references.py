"""Reference entries of a convex hull: what the user gives, read into one form, and its scale kept beside it.

Two scales of energy exist. ``formation``: eV/atom above the elements, which are at zero. ``total``: eV/atom of a
method, with the elements among the entries. A hull mixes no scales; :func:`autoperi.metrics.hull.recompute` puts
references on the scale of a calculator.
"""

from __future__ import annotations

import gzip
import importlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from autoperi.errors import AutoPeriError, DataError, RequestError

Kind: TypeAlias = Literal["formation", "total"]
KINDS = ("formation", "total")
FORMATION_COLUMNS = ("formation_energy_per_atom", "formation_energy_per_atom_eV", "formation_energy")
TOTAL_COLUMNS = ("energy_per_atom", "energy_per_atom_eV", "energy")
MATERIALS_PROJECT = ("mp", "materials-project")


@dataclass(frozen=True)
class References:
    """Entries that span a hull.

    Attributes:
        compositions: pymatgen compositions.
        energies: eV/atom, one each.
        kind: scale of the energies, ``formation`` or ``total``.
        source: where they come from.
        judge: calculator that gave the energies; None where they are as the source has them.
        ids: one each, or None.
        structure_of: structure of an entry by its position, None where it has none.
        dropped: entries lost on the way, by reason.
    """

    compositions: Sequence[Any]
    energies: Sequence[float]
    kind: Kind
    source: str
    judge: str | None = None
    ids: Sequence[str | None] = ()
    structure_of: Callable[[int], Any] = field(default=lambda _: None, compare=False)
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.energies)

    def facts(self) -> dict[str, Any]:
        """For the JSON of a report."""
        return {
            "source": self.source,
            "entries": len(self),
            "scale": self.kind,
            "judge": self.judge,
            "dropped": dict(self.dropped),
        }


def reference_entries(
    source: Any,
    *,
    kind: Kind | None = None,
    chemical_systems: Iterable[str | Collection[str]] | None = None,
    api_key: str | None = None,
    judge: str | None = None,
) -> References:
    """References from what the user has.

    Args:
        source: a file (.json or .json.gz of pymatgen ``PDEntry``, ``ComputedEntry`` or ``ComputedStructureEntry``, or
            of formulas with energies; .csv or .parquet with the column ``formula`` and an energy, and crystals if it
            has them), a mapping of formula to energy, such pairs, pymatgen entries, or ``materials-project`` (its
            client asks for the entries of ``chemical_systems``).
        kind: scale of the energies. May be left out where it is said by the column (``formation_energy_per_atom``), for
            pymatgen entries (total) and for plain formulas with numbers (formation).
        chemical_systems: such as ``"Li-O"``, for the Materials Project.
        api_key: of the Materials Project; None takes it from the environment variable ``MP_API_KEY``.
        judge: calculator that gave these energies, where it was the one that judges the crystals.

    Raises:
        RequestError: no such scale, no client, no key, no references.
        DataError: a file that cannot be read or lacks a column; the message names it.
    """
    if kind is not None and kind not in KINDS:
        raise RequestError(
            f"kind={kind!r} is no scale of energies; choose formation (elements at zero) or total (as a method gives "
            "them)"
        )
    if isinstance(source, References):
        found = source
    elif isinstance(source, str) and source.lower() in MATERIALS_PROJECT:
        found = _from_rows(_materials_project(chemical_systems, api_key), "total", "Materials Project")
    elif isinstance(source, (str, os.PathLike)):
        found = _from_file(Path(source), kind)
    elif isinstance(source, Mapping):
        found = _from_pairs(source.items(), kind, "mapping")
    else:
        items = list(source)
        if items and all(hasattr(item, "composition") and hasattr(item, "energy") for item in items):
            found = _from_rows([item.as_dict() for item in items], kind, "entries")
        else:
            found = _from_pairs(items, kind, "pairs")
    return found if judge is None else replace(found, judge=judge)


def formula_energies(path: str | os.PathLike[str]) -> list[tuple[str, float]]:
    """Formulas and formation energies (eV/atom) of a .csv or .json file; total energies and entries are refused.

    Raises:
        DataError: no such file, no such columns, or a value that is no number; the message names it.
    """
    file = Path(path)
    remedy = "write the columns formula and energy (formation energy, eV/atom)"
    if file.suffix.lower() not in (".csv", ".json"):
        raise DataError(f"{path} has the suffix {file.suffix!r}; give references as .csv or .json")
    if not file.is_file():
        raise DataError(f"{path} cannot be read: no such file; check the path")
    if not file.read_bytes().strip():
        raise DataError(f"{path} is empty; {remedy}")
    try:
        found = _from_file(file, "formation", entries=False)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from None
    if found.dropped:
        raise DataError(f"{path}: {sum(found.dropped.values())} rows have no energy; {remedy}")
    formulas = ["".join(f"{e}{n}" for e, n in c.get_el_amt_dict().items()) for c in found.compositions]
    return list(zip(formulas, found.energies, strict=True))


def formation_energies(
    crystals: Sequence[Any], energies: Sequence[float | None], elements: Mapping[str, float]
) -> list[float | None]:
    """Total energies (eV/atom) turned into formation energies with a method's own energies of the elements.

    ``E_f = E - Σ x_i E_i``; None where the energy or one of its elements is missing.

    Args:
        crystals: structures, atoms, compositions or formulas.
        energies: eV/atom of a method.
        elements: symbol to eV/atom of the same method, each in the structure that counts as zero.
    """
    out: list[float | None] = []
    for crystal, energy in zip(crystals, energies, strict=True):
        amounts = composition_of(crystal).fractional_composition.get_el_amt_dict()
        if energy is None or not math.isfinite(energy) or not set(amounts) <= set(elements):
            out.append(None)
        else:
            out.append(float(energy - math.fsum(x * elements[symbol] for symbol, x in amounts.items())))
    return out


def composition_of(crystal: Any) -> Any:
    """pymatgen composition of a structure, atoms, a composition or a formula, oxidation states left out.

    Raises:
        RequestError: a formula that is none.
    """
    from pymatgen.core import Composition

    try:
        if isinstance(crystal, str):
            found = Composition(crystal, strict=True)
        elif isinstance(crystal, Composition):
            found = crystal
        elif hasattr(crystal, "composition"):
            found = crystal.composition
        else:
            found = Composition(crystal.get_chemical_formula())
        if found.num_atoms <= 0:
            raise ValueError("no atoms")
        return found.element_composition
    except Exception:
        raise RequestError(f"{crystal!r} has no composition; give a structure or a formula such as 'Li2O'") from None


def _from_pairs(pairs: Iterable[Any], kind: Kind | None, source: str) -> References:
    """Formulas with energies in eV/atom, formation energies unless ``kind`` says otherwise."""
    from pymatgen.core import Composition

    compositions, energies = [], []
    for pair in pairs:
        formula, energy = pair if isinstance(pair, (tuple, list)) and len(pair) == 2 else (pair, None)
        try:
            composition = Composition(str(formula), strict=True)
            value = float(energy)  # type: ignore[arg-type]
            if composition.num_atoms <= 0:
                raise ValueError
        except Exception:
            raise RequestError(
                f"references: {formula!r}: {energy!r} is not a formula with an energy in eV/atom"
            ) from None
        if not math.isfinite(value):
            raise RequestError(f"references: the energy of {formula!r} is {value}; give a finite number in eV/atom")
        compositions.append(composition)
        energies.append(value)
    if not energies:
        raise RequestError("references is empty; give a mapping of formula to formation energy in eV/atom, or None")
    return References(compositions, energies, kind or "formation", source)


def _from_file(path: Path, kind: Kind | None, *, entries: bool = True) -> References:
    """The references of a file; pymatgen entries among them are refused unless ``entries``."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give reference entries as .json, .json.gz, .csv or .parquet")
    name = path.name.lower()
    try:
        if name.endswith((".json", ".json.gz")):
            data = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
            content = json.loads(data.decode("utf-8-sig"))
            if isinstance(content, dict) and isinstance(content.get("entries"), list):
                content = content["entries"]
            if isinstance(content, dict):
                return _from_pairs(content.items(), kind, path.name)
            return _from_rows(content, kind, path.name, entries=entries)
        if name.endswith((".csv", ".parquet")):
            return _from_table(path, kind)
    except AutoPeriError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{path} holds no reference entries ({reason}); give a list of pymatgen entries, or formulas with energies"
        ) from None
    raise DataError(
        f"{path} has the suffix {path.suffix!r}; give reference entries as .json, .json.gz, .csv or .parquet"
    )


def _from_rows(rows: Sequence[Any], kind: Kind | None, source: str, *, entries: bool = True) -> References:
    """Pairs, named columns, or entries as pymatgen writes them, which are read by their fields: no class that the file
    names is ever imported.
    """
    from pymatgen.core import Composition

    if not all(isinstance(row, dict) for row in rows) or not rows:
        return _from_pairs(rows, kind, source)
    if not all("composition" in row for row in rows):
        return _from_columns({name: [row.get(name) for row in rows] for name in rows[0]}, kind, source)
    if not entries:
        raise DataError("it holds pymatgen entries, whose energies are total ones")
    compositions, energies = [], []
    for i, row in enumerate(rows):
        try:
            composition = Composition(row["composition"])
            value = (float(row["energy"]) + float(row.get("correction") or 0.0)) / composition.num_atoms
        except Exception:
            raise DataError(
                f"entry {i} has no composition with an energy in eV; write entries with as_dict of pymatgen"
            ) from None
        if not math.isfinite(value):
            raise DataError(
                f"entry {i} ({composition.reduced_formula}) has the energy {value}; give a finite number in eV"
            )
        compositions.append(composition)
        energies.append(value)
    ids = [None if row.get("entry_id") is None else str(row["entry_id"]) for row in rows]
    return References(
        compositions, energies, kind or "total", source, None, ids, lambda i: _structure(rows[i].get("structure"))
    )


def _structure(fields: Any) -> Any:
    """An ordered structure from the fields that pymatgen writes, or None."""
    from pymatgen.core import Lattice, Structure

    if not isinstance(fields, dict):
        return None
    try:
        sites = fields["sites"]
        if any(len(site["species"]) != 1 or site["species"][0]["occu"] != 1 for site in sites):
            return None
        species = [site["species"][0]["element"] for site in sites]
        return Structure(Lattice(fields["lattice"]["matrix"]), species, [site["abc"] for site in sites])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _from_table(path: Path, kind: Kind | None) -> References:
    import pandas as pd

    from autoperi.data.io import read_table

    frame = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else pd.read_csv(path)
    read = {"formula", "id", "material_id", *FORMATION_COLUMNS, *TOTAL_COLUMNS}
    columns = {str(name): frame[name].tolist() if name in read else [] for name in frame}
    if not ({"lattice", "frac_coords", "atomic_numbers"} <= set(frame) or "cif" in frame):
        return _from_columns(columns, kind, path.name)
    table = cache(lambda: read_table(path))  # crystals are read only when a reference is recomputed
    return _from_columns(columns, kind, path.name, lambda row: table()[[row]].structures()[0])


def _from_columns(
    columns: Mapping[str, Sequence[Any]], kind: Kind | None, source: str, by_row: Callable[[int], Any] | None = None
) -> References:
    formation = next((name for name in FORMATION_COLUMNS if name in columns), None)
    total = next((name for name in TOTAL_COLUMNS if name in columns), None)
    energy = {"formation": formation or total, "total": total, None: formation}[kind]
    if "formula" in columns and energy is None and total is not None:
        raise DataError(f"{source}: the column {total} does not say its scale; add kind='formation' or kind='total'")
    if "formula" not in columns or energy is None:
        raise DataError(
            f"{source} has the columns {', '.join(columns)}; write formula and formation_energy_per_atom (or "
            "energy_per_atom), eV"
        )
    rows = [i for i, value in enumerate(columns[energy]) if value is not None and math.isfinite(float(value))]
    lost = len(columns[energy]) - len(rows)
    found = _from_pairs([(columns["formula"][i], columns[energy][i]) for i in rows], kind, source)
    names = next((columns[name] for name in ("material_id", "id") if name in columns), None)
    return replace(
        found,
        ids=() if names is None else [str(names[i]) for i in rows],
        structure_of=found.structure_of if by_row is None else (lambda k: by_row(rows[k])),
        dropped={"no energy": lost} if lost else {},
    )


def _materials_project(
    chemical_systems: Iterable[str | Collection[str]] | None, api_key: str | None
) -> list[dict[str, Any]]:
    """Entries of the chemical systems, as dictionaries, each once."""
    wanted = sorted({"-".join(sorted(s.split("-") if isinstance(s, str) else s)) for s in chemical_systems or ()})
    if not wanted:
        raise RequestError("the Materials Project is asked by chemical system; add chemical_systems such as ['Li-O']")
    key = api_key or os.environ.get("MP_API_KEY")
    if not key:
        raise RequestError(
            "the Materials Project needs a key; set the environment variable MP_API_KEY, or give a file of entries"
        )
    try:
        client_of = importlib.import_module("mp_api.client").MPRester
    except ImportError:
        raise RequestError(
            "the Materials Project needs its client; install it with: pip install mp-api, or give a file of entries"
        ) from None
    entries: dict[str, dict[str, Any]] = {}
    try:
        with client_of(key) as client:
            for system in wanted:
                for entry in client.get_entries_in_chemsys(system.split("-")):
                    entries[str(entry.entry_id)] = entry.as_dict()
    except Exception as error:
        reason = " ".join(str(error).split())[:200].replace(key, "…")
        raise RequestError(
            f"the Materials Project gave no entries ({reason}); check the key and the network, or give a file of "
            "entries"
        ) from None
    if not entries:
        raise RequestError(f"the Materials Project has no entries for {', '.join(wanted)}; check the elements")
    return list(entries.values())
