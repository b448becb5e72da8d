"""Convex hull diagrams of two and three elements, and phonon bands beside their density of states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.errors import RequestError
from autoperi.evaluation.plots import Drawn
from autoperi.evaluation.style import (
    COLOURS,
    GREY,
    INK,
    NoDataError,
    axis_label,
    legend,
    numbers,
    padded,
    plain,
    robust_limits,
    same_length,
    say,
    table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ON_HULL = 1e-6  # eV/atom: an entry this close to the hull is on it
HEIGHT = float(np.sqrt(3) / 2)  # of a triangle of side 1


class Lower:
    """Lower convex hull of formation energies over a composition of d = 2 or 3 elements.

    A stable phase is a corner of the lower hull of (composition, energy) points; the energy of the hull at a
    composition is the largest of the planes through the lower facets, because the hull is convex.
    """

    def __init__(self, fractions: np.ndarray, energy: np.ndarray) -> None:
        from scipy.spatial import ConvexHull

        d = fractions.shape[1]
        corners = np.eye(d)
        lacking = [i for i in range(d) if not np.any(np.abs(fractions - corners[i]).max(axis=1, initial=0) < 1e-9)]
        self.fractions = np.concatenate([fractions, corners[lacking]])
        self.energy = np.concatenate([energy, np.zeros(len(lacking))])
        # a point above everything keeps the set from being flat where no entry is stable; no lower facet contains it
        top = np.append(np.full(d - 1, 1 / d), self.energy.max() + 1)
        hull = ConvexHull(np.vstack([np.column_stack([self.fractions[:, 1:], self.energy]), top]))
        lower = (hull.equations[:, -2] < -1e-9) & (hull.simplices != len(self.energy)).all(axis=1)
        self.planes, self.facets = hull.equations[lower], hull.simplices[lower]

    def above(self, fractions: np.ndarray, energy: np.ndarray) -> np.ndarray:
        """Energy above the hull (n,) in eV/atom of points (n, d)."""
        normal, offset = self.planes[:, :-1], self.planes[:, -1]
        heights = -(fractions[:, 1:] @ normal[:, :-1].T + offset) / normal[:, -1]
        return energy - heights.max(axis=1)

    def edges(self) -> list[tuple[int, int]]:
        """Pairs of corners joined by the hull; the lines that only split a flat facet into simplices are left out."""
        owners: dict[tuple[int, int], list[np.ndarray]] = {}
        for facet, plane in zip(self.facets, self.planes, strict=True):
            for i in range(len(facet)):
                for j in range(i):
                    owners.setdefault((min(facet[i], facet[j]), max(facet[i], facet[j])), []).append(plane)
        return sorted(e for e, p in owners.items() if len(p) == 1 or np.abs(p[0] - p[1]).max() > 1e-7)


def hull(figure: Figure, entry: Mapping[str, Any]) -> Drawn:
    """Binary: energy against composition with the hull. Ternary: the Gibbs triangle, coloured by the energy above the
    hull.
    """
    elements = [str(e) for e in entry.get("elements") or []]
    if len(elements) not in (2, 3):
        raise RequestError(f"elements={elements}; give two or three, a hull of more cannot be drawn")
    reference, points = (
        _phases(table(entry, "reference"), len(elements)),
        _phases(table(entry, "points"), len(elements)),
    )
    if not len(reference.energy) and not len(points.energy):
        raise NoDataError("no reference entry and no point")
    lower = Lower(reference.fractions, reference.energy)
    stable = lower.above(reference.fractions, reference.energy) < ON_HULL
    above = (
        np.where(np.isfinite(points.above), points.above, lower.above(points.fractions, points.energy))
        if len(points.energy)
        else points.above
    )
    parts = figure, elements, lower, reference, stable, points
    notes = _binary(*parts) if len(elements) == 2 else _ternary(*parts, above)
    lost = reference.lost + points.lost
    notes.append(f"Left out, no composition or no energy: {lost:,}." if lost else "")
    low = int((above < ON_HULL).sum())
    text = f"Convex hull of {'-'.join(elements)}: {len(reference.energy):,} reference entries, {int(stable.sum()):,} of them stable; "
    text += f"{len(points.energy):,} generated points, {low:,} of them on or below the hull"
    return Drawn(text + (f", the lowest at {say(float(above.min()))} eV/atom above it." if len(above) else "."), notes)


class _phases:  # noqa: N801
    """Entries as arrays: fractions (n, d), energy (n,), above (n,), names, and how many were left out."""

    def __init__(self, entry: Mapping[str, Any], d: int) -> None:
        energy = numbers(entry.get("energy"))
        rows = [numbers(c) for c in _list(entry.get("composition"))]
        above = (
            numbers(entry.get("e_above_hull"))
            if entry.get("e_above_hull") is not None
            else np.full(len(energy), np.nan)
        )
        names = [str(n) for n in entry.get("name") or [""] * len(energy)]
        same_length(composition=rows, energy=energy, e_above_hull=above, name=names)
        if any(len(r) != d for r in rows):
            raise RequestError(
                f"a composition has {next(len(r) for r in rows if len(r) != d)} amounts; give one for each of the {d} "
                "elements"
            )
        amounts = np.array(rows).reshape(-1, d)
        with np.errstate(invalid="ignore", divide="ignore"):
            fractions = amounts / amounts.sum(axis=1, keepdims=True)
        good = np.isfinite(fractions).all(axis=1) & (amounts >= 0).all(axis=1) & np.isfinite(energy)
        self.fractions, self.energy, self.above = fractions[good], energy[good], above[good]
        self.names = [n for n, ok in zip(names, good, strict=True) if ok]
        self.lost = int((~good).sum())


def _binary(
    figure: Figure, elements: list[str], lower: Lower, reference: _phases, stable: np.ndarray, points: _phases
) -> list[str]:
    axes = figure.add_subplot()
    corners = np.unique(lower.facets)
    corners = corners[np.argsort(lower.fractions[corners, 1], kind="stable")]
    axes.plot(
        lower.fractions[corners, 1], lower.energy[corners], color=INK, linewidth=1.5, label="convex hull", zorder=2
    )
    known: dict[str, Any] = {"zorder": 3, "linewidths": 0.9}
    if (~stable).any():
        axes.scatter(
            reference.fractions[~stable, 1],
            reference.energy[~stable],
            s=20,
            marker="s",
            facecolors="none",
            edgecolors=GREY,
            label="reference",
            **known,
        )
    if stable.any():
        axes.scatter(
            reference.fractions[stable, 1],
            reference.energy[stable],
            s=26,
            marker="s",
            color=INK,
            label="reference, stable",
            **known,
        )
    if len(points.energy):
        x, y = points.fractions[:, 1], points.energy
        axes.scatter(
            x,
            y,
            s=24,
            color=COLOURS[1],
            alpha=0.75,
            linewidths=0,
            label=f"generated (n = {len(y):,})",
            zorder=4,
            rasterized=len(y) > 400,
        )
    every = np.concatenate([lower.energy, points.energy])
    low, high = padded(*robust_limits(every), 0.08)
    bottom = float(lower.energy[corners].min())
    low = min(low, bottom - 0.12 * (high - bottom))
    axes.set_ylim(low, high)
    axes.set_xlim(-0.04, 1.04)
    outside = int(((points.energy < low) | (points.energy > high)).sum())
    axes.set_xlabel(plain(f"Fraction of {elements[1]} in {elements[0]}-{elements[1]}"))
    axes.set_ylabel("Formation energy (eV/atom)")
    at = [
        (float(x), float(y), n)
        for x, y, n, ok in zip(reference.fractions[:, 1], reference.energy, reference.names, stable, strict=True)
        if ok
    ]
    _names(axes, at, below=True)
    legend(axes)
    return [f"Generated points outside the axis: {outside:,}." if outside else ""]


def _names(axes: Axes, points: list[tuple[float, float, str]], below: bool) -> None:
    """Names beside stable phases; one that would lie on another is left out."""
    from matplotlib.patheffects import withStroke

    taken: list[tuple[float, float, float]] = []
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    for x, y, name in sorted(set(points), key=lambda p: (p[1], p[0], p[2])):
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        width = 0.02 * len(name) + 0.01
        if name and all(abs(across - a) > (width + w) / 2 or abs(up - b) > 0.06 for a, b, w in taken):
            taken.append((across, up, width))
            side = "left" if across < width / 2 else "right" if across > 1 - width / 2 else "center"
            axes.annotate(
                plain(name),
                (x, y),
                (0, -6 if below else 5),
                textcoords="offset points",
                ha=side,
                va="top" if below else "bottom",
                fontsize=8,
                zorder=6,
                path_effects=[
                    withStroke(linewidth=2.5, foreground="white")
                ],  # readable where a line or a mark lies under it
            )


def _ternary(
    figure: Figure,
    elements: list[str],
    lower: Lower,
    reference: _phases,
    stable: np.ndarray,
    points: _phases,
    above: np.ndarray,
) -> list[str]:
    figure.set_size_inches(5.8, 4.9)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    place = _triangle(lower.fractions)
    axes.plot([0, 1, 0.5, 0], [0, 0, HEIGHT, 0], color=GREY, linewidth=1)
    for a, b in lower.edges():
        axes.plot(place[[a, b], 0], place[[a, b], 1], color=INK, linewidth=0.9, zorder=2)
    spots = _triangle(reference.fractions)
    if (~stable).any():
        axes.scatter(
            spots[~stable][:, 0],
            spots[~stable][:, 1],
            s=20,
            marker="s",
            facecolors="none",
            edgecolors=GREY,
            linewidths=0.9,
            label="reference",
            zorder=3,
        )
    if stable.any():
        axes.scatter(
            spots[stable][:, 0],
            spots[stable][:, 1],
            s=30,
            marker="s",
            color=INK,
            linewidths=0,
            label="reference, stable",
            zorder=3,
        )
    outside = 0
    if len(above):
        top = max(float(np.quantile(above, 0.95)), 0.05)
        outside = int((above > top).sum())
        order = np.argsort(-above, kind="stable")  # the lowest are drawn last, on top
        x, y = _triangle(points.fractions).T
        marks = axes.scatter(
            x[order],
            y[order],
            c=above[order], vmin=min(0.0, float(above.min())), vmax=top, cmap="viridis_r", s=34, edgecolors="white", linewidths=0.5,
            label=f"generated (n = {len(above):,})", zorder=4, rasterized=len(above) > 400,
        )  # fmt: skip
        figure.colorbar(
            marks, ax=axes, label="Energy above hull (eV/atom)", shrink=0.75, extend="max" if outside else "neither"
        )
    for x, y, name, side, edge in (
        (0, -0.03, elements[0], "right", "top"),
        (1, -0.03, elements[1], "left", "top"),
        (0.5, HEIGHT + 0.03, elements[2], "center", "bottom"),
    ):
        axes.text(x, y, plain(name), ha=side, va=edge, fontweight="bold")
    axes.set_xlim(-0.08, 1.08)
    axes.set_ylim(-0.1, HEIGHT + 0.1)
    inside = reference.fractions.max(axis=1, initial=0) < 1 - 1e-9
    _names(
        axes,
        [(float(p[0]), float(p[1]), n) for p, n, ok in zip(spots, reference.names, stable & inside, strict=True) if ok],
        below=False,
    )
    legend(axes)
    return [f"Points above the colour scale, in its last colour: {outside:,}." if outside else ""]


def _triangle(fractions: np.ndarray) -> np.ndarray:
    """Gibbs triangle: first element at the lower left, second at the lower right, third at the top; (n, 3) to (n,
    2).
    """
    return np.column_stack([fractions[:, 1] + 0.5 * fractions[:, 2], HEIGHT * fractions[:, 2]])


def phonons(figure: Figure, entry: Mapping[str, Any]) -> Drawn:
    """Bands along the path, the density of states beside them on the same frequency axis; imaginary frequencies below
    zero.
    """
    bands, dos = table(entry, "bands"), table(entry, "dos")
    lines = _branches(bands)
    frequency, density = numbers(dos.get("frequency")), numbers(dos.get("density"))
    same_length(frequency=frequency, density=density)
    good = np.isfinite(frequency) & np.isfinite(density)
    frequency, density = frequency[good], density[good]
    if not lines and not len(frequency):
        raise NoDataError("no bands and no density of states")
    both = bool(lines) and len(frequency) > 0
    panels = figure.subplots(1, 2 if both else 1, sharey=True, squeeze=False, width_ratios=(3, 1) if both else None)[0]
    every = np.concatenate([*(f.ravel() for _, f in lines), frequency])
    every = every[np.isfinite(every)]
    low, high = padded(float(every.min()), float(every.max()))
    if lines:
        for x, branches in lines:
            panels[0].plot(x, branches, color=COLOURS[0], linewidth=1.2)
        ticks = [(float(t[0]), plain(t[1])) for t in bands.get("ticks") or []]
        if ticks:
            panels[0].set_xticks([t for t, _ in ticks], [n for _, n in ticks])
            panels[0].grid(visible=True, axis="x", color=GREY, linewidth=0.7)
        else:
            panels[0].set_xticks([])
        panels[0].set_xlim(min(x.min() for x, _ in lines), max(x.max() for x, _ in lines))
        panels[0].set_xlabel("Wave vector")
    if len(frequency):
        order = np.argsort(frequency, kind="stable")
        panels[-1].plot(density[order], frequency[order], color=COLOURS[0], linewidth=1.4)
        panels[-1].fill_betweenx(frequency[order], 0, density[order], color=COLOURS[0], alpha=0.2, linewidth=0)
        panels[-1].set_xlim(left=0)
        panels[-1].set_xticks([])
        panels[-1].set_xlabel("Density\nof states" if both else "Density of states")
    for axes in panels:
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_ylim(low, high)
    panels[0].set_ylabel(axis_label("Frequency", entry.get("unit") or "THz"))
    unit = entry.get("unit") or "THz"
    text = f"{sum(f.shape[1] for _, f in lines[:1])} phonon branches; " if lines else ""
    return Drawn(
        f"{text}frequencies from {say(float(every.min()))} to {say(float(every.max()))} {unit}.",
        ["Imaginary frequencies are drawn below zero." if every.min() < 0 else ""],
    )


def _list(value: Any) -> list[Any]:
    return [] if value is None else list(value)


def _branches(bands: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Segments as (distance (q,), frequencies (q, branches)); an empty segment is left out."""
    xs, frequencies = _list(bands.get("x")), _list(bands.get("frequency"))
    same_length(x=xs, frequency=frequencies)
    found = []
    for x, rows in zip(xs, frequencies, strict=True):
        along, branches = numbers(x), [numbers(r) for r in rows]
        same_length(x=along, frequency=branches)
        if len({len(b) for b in branches}) > 1:
            raise RequestError("frequency has rows of different lengths; give every branch at every wave vector")
        if len(along) and np.isfinite(values := np.array(branches)).any():
            found.append((along, values))
    return found
