"""An interatomic potential against DFT: errors of energies, forces and stresses over frames.

Energies are compared per atom, in meV/atom. Total energies of two methods rest on different zeros, so beside the raw
error stands the one after one constant per element is removed: energies of a frame k with n_kz atoms of element z are
compared as E_k - Σ_z n_kz c_z. The constants c are fitted to the same frames by least squares of the residual per atom,
unless they are given. Fitting flatters: each constant takes one degree of freedom. A frame that fixes a constant alone
(its leverage in the fit is 1, as that of the only frame with some element) has no error left whatever the potential,
and counts as missing from the error after the fit, not as zero.

Forces are compared by component (meV/Å), over all components of all frames, so that large frames weigh more. Stresses
are compared by the six components xx yy zz yz xz xy of the symmetric part, tension positive, in GPa, and by pressure
-tr σ/3, which no convention of order can spoil. Beside the error of forces stands that of the predictor that says zero
everywhere: of frames near an energy minimum a potential may be worse than it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autoperi.data.elements import element_number
from autoperi.errors import DataError, RequestError
from autoperi.metrics._common import check_lengths
from autoperi.metrics.counts import mean
from autoperi.metrics.regression import mae, r2, rmse
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_FORCE = 1e-3
"""eV/Å: a smaller reference force has no direction to compare."""
DEFINITIONS = {
    "energy": "mean absolute error of total energy per atom, meV/atom",
    "energy_shifted": "the same after one constant per element, fitted on all these frames by least squares unless "
    "they are given",
    "force": "over all components of all frames, meV/Å",
    "force_zero": "the same of the predictor that says zero everywhere: the mean absolute reference component, meV/Å",
    "force_cosine": "mean over atoms of the cosine between predicted and reference force, reference above "
    f"{MIN_FORCE} eV/Å",
    "stress": "over the components xx yy zz yz xz xy, tension positive, GPa; pressure is -tr/3",
}
"""What the numbers of this module mean, in words that a report can carry."""


class Frame(NamedTuple):
    """What is known of, or predicted for, one frame; None where it is not.

    Attributes:
        energy: eV, of the whole cell.
        forces: ``[n, 3]`` in eV/Å.
        stress: symmetric ``[3, 3]`` in GPa, tension positive.
    """

    energy: float | None = None
    forces: NDArray[np.float64] | None = None
    stress: NDArray[np.float64] | None = None


def compositions(atomic_numbers: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Atoms of each element in each frame, ``[F, 119]``."""
    size = MAX_ATOMIC_NUMBER + 1
    rows = [np.bincount(np.asarray(z, dtype=int), minlength=size) for z in atomic_numbers]
    return np.array(rows, dtype=np.float64).reshape(-1, size)


def fit_element_energies(
    predicted: ArrayLike, reference: ArrayLike, counts: NDArray[np.float64]
) -> tuple[dict[int, float], NDArray[np.float64]]:
    """Constants c_z (eV/atom) with Σ_z n_kz c_z nearest to E_pred - E_ref, per atom, by least squares; and the leverage
    of each frame.

    Elements that always occur in the same ratio share one degree of freedom; the smallest constants are then taken,
    which changes no residual. Frames without either energy do not count.

    Args:
        predicted, reference: total energies in eV, ``[F]``; NaN where there is none.
        counts: see :func:`compositions`.

    Returns:
        Atomic number to constant, and the diagonal of the hat matrix ``[F]``: 1 where the frame fixes a constant alone,
        0 where it does not count. It sums to the degrees of freedom.
    """
    residual = np.asarray(predicted, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    good = np.isfinite(residual)
    present = np.nonzero(counts[good].sum(0))[0]
    leverage = np.zeros(len(residual))
    if not len(present):
        return {}, leverage
    n = counts[good].sum(1)
    u, size, vt = np.linalg.svd(counts[good][:, present] / n[:, None], full_matrices=False)
    kept = size > 1e-10 * size.max()
    u, size, vt = u[:, kept], size[kept], vt[kept]
    constants = vt.T @ ((u.T @ (residual[good] / n)) / size)
    leverage[good] = (u**2).sum(1)
    return {int(z): float(c) for z, c in zip(present, constants, strict=True)}, leverage


def energy_errors(
    predicted: ArrayLike,
    reference: ArrayLike,
    counts: NDArray[np.float64],
    *,
    constants: Mapping[int, float] | None = None,
    leverage: ArrayLike | None = None,
) -> dict[str, Any]:
    """Errors of energies in meV/atom.

    Args:
        predicted, reference: total energies in eV, ``[F]``; NaN where there is none.
        counts: see :func:`compositions`.
        constants: eV/atom by atomic number, subtracted from the predictions; None fits them to these frames.
        leverage: of these frames in the fit that gave ``constants``, ``[F]``; None where they come from elsewhere.

    Returns:
        Quantities ``mae``, ``rmse`` and ``bias`` (predicted - reference), raw, and ``mae_shifted``, ``rmse_shifted``,
        ``r2_shifted`` after the constants. From the latter a frame is missing that has an element without a constant,
        or fixes a constant alone (``fixed_by_the_fit`` counts those).
    """
    e, t = (np.asarray(v, dtype=np.float64) for v in (predicted, reference))
    if constants is None:
        constants, leverage = fit_element_energies(e, t, counts)
    n = counts.sum(1)
    raw, goal = 1000 * e / n, 1000 * t / n
    after = raw - 1000 * shift(constants, counts) / n
    alone = np.zeros(len(n), dtype=bool) if leverage is None else np.asarray(leverage) > 1 - 1e-9
    after = np.where(alone, np.nan, after)
    out = {
        "mae": mae(raw, goal),
        "rmse": rmse(raw, goal),
        "bias": mean((raw - goal).tolist(), missing="no energy"),
        "mae_shifted": mae(after, goal),
        "rmse_shifted": rmse(after, goal),
        "r2_shifted": r2(after, goal),
    }
    for key in ("mae_shifted", "rmse_shifted", "r2_shifted"):
        out[key]["fixed_by_the_fit"] = int((alone & np.isfinite(raw) & np.isfinite(goal)).sum())
        if out[key]["value"] is None and alone.any() and not out[key]["of"]:
            out[key]["reason"] = "every frame fixes a constant of the fit alone and leaves nothing to measure"
    return out


def shift(constants: Mapping[int, float], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ_z n_kz c_z in eV of each frame, ``[F]``; NaN where an element has no constant."""
    table = np.full(counts.shape[1], np.nan)
    for z, value in constants.items():
        table[int(z)] = float(value)
    lacking = (counts[:, np.isnan(table)] > 0).any(1)
    return np.where(lacking, np.nan, counts @ np.nan_to_num(table))


def element_constants(table: Mapping[Any, float]) -> dict[int, float]:
    """Constants by atomic number, from symbols or numbers.

    Raises:
        RequestError: not an element with a finite energy.
    """
    out: dict[int, float] = {}
    for key, value in table.items():
        try:
            z = int(key) if not isinstance(key, str) or key.isdigit() else element_number(key)
            number = float(value)
            if not 1 <= z <= MAX_ATOMIC_NUMBER or not np.isfinite(number):
                raise ValueError
        except Exception:
            raise RequestError(
                f"element_energies: {key!r}: {value!r} is not an element with a finite energy in eV; write "
                f"{{'Cu': -3.7}}"
            ) from None
        out[z] = number
    return out


def force_errors(
    predicted: Sequence[ArrayLike | None], reference: Sequence[ArrayLike | None], *, min_force: float = MIN_FORCE
) -> dict[str, Any]:
    """Errors of forces, ``[n, 3]`` in eV/Å a frame, None where there are none.

    Returns:
        Quantities ``mae``, ``rmse`` (meV/Å, of components), ``mae_of_zero`` (the ``mae`` of forces that are all zero),
        ``r2``, ``cosine`` (of atoms), and ``frames`` with ``missing_frames``.

    Raises:
        DataError: a frame whose two sets of forces differ in shape.
    """
    x, y, missing = _joined(predicted, reference, "forces")
    size, other = np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1)
    directed = (size > min_force) & (other > 0) & np.isfinite(other)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.where(directed, (x * y).sum(1) / (size * other), np.nan)
    return {
        "mae": mae(1000 * x, 1000 * y),
        "rmse": rmse(1000 * x, 1000 * y),
        "mae_of_zero": mae(np.zeros_like(y), 1000 * y),
        "r2": r2(x, y),
        "cosine": mean(cosine.tolist(), missing="no force to compare a direction with"),
        "frames": len(reference) - missing,
        "missing_frames": missing,
    }


def stress_errors(predicted: Sequence[ArrayLike | None], reference: Sequence[ArrayLike | None]) -> dict[str, Any]:
    """Errors of stresses, ``[3, 3]`` in GPa a frame, None where there is none.

    Returns:
        Quantities ``mae``, ``rmse`` (GPa, of the six components), ``r2``, ``pressure_mae``, and ``frames`` with
        ``missing_frames``.
    """
    from ase.stress import full_3x3_to_voigt_6_stress

    x, y, missing = _joined(predicted, reference, "stress")
    six_x, six_y = (full_3x3_to_voigt_6_stress(s.reshape(-1, 3, 3)) for s in (x, y))
    return {
        "mae": mae(six_x, six_y),
        "rmse": rmse(six_x, six_y),
        "r2": r2(six_x, six_y),
        "pressure_mae": mae(-six_x[:, :3].mean(1), -six_y[:, :3].mean(1)),
        "frames": len(reference) - missing,
        "missing_frames": missing,
    }


def potential_errors(
    predicted: Sequence[Frame],
    reference: Sequence[Frame],
    atomic_numbers: Sequence[ArrayLike],
    *,
    element_energies: Mapping[Any, float] | None = None,
    groups: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Errors of energies (meV/atom), forces (meV/Å) and stresses (GPa) of F frames, and of each group of them.

    Args:
        predicted, reference: one frame each, in the same order.
        atomic_numbers: of each frame.
        element_energies: constants c_z in eV/atom (symbol or number) to subtract from the predictions; None fits them
            to all these frames.
        groups: the group of each frame (an element set), or a tuple of groups; each uses the constants of all frames.

    Returns:
        ``energy``, ``force``, ``stress`` (dicts of quantities), ``element_energies`` (symbol to eV),
        ``element_energies_from``, and ``by_group`` with the first three of each.

    Raises:
        RequestError: unequal numbers of frames, constants that are none. DataError: forces of the wrong shape.
    """
    if not len(predicted) == len(reference) == len(atomic_numbers) or (
        groups is not None and len(groups) != len(reference)
    ):
        raise RequestError(
            f"{len(predicted)} predicted and {len(reference)} reference frames; give one prediction, atoms and group "
            "for each"
        )
    from ase.data import chemical_symbols

    counts = compositions(atomic_numbers)
    e, t = (
        np.array([np.nan if f.energy is None else f.energy for f in frames], dtype=np.float64)
        for frames in (predicted, reference)
    )
    leverage = None
    if element_energies is None:
        constants, leverage = fit_element_energies(e, t, counts)
    else:
        constants = element_constants(element_energies)

    def rows(chosen: list[int]) -> dict[str, Any]:
        inside = np.array(chosen, dtype=int)
        own = None if leverage is None else leverage[inside]
        return {
            "n": len(chosen),
            "energy": energy_errors(e[inside], t[inside], counts[inside], constants=constants, leverage=own),
            "force": force_errors([predicted[k].forces for k in chosen], [reference[k].forces for k in chosen]),
            "stress": stress_errors([predicted[k].stress for k in chosen], [reference[k].stress for k in chosen]),
        }

    out = rows(list(range(len(reference))))
    out["element_energies"] = {chemical_symbols[z]: round(c, 6) for z, c in constants.items()}
    out["element_energies_from"] = "given" if leverage is None else "least squares on these frames"
    if groups is not None:
        names = [tuple(map(str, g)) if isinstance(g, tuple) else (str(g),) for g in groups]
        every = sorted({name for some in names for name in some})
        out["by_group"] = {name: rows([k for k, some in enumerate(names) if name in some]) for name in every}
    return out


def _joined(
    predicted: Sequence[ArrayLike | None], reference: Sequence[ArrayLike | None], what: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Rows ``[·, 3]`` of the frames that have both, and the number of frames that have not."""
    check_lengths(
        f"{what} of {{}} predicted and {{}} reference frames; give None where there are none", predicted, reference
    )
    found: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for k, (x, y) in enumerate(zip(predicted, reference, strict=True)):
        if x is None or y is None:
            continue
        one, other = np.asarray(x, dtype=np.float64).reshape(-1, 3), np.asarray(y, dtype=np.float64).reshape(-1, 3)
        if one.shape != other.shape:
            raise DataError(
                f"frame {k}: {what} of shape {one.shape} predicted, {other.shape} in the reference; they must be of "
                "the same atoms"
            )
        if np.isfinite(one).all() and np.isfinite(other).all():
            found.append((one, other))
    empty = np.zeros((0, 3))
    return (
        np.concatenate([empty, *(x for x, _ in found)]),
        np.concatenate([empty, *(y for _, y in found)]),
        len(reference) - len(found),
    )
