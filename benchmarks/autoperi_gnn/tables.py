"""Tables of AutoPeri-GNN in Markdown, from benchmarks/results. ``benchmarks/refresh_docs.py`` writes them."""

from __future__ import annotations

from typing import Any

ROWS = {
    "noise": "from noise",
    "latent": "from noise, through z of the crystal itself (reconstruction)",
    "near": "near a start that is the crystal, moved",
    "start": "that start itself",
}


def flow_table(found: dict[str, Any]) -> str:
    """Match rate and RMSE with space group and orbits given, from ``results/autoperi_gnn_mp_val.json``."""
    steps = list(found["steps"])
    head = ["match rate, RMSE", *(f"{s} steps" for s in steps)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key, words in ROWS.items():
        cells = [f"{100 * found['steps'][s][key]['match_rate']:.1f} %, {found['steps'][s][key]['rmse']:.3f}" for s in steps]
        lines.append("| " + " | ".join([words, *cells]) + " |")
    return "\n".join(lines)


def ablation_table(found: dict[str, Any]) -> str:
    """CSP with parts of ``generate`` switched off, from ``results/generate_ablation_mp_val.json``."""
    lines = [
        f"| {found['limit']} compositions | match at 1 | at 5 | at 20 | RMSE | candidates/s, one core |",
        "|" + "---|" * 6,
    ]
    for name, row in found["rows"].items():
        rates = [f"{100 * row[key]:.1f} %" for key in ("match_at_1", "match_at_5", "match_at_k")]
        lines.append("| " + " | ".join([name, *rates, f"{row['rmse']:.4f}", f"{row['crystals_per_second']:.0f}"]) + " |")
    return "\n".join(lines)
