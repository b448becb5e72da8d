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


def ranking_table(found: dict[str, Any]) -> str:
    """Match rates by what ranks, with prototypes as they are and refined by the flow, from ``results/choose_ranking_mp_val.json``."""
    lines = ["| prototypes | ranked by | match at 1 | at 5 | at 20 | RMSE |", "|" + "---|" * 6]
    for steps, by in found["near_steps"].items():
        words = "as they are" if steps == "0" else f"refined by the flow, {steps} steps"
        rows = {"probability alone": by["probability"]}
        for name in ("formation energy", "potential"):
            best = max(by[name], key=lambda t: by[name][t]["match_at_1"])
            rows[f"{name}, T = {best} eV/atom"] = by[name][best]
        for name, row in rows.items():
            rates = [f"{100 * row[key]:.1f} %" for key in ("match_at_1", "match_at_5", "match_at_20")]
            lines.append("| " + " | ".join([words, name, *rates, f"{row['rmse']:.4f}"]) + " |")
    return "\n".join(lines)


def losses_table(found: dict[str, Any]) -> str:
    """Errors, losses and match rates by what a training minimises, from ``results/autoperi_gnn_losses_mp_val.json``."""
    lines = [
        "| trained on | error from noise | near | L_energy | L_sym | L_recon | L_KL | match from noise | near | s |",
        "|" + "---|" * 10,
    ]
    for name, row in found["rows"].items():
        cells = [f"{row['errors'][key]:.3f}" for key in ("noise", "near")]
        cells += [f"{row['errors'][key]:.4f}" for key in ("energy", "symmetry", "reconstruction", "kl")]
        cells += [f"{100 * row[key]['match_rate']:.0f} %, {row[key]['rmse']:.3f}" for key in ("noise", "near")]
        lines.append("| " + " | ".join([name, *cells, f"{row['seconds']:.0f}"]) + " |")
    return "\n".join(lines)
