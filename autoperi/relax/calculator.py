"""The potential as an ASE calculator.

Units and signs are ASE's: eV, eV/Å, eV/Å³ in the order xx yy zz yz xz xy, tension positive.

What is periodic is decided by ``atoms.pbc`` alone. Along axes that are not, nothing repeats, whatever vacuum the cell
has. The stress is (1/V) ∂E/∂ε of a strain of cell and positions together, V the volume of ``atoms.cell``: it is given
where the cell spans space and at least one axis is periodic (of a slab only the components in its plane mean anything),
and is a ``PropertyNotImplementedError`` elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, equal, external_calculators, register_calculator_class
from ase.stress import full_3x3_to_voigt_6_stress

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError, StructureError
from autoperi.geometry.neighbours import NeighbourLists
from autoperi.hub.bundle import Bundle
from autoperi.models.potential import Potential
from autoperi.units import MAX_ATOMIC_NUMBER, SAME_PLACE_A

NAME = "autoperi"
"""Of the calculator, for ``ase.calculators.calculator.get_calculator_class``."""
_ENERGIES = {"energy", "free_energy", "energies"}


class AutoPeriCalculator(Calculator):
    """Energy, forces and stress of any atoms, periodic or not.

    Neighbours are searched again only when an atom may have come into the cutoff (see
    :class:`~autoperi.geometry.neighbours.NeighbourLists`), which changes no result. Results depend on positions,
    numbers, cell and pbc alone, not on initial magnetic moments or charges. The calculator owns its weights; copies and
    pickles of it work.

    Args:
        model: a name, directory or hub repository as ``AutoPeri.from_pretrained`` takes it, a loaded
            :class:`~autoperi.hub.bundle.Bundle`, or a :class:`~autoperi.models.potential.Potential`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``.
        dtype: of the network: ``"float32"`` (default; fast, for relaxation and dynamics) or ``"float64"`` (for phonons,
            elastic constants and other small differences), or the torch dtypes. Geometry and sums are float64 in any
            case.
        skin: of the neighbour list in Å.

    Raises:
        RequestError: an option that is unknown or cannot be honoured.
        WeightsError: the model cannot be loaded or has no potential.
    """

    name = NAME
    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: str | os.PathLike[str] | Bundle | Potential = "autoperi-base",
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "float32",
        skin: float = 0.5,
        **unknown: Any,
    ) -> None:
        from autoperi.nn.device import check_device

        if unknown:
            raise RequestError(
                f"options {sorted(unknown)} are not known to {type(self).__name__}; it takes model, device, dtype, skin"
            )
        kind = _dtype(dtype)
        place = check_device(device)
        with torch.inference_mode(False):  # else weights made there could never give forces
            label, potential = _potential(model)
            self.potential = potential.to(device=place, dtype=kind).eval().requires_grad_(False)
        self.neighbours = NeighbourLists(self.potential.cutoff, skin=skin)
        self._box: np.ndarray | None = None
        super().__init__()
        self.parameters.update(model=label, dtype=str(kind).removeprefix("torch."), skin=float(skin))

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Nothing: the network is loaded once, for all the life of a calculator.

        Raises:
            RequestError: a parameter that would change.
        """
        for name, value in kwargs.items():
            same = (
                _dtype(value) is _dtype(self.parameters["dtype"])
                if name == "dtype"
                else equal(value, self.parameters.get(name))
            )
            if name not in self.parameters or not same:
                raise RequestError(f"{name}={value!r} cannot be set on a calculator that exists; make a new calculator")
        return {}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``; forces and stress only where one of them is asked for.

        Raises:
            StructureError: no atoms, NaN, no cell along a periodic axis, atoms at one place, elements never trained on.
        """
        super().calculate(atoms, list(properties or ["energy"]), list(system_changes))
        assert self.atoms is not None
        batch = self._batch(self.atoms)
        derivatives = not set(properties or ["energy"]) <= _ENERGIES
        with torch.inference_mode(False), torch.no_grad():
            graph, vectors = self.neighbours.edges(batch)
            closest = float(torch.linalg.vector_norm(vectors, dim=-1).min()) if graph.n_edges else np.inf
            if closest < SAME_PLACE_A:
                raise StructureError(
                    f"two atoms are {closest:.2g} Å from each other, at the same place; remove one of them"
                )
            found = self.potential(batch, graph=graph, vectors=vectors, derivatives=derivatives)
        results: dict[str, Any] = {
            "energy": float(found.energy),
            "free_energy": float(found.energy),
            "energies": _array(found.energies),
        }
        if derivatives:
            results["forces"] = _array(found.forces)
            stress = _array(found.stress[0])
            if self.atoms.cell.rank == 3 and self.atoms.pbc.any():
                if not self.atoms.pbc.all():  # the box of the batch is not the cell of the user
                    stress *= float(batch.volume) / abs(np.linalg.det(self.atoms.cell[:]))
                results["stress"] = full_3x3_to_voigt_6_stress(stress)
        if not all(np.isfinite(value).all() for value in results.values()):
            raise StructureError(
                f"the energy of these {len(self.atoms)} atoms is not finite; their closest pair is {closest:.3g} Å "
                "apart"
            )
        self.results = results

    def _batch(self, atoms: Atoms) -> CrystalBatch:
        """The atoms in a cell whose images along axes that are not periodic are out of reach; coordinates not
        wrapped.
        """
        numbers, positions = np.asarray(atoms.numbers, dtype=np.int64), np.asarray(atoms.positions, dtype=np.float64)
        if not len(numbers):
            raise StructureError("there are no atoms; give at least one")
        if not np.isfinite(positions).all() or not np.isfinite(atoms.cell[:]).all():
            raise StructureError("positions or cell hold NaN or infinity; give finite numbers in Å")
        if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
            wrong = numbers[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)][0]
            raise StructureError(f"atomic number {wrong} is no element; elements are 1 to {MAX_ATOMIC_NUMBER}")
        self.potential.check_elements(torch.from_numpy(numbers))
        lattice = self._lattice(
            np.asarray(atoms.cell[:], dtype=np.float64), np.asarray(atoms.pbc, dtype=bool), positions
        )
        device = self.potential.reference.device
        return CrystalBatch(
            torch.as_tensor(lattice).unsqueeze(0).to(device),
            torch.as_tensor(np.linalg.solve(lattice.T, positions.T).T.copy()).to(device),
            torch.as_tensor(numbers).to(device),
            torch.tensor([len(numbers)], device=device),
        )

    def _lattice(self, cell: np.ndarray, pbc: np.ndarray, positions: np.ndarray) -> np.ndarray:
        periodic = cell[pbc]
        lengths = np.linalg.norm(periodic, axis=1)
        spanned = np.sqrt(max(0.0, float(np.linalg.det(periodic @ periodic.T)))) if len(periodic) else 1.0
        if (lengths == 0).any() or spanned <= 1e-6 * lengths.prod():
            raise StructureError(
                f"pbc is {pbc.tolist()} but the cell {cell.tolist()} has no independent vectors along these axes; set "
                "a cell, or pbc to False"
            )
        if pbc.all():
            self._box = None
            return cell
        _, _, axes = np.linalg.svd(periodic) if len(periodic) else (None, None, np.eye(3))
        free = axes[len(periodic) :]
        extent = np.ptp(positions @ free.T, axis=0)
        reach = self.neighbours.cutoff + self.neighbours.skin
        # the box is kept while it is wide enough, so that atoms that move need no new search on its account
        if self._box is None or len(self._box) != len(free) or (self._box < extent + reach).any():
            self._box = extent + 2 * reach + 1.0
        lattice = np.empty((3, 3))
        lattice[pbc] = periodic
        lattice[~pbc] = free * self._box[:, None]
        return lattice


def _potential(model: Any) -> tuple[str, Potential]:
    """The name of a model and a potential that nobody else holds."""
    if isinstance(model, Potential):
        return "Potential", deepcopy(model)
    from autoperi.hub.networks import potential_of

    if not isinstance(model, Bundle):
        if not isinstance(model, (str, os.PathLike)):
            raise RequestError(f"model={model!r} is no model; give a name, a directory, a Bundle or a Potential")
        from autoperi.hub.download import load_pretrained

        model = load_pretrained(model)
    return model.name, potential_of(model)


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    for name, kind in (("float32", torch.float32), ("float64", torch.float64)):
        if dtype is kind or (isinstance(dtype, str) and dtype == name):
            return kind
    raise RequestError(f"dtype={dtype!r} is not supported; use 'float32' or 'float64'")


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().to(device="cpu", dtype=torch.float64).numpy().copy()


if NAME not in external_calculators:
    register_calculator_class(NAME, AutoPeriCalculator)
