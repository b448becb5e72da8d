"""The result of an evaluation as figures and as one self-contained HTML file.

What is read of a result: ``task``, ``title``, ``command`` and ``n`` head the page; ``headline`` (dotted paths into the
result, a list or {label: path}) chooses the summary, without it the quantities nearest to the top; ``series`` holds the
entries of :mod:`autoperi.evaluation.figures`; ``parameters`` and ``versions`` have tables of their own, as has where
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
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.data.files import write_atomically
from autoperi.errors import RequestError
from autoperi.evaluation.figures import FORMATS, describe, draw, encode, require_matplotlib, save

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
STYLE = """
:root{color-scheme:light dark;--ink:#1b1b1b;--soft:#595959;--warning:#a33a00;--line:#d5d5d5;--ground:#fff;--head:#f3f4f6}
@media (prefers-color-scheme:dark){:root{--ink:#e8e8e8;--soft:#a9a9a9;--warning:#ffab70;--line:#3c3f44;--ground:#16181b;--head:#22252a}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .5rem}
h2{font-size:1.25rem;margin:2.5rem 0 .75rem;padding-bottom:.25rem;border-bottom:1px solid var(--line)}
h3,h4,h5,h6{font-size:1rem;margin:1.5rem 0 .4rem}
h1,h3,h4,h5,h6,td,th{overflow-wrap:anywhere}
.soft,.why{color:var(--soft)}
.warning{color:var(--warning)}
code{font:.875rem/1.5 ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{margin:.5rem 0;padding:.6rem .8rem;background:var(--head);border-radius:.4rem;white-space:pre-wrap}
.table{overflow-x:auto;margin:0 0 1rem}
table{border-collapse:collapse;width:100%;font-size:.925rem}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem .4rem;border-bottom:1px solid var(--line)}
thead th{background:var(--head);font-weight:600;overflow-wrap:normal}
tbody th{font-weight:400;min-width:8rem}
td.why{min-width:9rem}
td.number{font-variant-numeric:tabular-nums;white-space:nowrap;overflow-wrap:normal}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,28rem),1fr));gap:1rem;align-items:start}
figure{margin:0;padding:.6rem;background:#fff;color:#222;border:1px solid var(--line);border-radius:.4rem}
figure img{display:block;max-width:100%;height:auto;margin:0 auto}
@media (max-width:40rem){main{padding:1rem .75rem 3rem}h1{font-size:1.4rem}table{font-size:.8rem}th,td{padding-right:.4rem}
tbody th{min-width:5.3rem}td.why{min-width:5.5rem}figure{padding:.3rem}th,td{padding-left:.2rem}}
@media print{:root{--ink:#000;--soft:#444;--warning:#a33a00;--line:#bbb;--ground:#fff;--head:#f3f4f6}main{max-width:none;padding:0}
figure,tr{break-inside:avoid}h2,h3,h4,h5{break-after:avoid}.table{overflow:visible}}
"""


def figures_of(result: Mapping[str, Any]) -> dict[str, Figure]:
    """One figure for each entry of ``result["series"]``, in its order; empty without that key.

    Raises:
        RequestError: matplotlib is missing, or an entry is not as :mod:`autoperi.evaluation.figures` describes it.
    """
    return {name: draw(entry, name=name) for name, entry in _series(result).items()}


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
    require_matplotlib()
    plain = _plain(result)
    title = str(plain.get("title") or TITLES.get(str(plain.get("task")), plain.get("task") or "Evaluation"))
    crystals = f"<p class=soft>{_cell(plain['n'])} crystals</p>" if isinstance(plain.get("n"), int) else ""
    parts = [f"<h1>{escape(title)}</h1>{crystals}"]
    if plain.get("command"):
        command = plain["command"]
        words = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        parts.append(f"<pre><code>{escape(words)}</code></pre>")
    parts.append(_section("Summary", _quantities(_headline(plain), "Headline numbers")))
    parts.append(_section("Figures", _figures(result)))
    origin = {k: v for k, v in plain.items() if k in PROVENANCE or k.endswith("_sha256")}
    rest = {k: v for k, v in plain.items() if k not in HEADINGS and k not in origin}
    parts.append(_section("All numbers", "".join(_tables(rest, "All numbers"))))
    for heading, values in (
        ("Parameters", plain.get("parameters")),
        ("Data and model", origin),
        ("Versions", plain.get("versions")),
    ):
        given = values if isinstance(values, dict) else {heading.lower(): values} if values else {}
        parts.append(_section(heading, "".join(_tables(given, heading))))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(p for p in parts if p)
        + "\n</main></body></html>\n"
    )


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>\n{content}</section>" if content else ""


def _series(result: Mapping[str, Any]) -> Mapping[str, Any]:
    series = result.get("series")
    if series is not None and not isinstance(series, Mapping):
        raise RequestError(f"series is {type(series).__name__}; give a dict of name to entry")
    return {str(k): v for k, v in (series or {}).items()}


def _figures(result: Mapping[str, Any]) -> str:
    shown = []
    for name, entry in _series(result).items():
        mark = escape(re.sub(r"[^a-zA-Z0-9_-]+", "-", name), quote=True)
        try:
            figure = draw(entry, name=name)
        except RequestError as error:
            shown.append(f'<figure id="figure-{mark}">This figure could not be drawn: {escape(str(error))}</figure>')
            continue
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        data = base64.b64encode(encode(figure, "svg")).decode()
        text = escape(describe(figure), quote=True)
        shown.append(
            f'<figure id="figure-{mark}"><img alt="{text}" width="{width}" height="{height}" '
            f'src="data:image/svg+xml;base64,{data}"></figure>'
        )
    return f"<div class=figures>{chr(10).join(shown)}</div>" if shown else ""


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
    wanted = result.get("headline")
    if not wanted:
        return dict(_nearest(result))
    paths = (
        wanted if isinstance(wanted, dict) else {str(p): p for p in (wanted if isinstance(wanted, list) else [wanted])}
    )
    found = {label: _at(result, str(path)) for label, path in paths.items()}
    return {label: value for label, value in found.items() if value is not None}


def _nearest(result: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Quantities by depth, then by order."""
    level: list[tuple[str, Any]] = [(k, v) for k, v in result.items() if k not in HEADINGS]
    found: list[tuple[str, Any]] = []
    while level:
        found += [(k, v) for k, v in level if _is_quantity(v)]
        level = [
            (f"{k}.{key}", v)
            for k, each in level
            if isinstance(each, dict) and not _is_quantity(each)
            for key, v in each.items()
        ]
    return found[:HEADLINES]


def _at(result: dict[str, Any], path: str) -> Any:
    """What is at the path; where nothing is, a quantity with the reason that the result gives for it, or None."""
    here: Any = result
    keys = path.split(".")
    while keys:
        # a key may hold dots itself, such as a cutoff of 0.4: the longest that fits is taken
        for i in range(len(keys), 0, -1):
            if isinstance(here, dict) and ".".join(keys[:i]) in here:
                found, rest = here[".".join(keys[:i])], keys[i:]
                break
        else:
            return _absent(here, keys[0])
        if found is None:
            return _absent(here, keys[0])
        here, keys = found, rest
    return here


def _absent(near: Any, key: str) -> dict[str, Any] | None:
    reason = (near.get(f"{key}_reason") or near.get("reason")) if isinstance(near, dict) else None
    return {"value": None, "of": 0, "missing": 0, "reason": reason} if isinstance(reason, str) else None


def _tables(values: dict[str, Any], name: str, within: str = "") -> Iterator[str]:
    """What is directly in ``values``, then each dict within under its whole path; ``name`` is what a screen reader says
    of a table.
    """
    nested = {k: v for k, v in values.items() if v and not _is_quantity(v) and _branch(v)}
    quantities = {k: v for k, v in values.items() if _is_quantity(v)}
    facts = {k: v for k, v in values.items() if k not in nested and k not in quantities}
    if within and (quantities or facts):
        yield f"<h3>{escape(within)}</h3>\n"
    label = f"{name}: {within}" if within else name
    if quantities:
        yield _quantities(quantities, label)
    if facts:
        rows = "".join(f"<tr><th scope=row>{escape(k)}</th>{_fact(v)}</tr>" for k, v in facts.items())
        yield _table(("Name", "Value"), rows, label)
    for key, value in nested.items():
        inner = value if isinstance(value, dict) else {str(i + 1): v for i, v in enumerate(value[:LONGEST])}
        path = f"{within} › {key}" if within else key
        yield from _tables(inner, name, path)
        if len(value) > len(inner):
            yield f"<p class=soft>{escape(path)}: the first {len(inner)} of {len(value):,} entries.</p>\n"


def _branch(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def _quantities(quantities: dict[str, Any], name: str) -> str:
    rows = []
    for key, each in quantities.items():
        told = each if _is_quantity(each) else {"value": each}
        warned = "; ".join(text for k, text in WARNINGS.items() if told.get(k))
        reason = "; ".join([*([str(told["reason"])] if told.get("reason") else []), *_further(told)])
        notes = "; ".join(
            [
                *([f"<strong class=warning>{escape(warned)}</strong>"] if warned else []),
                *([escape(reason)] if reason else []),
            ]
        )
        counts = "".join(
            f"<td class=number>{_cell(told[k]) if told.get(k) is not None else ''}</td>" for k in ("of", "missing")
        )
        rows.append(
            f"<tr><th scope=row>{escape(key)}</th>{_fact(told['value'])}{counts}<td class=why>{notes}</td></tr>"
        )
    return _table(("Quantity", "Value", "Of", "Missing", "Notes"), "".join(rows), name) if rows else ""


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
        counts = [f"of {_words(value['of'])}"] + (
            [f"{_words(value['missing'])} missing"] if value.get("missing") else []
        )
        why = [str(value["reason"])] if value.get("reason") else []
        return f"{_words(value['value'])} ({', '.join([*counts, *why, *_further(value)])})"
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')} {_phrase(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return f"{len(value):,} entries"
    return ("yes" if value else "no") if isinstance(value, bool) else _words(value)


def _table(heads: Sequence[str], rows: str, name: str) -> str:
    label = escape(name or heads[0], quote=True)
    top = "".join(f"<th scope=col>{escape(h)}</th>" for h in heads)
    return f'<div class=table role=region tabindex=0 aria-label="{label}"><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>\n'


def _fact(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=number' if number else ''}>{_cell(value)}</td>"


def _cell(value: Any) -> str:
    return '<span class="why">no value</span>' if value is None else escape(_words(value))


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
