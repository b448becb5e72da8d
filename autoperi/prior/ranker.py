"""Which prototype, and which element where: p(prototype, assignment | composition), exactly normalised.

For a query composition each decoration (prototype v, assignment p of elements to slots) is compared with the members
of v through a learned element distance; kernel sums of those distances at several widths, the nearest member, counts
and simple statistics of the prototype enter a small network, and a softmax over all decorations of the composition's
counts gives the probability. Decorations whose crystals match (the library's match table) share their probability.

Trained by leaving each training crystal out of its own comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from autoperi.nn.mlp import mlp
from autoperi.prior.fingerprint import tie_permutations
from autoperi.prior.library import PrototypeLibrary
from autoperi.units import MAX_ATOMIC_NUMBER

KERNEL_WIDTHS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Widths, in units of the element distance, at which training begins."""
N_FEATURES = 2 * len(KERNEL_WIDTHS) + 12
MAX_ASSIGNMENTS = 120
"""Ways to put elements on the slots of a prototype that are scored."""
_FLOOR = 1e-9  # added to kernel sums, whose logarithm is taken


@dataclass(frozen=True, eq=False)
class Bucket:
    """All prototypes of one tuple of counts, and the tables that scoring needs.

    Attributes:
        counts: atoms per slot.
        prototypes: ``[V]`` ids.
        assignments: ``[P, S]``: element of slot s is ``elements[p[s]]``.
        member_elements: ``[M, S]``; ``member_owner``: row into ``prototypes``, ``[M]``; ``member_volume``: ``[M]``.
        weight: share of each slot, ``[S]``.
        static: query-independent features of each prototype, ``[V, 5]``.
        links: matching decoration pairs as flat indices v·P + p, ``[2, L]``, symmetric.
    """

    counts: tuple[int, ...]
    prototypes: np.ndarray
    assignments: np.ndarray
    member_elements: Tensor
    member_owner: Tensor
    member_volume: Tensor
    weight: Tensor
    static: Tensor
    links: Tensor

    @property
    def n_decorations(self) -> int:
        """V·P."""
        return len(self.prototypes) * len(self.assignments)

    def linked(self, mass: Tensor) -> Tensor:
        """Probability of each decoration together with all that match it, ``[..., V·P]`` to the same."""
        return mass + torch.zeros_like(mass).index_add(-1, self.links[0], mass[..., self.links[1]])


def make_bucket(library: PrototypeLibrary, counts: tuple[int, ...]) -> Bucket | None:
    """The bucket of ``counts`` (ascending), or None where the library has no such prototype."""
    prototypes = library.by_counts.get(counts)
    if prototypes is None:
        return None
    permutations = tie_permutations(counts)
    assignments = permutations[:MAX_ASSIGNMENTS]
    place = {p: k for k, p in enumerate(assignments)}
    row = {int(v): k for k, v in enumerate(prototypes)}
    rows = [library.members(int(v)) for v in prototypes]
    starts = library["member_start"]
    n_orbits = np.diff(library["orbit_start"])[prototypes]
    groups = library["space_group"][prototypes].astype(int)
    weight = np.bincount(library["space_group"], weights=np.diff(starts), minlength=231)
    rarity, share = np.log(weight[groups] / weight.sum()), n_orbits / sum(counts)
    columns = (rarity, share, n_orbits == len(counts), np.log(sum(counts)), len(counts))
    static = np.stack(np.broadcast_arrays(*columns), -1)
    links = []
    for k, v in enumerate(prototypes):
        for other, q in library.matches.get(int(v), []):
            p = permutations[q]  # slot s of `other` is slot p[s] of v
            for i, sigma in enumerate(assignments):
                j = place.get(tuple(sigma[s] for s in p))
                if j is not None:
                    links.append((k * len(assignments) + i, row[other] * len(assignments) + j))
    table = sorted({(a, b) for a, b in links if a != b})
    return Bucket(
        counts=counts,
        prototypes=prototypes,
        assignments=np.array(assignments),
        member_elements=torch.as_tensor(np.concatenate(rows).astype(np.int64)),
        member_owner=torch.as_tensor(np.repeat(np.arange(len(rows)), [len(r) for r in rows])),
        member_volume=torch.as_tensor(
            np.concatenate([library["member_volume"][starts[v] : starts[v + 1]] for v in prototypes])
        ).float(),
        weight=torch.tensor(counts, dtype=torch.float32) / sum(counts),
        static=torch.as_tensor(static, dtype=torch.float32),
        links=torch.tensor(table, dtype=torch.long).reshape(-1, 2).T,
    )


class Ranker(nn.Module):
    """Learned element distance and decoration scores.

    Args:
        dimensions: of the element embedding.
        hidden: width of the scoring network.
        descriptors: where the embedding starts, ``[119, d ≤ dimensions]``; zero if None.
    """

    def __init__(self, *, dimensions: int = 24, hidden: int = 96, descriptors: np.ndarray | None = None) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"dimensions": dimensions, "hidden": hidden}
        start = torch.zeros(MAX_ATOMIC_NUMBER + 1, dimensions)
        if descriptors is not None:
            start[:, : descriptors.shape[1]] = torch.as_tensor(descriptors, dtype=torch.float32) * 0.25
        self.elements = nn.Parameter(start)
        self.widths = nn.Parameter(torch.log(torch.tensor(KERNEL_WIDTHS)))
        self.score = nn.Sequential(nn.BatchNorm1d(N_FEATURES, affine=False), *mlp(N_FEATURES, hidden, hidden, 1))

    def element_distance(self) -> Tensor:
        """Distances between elements, ``[119, 119]``."""
        square = ((self.elements[:, None] - self.elements[None]) ** 2).sum(-1)
        return torch.sqrt(square + 1e-8) - 1e-4

    def features(self, bucket: Bucket, elements: Tensor, itself: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Features of every decoration of each query.

        Args:
            bucket: the prototypes.
            elements: elements of each query, sorted as ``slot_order`` does, ``[Q, S]``.
            itself: member row to leave out of each query's comparison, ``[Q]``, or None.

        Returns:
            Features ``[Q, V·P, F]``; which decorations exist ``[Q, V·P]``; expected log volume ratio ``[Q, V·P]``.
        """
        table = self.element_distance()
        q, p, v = len(elements), len(bucket.assignments), len(bucket.prototypes)
        placed = elements[:, torch.as_tensor(bucket.assignments)]  # [Q, P, S]
        # the same prototypes are compared with all queries, so every sum below is over members m of M, and goes to the
        # prototype v that owns the member
        per_slot = table[placed.unsqueeze(2), bucket.member_elements]  # [Q, P, M, S]
        mean = (per_slot * bucket.weight.to(table.dtype)).sum(-1)
        worst = per_slot.amax(-1)
        # a mean forgives one misplaced element in a large cell; half of the worst slot does not
        mixed = 0.5 * (mean + worst)
        dtype = table.dtype
        alive = torch.ones(q, 1, len(bucket.member_owner), dtype=dtype)
        if itself is not None:
            alive[torch.arange(q), 0, itself] = 0.0  # leave-one-out: a training crystal must not recognise itself
        owner = bucket.member_owner.expand(q, p, -1)

        def total(values: Tensor) -> Tensor:
            return torch.zeros(q, p, v, dtype=dtype).scatter_add(-1, owner, values * alive)

        def least(values: Tensor) -> Tensor:
            far = torch.where(alive.bool(), values, torch.full_like(values, 9.0))
            return torch.full((q, p, v), 9.0, dtype=dtype).scatter_reduce(-1, owner, far, "amin")

        # a prototype whose only member was left out does not exist for this query
        count = total(torch.ones_like(mean))
        exists = count > 0
        widths = self.widths.exp()
        columns = [torch.log(total(torch.exp(-source / w)) + _FLOOR) for source in (mean, mixed) for w in widths]
        nearest, nearest_worst = least(mean), least(worst)
        # members of exactly these elements here, and in all other decorations of the query
        exact = total((mean.detach() < 1e-3).to(table.dtype))
        known = exact.sum((1, 2), keepdim=True) - exact
        # a kernel weighs members' volumes; a faint uniform weight keeps the mean defined far from all members
        soft = torch.exp(-mean.detach() / 0.3) + 1e-6
        volume = total(soft * bucket.member_volume.to(table.dtype)) / total(soft).clamp(min=1e-12)
        share = count / count.sum(-1, keepdim=True).clamp(min=1)
        columns += [-nearest, -nearest_worst, torch.log(count.clamp(min=0.5)), torch.log(share.clamp(min=1e-4))]
        columns += [torch.log1p(exact), (known > 0).to(table.dtype).expand_as(exact), volume]
        columns += [bucket.static[:, k].to(table.dtype).expand(q, p, v) for k in range(bucket.static.shape[1])]
        stacked = torch.stack(columns, -1)  # [Q, P, V, F]

        def flat(x: Tensor) -> Tensor:
            return x.transpose(1, 2).reshape(q, v * p, *x.shape[3:])

        return flat(stacked), flat(exists), flat(volume)

    def forward(self, bucket: Bucket, elements: Tensor, itself: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``[Q, V·P]`` (−inf where a decoration does not exist) and expected log volume ratios."""
        features, exists, volume = self.features(bucket, elements, itself)
        q, c, f = features.shape
        chosen = exists.reshape(-1)
        values = torch.full((q * c,), -torch.inf, dtype=features.dtype)
        values = values.masked_scatter(chosen, self.score(features.reshape(q * c, f)[chosen]).squeeze(-1))
        return torch.log_softmax(values.view(q, c), -1), volume


def training_queries(library: PrototypeLibrary) -> list[tuple[Bucket, Tensor, Tensor, Tensor]]:
    """Queries for training, every member row of a library: (bucket, query elements ``[Q, S]``, own member row ``[Q]``,
    target decoration ``[Q]``) of each bucket with more than one member.
    """
    out = []
    for counts in library.by_counts:
        bucket = make_bucket(library, counts)
        if bucket is None or len(bucket.member_owner) < 2:
            continue
        place = {tuple(p): k for k, p in enumerate(bucket.assignments.tolist())}
        queries, rows, targets = [], [], []
        members = zip(bucket.member_elements.tolist(), bucket.member_owner.tolist(), strict=True)
        for m, (row, owner) in enumerate(members):
            ordered, assignment = sort_elements(row, counts)
            if assignment in place:
                queries.append(ordered)
                rows.append(m)
                targets.append(owner * len(place) + place[assignment])
        out.append((bucket, torch.tensor(queries), torch.tensor(rows), torch.tensor(targets)))
    return out


def sort_elements(by_slot: Sequence[int], counts: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """Elements in the order of ``slot_order``, and the assignment p with ``by_slot[s] == ordered[p[s]]``."""
    order = sorted(range(len(counts)), key=lambda s: (counts[s], by_slot[s]))
    rank = {s: r for r, s in enumerate(order)}
    return [by_slot[s] for s in order], tuple(rank[s] for s in range(len(counts)))


def ranking_loss(log_p: Tensor, bucket: Bucket, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log of the probability of all decorations that match the target, ``[Q]``, and which queries can be answered."""
    positive = torch.zeros_like(log_p)
    positive[torch.arange(len(targets)), targets] = 1.0
    positive = bucket.linked(positive).clamp(max=1.0)
    inside = torch.where((positive > 0) & torch.isfinite(log_p), log_p, torch.full_like(log_p, -torch.inf))
    reachable = torch.isfinite(inside).any(-1)
    return -torch.logsumexp(inside[reachable], -1), reachable


def train_ranker(
    library: PrototypeLibrary,
    *,
    descriptors: np.ndarray,
    epochs: int = 12,
    seed: int = 0,
    chunk: int = 96,
    report: Any = None,
    **config: int,
) -> Ranker:
    """Train by leave-one-out over all members; deterministic for a seed.

    Args:
        library: the prototypes.
        descriptors: start of the element embedding.
        epochs, seed, chunk: of the optimisation; ``chunk`` bounds the queries of one step.
        report: called with a dictionary after each epoch.
        config: of :class:`Ranker`.
    """
    data = training_queries(library)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ranker = Ranker(descriptors=descriptors, **config)
        nn.init.zeros_(cast("nn.Linear", ranker.score[-1]).weight)
        rest = ranker.elements.data[:, descriptors.shape[1] :]
        rest.copy_(0.02 * torch.randn_like(rest))
    steps = [
        (b, part)
        for b, (_, queries, _, _) in enumerate(data)
        for part in torch.arange(len(queries)).split(_chunk(data[b][0], chunk))
    ]
    optimizer = torch.optim.AdamW(
        [
            {"params": [ranker.elements, ranker.widths], "lr": 3e-3, "weight_decay": 0.0},
            {"params": ranker.score.parameters(), "lr": 3e-3, "weight_decay": 1e-3},
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    group = 8  # buckets of one step: many compositions, so that a step is not about one stoichiometry
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [4e-3, 4e-3], total_steps=epochs * -(-len(steps) // group), pct_start=0.1
    )
    for epoch in range(epochs):
        ranker.train()
        losses, hits, n = 0.0, 0.0, 0
        order = torch.randperm(len(steps), generator=generator).tolist()
        for start in range(0, len(order), group):
            optimizer.zero_grad()
            answered = 0
            for k in order[start : start + group]:
                b, part = steps[k]
                bucket, queries, rows, targets = data[b]
                log_p, _ = ranker(bucket, queries[part], rows[part])
                loss, reachable = ranking_loss(log_p, bucket, targets[part])
                if len(loss) == 0:
                    continue
                (loss.sum() / 100).backward()
                answered += len(loss)
                losses += float(loss.sum().detach())
                top = bucket.linked(log_p.detach().exp()).argmax(-1)
                hit = torch.zeros_like(log_p).scatter_(1, top[:, None], 1.0)
                hits += float((bucket.linked(hit)[torch.arange(len(part)), targets[part]] > 0)[reachable].sum())
                n += len(loss)
            if answered:
                nn.utils.clip_grad_norm_(ranker.parameters(), 5.0)
                optimizer.step()
            schedule.step()
        if report is not None:
            report({"epoch": epoch, "loss": losses / max(n, 1), "top1": hits / max(n, 1), "queries": n})
    return ranker.eval()


def _chunk(bucket: Bucket, chunk: int) -> int:
    size = len(bucket.member_owner) * len(bucket.assignments) * len(bucket.counts)
    return max(1, min(chunk, 6_000_000 // max(size, 1)))
