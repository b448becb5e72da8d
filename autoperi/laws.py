"""The laws every model must pass, as functions that raise AssertionError: use them on a model of your own.

A crystal has no preferred orientation, origin, order of atoms, lattice basis or choice of supercell. An invariant
quantity (energy per atom) must not change under any of them, and a lattice field (EMPNN's exponent A) must turn with
the crystal under O(3) and change under nothing else: Proposition 4 of Klipfel et al. 2023.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.lattice import change_basis, random_unimodular, supercell

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
Model = Callable[[CrystalBatch], Tensor]


def random_orthogonal(generator: torch.Generator, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random rotation or rotoinversion, ``[3, 3]``, uniform in O(3)."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    return (q * torch.sign(torch.diagonal(r))).to(dtype)


def rotated(batch: CrystalBatch, rotation: Tensor) -> CrystalBatch:
    """The same crystals turned: rows of the lattice times Rᵀ."""
    return batch.replace(lattice=batch.lattice @ rotation.to(batch.lattice).T)


def translated(batch: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
    """The same crystals with another origin each."""
    shift = torch.rand(len(batch), 3, generator=generator, dtype=torch.float64).to(batch.lattice)
    return batch.replace(frac_coords=batch.frac_coords + shift[batch.batch])


def permuted(batch: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
    """The same crystals with their atoms in another order."""
    crystals = zip(batch.n_atoms.tolist(), batch.offsets.tolist(), strict=True)
    order = torch.cat([torch.randperm(n, generator=generator) + start for n, start in crystals])
    return CrystalBatch(batch.lattice, batch.frac_coords[order], batch.atomic_numbers[order], batch.n_atoms)


def rebased(batch: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
    """The same crystals in another basis of their lattice, by random elements of SL3(Z)."""
    return change_basis(batch, random_unimodular(generator, len(batch)))


def check_invariant(model: Model, batch: CrystalBatch, *, seed: int = 0) -> None:
    """Check that a model ``[B, ...]`` gives one answer for all descriptions of a crystal.

    Differences count relative to the size of the answer, at least 1.

    Raises:
        AssertionError: a law is broken; the message names it.
    """
    generator = torch.Generator().manual_seed(seed)
    expected = model(batch)
    _close(model(rotated(batch, random_orthogonal(generator))), expected, "rotation")
    _check_descriptions(model, batch, expected, generator, (1, 2, 1))


def check_lattice_field(model: Model, batch: CrystalBatch, *, seed: int = 0, symmetric: bool = True) -> None:
    """Check that a model ``[B, 3, 3]`` gives A with A(R·crystal) = R A Rᵀ, symmetric unless told otherwise, and is
    invariant apart from that.

    Raises:
        AssertionError: a law is broken; the message names it.
    """
    generator = torch.Generator().manual_seed(seed)
    expected = model(batch)
    if symmetric:
        _close(expected.transpose(-1, -2), expected, "symmetry of the exponent")
    rotation = random_orthogonal(generator).to(batch.lattice)
    _close(model(rotated(batch, rotation)), rotation @ expected @ rotation.T, "rotation")
    _check_descriptions(model, batch, expected, generator, (2, 1, 1))


def _check_descriptions(
    model: Model, batch: CrystalBatch, expected: Tensor, generator: torch.Generator, multiples: tuple[int, int, int]
) -> None:
    """What no model may see: origin, order of atoms, lattice basis, choice of supercell and batchmates."""
    changes = {
        "translation": translated(batch, generator),
        "permutation": permuted(batch, generator),
        "lattice basis": rebased(batch, generator),
        "supercell": supercell(batch, multiples),
    }
    for law, changed in changes.items():
        _close(model(changed), expected, law)
    check_batch_independent(model, batch)


def check_batch_independent(model: Model, batch: CrystalBatch) -> None:
    """Check that a crystal gives alone what it gives in a batch.

    Raises:
        AssertionError: it does not.
    """
    expected = model(batch)
    alone = torch.cat([model(batch[k]) for k in range(len(batch))])
    _close(alone, expected, "batchmates")


def _close(found: Tensor, expected: Tensor, law: str) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((found - expected).detach().abs().max()) / scale if expected.numel() else 0.0
    limit = TOLERANCE[expected.dtype]
    assert error <= limit, f"the law of {law} is broken: {error:.2e} > {limit:.0e}"
