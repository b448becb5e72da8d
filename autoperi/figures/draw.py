"""Figures of an evaluation, drawn from the entries of ``result["series"]``, and their files.

An entry is a dict. Its ``kind`` names a function of :data:`KINDS` and its ``title`` stands above the figure; ``note``
is drawn small below, ``reason`` says why there are no data (both optional); every other key is an argument of the
function. An entry with nothing to draw gives a figure that says "no data" and why. Figures are made without pyplot and
without lasting changes to matplotlib's settings.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.data.files import write_atomically
from autoperi.errors import RequestError
from autoperi.figures import plots
from autoperi.figures.hull_diagram import hull
from autoperi.figures.style import GREY, SIZE, NoDataError, plain, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: dict[str, Callable[..., plots.Drawn]] = {
    "parity": plots.parity,
    "histogram": plots.histogram,
    "errors": plots.errors,
    "curve": plots.curve,
    "bars": plots.bars,
    "hull": hull,
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
        RequestError: matplotlib is missing, or the entry is not as described: unknown kind or key, lengths that differ,
            words for numbers.
    """
    if not isinstance(entry, Mapping):
        raise RequestError(f"series {name!r} is {type(entry).__name__}; give a dict with kind and title")
    given = dict(entry)
    kind, title, note, reason = (given.pop(key, None) for key in ("kind", "title", "note", "reason"))
    if not isinstance(kind, str) or kind not in KINDS:
        raise RequestError(f"series {name!r} has kind={kind!r}; give one of {', '.join(KINDS)}")
    if not isinstance(title, str):
        raise RequestError(f"series {name!r} has title={title!r}; give a text")
    require_matplotlib()
    with styled():
        figure = _empty_figure()
        try:
            inspect.signature(KINDS[kind]).bind(figure, **given)
        except TypeError as error:
            raise RequestError(f"series {name!r} of kind {kind!r}: {error}; see autoperi.figures.plots") from None
        try:
            text, notes = KINDS[kind](figure, **given)
        except NoDataError as why:
            figure = _empty_figure()
            text, notes = _no_data(figure, reason or str(why))
        except RequestError as error:
            raise RequestError(f"series {name!r}: {error}") from None
        notes = [words for words in (*notes, str(note or "")) if words]
        figure.suptitle(plain(title, 58), x=0.015, ha="left", fontsize=11, fontweight="bold")
        if notes:
            small = "\n".join(plain(words, 92) for words in notes)
            figure.supxlabel(small, x=0.015, ha="left", fontsize=8, color=GREY)
        figure.set_label(" ".join(f"{title}. {text} {' '.join(notes)}".split()))
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
        ending = target.suffix or "no suffix"
        raise RequestError(f"{target.name} ends in {ending!r}; give a path that ends in .png or .svg")
    return write_atomically(target, encode(figure, suffix))


def encode(figure: Figure, suffix: str) -> bytes:
    """The bytes of a PNG or SVG file, without a date or the version of a program in them."""
    metadata: dict[str, str | None] = {"Software": None}
    if suffix == "svg":
        metadata = {"Date": None, "Creator": None, "Title": plain(describe(figure)[:300]).replace(r"\$", "$")}
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=suffix, metadata=metadata, dpi=DPI)
    return buffer.getvalue()


def require_matplotlib() -> None:
    """Raise a RequestError that says how to install matplotlib where it is missing; call it before the work."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RequestError('figures need matplotlib, which is not installed: pip install "autoperi[metrics]"') from None


def _empty_figure() -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _no_data(figure: Figure, reason: str) -> plots.Drawn:
    figure.set_size_inches(SIZE[0], 1.6)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, plain(f"no data: {reason}", 64), ha="center", va="center", color=GREY, transform=axes.transAxes)
    return f"No data: {reason}.", []
