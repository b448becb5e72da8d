"""AutoPeri-GNN alone, GemsDiff and Langevin dynamics beside each other: one backbone, one set of training crystals, one
time of training each; match rate, RMSE, validity and speed by evaluations of the network.

The same test crystals are asked for in three ways, by as many systems as can be asked so:

* ``composition``: composition and number of atoms. AutoPeri-GNN takes the likeliest orbits of its orbit network;
  Langevin dynamics draws group and Wyckoff positions as often as they occur.
* ``group``: the space group too.
* ``positions``: the Wyckoff positions of the crystal itself, so that geometry alone is left to draw.

One draw of each as it comes: nothing is chosen by energy, relaxed or refused.

    python benchmarks/score_langevin/compare.py mp20_test.parquet --flow RUN/model --out FILE

RUN holds what ``autoperi train autoperi-gnn`` wrote after as much time as the two other systems were trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pymatgen.core import Structure
from sample import Truth, drawn, facts, structure_of, truths_of

from autoperi import AutoPeri
from autoperi.data.convert import arrays_to_structures, to_arrays
from autoperi.data.io import read_table
from autoperi.data.random import numpy_generator, torch_generator
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.models.score_langevin import ScoreLangevin
from autoperi.pipelines import flow
from autoperi.pipelines.decoder import Decoder
from autoperi.pipelines.prototype import PrototypePipeline
from autoperi.pipelines.sampler import SamplerPipeline
from autoperi.processes.base import Condition
from autoperi.processes.flow import crystal_noise
from autoperi.processes.min_distance import FLOW_MIN_DISTANCE_RATIO
from autoperi.training.orbit_data import orbit_crystals
from autoperi.training.site_data import site_crystals

BATCH = 64
ANNEAL = 5.0
"""Of the flow, as in ``generate``."""
Draw = Callable[[list[Truth], int], list[Structure | None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--flow", required=True, metavar="MODEL", help="model that holds the flow")
    parser.add_argument("--base", default="autoperi-base", help="model that holds the orbit network")
    parser.add_argument("--gemsdiff", default="gemsdiff")
    parser.add_argument("--langevin", default="score-langevin")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    holder, base, gemsdiff, langevin = (
        AutoPeri.from_pretrained(name) for name in (args.flow, args.base, args.gemsdiff, args.langevin)
    )
    every = truths_of(read_table(args.table), 1)
    truths = [every[i] for i in numpy_generator(args.seed, 1).permutation(len(every))[: args.limit]]
    network = holder.generation.model.need("autoperi_gnn", "the comparison")
    assert isinstance(network, AutoPeriGnn)
    systems: dict[str, dict[str, Draw]] = {
        "composition": {
            "autoperi-gnn": lambda part, steps: by_orbits(base, network, part, "composition", steps, args.seed),
            "gemsdiff": lambda part, steps: by_sampler(gemsdiff, part, "composition", steps, args.seed),
            "score-langevin": lambda part, steps: by_sampler(langevin, part, "composition", steps, args.seed),
        },
        "group": {
            "autoperi-gnn": lambda part, steps: by_orbits(base, network, part, "group", steps, args.seed),
            "score-langevin": lambda part, steps: by_sampler(langevin, part, "group", steps, args.seed),
        },
        "positions": {
            "autoperi-gnn": lambda part, steps: flow_at_positions(network, part, steps, args.seed),
            "score-langevin": lambda part, steps: langevin_at_positions(langevin, part, steps, args.seed),
        },
    }
    result: dict[str, Any] = {
        "data": args.table.name,
        "crystals": len(truths),
        "seed": args.seed,
        "threads": args.threads,
        "hardware": f"{os.cpu_count()}-core CPU",
        "models": {
            name: peri.provenance()["sha256"]
            for name, peri in (("flow", holder), ("orbits", base), ("gemsdiff", gemsdiff), ("score-langevin", langevin))
        },
        "asked": {asked: {name: [] for name in own} for asked, own in systems.items()},
    }
    for asked, own in systems.items():
        for name, draw in own.items():
            for steps in args.steps:
                started = time.perf_counter()
                crystals = draw(truths, steps)
                seconds = time.perf_counter() - started
                found = {"steps": steps, "crystals_per_second": round(len(truths) / seconds, 2)}
                result["asked"][asked][name].append(found | facts(crystals, truths))
                print(asked, name, json.dumps(result["asked"][asked][name][-1]), flush=True)
                if args.out:
                    args.out.write_text(json.dumps(result, indent=1) + "\n")


def by_sampler(peri: AutoPeri, truths: list[Truth], asked: str, steps: int, seed: int) -> list[Structure | None]:
    """One draw of a sampler for each crystal."""
    pipeline = peri.pipeline
    assert isinstance(pipeline, SamplerPipeline)
    order = sorted(range(len(truths)), key=lambda k: len(truths[k].crystal))  # crystals of like size share a batch
    found = drawn(pipeline, truths, order, asked, 0, BATCH, {"steps": steps, "seed": seed})
    return [structure_of(found[k]) for k in range(len(truths))]


def by_orbits(
    base: AutoPeri, network: AutoPeriGnn, truths: list[Truth], asked: str, steps: int, seed: int
) -> list[Structure | None]:
    """The geometry that the flow draws from noise for the likeliest orbits of the orbit network."""
    pipeline = base.pipeline
    assert isinstance(pipeline, PrototypePipeline)
    decoder = Decoder(network.double(), None, 0, steps, 1, ANNEAL)
    alone = dataclasses.replace(pipeline.part("autoperi-gnn"), decoder=decoder, relaxer=None)
    candidates = {}
    for k, truth in enumerate(truths):
        candidate = next(iter(alone.candidates(truth.request(asked, seed=seed), [0])), None)
        if candidate is not None:
            candidates[k] = dataclasses.replace(candidate, index=k)
    common = truths[0].request("composition", seed=seed)
    made = dict(zip(candidates, alone.refine(common, list(candidates.values())), strict=True))
    return [structure_of(made[k]) if k in made else None for k in range(len(truths))]


def flow_at_positions(network: AutoPeriGnn, truths: list[Truth], steps: int, seed: int) -> list[Structure | None]:
    """What the flow draws from noise on the orbits of each crystal."""
    data, failed = orbit_crystals([to_arrays(t.crystal) for t in truths])
    assert not failed
    found: list[Structure | None] = []
    for rows in torch.arange(len(data)).split(BATCH):
        batch, _ = data.take(rows)
        freedom = batch.freedom.to(dtype=torch.float64)
        noise = crystal_noise(freedom, [torch_generator(seed, int(row)) for row in rows])
        how: dict[str, Any] = {"method": "euler", "anneal": ANNEAL, "min_distance_ratio": FLOW_MIN_DISTANCE_RATIO}
        with torch.no_grad():
            y = flow.sample(network.double(), freedom, noise, steps=steps, **how)
        found += structures(freedom.crystals(y))
    return found


def langevin_at_positions(peri: AutoPeri, truths: list[Truth], steps: int, seed: int) -> list[Structure | None]:
    """What Langevin dynamics draws on the Wyckoff positions of each crystal."""
    pipeline = peri.pipeline
    assert isinstance(pipeline, SamplerPipeline)
    assert isinstance(pipeline.network, ScoreLangevin)
    data = site_crystals([to_arrays(t.crystal) for t in truths], element_volume=pipeline.network.element_volume.cpu())
    assert len(data) == len(truths)
    at_sites = dataclasses.replace(pipeline, network=AtSites(pipeline.network))
    found: list[Structure | None] = []
    for rows in torch.arange(len(data)).split(BATCH):
        sites, _ = data.sites(rows)
        condition = Condition(sites.atomic_numbers, sites.counts, sites.group, sites)
        found += structures(at_sites.sample(condition, [torch_generator(seed, int(row)) for row in rows], steps))
    return found


class AtSites:
    """The network without its own choice of sites."""

    def __init__(self, network: ScoreLangevin) -> None:
        self.predict = network.predict


def structures(crystals: Any) -> list[Structure | None]:
    """Crystals of a batch."""
    arrays = [tuple(x.double().numpy() for x in one) for one in crystals.unbatch()]
    return list(arrays_to_structures([(a, b, c.astype(int)) for a, b, c in arrays], properties=[{} for _ in arrays]))


if __name__ == "__main__":
    main()
