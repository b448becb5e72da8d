"""A minimum distance between atoms while a flow moves them: a step that brings two atoms too near is taken back as far
as needed, within the space group.

The set of crystals whose every pair obeys d_ij ≥ c (r_i + r_j), r covalent radii, is where a flow may go. After the
base density's draw and after each step a crystal outside is brought back by projections: each pair that is too near is
pushed apart along its bond, atoms and cell together; all pushes are added and projected on the free parameters, so that
no symmetry is lost. Nothing is done to a crystal that is inside.

This takes the place of the masked transformations of AutoPeri-GNN (section 3.2.2), and is not one: no mask inside an
invertible map, but a correction between steps. Training does not have it, and densities do not count it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoperi.data.elements import covalent_radii
from autoperi.geometry.multigraph import edge_vectors, radius_graph
from autoperi.geometry.segments import segment_sum
from autoperi.symmetry.freedom import Freedom

FLOW_MIN_DISTANCE_RATIO = 0.6
"""c of a flow: a little above the 0.55 that ``generate`` asks of a crystal, which 99.9 % of training crystals reach
(benchmarks/prior).
"""
MAX_PROJECTIONS = 60
OVERSHOOT = 1.05
"""Pairs are pushed to a little beyond the limit, else they would only approach it."""


def keep_apart(
    freedom: Freedom,
    y: Tensor,
    *,
    min_distance_ratio: float = FLOW_MIN_DISTANCE_RATIO,
    max_projections: int = MAX_PROJECTIONS,
) -> tuple[Tensor, Tensor]:
    """Coordinates ``[B, D]`` with atoms apart, and where that succeeded, ``[B]``.

    The map is equivariant, and no crystal's result depends on another. It fails where symmetry leaves nothing to move,
    such as two elements on neighbouring places of a group in a cell that is only scaled slowly; such a crystal is given
    back as the last projection left it.

    Args:
        freedom: B crystals.
        y: their coordinates.
        min_distance_ratio: c; 0 lets everything pass.
        max_projections: after which a crystal that is still outside is given up.
    """
    y = y.clone()
    held = torch.ones(len(freedom), dtype=torch.bool, device=y.device)
    rows = torch.arange(len(freedom), device=y.device)
    radii = torch.as_tensor(covalent_radii().copy(), dtype=y.dtype, device=y.device)
    if min_distance_ratio <= 0:
        return y, held
    for k in range(max_projections + 1):
        part = freedom[rows]
        moved, near = _push(part, y[rows, : part.width], radii, min_distance_ratio)
        if k == max_projections:
            held[rows[near]] = False
            break
        rows = rows[near]
        if not len(rows):
            break
        y[rows, : part.width] = part.space[near].wrap(moved[near])
    return y, held


def _push(freedom: Freedom, y: Tensor, radii: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """One projection, and which crystals needed it."""
    crystals = freedom.crystals(y)
    limit = ratio * radii[crystals.atomic_numbers]
    graph = radius_graph(crystals, float(2 * limit.max()))
    i, j = graph.edge_index
    vectors = edge_vectors(crystals, graph)
    distance = torch.linalg.vector_norm(vectors, dim=-1).clamp(min=1e-6)
    lacking = (limit[i] + limit[j] - distance).clamp(min=0.0)
    near = torch.zeros(len(freedom), dtype=torch.bool, device=y.device)
    near[crystals.batch[i[lacking > 1e-9]]] = True
    if not bool(near.any()):
        return y, near
    short = lacking > 0
    lacking = torch.where(short, lacking * OVERSHOOT + 1e-3, torch.zeros_like(lacking))
    # each of the two atoms of a pair goes half the way; an edge stands once for each of its directions
    unit = vectors / distance.unsqueeze(-1)
    moves = segment_sum(-0.5 * lacking.unsqueeze(-1) * unit, i, len(limit))
    owner = crystals.batch[i]
    # the cell gives way as far as the nearest pair of each crystal asks, in the directions of the pairs
    pull = torch.einsum("e,ei,ej->eij", lacking / distance.clamp(min=0.3), unit, unit)
    count = segment_sum(short.to(y.dtype), owner, len(freedom)).clamp(min=1.0)
    strain = segment_sum(pull, owner, len(freedom)) / count[:, None, None]
    inverse = torch.linalg.inv(crystals.lattice)[crystals.batch]
    step = freedom.velocity(0.3 * strain, torch.einsum("ni,nij->nj", moves, inverse))
    return y + step, near
