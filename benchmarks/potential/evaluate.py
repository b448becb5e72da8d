"""The bundled potential against its teacher: errors on perturbed crystals of mp_val that neither training nor any
choice has used.

python benchmarks/potential/label_with_chgnet.py --data mp_val.parquet --out .train/labels/val --frames 2560 --seed 1
python benchmarks/potential/evaluate.py --shards .train/labels/val --skip 2 \\
        --out benchmarks/results/potential_teacher_mp_val.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from label_with_chgnet import MODES
from safetensors.torch import load_file

from autoperi import AutoPeri
from autoperi.data.crystal import CrystalBatch
from autoperi.evaluation.common import facts
from autoperi.hub.networks import potential_of
from autoperi.metrics.counts import quantity
from autoperi.models.evaluate import evaluate
from autoperi.units import EV_PER_A3_IN_GPA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--skip", type=int, default=0, help="first shards to leave out: those that training was watched on"
    )
    parser.add_argument("--model", default="autoperi-base")
    args = parser.parse_args()
    peri = AutoPeri.from_pretrained(args.model)
    shards = [load_file(str(path)) for path in sorted(args.shards.glob("*.safetensors"))[args.skip :]]
    tensors = {k: torch.cat([s[k] for s in shards]) for k in shards[0]}
    crystals = CrystalBatch(
        tensors["lattice"].double(), tensors["frac_coords"].double(), tensors["atomic_numbers"], tensors["n_atoms"]
    )
    found = evaluate(potential_of(peri.bundle), crystals)
    assert found.forces is not None
    assert found.stress is not None
    energy = 1000 * ((found.energy - tensors["energy"]) / crystals.n_atoms).abs()
    forces = 1000 * (found.forces - tensors["forces"].double()).abs().mean(1)
    size = 1000 * tensors["forces"].double().abs().mean(1)
    stress = EV_PER_A3_IN_GPA * (found.stress - tensors["stress"].double()).abs().mean((1, 2))

    def errors(chosen: torch.Tensor) -> dict[str, object]:
        atoms = chosen[crystals.batch]
        n, m = int(chosen.sum()), int(atoms.sum())
        return {
            "energy_mae_meV_per_atom": quantity(float(energy[chosen].mean()) if n else None, of=n),
            "energy_median_meV_per_atom": quantity(float(energy[chosen].median()) if n else None, of=n),
            "force_mae_meV_per_A": quantity(float(forces[atoms].mean()) if m else None, of=m),
            "mean_force_component_meV_per_A": quantity(float(size[atoms].mean()) if m else None, of=m),
            "stress_mae_GPa": quantity(float(stress[chosen].mean()) if n else None, of=n),
        }

    result = {
        "task": "potential against its teacher",
        "teacher": "CHGNet 0.3.0",
        "n": len(crystals),
        "shards_skipped": args.skip,
        "recipe": json.loads((args.shards / "recipe.json").read_text()),
        "all": errors(torch.ones(len(crystals), dtype=torch.bool)),
        "by_mode": {name: errors(tensors["mode"] == k) for k, name in enumerate(MODES)},
    } | facts(args.shards, peri.provenance(), 0)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
