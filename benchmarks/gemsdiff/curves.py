"""Figures of docs/gemsdiff.md, drawn from benchmarks/results. ``tools/refresh_docs.py`` writes them."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL = runpy.run_path(str(Path(__file__).resolve().parents[1] / "autoperi_gnn" / "figures.py"))
fingerprint, save_small = SMALL["fingerprint"], SMALL["save_small"]


def draw_steps(result: dict[str, Any], path: Path) -> None:
    """Match rate and RMSE against evaluations of the network, from ``results/gemsdiff_steps_mp20_test.json``."""
    runs = sorted(result["runs"], key=lambda run: run["steps"])
    steps, n = [run["steps"] for run in runs], result["crystals"]
    rates = [run["match_rate"]["1"] for run in runs]

    def rate(axes: Axes, style: dict[str, Any]) -> None:
        errors = [100 * (r * (1 - r) / n) ** 0.5 for r in rates]
        axes.errorbar(steps, [100 * r for r in rates], yerr=errors, capsize=3, **style)
        axes.set_ylabel("Match rate (%)")

    def rmse(axes: Axes, style: dict[str, Any]) -> None:
        axes.plot(steps, [run["rmse"] for run in runs], **style)
        axes.set_ylabel("RMSE of matches, in (V/N)$^{1/3}$")

    two_panels(result, path, "Network evaluations", (rate, rmse), logarithmic=(True, True))


def draw_frechet(result: dict[str, Any], path: Path) -> None:
    """Figures 3 and 4 of Klipfel et al. (2024), from ``results/gemsdiff_frechet.json``."""
    noised, sizes = result["noised"]["steps"], result["sizes"]

    def noise(axes: Axes, style: dict[str, Any]) -> None:
        steps = list(map(int, noised))
        axes.plot(steps, [row["from_others"] for row in noised.values()], label="from other crystals", **style)
        style = style | {"linestyle": "--", "marker": "s", "color": "#D55E00"}
        axes.plot(steps, [row["from_themselves"] for row in noised.values()], label="from themselves", **style)
        axes.set_ylabel("Fréchet distance, CGCNN")
        axes.set_xlabel("Diffusion step")
        axes.legend()

    def size(axes: Axes, style: dict[str, Any]) -> None:
        means, spread = ([row[key] for row in sizes.values()] for key in ("mean", "standard_deviation"))
        below = [min(s, 0.9 * m) for m, s in zip(means, spread, strict=True)]  # a logarithm ends above 0
        axes.errorbar(list(map(int, sizes)), means, yerr=[below, spread], capsize=3, **style)
        axes.set_yscale("log")
        axes.set_ylabel("Fréchet distance of real crystals, CGCNN")
        axes.set_xlabel("Crystals in each set")

    two_panels(result, path, "", (noise, size), logarithmic=(False, True))


def two_panels(
    result: dict[str, Any],
    path: Path,
    abscissa: str,
    panels: tuple[Callable[[Axes, dict[str, Any]], None], Callable[[Axes, dict[str, Any]], None]],
    *,
    logarithmic: tuple[bool, bool],
) -> None:
    """Two diagrams side by side; ``logarithmic`` is of their abscissae."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from autoperi.figures.style import COLOURS, log_axis, styled

    style = {"color": COLOURS[0], "marker": "o", "markersize": 4.5, "linewidth": 1.5}
    with styled():
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, draw, log in zip(figure.subplots(1, 2), panels, logarithmic, strict=True):
            draw(axes, dict(style))
            if axes.get_yscale() == "linear":
                axes.set_ylim(bottom=0)
            if abscissa:
                axes.set_xlabel(abscissa)
            if log:
                log_axis(axes, "x")
        drawn = BytesIO()
        figure.savefig(drawn, dpi=130, format="png")
    save_small(drawn, path, result)
