"""Short bases of lattices: a fast reduction of many cells for searches, and the Niggli cell, which is unique.

A reduction gives an integer matrix T of determinant ±1, and ``T @ lattice`` spans the same lattice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.geometry.lattice import change_basis

_MAX_REDUCTION_STEPS = 200


def reduce_basis(lattice: Tensor) -> Tensor:
    """Integer unimodular T with short, nearly orthogonal rows in ``T @ lattice``, ``[B, 3, 3]``.

    Greedy pair reduction: subtract from each vector the nearest multiple of a shorter one until nothing gets shorter.
    All cells are reduced together on their own device, because every search for neighbours begins here. The result need
    not be the shortest basis: it only bounds the number of images that a skewed cell needs, and any T gives the same
    edges.
    """
    basis = lattice.detach().to(torch.float64).clone()
    transform = torch.eye(3, dtype=torch.float64, device=lattice.device).expand_as(basis).clone()
    for _ in range(_MAX_REDUCTION_STEPS):
        changed = False
        for i, j in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
            dot = (basis[:, i] * basis[:, j]).sum(-1)
            square = (basis[:, j] ** 2).sum(-1)
            # a margin below 1/2 keeps two equal vectors from exchanging their roles for ever
            steps = torch.where(dot.abs() > 0.5000001 * square, torch.round(dot / square), torch.zeros_like(dot))
            if bool(steps.any()):
                changed = True
                basis[:, i] -= steps[:, None] * basis[:, j]
                transform[:, i] -= steps[:, None] * transform[:, j]
        if not changed:
            break
    return transform.round()


def _lagrange_reduce(rows: np.ndarray) -> np.ndarray:
    """Integer transform to a Minkowski-reduced basis of one cell: bring the longest vector closest to the plane of the
    others.

    It finds the shortest basis, which the pair reduction of :func:`reduce_basis` may miss; :func:`niggli_reduce` begins
    with it, and falls back on it.
    """
    transform = np.eye(3, dtype=np.int64)
    shifts = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    for _ in range(10_000):
        current = transform @ rows
        order = np.argsort(np.einsum("ij,ij->i", current, current), kind="stable")
        transform, current = transform[order], current[order]
        # Gauss reduction of the two shorter vectors, then Babai's point and its neighbours for the longest.
        m = round(float(current[1] @ current[0] / (current[0] @ current[0])))
        if m != 0 and np.linalg.norm(current[1] - m * current[0]) < (1 - 1e-12) * np.linalg.norm(current[1]):
            transform[1] -= m * transform[0]
            continue
        guess = np.rint(np.linalg.lstsq(current[:2].T, current[2], rcond=None)[0]).astype(np.int64)
        trials = guess + shifts
        lengths = np.linalg.norm(current[2] - trials @ current[:2], axis=1)
        best = int(np.argmin(lengths))
        if lengths[best] >= (1 - 1e-12) * np.linalg.norm(current[2]):
            break
        transform[2] -= trials[best] @ transform[:2]
    return transform


def _niggli_transform(rows: np.ndarray) -> np.ndarray:
    """Integer transform, det +1, to the Niggli cell of one cell; Minkowski's where spglib gives none that is
    unimodular.
    """
    import spglib

    # Reducing first keeps spglib's floating-point steps few and short for very skewed cells.
    first = _lagrange_reduce(rows)
    try:
        reduced = spglib.niggli_reduce(first @ rows, eps=1e-6)
    except Exception:  # newer spglib raises where older ones return None
        reduced = None
    transform = first
    if reduced is not None and np.isfinite(reduced).all():
        exact = np.linalg.solve((first @ rows).T, np.asarray(reduced).T).T
        second = np.rint(exact).astype(np.int64)
        if np.abs(exact - second).max() < 1e-3 and abs(round(float(np.linalg.det(second)))) == 1:
            transform = second @ first
    # −T spans the same Niggli cell as T, so the handedness of the crystal is kept.
    return transform if np.linalg.det(transform) > 0 else -transform


def niggli_reduce(lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Niggli-reduced cells ``[B, 3, 3]`` in Å and the integer transforms T ``[B, 3, 3]`` (det +1) with reduced = T @
    lattice.

    The Niggli cell is the same for every basis of a lattice, which neither of the shorter reductions promises; it takes
    spglib, one cell after the other. The cell is not rotated, and gradients flow through T @ lattice.

    Raises:
        StructureError: a cell with NaN, infinity or no volume.
    """
    rows = lattice.detach().to(device="cpu", dtype=torch.float64).numpy()
    lengths = np.linalg.norm(rows, axis=-1).prod(-1)
    bad = ~np.isfinite(rows).all((1, 2)) | ~(np.abs(np.linalg.det(np.nan_to_num(rows))) > 1e-9 * lengths)
    if bad.any():
        i = int(np.nonzero(bad)[0][0])
        raise StructureError(
            f"lattice {i} is {rows[i].tolist()}, which spans no volume; give three finite, independent vectors"
        )
    transform = np.stack([_niggli_transform(r) for r in rows]) if len(rows) else np.zeros((0, 3, 3), dtype=np.int64)
    integer = torch.from_numpy(transform).to(lattice.device)
    return integer.to(lattice.dtype) @ lattice, integer


def reduce_crystal(batch: CrystalBatch) -> CrystalBatch:
    """The same crystals in their Niggli cells; atoms keep their order.

    Raises:
        StructureError: a cell with NaN, infinity or no volume.
    """
    return change_basis(batch, niggli_reduce(batch.lattice)[1])
