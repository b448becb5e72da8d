"""Lattice denoising: crystals deformed by exp(A), and how much of the error the relaxer removes (EMPNN, eq. 11-12)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoperi.convert import to_structures
from autoperi.crystal import CrystalBatch
from autoperi.evaluation.common import decimals, facts, load
from autoperi.geometry.lattice import lengths_angles, random_strain, symmetric_exp
from autoperi.random import torch_generator

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri


def evaluate_denoise(
    peri: AutoPeri,
    path: str | Path,
    *,
    sigma: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Mean absolute error of lengths (Å) and angles (degrees) before and after ``relax_lattice``.

    Every crystal is deformed by its own symmetric A with entries N(0, ``sigma``), drawn from ``(seed, row)``.
    """
    table, rows = load(path, limit, seed)
    clean = table[rows].batch(dtype=torch.float64)
    strains = torch.cat([random_strain(torch_generator(seed, row), sigma, 1, dtype=torch.float64) for row in rows])
    noisy = clean.replace(lattice=clean.lattice @ symmetric_exp(strains))
    started = time.perf_counter()
    relaxed = peri.relax_lattice(to_structures(noisy), steps=steps, progress=progress)
    seconds = time.perf_counter() - started
    status = [s.properties["autoperi"]["relaxation"]["status"] for s in relaxed]
    after = torch.stack([torch.as_tensor(s.lattice.matrix.copy()) for s in relaxed])
    before_error, after_error = _errors(noisy.lattice, clean), _errors(after, clean)
    return {
        "task": "denoise",
        "n": len(rows),
        "sigma": sigma,
        "steps": steps,
        "length_mae_before_A": decimals(before_error[0]),
        "length_mae_after_A": decimals(after_error[0]),
        "angle_mae_before_deg": decimals(before_error[1]),
        "angle_mae_after_deg": decimals(after_error[1]),
        "length_error_removed": decimals(1 - after_error[0] / before_error[0]) if before_error[0] else None,
        "angle_error_removed": decimals(1 - after_error[1] / before_error[1]) if before_error[1] else None,
        "status": {name: status.count(name) for name in sorted(set(status))},
        "seconds": decimals(seconds, 1),
        "crystals_per_second": decimals(len(rows) / seconds, 1),
    } | facts(path, peri.provenance(), seed)


def _errors(lattice: torch.Tensor, clean: CrystalBatch) -> tuple[float, float]:
    (lengths, angles), (true_lengths, true_angles) = lengths_angles(lattice), lengths_angles(clean.lattice)
    return float((lengths - true_lengths).abs().mean()), float((angles - true_angles).abs().mean())
