"""Tables and the figure of docs/score_langevin.md, from benchmarks/results. ``tools/refresh_docs.py`` writes them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE_1 = (
    ("Sultanov et al.", "0.972", "0.965", "0.102", "0.682"),
    ("PGCGM", "0.944", "0.76", "0.225", "4.359"),
    ("CDVAE", "0.982", "0.862", "0.199", "0.703"),
    ("1,000 crystals of its training set", "0.998", "0.968", "0.012", "0.044"),
)
"""Table 1 of Sultanov et al. (2023)."""
SYSTEMS = {"autoperi-gnn": "AutoPeri-GNN alone", "gemsdiff": "GemsDiff", "score-langevin": "Langevin dynamics"}
ASKED = {
    "composition": "composition",
    "group": "composition and space group",
    "positions": "composition, space group and Wyckoff positions",
}


def table_1(found: dict[str, Any]) -> str:
    """Table 1 of the paper with our rows, from ``results/score_langevin_mp20_test.json``."""
    head = "| | COV-P | COV-R | FD CrystalNN | FD CGCNN | valid, % | space group kept, % | match rate, % |"
    lines = [head, "|" + "---|" * 8]
    lines += ["| " + " | ".join([*row, "", "", ""]) + " |" for row in TABLE_1]
    asked_for = {
        "group": "composition and space group",
        "sites": "sites and space group",
        "free": "free sites and space group",
    }
    for asked, words in asked_for.items():
        for kind, how in (("drawn", "as drawn"), ("returned", "as `generate` returns them")):
            if asked in found:
                lines.append(_row(f"**`score-langevin`**, {words}, {how}", found[asked][kind]))
    lines.append(_row(f"{found['crystals']:,} crystals of `mp_train`", found["floor"]))
    size = f"{found['crystals']:,} requests, {found['steps']} steps, {found['groups']} space groups"
    return "\n".join([*lines, "", f"{size}; coverage of {found['reference_crystals']:,} crystals."])


def _row(name: str, figures: dict[str, Any]) -> str:
    cells = [figures[key]["value"] for key in ("cov_precision", "cov_recall", "frechet_crystalnn", "frechet_cgcnn")]
    said = [f"{value:.3f}" for value in cells]
    if "valid" in figures:
        shares = [figures["valid"]["value"], figures["group_kept"]["value"], figures["match_rate"]]
        said += [f"{100 * share:.1f}" for share in shares]
    else:
        said += ["", "", ""]
    return "| " + " | ".join([name, *said]) + " |"


def table_2(found: dict[str, Any]) -> str:
    """Table 2 of the paper with our column, from ``results/score_langevin_known.json``."""
    head = "| elements | space group | paper's sample, Å | Materials Project, Å | ours, Å | formula | within 10 % |"
    lines = [head, "|" + "---|" * 7]
    for row in found["named"]:
        lengths = [", ".join(f"{x:g}" for x in row[key]) for key in ("paper", "materials_project", "lengths")]
        drawn = f"{row['within_a_tenth']} of {row['draws']}"
        lines.append("| " + " | ".join([row["elements"], str(row["group"]), *lengths, row["formula"], drawn]) + " |")
    return "\n".join(lines)


def rediscovery_table(found: dict[str, Any]) -> str:
    """Section 5.3 of the paper, from ``results/score_langevin_known.json``."""
    lines = ["| asked for | crystals | found as drawn | found, some draws relaxed |", "|" + "---|" * 4]
    lines.append("| the paper: sites and space group, all draws relaxed by DFT | 36 | | 11 |")
    for asked, words in (("sites", "sites and space group"), ("group", "composition and space group")):
        own = found["rediscovery"][asked]
        cells = [words, str(own["crystals"]), str(own["found_as_drawn"]), str(own["found"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{found['draws']} draws of each crystal, {found['steps']} steps."])


def systems_table(found: dict[str, Any]) -> str:
    """Three systems beside each other, from ``results/three_systems_mp20_test.json``."""
    lines = ["| asked for | system | steps | match rate, % | RMSE | valid, % | crystals/s |", "|" + "---|" * 7]
    rates = []
    for asked, systems in found["asked"].items():
        for name, runs in systems.items():
            for run in sorted(runs, key=lambda run: run["steps"]):
                rates.append(run["match_rate"])
                cells = [ASKED[asked], SYSTEMS[name], str(run["steps"]), f"{100 * run['match_rate']:.1f}"]
                rmse = "" if run["rmse"] is None else f"{run['rmse']:.3f}"
                cells += [rmse, f"{100 * run['valid']['value']:.1f}", f"{run['crystals_per_second']:.1f}"]
                lines.append("| " + " | ".join(cells) + " |")
    error = max(100 * (rate * (1 - rate) / found["crystals"]) ** 0.5 for rate in rates)
    note = f"{found['crystals']:,} crystals, one draw each, {found['threads']} thread"
    note += "" if found["threads"] == 1 else "s"
    return "\n".join([*lines, "", f"{note}; the standard error of a match rate is at most {error:.1f} points."])


def draw_systems(result: dict[str, Any], path: Path) -> None:
    """Match rate and RMSE of three systems against evaluations of the network."""
    two_panels = runpy.run_path(str(Path(__file__).resolve().parents[1] / "gemsdiff" / "curves.py"))["two_panels"]
    from autoperi.figures.style import COLOURS

    names = list(SYSTEMS)

    def curves(axes: Axes, style: dict[str, Any], key: str, scale: float) -> None:
        for asked, line in zip(ASKED, (":", "--", "-"), strict=True):
            for name, runs in result["asked"][asked].items():
                ordered = sorted(runs, key=lambda run: run["steps"])
                own = style | {"linestyle": line, "color": COLOURS[names.index(name)]}
                label = SYSTEMS[name] if line == ":" else None
                axes.plot([r["steps"] for r in ordered], [scale * r[key] for r in ordered], label=label, **own)

    def rate(axes: Axes, style: dict[str, Any]) -> None:
        curves(axes, style, "match_rate", 100)
        axes.set_ylabel("Match rate (%)")

    def rmse(axes: Axes, style: dict[str, Any]) -> None:
        curves(axes, style, "rmse", 1)
        axes.set_ylabel("RMSE of matches, in (V/N)$^{1/3}$")
        axes.legend(loc="lower left", fontsize="small")

    two_panels(result, path, "Network evaluations", (rate, rmse), logarithmic=(True, True))
