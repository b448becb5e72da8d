"""Crystals drawn from AutoPeri-GNN's flow, rebuilt from their latent vectors, and their densities.

The network says how fast the coordinates of a crystal change (:class:`~autoperi.models.autoperi_gnn.AutoPeriGnn`), the
process follows such a field (:mod:`autoperi.processes.flow`); here the two are put together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoperi.errors import RequestError
from autoperi.models.autoperi_gnn import NEAR, NOISE, AutoPeriGnn, Start
from autoperi.processes import flow
from autoperi.processes.flow import EXACT_DIMENSIONS, Base, Field, LogLikelihood
from autoperi.processes.min_distance import keep_apart
from autoperi.symmetry.freedom import Freedom


def sample(
    network: AutoPeriGnn,
    freedom: Freedom,
    noise: Tensor,
    *,
    centre: Tensor | None = None,
    start: Start | None = None,
    z: Tensor | None = None,
    steps: int = 20,
    method: str = "midpoint",
    min_distance_ratio: float = 0.0,
    anneal: float = 0.0,
) -> Tensor:
    """Coordinates ``[B, D]`` of crystals drawn from the flow; none depends on those beside it.

    Args:
        network: gives the field.
        freedom: what is free.
        noise: standard normal, ``[B, D]``, from :func:`~autoperi.processes.flow.crystal_noise`.
        centre: coordinates of proposed crystals to start near, ``[B, D]``; None starts from noise.
        start: widths of the start; None is :data:`~autoperi.models.autoperi_gnn.NEAR` where there is a ``centre``,
            else :data:`~autoperi.models.autoperi_gnn.NOISE`.
        z: latent vectors, ``[B, latent]``, or None.
        steps, method: of :func:`~autoperi.processes.flow.integrate`.
        min_distance_ratio: part of the sum of covalent radii that no two atoms come nearer than, from the base
            density's draw to the end (:func:`~autoperi.processes.min_distance.keep_apart`); 0 lets them.
        anneal: of :func:`~autoperi.processes.flow.integrate`: coordinates, not strains, are faster towards the end; 0
            follows the flow.
    """
    base = network.base(freedom, centre, start or (NOISE if centre is None else NEAR))
    field, begin = _field(network, freedom, centre, z), base.draw(noise)
    if not min_distance_ratio:
        return flow.integrate(field, begin, base.space, steps=steps, method=method, anneal=anneal)

    def allowed(y: Tensor) -> Tensor:
        return keep_apart(freedom, y, min_distance_ratio=min_distance_ratio)[0]

    return flow.integrate(field, allowed(begin), base.space, steps=steps, method=method, after=allowed, anneal=anneal)


def reconstruct(network: AutoPeriGnn, freedom: Freedom, z: Tensor, noise: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """Crystals from their latent vectors: of K draws through z the one that the encoder reads as nearest to z.

    Args:
        network: encoder and decoder.
        freedom: what is free.
        z: latent vectors, ``[B, latent]``, such as means of ``network.encode``.
        noise: standard normal, ``[K, B, D]``, each of :func:`~autoperi.processes.flow.crystal_noise`.
        **how: as in :func:`sample`.

    Returns:
        Coordinates ``[B, D]``, and the squared distance of their latent mean from z, ``[B]``; infinite where no draw
        gave a crystal.

    Raises:
        RequestError: noise of other dimensions, or no draw.
    """
    if noise.ndim != 3 or not len(noise):
        raise RequestError(
            f"noise has the shape {tuple(noise.shape)}; give draws, crystals, coordinates, and at least one draw"
        )
    with torch.no_grad():
        draws = torch.stack([sample(network, freedom, own, z=z, **how) for own in noise])
        means = torch.stack([network.encode(freedom.crystals(y))[0] for y in draws])
    distance, chosen = (means - z).square().sum(-1).nan_to_num(nan=float("inf")).min(0)
    return draws[chosen, torch.arange(len(z), device=z.device)], distance


def log_likelihood(
    network: AutoPeriGnn,
    freedom: Freedom,
    y: Tensor,
    *,
    centre: Tensor | None = None,
    start: Start | None = None,
    z: Tensor | None = None,
    steps: int | None = None,
    tolerance: float = 1e-2,
    probes: Tensor | None = None,
) -> LogLikelihood:
    """Log densities of crystals over their free parameters: strain coordinates and turns.

    Exact where at most :data:`~autoperi.processes.flow.EXACT_DIMENSIONS` parameters are free, by Hutchinson's estimate
    elsewhere.

    Args:
        network, freedom, centre, start, z: as in :func:`sample`.
        y: coordinates, ``[B, D]``.
        steps: equal steps of fourth order, all crystals together; None adapts them, crystal by crystal.
        tolerance: of adapted steps, in nats.
        probes: ±1, ``[K, B, D]``, such as signs of :func:`~autoperi.processes.flow.crystal_noise`; needed where the
            density is estimated.

    Returns:
        Densities of the coordinates y. A crystal has as many y as its orbits can be exchanged, and their
        representatives chosen, without changing it.

    Raises:
        RequestError: no ``probes`` for a crystal of many free parameters.
    """
    base = network.base(freedom, centre, start or (NOISE if centre is None else NEAR))
    many = base.space.dimensions > EXACT_DIMENSIONS
    if bool(many.any()) and probes is None:
        raise RequestError(
            f"a crystal has more than {EXACT_DIMENSIONS} free parameters; give probes for the estimate of its density"
        )
    nats, error, begin = y.new_zeros(len(y)), y.new_zeros(len(y)), torch.zeros_like(y)

    def field(rows: Tensor) -> Field:
        return _field(
            network,
            freedom[rows],
            None if centre is None else centre[rows],
            None if z is None else z[rows],
            width=y.shape[1],
        )

    # adapted steps are shared by the rows of one call, so each crystal is integrated alone; equal steps are the same
    # for all, and only exact and estimated densities are kept apart
    kinds = (torch.nonzero(~many).squeeze(1), torch.nonzero(many).squeeze(1))
    for rows in (part for kind in kinds for part in (kind.split(1) if steps is None else [kind])):
        if not len(rows):
            continue
        exact = not bool(many[rows[0]])
        own = Base(base.space[rows], base.mean[rows], base.scale[rows])
        noise = None if exact or probes is None else probes[:, rows]
        copies = None
        if exact and len(rows) == 1:  # a pass over copies takes hardly longer than one over the crystal
            copies = field(rows.expand(int(base.space.dimensions[rows[0]])))
        found = flow.log_likelihood(
            field(rows), own, y[rows], copies=copies, steps=steps, tolerance=tolerance, exact=exact, noise=noise
        )
        nats[rows], error[rows], begin[rows] = found.nats, found.standard_error, found.start
    return LogLikelihood(nats, error, base.space.dimensions, begin)


def _field(
    network: AutoPeriGnn, freedom: Freedom, centre: Tensor | None, z: Tensor | None, *, width: int | None = None
) -> Field:
    """The network's field on the crystals of ``freedom``, its columns padded to ``width`` where that is larger."""
    near = torch.full((len(freedom),), centre is not None, dtype=torch.bool, device=freedom.n_atoms.device)
    own = freedom.width

    def field(y: Tensor, t: Tensor) -> Tensor:
        v = network.velocity(y[:, :own], t, freedom, near=near, z=z)
        return v if width is None or width == own else torch.nn.functional.pad(v, (0, width - own))

    return field
