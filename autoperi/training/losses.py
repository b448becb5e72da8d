"""Physical losses on crystals that a decoder proposes (AutoPeri-GNN, section 3.2.3): pure functions, one number a
crystal, differentiable.

Each compares an estimate with the crystal it should be, and knows no orientation, no origin, no basis and no order of
atoms but that both share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.multigraph import edge_vectors, nearest_images_graph
from autoperi.geometry.torus import wrap_centered
from autoperi.symmetry.operations import Operations
from autoperi.units import MAX_ATOMIC_NUMBER

MAX_EXCESS_ENERGY_EV = 1.0
"""eV/atom at which :func:`excess_energy` saturates: the energies that a potential gives to geometries beyond it are too
uncertain to learn from.
"""
N_NEIGHBOURS = 12
"""Distances an atom that :func:`reconstruction_error` compares."""
MAX_VOLUME_RATIO = 2.0
"""Factor within which the volume of an estimate must be of the true one, lest energies and distances mean nothing."""


def plausible(estimate: CrystalBatch, truth: CrystalBatch) -> Tensor:
    """Which estimates are finite and have a volume within a factor :data:`MAX_VOLUME_RATIO` of the true one, ``[B]``
    bool.
    """
    ratio = torch.log(estimate.volume.detach() / truth.volume.detach()).abs()
    finite = torch.isfinite(estimate.frac_coords.detach()).all(1)
    broken = torch.zeros(len(truth), dtype=torch.long, device=finite.device).index_add(0, truth.batch, (~finite).long())
    return (ratio < torch.log(ratio.new_tensor(MAX_VOLUME_RATIO))) & (broken == 0)  # NaN is not less


def excess_energy(energy: Tensor, true: Tensor, *, ceiling: float = MAX_EXCESS_ENERGY_EV) -> Tensor:
    """L_energy: c (1 − exp(−[E − E_true]₊ / c)) in eV/atom, ``[B]``, of energies per atom ``[B]``.

    A hinge, because a potential that finds less energy than in the true crystal is more likely wrong than right; and
    bounded by ``ceiling`` c with a gradient that vanishes there, because its energies mean little for geometries far
    from any that it learned from.
    """
    return -ceiling * torch.expm1(-torch.relu(energy - true) / ceiling)


def symmetry_deviation(crystals: CrystalBatch, operations: Operations) -> Tensor:
    """L_sym: mean squared distance in Å² between a crystal and its images, ‖g(x) − x‖² over atoms and operations g,
    ``[B]``.

    Atoms: R x_i + t − x_g(i) in Å, without the mean over atoms: a crystal with another origin is as symmetric. Cell:
    with M = L⁻¹ Rᵀ L the operation in Cartesian coordinates, the strain ½(M Mᵀ − 1) between the cell and its image,
    times the spacing (V/N)^(1/3).

    Args:
        crystals: B crystals near ones that have the operations.
        operations: of their groups.
    """
    x, owner = crystals.frac_coords, operations.crystal
    turned = torch.einsum("pij,pj->pi", operations.rotations[operations.operation], x[operations.atom])
    offset = turned + operations.translations[operations.operation] - x[operations.image]
    # beside that of its first atom, so that no origin brings an operation's offsets to where they wrap
    per_operation = crystals.n_atoms[owner]
    first = torch.cumsum(per_operation, 0) - per_operation
    offset = wrap_centered(offset - offset[first[operations.operation]])
    offset = torch.einsum("pi,pij->pj", offset, crystals.lattice[owner[operations.operation]])
    n_atoms = per_operation.to(x.dtype)
    mean = x.new_zeros(len(operations), 3).index_add(0, operations.operation, offset) / n_atoms.unsqueeze(1)
    square = (offset - mean[operations.operation]).square().sum(1)
    atoms = x.new_zeros(len(operations)).index_add(0, operations.operation, square) / n_atoms
    lattice = crystals.lattice[owner]
    cartesian = torch.linalg.solve(lattice, operations.rotations.mT @ lattice)
    strain = 0.5 * (cartesian @ cartesian.mT - torch.eye(3, dtype=x.dtype, device=x.device))
    spacing = (crystals.volume / crystals.n_atoms).pow(2 / 3)[owner]
    every = atoms + strain.square().sum((1, 2)) * spacing
    count = torch.bincount(owner, minlength=len(crystals))
    return x.new_zeros(len(crystals)).index_add(0, owner, every) / count


def reconstruction_error(estimate: CrystalBatch, truth: CrystalBatch, *, neighbours: int = N_NEIGHBOURS) -> Tensor:
    """L_recon: mean squared difference in Å² of average minimum distances, element by element, ``[B]``.

    For each element e and k = 1 … K the k-th smallest distance from an atom to others and to images, averaged over the
    atoms of e (Widdowson et al. 2022, who show that such averages are continuous under any small move). They need no
    correspondence between atoms, so that it does not matter which description of the crystal the estimate is on its way
    to.

    Args:
        estimate, truth: B crystals of the same atoms.
        neighbours: K.
    """
    means, share, owner = _element_means(truth, neighbours)
    difference = _element_means(estimate, neighbours)[0] - means
    return difference.new_zeros(len(truth)).index_add(0, owner, share * difference.square().mean(1))


def _element_means(crystals: CrystalBatch, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean nearest distances of each element of each crystal ``[E, K]``, its share of the atoms ``[E]`` and its crystal
    ``[E]``.
    """
    key = crystals.batch * (MAX_ATOMIC_NUMBER + 1) + crystals.atomic_numbers
    kinds, kind, count = torch.unique(key, return_inverse=True, return_counts=True)
    distances = nearest_distances(crystals, neighbours)
    mean = distances.new_zeros(len(kinds), neighbours).index_add(0, kind, distances) / count.unsqueeze(1)
    owner = kinds // (MAX_ATOMIC_NUMBER + 1)
    return mean, count / crystals.n_atoms[owner], owner


def nearest_distances(crystals: CrystalBatch, neighbours: int) -> Tensor:
    """The ``neighbours`` smallest distances of each atom in Å, ascending, its own images included, ``[N, K]``;
    differentiable.
    """
    # found at one atom a unit volume, so that no crystal widens the search in another
    size = (crystals.volume.detach() / crystals.n_atoms).pow(1 / 3)[:, None, None]
    graph = nearest_images_graph(
        crystals.replace(lattice=crystals.lattice.detach() / size, frac_coords=crystals.frac_coords.detach()),
        neighbours,
    )
    wrapped = crystals.replace(frac_coords=crystals.frac_coords)  # as the graph has them
    distance = torch.linalg.vector_norm(edge_vectors(wrapped, graph), dim=-1)
    place, width = graph.slots()
    padded = torch.full((graph.n_nodes, width), torch.inf, dtype=distance.dtype, device=distance.device)
    return padded.index_put((graph.edge_index[0], place), distance).sort(1).values[:, :neighbours]
