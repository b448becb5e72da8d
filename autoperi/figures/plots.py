"""Parity plot, histograms, curves and bars: a matplotlib function each.

Numbers may be lists, arrays, quantities (:func:`autoperi.metrics.counts.quantity`) and None; what is None, NaN,
infinite or beyond 1e100 is left out, and the figure says how many that were. Every function draws on an empty figure
and returns what it shows in words, for readers who cannot see it, and remarks that belong under it (empty ones count
for nothing). NoDataError says why there is nothing to draw, RequestError what is not as described.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from autoperi.errors import RequestError
from autoperi.figures import style
from autoperi.figures.style import COLOURS, GREY, INK, LINES, MARKERS, NoDataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn: TypeAlias = tuple[str, list[str]]
"""What a figure shows, in words, and remarks that belong under it."""
HEXAGONS_FROM = 2000  # points; beyond it single marks hide their number
MANY = 24  # categories that still fit side by side
MOST_BARS = 60
MOST_BINS = 50
SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "rhombohedral", "hexagonal", "cubic")


def parity(
    figure: Figure, *, x: Any, y: Any, x_label: str = "Reference", y_label: str = "Predicted", unit: str = ""
) -> Drawn:
    """Predicted ``y`` against reference ``x`` with MAE, R² = 1 - SS_res/SS_tot and n; hexagons above 2,000 points."""
    x, y = style.numbers(x), style.numbers(y)
    style.same_length(x=x, y=y)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    if not len(x):
        raise NoDataError("no pair of finite values")
    total = float(((x - x.mean()) ** 2).sum())
    r2 = style.say(1 - float(((x - y) ** 2).sum()) / total) if total > 0 and len(x) > 1 else "not defined"
    facts = f"MAE {style.with_unit(float(np.abs(x - y).mean()), unit)}, R² {r2}, n = {len(x):,}"
    low, high = style.padded(*style.robust_limits(np.concatenate([x, y])))
    inside = (np.minimum(x, y) >= low) & (np.maximum(x, y) <= high)
    figure.set_size_inches(5.2, 4.9)
    axes = figure.add_subplot()
    crowded, few = len(x) > HEXAGONS_FROM, len(x) < 200
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=3 if crowded else 1)
    if crowded:
        axes.grid(visible=False)
        how: dict[str, Any] = {"gridsize": 45, "bins": "log", "mincnt": 1, "cmap": "viridis_r", "linewidths": 0.1}
        bins = axes.hexbin(x[inside], y[inside], extent=(low, high, low, high), **how)
        figure.colorbar(bins, ax=axes, label="Points in a hexagon", shrink=0.8)
    else:
        how = {"s": 22, "alpha": 0.8} if few else {"s": 10, "alpha": 0.45}
        axes.scatter(x, y, color=COLOURS[0], linewidths=0, rasterized=len(x) > 400, **how)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel=style.axis_label(x_label, unit), ylabel=style.axis_label(y_label, unit))
    style.legend(axes, facts)
    outside = _counted("Outside the axes, but in MAE and R²", int((~inside).sum()))
    return f"{y_label} against {x_label}: {facts}.", [_left_out(int((~good).sum())), outside]


def histogram(
    figure: Figure,
    *,
    sets: Any,
    x_label: str = "",
    unit: str = "",
    discrete: bool = False,
    distance: Any = None,
    distance_label: str = "Wasserstein distance",
) -> Drawn:
    """Shares of one to four ``sets`` {name: values} in common bins, with the ``distance`` between them that is given.

    Where ``discrete``, values may be words, and a set may be counts {category: number}.
    """
    sets = _sets(sets)
    value = style.number(distance)
    head = f"{distance_label} {style.with_unit(value, unit)}" if np.isfinite(value) else ""
    axes = figure.add_subplot(xlabel=style.axis_label(x_label, unit))
    text, notes = _categories(axes, sets) if discrete else _bins(axes, sets, unit)
    style.legend(axes, head)
    return (head + ". " if head else "") + text, notes


def _bins(axes: Axes, sets: Mapping[str, Any], unit: str) -> Drawn:
    arrays, pooled, lost = _finite(sets)
    low, high = style.robust_limits(pooled, spread=2.0)
    inner = pooled[(pooled >= low) & (pooled <= high)]
    if high > low and _wanted_bins(inner) > 3 * MOST_BINS:  # a long tail hides where most values are
        low, high = style.robust_limits(pooled, spread=2.0, central=0.95)
        inner = pooled[(pooled >= low) & (pooled <= high)]
    bins = int(np.clip(_wanted_bins(inner), 12, MOST_BINS)) if len(inner) and inner.max() > inner.min() else 1
    edges = np.linspace(*(low, high) if high > low else style.padded(low, high), bins + 1)
    _steps(axes, arrays, edges, dict.fromkeys(arrays, ""))
    axes.set_xlim(*style.padded(edges[0], edges[-1], 0.02))
    medians = {k: f", median {style.with_unit(float(np.median(a)), unit)}" if len(a) else "" for k, a in arrays.items()}
    text = "; ".join(f"{k}: n = {len(a):,}{medians[k]}" for k, a in arrays.items())
    beyond = _counted("Beyond the axis, counted in its outermost bins", len(pooled) - len(inner))
    return f"{text}.", [_left_out(lost), beyond]


def _wanted_bins(values: np.ndarray) -> float:
    """Freedman and Diaconis' number of bins, twice the interquartile range over the cube root of n wide; else 24."""
    low, high = np.quantile(values, [0.25, 0.75])
    width = 2 * float(high - low) / len(values) ** (1 / 3)
    return float(values.max() - values.min()) / width if width > 0 else 24


def errors(figure: Figure, *, sets: Any, x_label: str = "Absolute error", unit: str = "") -> Drawn:
    """Absolute errors of ``sets`` {name: values} in common logarithmic bins, with the mean of each."""
    arrays, pooled, lost = _finite(sets, absolute=True)
    positive = pooled[pooled > 0]
    axes = figure.add_subplot(xlabel=style.axis_label(x_label, unit))
    edges = np.linspace(0, 1, 36)
    if len(positive):
        low = max(float(np.quantile(positive, 0.005)), float(positive.max()) * 1e-12)
        edges = np.geomspace(low / 1.1, max(float(positive.max()), low * 1.0001) * 1.1, 36)
    means = {k: f"mean {style.with_unit(float(a.mean()), unit)}, " if len(a) else "" for k, a in arrays.items()}
    _steps(axes, arrays, edges, means)
    for i, array in enumerate(arrays.values()):
        if len(array) and array.mean() >= edges[0]:
            axes.axvline(min(array.mean(), edges[-1]), color=COLOURS[i], linewidth=1.4, linestyle=(0, (1, 1)))
    if len(positive):
        style.log_axis(axes, "x")
    style.legend(axes, "Dotted: mean")
    ends = {
        k: f", {means[k]}median {style.with_unit(float(np.median(a)), unit)}" if len(a) else ""
        for k, a in arrays.items()
    }
    text = "; ".join(f"{k}: n = {len(a):,}{ends[k]}" for k, a in arrays.items())
    below = int((pooled < edges[0]).sum())
    return f"{text}.", [_left_out(lost), _counted("Smaller errors and zeros, counted in the first bin", below)]


def _sets(sets: Any) -> Mapping[str, Any]:
    found = style.table(sets, "sets")
    if len(found) > 4:
        raise RequestError(f"{len(found)} sets; give at most 4")
    return found


def _finite(sets: Any, *, absolute: bool = False) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """The finite values of each set, all of them, and how many others there were."""
    every = {k: style.numbers(v) for k, v in _sets(sets).items()}
    arrays = {k: a[np.isfinite(a)] for k, a in every.items()}
    arrays = {k: np.abs(a) for k, a in arrays.items()} if absolute else arrays
    pooled = np.concatenate([*arrays.values(), np.zeros(0)])
    if not len(pooled):
        raise NoDataError(f"no finite {'error' if absolute else 'value'} in any set")
    return arrays, pooled, sum(map(len, every.values())) - len(pooled)


def _steps(axes: Axes, arrays: Mapping[str, np.ndarray], edges: np.ndarray, heads: Mapping[str, str]) -> None:
    """Shares of each set in the bins; what lies beyond is counted in the outermost ones."""
    for i, (name, array) in enumerate(arrays.items()):
        counts = np.histogram(np.clip(array, edges[0], edges[-1]), edges)[0] / max(len(array), 1)
        how: dict[str, Any] = {"linewidth": 1.8, "linestyle": LINES[i - 1]} if i else {"fill": True, "alpha": 0.55}
        axes.stairs(
            counts, edges, color=COLOURS[i], label=style.plain(f"{name} ({heads[name]}n = {len(array):,})"), **how
        )
    axes.set_ylabel("Share in each bin")
    axes.set_ylim(0, None)


def _categories(axes: Axes, sets: Mapping[str, Any]) -> Drawn:
    counts = {name: _count(values) for name, values in sets.items()}
    lost = sum(int(count.pop(None, 0)) for count in counts.values())
    sums = {name: sum(count.values()) for name, count in counts.items()}
    if not any(sums.values()):
        raise NoDataError("no value in any set")
    order = sorted({c for count in counts.values() for c in count}, key=_rank)
    shares = {n: {c: count.get(c, 0) / max(sums[n], 1) for c in order} for n, count in counts.items()}
    notes = [_left_out(lost)]
    axes.set_ylabel("Share")
    if len(order) > MANY and len(sets) <= 2 and all(isinstance(c, float) for c in order):
        # with up to 230 space groups, neighbouring bars could not be told apart: the second set goes downwards
        for i, (name, values) in enumerate(shares.items()):
            heights = [(1 - 2 * i) * v for v in values.values()]
            axes.vlines(
                order, 0, heights, color=COLOURS[i], linewidth=1.8, label=style.plain(f"{name} (n = {sums[name]:,.0f})")
            )
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda v, _: f"{abs(v):.3g}")
        axes.margins(x=0.02)
    else:
        if len(order) > MANY:
            top = sorted(order, key=lambda c: -max(s[c] for s in shares.values()))[: MANY - 1]
            rest = [c for c in order if c not in top]
            kept = [c for c in order if c in top]
            shares = {n: {c: s[c] for c in kept} | {"other": sum(s[c] for c in rest)} for n, s in shares.items()}
            notes.append(f"Categories under “other”: {len(rest):,}.")
        names = [_name(c) for c in next(iter(shares.values()))]
        width = 0.8 / len(shares)
        for i, (name, values) in enumerate(shares.items()):
            at = np.arange(len(names)) + (i - (len(shares) - 1) / 2) * width
            label = style.plain(f"{name} (n = {sums[name]:,.0f})")
            how: dict[str, Any] = {"hatch": ("", "///", "...", "xxx")[i], "edgecolor": "white", "linewidth": 0}
            axes.bar(at, list(values.values()), width * 0.94, color=COLOURS[i], label=label, **how)
        slanted = sum(len(n) + 2 for n in names) > 62
        axes.set_xticks(range(len(names)), [style.plain(n) for n in names], rotation=40 if slanted else 0)
        for text in axes.get_xticklabels():
            text.set(ha="right" if slanted else "center", rotation_mode="anchor")
        axes.grid(visible=False, axis="x")
        axes.set_xlim(-0.6, len(names) - 0.4)
    words = []
    for name, values in shares.items():
        best = sorted(((v, _name(c)) for c, v in values.items() if v), key=lambda p: (-p[0], p[1]))[:3]
        often = ", most often " + ", ".join(f"{c} ({v:.1%})" for v, c in best) if best else ""
        words.append(f"{name}: n = {sums[name]:,.0f}{often}")
    return "; ".join(words) + ".", notes


def _count(values: Any) -> Counter[Any]:
    """How often each category occurs; under None what is no category."""
    if not isinstance(values, Mapping):
        return Counter(_category(v) for v in (values if values is not None else []))
    found: Counter[Any] = Counter()
    for key, count in values.items():
        if not (amount := style.number(count)) >= 0:
            raise RequestError(f"the count of {key!r} is {count!r}; give a number of crystals, 0 or more")
        found[_category(key)] += amount  # type: ignore[assignment]
    return found


def _category(value: Any) -> float | str | None:
    """A number as a float (also "225", as JSON writes the key of a dict), a word as it is, None for NaN."""
    try:
        as_number = np.nan if value is None else float(value)
    except (TypeError, ValueError):
        return str(value)
    return as_number if abs(as_number) < 1e15 else None


def _rank(category: float | str) -> tuple[int, float, str]:
    if isinstance(category, float):
        return (0, category, "")
    return (1, SYSTEMS.index(category), "") if category in SYSTEMS else (2, 0, category)


def _name(category: float | str) -> str:
    return f"{category:g}" if isinstance(category, float) else category


def curve(
    figure: Figure, *, curves: Any, x_label: str = "", y_label: str = "", y_unit: str = "", share: bool = False
) -> Drawn:
    """Lines with marks through ``curves`` {name: {x, y}}; with ``share`` the axis goes from 0 to 1."""
    axes = figure.add_subplot(xlabel=style.axis_label(x_label), ylabel=style.axis_label(y_label, y_unit))
    lost, words, drawn = 0, [], []
    for i, (name, each) in enumerate(style.table(curves, "curves").items()):
        if not isinstance(each, Mapping):
            raise RequestError(f"curve {name!r} is {type(each).__name__}; give a dict with x and y")
        x, y = style.numbers(each.get("x")), style.numbers(each.get("y"))
        style.same_length(x=x, y=y)
        good = np.isfinite(x) & np.isfinite(y)
        lost += int((~good).sum())
        order = np.argsort(x[good], kind="stable")
        x, y = x[good][order], y[good][order]
        ends = (
            f"{len(x)} points, from {style.say(y[0])} at {style.say(x[0])} to {style.say(y[-1])} at {style.say(x[-1])}"
            if len(x)
            else ""
        )
        words.append(f"{name}: {ends or 'no value'}")
        if len(x):
            drawn.append((x, y))
            mark = MARKERS[i % len(MARKERS)] if len(x) <= 30 else ""
            how: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
            axes.plot(x, y, marker=mark, markersize=4.5, linewidth=1.8, label=style.plain(name), **how)
    if not drawn:
        raise NoDataError("no point with a finite value" if lost else "no points")
    if all((x == np.round(x)).all() for x, _ in drawn):
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no 2.5th candidate
    if share:
        axes.set_ylim(-0.02, 1.02)
    elif min(y.min() for _, y in drawn) >= 0:
        axes.set_ylim(bottom=0)  # a distance or a rate drawn from its zero is not made to look steeper than it is
    style.legend(axes)
    return "; ".join(words) + ".", [_left_out(lost)]


def bars(figure: Figure, *, bars: Any, x_label: str = "", unit: str = "", share: bool = True) -> Drawn:
    """Horizontal ``bars`` {name: quantity}, beside each its number and counts or the reason why there is none.

    With ``share`` the axis goes from 0 to 1.
    """
    every = style.table(bars, "bars")
    if not every:
        raise NoDataError("no bars")
    items = list(every.items())[:MOST_BARS]
    values = np.array([style.number(v) for _, v in items])
    names, texts = [style.plain(k, 34) for k, _ in items], [_amount(v, unit) for _, v in items]
    lines = [max(1.6, name.count("\n") + 1.4, text.count("\n") + 1.4) for name, text in zip(names, texts, strict=True)]
    figure.set_size_inches(6.4, 1.3 + 0.19 * sum(lines))
    axes = figure.add_subplot(xlabel=style.axis_label(x_label, unit))
    at = np.arange(len(items))
    axes.barh(at, np.nan_to_num(values), 0.62, color=COLOURS[0])
    if share:
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1])
    axes.axvline(0, color=GREY, linewidth=0.8)
    for y, value, text in zip(at, values, texts, strict=True):
        how: dict[str, Any] = {"va": "center", "fontsize": 8.5, "color": INK if np.isfinite(value) else GREY}
        axes.text(1.04, float(y), text, transform=axes.get_yaxis_transform(), **how)
    axes.set_yticks(at, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(len(items) - 0.4, -0.6)
    words = [f"{k}: {t}".replace("\n", " ") for (k, _), t in zip(items, texts, strict=True)]
    more = f"The first {MOST_BARS} of {len(every):,} are drawn." if len(every) > MOST_BARS else ""
    return "; ".join(words) + ".", [more]


def _amount(value: Any, unit: str) -> str:
    told = value if isinstance(value, Mapping) else {}
    if not np.isfinite(style.number(value)):
        return style.plain(f"no value: {told.get('reason') or 'unknown'}", 34)
    counts = []
    if isinstance(told.get("of"), int):
        counts = [
            f"{told['count']:,} of {told['of']:,}" if isinstance(told.get("count"), int) else f"n = {told['of']:,}"
        ]
        if isinstance(told.get("missing"), int) and told["missing"]:
            counts.append(f"{told['missing']:,} missing")
    return style.plain(style.with_unit(style.number(value), unit) + (f" ({', '.join(counts)})" if counts else ""), 36)


def _counted(what: str, count: int) -> str:
    return f"{what}: {count:,}." if count else ""


def _left_out(count: int) -> str:
    return _counted("Left out, no finite value", count)
