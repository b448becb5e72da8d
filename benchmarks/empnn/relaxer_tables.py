"""Tables of the lattice relaxer in Markdown, from benchmarks/results. ``tools/refresh_docs.py`` writes them."""

from __future__ import annotations

from typing import Any

NAMES = {"mp20_test": "MP (`mp20_test`)", "carbon24_test": "Carbon-24", "perov5_test": "Perov-5"}


def calibration_table(found: dict[str, Any]) -> str:
    """Fifths by confidence, from ``results/empnn_calibration.json``."""
    lines = ["| `confidence` | right within 2 % | `expected_error` | error | crystals |", "|" + "---|" * 5]
    for row in found["fifths_held_out"]:
        cells = [f"{100 * row[key]:.1f} %" for key in ("confidence", "within_2_percent", "expected_error", "error")]
        lines.append("| " + " | ".join([*cells, str(row["of"])]) + " |")
    return "\n".join(lines)


def reconstruct_table(found: dict[str, Any]) -> str:
    """Table 3, from ``results/empnn_reconstruct.json``."""
    lines = ["| | crystals | model | lengths, Å | angles, ° |", "|" + "---|" * 5]
    for name, row in found["rows"].items():
        published = (
            {} if row["paper"] is None else {f"{model}, as published": errors for model, errors in row["paper"].items()}
        )
        ours = {
            "feed forward, trained beside": row["feed forward"],
            "relaxer": row["relaxer"],
            "relaxer, cells as given": row["relaxer, cells as given"],
        }
        said = [(label, *errors) for label, errors in published.items()]
        said += [(label, errors["length_mae_A"], errors["angle_mae_deg"]) for label, errors in ours.items()]
        for k, (label, length, angle) in enumerate(said):
            head = [NAMES[name], f"{row['n']:,}"] if k == 0 else ["", ""]
            lines.append("| " + " | ".join([*head, label, f"{length:.3f}", f"{angle:.3f}"]) + " |")
    return "\n".join(lines)


def against_fire_table(found: dict[str, Any]) -> str:
    """Energies after so many FIRE steps, from ``results/empnn_against_fire.json``."""
    alone, after = found["ways"]["fire"], found["ways"]["relax_lattice and fire"]
    key = "energy_above_undeformed_eV_per_atom"
    lines = [
        "| FIRE steps | FIRE alone: median, meV/atom | mean | after `relax_lattice`: median, meV/atom | mean |",
        "|" + "---|" * 5,
    ]
    for steps in alone[key]:
        cells = [
            f"{round(1000 * way[key][steps][what], 1) + 0.0:.1f}"
            for way in (alone, after)
            for what in ("median", "mean")
        ]
        lines.append("| " + " | ".join([steps, *cells]).replace("-", "−") + " |")
    return "\n".join(lines)
