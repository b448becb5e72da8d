"""Figures of an evaluation: each is a pure function of one entry of ``result["series"]``.

An entry is plain JSON (lists or NumPy arrays). Values that are None, NaN, infinite or beyond 1e100 are left out, and
the figure says how many. An entry with nothing to draw gives a figure that says "no data" and why. Keys of every entry:
``kind`` and ``title``; optional ``note`` (drawn small below) and ``reason`` (why there are no data). A quantity is a
dict as of :func:`autoperi.metrics.counts.quantity`. The kinds, with optional keys in brackets:

``parity``
    ``x`` reference and ``y`` predicted values, [``x_label``, ``y_label``, ``unit``]. MAE, R² and n are those of the
    pairs drawn.
``histogram``
    ``sets`` {name: values}, one to four; ``x_label``, [``unit``, ``discrete``, ``categories``, ``distance``,
    ``distance_label``]. Where ``discrete``, values may be words, a set may be counts {category: number}, and
    ``categories`` gives the order and what is shown even where empty. ``distance`` (number or quantity) is printed
    after ``distance_label``, by default "Wasserstein distance".
``errors``
    ``sets`` {name: absolute errors}, [``x_label``, ``unit``, ``log``].
``curve``
    ``curves`` {name: {``x``, ``y``, [``low``, ``high``]}}, ``x_label``, ``y_label``, [``x_unit``, ``y_unit``,
    ``x_log``, ``y_log``,
    ``share``: axis from 0 to 1, ``lines`` {name: height}].
``bars``
    ``bars`` {name: number or quantity}, [``x_label``, ``unit``, ``share``: axis from 0 to 1, the default].
``hull``
    ``elements`` (two or three), ``reference`` and ``points``: {``composition`` (n, d) amounts or fractions, ``energy``
    (n,) of formation in eV/atom, [``name``], and for points [``e_above_hull``]}. Without a reference entry an element
    has energy 0.
``phonons``
    [``bands`` {``x``: segments of distances, ``frequency`` [segment][wave vector][branch], [``ticks``: pairs of
    distance and name]}, ``dos`` {``frequency``, ``density``}, ``unit``: THz].

Figures are matplotlib's, made without pyplot and without lasting changes to its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.data.files import write_atomically
from autoperi.errors import RequestError
from autoperi.evaluation import diagrams, plots
from autoperi.evaluation.plots import Drawn
from autoperi.evaluation.style import GREY, SIZE, NoDataError, finish, plain, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: dict[str, Callable[[Figure, Mapping[str, Any]], Drawn]] = {
    "parity": plots.parity,
    "histogram": plots.histogram,
    "errors": plots.errors,
    "curve": plots.curve,
    "bars": plots.bars,
    "hull": diagrams.hull,
    "phonons": diagrams.phonons,
}
FORMATS = ("png", "svg")
DPI = 160


def draw(entry: Mapping[str, Any], *, name: str = "series") -> Figure:
    """The figure of one entry.

    Args:
        entry: as the module describes it.
        name: of the entry, for error messages.

    Returns:
        A ``matplotlib.figure.Figure``; :func:`describe` gives what it shows in words.

    Raises:
        RequestError: matplotlib is missing, or the entry is not as described: unknown kind, lengths that differ, words
        for numbers.
    """
    if not isinstance(entry, Mapping):
        raise RequestError(f"series {name!r} is {type(entry).__name__}; give a dict with kind and title")
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise RequestError(f"series {name!r} has kind={kind!r}; give one of {', '.join(KINDS)}")
    if not isinstance(entry.get("title"), str):
        raise RequestError(f"series {name!r} has title={entry.get('title')!r}; give a text")
    with _matplotlib():
        figure = _empty_figure()
        try:
            drawn = KINDS[kind](figure, entry)
        except NoDataError as why:
            figure = _empty_figure()
            drawn = _no_data(figure, entry.get("reason") or str(why))
        except RequestError as error:
            raise RequestError(f"series {name!r}: {error}") from None
        finish(figure, entry["title"], [*drawn.notes, str(entry.get("note") or "")])
        notes = " ".join(n for n in (*drawn.notes, entry.get("note")) if n)
        figure.set_label(" ".join(f"{entry['title']}. {drawn.text} {notes}".split()))
    return figure


def describe(figure: Figure) -> str:
    """What a figure of :func:`draw` shows, in words with its numbers: the alternative text."""
    return str(figure.get_label())


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG (160 dpi) or SVG, by the suffix of ``path``; the same figure gives the same bytes.

    Raises:
        RequestError: another suffix; DataError: the file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise RequestError(
            f"{target.name} ends in {target.suffix or 'no suffix'!r}; give a path that ends in .png or .svg"
        )
    return write_atomically(target, encode(figure, suffix))


def encode(figure: Figure, suffix: str) -> bytes:
    """The bytes of a PNG or SVG file, without a date or the version of a program in them."""
    import io

    buffer = io.BytesIO()
    with _matplotlib():
        if suffix == "svg":
            metadata = {"Date": None, "Creator": None, "Title": plain(describe(figure)[:300]).replace(r"\$", "$")}
            figure.savefig(buffer, format="svg", metadata=metadata, dpi=DPI)
        else:
            figure.savefig(buffer, format="png", metadata={"Software": None}, dpi=DPI)
    return buffer.getvalue()


def require_matplotlib() -> None:
    """Raise a RequestError that says how to install matplotlib where it is missing; call it before the work."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RequestError('figures need matplotlib, which is not installed: pip install "autoperi[metrics]"') from None


def _matplotlib() -> Any:
    require_matplotlib()
    return styled()


def _empty_figure() -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _no_data(figure: Figure, reason: str) -> Drawn:
    figure.set_size_inches(SIZE[0], 1.6)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, plain(f"no data: {reason}", 64), ha="center", va="center", color=GREY, transform=axes.transAxes)
    return Drawn(f"No data: {reason}.", [])
