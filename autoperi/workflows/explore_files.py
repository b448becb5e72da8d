"""What an exploration found: the crystals in the order of their distance to the hull, a table, the hull, and the files
of them. The same parts give the same bytes: no date, no count of interruptions and no order of a set is in them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.data.convert import to_arrays
from autoperi.data.files import dumps, write_atomically
from autoperi.data.formats import cif_text, crystal_filename, extxyz_text
from autoperi.figures.draw import draw, encode
from autoperi.metrics.groups import find_crystals
from autoperi.symmetry.spacegroup import space_group
from autoperi.workflows.explore_parts import MATCHER, Part, note_of

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Structure

RECORD = "explore.json"
CIFS = "cifs"
CIFS_WITHIN = 0.1
"""eV/atom above the hull up to which a crystal has a CIF."""
SHOWN_WITHIN = 0.2
"""eV/atom above the hull up to which the lowest crystal of a composition is in the interactive hull."""
ON_HULL = 1e-6
"""eV/atom: as near as that to the hull a crystal is on it; energies have six decimals."""
NOTHING_MADE = "nothing_made"
COLUMNS = {
    "crystal": "Int64",
    "formula": "object",
    "n_atoms": "Int64",
    "space_group": "Int64",
    "space_group_symbol": "object",
    "energy_per_atom_eV": "float64",
    "formation_energy_per_atom_eV": "float64",
    "energy_above_hull_eV": "float64",
    "volume_per_atom_A3": "float64",
    "min_distance_ratio": "float64",
    "status": "object",
    "origin": "object",
    "known": "object",
    "merged": "Int64",
    "index": "Int64",
    "file": "object",
    "reason": "object",
}
"""Of the table, with their types."""


@dataclass(frozen=True, eq=False)
class Exploration:
    """What an exploration found.

    Attributes:
        crystals: those with an energy, nearest to the hull first; ``["autoperi"]["explore"]`` of each holds its
            energies, its status and the judge.
        table: a row for each of them in their order, then the crystals that failed, then the compositions of which
            nothing could be made.
        phase_diagram: pymatgen's, of all crystals with an energy; its entries are called by their rank and space group.
        judge: model, revision and sha256 of the one potential that gave every energy.
        record: settings, model, judge and counts, in plain JSON.
    """

    crystals: list[Structure]
    table: pd.DataFrame
    phase_diagram: PhaseDiagram
    judge: dict[str, Any]
    record: dict[str, Any]

    @classmethod
    def of(
        cls, header: Mapping[str, Any], parts: Sequence[Part], known: Part | None, *, complete: bool, wanted: int
    ) -> Exploration:
        """From the parts of a run.

        Args:
            header: settings, model and judge.
            parts: of the compositions, in order.
            known: the known crystals.
            complete: whether all compositions are done.
            wanted: compositions of the run.
        """
        import pandas as pd

        symbols = str(header["system"]).split("-")
        made = [crystal for part in parts for crystal in part.usable]
        given = [] if known is None else known.usable
        _name_known(made, given)
        ordered, diagram = _ranked([*given, *made], symbols)
        rows = [_row(crystal, rank) for rank, crystal in enumerate(ordered, start=1)]
        rows += [_row(crystal, None) for part in (known, *parts) if part for crystal in part.lost]
        nothing = [part for part in parts if not part.crystals]
        rows += [{"formula": part.formula, "status": NOTHING_MADE, "reason": part.note} for part in nothing]
        table = pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], columns=list(COLUMNS))
        table = table.astype(COLUMNS)
        stable = [row for row in rows if row.get("energy_above_hull_eV") is not None and _on_hull(row)]
        counts = {
            "compositions": wanted,
            "finished": len(parts),
            "nothing_made": len(nothing),
            "requested": sum(part.requested for part in parts),
            "generated": sum(part.generated for part in parts),
            "merged": sum(part.merged for part in parts),
            "failed": sum(len(part.lost) for part in parts),
            "crystals": len(made),
            "known": len(given),
            "known_failed": 0 if known is None else len(known.lost),
            "on_hull": len(stable),
        }
        record = {
            **header,
            "energies": (
                f"all by the potential of {header['judge']['model']}, eV/atom; formation energies count from the "
                "lowest crystal of each element"
            ),
            "matcher": MATCHER,
            "complete": complete,
            "counts": counts,
            "stable": [{name: row[name] for name in ("crystal", "formula", "space_group_symbol")} for row in stable],
            "compositions": {part.formula: _told(part, rows) for part in parts},
        }
        if len(symbols) == 1:
            record["note"] = "one element has no hull diagram; the table has its crystals"
        judge = {name: header["judge"][name] for name in ("model", "revision", "sha256")}
        return cls(ordered, table, diagram, judge, record)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table in plain JSON, None where there is nothing."""
        values = self.table.astype(object).where(self.table.notna(), None)
        return [dict(row) for row in values.to_dict("records")]

    def figure(self) -> Any:
        """The hull as a matplotlib figure; None for one element."""
        symbols = str(self.record["system"]).split("-")
        return draw(_hull_entry(self, symbols), name="hull") if len(symbols) > 1 else None

    def html(self) -> str | None:
        """The hull as a page with plotly in it, which needs no network; None for one element."""
        if len(self.phase_diagram.elements) == 1:
            return None
        from pymatgen.analysis.phase_diagram import PDPlotter

        figure = PDPlotter(self.phase_diagram, show_unstable=SHOWN_WITHIN, backend="plotly").get_plot()
        figure.update_layout(
            title={"text": f"{self.record['system']}: {_judge_words(self.judge)}", "font": {"size": 13}}
        )
        page = figure.to_html(include_plotlyjs=True, full_html=True, div_id="hull")
        return str(page).replace("<head>", f"<head><title>Convex hull of {self.record['system']}</title>", 1)

    def write(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write everything into a folder; what an earlier run wrote under the same names is replaced.

        ``explore.json``, ``table.csv``, ``table.json``, ``crystals.extxyz``, of two to four elements ``hull.png``,
        ``hull.svg`` and ``hull.html``, and ``cifs/`` of the crystals within 0.1 eV/atom of the hull.

        Raises:
            DataError: the place cannot be written. RequestError: matplotlib is missing.
        """
        folder = Path(directory)
        near = [(str(f), c) for f, c in zip(self.table["file"], self.crystals, strict=False) if isinstance(f, str)]
        files: dict[str, str | bytes] = {name: cif_text([crystal]) for name, crystal in near}
        stream = io.StringIO()
        self.table.to_csv(stream, index=False, lineterminator="\n")
        files |= {"table.csv": stream.getvalue(), "table.json": dumps(self.rows, indent=1) + "\n"}
        files["crystals.extxyz"] = extxyz_text(self.crystals)
        figure = self.figure()
        if figure is not None:
            files |= {f"hull.{suffix}": encode(figure, suffix) for suffix in ("png", "svg")}
            files["hull.html"] = self.html() or ""
        if (folder / RECORD).exists():  # else they are somebody's own
            for name in listed(folder / CIFS) - {Path(name).name for name in files}:
                with suppress(OSError):
                    (folder / CIFS / name).unlink()
        files[RECORD] = dumps({**self.record, "files": sorted({*files, RECORD})}, indent=1) + "\n"  # last: all is there
        return [write_atomically(folder / name, content) for name, content in files.items()]


def _on_hull(row: Mapping[str, Any]) -> bool:
    return bool(row["energy_above_hull_eV"] < ON_HULL)


def _name_known(made: Sequence[Structure], given: Sequence[Structure]) -> None:
    """The name of the known crystal that a generated one is, None where it is new."""
    found = find_crystals(
        [to_arrays(c) for c in made],
        [to_arrays(c) for c in given],
        tolerances=MATCHER,
        processes=1,
        progress=False,
    )
    for crystal, match in zip(made, found, strict=True):
        same = given[match] if isinstance(match, int) else None
        note_of(crystal)["known"] = None if same is None else same.properties["autoperi"]["known"]
    for crystal in given:
        note_of(crystal)["known"] = crystal.properties["autoperi"]["known"]


def _ranked(crystals: Sequence[Structure], symbols: Sequence[str]) -> tuple[list[Structure], Any]:
    """The crystals, nearest to the hull first, their energies noted; and the phase diagram of all."""
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Element
    from pymatgen.entries.computed_entries import ComputedEntry

    elements = [Element(symbol) for symbol in symbols]
    energies = [note_of(crystal)["energy_per_atom_eV"] for crystal in crystals]
    entries = [ComputedEntry(c.composition, e * len(c)) for c, e in zip(crystals, energies, strict=True)]
    first = PhaseDiagram(entries, elements=elements)
    hull: dict[str, float] = {}
    keys = []
    for k, (crystal, entry) in enumerate(zip(crystals, entries, strict=True)):
        formula = crystal.composition.reduced_formula
        if formula not in hull:
            hull[formula] = float(first.get_hull_energy_per_atom(crystal.composition))
        note = note_of(crystal)
        note["formation_energy_per_atom_eV"] = round(float(first.get_form_energy_per_atom(entry)), 6) + 0.0
        note["energy_above_hull_eV"] = round(energies[k] - hull[formula], 6) + 0.0
        keys.append((note["energy_above_hull_eV"], note["formation_energy_per_atom_eV"], formula, k))
    order = [key[-1] for key in sorted(keys)]
    for rank, k in enumerate(order, start=1):
        number = note_of(crystals[k])["space_group"]
        words = [f"crystal {rank}", *([space_group(number).symbol] if number else [])]
        words += [f"known {name}"] if (name := note_of(crystals[k])["known"]) is not None else []
        entries[k].entry_id = ", ".join(words)
    return [crystals[k] for k in order], PhaseDiagram([entries[k] for k in order], elements=elements)


def _row(crystal: Structure, rank: int | None) -> dict[str, Any]:
    note, own = note_of(crystal), crystal.properties["autoperi"]
    above, number = note.get("energy_above_hull_eV"), note["space_group"]
    near = rank is not None and above is not None and above <= CIFS_WITHIN
    return {
        **{name: note.get(name) for name in COLUMNS},
        "crystal": rank,
        "formula": crystal.composition.reduced_formula,
        "n_atoms": len(crystal),
        "space_group_symbol": space_group(number).symbol if number else None,
        "volume_per_atom_A3": round(crystal.volume / len(crystal), 6),
        "origin": own.get("origin"),
        "known": note.get("known", own.get("known")),
        "index": own.get("index"),
        "file": f"{CIFS}/{crystal_filename(crystal, rank)}" if near and rank is not None else None,
    }


def _told(part: Part, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the record says of one composition."""
    above = [row["energy_above_hull_eV"] for row in rows if row["formula"] == part.formula and row.get("crystal")]
    return {
        "requested": part.requested,
        "generated": part.generated,
        "merged": part.merged,
        "failed": len(part.lost),
        "lowest_energy_above_hull_eV": min(above, default=None),
        "note": part.note,
    }


def _judge_words(judge: Mapping[str, Any]) -> str:
    digest = f" (sha256 {judge['sha256'][:12]}…)" if judge["sha256"] else ""
    return f"energies by the potential of {judge['model']}{digest}"


def _hull_entry(found: Exploration, symbols: Sequence[str]) -> dict[str, Any]:
    """What the figure is drawn from: crystals on the hull and known ones by name, and the others; where they have no
    axis of energy to lie apart on, only the lowest of each composition.
    """
    named: dict[str, list[Any]] = {"composition": [], "energy": [], "name": [], "e_above_hull": []}
    points: dict[str, list[Any]] = {"composition": [], "energy": [], "name": [], "e_above_hull": []}
    seen: set[str] = set()
    for crystal in found.crystals:
        note, formula = note_of(crystal), crystal.composition.reduced_formula
        above = note["energy_above_hull_eV"]
        named_too = above < ON_HULL or crystal.properties["autoperi"].get("origin") == "known"
        if len(symbols) > 2 and not named_too and formula in seen:
            continue
        seen.add(formula)
        target = named if named_too else points
        amounts = crystal.composition.get_el_amt_dict()
        target["composition"].append([amounts.get(symbol, 0.0) for symbol in symbols])
        target["energy"].append(note["formation_energy_per_atom_eV"])
        target["name"].append(formula)
        target["e_above_hull"].append(above)
    counts = found.record["counts"]
    lowest = " Of each composition the lowest crystal is drawn." if len(symbols) > 2 else ""
    return {
        "kind": "hull",
        "title": f"{found.record['system']}: {counts['crystals']:,} crystals of {counts['finished']:,} compositions",
        "elements": list(symbols),
        "reference": named,
        "points": points,
        "labels": {"stable": "on the hull", "reference": "known, above the hull"},
        "note": f"{_judge_words(found.judge).capitalize()}. Zero: the lowest crystal of each element.{lowest}",
    }


def listed(folder: Path) -> set[str]:
    """CIFs with names such as an exploration gives."""
    if not folder.is_dir():
        return set()
    return {p.name for p in folder.iterdir() if re.fullmatch(r"\d{3,}_[A-Za-z0-9.]+\.cif", p.name)}
