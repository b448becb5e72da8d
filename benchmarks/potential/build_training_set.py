"""One tensor file of frames for training the potential: the teacher's shards and, if asked for, frames of DFT force
sets.

Each DFT set is brought onto the teacher's energy scale by one constant an element, fitted to the difference between its
energies and the teacher's on a few of its frames; forces and stresses are taken as they are. Only rows with ``split ==
train`` are read.

    python benchmarks/potential/build_training_set.py --shards .train/labels/train --out
    .train/potential/train.safetensors \\
        --dft mlearn_dft_forces.parquet:400 snap_dft_forces.parquet:800
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from autoperi.data.crystal import CrystalBatch
from autoperi.training.data import TensorCrystals
from autoperi.training.tasks.potential import element_constants
from autoperi.units import EV_PER_A3_IN_GPA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dft", nargs="*", default=[], metavar="FILE:FRAMES")
    parser.add_argument("--max-atoms", type=int, default=64)
    parser.add_argument("--align", type=int, default=12, help="frames of each set on which the constants are fitted")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = [teacher_frames(args.shards)]
    counts = {"teacher": len(parts[0])}
    for text in args.dft:
        path, _, number = text.rpartition(":")
        parts.append(dft_frames(path, int(number), args))
        counts[Path(path).name] = len(parts[-1])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    joined(parts).save(args.out)
    print(json.dumps(counts))


def teacher_frames(folder: Path) -> TensorCrystals:
    shards = [load_file(str(path)) for path in sorted(folder.glob("*.safetensors"))]
    tensors = {k: torch.cat([s[k] for s in shards]) for k in shards[0]}
    crystals = CrystalBatch(tensors["lattice"], tensors["frac_coords"], tensors["atomic_numbers"], tensors["n_atoms"])
    return TensorCrystals(
        crystals, {"energy": tensors["energy"], "stress": tensors["stress"]}, {"forces": tensors["forces"]}
    )


def dft_frames(path: str, number: int, args: argparse.Namespace) -> TensorCrystals:
    from chgnet.model import CHGNet

    from autoperi.data.io import read_table

    table = read_table(path)
    labels = table.labels
    sizes = np.array([len(z) for z in table.atomic_numbers])
    rows = np.nonzero((labels["split"] == "train").to_numpy() & (sizes <= args.max_atoms))[0]
    rows = np.sort(np.random.default_rng(args.seed).permutation(rows)[:number])
    chosen = table[rows]
    energy = torch.tensor(chosen.labels["energy_eV"].to_numpy(float))
    forces = torch.tensor(
        np.concatenate([np.asarray(f, float).reshape(-1, 3) for f in chosen.labels["forces_eV_per_A"]]),
        dtype=torch.float32,
    )
    stress = torch.full((len(rows), 3, 3), float("nan"))
    for k, value in enumerate(chosen.labels["stress_GPa"]):
        if value is not None and np.size(value) == 9:
            stress[k] = torch.tensor(np.asarray(value, float).reshape(3, 3) / EV_PER_A3_IN_GPA)
    crystals = chosen.batch(dtype=torch.float32)
    # one set of constants for each chemical system: their energies need not be on one scale
    systems = ["-".join(sorted({int(z).__str__() for z in crystals[[k]].atomic_numbers})) for k in range(len(rows))]
    alloys = len(set(systems)) > 20
    teacher = CHGNet.load(use_device="cpu", verbose=False)
    for system in ["all"] if alloys else sorted(set(systems)):
        members = np.array([k for k, s in enumerate(systems) if system in ("all", s)])
        sample = members[:: max(1, len(members) // args.align)]
        predicted = teacher.predict_structure(chosen[sample].structures(), task="e", batch_size=8)
        predicted = predicted if isinstance(predicted, list) else [predicted]  # one structure alone comes back bare
        difference = energy[sample] - torch.tensor(
            [float(r["e"]) * len(crystals[[int(k)]].atomic_numbers) for r, k in zip(predicted, sample, strict=True)]
        )
        constants = element_constants(crystals[sample.tolist()], difference, ridge=1e-6)
        group = crystals[members.tolist()]
        shift = torch.zeros(len(members), dtype=torch.float64).index_add(
            0, group.batch, constants[group.atomic_numbers]
        )
        energy[members] -= shift
    return TensorCrystals(crystals, {"energy": energy, "stress": stress}, {"forces": forces})


def joined(parts: list[TensorCrystals]) -> TensorCrystals:
    fields = ("lattice", "frac_coords", "atomic_numbers", "n_atoms")
    crystals = CrystalBatch(*(torch.cat([getattr(p.crystals, f) for p in parts]) for f in fields))
    labels = {k: torch.cat([p.labels[k] for p in parts]) for k in parts[0].labels}
    return TensorCrystals(crystals, labels, {"forces": torch.cat([p.atom_labels["forces"] for p in parts])})


if __name__ == "__main__":
    main()
