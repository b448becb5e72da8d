"""The result of an evaluation as figures and as one self-contained HTML file.

What is read of a result: ``task``, ``title``, ``command`` and ``n`` head the page; ``headline`` ({label: dotted path
into the result}) chooses the summary, without it the quantities nearest to the top; ``series`` holds the entries of
:mod:`autoperi.figures.draw`; ``parameters`` and ``versions`` have tables of their own, as has where
the data came from (``seed``, ``model``, ``data``, … and every key that ends in ``_sha256``). Everything else is shown
in nested tables: a dict with "value" and "of" is a quantity, one row; another dict is a table. An entry of ``headline``
that the result does not hold shows the reason that stands in its place (``<key>_reason`` or ``reason`` of the nearest
dict), and is left out where there is none. The same result gives the same bytes: no date is written.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.data.files import write_atomically
from autoperi.errors import RequestError
from autoperi.figures.draw import FORMATS, describe, draw, encode, require_matplotlib, save
from autoperi.figures.style import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "csp": "Crystal structure prediction",
    "denoise": "Lattice denoising",
    "reconstruct": "Reconstruction",
    "properties": "Property prediction",
    "generation": "Generation",
    "potential": "Potential against reference forces",
}
HEADINGS = ("task", "title", "command", "headline", "series", "parameters", "versions")
PROVENANCE = ("seed", "model", "data", "reference", "train", "device")
HEADLINES = 16
LONGEST = 50  # entries of a list that are written out
COUNTS = ("value", "of", "missing", "reason")
COUNT_NAMES = {
    "of_reference": "reference crystals",
    "reference_of": "reference crystals",
    "missing_reference": "reference crystals missing",
    "reference_missing": "reference crystals missing",
    "reference_variance": "variance of the reference",
    "of_judged": "among the judged alone",
}
WARNINGS = {"rank_deficient": "fewer crystals than dimensions: not reliable"}
"""What a count that is true warns of; nothing is said of one that is false."""


def figures_of(result: Mapping[str, Any]) -> dict[str, Figure]:
    """One figure for each entry of ``result["series"]``, in its order; empty without that key.

    Raises:
        RequestError: matplotlib is missing, or an entry is not as :mod:`autoperi.figures.draw` describes it.
    """
    return {str(name): draw(entry, name=str(name)) for name, entry in table(result.get("series"), "series").items()}


def write_figures(result: Mapping[str, Any], directory: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write every figure as ``<directory>/<name>.<format>``; the folder is made where it is missing.

    Returns:
        The paths, in the order of the figures.

    Raises:
        RequestError: another format than png and svg, or as :func:`figures_of`; DataError: the folder cannot be
            written.
    """
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or isinstance(formats, str):
        raise RequestError(f"formats={formats!r}; give a list of {' and '.join(FORMATS)}")
    figures = figures_of(result)
    folder = Path(directory)
    return [save(figure, folder / f"{name}.{suffix}") for name, figure in _file_names(figures) for suffix in formats]


def check_report(path: str | Path) -> Path:
    """The path of a report; call it before the work that the report is of.

    Raises:
        RequestError: the suffix is not .html, the path is a folder, or matplotlib is missing.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"{target.name} ends in {target.suffix or 'no suffix'!r}; give a path that ends in .html")
    if target.is_dir():
        raise RequestError(f"{target} is a folder; give the path of a file")
    require_matplotlib()
    return target


def write_report(result: Mapping[str, Any], path: str | Path) -> Path:
    """Write the result as one HTML file that needs no other file, no network and no script.

    A series entry that cannot be drawn has its error in the place of its figure: the numbers took longer to make than
    the figure.

    Raises:
        RequestError: as :func:`check_report`, or ``series`` is not a dict; DataError: the file cannot be written.
    """
    target = check_report(path)
    return write_atomically(target, html(result))


def html(result: Mapping[str, Any]) -> str:
    """The page of :func:`write_report`."""
    import jinja2

    require_matplotlib()
    plain = _plain(result)
    command = plain.get("command") or ""
    origin = {k: v for k, v in plain.items() if k in PROVENANCE or k.endswith("_sha256")}
    sections = {
        "All numbers": {k: v for k, v in plain.items() if k not in HEADINGS and k not in origin},
        "Parameters": plain.get("parameters") or {},
        "Data and model": origin,
        "Versions": plain.get("versions") or {},
    }
    strict: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, **strict)
    environment.filters["words"] = _words
    template = environment.from_string(resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8"))
    return template.render(
        title=str(plain.get("title") or TITLES.get(str(plain.get("task")), plain.get("task") or "Evaluation")),
        crystals=plain["n"] if isinstance(plain.get("n"), int) else None,
        command=" ".join(map(str, command)) if isinstance(command, list) else str(command),
        summary=_quantities(_headline(plain)),
        figures=list(_figures(result)),
        sections={k: list(_blocks(v if isinstance(v, dict) else {k.lower(): v})) for k, v in sections.items()},
    )


def _figures(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each figure as an SVG in base 64 with its size in pixels and its text, or the error in its place."""
    for name, entry in table(result.get("series"), "series").items():
        shown: dict[str, Any] = {"name": re.sub(r"[^a-zA-Z0-9_-]+", "-", str(name)), "error": ""}
        try:
            figure = draw(entry, name=str(name))
        except RequestError as error:
            yield shown | {"error": str(error)}
            continue
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        data = base64.b64encode(encode(figure, "svg")).decode()
        yield shown | {"width": width, "height": height, "data": data, "text": describe(figure)}


def _file_names(figures: Mapping[str, Figure]) -> Iterator[tuple[str, Figure]]:
    """Names that are safe in any folder, each once."""
    taken: set[str] = set()
    for name, figure in figures.items():
        stem = re.sub(r"[^\w-]+", "_", name).strip("_") or "figure"
        unique, i = stem, 2
        while unique.lower() in taken:
            unique, i = f"{stem}_{i}", i + 1
        taken.add(unique.lower())
        yield unique, figure


def _plain(value: Any) -> Any:
    """The result as JSON holds it: words as keys, lists for arrays, None for what is not finite; without ``series``."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if k != "series"}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _is_quantity(value: Any) -> bool:
    return isinstance(value, dict) and "value" in value and "of" in value


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    if not (wanted := result.get("headline")):
        return dict(_nearest(result))
    found = {label: _at(result, str(path)) for label, path in wanted.items()}
    return {label: value for label, value in found.items() if value is not None}


def _nearest(result: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Quantities by depth, then by order."""
    level: list[tuple[str, Any]] = [(k, v) for k, v in result.items() if k not in HEADINGS]
    found: list[tuple[str, Any]] = []
    while level:
        found += [(k, v) for k, v in level if _is_quantity(v)]
        tables = [(k, v) for k, v in level if isinstance(v, dict) and not _is_quantity(v)]
        level = [(f"{name}.{key}", v) for name, inner in tables for key, v in inner.items()]
    return found[:HEADLINES]


def _at(here: Any, path: str) -> Any:
    """What is at the path; where nothing is, a quantity with the reason that the result gives for it, or None."""
    if not path:
        return here
    keys, near = path.split("."), here if isinstance(here, dict) else {}
    for i in range(len(keys), 0, -1):  # a key may hold dots itself, such as a cutoff of 0.4: the longest that fits
        if (found := near.get(".".join(keys[:i]))) is not None:
            return _at(found, ".".join(keys[i:]))
    reason = near.get(f"{keys[0]}_reason") or near.get("reason")
    return {"value": None, "of": 0, "missing": 0, "reason": reason} if isinstance(reason, str) else None


def _blocks(values: dict[str, Any], path: str = "") -> Iterator[dict[str, Any]]:
    """What is directly in ``values``, then each dict within it under its whole path."""
    nested = {k: v for k, v in values.items() if v and not _is_quantity(v) and _branch(v)}
    quantities = {k: v for k, v in values.items() if _is_quantity(v)}
    facts = {k: v for k, v in values.items() if k not in nested and k not in quantities}
    if quantities or facts:
        yield {"path": path, "quantities": _quantities(quantities), "facts": facts, "cut": ""}
    for key, value in nested.items():
        inner = value if isinstance(value, dict) else {str(i + 1): v for i, v in enumerate(value[:LONGEST])}
        below = f"{path} › {key}" if path else key
        yield from _blocks(inner, below)
        if len(value) > len(inner):
            yield {"path": below, "cut": f"the first {len(inner)} of {len(value):,} entries."}


def _branch(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def _quantities(quantities: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of the table each: its name, value, counts, and what they warn of."""
    rows = []
    for name, each in quantities.items():
        told = each if _is_quantity(each) else {"value": each}
        row = {"name": name, "value": told["value"], "of": told.get("of"), "missing": told.get("missing")}
        row["warning"] = "; ".join(text for k, text in WARNINGS.items() if told.get(k))
        row["notes"] = "; ".join([*([str(told["reason"])] if told.get("reason") else []), *_further(told)])
        rows.append(row)
    return rows


def _further(quantity: dict[str, Any]) -> list[str]:
    """The counts of a quantity that have no column, in words."""
    return [
        f"{COUNT_NAMES.get(k) or k.replace('_', ' ')}: {_phrase(v)}"
        for k, v in quantity.items()
        if k not in COUNTS and k not in WARNINGS
    ]


def _phrase(value: Any) -> str:
    """A value in one line of prose: a quantity within a quantity with its counts, a dict as a list of names and
    values.
    """
    if _is_quantity(value):
        counts = [f"of {_words(value['of'])}"]
        counts += [f"{_words(value['missing'])} missing"] if value.get("missing") else []
        why = [str(value["reason"])] if value.get("reason") else []
        return f"{_words(value['value'])} ({', '.join([*counts, *why, *_further(value)])})"
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')} {_phrase(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return f"{len(value):,} entries"
    return ("yes" if value else "no") if isinstance(value, bool) else _words(value)


def _words(value: Any) -> str:
    """A value as JSON writes it, words without quotes, a long list cut."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        more = f", … ({len(value):,} in all)" if len(value) > LONGEST else ""
        return (", ".join(_words(v) for v in value[:LONGEST]) + more) or "none"
    if value is None:
        return "no value"
    return json.dumps(value, ensure_ascii=False) if value != {} else "none"
