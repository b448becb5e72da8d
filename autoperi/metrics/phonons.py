"""Phonons by finite displacements (phonopy) with any ASE calculator: dynamical stability, bands, the last peak of the
density of states.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoperi.data.checks import positive_number
from autoperi.errors import RequestError, StructureError
from autoperi.metrics._common import failure_of, judge_crystals, quiet, reason_of, rounded
from autoperi.metrics.counts import mean, share
from autoperi.metrics.relaxation import bare_atoms

INVERSE_CM_PER_THZ = 33.35640952
"""1 THz in 1/cm (exact speed of light)."""
DOS_SIGMA = 0.1
"""THz, Gaussian width of the density of states."""
DOS_PITCH = 0.02
"""THz between its points."""
PEAK_SHARE = 0.05
"""A peak is a local maximum of at least this part of the highest one."""


def phonons(
    crystal: Any,
    calculator: Any,
    *,
    min_length: float = 10.0,
    max_atoms: int = 400,
    distance: float = 0.01,
    mesh_length: float = 40.0,
    tolerance: float = 0.1,
    symprec: float = 1e-3,
    path: bool | str = False,
) -> dict[str, Any]:
    """Harmonic phonons of one crystal; relax it with the same calculator first.

    Force constants come from displacements that symmetry leaves, forces of the undisplaced supercell subtracted, and
    are made to obey translation and permutation symmetry. Long-range dipole interactions (the LO-TO splitting) are left
    out.

    Args:
        crystal: pymatgen structure or ASE atoms.
        calculator: of ASE, with forces.
        min_length: Å; the supercell repeats the given cell until its opposite faces are at least this far apart.
        max_atoms: of the supercell; a crystal that needs more is not judged, with that reason.
        distance: of the displacements, Å.
        mesh_length: Å; the mesh of wave vectors, Γ among them, has about this length over each lattice vector of
            points.
        tolerance: THz; a crystal is dynamically stable where no frequency is below minus this (imaginary ones count as
            negative). The three acoustic modes at Γ are left out.
        symprec: Å, for the symmetry that phonopy uses.
        path: give ``bands``, too: along ASE's standard path of the primitive cell's lattice (True), or along this one,
            as ``GXU,KGL``.

    Returns:
        ``min_frequency_THz``, ``max_frequency_THz``, ``dynamically_stable``, ``imaginary_modes`` (below minus
        ``tolerance``) of the ``modes`` on the mesh, ``last_dos_peak_THz``, ``last_dos_peak_per_cm``, ``supercell``
        (repetitions), ``supercell_atoms``, ``residual_force_eV_per_A``, ``force_calls`` and ``reason``, and
        :func:`band_structure` as ``bands`` if it was asked for; the numbers are None with a reason where it failed.
        Where the bands alone failed, such as along a path through points that the lattice lacks, ``bands`` is None and
        ``bands_reason`` says why.

    Raises:
        RequestError: phonopy is not installed, a parameter is not positive, or ``path`` is no path.
    """
    check_parameters(
        tolerance,
        min_length=min_length,
        max_atoms=max_atoms,
        distance=distance,
        mesh_length=mesh_length,
        symprec=symprec,
    )
    check_path(path)
    out: dict[str, Any] = dict.fromkeys(_FIELDS) | {"force_calls": 0} | ({} if path is False else {"bands": None})
    with quiet():
        try:
            atoms = bare_atoms(crystal)
            repeats = supercell_repeats(np.array(atoms.cell[:]), min_length)
            out |= {"supercell": repeats, "supercell_atoms": len(atoms) * math.prod(repeats)}
            if out["supercell_atoms"] > max_atoms:
                raise StructureError(
                    f"the supercell {'x'.join(map(str, repeats))} has {out['supercell_atoms']} atoms, more than "
                    f"{max_atoms}"
                )
            spectrum = _force_constants(atoms, repeats, calculator, distance, symprec, out)
            mesh = spectrum.run_mesh(mesh_length, is_gamma_center=True)
            mesh = spectrum.mesh if mesh is None else mesh  # phonopy before 4 returns nothing
            values, weights = mesh_frequencies(mesh.qpoints, mesh.frequencies, mesh.weights)
            if path is not False:
                out |= _bands(spectrum, None if path is True else str(path))
            spectrum.run_total_dos(sigma=DOS_SIGMA, freq_pitch=DOS_PITCH, use_tetrahedron_method=False)
            peak = last_peak(spectrum.total_dos.frequency_points, spectrum.total_dos.dos)
        except Exception as error:  # a calculator may raise anything; the crystal failed, not the run
            return out | {"reason": failure_of(calculator, error)}
    return out | {
        "min_frequency_THz": round(float(values.min()), 4),
        "max_frequency_THz": round(float(values.max()), 4),
        "dynamically_stable": bool(values.min() >= -tolerance),
        "imaginary_modes": int(weights[values < -tolerance].sum()),
        "modes": int(weights.sum()),
        "last_dos_peak_THz": rounded(peak),
        "last_dos_peak_per_cm": None if peak is None else round(peak * INVERSE_CM_PER_THZ, 2),
    }


def phonon_stability(
    crystals: Sequence[Any], calculator: Any, *, progress: bool | None = None, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Share of crystals without imaginary phonons.

    Args:
        crystals: relaxed with the same calculator.
        calculator: of ASE, with forces.
        progress: show a bar.
        **settings: of :func:`phonons`.

    Returns:
        The summary (``dynamically_stable``, ``min_frequency_THz``, ``last_dos_peak_per_cm``, ``parameters``), and
        :func:`phonons` of each.
    """
    rows = judge_crystals(phonons, crystals, calculator, settings, progress=progress, description="phonons")
    why = "no phonons"
    dos = {"dos_sigma_THz": DOS_SIGMA, "dos_pitch_THz": DOS_PITCH, "peak_share": PEAK_SHARE}
    summary = {
        "dynamically_stable": share([row["dynamically_stable"] for row in rows], missing=why),
        "min_frequency_THz": mean([row["min_frequency_THz"] for row in rows], missing=why),
        "last_dos_peak_per_cm": mean([row["last_dos_peak_per_cm"] for row in rows], missing=why),
        "parameters": {**(phonons.__kwdefaults__ or {}), **settings, **dos},
    }
    return summary, rows


def check_parameters(tolerance: float, **parameters: float) -> None:
    """Refuse what cannot be used before any work.

    Raises:
        RequestError: phonopy is not installed, or a parameter is not positive.
    """
    if importlib.util.find_spec("phonopy") is None:
        raise RequestError('phonons need the package phonopy; install it with: pip install "autoperi[metrics]"')
    for name, value in {**parameters, **({} if tolerance == 0 else {"tolerance": tolerance})}.items():
        unit = "is not a positive number; see the documentation of phonons for its unit"
        positive_number(value, name, refusal=unit)


def check_path(path: Any) -> None:
    """Refuse what is no path through special points in any lattice.

    Raises:
        RequestError: neither True or False nor pieces such as ``GXU,KGL``, each with at least two different points.
    """
    if isinstance(path, bool):
        return
    what = (
        "give special points in ASE's names, at least two different ones in each piece, as 'GXU,KGL'; True is the "
        "standard path"
    )
    if not isinstance(path, str):
        raise RequestError(f"path={path!r} is no path; {what}")
    for piece in path.split(","):
        if not re.fullmatch(r"([A-Z][a-z0-9]*)+", piece) or len(set(re.findall(r"[A-Z][a-z0-9]*", piece))) < 2:
            raise RequestError(f"path={path!r}: {piece!r} is no piece of a path; {what}")


def supercell_repeats(lattice: NDArray[np.float64], min_length: float) -> list[int]:
    """Repetitions of each lattice vector (rows, Å) until opposite faces are at least ``min_length`` apart."""
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    return [max(1, math.ceil(min_length / h - 1e-6)) for h in heights]


def mesh_frequencies(
    qpoints: NDArray[np.float64], frequencies: NDArray[np.float64], weights: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Frequencies of wave vectors ``[q, 3]`` with bands ``[q, 3 n]`` as a list, and their weights, without the acoustic
    modes at Γ.

    The acoustic modes at Γ are the three closest to zero there; a crystal of one atom has no other ones at Γ.

    Raises:
        StructureError: none is left, or one is not finite.
    """
    left, counts = [], []
    for q, bands, weight in zip(qpoints, frequencies, weights, strict=True):
        gamma = np.abs(q - np.round(q)).max() < 1e-8
        left.append(bands[np.argsort(np.abs(bands))[3:]] if gamma else bands)
        counts.append(np.full(len(left[-1]), weight))
    values = np.concatenate(left)
    if not len(values) or not np.isfinite(values).all():
        raise StructureError("frequencies are not finite")
    return values, np.concatenate(counts)


def band_structure(spectrum: Any, path: str | None = None, *, points: int = 40) -> dict[str, Any]:
    """Bands of a ``Phonopy`` object with force constants.

    Args:
        spectrum: phonopy's.
        path: special points of the primitive cell's lattice in ASE's names, ``GXU,KGL``; None is ASE's standard path.
        points: on the longest stretch between two special points; shorter ones have fewer.

    Returns:
        ``x``: distances in 1/Å of each unbroken piece, ``frequency``: THz ``[piece][q][branch]``, ``ticks``: (distance,
            name).

    Raises:
        RequestError: ``path`` is no path. StructureError: the lattice has no point of that name.
    """
    check_path(True if path is None else path)
    from ase.cell import Cell
    from ase.dft.kpoints import parse_path_string

    cell = Cell(np.array(spectrum.primitive.cell))
    standard = cell.bandpath(npoints=0)
    reciprocal, special = np.array(cell.reciprocal()), standard.special_points
    pieces = parse_path_string(path or standard.path)
    unknown = sorted({name for piece in pieces for name in piece} - set(special))
    if unknown:
        raise StructureError(
            f"path {path!r}: this lattice has no point {', '.join(unknown)}; its points are "
            f"{', '.join(sorted(special))}"
        )
    lengths = [[float(np.linalg.norm((special[b] - special[a]) @ reciprocal)) for a, b in pairwise(p)] for p in pieces]
    longest, start = max(x for piece in lengths for x in piece), 0.0
    ticks: list[tuple[float, str]] = []
    xs, frequencies = [], []

    def label(name: str) -> str:
        return "Γ" if name == "G" else name

    for names, stretches in zip(pieces, lengths, strict=True):
        q, x = [special[names[0]][None]], [np.array([start])]
        if ticks and ticks[-1][0] == start:
            ticks[-1] = (start, f"{ticks[-1][1]}|{label(names[0])}")
        else:
            ticks.append((start, label(names[0])))
        for (a, b), length in zip(pairwise(names), stretches, strict=True):
            along = np.linspace(0, 1, max(2, round(points * length / longest)) + 1)[1:]
            q.append(special[a] + along[:, None] * (special[b] - special[a]))
            x.append(start + along * length)
            start += length
            ticks.append((round(start, 6), label(b)))
        start = ticks[-1][0]
        found = spectrum.run_qpoints(np.concatenate(q))
        found = spectrum.qpoints if found is None else found  # as for the mesh
        xs.append(np.round(np.concatenate(x), 6).tolist())
        frequencies.append(np.round(found.frequencies, 4).tolist())
    return {"x": xs, "frequency": frequencies, "ticks": [list(tick) for tick in ticks]}


def _bands(spectrum: Any, path: str | None) -> dict[str, Any]:
    """``bands``; None and ``bands_reason`` where they cannot be had, which takes nothing from what is known already."""
    try:
        return {"bands": band_structure(spectrum, path)}
    except Exception as error:  # ASE has its own for cells that it cannot classify
        return {"bands": None, "bands_reason": reason_of(error)}


def last_peak(frequencies: NDArray[np.float64], dos: NDArray[np.float64]) -> float | None:
    """Frequency of the highest local maximum in frequency of a density of states that reaches 5 % of its maximum; None
    without one.

    The target of the benchmark ``matbench_phonons`` (Petretto et al. 2018; Dunn et al. 2020), there from DFPT.
    """
    from scipy.signal import find_peaks

    positive = frequencies > 0
    peaks, _ = find_peaks(dos[positive], height=PEAK_SHARE * float(dos.max()))
    return float(frequencies[positive][peaks[-1]]) if len(peaks) else None


_FIELDS = (
    "min_frequency_THz", "max_frequency_THz", "dynamically_stable", "imaginary_modes", "modes", "last_dos_peak_THz",
    "last_dos_peak_per_cm", "supercell", "supercell_atoms", "residual_force_eV_per_A", "force_calls", "reason",
)  # fmt: skip


def _force_constants(
    atoms: Any, repeats: list[int], calculator: Any, distance: float, symprec: float, out: dict[str, Any]
) -> Any:
    """A ``Phonopy`` object with symmetric force constants; counts force calls in ``out``."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        numbers=atoms.numbers, cell=np.array(atoms.cell[:]), scaled_positions=atoms.get_scaled_positions()
    )
    spectrum = Phonopy(cell, np.diag(repeats), primitive_matrix="auto", symprec=symprec, log_level=0)
    spectrum.generate_displacements(distance=distance)
    rest = _forces(spectrum.supercell, calculator, out)
    out["residual_force_eV_per_A"] = round(float(np.linalg.norm(rest, axis=1).max()), 6)
    displaced = [s for s in spectrum.supercells_with_displacements or [] if s is not None]
    spectrum.forces = np.array([_forces(s, calculator, out) - rest for s in displaced])
    spectrum.produce_force_constants(show_drift=False)
    spectrum.symmetrize_force_constants(show_drift=False)
    return spectrum


def _forces(cell: Any, calculator: Any, out: dict[str, Any]) -> NDArray[np.float64]:
    from ase import Atoms

    atoms = Atoms(numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    atoms.calc = calculator
    forces = np.array(atoms.get_forces(), dtype=float)
    out["force_calls"] += 1
    if not np.isfinite(forces).all():
        raise StructureError("a force is not finite")
    return forces
