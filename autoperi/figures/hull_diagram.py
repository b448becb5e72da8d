"""Convex hull diagrams of two and three elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.errors import RequestError
from autoperi.figures import style
from autoperi.figures.style import COLOURS, GREY, INK, NoDataError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ON_HULL = 1e-6  # eV/atom: an entry this close to the hull is on it
HEIGHT = float(np.sqrt(3) / 2)  # of a triangle of side 1


def hull(figure: Figure, *, elements: Any, reference: Any = None, points: Any = None) -> tuple[str, list[str]]:
    """Two elements: energy against composition with the hull. Three: the Gibbs triangle, coloured by energy above hull.

    Args:
        figure: to draw on.
        elements: two or three.
        reference: {``composition`` (n, d) amounts or fractions, ``energy`` (n,) of formation in eV/atom, ``name``}, of
            which the names are optional. An element without an entry has energy 0.
        points: the generated crystals, in the same form; their ``e_above_hull`` is that of the hull where it is absent.

    Raises:
        RequestError: another number of elements, or lengths that differ. NoDataError: neither an entry nor a point.
    """
    symbols = [str(e) for e in elements or ()]
    if len(symbols) not in (2, 3):
        raise RequestError(f"elements={symbols}; give two or three, a hull of more cannot be drawn")
    (known, lost), (made, lost_points) = (
        _phases(style.table(each, name), symbols) for name, each in (("reference", reference), ("points", points))
    )
    if not len(known) and not len(made):
        raise NoDataError("no reference entry and no point")
    diagram = _diagram(known, symbols)
    for phases in (known, made):
        hull_energy = [
            diagram.get_hull_energy_per_atom(_composition(row)) for row in phases[symbols].to_dict("records")
        ]
        phases["above"] = phases["above"].fillna(phases["energy"] - np.array(hull_energy, dtype=float))
    known["stable"] = known["above"] < ON_HULL
    notes = (_binary if len(symbols) == 2 else _ternary)(figure, symbols, diagram, known, made)
    lost += lost_points
    notes.append(f"Left out, no composition or no energy: {lost:,}." if lost else "")
    text = f"Convex hull of {'-'.join(symbols)}: {len(known):,} reference entries, {known['stable'].sum():,} of them "
    text += f"stable; {len(made):,} generated points, {(made['above'] < ON_HULL).sum():,} of them on or below the hull"
    lowest = f", the lowest at {style.say(float(made['above'].min()))} eV/atom above it" if len(made) else ""
    return f"{text}{lowest}.", notes


def _phases(entry: Mapping[str, Any], symbols: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """A row each: the fraction of every element, ``energy``, ``above`` and ``name``; and how many were left out."""
    import pandas as pd

    energy, given = style.numbers(entry.get("energy")), entry.get("composition")
    rows = [style.numbers(c) for c in (given if given is not None else [])]
    above = (
        style.numbers(entry["e_above_hull"]) if entry.get("e_above_hull") is not None else np.full(len(energy), np.nan)
    )
    names = [str(n) for n in entry.get("name") or [""] * len(energy)]
    style.same_length(composition=rows, energy=energy, e_above_hull=above, name=names)
    wrong = [len(r) for r in rows if len(r) != len(symbols)]
    if wrong:
        raise RequestError(f"a composition has {wrong[0]} amounts; give one for each of the {len(symbols)} elements")
    amounts = np.array(rows).reshape(-1, len(symbols))
    with np.errstate(invalid="ignore", divide="ignore"):
        fractions = amounts / amounts.sum(axis=1, keepdims=True)
    good = np.isfinite(fractions).all(axis=1) & (amounts >= 0).all(axis=1) & np.isfinite(energy)
    frame = pd.DataFrame(fractions, columns=list(symbols)).assign(energy=energy, above=above, name=names)
    return frame[good].reset_index(drop=True), int((~good).sum())


def _composition(fractions: Mapping[Any, float]) -> Any:
    from pymatgen.core import Composition

    return Composition({str(e): x for e, x in fractions.items()})


def _diagram(known: pd.DataFrame, symbols: Sequence[str]) -> Any:
    """pymatgen's phase diagram of the references; an element that has no entry is one with energy 0."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Element

    compositions = [_composition(row) for row in known[symbols].to_dict("records")]
    entries = [PDEntry(c, e) for c, e in zip(compositions, known["energy"], strict=True)]
    entries += [PDEntry(_composition({e: 1.0}), 0.0) for e in symbols if not (known[e] > 1 - 1e-9).any()]
    return PhaseDiagram(entries, elements=[Element(e) for e in symbols])


def _binary(figure: Figure, symbols: Sequence[str], diagram: Any, known: pd.DataFrame, made: pd.DataFrame) -> list[str]:
    axes = figure.add_subplot(xlabel=style.plain(f"Fraction of {symbols[1]} in {'-'.join(symbols)}"))
    axes.set_ylabel("Formation energy (eV/atom)")
    corners = [diagram.qhull_entries[i] for i in sorted({i for facet in diagram.facets for i in facet})]
    line = sorted((float(e.composition.get_atomic_fraction(symbols[1])), float(e.energy_per_atom)) for e in corners)
    axes.plot(*zip(*line, strict=True), color=INK, linewidth=1.5, label="convex hull", zorder=2)
    _references(axes, known[symbols[1]], known["energy"], known["stable"])
    x, y = made[symbols[1]], made["energy"]
    if len(made):
        how: dict[str, Any] = {"s": 24, "alpha": 0.75, "linewidths": 0, "zorder": 4, "rasterized": len(made) > 400}
        axes.scatter(x, y, color=COLOURS[1], label=f"generated (n = {len(made):,})", **how)
    bottom = min(e for _, e in line)
    low, high = style.padded(*style.robust_limits(np.concatenate([known["energy"], [e for _, e in line], y])), 0.08)
    low = min(low, bottom - 0.12 * (high - bottom))
    axes.set(ylim=(low, high), xlim=(-0.04, 1.04))
    _names(axes, known[symbols[1]], known["energy"], known["name"].where(known["stable"], ""), below=True)
    style.legend(axes)
    outside = int(((y < low) | (y > high)).sum())
    return [f"Generated points outside the axis: {outside:,}." if outside else ""]


def _ternary(
    figure: Figure, symbols: Sequence[str], diagram: Any, known: pd.DataFrame, made: pd.DataFrame
) -> list[str]:
    figure.set_size_inches(5.8, 4.9)
    axes = figure.add_subplot(aspect="equal", xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)

    def place(fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gibbs triangle: first element at the lower left, second at the lower right, third at the top."""
        return fractions[:, 1] + 0.5 * fractions[:, 2], HEIGHT * fractions[:, 2]

    axes.plot([0, 1, 0.5, 0], [0, 0, HEIGHT, 0], color=GREY, linewidth=1)
    for pair in sorted({tuple(sorted(pair)) for facet in diagram.facets for pair in combinations(facet, 2)}):
        ends = [[diagram.qhull_entries[i].composition.get_atomic_fraction(e) for e in symbols] for i in pair]
        axes.plot(*place(np.array(ends)), color=INK, linewidth=0.9, zorder=2)
    x, y = place(known[symbols].to_numpy())
    _references(axes, x, y, known["stable"])
    outside = 0
    if len(made):
        top = max(float(made["above"].quantile(0.95)), 0.05)
        outside = int((made["above"] > top).sum())
        last = made.sort_values("above", ascending=False, kind="stable")  # the lowest are drawn last, on top
        across, up = place(last[symbols].to_numpy())
        scale: dict[str, Any] = {"vmin": min(0.0, made["above"].min()), "vmax": top, "cmap": "viridis_r"}
        how: dict[str, Any] = {"s": 34, "edgecolors": "white", "linewidths": 0.5, "rasterized": len(made) > 400}
        label = f"generated (n = {len(made):,})"
        marks = axes.scatter(across, up, c=last["above"], label=label, zorder=4, **scale, **how)
        bar: dict[str, Any] = {"shrink": 0.75, "extend": "max" if outside else "neither"}
        figure.colorbar(marks, ax=axes, label="Energy above hull (eV/atom)", **bar)
    corners = ((0, -0.03, "right", "top"), (1, -0.03, "left", "top"), (0.5, HEIGHT + 0.03, "center", "bottom"))
    for symbol, (right, above, side, edge) in zip(symbols, corners, strict=True):
        axes.text(right, above, style.plain(symbol), ha=side, va=edge, fontweight="bold")
    axes.set(xlim=(-0.08, 1.08), ylim=(-0.1, HEIGHT + 0.1))
    named = known["stable"] & (known[symbols].max(axis=1) < 1 - 1e-9)
    _names(axes, x, y, known["name"].where(named, ""), below=False)
    style.legend(axes)
    return [f"Points above the colour scale, in its last colour: {outside:,}." if outside else ""]


def _references(axes: Axes, x: Any, y: Any, stable: pd.Series) -> None:
    """Squares, filled where the phase is stable."""
    x, y = np.asarray(x), np.asarray(y)
    hollow: dict[str, Any] = {"s": 20, "facecolors": "none", "edgecolors": GREY, "label": "reference"}
    for chosen, how in ((~stable, hollow), (stable, {"s": 26, "color": INK, "label": "reference, stable"})):
        if chosen.any():
            axes.scatter(x[chosen], y[chosen], marker="s", zorder=3, linewidths=0.9, **how)


def _names(axes: Axes, xs: Any, ys: Any, names: Any, *, below: bool) -> None:
    """Names beside phases; one that would lie on another is left out."""
    from matplotlib.patheffects import withStroke

    taken: list[tuple[float, float, float]] = []
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    for x, y, name in sorted(set(zip(xs, ys, names, strict=True)), key=lambda p: (p[1], p[0], p[2])):
        across, up, width = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0), 0.02 * len(name) + 0.01
        if not name or any(abs(across - a) <= (width + w) / 2 and abs(up - b) <= 0.06 for a, b, w in taken):
            continue
        taken.append((across, up, width))
        side = "left" if across < width / 2 else "right" if across > 1 - width / 2 else "center"
        how: dict[str, Any] = {"ha": side, "va": "top" if below else "bottom", "fontsize": 8, "zorder": 6}
        outline = [withStroke(linewidth=2.5, foreground="white")]  # readable where a line or a mark lies under it
        axes.annotate(
            style.plain(name), (x, y), (0, -6 if below else 5), textcoords="offset points", path_effects=outline, **how
        )
