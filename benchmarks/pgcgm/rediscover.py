"""Figure 1 of Zhao et al. (2023): how many known crystals does a stream of samples find again?

A known crystal is found by formula, space group and number of atoms in the conventional cell (the paper's prototype);
those that are found are matched with what found them (ltol 0.2, stol 0.3, 5°). `--n` crystals are drawn as they come;
those that `generate` would return count, at each of ten steps.

    python benchmarks/pgcgm/rediscover.py TRAIN.parquet mp20_test.parquet --n 20000 --out FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure
from sample import BATCH, of_base_sites, structure_of

from autoperi import AutoPeri
from autoperi.data.io import read_table
from autoperi.metrics.counts import quantity, share
from autoperi.metrics.novelty import prototype_keys, rediscovery
from autoperi.pipelines.accept import judged
from autoperi.pipelines.one_shot import OneShotPipeline
from autoperi.pipelines.request import make_request

QUIET: dict[str, Any] = {"progress": False, "processes": 1}
CHUNK = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--model", default="pgcgm")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peri = AutoPeri.from_pretrained(args.model)
    pipeline = peri.pipeline
    assert isinstance(pipeline, OneShotPipeline)
    request = make_request(n=args.n, seed=args.seed)
    weight = pipeline.elements(request).weight
    known = {
        name: [s for s, _ in of_base_sites(read_table(path), weight)]
        for name, path in (("train", args.train), ("test", args.test))
    }
    wanted = {key for side in known.values() for key in prototype_keys(side, **QUIET)} - {None}
    # of the stream only what finds something is kept, and the keys of all that is returned are counted
    kept: list[tuple[int, Structure]] = []
    seen: dict[str, int] = {}
    returned: list[int] = []
    for start in range(0, args.n, CHUNK):
        made = passed(peri, pipeline, request, range(start, min(start + CHUNK, args.n)))
        keys = prototype_keys([c for _, c in made], **QUIET)
        for (index, crystal), key in zip(made, keys, strict=True):
            returned.append(index)
            if key is not None:
                seen.setdefault(key, index)
                if key in wanted:
                    kept.append((index, crystal))
    at = [args.n * k // 10 for k in range(1, 11)]
    firsts, indices = np.array(sorted(seen.values())), np.array(returned)
    result: dict[str, Any] = {
        "model": peri.provenance(),
        "seed": args.seed,
        "drawn": args.n,
        "returned": len(returned),
        "unique": [
            {"n": n, **quantity(float((firsts < n).sum() / max(1, (indices < n).sum())), of=int((indices < n).sum()))}
            for n in at
        ],
    }
    for name, side in known.items():
        steps = [sum(i < n for i, _ in kept) for n in at]
        found = rediscovery([c for _, c in kept], side, at=sorted({n for n in steps if n}), **QUIET)
        by_step = {row["n"]: row for row in found["curve"]}
        none = share([False] * found["prototypes"])
        by_step[0] = {"rediscovered": none, "matched": none}
        curve = [{**by_step[step], "n": n} for step, n in zip(steps, at, strict=True)]
        result[name] = {"crystals": len(side), **found, "curve": curve, "pairs": len(found["pairs"])}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def passed(peri: AutoPeri, pipeline: OneShotPipeline, request: Any, indices: range) -> list[tuple[int, Structure]]:
    """What `generate` would return of a stretch of the stream."""
    drawn = list(pipeline.candidates(request, indices))
    chunks = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
    verdicts = [verdict for chunk in chunks for verdict in judged(chunk, request, pipeline, peri.judge)]
    passing = [verdict.candidate for verdict in verdicts if not isinstance(verdict, str)]
    return [(c.index, crystal) for c in passing if (crystal := structure_of(c)) is not None]


if __name__ == "__main__":
    main()
