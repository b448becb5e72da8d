"""Space groups acting on crystals: orbits, site symmetry, symmetric coordinates and lattices, analysis. NumPy float64.

An operation (R, t) takes the fractional coordinate x to R x + t, with x a column; coordinates are stored as rows, hence
``x @ R.T + t``. Groups and settings come from :mod:`autoperi.symmetry.spacegroup`, Wyckoff positions from
:mod:`autoperi.symmetry.wyckoff`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.errors import StructureError
from autoperi.symmetry.spacegroup import (
    FloatArray,
    IntArray,
    SpaceGroup,
    primitive_transform,
    space_group,
    space_group_from_hall,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SYMPREC = 0.1
"""Å, at which the prior is learned and crystals are looked up in it, and at which metrics name the space group of a
crystal: the tolerance of Materials Project and PGCGM (MilesZhao/PGCGM, ``pymatgen_valid.py``).
"""
STRICT_SYMPREC = 0.01
"""Å, at which a crystal that we made must have its space group; the default of :func:`analyse`."""
SYMPREC_LADDER = (SYMPREC, 0.03, STRICT_SYMPREC, 0.001)
"""Å, tolerances at which the space group of a training crystal is looked for: the first that keeps its atoms counts."""


# --- orbits and site symmetry


def wrap_and_snap(x: ArrayLike) -> FloatArray:
    """Fractional coordinates in [0, 1); numbers within 1e-12 below 1 become 0.

    The product with an operation may round a coordinate of 0 to just below 1, and the distinct points of an orbit are
    counted. :func:`autoperi.geometry.torus.wrap`, which is for tensors, keeps such a number.
    """
    y = np.asarray(x, dtype=np.float64)
    y = y - np.floor(y)
    return np.where(y >= 1 - 1e-12, 0.0, y)


def torus_difference(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """x − y with each component moved to [−½, ½)."""
    d = np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64)
    return d - np.floor(d + 0.5)


def apply_operations(points: ArrayLike, group: SpaceGroup) -> FloatArray:
    """Images ``[G, n, 3]`` of points ``[n, 3]`` under every operation, not wrapped."""
    p = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    return np.einsum("gij,nj->gni", group.rotations, p) + group.translations[:, None]


def orbit(point: ArrayLike, group: SpaceGroup, *, tolerance: float = 1e-5) -> tuple[FloatArray, IntArray]:
    """The distinct images of ``point`` modulo 1, ``[m, 3]`` in [0, 1), and the operation that first makes each,
    ``[m]``.

    The first image is the point itself. A point closer than ``tolerance`` (fractional) to a special position is best
    moved onto it first, with :func:`site_symmetry_projector`.
    """
    images = wrap_and_snap(apply_operations(point, group)[:, 0])
    same = (np.abs(torus_difference(images[:, None], images[None])) < tolerance).all(-1)
    first = np.argmax(same, axis=1)
    index = np.nonzero(first == np.arange(len(images)))[0]
    return images[index], index


def stabiliser(point: ArrayLike, group: SpaceGroup, *, tolerance: float = 1e-5) -> tuple[IntArray, IntArray]:
    """Operations that leave ``point`` in place modulo 1: their indices ``[s]`` and lattice shifts n ``[s, 3]``, R x + t
    − n ≈ x.
    """
    p = np.asarray(point, dtype=np.float64).reshape(3)
    moved = apply_operations(p, group)[:, 0] - p
    shift = np.rint(moved)
    index = np.nonzero((np.abs(moved - shift) < tolerance).all(-1))[0]
    return index, shift[index].astype(np.int64)


def site_symmetry_projector(
    point: ArrayLike, group: SpaceGroup, *, tolerance: float = 1e-5
) -> tuple[FloatArray, FloatArray]:
    """The affine projector x → P x + o onto the points with the site symmetry of ``point``: P ``[3, 3]``, o ``[3]``.

    P is the mean of R over the stabiliser, o the mean of t − n (the Reynolds operator); trace(P) is the number of free
    coordinates. ``tolerance`` (fractional) decides which operations count; where the operations within it do not close
    into a group, the nearest ones that do are taken.
    """
    for width in (*(tolerance / 4**k for k in range(12)), 1e-9):
        index, shift = stabiliser(point, group, tolerance=width)
        projector, offset = group.rotations[index].mean(0), (group.translations[index] - shift).mean(0)
        if np.allclose(projector @ projector, projector, atol=1e-9) and np.allclose(projector @ offset, 0, atol=1e-9):
            break
    return projector, offset


# --- symmetric coordinates


def atom_permutations(
    frac_coords: ArrayLike, numbers: ArrayLike, group: SpaceGroup, *, tolerance: float = 1e-3
) -> IntArray:
    """``[G, n]``: index of the atom that operation g makes of atom i, in the cell and origin of ``group``.

    Raises:
        StructureError: an operation that takes an atom to a place where no atom of its element is within ``tolerance``
            (fractional).
    """
    x, z = np.asarray(frac_coords, dtype=np.float64).reshape(-1, 3), np.asarray(numbers).reshape(-1)
    table = np.empty((len(group), len(x)), dtype=np.int64)
    other = z[:, None] != z[None, :]
    for g, images in enumerate(apply_operations(x, group)):
        distance = np.abs(torus_difference(images[:, None], x[None])).max(-1) + np.where(other, 1.0, 0.0)
        table[g] = distance.argmin(1)
        worst = int(distance.min(1).argmax())
        if distance[worst].min() > tolerance or len(set(table[g].tolist())) != len(x):
            raise StructureError(
                f"atom {worst} breaks operation {g} of space group {group.symbol} ({group.number}) by "
                f"{distance[worst].min():.3g} of a cell; give coordinates in the group's own setting, or a larger "
                "tolerance"
            )
    return table


def symmetrize_coords(frac_coords: ArrayLike, group: SpaceGroup, permutations: ArrayLike) -> FloatArray:
    """Coordinates ``[n, 3]`` in [0, 1) averaged over the group: x_j ← mean_g (R_g x_i + t_g), i the atom that g takes
    to j.

    Each image is first brought next to x_j, so the result moves atoms by no more than they break the symmetry.
    """
    x = np.asarray(frac_coords, dtype=np.float64).reshape(-1, 3)
    p = np.asarray(permutations)
    images = apply_operations(x, group)
    moved = np.zeros_like(images)
    np.put_along_axis(moved, p[..., None], torus_difference(images, x[p]), axis=1)
    return wrap_and_snap(x + moved.mean(0))


def symmetrize_vectors(vectors: ArrayLike, group: SpaceGroup, permutations: ArrayLike) -> FloatArray:
    """Fractional displacements or velocities ``[n, 3]`` averaged over the group: v_j ← mean_g R_g v_i."""
    v = np.asarray(vectors, dtype=np.float64).reshape(-1, 3)
    images = np.einsum("gij,nj->gni", group.rotations, v)
    moved = np.zeros_like(images)
    np.put_along_axis(moved, np.asarray(permutations)[..., None], images, axis=1)
    return moved.mean(0)


def project_coordinates(
    frac_coords: ArrayLike, numbers: ArrayLike, group: SpaceGroup, *, tolerance: float = 1e-2
) -> FloatArray:
    """The coordinates ``[n, 3]`` nearest to ``frac_coords`` that obey ``group``.

    Raises:
        StructureError: an atom further than ``tolerance`` (fractional) from obeying it.
    """
    permutations = atom_permutations(frac_coords, numbers, group, tolerance=tolerance)
    return symmetrize_coords(frac_coords, group, permutations)


# --- symmetric lattices


def symmetrize_lattice(lattice: ArrayLike, rotations: ArrayLike) -> FloatArray:
    """The lattice ``[3, 3]``, rows in Å, with its metric averaged over the group, its volume kept and as little
    rotation as can be.

    A lattice that obeys the group comes back unchanged.
    """
    rows, r = np.asarray(lattice, dtype=np.float64), np.asarray(rotations, dtype=np.float64)
    # with rows a, b, c an operation of the lattice obeys Rᵀ G R = G, hence the mean metric G' = mean_g Rᵀ G R
    metric = np.einsum("gki,kl,glj->ij", r, rows @ rows.T, r) / len(r)
    # In Cartesian axes the mean metric is a stretch of the crystal: L' = L (L⁻¹ G' L⁻ᵀ)^½, a pure strain without
    # rotation.
    inverse = np.linalg.inv(rows)
    values, vectors = np.linalg.eigh(inverse @ metric @ inverse.T)
    stretch = (vectors * np.sqrt(values / np.prod(values) ** (1 / 3))) @ vectors.T
    return rows @ stretch


def strain_projector(lattice: ArrayLike, rotations: ArrayLike) -> FloatArray:
    """Projector ``[6, 6]`` on symmetric Cartesian strains S for which L exp(S) keeps the symmetry of L, in the same
    basis.

    ``lattice`` ``[3, 3]`` must obey the group already; the projector is then orthogonal.
    """
    from autoperi.geometry.lattice import log_metric_basis

    rows = np.asarray(lattice, dtype=np.float64)
    cartesian = rows.T @ np.asarray(rotations, dtype=np.float64) @ np.linalg.inv(rows.T)
    basis = log_metric_basis().numpy()
    images = np.einsum("gai,lij,gbj->lab", cartesian, basis, cartesian) / len(cartesian)
    return np.einsum("kij,lij->kl", basis, images)


# --- analysis


@dataclass(frozen=True, eq=False)
class SymmetryInfo:
    """Symmetry of one crystal, its atoms in the order given, and its idealised standard primitive cell.

    Attributes:
        number: 1..230.  hall_number: the setting.  symbol: short Hermann–Mauguin symbol.
        wyckoffs: letter of each atom.  equivalent_atoms: index of the first atom of each atom's orbit, ``[n]``.
        rotations: ``[G, 3, 3]``, translations: ``[G, 3]``: operations in the cell that was given.
        primitive_lattice: rows in Å, ``[3, 3]``, oriented as spglib's standard.  primitive_frac_coords: ``[m, 3]``.
        primitive_numbers: ``[m]``.  primitive_equivalent_atoms: ``[m]``.  primitive_wyckoffs: letters.
    """

    number: int
    hall_number: int
    symbol: str
    wyckoffs: tuple[str, ...]
    equivalent_atoms: IntArray
    rotations: IntArray
    translations: FloatArray
    primitive_lattice: FloatArray
    primitive_frac_coords: FloatArray
    primitive_numbers: IntArray
    primitive_equivalent_atoms: IntArray
    primitive_wyckoffs: tuple[str, ...]

    @property
    def group(self) -> SpaceGroup:
        """The group in its standard conventional setting; ``group.primitive`` acts on the primitive cell."""
        return space_group_from_hall(self.hall_number)

    @property
    def input_group(self) -> SpaceGroup:
        """The operations in the cell that was given, as a group."""
        return replace(self.group, rotations=self.rotations, translations=self.translations)


def analyse(
    lattice: ArrayLike,
    frac_coords: ArrayLike,
    numbers: ArrayLike,
    *,
    symprec: float = STRICT_SYMPREC,
    on_failure: str = "raise",
) -> SymmetryInfo:
    """Space group, Wyckoff letters and standard primitive cell of a crystal, through spglib.

    Args:
        lattice: rows in Å, ``[3, 3]``.
        frac_coords: ``[n, 3]``.
        numbers: atomic numbers (any integers that tell species apart), ``[n]``.
        symprec: distance in Å within which atoms count as equivalent.
        on_failure: ``"raise"``, or ``"p1"`` to describe a crystal that spglib cannot read as P1.

    Raises:
        StructureError: spglib finds no group (overlapping atoms, no volume, NaN) and ``on_failure`` is ``"raise"``.
    """
    rows = np.asarray(lattice, dtype=np.float64).reshape(3, 3)
    x = np.asarray(frac_coords, dtype=np.float64).reshape(-1, 3)
    z = np.asarray(numbers, dtype=np.int64).reshape(-1)
    data = _dataset(rows, x, z, symprec)
    try:
        if data is not None:
            return _describe(data)
        reason = "check for overlapping atoms"
    except StructureError as error:
        reason = f"the standard cell breaks its own group: {error}"
    if on_failure != "p1":
        raise StructureError(
            f"no space group found for {len(z)} atoms in a cell of {abs(float(np.linalg.det(rows))):.3g} Å³ at "
            f"symprec={symprec} Å; {reason}"
        )
    every, letters, identity = np.arange(len(z)), ("a",) * len(z), space_group(1)
    return SymmetryInfo(
        1, 1, "P1", letters, every, identity.rotations, identity.translations, rows, wrap_and_snap(x), z, every, letters
    )


def _describe(data: Any) -> SymmetryInfo:
    """The fields of spglib's dataset that are of use, and the primitive cell they imply."""
    group = space_group_from_hall(int(data.hall_number))
    transform = primitive_transform(group)
    std_x, std_z = np.asarray(data.std_positions, dtype=np.float64), np.asarray(data.std_types, dtype=np.int64)
    _, first = np.unique(np.asarray(data.std_mapping_to_primitive), return_index=True)
    keep = np.sort(first)
    primitive_x, primitive_z = wrap_and_snap(std_x[keep] @ np.linalg.inv(transform)), std_z[keep]
    permutations = atom_permutations(primitive_x, primitive_z, group.primitive, tolerance=0.05)
    # Atoms of the input and of the standard cell carry the same labels of primitive atoms, hence the same Wyckoff
    # letters.
    letter_of = dict(zip(np.asarray(data.mapping_to_primitive).tolist(), data.wyckoffs, strict=True))
    return SymmetryInfo(
        number=int(data.number),
        hall_number=int(data.hall_number),
        symbol=group.symbol,
        wyckoffs=tuple(data.wyckoffs),
        equivalent_atoms=np.asarray(data.equivalent_atoms, dtype=np.int64),
        rotations=np.asarray(data.rotations, dtype=np.int64),
        translations=np.asarray(data.translations, dtype=np.float64),
        primitive_lattice=transform @ np.asarray(data.std_lattice, dtype=np.float64),
        primitive_frac_coords=symmetrize_coords(primitive_x, group.primitive, permutations),
        primitive_numbers=primitive_z,
        primitive_equivalent_atoms=permutations.min(0),
        primitive_wyckoffs=tuple(letter_of[int(label)] for label in np.asarray(data.std_mapping_to_primitive)[keep]),
    )


def _dataset(rows: FloatArray, x: FloatArray, z: IntArray, symprec: float) -> Any:
    """spglib's dataset, or None where it has none (older versions return None, newer ones raise)."""
    if not len(z) or not (np.isfinite(rows).all() and np.isfinite(x).all()) or abs(float(np.linalg.det(rows))) < 1e-9:
        return None
    import spglib

    try:
        return spglib.get_symmetry_dataset((rows, x, z), symprec=symprec)
    except Exception:
        return None
