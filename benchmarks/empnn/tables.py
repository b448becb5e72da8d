"""Tables 1 and 2 of EMPNN (Klipfel et al., AAAI 2023) in Markdown: the published rows of Mp-20 beside ours.
``tools/refresh_docs.py`` writes them.
"""

from __future__ import annotations

from typing import Any

PUBLISHED_FIELDS = {
    "ketbra_1": (0.115, 1.437),
    "ketbra_2": (0.053, 0.283),
    "ketbra_12": (0.063, 0.270),
    "ketbra_12_sym": (0.066, 0.353),
    "ketbra_12_all": (0.066, 0.420),
    "grad_1": (0.102, 1.479),
    "grad_2": (0.085, 0.391),
    "grad_12": (0.101, 0.541),
    "grad_12_area": (0.106, 0.717),
    "grad_12_angle": (0.088, 0.617),
    "sym_1": (0.064, 0.816),
    "sym_2": (0.101, 0.503),
    "sym_12_angle": (-0.001, -0.007),
    "feed_forward": (-0.304, -3.304),
}
"""Improvement of lengths (Å) and angles (degrees) on Mp-20, Table 2."""
PUBLISHED_ALONE = {
    "∇sym {r ⊂ Γ₁} ∪ {r, r' ⊂ Γ₂}": (0.098, 0.672, "the field of ∇"),
    "∇sym {r ⊂ Γ₁} ∪ {r, r', 𝒜 ⊂ Γ₂}": (0.124, 1.160, "the field of ∇"),
    "DFT (VASP)": (0.345, 5.648, "not run"),
}
"""Rows of the same table that have no run of their own here, and why."""
PUBLISHED_LOSSES = {
    "parameters_mae": (0.785, 5.093, 3.124, 51.7),
    "parameters_mse": (0.710, 4.752, 5.485, 44.8),
    "metric_mae": (0.540, 1.674, 11.268, 40.7),
    "metric_mse": (0.683, 2.645, 10.964, 18.5),
    "riemann": (0.729, 3.777, 6.859, 51.7),
}
"""Improvement of lengths (Å), angles (degrees) and energy (eV/atom, by VASP), and the percentage with less energy, on
Mp-20, Table 1.
"""


def fields_table(found: dict[str, Any]) -> str:
    """Table 2 from ``results/empnn_fields.json``."""
    lines = [
        "| field | paper: lengths, Å | angles, ° | ours: lengths, Å | angles, ° | error removed, lengths | angles |",
        "|" + "---|" * 7,
    ]
    for row in found["rows"]:
        published = PUBLISHED_FIELDS.get(row["name"])
        gain = row["improvement"]
        cells = [row["paper"].replace("|", "\\|"), *(("", "") if published is None else (say(x, 3) for x in published))]
        cells += [say(gain["length_A"]["value"], 3), say(gain["angle_deg"]["value"], 3)]
        cells += [percent(row["length_error_removed"]), percent(row["angle_error_removed"])]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {name} | {say(a, 3)} | {say(b, 3)} | {why} | | | |" for name, (a, b, why) in PUBLISHED_ALONE.items()]
    return "\n".join(lines)


def losses_table(found: dict[str, Any]) -> str:
    """Table 1 from ``results/empnn_losses.json``."""
    lines = [
        "| loss | paper: lengths, Å | angles, ° | energy, eV/atom (lower in) | ours: lengths, Å | angles, ° | energy, "
        "eV/atom | median | lower in |",
        "|" + "---|" * 9,
    ]
    for row in found["rows"]:
        length, angle, energy, lower = PUBLISHED_LOSSES[row["loss"]]
        gain = row["improvement"]
        cells = [f"`{row['loss']}`", say(length, 3), say(angle, 3), f"{say(energy, 3)} ({lower:.1f} %)"]
        cells += [say(gain["length_A"]["value"], 3), say(gain["angle_deg"]["value"], 3), *_energy(row["energy"])]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("| the undeformed crystal | | | | | | " + " | ".join(_energy(found["undeformed"])) + " |")
    return "\n".join(lines)


def _energy(found: dict[str, Any]) -> list[str]:
    return [
        say(found["energy_eV_per_atom"]["value"], 3),
        say(found["energy_median_eV_per_atom"]["value"], 3),
        percent(found["energy_lower"]["value"]),
    ]


def say(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}".replace("-", "−")


def percent(share: float | None) -> str:
    return "none" if share is None else say(100 * share, 1) + " %"
