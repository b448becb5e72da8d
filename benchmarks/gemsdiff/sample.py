"""What a diffusion of whole crystals draws for the compositions of test crystals, unfiltered: match rate and RMSE,
validity, Wasserstein distances of density and energy, and Fréchet distances, after any numbers of steps.

Composition and number of atoms are those of each row, as in the papers; no draw is refused, relaxed or symmetrised.

    python benchmarks/gemsdiff/sample.py mp_val.parquet --model RUN/model --limit 200
    python benchmarks/gemsdiff/sample.py mp20_test.parquet --limit 2000 --frechet --draws FILE --out FILE
    python benchmarks/gemsdiff/sample.py mp_val.parquet --model RUN/model --positions jump bridge --steps 10 20 50 100
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from autoperi import AutoPeri
from autoperi.data.convert import arrays_to_structures
from autoperi.data.io import read_table
from autoperi.evaluation.common import sample_rows
from autoperi.evaluation.extractors import extractor
from autoperi.metrics.counts import share
from autoperi.metrics.distribution import wasserstein
from autoperi.metrics.features import features_of
from autoperi.metrics.fingerprints import structure_fingerprints
from autoperi.metrics.frechet import frechet_quantity
from autoperi.metrics.match import match_summary
from autoperi.metrics.pairs import arrays_of, compare_pairs
from autoperi.metrics.validity import structural_validity
from autoperi.pipelines.base import Candidate
from autoperi.pipelines.request import make_request
from autoperi.pipelines.sampler import SamplerPipeline
from autoperi.processes.diffusion import POSITIONS, Diffusion

TOLERANCES = {"stol": 0.5, "ltol": 0.3, "angle_tol": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="gemsdiff")
    parser.add_argument("--judge", default="autoperi-base", help="model whose formation energies are compared")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-k", type=int, default=1, help="draws of each composition")
    parser.add_argument("--steps", type=int, nargs="+", default=[100])
    parser.add_argument("--positions", nargs="+", choices=POSITIONS, help="other than those of the model")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--frechet", action="store_true", help="distances in the space of CGCNN and of CrystalNN too")
    parser.add_argument("--draws", type=Path, help="write the first draws to this file")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peri, judge = AutoPeri.from_pretrained(args.model), AutoPeri.from_pretrained(args.judge)
    truths, rows = truths_of(args.table, args.limit, args.seed)
    result: dict[str, Any] = {
        "data": args.table.name,
        "crystals": len(truths),
        "k": args.k,
        "seed": args.seed,
        "model": peri.provenance(),
        "judge": judge.provenance(),
        "threads": args.threads,
        "hardware": hardware(),
        "batch_size": args.batch_size,
        "runs": [],
    }
    energies = energies_of(judge, truths)
    for positions in args.positions or [None]:
        pipeline = sampler_of(peri, positions)
        for steps in args.steps:
            started = time.perf_counter()
            draws = drawn(pipeline, truths, args.k, steps, args.seed, args.batch_size)
            seconds = time.perf_counter() - started
            process = pipeline.process
            found: dict[str, Any] = {"steps": steps}
            found |= {"positions": process.positions} if isinstance(process, Diffusion) else {}
            found |= {"crystals_per_second": round(len(truths) * args.k / seconds, 2)}
            found |= judged(draws, truths, judge, energies, frechet=args.frechet)
            result["runs"].append(found)
            print(json.dumps(found), flush=True)
            if args.out:
                args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.draws:
        from autoperi.data.io import write_crystals

        first = []
        for row, (crystal, *_) in zip(rows, draws, strict=True):
            if crystal is not None:
                crystal.properties["row"] = int(row)
                first.append(crystal)
        write_crystals(first, args.draws)


def truths_of(path: Path, limit: int | None, seed: int) -> tuple[list[Structure], list[int]]:
    """The crystals whose compositions are asked for, and their rows."""
    table = read_table(path)
    rows = sample_rows(len(table), limit, seed)
    return table[rows].structures(), rows


def hardware() -> str:
    """The kind of this machine."""
    cores = os.cpu_count()
    return f"{'two' if cores == 2 else cores}-core CPU"


def energies_of(judge: AutoPeri, crystals: list[Structure]) -> list[float]:
    """Formation energies that the judge predicts, in eV/atom."""
    table = judge.score(crystals, properties=["formation_energy"], progress=False)
    energies: list[float] = table["formation_energy_per_atom_eV"].tolist()
    return energies


def sampler_of(peri: AutoPeri, positions: str | None = None) -> SamplerPipeline:
    """The pipeline of a model; ``positions`` (of :data:`POSITIONS`) names another way of moving atoms."""
    pipeline = peri.pipeline
    assert isinstance(pipeline, SamplerPipeline)
    if positions is None:
        return pipeline
    return replace(pipeline, process=Diffusion(**{**pipeline.network.process_options, "positions": positions}))


def drawn(
    pipeline: SamplerPipeline, truths: list[Structure], k: int, steps: int, seed: int, size: int
) -> list[list[Structure | None]]:
    """``k`` draws of each composition, as they come; None for one that came apart. Crystals of like size share a batch,
    which changes no draw.
    """
    waiting: list[tuple[int, Candidate]] = []
    for row, truth in enumerate(truths):
        request = make_request(truth.composition, num_atoms=len(truth), n=k, steps=steps, seed=seed)
        waiting += [(row, c) for c in pipeline.candidates(request, range(row * k, (row + 1) * k)) if c is not None]
    waiting.sort(key=lambda item: len(item[1].numbers))
    found: list[list[Structure | None]] = [[] for _ in truths]
    common = make_request("H", steps=steps, seed=seed)
    for start in range(0, len(waiting), size):
        part = waiting[start : start + size]
        for (row, _), made in zip(part, pipeline.refine(common, [c for _, c in part]), strict=True):
            good = np.isfinite(made.lattice).all() and abs(np.linalg.det(made.lattice)) > 1e-3
            arrays = (made.lattice, made.frac_coords, made.numbers)
            found[row].append(arrays_to_structures([arrays], properties=[{}])[0] if good else None)
    return found


def judged(
    draws: list[list[Structure | None]],
    truths: list[Structure],
    judge: AutoPeri,
    energies: list[float],
    *,
    frechet: bool,
) -> dict[str, Any]:
    """All figures of draws: those of the papers' tables see the first draw of each composition. ``energies`` are those
    of ``truths``.
    """
    flat, k = [c for row in draws for c in row], len(draws[0])
    pairs = [(i, i // k) for i, c in enumerate(flat) if c is not None]
    made = arrays_of([c if c is not None else truths[0] for c in flat])  # one that came apart is compared with nothing
    rms: list[float | None] = [None] * len(flat)
    work: dict[str, Any] = {"tolerances": TOLERANCES, "processes": 1, "progress": False}
    for (i, _), r in zip(pairs, compare_pairs(made, arrays_of(truths), pairs, **work), strict=True):
        rms[i] = r if isinstance(r, float) else None
    summary = match_summary([rms[j * k : (j + 1) * k] for j in range(len(draws))], ks=sorted({1, k}))
    first = [row[0] for row in draws if row[0] is not None]
    found = {
        "match_rate": {str(n): round(float(rate), 4) for n, rate in summary["match_at"].items()},
        "rmse": summary["rmse"],
        "rmse_at_k": summary["rmse_at_k"],
        "came_apart": len(flat) - len(pairs),
        "valid": share([row[0] is not None and structural_validity(row[0]).valid for row in draws]),
        "density": wasserstein([c.density for c in first], [c.density for c in truths], unit="g/cm^3"),
        "energy": wasserstein(energies_of(judge, first), energies, unit="eV/atom"),
    }
    if frechet:
        found["frechet_cgcnn"] = frechet_quantity(*(features_of(s, extractor("cgcnn")) for s in (first, truths)))
        found["frechet_crystalnn"] = frechet_quantity(*(structure_fingerprints(s) for s in (first, truths)))
    return found


if __name__ == "__main__":
    main()
