"""Table 1 of Zhao et al. (2023): what a model draws of its own, raw, merged, and as `generate` would return it.

`--n` crystals are drawn as they come, groups and elements too (``raw_per_second``: base sites and cells), images of
sites are merged, and then

* ``apart``: no two atoms are nearer than `generate` allows; ``group_kept``: of these, the space group that was drawn is
  found at symprec 0.01 Å; ``returned``: what passes all checks of `generate`, the group among them;
* ``readable``: pymatgen reads the CIF of the merged crystal, and the requested group is found at 0.1 Å, the paper's
  tolerance (the paper keeps crystals whose group survives the merging).

The figures of ``table_1`` are of the readable ones of the first ``--judged`` whose group survives, against the test
crystals that base sites can stand for; distances in conventional cells on both sides. Diversity, which falls with
numbers, is of all whose group survives. ``floor`` says the same of as many training crystals.

    python benchmarks/pgcgm/sample.py mp20_test.parquet --floor TRAIN.parquet --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from autoperi import AutoPeri
from autoperi.chemistry.smact import guess_neutral
from autoperi.data.convert import arrays_to_structures, to_arrays
from autoperi.data.io import CrystalTable, read_table
from autoperi.data.random import numpy_generator
from autoperi.errors import StructureError
from autoperi.metrics.consistency import cif_validity
from autoperi.metrics.counts import share
from autoperi.metrics.distribution import composition_diversity, crystal_properties, property_distances
from autoperi.metrics.validity import validity_report
from autoperi.pipelines.accept import REASONS, Tally
from autoperi.pipelines.base import Candidate
from autoperi.pipelines.one_shot import OneShotPipeline
from autoperi.pipelines.request import Request, make_request
from autoperi.symmetry.analysis import STRICT_SYMPREC, SYMPREC, analyse
from autoperi.symmetry.orbits import primitive_lattice, read_orbits
from autoperi.symmetry.spacegroup import primitive_transform, space_group

BATCH = OneShotPipeline.stream_batch
QUIET: dict[str, Any] = {"progress": False, "processes": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="pgcgm")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--judged", type=int, default=2000, help="readable crystals that the metrics are taken of")
    parser.add_argument("--merge", type=float, help="another distance of merging than the model's")
    parser.add_argument("--elements", type=int, help="draw crystals of this many elements alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--floor", type=Path, metavar="TABLE", help="training table whose crystals give the floor")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peri = AutoPeri.from_pretrained(args.model)
    pipeline = peri.pipeline
    assert isinstance(pipeline, OneShotPipeline)
    if args.merge is not None:
        pipeline.process.merge = args.merge  # type: ignore[attr-defined]
    request = make_request(n=args.n, seed=args.seed, num_elements=args.elements)
    weight = pipeline.elements(request).weight
    reference = [s for s, *_ in of_base_sites(read_table(args.table), weight)]
    cores = os.cpu_count()
    result: dict[str, Any] = {
        "data": args.table.name,
        "n": args.n,
        "reference_crystals": len(reference),
        "model": peri.provenance(),
        "merge": pipeline.process.merge,  # type: ignore[attr-defined]
        "seed": args.seed,
        "threads": args.threads,
        "hardware": f"{'two' if cores == 2 else cores}-core CPU",
    }
    if args.floor:
        known = of_base_sites(read_table(args.floor), weight)
        chosen = numpy_generator(args.seed, 1).permutation(len(known))[: args.judged]
        result["floor"] = table_1([known[i][0] for i in chosen], [known[i][1] for i in chosen], reference)
    result |= run(peri, request, reference, args.judged)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def run(peri: AutoPeri, request: Request, reference: Sequence[Structure], judged: int) -> dict[str, Any]:
    """All figures of one model."""
    pipeline = peri.pipeline
    assert isinstance(pipeline, OneShotPipeline)
    started = time.perf_counter()
    candidates = [c for c in pipeline.candidates(request, range(request.n)) if c is not None]
    for start in range(0, len(candidates), BATCH):
        pipeline.state(*pipeline.starts(request, candidates[start : start + BATCH]))
    drawn = time.perf_counter() - started
    started = time.perf_counter()
    merged: list[Candidate] = []
    for start in range(0, len(candidates), BATCH):
        merged += pipeline.refine(request, candidates[start : start + BATCH])
    made = time.perf_counter() - started
    tally, smaller = Tally(), []
    for start in range(0, len(merged), BATCH):
        part = merged[start : start + BATCH]
        for candidate, verdict in zip(part, peri.judge.verdicts(part, request), strict=True):
            tally.count(verdict)
            smaller += [candidate] if verdict == "smaller_cell" else []
    checked = time.perf_counter() - started
    returned = tally.accepted
    apart = len(merged) - tally.too_close - tally.nothing
    # the group of a crystal whose cell is not primitive may be that which was drawn all the same
    still = sum(group_at(s, STRICT_SYMPREC) == c.group.number for c in smaller if c.group and (s := structure_of(c)))
    read = [(structure_of(c), c.group.number) for c in merged if c.group is not None]
    kept = [(c, g) for c, g in read if c is not None and g == group_at(c, SYMPREC)]
    first = kept[:judged]
    some = [one for one in first if cif_validity(one[0]).valid]
    figures = table_1([c for c, _ in some], [g for _, g in some], reference)
    figures["diversity"] = composition_diversity([c for c, _ in kept])
    neutral = [one for one in some if guess_neutral(Counter(to_arrays(one[0])[2].tolist()))]
    return {
        "raw_per_second": round(len(candidates) / drawn, 1),
        "merged_per_second": round(len(candidates) / made, 1),
        "checked_per_second": round(returned / checked, 1),
        "apart": share([k < apart for k in range(request.n)]),
        "group_kept": share([k < returned + still for k in range(apart)]),
        "returned": share([k < returned for k in range(request.n)]),
        "refused": {key: value for key, value in vars(tally).items() if value and key in REASONS},
        # of those whose group survived, the share that pymatgen reads is taken from the first ones
        "readable": round(len(kept) / request.n * len(some) / max(1, len(first)), 4),
        "table_1": figures,
        "neutral": table_1(*zip(*neutral, strict=True), reference) if neutral else None,
    }


def table_1(crystals: Sequence[Structure], groups: Sequence[int], reference: Sequence[Structure]) -> dict[str, Any]:
    """The columns of Table 1 beside its first."""
    report = validity_report(crystals, space_groups=groups, symprec=SYMPREC, **QUIET)["shares"]
    sides = [crystal_properties([conventional(c) for c in side], **QUIET) for side in (crystals, reference)]
    return {
        "crystals": len(crystals),
        **{name: report[name] for name in ("distance", "neutral", "radii", "space_group_kept")},
        "wasserstein": property_distances(*sides),
        "diversity": composition_diversity(crystals),
    }


def of_base_sites(table: CrystalTable, weight: np.ndarray) -> list[tuple[Structure, int]]:
    """The crystals of a table, with their groups, that have one orbit an element, and a group and a number of elements
    that the model draws.
    """
    found = []
    for crystal in zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True):
        size = len(set(crystal[2].tolist()))
        if not 1 <= size <= weight.shape[1]:
            continue
        read = read_orbits(*crystal)
        if read is None or len(read[1]) != size or not weight[read[0].number, size - 1]:
            continue
        info = read[0]
        arrays = (primitive_lattice(info), info.primitive_frac_coords, info.primitive_numbers)
        found.append((arrays_to_structures([arrays], properties=[{}])[0], info.number))
    return found


def structure_of(candidate: Candidate) -> Structure | None:
    """The crystal of a candidate, None for one that has no cell."""
    try:
        arrays = (candidate.lattice, candidate.frac_coords, candidate.numbers)
        return arrays_to_structures([arrays], properties=[{}])[0]
    except StructureError:
        return None


def group_at(crystal: Structure, symprec: float) -> int:
    """The number of its space group; 0 where there is none."""
    try:
        return int(analyse(*to_arrays(crystal), symprec=symprec).number)
    except StructureError:
        return 0


def conventional(crystal: Structure) -> Structure:
    """Its conventional cell, in which the paper measures distances."""
    info = analyse(*to_arrays(crystal), symprec=SYMPREC)
    arrays = (primitive_lattice(info), info.primitive_frac_coords, info.primitive_numbers)
    (made,) = arrays_to_structures([arrays], properties=[{}])
    transform = np.linalg.inv(primitive_transform(space_group(info.number)))
    return made.make_supercell(np.rint(transform).astype(int))


if __name__ == "__main__":
    main()
