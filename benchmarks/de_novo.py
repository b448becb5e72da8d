"""Systems that draw crystals without a composition, beside each other; ``tools/refresh_docs.py`` writes the table of
docs/results.md from benchmarks/results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SYSTEMS = {
    "prototype pipeline (`autoperi-base`)": "generation_mp20_test_1000.json",
    "GAN (`pgcgm`)": "pgcgm_generation_mp20_test_1000.json",
}
COLUMNS: dict[str, tuple[str, int, float]] = {
    "valid, %": ("validity.valid.value", 1, 100),
    "distances and volume valid, %": ("validity.structural.value", 1, 100),
    "COV-R, %": ("coverage.cov_recall.value", 1, 100),
    "COV-P, %": ("coverage.cov_precision.value", 1, 100),
    "MMD": ("distribution.mmd.structure.unbiased.value", 4, 1),
    "density, g/cm³": ("distribution.wasserstein.density.value", 2, 1),
    "unique, %": ("novelty.unique.value", 1, 100),
    "novel, %": ("novelty.novel.value", 1, 100),
}
"""Keys of the results, decimals, and the unit that a value is multiplied by."""


def de_novo_table(results: Callable[[str], Any]) -> str | None:
    """The table; None where a measurement has not been made."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name, file in SYSTEMS.items():
        found = results(file)
        if found is None:
            return None
        cells = []
        for key, digits, unit in COLUMNS.values():
            value = found
            for part in key.split("."):
                value = value[part]
            cells.append(f"{unit * value:.{digits}f}".replace("-", "−"))
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)
