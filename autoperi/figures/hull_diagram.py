"""Convex hull diagrams of two, three and four elements."""

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
CORNERS = {
    3: np.array([[0, 0], [1, 0], [0.5, HEIGHT]]),
    4: np.array([[0, 0.12], [1, 0.2], [0.62, -0.22], [0.5, 0.86]]),
}
"""Where the pure elements lie: left, right and top of the Gibbs triangle; of the tetrahedron left, right, front and
top.
"""
HIDDEN_EDGE = (0, 1)
"""Of the tetrahedron: it runs behind; of the triangle there is none."""


def hull(
    figure: Figure, *, elements: Any, reference: Any = None, points: Any = None, labels: Any = None
) -> tuple[str, list[str]]:
    """Two elements: energy against composition with the hull. Three: the Gibbs triangle, coloured by energy above hull.
    Four: the same in a tetrahedron, seen from one side.

    Args:
        figure: to draw on.
        elements: two to four.
        reference: {``composition`` (n, d) amounts or fractions, ``energy`` (n,) of formation in eV/atom, ``name``}, of
            which the names are optional. An element without an entry has energy 0.
        points: the generated crystals, in the same form; their ``e_above_hull`` is that of the hull where it is absent.
        labels: what the legend calls the references that are ``stable`` and the other ones (``reference``).

    Raises:
        RequestError: another number of elements, or lengths that differ. NoDataError: neither an entry nor a point.
    """
    symbols = [str(e) for e in elements or ()]
    if len(symbols) not in _DRAWN:
        raise RequestError(f"elements={symbols}; give two to four, a hull of more cannot be drawn")
    words = {"stable": "reference, stable", "reference": "reference"} | dict(style.table(labels, "labels"))
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
    notes = _DRAWN[len(symbols)](figure, symbols, diagram, known, made, words)
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


def _binary(
    figure: Figure,
    symbols: Sequence[str],
    diagram: Any,
    known: pd.DataFrame,
    made: pd.DataFrame,
    words: Mapping[str, str],
) -> list[str]:
    axes = figure.add_subplot(xlabel=style.plain(f"Fraction of {symbols[1]} in {'-'.join(symbols)}"))
    axes.set_ylabel("Formation energy (eV/atom)")
    corners = [diagram.qhull_entries[i] for i in sorted({i for facet in diagram.facets for i in facet})]
    line = sorted((float(e.composition.get_atomic_fraction(symbols[1])), float(e.energy_per_atom)) for e in corners)
    axes.plot(*zip(*line, strict=True), color=INK, linewidth=1.5, label="convex hull", zorder=2)
    _references(axes, known[symbols[1]], known["energy"], known["stable"], words)
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


def _simplex(
    figure: Figure,
    symbols: Sequence[str],
    diagram: Any,
    known: pd.DataFrame,
    made: pd.DataFrame,
    words: Mapping[str, str],
) -> list[str]:
    """The triangle of three elements or the tetrahedron of four, each crystal at its composition."""
    figure.set_size_inches(5.8, 4.9)
    axes = figure.add_subplot(aspect="equal", xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    corners = CORNERS[len(symbols)]

    def place(fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across, up = (fractions @ corners).T
        return across, up

    for one, other in combinations(range(len(symbols)), 2):
        behind = len(symbols) == 4 and (one, other) == HIDDEN_EDGE
        axes.plot(*corners[[one, other]].T, color=GREY, linewidth=1, linestyle=":" if behind else "-", zorder=1)
    lines = sorted({tuple(sorted(pair)) for facet in diagram.facets for pair in combinations(facet, 2)})
    for pair in lines:
        ends = [[diagram.qhull_entries[i].composition.get_atomic_fraction(e) for e in symbols] for i in pair]
        thin = len(symbols) == 4
        axes.plot(*place(np.array(ends)), color=GREY if thin else INK, linewidth=0.5 if thin else 0.9, zorder=2)
    x, y = place(known[symbols].to_numpy())
    _references(axes, x, y, known["stable"], words)
    outside = 0
    if len(made):
        top = max(float(made["above"].quantile(0.95)), 0.05)
        outside = int((made["above"] > top).sum())
        last = made.sort_values("above", ascending=False, kind="stable")  # the lowest are drawn last, on top
        across, up = place(last[symbols].to_numpy())
        scale: dict[str, Any] = {"vmin": min(0.0, made["above"].min()), "vmax": top, "cmap": "viridis_r"}
        size = 34 if len(symbols) == 3 else 22
        how: dict[str, Any] = {"s": size, "edgecolors": "white", "linewidths": 0.5, "rasterized": len(made) > 400}
        label = f"generated (n = {len(made):,})"
        marks = axes.scatter(across, up, c=last["above"], label=label, zorder=4, **scale, **how)
        bar: dict[str, Any] = {"shrink": 0.75, "extend": "max" if outside else "neither"}
        figure.colorbar(marks, ax=axes, label="Energy above hull (eV/atom)", **bar)
    middle = corners.mean(axis=0)
    for symbol, corner in zip(symbols, corners, strict=True):
        right, above = np.sign(np.round(corner - middle, 2))
        side = {-1: "right", 0: "center", 1: "left"}[int(right)]
        edge = "top" if above < 0 else "bottom"
        axes.text(corner[0], corner[1] + 0.03 * above, style.plain(symbol), ha=side, va=edge, fontweight="bold")
    (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
    axes.set(xlim=(left - 0.08, right + 0.08), ylim=(low - 0.1, high + 0.1))
    named = known["stable"] & (known[symbols].max(axis=1) < 1 - 1e-9)
    _names(axes, x, y, known["name"].where(named, ""), below=False)
    style.legend(axes)
    return [f"Points above the colour scale, in its last colour: {outside:,}." if outside else ""]


def _references(axes: Axes, x: Any, y: Any, stable: pd.Series, words: Mapping[str, str]) -> None:
    """Squares, filled where the phase is stable."""
    x, y = np.asarray(x), np.asarray(y)
    hollow: dict[str, Any] = {"s": 20, "facecolors": "none", "edgecolors": GREY, "label": words["reference"]}
    for chosen, how in ((~stable, hollow), (stable, {"s": 26, "color": INK, "label": words["stable"]})):
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


_DRAWN = {2: _binary, 3: _simplex, 4: _simplex}
"""What draws a hull, by its number of elements."""
