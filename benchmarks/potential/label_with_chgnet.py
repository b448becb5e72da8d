"""Label perturbed crystals with CHGNet 0.3.0: energies, forces and stresses from which the potential learns.

Each frame is a crystal of the table, perturbed in one of four ways drawn from ``(seed, frame)``:

- ``as is`` (10 %);
- ``rattled`` (45 %): atoms moved by N(0, s) with s = 0.01 + 0.24 u² Å, cell strained by symmetric A with entries N(0,
  0.05 u²), each u uniform in 0..1: most are as far from rest as at a few hundred kelvin, a few much farther;
- ``volume`` (20 %): volume times a factor uniform in 0.82..1.22, atoms moved by s up to 0.06 Å;
- ``substituted`` (25 %): another crystal's composition in this prototype, as the prior of ``autoperi-base`` proposes it
  for a composition of the table (one of its first ten candidates), strained and rattled by half as much as ``rattled``.

Frames with an atom nearer than 0.6 of the sum of covalent radii, or a force above 30 eV/Å, are dropped and counted.
Shards of 256 frames are written whole; a second run goes on where the first was interrupted.

    python benchmarks/potential/label_with_chgnet.py --data mp_train.parquet --out .train/labels/train --frames 20000
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SHARD = 256
MODES = ("as is", "rattled", "volume", "substituted")
SHARES = (0.10, 0.45, 0.20, 0.25)
MAX_FORCE = 30.0
MIN_RADII = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--frames", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-atoms", type=int, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    from chgnet.model import CHGNet

    from autoperi import AutoPeri
    from autoperi.data.io import read_table

    teacher = CHGNet.load(use_device="cpu", verbose=False)
    peri = AutoPeri.from_pretrained()
    table = read_table(args.data)
    sizes = table.batch().n_atoms.numpy()
    rows = np.nonzero(sizes <= args.max_atoms)[0]
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = {
        "data": Path(args.data).name,
        "seed": args.seed,
        "max_atoms": args.max_atoms,
        "modes": dict(zip(MODES, SHARES, strict=True)),
    }
    note = args.out / "recipe.json"
    if note.exists() and json.loads(note.read_text()) != recipe:
        raise SystemExit(f"{args.out} holds labels of another recipe; give another folder")
    note.write_text(json.dumps(recipe, indent=1))
    order = np.random.default_rng(args.seed).permutation(len(rows))
    for shard in range(-(-args.frames // SHARD)):
        path = args.out / f"{shard:05d}.safetensors"
        if path.exists():
            continue
        started = time.perf_counter()
        structures, modes, sources, dropped = [], [], [], 0
        for frame in range(shard * SHARD, (shard + 1) * SHARD):
            rng = np.random.default_rng([args.seed, frame])
            row = int(rows[order[frame % len(order)]])
            mode = int(rng.choice(len(MODES), p=SHARES))
            structure = perturbed(table[[row]].structures()[0], mode, rng, peri)
            if structure is None or too_near(structure):
                dropped += 1
                continue
            structures.append(structure)
            modes.append(mode)
            sources.append(row)
        results = teacher.predict_structure(structures, task="efs", batch_size=16)
        kept = [k for k, r in enumerate(results) if np.isfinite(r["e"]) and np.abs(r["f"]).max() < MAX_FORCE]
        dropped += len(structures) - len(kept)
        write(
            path,
            [structures[k] for k in kept],
            [results[k] for k in kept],
            [modes[k] for k in kept],
            [sources[k] for k in kept],
        )
        print(
            json.dumps(
                {
                    "shard": shard,
                    "frames": len(kept),
                    "dropped": dropped,
                    "seconds": round(time.perf_counter() - started, 1),
                }
            ),
            flush=True,
        )


def perturbed(structure, mode: int, rng: np.random.Generator, peri):
    if mode == 0:
        return structure
    if mode == 1:
        return moved(structure, rng, 0.01 + 0.24 * rng.uniform() ** 2, 0.05 * rng.uniform() ** 2)
    if mode == 2:
        scaled = structure.copy()
        scaled.scale_lattice(structure.volume * rng.uniform(0.82, 1.22))
        return moved(scaled, rng, rng.uniform(0, 0.06), 0.0)
    try:
        found = peri.generate(
            structure.composition,
            n=10,
            num_atoms=len(structure),
            seed=int(rng.integers(2**31)),
            rank="probability",
            strict=False,
            progress=False,
        )
    except Exception:
        return None
    if not found:
        return None
    return moved(found[int(rng.integers(len(found)))], rng, 0.12 * rng.uniform() ** 2, 0.025 * rng.uniform() ** 2)


def moved(structure, rng: np.random.Generator, rattle: float, strain: float):
    from pymatgen.core import Lattice, Structure
    from scipy.linalg import expm

    a = rng.normal(0, strain, (3, 3)) if strain else np.zeros((3, 3))
    lattice = structure.lattice.matrix @ expm((a + a.T) / 2)
    coords = (
        structure.frac_coords @ lattice + rng.normal(0, rattle, (len(structure), 3))
        if rattle
        else structure.frac_coords @ lattice
    )
    return Structure(Lattice(lattice), [s.specie for s in structure], coords, coords_are_cartesian=True)


def too_near(structure) -> bool:
    from ase.data import covalent_radii

    if not 2.0 < structure.volume / len(structure) < 200.0:
        return True
    radii = np.array([covalent_radii[s.specie.Z] for s in structure])
    i, j, _, d = structure.get_neighbor_list(3.5)
    return bool((d < MIN_RADII * (radii[i] + radii[j])).any())


def write(path: Path, structures, results, modes, sources) -> None:
    tensors = {
        "lattice": torch.tensor(np.array([s.lattice.matrix for s in structures]), dtype=torch.float32),
        "frac_coords": torch.tensor(np.concatenate([s.frac_coords for s in structures]), dtype=torch.float32),
        "atomic_numbers": torch.tensor([site.specie.Z for s in structures for site in s]),
        "n_atoms": torch.tensor([len(s) for s in structures]),
        "energy": torch.tensor(
            [float(r["e"]) * len(s) for r, s in zip(results, structures, strict=True)], dtype=torch.float64
        ),
        "forces": torch.tensor(np.concatenate([r["f"] for r in results]), dtype=torch.float32),
        "stress": torch.tensor(np.array([r["s"] for r in results]) / 160.21766208, dtype=torch.float32),
        "mode": torch.tensor(modes),
        "source": torch.tensor(sources),
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, str(partial))
    partial.rename(path)


if __name__ == "__main__":
    main()
