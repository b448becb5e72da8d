"""Tables of AutoPeri-GNN in Markdown, from benchmarks/results. ``tools/refresh_docs.py`` writes them."""

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
        cells = [_both(found["steps"][s][key]) for s in steps]
        lines.append("| " + " | ".join([words, *cells]) + " |")
    return "\n".join(lines)


def reconstruction_table(found: dict[str, Any]) -> str:
    """Match rate and RMSE of crystals drawn through their own z, by number of draws, from
    ``results/autoperi_gnn_reconstruct_mp_val.json``.
    """
    draws = list(found["draws"])
    words = {
        "nearest": "the draw that the encoder reads as nearest to z",
        "best": "the best draw, chosen by knowing the crystal",
    }
    head = ["match rate, RMSE", *(f"{k} draw{'s' if k != '1' else ''}" for k in draws)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    without = found["without"]
    lines.append("| " + " | ".join(["without z", _both(without), *[""] * (len(draws) - 1)]) + " |")
    lines += [
        "| " + " | ".join([label, *(_both(found["draws"][k][name]) for k in draws)]) + " |"
        for name, label in words.items()
    ]
    error = 100 * max(row["standard_error"] for by in found["draws"].values() for row in by.values())
    return "\n".join(
        [
            *lines,
            "",
            f"{found['crystals']:,} crystals; the standard error of a match rate is at most {error:.1f} points.",
        ]
    )


def _both(row: dict[str, float]) -> str:
    return f"{100 * row['match_rate']:.1f} %, {row['rmse']:.3f}"


def steps_table(found: dict[str, Any]) -> str:
    """Match rate and RMSE from noise by solver and number of network calls, from
    ``results/steps_curve_mp_val.json``.
    """
    words = {
        "midpoint": "midpoint",
        "euler": "Euler",
        "annealed_5": "Euler, annealed by 5",
        "annealed_20": "Euler, annealed by 20",
    }
    calls = list(found["series"]["euler"])
    head = ["match rate, RMSE", *(f"{c} network calls" for c in calls)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, label in words.items():
        by = found["series"][name]
        cells = [_both(by[c]) for c in calls]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    error = max(point["standard_error"] for by in found["series"].values() for point in by.values())
    return "\n".join(
        [
            *lines,
            "",
            f"{found['crystals']:,} crystals; the standard error of a match rate is at most {100 * error:.1f} points.",
        ]
    )


def ranking_table(found: dict[str, Any]) -> str:
    """Match rates by what ranks, with prototypes as they are and refined by the flow, from
    ``results/choose_ranking_mp_val.json``.
    """
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


def ablation_table(found: dict[str, Any]) -> str:
    """CSP with parts of ``generate`` switched off, from ``results/autoperi_gnn_ablation_mp_val.json``."""
    lines = ["| | match at 1 | at 5 | at 20 | RMSE |", "|" + "---|" * 5]
    for name, row in found["rows"].items():
        rates = [f"{100 * row[key]:.1f} %" for key in ("match_at_1", "match_at_5", "match_at_k")]
        lines.append("| " + " | ".join([name, *rates, f"{row['rmse']:.3f}"]) + " |")
    whole = found["rows"]["as it is"]["match_at_1"]
    error = 100 * (whole * (1 - whole) / found["limit"]) ** 0.5
    said = (
        f"{found['limit']:,} crystals; the standard error of a match at 1 is about {error:.1f} points, less between "
        "rows, which ask the same."
    )
    return "\n".join([*lines, "", said])


def condition_costs_table(found: dict[str, Any]) -> str:
    """Speed of ``generate`` by what is asked of it, from ``results/condition_costs.json``."""
    n = found["parameters"]["n"]
    lines = [f"| asked for | crystals/s | requests | all {n} crystals | none | refused beforehand |", "|" + "---|" * 6]
    for name, row in found["rows"].items():
        cells = [
            f"{row['crystals_per_second']:.1f}",
            *(str(row[key]) for key in ("requests", "full", "none", "refused")),
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def latent_table(found: dict[str, Any]) -> str:
    """What can be read from z and from the composition, cross-validated, from ``results/latent_map.json``."""
    system, energy = found["crystal_system"], found["formation_energy"]
    head = [
        "read from",
        "crystal system, linear",
        "10 nearest",
        "formation energy: MAE linear, eV/atom",
        "R²",
        "MAE 10 nearest, eV/atom",
        "R²",
    ]
    nothing = [
        f"{100 * system['majority']:.1f} %",
        f"{100 * system['majority']:.1f} %",
        f"{energy['mean_mae_eV']:.3f}",
        "0",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines.append("| " + " | ".join(["nothing (most common system, mean energy)", *nothing, *nothing[2:]]) + " |")
    for key, words in (("z", "z"), ("composition", "composition"), ("z_and_composition", "both")):
        cells = [f"{100 * system[key][how]:.1f} %" for how in ("linear", "nearest")]
        for how in ("linear", "nearest"):
            cells += [f"{energy[key][how]['mae_eV']:.3f}", f"{energy[key][how]['r2']:.2f}".replace("-", "−")]
        lines.append("| " + " | ".join([words, *cells]) + " |")
    share = ", ".join(f"{100 * v:.0f}" for v in found["variance_by_component"][:4])
    return "\n".join(
        [
            *lines,
            "",
            f"{found['crystals']:,} crystals. KL from the standard normal: {found['kl_nats']:.1f} nats over "
            f"{found['dimensions']} dimensions, {min(found['kl_nats_by_dimension']):.2f} to "
            f"{max(found['kl_nats_by_dimension']):.2f} each; {found['active_dimensions']} of them vary between "
            "crystals (variance of the means above 0.01). The means lie near a space of "
            f"{found['effective_dimensions']:.1f} dimensions (participation ratio); their principal components hold "
            f"{share} … % of the variance, the map {100 * found['variance_in_map']:.0f} %.",
        ]
    )


def latent_ends_table(found: dict[str, Any]) -> str:
    """The crystals at the ends of the map's axes, from ``results/latent_map.json``."""
    words = {"all": "all", "first_low": "left", "first_high": "right", "second_low": "bottom", "second_high": "top"}
    head = [
        "tenth of the crystals",
        "most common space groups",
        "cubic",
        "atoms",
        "KL, nats",
        "formation energy, eV/atom",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key, name in words.items():
        row = found["ends"][key]
        groups = ", ".join(f"{symbol} {100 * share:.0f} %" for symbol, share in row["space_groups"].items())
        energy = f"{row['formation_energy_eV']:.2f}".replace("-", "−")
        lines.append(
            f"| {name} | {groups} | {100 * row['cubic']:.0f} % | {row['atoms']:.0f} | {row['kl_nats']:.1f} | {energy} |"
        )
    return "\n".join([*lines, "", "Medians, where no share is given."])


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
