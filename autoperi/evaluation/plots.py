"""Parity plot, histograms, curves and bars: each draws one series entry on a figure and says in words what it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autoperi.errors import RequestError
from autoperi.evaluation.style import (
    COLOURS,
    GREY,
    INK,
    LINES,
    MARKERS,
    NoDataError,
    axis_label,
    legend,
    log_axis,
    number,
    numbers,
    padded,
    plain,
    robust_limits,
    same_length,
    say,
    table,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEXAGONS_FROM = 2000  # points; beyond it single marks hide their number
MANY = 24  # categories that still fit side by side
MOST_BARS = 60
MOST_BINS = 50
SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "rhombohedral", "hexagonal", "cubic")


class Drawn(NamedTuple):
    """What a figure shows, in words (for readers who cannot see it), and remarks that belong under it."""

    text: str
    notes: list[str]


def parity(figure: Figure, entry: Mapping[str, Any]) -> Drawn:
    """Predicted against reference with MAE, R² = 1 - SS_res/SS_tot and n; hexagonal bins above 2,000 points."""
    x, y = numbers(entry.get("x")), numbers(entry.get("y"))
    same_length(x=x, y=y)
    good = np.isfinite(x) & np.isfinite(y)
    notes = [_left_out(int((~good).sum()))]
    x, y = x[good], y[good]
    if not len(x):
        raise NoDataError("no pair of finite values")
    unit = entry.get("unit")
    mae = float(np.abs(x - y).mean())
    total = float(((x - x.mean()) ** 2).sum())
    r2 = 1 - float(((x - y) ** 2).sum()) / total if total > 0 and len(x) > 1 else None
    low, high = padded(*robust_limits(np.concatenate([x, y])))
    outside = int(((x < low) | (x > high) | (y < low) | (y > high)).sum())
    notes.append(f"Outside the axes, but in MAE and R²: {outside:,}." if outside else "")
    figure.set_size_inches(5.2, 4.9)
    axes = figure.add_subplot()
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=1 if len(x) <= HEXAGONS_FROM else 3)
    if len(x) > HEXAGONS_FROM:
        axes.grid(visible=False)
        inside = (x >= low) & (x <= high) & (y >= low) & (y <= high)
        bins = axes.hexbin(
            x[inside],
            y[inside],
            gridsize=45,
            extent=(low, high, low, high),
            bins="log",
            mincnt=1,
            cmap="viridis_r",
            linewidths=0.1,
        )
        figure.colorbar(bins, ax=axes, label="Points in a hexagon", shrink=0.8)
    else:
        size = 22 if len(x) < 200 else 10
        axes.scatter(
            x, y, s=size, color=COLOURS[0], alpha=0.8 if len(x) < 200 else 0.45, linewidths=0, rasterized=len(x) > 400
        )
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(axis_label(entry.get("x_label") or "Reference", unit))
    axes.set_ylabel(axis_label(entry.get("y_label") or "Predicted", unit))
    facts = f"MAE {with_unit(mae, unit)}, R² {'not defined' if r2 is None else say(r2)}, n = {len(x):,}"
    legend(axes, facts)
    return Drawn(
        f"{entry.get('y_label') or 'Predicted'} against {entry.get('x_label') or 'reference'}: {facts}.", notes
    )


def histogram(figure: Figure, entry: Mapping[str, Any]) -> Drawn:
    """Shares of each set, in common bins or for each category, with the distance that was passed in."""
    sets = table(entry, "sets")
    if not 0 <= len(sets) <= 4:
        raise RequestError(f"{len(sets)} sets; give at most 4")
    distance = number(entry.get("distance"))
    head = (
        f"{entry.get('distance_label') or 'Wasserstein distance'} {with_unit(distance, entry.get('unit'))}"
        if distance == distance
        else ""
    )
    drawn = (_discrete if entry.get("discrete") else _continuous)(figure, entry, sets, head)
    return Drawn((head + ". " if head else "") + drawn.text, drawn.notes)


def _continuous(figure: Figure, entry: Mapping[str, Any], sets: Mapping[str, Any], head: str) -> Drawn:
    arrays = {k: numbers(v) for k, v in sets.items()}
    lost = sum(int((~np.isfinite(a)).sum()) for a in arrays.values())
    arrays = {k: a[np.isfinite(a)] for k, a in arrays.items()}
    pooled = np.concatenate([a for a in arrays.values() if len(a)] or [np.zeros(0)])
    if not len(pooled):
        raise NoDataError("no finite value in any set")
    low, high = robust_limits(pooled, spread=2.0)
    if (
        high > low and _wanted(pooled[(pooled >= low) & (pooled <= high)]) > 3 * MOST_BINS
    ):  # a long tail hides where most values are
        low, high = robust_limits(pooled, spread=2.0, central=0.95)
    outside = int(((pooled < low) | (pooled > high)).sum())
    edges = np.linspace(
        *(low, high) if high > low else padded(low, high), _bins(pooled[(pooled >= low) & (pooled <= high)]) + 1
    )
    notes = [_left_out(lost), f"Beyond the axis, counted in its outermost bins: {outside:,}." if outside else ""]
    axes = figure.add_subplot()
    _steps(axes, arrays, edges, entry)
    axes.set_xlabel(axis_label(entry.get("x_label"), entry.get("unit")))
    axes.set_xlim(*padded(edges[0], edges[-1], 0.02))
    legend(axes, head)
    words = [_summary(k, a, entry.get("unit")) for k, a in arrays.items()]
    return Drawn("; ".join(words) + ".", notes)


def _steps(
    axes: Axes, arrays: Mapping[str, np.ndarray], edges: np.ndarray, entry: Mapping[str, Any], means: bool = False
) -> None:
    for i, (name, array) in enumerate(arrays.items()):
        counts = np.histogram(np.clip(array, edges[0], edges[-1]), edges)[0] / max(len(array), 1)
        mean = f"mean {with_unit(float(array.mean()), entry.get('unit'))}, " if means and len(array) else ""
        words = plain(f"{name} ({mean}n = {len(array):,})")
        if i == 0:
            axes.stairs(counts, edges, fill=True, color=COLOURS[0], alpha=0.55, label=words)
        else:
            axes.stairs(counts, edges, color=COLOURS[i], linewidth=1.8, linestyle=LINES[i - 1], label=words)
        if mean and (at := float(array.mean())) >= edges[0]:
            axes.axvline(min(at, edges[-1]), color=COLOURS[i], linewidth=1.4, linestyle=(0, (1, 1)))
    axes.set_ylabel("Share in each bin")
    axes.set_ylim(0, None)


def _wanted(values: np.ndarray) -> float:
    """Freedman and Diaconis' number of bins: widths of twice the interquartile range over the cube root of n; 24 where
    that is 0.
    """
    quartiles = np.quantile(values, [0.25, 0.75])
    width = 2 * float(quartiles[1] - quartiles[0]) / len(values) ** (1 / 3)
    return float(values.max() - values.min()) / width if width > 0 else 24


def _bins(values: np.ndarray) -> int:
    """Number of bins, kept between 12 and 50; one for a single value."""
    return int(np.clip(_wanted(values), 12, MOST_BINS)) if len(values) and values.max() > values.min() else 1


def _summary(name: str, array: np.ndarray, unit: object) -> str:
    return f"{name}: n = {len(array):,}" + (
        f", median {with_unit(float(np.median(array)), unit)}" if len(array) else ""
    )


def _discrete(figure: Figure, entry: Mapping[str, Any], sets: Mapping[str, Any], head: str) -> Drawn:
    counts, lost = {}, 0
    for name, values in sets.items():
        counts[name], missing = _count(values)
        lost += missing
    present = {c for count in counts.values() for c in count}
    if not sum(sum(c.values()) for c in counts.values()):
        raise NoDataError("no value in any set")
    wanted = [_category(c) for c in entry.get("categories") or []]
    order = [*dict.fromkeys(wanted), *sorted(present - set(wanted), key=_order)]
    share = {n: {c: count.get(c, 0) / max(sum(count.values()), 1) for c in order} for n, count in counts.items()}
    label = {n: plain(f"{n} (n = {sum(c.values()):,.0f})") for n, c in counts.items()}
    axes = figure.add_subplot()
    axes.set_xlabel(axis_label(entry.get("x_label"), entry.get("unit")))
    axes.set_ylabel("Share")
    notes = [_left_out(lost)]
    if len(order) > MANY and len(sets) <= 2 and all(isinstance(c, float) for c in order):
        _mirrored(axes, share, label)
    else:
        if len(order) > MANY:
            top = sorted(order, key=lambda c: -max(s[c] for s in share.values()))[: MANY - 1]
            rest = [c for c in order if c not in top]
            order = [c for c in order if c in top]
            share = {n: {c: s[c] for c in order} | {"other": sum(s[c] for c in rest)} for n, s in share.items()}
            notes.append(f"Categories under “other”: {len(rest):,}.")
        _grouped(axes, share, label)
    legend(axes, head)
    words = []
    for name, count in counts.items():
        best = sorted(((v, _name(c)) for c, v in share[name].items() if v), key=lambda p: (-p[0], p[1]))[:3]
        words.append(
            f"{name}: n = {sum(count.values()):,.0f}"
            + (", most often " if best else "")
            + ", ".join(f"{c} ({v:.1%})" for v, c in best)
        )
    return Drawn("; ".join(words) + ".", notes)


def _grouped(axes: Axes, share: Mapping[str, Mapping[Any, float]], label: Mapping[str, str]) -> None:
    names = [_name(c) for c in next(iter(share.values()))]
    width = 0.8 / len(share)
    for i, (name, values) in enumerate(share.items()):
        at = np.arange(len(names)) + (i - (len(share) - 1) / 2) * width
        axes.bar(
            at,
            list(values.values()),
            width * 0.94,
            color=COLOURS[i],
            label=label[name],
            hatch=("", "///", "...", "xxx")[i],
            edgecolor="white",
            linewidth=0,
        )
    slanted = sum(len(n) + 2 for n in names) > 62
    axes.set_xticks(
        range(len(names)),
        [plain(n) for n in names],
        rotation=40 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.6, len(names) - 0.4)


def _mirrored(axes: Axes, share: Mapping[str, Mapping[Any, float]], label: Mapping[str, str]) -> None:
    """The second set downwards: with up to 230 space groups, neighbouring bars could not be told apart."""
    for i, (name, values) in enumerate(share.items()):
        sign = 1 - 2 * i
        axes.vlines(
            [float(c) for c in values],
            0,
            [sign * v for v in values.values()],
            color=COLOURS[i],
            linewidth=1.8,
            label=label[name],
        )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.yaxis.set_major_formatter(lambda v, _: f"{abs(v):.3g}")
    axes.margins(x=0.02)


def _count(values: Any) -> tuple[Counter[Any], int]:
    if isinstance(values, Mapping):
        found: Counter[Any] = Counter()
        for key, count in values.items():
            if not (amount := number(count)) >= 0:
                raise RequestError(f"the count of {key!r} is {count!r}; give a number of crystals, 0 or more")
            found[_category(key)] += amount  # type: ignore[assignment]
        return found, 0
    every = [_category(v) for v in (values if values is not None else [])]
    kept = [v for v in every if v is not None]
    return Counter(kept), len(every) - len(kept)


def _category(value: Any) -> float | str | None:
    """A number as a float (also "225", as JSON writes the key of a dict), a word as it is, None for NaN."""
    if value is None:
        return None
    try:
        as_number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return as_number if abs(as_number) < 1e15 else None


def _order(category: Any) -> tuple[int, float, str]:
    if isinstance(category, float):
        return (0, category, "")
    return (1, SYSTEMS.index(category), "") if category in SYSTEMS else (2, 0, str(category))


def _name(category: Any) -> str:
    return f"{category:g}" if isinstance(category, float) else str(category)


def errors(figure: Figure, entry: Mapping[str, Any]) -> Drawn:
    """Absolute errors of each set in common bins, with the mean of each."""
    arrays = {k: numbers(v) for k, v in table(entry, "sets").items()}
    if len(arrays) > 4:
        raise RequestError(f"{len(arrays)} sets; give at most 4")
    lost = sum(int((~np.isfinite(a)).sum()) for a in arrays.values())
    arrays = {k: np.abs(a[np.isfinite(a)]) for k, a in arrays.items()}
    pooled = np.concatenate([a for a in arrays.values() if len(a)] or [np.zeros(0)])
    if not len(pooled):
        raise NoDataError("no finite error in any set")
    notes = [_left_out(lost)]
    positive = pooled[pooled > 0]
    log = bool(entry.get("log")) and len(positive) > 0
    if log:
        low = max(float(np.quantile(positive, 0.005)), float(positive.max()) * 1e-12)
        high = max(float(positive.max()), low * 1.0001)
        edges = np.geomspace(low / 1.1, high * 1.1, 36)
        below = int((pooled < edges[0]).sum())
        notes.append(f"Smaller errors and zeros, counted in the first bin: {below:,}." if below else "")
    else:
        low, high = robust_limits(pooled, spread=2.0)
        edges = np.linspace(0, high if high > 0 else 1, 36)
        above = int((pooled > edges[-1]).sum())
        notes.append(f"Larger errors, counted in the last bin: {above:,}." if above else "")
    axes = figure.add_subplot()
    _steps(axes, arrays, edges, entry, means=True)
    if log:
        log_axis(axes, "x")
    axes.set_xlabel(axis_label(entry.get("x_label") or "Absolute error", entry.get("unit")))
    legend(axes, "Dotted: mean")
    unit = entry.get("unit")
    words = [
        f"{k}: n = {len(a):,}"
        + (
            f", mean {with_unit(float(a.mean()), unit)}, median {with_unit(float(np.median(a)), unit)}"
            if len(a)
            else ""
        )
        for k, a in arrays.items()
    ]
    return Drawn("; ".join(words) + ".", notes)


def curve(figure: Figure, entry: Mapping[str, Any]) -> Drawn:
    """Lines with marks, bands where ``low`` and ``high`` are given, dashed horizontal references."""
    axes = figure.add_subplot()
    lost, words, every, whole = 0, [], [], True
    logs = bool(entry.get("x_log")), bool(entry.get("y_log"))
    for i, (name, each) in enumerate(table(entry, "curves").items()):
        if not isinstance(each, Mapping):
            raise RequestError(f"curve {name!r} is {type(each).__name__}; give a dict with x and y")
        x, y = numbers(each.get("x")), numbers(each.get("y"))
        same_length(x=x, y=y)
        good = np.isfinite(x) & np.isfinite(y) & ((x > 0) | (not logs[0])) & ((y > 0) | (not logs[1]))
        lost += int((~good).sum())
        order = np.argsort(x[good], kind="stable")
        xs, ys = x[good][order], y[good][order]
        words.append(
            f"{name}: "
            + (
                f"{len(xs)} points, from {say(ys[0])} at {say(xs[0])} to {say(ys[-1])} at {say(xs[-1])}"
                if len(xs)
                else "no value"
            )
        )
        if not len(xs):
            continue
        every.append(ys)
        whole = whole and bool((xs == np.round(xs)).all())
        colour = COLOURS[i % len(COLOURS)]
        marker = MARKERS[i % len(MARKERS)] if len(xs) <= 30 else ""
        axes.plot(
            xs,
            ys,
            color=colour,
            linestyle=LINES[i % len(LINES)],
            marker=marker,
            markersize=4.5,
            linewidth=1.8,
            label=plain(name),
        )
        if each.get("low") is not None and each.get("high") is not None:
            low, high = numbers(each["low"]), numbers(each["high"])
            same_length(x=x, low=low, high=high)
            axes.fill_between(xs, low[good][order], high[good][order], color=colour, alpha=0.18, linewidth=0)
    if not every:
        raise NoDataError("no point with a finite value" if lost else "no points")
    for i, (name, value) in enumerate(table(entry, "lines").items()):
        height = number(value)
        if np.isfinite(height) and (height > 0 or not logs[1]):
            axes.axhline(
                height, color=INK, linestyle=(0, (4 + 3 * i, 2)), linewidth=1.1, label=plain(f"{name} ({say(height)})")
            )
            words.append(f"{name}: {say(height)}")
    for which in (name for name, wanted in zip("xy", logs, strict=True) if wanted):
        log_axis(axes, which)
    if whole and not logs[0]:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no 2.5th candidate
    if entry.get("share") and not logs[1]:
        axes.set_ylim(-0.02, 1.02)
    elif not logs[1] and min(float(y.min()) for y in every) >= 0:
        axes.set_ylim(bottom=0)  # a distance or a rate drawn from its zero is not made to look steeper than it is
    axes.set_xlabel(axis_label(entry.get("x_label"), entry.get("x_unit")))
    axes.set_ylabel(axis_label(entry.get("y_label"), entry.get("y_unit")))
    legend(axes)
    return Drawn("; ".join(words) + ".", [_left_out(lost, logs)])


def bars(figure: Figure, entry: Mapping[str, Any]) -> Drawn:
    """Horizontal bars, each with its number, its counts or the reason why there is none, in a column beside them."""
    every = table(entry, "bars")
    if not every:
        raise NoDataError("no bars")
    items = list(every.items())[:MOST_BARS]
    share = entry.get("share", True)
    values = [number(v) for _, v in items]
    names = [plain(k, 34) for k, _ in items]
    texts = [_counts(v, entry.get("unit")) for _, v in items]
    axes = figure.add_subplot()
    figure.set_size_inches(
        6.4,
        1.3 + 0.19 * sum(max(1.6, n.count("\n") + 1.4, t.count("\n") + 1.4) for n, t in zip(names, texts, strict=True)),
    )
    at = np.arange(len(items))
    axes.barh(at, np.nan_to_num(values), 0.62, color=COLOURS[0])
    if share:
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1])
    axes.axvline(0, color=GREY, linewidth=0.8)
    for y, value, text in zip(at, values, texts, strict=True):
        axes.text(
            1.04,
            float(y),
            text,
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=INK if np.isfinite(value) else GREY,
        )
    axes.set_yticks(at, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(len(items) - 0.4, -0.6)
    axes.set_xlabel(axis_label(entry.get("x_label"), entry.get("unit")))
    words = [f"{k}: {t}".replace("\n", " ") for (k, _), t in zip(items, texts, strict=True)]
    return Drawn(
        "; ".join(words) + ".",
        [f"The first {MOST_BARS} of {len(every):,} are drawn." if len(every) > MOST_BARS else ""],
    )


def _counts(value: Any, unit: object) -> str:
    shown = number(value)
    told = value if isinstance(value, Mapping) else {}
    if not np.isfinite(shown):
        return plain(f"no value: {told.get('reason') or 'unknown'}", 34)
    parts: Sequence[str] = []
    if isinstance(told.get("of"), int):
        parts = [
            f"{told['count']:,} of {told['of']:,}" if isinstance(told.get("count"), int) else f"n = {told['of']:,}"
        ]
        if isinstance(told.get("missing"), int) and told["missing"]:
            parts = [*parts, f"{told['missing']:,} missing"]
    return plain(with_unit(shown, unit) + (f" ({', '.join(parts)})" if parts else ""), 36)


def _left_out(count: int, logs: Sequence[bool] = ()) -> str:
    return f"Left out, no finite {'positive ' if any(logs) else ''}value: {count:,}." if count else ""
