"""Tables of docs/pgcgm.md, from benchmarks/results. ``tools/refresh_docs.py`` writes them."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

TABLE_1 = (
    ("FTCP", "0.88", "63.28", "49.89", "1.685", "0.754", "2.895", "89.9"),
    ("CubicGAN", "4.97", "99.0", "59.47", "0.626", "3.476", "3.871", "98.0"),
    ("PGCGM", "1.98", "99.54", "57.36", "0.224", "3.664", "2.675", "98.4"),
    ("PGCGM + dist", "7.14", "99.47", "61.82", "0.405", "0.520", "0.765", "96.3"),
    ("PGCGM + dist + coor", "6.07", "99.43", "63.34", "0.357", "0.490", "0.791", "97.0"),
)
"""Table 1 of Zhao et al. (2023)."""
TABLE_2 = (
    ("FTCP", "1982 of 2000", "0.8", "0.006"),
    ("CubicGAN", "1992 of 2000", "26.0", "0.035"),
    ("PGCGM", "1994 of 2000", "34.9", "0.052"),
)
"""Table 2 of Zhao et al. (2023): relaxed with BOWSR."""
COLUMNS = "| readable, % | 0.5 Å, % | neutral, % | shortest, Å | longest, Å | density, g/cm³ | diversity, % |"


def table_1(found: dict[str, Any]) -> str:
    """Table 1 of the paper with our rows, from ``results/pgcgm_mp20_test.json``."""
    lines = ["| " + COLUMNS, "|" + "---|" * 8]
    lines += ["| " + " | ".join(row) + " |" for row in TABLE_1]
    lines.append(_row("**`pgcgm`**", f"{100 * found['readable']:.1f}", found["table_1"]))
    if found.get("neutral"):
        lines.append(_row("**`pgcgm`**, neutral ones alone (enforced)", "", found["neutral"]))
    if "floor" in found:
        lines.append(_row("crystals of its training set", "", found["floor"]))
    judged, against = found["table_1"]["crystals"], found["reference_crystals"]
    different = found["table_1"]["diversity"]["of"]
    words = f"{found['n']:,} draws, {judged:,} judged, against {against:,} test crystals; diversity of {different:,}."
    return "\n".join([*lines, "", words])


def _row(name: str, readable: str, figures: dict[str, Any]) -> str:
    shares = [f"{100 * figures[key]['value']:.1f}" for key in ("distance", "neutral")]
    distances = [figures["wasserstein"][key]["value"] for key in ("min_distance", "max_distance", "density")]
    diversity = f"{100 * figures['diversity']['value']:.1f}"
    return "| " + " | ".join([name, readable, *shares, *(f"{d:.3f}" for d in distances), diversity]) + " |"


def ablation_table(found: dict[str, Any]) -> str:
    """What each loss and switch is worth, from ``results/pgcgm_ablation_mp_val.json``."""
    head = "| trained with | readable, % | 0.5 Å, % | returned, % | neutral, % | shortest, Å | longest, Å | density |"
    lines = [head, "|" + "---|" * 8]
    seeds = len({run["seed"] for run in found["runs"]})
    for arm, figures in found["table"].items():
        shares = [_spread(figures[key], 100, seeds) for key in ("readable", "distance", "returned", "neutral")]
        distances = [_spread(figures[key], 1, seeds) for key in ("min_distance", "max_distance", "density")]
        lines.append("| " + " | ".join([arm, *shares, *distances]) + " |")
    size = f"{found['crystals']:,} ternaries, {found['epochs']} epochs of {found['repeats']} rows a crystal"
    return "\n".join([*lines, "", f"{size}; mean and standard deviation over {seeds} seeds."])


def _spread(figure: list[float], unit: int, seeds: int) -> str:
    digits = 1 if unit == 100 else 3
    fewer = "" if figure[2] == seeds else f" ({figure[2]} seeds)"
    return f"{unit * figure[0]:.{digits}f} ± {unit * figure[1]:.{digits}f}{fewer}"


def table_2(found: dict[str, Any]) -> str:
    """Table 2 of the paper with our row, from ``results/pgcgm_relaxed.json``."""
    lines = ["| | relaxed | match rate, % | RMS | by |", "|" + "---|" * 5]
    lines += ["| " + " | ".join([*row, "BOWSR"]) + " |" for row in TABLE_2]
    for name, row in (("**`pgcgm`**", found), ("`pgcgm`, more than the volume free", found["with_freedom"])):
        done = row["optimised"]
        cells = [f"{done['count']} of {done['of']}", f"{100 * row['match_rate']['value']:.1f}"]
        cells += [f"{row['rms']['value']:.3f}", found["relaxer"]["model"]]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def lattice_table(found: dict[str, Any]) -> str:
    """Errors of lattice lengths (Figure 4), from ``results/pgcgm_relaxed.json``."""
    lines = ["| | length | median error, % | mean absolute error, % | R² | RMSE, Å | outliers, % |", "|" + "---|" * 7]
    for name, words in (("all", "all"), ("cubic", "cubic")):
        own = found["lattice"][name]
        for length in "abc" if name == "all" else "a":
            if length not in own:
                continue
            row = own[length]
            cells = [f"{100 * row[key]:.1f}" for key in ("median_relative_error", "mean_absolute_relative_error")]
            cells += [f"{row['r2']:.3f}", f"{row['rmse']:.3f}", f"{100 * row['outliers']:.1f}"]
            lines.append("| " + " | ".join([f"{words}, {own['crystals']} crystals", length, *cells]) + " |")
    return "\n".join(lines)


def rediscovery_table(found: dict[str, Any]) -> str:
    """How many known crystals a number of draws finds (Figure 1), from ``results/pgcgm_rediscovery.json``."""
    head = "| draws | different, % | training crystals found, % | matched, % | test crystals found, % | matched, % |"
    lines = [head, "|" + "---|" * 6]
    for unique, train, test in zip(found["unique"], found["train"]["curve"], found["test"]["curve"], strict=True):
        cells = [unique["value"], *(row[key]["value"] for row in (train, test) for key in ("rediscovered", "matched"))]
        lines.append("| " + " | ".join([f"{unique['n']:,}", *(f"{100 * cell:.1f}" for cell in cells)]) + " |")
    return "\n".join(lines)


def draw_lengths(result: dict[str, Any], path: Path) -> None:
    """Generated lattice lengths over relaxed ones, and their relative errors (Figure 4), from
    ``results/pgcgm_relaxed.json``.
    """
    from autoperi.figures.style import COLOURS

    two_panels = runpy.run_path(str(Path(__file__).resolve().parents[1] / "gemsdiff" / "curves.py"))["two_panels"]
    made, relaxed = (np.array(result["lattice"]["lengths"][side]) for side in ("generated", "relaxed"))

    def each(axes: Axes, draw: Callable[[NDArray[np.float64], NDArray[np.float64], dict[str, Any]], object]) -> None:
        for k, name in enumerate("abc"):
            draw(made[:, k], relaxed[:, k], {"color": COLOURS[k], "label": name})
        axes.legend()

    def parity(axes: Axes, _: dict[str, Any]) -> None:
        end = float(max(made.max(), relaxed.max()))
        axes.plot([0, end], [0, end], color="0.6", linewidth=1)
        each(axes, lambda ours, truth, own: axes.scatter(truth, ours, s=8, alpha=0.5, edgecolors="none", **own))
        axes.set_xlabel("Relaxed length (Å)")
        axes.set_ylabel("Generated length (Å)")

    def errors(axes: Axes, _: dict[str, Any]) -> None:
        bins = np.linspace(-30, 30, 41)
        each(
            axes,
            lambda ours, truth, own: axes.hist(
                np.clip(100 * (ours / truth - 1), -30, 30), bins=bins, histtype="step", **own
            ),
        )
        axes.set_xlabel("Error of the generated length (%)")
        axes.set_ylabel("Crystals")

    two_panels(result, path, "", (parity, errors), logarithmic=(False, False))
