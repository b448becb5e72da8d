"""Tables of docs/score.md about properties, from the JSON of benchmarks/results; ``tools/refresh_docs.py`` writes
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Results = Callable[[str], Any]
"""File name in benchmarks/results to its content."""
TARGETS = {
    "formation_energy": (
        "formation energy, eV/atom",
        "properties_mp20_test.json",
        "mae_eV_per_atom",
        "composition_only_mae_eV",
        3,
    ),
    "band_gap": ("band gap, eV", "properties_band_gap_mp20_test.json", "mae_eV", "composition_only_mae_eV", 3),
    "k_vrh": (
        "log10 K, GPa",
        "properties_k_vrh_mp_elastic_test.json",
        "mae_log10_GPa",
        "composition_only_mae_log10_GPa",
        3,
    ),
    "g_vrh": (
        "log10 G, GPa",
        "properties_g_vrh_mp_elastic_test.json",
        "mae_log10_GPa",
        "composition_only_mae_log10_GPa",
        3,
    ),
}
"""Words, file and keys of the model and of the composition-only network, decimals."""
OTHERS = {"cgcnn": "CGCNN", "crystal_transformer": "crystal transformer"}


def baselines_table(results: Results) -> str:
    """Mean absolute errors of the model beside those of the baselines on the same rows."""
    head = ["mean absolute error", "AutoPeri", *(f"{words} (epochs)" for words in OTHERS.values()), "composition only"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for target, (words, file, key, guess, digits) in TARGETS.items():
        ours = results(file)
        cells = [_value(ours[key], digits)]
        cells += [_other(results, name, target, digits) for name in OTHERS]
        lines.append("| " + " | ".join([words, *cells, _value(ours[guess], digits)]) + " |")
    return "\n".join(lines)


def crysgnn_table(results: Results) -> str:
    """Errors from scratch, fine-tuned and distilled."""
    found = results("crysgnn_val.json")
    modes = list(next(iter(found["table"].values())))
    words = {"formation_energy": "formation energy, eV/atom", "shear_modulus": "log10 G, GPa"}
    lines = [
        "| mean absolute error | training rows | steps | " + " | ".join(modes) + " |",
        "|" + "---|" * (3 + len(modes)),
    ]
    for name, cells in found["table"].items():
        target, count = name.split(", ")
        rows = [r for r in found["rows"] if r["target"] == target and r["rows"] == int(count.split()[0])]
        lines.append(
            f"| {words[target]} | {rows[0]['rows']:,} | {rows[0]['steps']:,} | "
            + " | ".join(f"{cells[m]:.4f}" for m in modes)
            + " |"
        )
    return "\n".join(lines)


def label_origin_table(results: Results) -> str:
    """Errors with labels of another release left out, weighed and taken in full."""
    found = results("label_origin_mp_val.json")
    lines = [
        "| labels of another release | training rows | steps | mean absolute error, eV/atom |",
        "|---|---|---|---|",
    ]
    for name, mae in found["table"].items():
        row = next(r for r in found["rows"] if r["labels"] == name)
        lines.append(f"| {name} | {row['rows']:,} | {row['steps']:,} | {mae:.4f} |")
    return "\n".join(lines)


def _other(results: Results, name: str, target: str, digits: int) -> str:
    """Error and epochs of a baseline, or that it was not trained."""
    try:
        if target == "formation_energy":
            mae, epochs = (
                results(f"{name}_mp20_test.json")["mae_eV_per_atom"],
                results(f"../training/{name}.json")["summary"]["epochs"],
            )
        else:
            found = results(f"{name}_{target}.json")
            mae, epochs = found["errors"]["mae"], found["summary"]["epochs"]
    except FileNotFoundError:
        return "not trained"
    return f"{_value(mae, digits)} ({epochs})"


def _value(found: Any, digits: int) -> str:
    """A number, or the value of a quantity."""
    return f"{found['value'] if isinstance(found, dict) else found:.{digits}f}"
