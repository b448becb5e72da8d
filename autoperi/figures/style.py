"""What every figure shares: colours, numbers read and written, labels, the legend and the line of text under a figure.

Colours are those of Okabe and Ito (2008), told apart by readers with any common colour blindness; sets also differ in
line style or marker.
"""

from __future__ import annotations

import contextlib
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GREY, PALE = "#222222", "#595959", "#dddddd"
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
HUGE = 1e100  # beyond it axis arithmetic overflows; such a value is treated as not finite
SIZE = (5.6, 3.9)  # inches; text stays readable where a phone scales the figure to its width
RC = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, hence the same figure everywhere
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "legend.fontsize": 9,
    "legend.title_fontsize": 9.5,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
    "svg.fonttype": "path",
    "svg.hashsalt": "autoperi",
}


class NoDataError(Exception):
    """Nothing to draw; the message is the reason, which the figure then states."""


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's defaults and :data:`RC`, whatever the user's settings are, which are put back afterwards."""
    import matplotlib.style

    with matplotlib.style.context(["default", RC]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)  # a box stands for it
        yield


def plain(text: object, width: int = 0) -> str:
    """Text for matplotlib: no formulas (``$``), no control characters, one space between words, wrapped at
    ``width``.
    """
    words = "".join(c if c.isprintable() else " " for c in str(text)).split()
    lines = textwrap.wrap(" ".join(words), width, break_on_hyphens=False) if width else [" ".join(words)]
    return "\n".join(lines).replace("$", r"\$")


def axis_label(label: object, unit: object = None) -> str:
    """``Label (unit)``, or the label where there is no unit; a word in small letters gets a capital, a symbol such as k
    stays.
    """
    text = str(label or "")
    first = text.split(" ")[0]
    text = text[:1].upper() + text[1:] if len(first) > 1 and first.isalpha() and first.islower() else text
    return plain(f"{text} ({unit})" if unit else text, 60)


def say(value: float | None, digits: int = 3) -> str:
    """A number for people: four thousand is 4,000, and 0.01234567 is 0.0123."""
    if value is None or not math.isfinite(value):
        return "no value"
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}"
    if abs(value) >= 1e7:
        return f"{value:.{digits}g}"
    return f"{value:,.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def with_unit(value: float | None, unit: object = None) -> str:
    """:func:`say` with its unit."""
    return say(value) + (f" {unit}" if unit and value is not None else "")


def number(value: Any) -> float:
    """A number, a quantity (``{"value": …}``) or None as a float; NaN where it is missing, not finite or huge.

    Raises:
        RequestError: anything else.
    """
    value = value.get("value") if isinstance(value, Mapping) else value
    try:
        found = math.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise RequestError(f"{value!r} is not a number; give numbers, quantities or None") from None
    return found if abs(found) < HUGE else math.nan


def numbers(values: Any) -> np.ndarray:
    """Numbers, quantities and None as a float array (n,), NaN where :func:`number` says so."""
    if values is None:
        return np.zeros(0)
    if isinstance(values, str | Mapping) or not hasattr(values, "__len__"):
        raise RequestError(f"{str(values)[:60]!r} is not a list of numbers")
    return np.array([number(v) for v in values], dtype=float)


def same_length(**arrays: Sequence[Any] | np.ndarray) -> None:
    """Raise a RequestError unless all have as many values."""
    if len({len(a) for a in arrays.values()}) > 1:
        raise RequestError(
            f"{', '.join(f'{k} has {len(a)}' for k, a in arrays.items())} values; give one for each point"
        )


def table(value: Any, name: str) -> Mapping[str, Any]:
    """A dict, empty for None; a RequestError that calls it ``name`` where it is something else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError(f"{name} is {type(value).__name__}; give a dict of name to values")
    return value


def robust_limits(values: np.ndarray, spread: float = 8.0, central: float = 0.99) -> tuple[float, float]:
    """Lowest and highest value, or the ``central`` share where the rest would squeeze it into less than 1/``spread`` of
    the axis.
    """
    low, high = float(values.min()), float(values.max())
    inner = np.quantile(values, [(1 - central) / 2, (1 + central) / 2])
    width = float(inner[1] - inner[0])
    if width > 0 and high - low > spread * width:
        low, high = max(low, float(inner[0]) - 0.05 * width), min(high, float(inner[1]) + 0.05 * width)
    return low, high


def padded(low: float, high: float, share: float = 0.05) -> tuple[float, float]:
    """The limits with a margin; a width where there was none."""
    if high <= low:
        extra = abs(low) * 0.1 or 0.5
        return low - extra, high + extra
    return low - share * (high - low), high + share * (high - low)


def log_axis(axes: Axes, which: str) -> None:
    """Make the axis ``"x"`` or ``"y"`` of what is drawn logarithmic, with three to seven labels that stay apart.

    Matplotlib labels every 1 to 9 of a short range, and its labels then lie on one another.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if 1e-4 <= v < 1e5 else f"{v:.2g}"))
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between two positive ones: powers of ten, else 1 and 3, 1, 2 and 5, or evenly spaced
    ones.
    """
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [t for d in decades for n in digits if low <= (t := float(f"{n}e{d}")) <= high]
        if len(found) >= 3:
            return found[:: -(-len(found) // 7)]
    for most in range(4, 9):
        even = [float(f"{t:.6g}") for t in MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)]
        found = [t for t in even if low <= t <= high]
        if len(found) >= 3:
            break
    return found


def legend(axes: Axes, subtitle: str = "") -> None:
    """The legend above the axes, where it can hide nothing, with the subtitle as its head."""
    handles, names = axes.get_legend_handles_labels()
    names = ["\n".join(textwrap.wrap(n, 72)) for n in names]
    heading = plain(subtitle, 76)
    if not handles:
        axes.set_title(heading, loc="left", pad=6)
        return
    longest = max(map(len, names))
    columns = next((c for c in range(min(len(names), 4), 1, -1) if (longest + 6) * c <= 66), 1)
    where: dict[str, Any] = {"alignment": "left", "loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "ncols": columns}
    axes.legend(handles, names, title=heading or None, handlelength=1.8, columnspacing=1.4, borderpad=0.2, **where)
