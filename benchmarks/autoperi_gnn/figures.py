"""Figures of the documentation as small files that say which results they were drawn from."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

SERIES = {
    "midpoint": "midpoint",
    "euler": "Euler",
    "annealed_5": "Euler, annealed by 5",
    "annealed_20": "Euler, annealed by 20",
}
"""Series of ``results/steps_curve_mp_val.json`` and what they are called."""


def fingerprint(result: dict[str, Any]) -> str:
    """sha256 of results, which the figure carries: a test then knows that it was drawn from those that are stated
    beside it.
    """
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def save_small(drawn: BytesIO, path: Path, result: dict[str, Any], *, colours: int = 64) -> None:
    """A PNG of few colours, a third of the bytes."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(drawn) as image:
        about = PngInfo()
        about.add_text("results", fingerprint(result))
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").quantize(colours, kmeans=2).save(path, format="png", optimize=True, pnginfo=about)


def draw_steps_curve(result: dict[str, Any], path: Path) -> None:
    """Match rate and RMSE of the flow from noise against network calls, from ``results/steps_curve_mp_val.json``."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from autoperi.figures.style import COLOURS, LINES, MARKERS, log_axis, styled

    with styled():
        figure = Figure(figsize=(8.4, 3.7), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for k, (name, words) in enumerate(SERIES.items()):
            calls = np.array(sorted(map(int, result["series"][name])))
            points = [result["series"][name][str(c)] for c in calls]
            rate, error = (100 * np.array([p[key] for p in points]) for key in ("match_rate", "standard_error"))
            style = {
                "color": COLOURS[k],
                "linestyle": LINES[k],
                "marker": MARKERS[k],
                "markersize": 4.5,
                "linewidth": 1.5,
            }
            left.plot(calls, rate, label=words, **style)
            left.fill_between(calls, rate - error, rate + error, color=COLOURS[k], alpha=0.12, linewidth=0)
            right.plot(calls, [p["rmse"] for p in points], **style)
        left.set_ylabel("Match rate (%)")
        right.set_ylabel("RMSE of matches, in (V/N)$^{1/3}$")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            axes.set_xlabel("Network calls")
            axes.margins(x=0.06)
            log_axis(axes, "x")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(SERIES))
        drawn = BytesIO()
        figure.savefig(drawn, dpi=130, format="png")
    save_small(drawn, path, result)
