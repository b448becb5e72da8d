"""Fréchet distances of real and of drawn crystals (Klipfel et al., AAAI 2024, Figures 3 and 4, and Table 3).

* Figure 3: half of the test crystals, noised to step t by the paper's process, against the other half, and against
  themselves before the noise.
* Figure 4: two disjoint sets of real test crystals, by their size.
* Table 3: crystals that ``sample.py --draws FILE`` wrote, against the crystals of the same compositions, and against as
  many others.

Features are the penultimate activations of the bundled CGCNN. The paper's are of ALIGNN: numbers of one cannot be put
beside numbers of the other. Both sides of a distance have equally many crystals.

    python benchmarks/gemsdiff/frechet.py mp20_test.parquet --out benchmarks/results/gemsdiff_frechet.json
    python benchmarks/gemsdiff/frechet.py mp20_test.parquet --draws FILE --out benchmarks/results/gemsdiff_frechet.json

What FILE holds already of the same data and features is not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sample import energies_of, hardware, sampler_of

from autoperi import AutoPeri
from autoperi.data.convert import arrays_to_structures, to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.data.io import CrystalTable, read_crystals, read_table
from autoperi.data.random import numpy_generator, torch_generator
from autoperi.evaluation.extractors import extractor
from autoperi.metrics.distribution import wasserstein
from autoperi.metrics.features import Extractor, features_of
from autoperi.metrics.frechet import frechet_quantity
from autoperi.models.gemsdiff import GemsDiff
from autoperi.processes.diffusion import Diffusion
from autoperi.training.data import TensorCrystals
from autoperi.training.tasks.gemsdiff import in_niggli_cells

STEPS = (0, 5, *range(10, 101, 10))
SIZES = (100, 200, 500, 1000, 2000)
DRAWS = 5
"""Pairs of sets of each size."""
JUDGE = "autoperi-base"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="gemsdiff", help="whose volumes of elements say where a cell's noise begins")
    parser.add_argument("--draws", type=Path, help="what sample.py --draws wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table, source = read_table(args.table), extractor("cgcnn")
    about = {"task": "gemsdiff_frechet", "data": args.table.name, "seed": args.seed, "features": source.description}
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    if {key: result.get(key) for key in about} != about:
        result = {**about, "hardware": hardware()}
    order = numpy_generator(args.seed, 1).permutation(len(table))
    real = features_of(table.structures(), source)
    if "noised" not in result:
        result["noised"] = noised_distances(table, order, real, source, AutoPeri.from_pretrained(args.model), args.seed)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    if "sizes" not in result:
        result["sizes"] = size_distances(real, args.seed)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.draws:
        result["draws"] = draw_distances(args.draws, table, real, source, args.seed)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def value(left: list[Any], right: list[Any]) -> float:
    """The distance of two sets; of crystals without features fewer count."""
    return round(float(frechet_quantity(left, right)["value"]), 5)


def noised_distances(
    table: CrystalTable, order: np.ndarray, real: list[Any], source: Extractor, peri: AutoPeri, seed: int
) -> dict[str, Any]:
    """By step: of noised crystals from as many others, and from themselves."""
    half = len(order) // 2
    rows, others = order[:half].tolist(), [real[i] for i in order[half : 2 * half]]
    network = sampler_of(peri).network
    assert isinstance(network, GemsDiff)
    process, crystals = Diffusion(), niggli_cells(to_batch(table[rows].structures()))
    unit = network.unit(crystals)
    steps = {}
    for step in STEPS:
        t = torch.full((half,), step / process.schedule_steps, dtype=torch.float64)
        state, _ = process.noised(crystals, unit, t, torch_generator(seed, step))
        arrays = [tuple(x.numpy() for x in one) for one in state.crystals().unbatch()]
        features = features_of(arrays_to_structures(arrays, properties=[{} for _ in arrays]), source)
        quantity = frechet_quantity(features, others)
        steps[str(step)] = {
            "from_others": round(float(quantity["value"]), 5),
            "from_themselves": value(features, [real[i] for i in rows]),
            "without_features": quantity["missing"],
        }
        print(step, steps[str(step)], flush=True)
    return {"crystals": half, "process": "Diffusion()", "steps": steps}


def niggli_cells(crystals: CrystalBatch) -> CrystalBatch:
    """The same crystals as the training sees them, in float64."""
    return in_niggli_cells(TensorCrystals(crystals, {}, {})).crystals.to(dtype=torch.float64)


def size_distances(real: list[Any], seed: int) -> dict[str, Any]:
    """By size: mean and standard deviation of the distances of pairs of disjoint sets of real crystals."""
    found = {}
    for size in (*SIZES, len(real) // 2):
        values = []
        for k in range(DRAWS):
            order = numpy_generator(seed, 2, k).permutation(len(real))
            values.append(value([real[i] for i in order[:size]], [real[i] for i in order[size : 2 * size]]))
        found[str(size)] = {
            "mean": round(float(np.mean(values)), 5),
            "standard_deviation": round(float(np.std(values, ddof=1)), 5),
            "pairs": DRAWS,
        }
    return found


def draw_distances(path: Path, table: CrystalTable, real: list[Any], source: Extractor, seed: int) -> dict[str, Any]:
    """Of drawn crystals; beside them what the same figures say of real crystals of other compositions."""
    draws = read_crystals(path)
    rows = [int(crystal.properties["row"]) for crystal in draws]
    chosen = set(rows)
    rest = [i for i in range(len(table)) if i not in chosen]
    size = min(len(rows), len(rest))
    others = numpy_generator(seed, 3).permutation(rest)[:size].tolist()
    features = features_of(draws, source)
    judge = AutoPeri.from_pretrained(JUDGE)
    sides = [table[rows[:size]].structures(), table[others].structures()]
    energies = [energies_of(judge, side) for side in sides]
    densities = [[crystal.density for crystal in side] for side in sides]
    theirs = [real[i] for i in others]
    return {
        "crystals": len(draws),
        "from_their_compositions": value(features, [real[i] for i in rows]),
        "others": size,
        "from_others": value(features[:size], theirs),
        "real_from_others": {
            "frechet": value([real[i] for i in rows[:size]], theirs),
            "density": wasserstein(*densities, unit="g/cm^3"),
            "energy": wasserstein(*energies, unit="eV/atom"),
            "judge": judge.provenance(),
        },
    }


if __name__ == "__main__":
    main()
