"""Numbers, tables and figures of the documentation from the JSON of benchmarks/results, after something was measured
again.

    python tools/refresh_docs.py            # rewrites the pages and the figures
    python tools/refresh_docs.py --check    # changes nothing; exit code 1 where something is stale

The pages are README.md and everything below docs/, the figures those of :data:`FIGURES` in docs/images.
Two kinds of places are kept: the first number in the second cell of a table row that names
``benchmarks/results/FILE.json`` and a key (with as many decimals as it has), and whole tables between ``<!-- table
NAME: COMMAND -->`` and ``<!-- end of table -->``. Words about the numbers are for people to read again.
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
ROW = re.compile(r"`benchmarks/results/([\w.-]+\.json)`: `([\w. ]+)`")
NUMBER = re.compile(r"([−-]?)(\d[\d,]*)(?:\.(\d+))?")
TABLE = re.compile(r"(<!-- table (\w+): [^\n]* -->\n)(?:(?!<!--).)*(<!-- end of table -->)", re.DOTALL)


def results(name: str) -> Any:
    """The JSON of a measurement."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def optional(name: str) -> Any:
    """The JSON of a measurement, None where it has not been made."""
    return results(name) if (RESULTS / name).exists() else None


def refreshed(text: str) -> str:
    """A page with the numbers and tables of the results as they are now."""
    text = TABLE.sub(_table, text)
    return "\n".join(_row(line) if ROW.search(line) else line for line in text.split("\n"))


def _table(match: re.Match[str]) -> str:
    made = TABLES[match[2]]()
    return match[0] if made is None else f"{match[1]}\n{made}\n\n{match[3]}"


def _row(line: str) -> str:
    source = ROW.search(line)
    assert source is not None
    value: Any = results(source[1])
    for key in source[2].split("."):
        value = value[int(key) if isinstance(value, list) else key]
    head, cell, *rest = line.split("|")[1:]
    stated = NUMBER.search(cell)
    if stated is None:
        raise SystemExit(f"no number in {cell!r}; {source[0]}")
    percent = "%" in cell[stated.end() : stated.end() + 4]
    found = float(value) * (100 if percent else 1)
    digits = len(stated[3] or "")
    number = f"{abs(found):{',' if ',' in stated[2] or abs(found) >= 1000 else ''}.{digits}f}"
    minus = (stated[1] or "−") if found < 0 else ""
    return "|".join(["", head, cell[: stated.start()] + minus + number + cell[stated.end() :], *rest])


def solids_table() -> str:
    """Lattice constants, moduli and imaginary modes of four crystals, ours and CHGNet's beside experiment."""
    found = results("solids.json")
    names = {"autoperi": "AutoPeri", "chgnet": "CHGNet", "experiment": "experiment"}
    keys = ("a", "K", "C11", "C12", "C44")
    lines = ["| crystal | | a, Å | K, GPa | C11 | C12 | C44 | imaginary modes |", "|" + "---|" * 8]
    for formula, solid in found["solids"].items():
        for k, (name, label) in enumerate((n, label) for n, label in names.items() if n in solid):
            row = solid[name]
            cells = [_say(row[key], 3 if key == "a" else 1) for key in keys]
            modes = "" if name == "experiment" else _of(row["phonons"])
            lines.append("| " + " | ".join(["" if k else formula, label, *cells, modes]) + " |")
    return "\n".join(lines)


def nve_table() -> str:
    """Drift and largest excursion of the total energy."""
    head = "| crystal | atoms | ps | mean T, K | slope, meV/atom/ps | drift, meV/atom | largest excursion, meV/atom |"
    lines = [head, "|" + "---|" * 7]
    for formula, run in results("nve.json")["runs"].items():
        cells = [formula, str(run["atoms"]), _say(run["ps"], 1), _say(run["mean_temperature_K"], 0)]
        cells += [
            _say(run[k], 5) for k in ("slope_meV_per_atom_per_ps", "drift_meV_per_atom", "max_excursion_meV_per_atom")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def calculator_table() -> str:
    """Time of energy, forces and stress, and its growth with the number of atoms."""
    found = results("bench_calculator.json")
    lines = ["| atoms | AutoPeri, ms | CHGNet, ms | ratio |", "|" + "---|" * 4]
    lines += [f"| {r['atoms']:,} | {r['ms']:.1f} | {r['other_ms']:,.0f} | {r['ratio']:.1f} |" for r in found["rows"]]
    lines += ["", "| atoms | µs per atom | most memory, GB |", "|" + "---|" * 3]
    lines += [f"| {r['atoms']:,} | {r['us_per_atom']:.0f} | {r['peak_memory_GB']:.2f} |" for r in found["scaling"]]
    return "\n".join(lines)


def _say(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _of(phonons: dict[str, Any]) -> str:
    return "none found" if phonons["modes"] is None else f"{phonons['imaginary_modes']:,} of {phonons['modes']:,}"


def empnn_table(name: str) -> str:
    """Tables 1 and 2 of EMPNN."""
    return runpy.run_path(str(ROOT / "benchmarks" / "empnn" / "tables.py"))[f"{name}_table"](
        results(f"empnn_{name}.json")
    )


def relaxer_table(name: str) -> str:
    """Calibration, reconstructions (Table 3 of EMPNN) and the comparison with FIRE of the lattice relaxer."""
    return runpy.run_path(str(ROOT / "benchmarks" / "empnn" / "relaxer_tables.py"))[f"{name}_table"](
        results(f"empnn_{name}.json")
    )


def property_table(name: str) -> str:
    """Baselines, pre-training and labels of another release."""
    return runpy.run_path(str(ROOT / "benchmarks" / "property_tables.py"))[f"{name}_table"](results)


def flow_table(name: str, file: str) -> str | None:
    """AutoPeri-GNN's flow, and the parts of ``generate``; None where the measurement has not been made."""
    return table_of("autoperi_gnn", f"{name}_table", file)


def table_of(folder: str, function: str, *files: str) -> str | None:
    """A table of benchmarks/FOLDER/tables.py; None where a measurement has not been made."""
    found = [optional(file) for file in files]
    if None in found:
        return None
    made: str | None = runpy.run_path(str(ROOT / "benchmarks" / folder / "tables.py"))[function](*found)
    return made


def published(name: str) -> str:
    """Published match rates beside ours."""
    return runpy.run_path(str(ROOT / "benchmarks" / "published.py"))[f"{name}_table"](optional)


def options_table() -> str:
    """The options of ``generate``, as their declarations say."""
    from autoperi.pipelines.request import Request, RunOptions

    return _options_of(Request, RunOptions)


def stream_options_table() -> str:
    """Those of a stream alone."""
    from autoperi.pipelines.stream_options import ShardOptions, StreamOptions

    return _options_of(StreamOptions, ShardOptions, without=("batch_size", "as_ase"))


def _options_of(*classes: type, without: tuple[str, ...] = ()) -> str:
    from autoperi.pipelines.options import options_of

    lines = ["| option | command line | default | meaning |", "|---|---|---|---|"]
    for f in (f for f in options_of(*classes) if f.name not in without):
        flag = f.metadata["flag"]
        words = () if flag is None else (flag.name, flag.metavar) if flag.name.startswith("-") else (flag.metavar,)
        written = f"`{' '.join(filter(None, words))}`" if words else ""
        says = f.metadata["says"].replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{f.name}` | {written} | `{f.metadata['default']!r}` | {says} |")
    return "\n".join(lines)


def settings_table() -> str:
    """The settings of a model, their ranges and those of ``autoperi-base``."""
    from dataclasses import fields

    from autoperi.hub.bundle import read_config
    from autoperi.hub.store import resolve
    from autoperi.pipelines.settings import Settings

    path = resolve("autoperi-base").path
    assert path is not None
    own = read_config(path)["metadata"]["settings"]
    lines = ["| setting | range | default | `autoperi-base` | meaning |", "|---|---|---|---|---|"]
    for f in fields(Settings):
        low, high = f.metadata["low"], f.metadata["high"]
        span = f"{low:g} to {high:g}" if high < float("inf") else f"from {low:g}"
        lines.append(f"| `{f.name}` | {span} | {f.default} | {own.get(f.name, '')} | {f.metadata['says']} |")
    return "\n".join(lines)


def kinds_table() -> str:
    """The kinds of the registry."""
    from autoperi.registry import KINDS

    lines = ["| kind | role | what it is | `autoperi train` | older name |", "|---|---|---|---|---|"]
    for kind in KINDS:
        train = f"`{kind.word}`" if kind.task or kind.trainer else ""
        older = ", ".join(f"`{name}`" for name in kind.components)
        lines.append(f"| `{kind.name}` | {kind.role} | {kind.summary} | {train} | {older} |")
    return "\n".join(lines)


FIGURES = {
    "solids.png": ("potential/solids.py", "draw", "solids.json"),
    "steps_curve.png": ("autoperi_gnn/figures.py", "draw_steps_curve", "steps_curve_mp_val.json"),
    "gemsdiff_steps.png": ("gemsdiff/curves.py", "draw_steps", "gemsdiff_steps_mp20_test.json"),
    "gemsdiff_frechet.png": ("gemsdiff/curves.py", "draw_frechet", "gemsdiff_frechet.json"),
    "pgcgm_lengths.png": ("pgcgm/tables.py", "draw_lengths", "pgcgm_relaxed.json"),
    "three_systems.png": ("score_langevin/tables.py", "draw_systems", "three_systems_mp20_test.json"),
}
"""Figures of docs/images: the script below benchmarks that draws each, its function, and the results it takes."""
TABLES: dict[str, Callable[[], str | None]] = {
    "options": options_table,
    "stream_options": stream_options_table,
    "settings": settings_table,
    "kinds": kinds_table,
    "solids": solids_table,
    "nve": nve_table,
    "calculator": calculator_table,
    "empnn_fields": lambda: empnn_table("fields"),
    "empnn_losses": lambda: empnn_table("losses"),
    "empnn_calibration": lambda: relaxer_table("calibration"),
    "empnn_reconstruct": lambda: relaxer_table("reconstruct"),
    "empnn_against_fire": lambda: relaxer_table("against_fire"),
    "baselines": lambda: property_table("baselines"),
    "crysgnn": lambda: property_table("crysgnn"),
    "flow": lambda: flow_table("flow", "autoperi_gnn_mp_val.json"),
    "reconstruction": lambda: flow_table("reconstruction", "autoperi_gnn_reconstruct_mp_val.json"),
    "flow_losses": lambda: flow_table("losses", "autoperi_gnn_losses_mp_val.json"),
    "ranking": lambda: flow_table("ranking", "choose_ranking_mp_val.json"),
    "ablation": lambda: flow_table("ablation", "autoperi_gnn_ablation_mp_val.json"),
    "condition_costs": lambda: flow_table("condition_costs", "condition_costs.json"),
    "latent": lambda: flow_table("latent", "latent_map.json"),
    "latent_ends": lambda: flow_table("latent_ends", "latent_map.json"),
    "steps": lambda: flow_table("steps", "steps_curve_mp_val.json"),
    "published": lambda: published("published"),
    "perov_carbon": lambda: published("perov_carbon"),
    "gemsdiff_ablation": lambda: table_of("gemsdiff", "ablation_table", "gemsdiff_ablation_mp_val.json"),
    "gemsdiff_table_2": lambda: table_of("gemsdiff", "table_2", "gemsdiff_mp20_test.json", "gemsdiff_frechet.json"),
    "gemsdiff_table_3": lambda: table_of("gemsdiff", "table_3", "gemsdiff_frechet.json"),
    "gemsdiff_noise": lambda: table_of("gemsdiff", "noise_table", "gemsdiff_frechet.json"),
    "gemsdiff_sizes": lambda: table_of("gemsdiff", "sizes_table", "gemsdiff_frechet.json"),
    "gemsdiff_steps": lambda: table_of("gemsdiff", "steps_table", "gemsdiff_steps_mp20_test.json"),
    "langevin_table_1": lambda: table_of("score_langevin", "table_1", "score_langevin_mp20_test.json"),
    "langevin_table_2": lambda: table_of("score_langevin", "table_2", "score_langevin_known.json"),
    "langevin_rediscovery": lambda: table_of("score_langevin", "rediscovery_table", "score_langevin_known.json"),
    "three_systems": lambda: table_of("score_langevin", "systems_table", "three_systems_mp20_test.json"),
    "pgcgm_table_1": lambda: table_of("pgcgm", "table_1", "pgcgm_mp20_test.json"),
    "pgcgm_ablation": lambda: table_of("pgcgm", "ablation_table", "pgcgm_ablation_mp_val.json"),
    "pgcgm_table_2": lambda: table_of("pgcgm", "table_2", "pgcgm_relaxed.json"),
    "pgcgm_lattice": lambda: table_of("pgcgm", "lattice_table", "pgcgm_relaxed.json"),
    "pgcgm_rediscovery": lambda: table_of("pgcgm", "rediscovery_table", "pgcgm_rediscovery.json"),
    "de_novo": lambda: runpy.run_path(str(ROOT / "benchmarks" / "de_novo.py"))["de_novo_table"](optional),
    "label_origin": lambda: property_table("label_origin"),
}


def main() -> None:
    """Rewrite the pages, or say which of them are stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    args = parser.parse_args()
    stale = []
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = refreshed(old)
        if new != old:
            stale.append(str(page.relative_to(ROOT)))
            if not args.check:
                page.write_text(new, encoding="utf-8")
    if not args.check:
        for image, (script, function, file) in FIGURES.items():
            found = optional(file)
            if found is not None:
                runpy.run_path(str(ROOT / "benchmarks" / script))[function](found, IMAGES / image)
    print(f"{'stale' if args.check else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    raise SystemExit(1 if args.check and stale else 0)


if __name__ == "__main__":
    main()
