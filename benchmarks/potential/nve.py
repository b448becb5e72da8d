"""Energy conservation of the bundled potential: 64 atoms of Si and of NaCl at 300 K, 2 ps of velocity Verlet with 1 fs.

python benchmarks/potential/nve.py --out benchmarks/results/nve.json
python tools/refresh_docs.py    # write the tables of the docs
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from autoperi import AutoPeri
from autoperi._version import __version__
from autoperi.data.convert import structure_to_atoms
from autoperi.data.files import write_atomically
from autoperi.metrics.relaxation import relax_one

CELLS = {
    "Si": {"name": "Si", "crystalstructure": "diamond", "a": 5.43, "cubic": True},
    "NaCl": {"name": "NaCl", "crystalstructure": "rocksalt", "a": 5.64, "cubic": True},
}
STEPS, TIMESTEP_FS, TEMPERATURE_K = 2000, 1.0, 300.0


def run(formula: str, calculator: Any, *, steps: int, timestep: float, seed: int) -> dict[str, Any]:
    """One trajectory from the relaxed crystal with velocities of 600 K, half of which becomes potential energy."""
    relaxed = relax_one(bulk(**CELLS[formula]), calculator, fmax=1e-3, steps=300, optimizer="BFGS").structure
    atoms = structure_to_atoms(relaxed) * (2, 2, 2)
    atoms.calc = calculator
    start, masses = atoms.positions.copy(), atoms.get_masses()[:, None]
    momenta = np.random.default_rng(seed).normal(size=start.shape) * np.sqrt(masses * units.kB * 2 * TEMPERATURE_K)
    atoms.set_momenta(momenta - masses * momenta.sum(0) / masses.sum())  # at rest as a whole
    dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)
    total, temperature = [], []

    def record() -> None:
        total.append(atoms.get_total_energy() / len(atoms))
        temperature.append(atoms.get_temperature())

    dynamics.attach(record, interval=1)
    dynamics.run(steps)
    energies = 1000 * (np.asarray(total) - total[0])
    time = 1e-3 * timestep * np.arange(len(energies))
    slope = float(np.polyfit(time, energies, 1)[0])
    return {
        "atoms": len(atoms),
        "ps": round(float(time[-1]), 3),
        "timestep_fs": timestep,
        "mean_temperature_K": round(float(np.mean(temperature[len(temperature) // 10 :])), 1),
        "slope_meV_per_atom_per_ps": round(slope, 5),
        "drift_meV_per_atom": round(abs(slope) * float(time[-1]), 5),
        "max_excursion_meV_per_atom": round(float(np.abs(energies).max()), 5),
        "largest_displacement_A": round(float(np.linalg.norm(atoms.positions - start, axis=1).max()), 3),
        "energy_meV_per_atom": [round(float(e), 5) for e in energies[:: max(1, len(energies) // 200)]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--timestep", type=float, default=TIMESTEP_FS, help="fs")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    peri = AutoPeri.from_pretrained(args.model, device="cpu")
    runs = {}
    for formula in CELLS:
        calculator = peri.calculator(dtype=args.dtype)
        runs[formula] = run(formula, calculator, steps=args.steps, timestep=args.timestep, seed=args.seed)
        print(formula, {k: v for k, v in runs[formula].items() if k != "energy_meV_per_atom"}, flush=True)
    result = {
        "task": "nve",
        "model": peri.provenance()["model"],
        "model_sha256": peri.provenance()["sha256"],
        "dtype": args.dtype,
        "seed": args.seed,
        "worst": {k: max(r[k] for r in runs.values()) for k in ("drift_meV_per_atom", "max_excursion_meV_per_atom")},
        "runs": runs,
        "versions": {"autoperi": __version__},
    }
    if args.out:
        write_atomically(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
