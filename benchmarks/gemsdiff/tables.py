"""Tables of GemsDiff in Markdown, from benchmarks/results. ``tools/refresh_docs.py`` writes them."""

from __future__ import annotations

from typing import Any

SWITCHES = {
    "paper": "Table 1 of the paper: cells diffuse in nine coordinates, AdamW, batches of 128, half as many steps",
    "ours_unweighted": "cells diffuse in the log-metric and are decoded from the cell",
    "ours": "the same, weighted",
    "nearest": "the same, weighted, nearest ends",
    "none": "cells do not diffuse, weighted",
    "none_nearest": "cells do not diffuse, weighted, nearest ends",
}
"""Rows of ``results/gemsdiff_ablation_mp_val.json`` and what they are called."""
TABLE_2 = (
    ("FTCP", "88.18", "1.586", "0.8281"),
    ("PGCGM", "99.03", "0.89", "1.51"),
    ("G-SchNet", "99.65", "3.034", "42.09"),
    ("P-G-SchNet", "77.51", "4.04", "2.448"),
    ("CDVAE", "100.0", "0.6875", "0.2778"),
    ("GemsDiff", "99.05 ± 0.20", "0.3331 ± 0.0327", "0.1984 ± 0.0086"),
)
"""Table 2 of Klipfel et al. (2024)."""
TABLE_3 = (("PGCGM", "30.692"), ("FTCP", "16.562"), ("CDVAE", "1.777"), ("GemsDiff", "1.509 ± 0.115"))
"""Table 3 of Klipfel et al. (2024): Fréchet distances with ALIGNN."""


def ablation_table(found: dict[str, Any]) -> str:
    """What each switch is worth, from ``results/gemsdiff_ablation_mp_val.json``."""
    head = "| trained with | atoms move by | match rate, % | RMSE | valid, % | density, g/cm³ | energy, eV/atom |"
    lines, rates = [head, "|" + "---|" * 7], []
    for name, words in SWITCHES.items():
        for k, positions in enumerate(("jump", "bridge")):
            row = found["rows"][name][positions]
            rates.append(row["match_rate"]["1"])
            cells = [f"{100 * rates[-1]:.1f}", f"{row['rmse']:.3f}", f"{100 * row['valid']['value']:.1f}"]
            cells += [f"{row[key]['value']:.3f}" for key in ("density", "energy")]
            lines.append("| " + " | ".join(["" if k else words, positions, *cells]) + " |")
    return "\n".join([*lines, "", f"{found['crystals']} crystals, {found['steps']} steps; {_error(rates, found)}."])


def steps_table(found: dict[str, Any]) -> str:
    """Match rate and RMSE by evaluations of the network, from ``results/gemsdiff_steps_mp20_test.json``."""
    head = "| network evaluations | match rate, % | RMSE | valid, % | density, g/cm³ | energy, eV/atom |"
    lines, runs = [head, "|" + "---|" * 6], sorted(found["runs"], key=lambda run: run["steps"])
    for run in runs:
        cells = [f"{100 * run['match_rate']['1']:.1f}", f"{run['rmse']:.3f}", f"{100 * run['valid']['value']:.1f}"]
        cells += [f"{run[key]['value']:.3f}" for key in ("density", "energy")]
        lines.append("| " + " | ".join([str(run["steps"]), *cells]) + " |")
    rates = [run["match_rate"]["1"] for run in runs]
    return "\n".join([*lines, "", f"{found['crystals']:,} crystals; {_error(rates, found)}."])


def table_2(found: dict[str, Any], frechet: dict[str, Any]) -> str | None:
    """Table 2 of the paper with our row, from ``results/gemsdiff_mp20_test.json`` and ``gemsdiff_frechet.json``."""
    if "draws" not in frechet:
        return None
    lines = ["| | valid, % | density, g/cm³ | energy, eV/atom | crystals | energies by |", "|" + "---|" * 6]
    lines += ["| " + " | ".join([*row, "9,046 (MP-20)", "ALIGNN"]) + " |" for row in TABLE_2]
    run, real = found["runs"][0], frechet["draws"]["real_from_others"]
    cells = [f"{100 * run['valid']['value']:.2f}", *(f"{run[key]['value']:.3f}" for key in ("density", "energy"))]
    size, judge = f"{found['crystals']:,} (ours)", found["judge"]["model"]
    lines.append("| " + " | ".join(["**`gemsdiff`**", *cells, size, judge]) + " |")
    cells = ["", *(f"{real[key]['value']:.3f}" for key in ("density", "energy"))]
    size = f"{frechet['draws']['others']:,} (ours)"
    lines.append("| " + " | ".join(["real crystals of other compositions", *cells, size, judge]) + " |")
    return "\n".join(lines)


def table_3(found: dict[str, Any]) -> str | None:
    """Table 3 of the paper and our own column, from ``results/gemsdiff_frechet.json``."""
    if "draws" not in found:
        return None
    lines = ["| | ALIGNN (paper) | CGCNN (ours) | crystals on each side |", "|" + "---|" * 4]
    lines += [f"| {name} | {value} | | 9,046 to 9,048 |" for name, value in TABLE_3]
    draws = found["draws"]
    for words, value, n in (
        ("**`gemsdiff`**, from crystals of the same compositions", draws["from_their_compositions"], "crystals"),
        ("**`gemsdiff`**, from crystals of other compositions", draws["from_others"], "others"),
        ("real crystals, from crystals of other compositions", draws["real_from_others"]["frechet"], "others"),
    ):
        lines.append(f"| {words} | | {value:.3f} | {draws[n]:,} |")
    return "\n".join(lines)


def noise_table(found: dict[str, Any]) -> str:
    """Figure 3 in numbers, from ``results/gemsdiff_frechet.json``."""
    steps = found["noised"]["steps"]
    lines = ["| step | " + " | ".join(steps) + " |", "|" + "---|" * (len(steps) + 1)]
    for key, words in (("from_others", "from other crystals"), ("from_themselves", "from themselves")):
        lines.append(f"| {words} | " + " | ".join(f"{row[key]:.3f}" for row in steps.values()) + " |")
    return "\n".join([*lines, "", f"{found['noised']['crystals']:,} crystals on each side."])


def sizes_table(found: dict[str, Any]) -> str:
    """Figure 4 in numbers, from ``results/gemsdiff_frechet.json``."""
    sizes = found["sizes"]
    lines = ["| crystals in each set | " + " | ".join(f"{int(n):,}" for n in sizes) + " |"]
    lines.append("|" + "---|" * (len(sizes) + 1))
    for key, words in (("mean", "mean"), ("standard_deviation", "standard deviation")):
        lines.append(f"| {words} | " + " | ".join(f"{row[key]:.3f}" for row in sizes.values()) + " |")
    pairs = {row["pairs"] for row in sizes.values()}
    return "\n".join([*lines, "", f"{pairs.pop()} pairs of disjoint sets of each size."])


def _error(rates: list[float], found: dict[str, Any]) -> str:
    """The largest standard error of match rates."""
    largest = max(100 * (rate * (1 - rate) / found["crystals"]) ** 0.5 for rate in rates)
    return f"the standard error of a match rate is at most {largest:.1f} points"
