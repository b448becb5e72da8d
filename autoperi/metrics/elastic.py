"""Elastic tensor by finite strains with any ASE calculator, Born stability, and Voigt-Reuss-Hill moduli.

Voigt order is ASE's: xx yy zz yz xz xy, shear strains doubled, tension positive. Moduli are in GPa.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoperi.errors import RequestError, StructureError
from autoperi.metrics._common import failure_of, judge_crystals, quiet, rounded
from autoperi.metrics.counts import mean, share
from autoperi.metrics.relaxation import bare_atoms
from autoperi.units import EV_PER_A3_IN_GPA

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
STRAINS = (-0.01, -0.005, 0.005, 0.01)
"""Along and across: each component of the Voigt strain takes these values."""


def elastic(
    crystal: Any,
    calculator: Any,
    *,
    strains: Sequence[float] = STRAINS,
    relax_positions: bool = True,
    fmax: float = 0.01,
    steps: int = 200,
    symmetrise: bool = True,
    symprec: float = 0.01,
) -> dict[str, Any]:
    """Elastic constants of one crystal, ``C_ij = dσ_i / dε_j``, by least squares over finite strains.

    The cell is taken as given: relax it with the same calculator first. ``residual_stress_GPa`` says how far it is from
    that; under load the tensor depends on the definition of strain and Born's criterion is no longer the whole truth.

    Args:
        crystal: pymatgen structure or ASE atoms.
        calculator: of ASE, with stress.
        strains: amplitudes, positive and negative, that each of the six Voigt strains takes in turn.
        relax_positions: let the atoms relax in each strained cell (ASE FIRE); otherwise the ions are clamped.
        fmax: of these relaxations, eV/Å.
        steps: most of them, each; a relaxation that needs more is counted in ``unrelaxed``.
        symmetrise: average the tensor over the crystal's point group.
        symprec: Å, for the point group.

    Returns:
        ``tensor_GPa`` (6×6), ``eigenvalues_GPa`` (ascending), ``born_stable``, ``bulk_modulus_GPa`` and
        ``shear_modulus_GPa`` (Voigt-Reuss-Hill), ``residual_stress_GPa`` (largest component), ``asymmetry_GPa``
        (largest ``|C - Cᵀ|`` before symmetrising), ``unrelaxed``, ``force_calls`` and ``reason``; the numbers are None
        with a reason where it failed.

    Raises:
        RequestError: strains that are zero, too large or one-sided.
    """
    amplitudes = check_strains(strains)
    out: dict[str, Any] = dict.fromkeys(_FIELDS) | {"unrelaxed": 0, "force_calls": 0}
    search = {"fmax": fmax, "steps": steps} if relax_positions else None
    with quiet():
        try:
            atoms = bare_atoms(crystal)
            rest = _stress(atoms, calculator, out)
            stresses = np.array(
                [[_stress(_strained(atoms, j, x), calculator, out, search) for x in amplitudes] for j in range(6)]
            )
            raw = np.stack([np.polyfit(amplitudes, stresses[j], 1)[0] for j in range(6)], axis=1) * EV_PER_A3_IN_GPA
            if not np.isfinite(raw).all():
                raise StructureError("a stress is not finite")
            tensor = (raw + raw.T) / 2
            if symmetrise:
                tensor = symmetrised(tensor, point_group(atoms, symprec))
        except Exception as error:  # a calculator may raise anything; the crystal failed, not the run
            return out | {"reason": failure_of(calculator, error)}
    found = moduli(tensor)
    return out | {
        "tensor_GPa": np.round(tensor, 4).tolist(),
        "eigenvalues_GPa": np.round(np.linalg.eigvalsh(tensor), 4).tolist(),
        "born_stable": born_stable(tensor),
        "bulk_modulus_GPa": rounded(found["K_vrh"]),
        "shear_modulus_GPa": rounded(found["G_vrh"]),
        "residual_stress_GPa": rounded(float(np.abs(rest).max()) * EV_PER_A3_IN_GPA),
        "asymmetry_GPa": rounded(float(np.abs(raw - raw.T).max())),
    }


def elastic_stability(
    crystals: Sequence[Any], calculator: Any, *, progress: bool | None = None, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Share of crystals that fulfil Born's criterion, and their mean moduli.

    Args:
        crystals: relaxed with the same calculator.
        calculator: of ASE, with stress.
        progress: show a bar.
        **settings: of :func:`elastic`.

    Returns:
        The summary (``born_stable``, ``bulk_modulus_GPa``, ``shear_modulus_GPa``, ``parameters``), and :func:`elastic`
        of each.
    """
    rows = judge_crystals(elastic, crystals, calculator, settings, progress=progress, description="elastic tensors")
    parameters, why = {**(elastic.__kwdefaults__ or {}), **settings}, "no stable elastic tensor"
    summary = {
        "born_stable": share([row["born_stable"] for row in rows], missing="no elastic tensor"),
        "bulk_modulus_GPa": mean([row["bulk_modulus_GPa"] for row in rows], missing=why),
        "shear_modulus_GPa": mean([row["shear_modulus_GPa"] for row in rows], missing=why),
        "parameters": {**parameters, "strains": list(parameters["strains"])},
    }
    return summary, rows


def born_stable(tensor: NDArray[np.float64], *, tolerance: float = 0.0) -> bool:
    """Whether every eigenvalue of the symmetric 6×6 tensor is above ``tolerance`` (GPa): every strain costs energy.

    Born 1940; Mouhat & Coudert, Phys. Rev. B 90, 224104 (2014), eq. 2, show that this is necessary and sufficient in
    every crystal system, of which their criteria for each system are the special cases.
    """
    return bool(np.linalg.eigvalsh((tensor + tensor.T) / 2).min() > tolerance)


def moduli(tensor: NDArray[np.float64]) -> dict[str, float | None]:
    """Bulk and shear moduli after Voigt, Reuss and Hill, in the unit of the 6×6 tensor (Hill 1952).

    Returns:
        ``K_voigt``, ``G_voigt``, ``K_reuss``, ``G_reuss``, ``K_vrh``, ``G_vrh``. Reuss's average, and Hill's with it,
        is None for a tensor that is not positive definite: it assumes a stress that the crystal could not bear.
    """
    c = tensor
    k_voigt = float(c[:3, :3].sum()) / 9
    g_voigt = float(np.trace(c[:3, :3]) - (c[0, 1] + c[0, 2] + c[1, 2]) + 3 * np.trace(c[3:, 3:])) / 15
    out: dict[str, float | None] = {"K_voigt": k_voigt, "G_voigt": g_voigt}
    out |= dict.fromkeys(("K_reuss", "G_reuss", "K_vrh", "G_vrh"))
    if born_stable(tensor):
        s = np.linalg.inv(tensor)
        k = 1 / float(s[:3, :3].sum())
        g = 15 / float(4 * np.trace(s[:3, :3]) - 4 * (s[0, 1] + s[0, 2] + s[1, 2]) + 3 * np.trace(s[3:, 3:]))
        out |= {"K_reuss": k, "G_reuss": g, "K_vrh": (k_voigt + k) / 2, "G_vrh": (g_voigt + g) / 2}
    return out


def point_group(atoms: Any, symprec: float = 0.01) -> NDArray[np.float64]:
    """Rotations of a crystal's point group as Cartesian matrices ``[n, 3, 3]`` (columns are transformed: ``x' = R
    x``).
    """
    import spglib

    cell = np.array(atoms.cell[:])
    found = spglib.get_symmetry((cell, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec)
    if found is None:
        return np.eye(3)[None]
    inverse = np.linalg.inv(cell.T)
    return np.array([cell.T @ w @ inverse for w in found["rotations"]])


def symmetrised(tensor: NDArray[np.float64], rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a 6×6 stiffness over rotations ``[n, 3, 3]``: ``C'_ijkl = R_ia R_jb R_kc R_ld C_abcd``."""
    index = np.zeros((3, 3), dtype=int)
    for v, (i, j) in enumerate(VOIGT):
        index[i, j] = index[j, i] = v
    full = tensor[index[:, :, None, None], index[None, None, :, :]]
    turned = np.mean([np.einsum("ia,jb,kc,ld,abcd->ijkl", r, r, r, r, full, optimize=True) for r in rotations], axis=0)
    return np.array([[turned[i, j, k, m] for k, m in VOIGT] for i, j in VOIGT])


def check_strains(strains: Sequence[float]) -> NDArray[np.float64]:
    """Strains as an array.

    Raises:
        RequestError: fewer than two, on one side only, zero, or above 0.1.
    """
    values = np.asarray(list(strains), dtype=float)
    sizes = np.abs(values)
    good = values.ndim == 1 and len(values) >= 2 and ((sizes > 0) & (sizes <= 0.1)).all()
    if not good or not (values.min() < 0 < values.max()):
        raise RequestError(
            f"strains={list(strains)!r} cannot give a slope; give values on both sides of zero of at most 0.1, such "
            "as -0.01, 0.01"
        )
    return values


_FIELDS = (
    "tensor_GPa", "eigenvalues_GPa", "born_stable", "bulk_modulus_GPa", "shear_modulus_GPa",
    "residual_stress_GPa", "asymmetry_GPa", "unrelaxed", "force_calls", "reason",
)  # fmt: skip


def _strained(atoms: Any, j: int, size: float) -> Any:
    """A copy of the atoms under one Voigt strain."""
    strain = np.zeros((3, 3))
    a, b = VOIGT[j]
    strain[a, b] = strain[b, a] = size if a == b else size / 2
    strained = atoms.copy()
    strained.set_cell(np.array(atoms.cell[:]) @ (np.eye(3) + strain), scale_atoms=True)
    return strained


def _stress(
    atoms: Any, calculator: Any, out: dict[str, Any], search: Mapping[str, Any] | None = None
) -> NDArray[np.float64]:
    """Voigt stress (eV/Å³), after the positions have relaxed with the settings of ``search``; counts in ``out``."""
    from ase.optimize import FIRE

    atoms = atoms.copy()
    atoms.calc = calculator
    if search is not None and len(atoms) > 1:
        fire = FIRE(atoms, logfile=None)
        out["unrelaxed"] += not fire.run(**search)
        out["force_calls"] += int(fire.nsteps)
    stress = np.asarray(atoms.get_stress(voigt=True), dtype=float)
    out["force_calls"] += 1
    if not np.isfinite(stress).all():
        raise StructureError("a stress is not finite")
    return stress
