"""Lattice metrics: errors of predicted cells, and what a denoiser gains (EMPNN, Klipfel et al., AAAI 2023, eqs. 11-13).

Compared are the six parameters of the cells *as they are given*: lengths a, b, c in Å, the angles α (b, c), β (c, a), γ
(a, b) in degrees, and the volume. Nothing is reduced or permuted first, because these tasks keep the fractional
coordinates and with them the basis. The numbers therefore depend on the choice of basis: the same crystals in their
Niggli cells give others, and a prediction that swaps a and b is wrong by |a - b| twice. Rotations and reflections of
the cell change nothing: angles lie between vectors, so a left-handed cell has those of its mirror image, and its volume
is counted positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autoperi.errors import StructureError
from autoperi.metrics._common import check_lengths
from autoperi.metrics.counts import mean, quantity, share
from autoperi.metrics.regression import mae, outliers, r2, rmse

if TYPE_CHECKING:
    from numpy.typing import NDArray

AXES = ("a", "b", "c")
DEFINITIONS = {
    "cells": "parameters of the cells as given, neither reduced nor permuted; left-handed cells as their mirror images",
    "r2": "1 - Σ(predicted - reference)²/Σ(reference - mean reference)², lengths a, b, c pooled",
    "outliers": "relative errors (predicted - reference)/reference of lengths beyond Q1 - 1.5 IQR or Q3 + 1.5 IQR of "
    "themselves (PGCGM, Figure 4)",
    "improvement": "mean absolute error before minus after, over crystals and three parameters (EMPNN, eqs. 11 and "
    "12); higher is better",
    "energy": "mean of energy after minus before, per atom (EMPNN, eq. 13); lower is better. energy_lower: share with "
    "less energy after",
}
"""What the numbers of this module mean, in words that a report can carry."""


class Parameters(NamedTuple):
    """Of N cells: ``lengths`` in Å ``[N, 3]``, ``angles`` in degrees ``[N, 3]``, ``volumes`` in Å³ ``[N]``; NaN where
    there is no cell.
    """

    lengths: NDArray[np.float64]
    angles: NDArray[np.float64]
    volumes: NDArray[np.float64]


def cells_of(crystals: Any) -> NDArray[np.float64]:
    """Lattices ``[N, 3, 3]`` in Å, rows a, b, c.

    Args:
        crystals: pymatgen structures, ASE atoms or 3x3 arrays, mixed as they come, or one array ``[N, 3, 3]``. None,
            and a cell with NaN, infinity or no volume, becomes NaN: a prediction that failed, to be counted as missing.

    Raises:
        StructureError: an entry that is none of these.
    """
    out = np.full((len(crystals), 3, 3), np.nan)
    for i, crystal in enumerate(crystals):
        if crystal is None:
            continue
        lattice = getattr(crystal, "lattice", None)
        rows = crystal.cell[:] if hasattr(crystal, "cell") else crystal if lattice is None else lattice.matrix
        try:
            cell = np.asarray(rows, dtype=np.float64).reshape(3, 3)
        except (TypeError, ValueError):
            raise StructureError(
                f"crystal {i} is of type {type(crystal).__name__}; give a Structure, Atoms, a 3x3 lattice or None"
            ) from None
        edges = np.linalg.norm(cell, axis=1).prod()
        if np.isfinite(cell).all() and abs(np.linalg.det(cell)) > 1e-9 * edges:
            out[i] = cell
    return out


def lattice_parameters(crystals: Any) -> Parameters:
    """Lengths, angles and volumes of crystals; see :func:`cells_of` for what may be given."""
    cells = cells_of(crystals)
    following, last = cells[:, [1, 2, 0]], cells[:, [2, 0, 1]]
    # atan2 keeps its digits near 0°, 90° and 180°, where acos does not
    sine = np.linalg.norm(np.cross(following, last), axis=-1)
    angles = np.degrees(np.arctan2(sine, (following * last).sum(-1)))
    volumes = np.abs(np.einsum("ni,ni->n", cells[:, 0], np.cross(cells[:, 1], cells[:, 2])))
    return Parameters(np.linalg.norm(cells, axis=-1), angles, volumes)


def lattice_errors(predicted: Any, reference: Any) -> dict[str, Any]:
    """How far predicted cells are from the true ones.

    Args:
        predicted, reference: N crystals each, in the same order and basis; see :func:`cells_of`.

    Returns:
        Quantities ``length_mae_A``, ``angle_mae_deg`` (EMPNN's reconstruction errors), ``length_rmse_A``,
        ``angle_rmse_deg``, ``length_r2``, ``length_outliers`` (PGCGM, Figure 4; :data:`DEFINITIONS`),
        ``volume_mae_A3``, ``volume_relative_error`` (mean |V - V₀|/V₀), ``volume_bias`` (mean (V - V₀)/V₀), and
        ``each_length``: R², RMSE and outliers of a, b and c by themselves. ``of`` counts parameters (three a crystal)
        or volumes, ``missing`` those of crystals without a cell.

    Raises:
        RequestError: different numbers of crystals. StructureError: a pair with different atoms, which is no pair.
    """
    _check_pairs(predicted, reference)
    p, t = lattice_parameters(predicted), lattice_parameters(reference)
    relative = (p.lengths - t.lengths) / t.lengths
    growth = (p.volumes - t.volumes) / t.volumes
    return {
        "length_mae_A": mae(p.lengths, t.lengths),
        "angle_mae_deg": mae(p.angles, t.angles),
        "length_rmse_A": rmse(p.lengths, t.lengths),
        "angle_rmse_deg": rmse(p.angles, t.angles),
        "length_r2": r2(p.lengths, t.lengths),
        "length_outliers": outliers(relative),
        "volume_mae_A3": mae(p.volumes, t.volumes),
        "volume_relative_error": mean(np.abs(growth).tolist(), missing="no cell"),
        "volume_bias": mean(growth.tolist(), missing="no cell"),
        "each_length": {
            axis: {
                "r2": r2(p.lengths[:, k], t.lengths[:, k]),
                "rmse_A": rmse(p.lengths[:, k], t.lengths[:, k]),
                "outliers": outliers(relative[:, k]),
            }
            for k, axis in enumerate(AXES)
        },
    }


def absolute_parameter_errors(predicted: Any, reference: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean absolute error of the three lengths (Å) and of the three angles (degrees) of each crystal, ``[N]`` each; NaN
    without a cell.
    """
    _check_pairs(predicted, reference)
    p, t = lattice_parameters(predicted), lattice_parameters(reference)
    return np.abs(p.lengths - t.lengths).mean(1), np.abs(p.angles - t.angles).mean(1)


def lattice_improvement(noisy: Any, denoised: Any, clean: Any) -> dict[str, Any]:
    """What denoising removes of the error of the lattice (EMPNN, eqs. 11 and 12).

    length = mean over crystals of 1/3 [‖abc_noisy - abc‖₁ - ‖abc_denoised - abc‖₁], and likewise the angles.

    Args:
        noisy, denoised, clean: N crystals each, in the same order and basis; see :func:`cells_of`. A denoised crystal
            that is None is missing, not unchanged.

    Returns:
        Quantities ``length_A`` and ``angle_deg`` (crystals counted, higher is better), ``length_better`` and
        ``angle_better`` (shares of crystals whose error fell).

    Raises:
        RequestError, StructureError: as :func:`lattice_errors`.
    """
    before, after = absolute_parameter_errors(noisy, clean), absolute_parameter_errors(denoised, clean)
    gains = [(x - y).tolist() for x, y in zip(before, after, strict=True)]
    means = [mean(gain, missing="no denoised cell") for gain in gains]
    better = [share([None if np.isnan(g) else g > 0 for g in gain], missing="no denoised cell") for gain in gains]
    return dict(zip(("length_A", "angle_deg", "length_better", "angle_better"), [*means, *better], strict=True))


def energy_improvement(noisy: Sequence[float | None], denoised: Sequence[float | None]) -> dict[str, Any]:
    """Change of energy by denoising, E' - Ẽ (EMPNN, eq. 13), and the share of crystals that end lower.

    Args:
        noisy, denoised: energies in eV/atom of N crystals; None where the judge gave none. A crystal counts where both
            exist.

    Returns:
        Quantities ``energy_eV_per_atom`` (negative is better), ``energy_median_eV_per_atom`` (the mean is ruled by the
        few crystals whose deformation puts atoms on top of one another) and ``energy_lower`` (strictly lower).

    Raises:
        RequestError: different numbers of energies.
    """
    check_lengths("{} noisy and {} denoised energies are not pairs; give one for each crystal", noisy, denoised)
    change = np.asarray(denoised, dtype=np.float64) - np.asarray(noisy, dtype=np.float64)
    found = change[np.isfinite(change)]
    missing = len(change) - len(found)
    return {
        "energy_eV_per_atom": mean(change.tolist(), missing="no energy"),
        "energy_median_eV_per_atom": quantity(
            float(np.median(found)) if len(found) else None, of=len(found), missing=missing, reason="no energy"
        ),
        "energy_lower": share([bool(c < 0) if np.isfinite(c) else None for c in change], missing="no energy"),
    }


def _check_pairs(predicted: Any, reference: Any) -> None:
    check_lengths(
        "{} predicted and {} reference crystals; give one prediction (or None) for each", predicted, reference
    )
    for i, (one, other) in enumerate(zip(predicted, reference, strict=True)):
        counts = _atoms(one), _atoms(other)
        if None not in counts and counts[0] != counts[1]:
            raise StructureError(
                f"crystal {i}: {counts[0]} atoms predicted, {counts[1]} in the reference; give the same crystals in "
                "the same order and cell"
            )


def _atoms(crystal: Any) -> int | None:
    """Number of atoms, None for a bare lattice or nothing."""
    whole = hasattr(crystal, "get_volume" if hasattr(crystal, "cell") else "lattice")
    return len(crystal) if whole else None
