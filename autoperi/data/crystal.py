"""``CrystalBatch``: many crystals as flat tensors, the only form in which networks and processes see crystals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from autoperi.errors import StructureError
from autoperi.units import MAX_ATOMIC_NUMBER


@dataclass(frozen=True, eq=False)
class CrystalBatch:
    """B crystals with N atoms in all.

    Attributes:
        lattice: rows a, b, c in Å, ``[B, 3, 3]``.
        frac_coords: fractional coordinates in [0, 1), ``[N, 3]``.
        atomic_numbers: 1..118, integer, ``[N]``.
        n_atoms: atoms of each crystal, integer, at least one, ``[B]``.
    """

    lattice: Tensor
    frac_coords: Tensor
    atomic_numbers: Tensor
    n_atoms: Tensor

    def __post_init__(self) -> None:
        n, b = int(self.frac_coords.shape[0]), int(self.lattice.shape[0])
        if self.lattice.shape != (b, 3, 3) or self.frac_coords.shape != (n, 3):
            raise StructureError(
                f"lattice has shape {tuple(self.lattice.shape)} and frac_coords {tuple(self.frac_coords.shape)}; give "
                "[B, 3, 3] and [N, 3]"
            )
        if self.atomic_numbers.shape != (n,) or self.n_atoms.shape != (b,) or int(self.n_atoms.sum()) != n:
            raise StructureError(
                f"atomic_numbers {tuple(self.atomic_numbers.shape)} and n_atoms {self.n_atoms.tolist()[:8]} do not "
                f"describe {n} atoms in {b} crystals; their lengths and sum must agree"
            )

    @classmethod
    def from_list(
        cls,
        crystals: Sequence[tuple[object, object, object]],
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> CrystalBatch:
        """Batch ``(lattice [3,3], frac_coords [n,3], atomic_numbers [n])`` triples of arrays or tensors."""
        lattices = [torch.as_tensor(c[0], dtype=dtype).reshape(1, 3, 3) for c in crystals]
        coords = [torch.as_tensor(c[1], dtype=dtype).reshape(-1, 3) for c in crystals]
        numbers = [torch.as_tensor(c[2], dtype=torch.long).reshape(-1) for c in crystals]
        return cls(
            lattice=torch.cat(lattices) if lattices else torch.zeros(0, 3, 3, dtype=dtype),
            frac_coords=torch.cat(coords) if coords else torch.zeros(0, 3, dtype=dtype),
            atomic_numbers=torch.cat(numbers) if numbers else torch.zeros(0, dtype=torch.long),
            n_atoms=torch.tensor([len(x) for x in coords], dtype=torch.long),
        ).to(device=device)

    @classmethod
    def cat(cls, batches: Sequence[CrystalBatch]) -> CrystalBatch:
        """Concatenate batches in order."""
        return cls(*(torch.cat([getattr(b, f.name) for b in batches]) for f in fields(cls)))

    def __len__(self) -> int:
        return int(self.lattice.shape[0])

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> CrystalBatch:
        """The chosen crystals, in the order asked for, as a batch."""
        every = torch.arange(len(self), device=self.n_atoms.device)
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))  # torch slices take no negative steps
        wanted = torch.atleast_1d(torch.as_tensor(index)).to(every.device)
        # booleans mask and negatives count from the end; an empty list has no dtype of its own
        chosen = every[wanted if wanted.numel() else wanted.long()]
        counts = self.n_atoms[chosen]
        start = self.offsets[chosen] - (torch.cumsum(counts, 0) - counts)
        atoms = torch.repeat_interleave(start, counts) + torch.arange(int(counts.sum()), device=counts.device)
        return CrystalBatch(self.lattice[chosen], self.frac_coords[atoms], self.atomic_numbers[atoms], counts)

    @cached_property
    def batch(self) -> Tensor:
        """Index of each atom's crystal, ``[N]``."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.n_atoms.device), self.n_atoms)

    @cached_property
    def offsets(self) -> Tensor:
        """Index of each crystal's first atom, ``[B]``."""
        return torch.cumsum(self.n_atoms, 0) - self.n_atoms

    @property
    def volume(self) -> Tensor:
        """Cell volumes in Å³, positive whatever the handedness, ``[B]``."""
        return torch.linalg.det(self.lattice).abs()

    @property
    def flat(self) -> Tensor:
        """Which cells have no volume to speak of: at most 1e-6 of a b c, ``[B]``."""
        return self.volume <= 1e-6 * torch.linalg.vector_norm(self.lattice, dim=-1).prod(-1)

    @property
    def cart_coords(self) -> Tensor:
        """Cartesian positions in Å, ``[N, 3]``."""
        return torch.einsum("ni,nij->nj", self.frac_coords, self.lattice[self.batch])

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> CrystalBatch:
        """The same crystals with another floating dtype or on another device."""
        return CrystalBatch(
            self.lattice.to(device=device, dtype=dtype),
            self.frac_coords.to(device=device, dtype=dtype),
            self.atomic_numbers.to(device=device),
            self.n_atoms.to(device=device),
        )

    def replace(self, *, lattice: Tensor | None = None, frac_coords: Tensor | None = None) -> CrystalBatch:
        """The same atoms with another lattice or other coordinates (wrapped into the cell)."""
        if frac_coords is None:
            x = self.frac_coords
        else:
            x = frac_coords - torch.floor(frac_coords).detach()
            x = torch.where(x >= 1, torch.zeros_like(x), x)  # -1e-18 - floor(-1e-18) rounds to 1
        return CrystalBatch(self.lattice if lattice is None else lattice, x, self.atomic_numbers, self.n_atoms)

    def unbatch(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """``(lattice [3,3], frac_coords [n,3], atomic_numbers [n])`` of each crystal."""
        counts = self.n_atoms.tolist()
        return list(zip(self.lattice, self.frac_coords.split(counts), self.atomic_numbers.split(counts), strict=True))

    def validate(self) -> CrystalBatch:
        """Return self, or raise on the first crystal that has no geometry.

        Raises:
            StructureError: NaN or infinite numbers, a cell without volume, no atoms, an unknown element.
        """
        counts = self.n_atoms.tolist()
        if any(c < 1 for c in counts):
            raise StructureError(f"crystal {counts.index(min(counts))} has no atoms; remove it or give it at least one")

        def first(wrong: Tensor) -> int | None:
            return int(wrong.nonzero()[0]) if bool(wrong.any()) else None

        if (i := first(~torch.isfinite(self.lattice).flatten(1).all(1))) is not None:
            raise StructureError(f"crystal {i} has NaN or infinity in its lattice; give finite lengths in Å")
        if (i := first(~torch.isfinite(self.frac_coords).all(1))) is not None:
            where = f"crystal {int(self.batch[i])}"
            raise StructureError(f"{where} has NaN or infinity in its coordinates; give finite numbers")
        if (i := first((self.atomic_numbers < 1) | (self.atomic_numbers > MAX_ATOMIC_NUMBER))) is not None:
            what = f"crystal {int(self.batch[i])} holds atomic number {int(self.atomic_numbers[i])}"
            raise StructureError(f"{what}; elements are 1 to {MAX_ATOMIC_NUMBER}")
        if (i := first(self.flat)) is not None:
            what = f"crystal {i} has a cell volume of {float(self.volume[i]):.3g} Å³"
            raise StructureError(f"{what}; give three lattice vectors that span space")
        return self
