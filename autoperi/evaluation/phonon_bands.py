"""Phonon bands beside their density of states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.errors import RequestError
from autoperi.evaluation import style
from autoperi.evaluation.style import COLOURS, GREY, INK, NoDataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def phonons(figure: Figure, *, bands: Any = None, dos: Any = None, unit: str = "THz") -> tuple[str, list[str]]:
    """Bands along the path and the density of states beside them; imaginary frequencies are below zero.

    ``bands`` is as :func:`autoperi.metrics.phonons.band_structure` gives it, ``dos`` {frequency, density}.
    """
    bands, dos = style.table(bands, "bands"), style.table(dos, "dos")
    style.same_length(**{k: _rows(bands.get(k)) for k in ("x", "frequency")})
    pieces = []
    for x, branches in zip(_rows(bands.get("x")), _rows(bands.get("frequency")), strict=True):
        rows = [style.numbers(r) for r in branches]
        style.same_length(x=style.numbers(x), frequency=rows)
        if len({len(r) for r in rows}) > 1:
            raise RequestError("frequency has rows of different lengths; give every branch at every wave vector")
        if np.isfinite(np.array(rows)).any():
            pieces.append((style.numbers(x), np.array(rows)))
    frequency, density = style.numbers(dos.get("frequency")), style.numbers(dos.get("density"))
    style.same_length(frequency=frequency, density=density)
    good = np.isfinite(frequency) & np.isfinite(density)
    order = np.argsort(frequency[good], kind="stable")
    frequency, density = frequency[good][order], density[good][order]
    every = np.concatenate([*(f.ravel() for _, f in pieces), frequency])
    every = every[np.isfinite(every)]
    if not len(every):
        raise NoDataError("no bands and no density of states")
    both = bool(pieces) and len(frequency) > 0
    panels = figure.subplots(1, 1 + both, sharey=True, squeeze=False, width_ratios=(3, 1) if both else None)[0]
    for x, branches in pieces:
        panels[0].plot(x, branches, color=COLOURS[0], linewidth=1.2)
    if pieces:
        ticks = _rows(bands.get("ticks"))
        panels[0].set_xticks([float(t[0]) for t in ticks], [style.plain(t[1]) for t in ticks])
        panels[0].grid(visible=bool(ticks), axis="x", color=GREY, linewidth=0.7)
        panels[0].set(xlim=(min(x.min() for x, _ in pieces), max(x.max() for x, _ in pieces)), xlabel="Wave vector")
    if len(frequency):
        panels[-1].plot(density, frequency, color=COLOURS[0], linewidth=1.4)
        panels[-1].fill_betweenx(frequency, 0, density, color=COLOURS[0], alpha=0.2, linewidth=0)
        panels[-1].set(xlim=(0, None), xticks=[], xlabel="Density\nof states" if both else "Density of states")
    for axes in panels:
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_ylim(*style.padded(float(every.min()), float(every.max())))
    panels[0].set_ylabel(style.axis_label("Frequency", unit))
    count = f"{pieces[0][1].shape[1]} phonon branches; " if pieces else ""
    below = "Imaginary frequencies are drawn below zero." if every.min() < 0 else ""
    return f"{count}frequencies from {style.say(float(every.min()))} to {style.say(float(every.max()))} {unit}.", [
        below
    ]


def _rows(value: Any) -> list[Any]:
    return [] if value is None else list(value)
