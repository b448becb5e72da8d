"""Training data as tensors, ready to be batched and to be kept in one safetensors file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, get_type_hints

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import DataError
from autoperi.geometry.multigraph import radius_graph

LABELS = ("formation_energy_per_atom", "label_weight")
_PREFIXES = {"crystals": "", "labels": "label.", "atom_labels": "atom."}
"""What stands before the names of tensors of a field in a file, where it is not the name of the field and a point."""


class TensorFile:
    """A dataclass whose fields are tensors, mappings to tensors, or dataclasses of tensors, as one safetensors file.

    Attributes:
        holds: what an error calls it.
    """

    holds: ClassVar[str]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for name, value in _parts(self).items():
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                part = value if isinstance(value, dict) else _parts(value)
                tensors |= {_PREFIXES.get(name, f"{name}.") + k: v for k, v in part.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, str(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing or holds something else.
        """
        try:
            tensors, kinds = load_file(str(path)), get_type_hints(cls)
            found: dict[str, Any] = {}
            for name in (f.name for f in fields(cls)):  # type: ignore[arg-type]
                kind, prefix = kinds[name], _PREFIXES.get(name, f"{name}.")
                if kind is Tensor:
                    found[name] = tensors.pop(name)
                elif kind == dict[str, Tensor]:
                    names = [k for k in tensors if k.startswith(prefix)]
                    found[name] = {k.removeprefix(prefix): tensors.pop(k) for k in names}
                else:
                    found[name] = kind(**{f.name: tensors.pop(prefix + f.name) for f in fields(kind)})
            if tensors:
                raise KeyError(*tensors)
            return cls(**found)
        except Exception as error:
            raise DataError(
                f"{path} does not hold {cls.holds} ({error}); make it anew from a table of crystals"
            ) from None


def _parts(data: Any) -> dict[str, Any]:
    return {f.name: getattr(data, f.name) for f in fields(data)}


@dataclass(frozen=True, eq=False)
class TensorCrystals(TensorFile):
    """Crystals and labels in memory.

    Attributes:
        crystals: all crystals as one batch.
        labels: per crystal, each ``[B]`` or ``[B, ...]``; NaN where missing.
        atom_labels: per atom, each ``[N, ...]``; NaN where missing.
    """

    holds: ClassVar[str] = "training tensors"
    crystals: CrystalBatch
    labels: dict[str, Tensor]
    atom_labels: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.crystals)

    @property
    def n_atoms(self) -> Tensor:
        """Atoms of each crystal, ``[B]``."""
        return self.crystals.n_atoms

    def take(self, rows: Tensor) -> tuple[CrystalBatch, dict[str, Tensor]]:
        """The crystals of ``rows`` and their labels, those of atoms too, and ``row`` itself."""
        c = self.crystals
        labels = {"row": rows, **{k: v[rows] for k, v in self.labels.items()}}
        if self.atom_labels:
            counts = c.n_atoms[rows]
            start = torch.repeat_interleave(c.offsets[rows] - (torch.cumsum(counts, 0) - counts), counts)
            atoms = start + torch.arange(len(start))
            labels |= {k: v[atoms] for k, v in self.atom_labels.items()}
        return c[rows.tolist()], labels


class Rows(Protocol):
    """Training data: crystals of some kind and their labels."""

    def __len__(self) -> int: ...

    @property
    def n_atoms(self) -> Tensor:
        """Atoms of each crystal, ``[B]``."""
        ...

    def take(self, rows: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """A batch of the crystals of ``rows`` and their labels."""
        ...


@dataclass
class Batches:
    """Seeded batches of one epoch after another; the order depends on ``(seed, epoch)`` alone, so a resumed run repeats
    it.

    Crystals of like ``width`` share a batch, in random order: widths are sorted within pools of ``pool`` batches, which
    keeps padding small and batches random. The width of a crystal is its number of atoms unless :func:`widths` of its
    neighbour table, which is what the backbone pads, are given. Beside the labels, ``row`` says which rows of the data
    a batch holds.

    Of several ``processes`` that train together, that of ``rank`` takes every ``processes``-th batch of the epoch; so
    that all take equally many, the first batches come again at the end where the number does not divide.
    """

    data: Rows
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    pool: int = 16
    epoch: int = 0
    width: Tensor | None = None
    rank: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return -(-self._in_all // self.processes)

    @property
    def _in_all(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def share(self, rank: int, processes: int) -> None:
        """Be one of several ``processes``, that of ``rank``."""
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epoch that comes next (Lightning itself calls this for samplers only)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        n = len(self.data)
        order = torch.arange(n)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(n, generator=generator)
            size = self.batch_size * self.pool
            width = self.data.n_atoms if self.width is None else self.width
            pools = [p[torch.argsort(width[p], stable=True)] for p in order.split(size)]
            chunks = [c for p in pools for c in p.split(self.batch_size)]
            chunks = [chunks[int(i)] for i in torch.randperm(len(chunks), generator=generator)]
        else:
            chunks = list(order.split(self.batch_size))
        for k in range(len(self)):
            yield self.data.take(chunks[(k * self.processes + self.rank) % len(chunks)])


def widths(crystals: CrystalBatch, cutoff: float, *, chunk: int = 256) -> Tensor:
    """Largest number of neighbours within ``cutoff`` Å that an atom of each crystal has, ``[B]``."""
    found = []
    for start in range(0, len(crystals), chunk):
        part = crystals[list(range(start, min(start + chunk, len(crystals))))]
        graph = radius_graph(part, cutoff)
        degrees = torch.bincount(graph.edge_index[0], minlength=graph.n_nodes)
        found.append(torch.zeros(len(part), dtype=torch.long).scatter_reduce_(0, part.batch, degrees, "amax"))
    return torch.cat(found)
