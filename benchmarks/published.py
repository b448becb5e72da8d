"""Published match rates beside ours, as tables in Markdown. ``tools/refresh_docs.py`` writes them.

``read`` says where a published number was read by us. The others are as they are commonly quoted, by papers and by
their own authors; we have not read the table they come from again, and say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

QUOTED = "as commonly quoted, not read again"
CRYSTALITE = "README of github.com/joshrosie/crystalite"
NONE = "—"
MISSING = "not measured yet"


class Row(NamedTuple):
    """One published system on one data set; rates in per cent."""

    name: str
    at_1: str = NONE
    rmse: str = NONE
    at_20: str = NONE
    protocol: str = "filtered"
    source: str = QUOTED


MP20 = (
    Row("CDVAE", "33.9", "0.105", "67.0"),
    Row("DiffCSP", "51.5", "0.063", "77.9"),
    Row("FlowMM", "61.4", "0.057", "75.8"),
    Row("CrystalFlow", "62.0", "0.071", "78.3"),
    Row("OMatG", "63.8", "0.072"),
    Row("OMatG", "69.8", "0.074", protocol="unfiltered"),
    Row("KLDM", "65.8", "0.052", protocol="structure alone"),
    Row("Crystalite, released checkpoint", "66.1", "0.033", source=CRYSTALITE),
)
PEROV5 = (
    Row("CDVAE", "45.3", "0.114", "88.5"),
    Row("DiffCSP", "52.0", "0.076", "98.6"),
    Row("FlowMM", "53.2", "0.099", "98.6"),
    Row("OMatG", "83.1", "0.375", protocol="unfiltered"),
)
CARBON24 = (
    Row("CDVAE", "17.1", "0.297", "88.4"),
    Row("DiffCSP", "17.5", "0.276", "88.5"),
    Row("FlowMM", "23.5", "0.412", "84.2"),
)
HEAD = "| model | match at 1, % | RMSE at 1 | match at 20, % | protocol | test crystals | where the number was read |"


def published_table(optional: Callable[[str], Any]) -> str:
    """MP-20: ours on all of our test crystals (or, until that is measured, on 1,000 of them), the lookup, and published
    systems on the official split.

    Args:
        optional: gives the JSON of a measurement, None where it has not been made.
    """
    lookup = optional("lookup_baseline_mp20_test_1000.json")
    lines = [HEAD, "|" + "---|" * 7]
    measured = [(file, optional(file)) for file in ("csp_mp20_test.json", "csp_mp20_test_1000.json")]
    file, found = next((m for m in measured if m[1] is not None), measured[0])
    for protocol, suffix in (("unfiltered", ""), ("filtered", "_filtered")):
        if found is None:
            lines.append(f"| AutoPeri | {MISSING} | | | {protocol} | ours | `benchmarks/results/{file}` |")
            continue
        n, first, last = f"ours, {found['n']:,}", found["per_k"][0], found["per_k"][-1]
        cells = [percent(first, suffix), f"{first[f'rmse{suffix}']['value']:.3f}", percent(last, suffix)]
        lines.append("| " + " | ".join(["**AutoPeri**", *cells, protocol, n, f"`benchmarks/results/{file}`"]) + " |")
    if lookup is not None:
        rate, best = 100 * lookup["match_at_1"], 100 * lookup["match_at_k"]
        name, where = "nearest-template lookup, no training", "`benchmarks/results/lookup_baseline_mp20_test_1000.json`"
        lines.append(
            f"| {name} | {rate:.1f} | {lookup['rmse']:.3f} | {best:.1f} | unfiltered | ours, {lookup['n']:,} of them "
            f"| {where} |"
        )
    return "\n".join([*lines, *(published(row, "official, 9,046") for row in MP20)])


def perov_carbon_table(optional: Callable[[str], Any]) -> str:
    """Perov-5 and Carbon-24, each with the prior of its own training split: the prior alone, and the whole system where
    that has been measured (``csp_perov5_test_whole.json`` and so on).
    """
    lines = []
    for title, name, rows, size in (
        ("Perov-5", "perov5", PEROV5, "3,785"),
        ("Carbon-24", "carbon24", CARBON24, "2,030"),
    ):
        found = optional(f"csp_{name}_test.json")
        lines += [HEAD.replace("model", f"{title}: model", 1), "|" + "---|" * 7]
        for words, suffix in (("AutoPeri, its prior alone", ""), ("AutoPeri, the whole system", "_whole")):
            file = f"csp_{name}_test{suffix}.json"
            lines.append(_own(words, optional(file), f"`benchmarks/results/{file}`", size))
        lines += [*(published(row, f"official, {size}") for row in rows), ""]
        if found is not None:
            lines += [
                f"The prior alone. METRe of one candidate for each of the {found['n']:,} crystals, dealt: "
                f"{100 * found['metre_dealt']:.1f} %. The {found['n']:,} rows are {found['distinct_requests']:,} "
                f"different questions; the standard error of match at 1, were all of them independent, is "
                f"{standard_error(found['match_at_1'], found['n']):.1f} points.",
                "",
            ]
            parts = found["match_at_1_by_composition"]
            if parts["new"]["rows"]:
                words = [
                    f"{100 * parts[key]['match_at_1']:.1f} % of {parts[key]['rows']:,}"
                    for key in ("in_training", "new")
                ]
                lines += [
                    f"Match at 1 of compositions that the training split has, as another crystal: {words[0]}; of new "
                    f"ones: {words[1]}.",
                    "",
                ]
    return "\n".join(lines).strip()


def _own(words: str, found: Any, source: str, size: str) -> str:
    """A row of ours; of what has not been measured, one that says so."""
    if found is None:
        return f"| {words} | {MISSING} | | | unfiltered | official | {source} |"
    cells = [f"{100 * found['match_at_1']:.1f}", f"{found['rmse']:.3f}", f"{100 * found['match_at_k']:.1f}"]
    n = f"official, {found['n']:,}" + (f" of {size}" if f"{found['n']:,}" != size else "")
    return "| " + " | ".join([words, *cells, "unfiltered", n, source]) + " |"


def standard_error(share: float, n: int) -> float:
    """Of a share of n independent rows, in per cent."""
    return 100.0 * (share * (1 - share) / n) ** 0.5


def percent(point: dict[str, Any], suffix: str) -> str:
    return f"{100 * point[f'match_rate{suffix}']['value']:.1f}"


def published(row: Row, size: str) -> str:
    return "| " + " | ".join([row.name, row.at_1, row.rmse, row.at_20, row.protocol, size, row.source]) + " |"
