"""Relaxation, elastic constants and phonons of this package beside matcalc (Liu et al.): the same crystals, calculator
and settings, numbers and time.

pip install matcalc && python benchmarks/matcalc_side_by_side.py --out benchmarks/results/matcalc_side_by_side.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.io.ase import AseAtomsAdaptor

from autoperi import AutoPeri
from autoperi.data.io import write_atomically
from autoperi.metrics.elastic import STRAINS, elastic, moduli
from autoperi.metrics.phonons import phonons
from autoperi.metrics.relaxation import relax_one

RELAX = {"fmax": 0.01, "steps": 300}
ELASTIC = {"fmax": 0.01, "steps": 200}
PHONONS = {"min_length": 10.0, "distance": 0.01, "symprec": 1e-3}
MESH_LENGTH = 40.0


def counted(calculator: Any) -> Any:
    """The calculator with ``calls``, how often it computed anything."""
    original = calculator.calculate
    calculator.calls = 0

    def calculate(*args: Any, **kwargs: Any) -> None:
        calculator.calls += 1
        original(*args, **kwargs)

    calculator.calculate = calculate
    return calculator


def timed(calculator: Any, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the function finds with its seconds and force calls; the exception's name in the place of numbers."""
    calculator.reset()
    calculator.calls, begun = 0, time.perf_counter()
    try:
        found = function()
    except Exception as error:
        found = {"raised": f"{type(error).__name__}: {error}"[:120]}
    return {**found, "seconds": round(time.perf_counter() - begun, 3), "calls": calculator.calls}


def our_relaxation(atoms: Atoms, calculator: Any) -> dict[str, Any]:
    """Energy (eV/atom), volume (Å³/atom) and status."""
    found = relax_one(atoms, calculator, **RELAX)
    volume = None if found.status == "failed" else found.structure.volume / len(found.structure)
    return {"energy": found.energy_after, "volume": volume, "status": found.status, "reason": found.reason}


def their_relaxation(atoms: Atoms, calculator: Any) -> dict[str, Any]:
    """The same by ``RelaxCalc``."""
    from matcalc import RelaxCalc

    found = RelaxCalc(calculator, optimizer="FIRE", fmax=RELAX["fmax"], max_steps=RELAX["steps"]).calc(atoms)
    n = len(found["final_structure"])
    status = "converged" if found["is_converged"] else "not converged"
    return {"energy": float(found["energy"]) / n, "volume": float(found["volume"]) / n, "status": status}


def our_elasticity(atoms: Atoms, calculator: Any) -> dict[str, Any]:
    """Tensor and moduli in GPa, Born's verdict."""
    found = elastic(atoms, calculator, **ELASTIC)
    named = {"tensor": "tensor_GPa", "K": "bulk_modulus_GPa", "G": "shear_modulus_GPa", "born_stable": "born_stable"}
    return {name: found[key] for name, key in named.items()} | {"reason": found["reason"]}


def their_elasticity(atoms: Atoms, calculator: Any, *, symmetry: bool) -> dict[str, Any]:
    """The same by ``ElasticityCalc``, which has no verdict of Born's."""
    from matcalc import ElasticityCalc

    calc = ElasticityCalc(
        calculator,
        norm_strains=STRAINS,
        shear_strains=[s / 2 for s in STRAINS],  # its shear strains are those of the tensor, ours of Voigt
        fmax=ELASTIC["fmax"],
        relax_structure=False,
        relax_deformed_structures=True,
        use_equilibrium=False,
        symmetry=symmetry,
        units_GPa=True,
        relax_calc_kwargs={"max_steps": ELASTIC["steps"]},
    )
    found = calc.calc(atoms)
    tensor = np.array(found["elastic_tensor"].voigt)
    own = moduli((tensor + tensor.T) / 2)
    return {
        "tensor": tensor.round(4).tolist(),
        "K": round(float(found["bulk_modulus_vrh"]), 4),
        "G": round(float(found["shear_modulus_vrh"]), 4),
        "K_by_our_moduli": own["K_vrh"],
    }


def our_phonons(atoms: Atoms, calculator: Any) -> dict[str, Any]:
    """Least and greatest frequency in THz (the acoustic modes at Γ apart), and the verdict."""
    found = phonons(atoms, calculator, mesh_length=MESH_LENGTH, **PHONONS)
    named = {"min": "min_frequency_THz", "max": "max_frequency_THz", "stable": "dynamically_stable"}
    return {name: found[key] for name, key in named.items()} | {"reason": found["reason"]}


def their_phonons(atoms: Atoms, calculator: Any) -> dict[str, Any]:
    """The same by ``PhononCalc``, on our mesh."""
    from matcalc import PhononCalc

    calc = PhononCalc(
        calculator,
        atom_disp=PHONONS["distance"],
        min_length=PHONONS["min_length"],
        symprec=PHONONS["symprec"],
        relax_structure=False,
        write_phonon=False,
    )
    spectrum = calc.calc(AseAtomsAdaptor.get_structure(atoms))["phonon"]
    mesh = spectrum.run_mesh(MESH_LENGTH, is_gamma_center=True)
    mesh = spectrum.mesh if mesh is None else mesh
    return {"min": round(float(mesh.frequencies.min()), 4), "max": round(float(mesh.frequencies.max()), 4)}


def cases() -> list[tuple[str, Atoms, Any]]:
    """Name, crystal and calculator; the last two are what generated crystals look like at their worst."""
    alloy = bulk("Cu", "fcc", a=3.75, cubic=True)
    alloy.numbers[0] = 79
    alloy.rattle(0.02, seed=0)
    dense = bulk("Cu", "fcc", a=1.6)
    bundled = AutoPeri.from_pretrained().calculator()
    return [
        ("Cu, EMT", bulk("Cu", "fcc", a=3.7), EMT()),
        ("Al, EMT", bulk("Al", "fcc", a=3.9), EMT()),
        ("AuCu3 rattled, EMT", alloy, EMT()),
        ("NaCl, autoperi-base", bulk("NaCl", "rocksalt", a=5.6), bundled),
        ("Xe, EMT (an element without parameters)", bulk("Xe", "fcc", a=6.0), EMT()),
        ("Cu of a third of its volume, EMT", dense, EMT()),
    ]


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: dict[str, Any] = {}
    for name, crystal, bare in cases():
        calculator = counted(bare)
        row: dict[str, Any] = {
            "relaxation": {
                "ours": timed(calculator, lambda: our_relaxation(crystal.copy(), calculator)),  # noqa: B023
                "matcalc": timed(calculator, lambda: their_relaxation(crystal.copy(), calculator)),  # noqa: B023
            }
        }
        relaxed = relax_one(crystal, calculator, fmax=1e-4)
        atoms = AseAtomsAdaptor.get_atoms(relaxed.structure, msonable=False)
        if relaxed.status == "failed":
            atoms = crystal
        row["elastic"] = {
            "ours": timed(calculator, lambda: our_elasticity(atoms.copy(), calculator)),  # noqa: B023
            "matcalc": timed(calculator, lambda: their_elasticity(atoms.copy(), calculator, symmetry=False)),  # noqa: B023
            "matcalc, strains reduced by symmetry": timed(
                calculator,
                lambda: their_elasticity(atoms.copy(), calculator, symmetry=True),  # noqa: B023
            ),
        }
        row["phonons"] = {
            "ours": timed(calculator, lambda: our_phonons(atoms.copy(), calculator)),  # noqa: B023
            "matcalc": timed(calculator, lambda: their_phonons(atoms.copy(), calculator)),  # noqa: B023
        }
        rows[name] = row
        print(name, json.dumps(row, indent=1))
    packages = {p: importlib.metadata.version(p) for p in ("matcalc", "ase", "phonopy", "pymatgen-core")}
    settings = {"relaxation": RELAX, "elastic": {**ELASTIC, "strains": list(STRAINS)}, "phonons": PHONONS}
    out = {"settings": settings, "packages": packages, "crystals": rows}
    write_atomically(args.out, (json.dumps(out, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
