"""Table 1 of Sultanov et al. (2023): coverage and Fréchet distances of crystals drawn for the space groups of test
crystals.

Each of ``--limit`` test crystals whose space group has at least the number ``--least-group`` gives one request: for its
group with its composition (``group``), or with its sites by element, where the composition is what comes out: on
Wyckoff positions that are drawn first (``sites``), or free (``free``, the paper's way).

* ``drawn``: one draw of each request as it comes.
* ``returned``: what ``generate`` would return, the first of up to ``--tries`` draws of each request that passes its
  checks: distances, composition, space group found by symmetry analysis. Of free sites one draw is tried.

Coverage is against all test crystals of these groups, Fréchet distances against as many other ones. ``floor`` says the
same of ``--limit`` real crystals of the training table.

    python benchmarks/score_langevin/sample.py mp20_test.parquet --floor mp_train.parquet --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from autoperi import AutoPeri
from autoperi.data.convert import arrays_to_structures, to_arrays
from autoperi.data.elements import symbol_of
from autoperi.data.io import CrystalTable, read_table, write_crystals
from autoperi.data.random import numpy_generator, torch_generator
from autoperi.errors import StructureError
from autoperi.evaluation.extractors import extractor
from autoperi.metrics.counts import share
from autoperi.metrics.coverage import coverage
from autoperi.metrics.fingerprints import composition_fingerprints, structure_fingerprints
from autoperi.metrics.frechet import frechet_report
from autoperi.metrics.match import match_summary
from autoperi.metrics.pairs import arrays_of, compare_pairs
from autoperi.metrics.validity import structural_validity
from autoperi.models.score_langevin import ScoreLangevin
from autoperi.pipelines.base import Candidate
from autoperi.pipelines.request import Request, make_request
from autoperi.pipelines.sampler import DIGITS, SamplerPipeline
from autoperi.processes.base import Condition
from autoperi.symmetry.analysis import analyse
from autoperi.symmetry.orbits import read_orbits

ASKED = ("group", "sites", "free")
TOLERANCES = {"stol": 0.5, "ltol": 0.3, "angle_tol": 10}
LEAST_GROUP = 16
"""The paper leaves out triclinic and monoclinic crystals."""


@dataclass(frozen=True)
class Truth:
    """A test crystal, its space group, and its sites by element."""

    row: int
    crystal: Structure
    group: int
    sites: dict[str, int]

    def request(self, asked: str, **how: Any) -> Request:
        """For its composition (``composition``), with its group too (``group``), or for its group and sites
        (``sites``, ``free``).
        """
        if asked in ("sites", "free"):
            return make_request(sites=self.sites, space_group=self.group, num_atoms=None, **how)
        group = self.group if asked == "group" else None
        return make_request(self.crystal.composition, space_group=group, num_atoms=len(self.crystal), **how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="score-langevin")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--least-group", type=int, default=LEAST_GROUP)
    parser.add_argument("--asked", nargs="+", choices=ASKED, default=list(ASKED))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--floor", type=Path, metavar="TABLE", help="training table whose crystals give the floor")
    parser.add_argument("--draws", type=Path, help="write what is returned for groups and compositions")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peri = AutoPeri.from_pretrained(args.model)
    every = truths_of(read_table(args.table), args.least_group)
    order = numpy_generator(args.seed, 1).permutation(len(every))
    truths = [every[i] for i in order[: args.limit]]
    measure = Measure([t.crystal for t in every], [every[i].crystal for i in order[args.limit : 2 * args.limit]])
    cores = os.cpu_count()
    result: dict[str, Any] = {
        "data": args.table.name,
        "crystals": len(truths),
        "reference_crystals": len(every),
        "least_group": args.least_group,
        "groups": len({t.group for t in truths}),
        "model": peri.provenance(),
        "seed": args.seed,
        "steps": args.steps,
        "threads": args.threads,
        "hardware": f"{'two' if cores == 2 else cores}-core CPU",
    }

    def keep() -> None:
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")

    if args.floor:
        known = truths_of(read_table(args.floor), args.least_group)
        chosen = numpy_generator(args.seed, 2).permutation(len(known))[: args.limit]
        result["floor"] = {"data": args.floor.name, **measure.figures([known[i].crystal for i in chosen])}
        keep()
    for asked in args.asked:
        result[asked] = figures = run(peri, truths, measure, asked, args)
        print(asked, json.dumps(figures), flush=True)
        keep()


def truths_of(table: CrystalTable, least_group: int) -> list[Truth]:
    """Crystals of a table whose space group has at least this number."""
    found = []
    for row, crystal in enumerate(table.structures()):
        read = read_orbits(*to_arrays(crystal))
        if read is not None and read[0].number >= least_group:
            sites = Counter(symbol_of(orbit.element) for orbit in read[1])
            found.append(Truth(row, crystal, read[0].number, dict(sites)))
    return found


@dataclass(frozen=True)
class Measure:
    """What crystals are measured against: all reference crystals for coverage, and some for Fréchet distances."""

    reference: list[Structure]
    others: list[Structure]

    def figures(self, crystals: Sequence[Structure]) -> dict[str, Any]:
        """Coverage and Fréchet distances of crystals."""
        quiet: dict[str, Any] = {"progress": False, "processes": 1}
        made, others, reference = (
            structure_fingerprints(side, **quiet) for side in (crystals, self.others, self.reference)
        )
        compositions = [composition_fingerprints(side, progress=False) for side in (crystals, self.reference)]
        covered = coverage(made, compositions[0], reference, compositions[1])
        distances = frechet_report(
            crystals,
            self.others,
            features=[extractor("cgcnn")],
            given={"crystalnn": (made, others)},
            progress=False,
        )
        return {
            "crystals": len(crystals),
            **{key: covered[key] for key in ("cov_precision", "cov_recall", "amsd_precision", "amsd_recall")},
            **{f"frechet_{name}": distance for name, distance in distances.items()},
        }


def run(peri: AutoPeri, truths: list[Truth], measure: Measure, asked: str, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one way to ask."""
    pipeline = peri.pipeline
    assert isinstance(pipeline, SamplerPipeline)
    if isinstance(pipeline.network, ScoreLangevin):
        pipeline.network.free_sites = asked == "free"
    how = {"steps": args.steps, "seed": args.seed}
    waiting = list(range(len(truths)))
    returned: dict[int, Structure] = {}
    first: list[Structure | None] = []
    refused, seconds, draws = Counter[str](), 0.0, 0
    for turn in range(1 if asked == "free" else args.tries):
        started = time.perf_counter()
        candidates = drawn(pipeline, truths, waiting, asked, turn, args.batch_size, how)
        seconds += time.perf_counter() - started
        draws += len(waiting)
        if turn == 0:
            first = [structure_of(candidates[k]) for k in waiting]
            first_seconds = seconds
        still = []
        for k in waiting:
            (verdict,) = peri.judge.verdicts([candidates[k]], truths[k].request(asked, **how))
            if isinstance(verdict, str):
                refused[verdict] += 1
                still.append(k)
            else:
                crystal = structure_of(verdict.candidate)
                assert crystal is not None
                returned[k] = crystal
        waiting = still
        print(asked, "turn", turn, "waiting", len(waiting), dict(refused), flush=True)
        if not waiting:
            break
    if args.draws and asked == "group":
        for k, crystal in returned.items():
            crystal.properties["row"] = truths[k].row
        write_crystals(list(returned.values()), args.draws)
    whole = [c for c in first if c is not None]
    return {
        "drawn": {
            "came_apart": len(first) - len(whole),
            "crystals_per_second": round(len(first) / first_seconds, 2),
            **facts(first, truths),
            **measure.figures(whole),
        },
        "returned": {
            "requests_without_a_crystal": len(waiting),
            "draws": draws,
            "refused": dict(refused),
            "crystals_per_second": round(len(returned) / seconds, 2),
            **facts([returned.get(k) for k in range(len(truths))], truths),
            **measure.figures(list(returned.values())),
        },
    }


def drawn(
    pipeline: SamplerPipeline,
    truths: list[Truth],
    wanted: list[int],
    asked: str,
    turn: int,
    size: int,
    how: dict[str, Any],
) -> dict[int, Candidate]:
    """One draw for each of the ``wanted`` truths, those of like size in one batch, which changes no draw."""
    waiting: dict[int, Candidate] = {}
    for k in wanted:
        (candidate,) = pipeline.candidates(truths[k].request(asked, **how), [turn * len(truths) + k])
        assert candidate is not None
        waiting[k] = candidate
    order = sorted(waiting, key=lambda k: len(waiting[k].numbers))
    found: dict[int, Candidate] = {}
    for start in range(0, len(order), size):
        part = order[start : start + size]
        groups = None if asked == "composition" else [truths[k].group for k in part]
        made = together(pipeline, [waiting[k] for k in part], groups, asked in ("sites", "free"), how)
        found |= dict(zip(part, made, strict=True))
    return found


def together(
    pipeline: SamplerPipeline,
    candidates: list[Candidate],
    groups: list[int] | None,
    are_sites: bool,
    how: dict[str, Any],
) -> list[Candidate]:
    """Candidates sampled in one batch, each with its own group, which a request of ``generate`` has one of."""
    condition = Condition(
        torch.as_tensor(np.concatenate([c.numbers for c in candidates])),
        torch.tensor([len(c.numbers) for c in candidates]),
        None if groups is None else torch.tensor(groups),
        are_sites=are_sites,
    )
    generators = [torch_generator(how["seed"], c.index) for c in candidates]
    try:
        made = pipeline.sample(condition, generators, how["steps"]).unbatch()
    except (StructureError, torch.linalg.LinAlgError):
        if len(candidates) == 1:
            return [replace(candidates[0], lattice=np.full((3, 3), np.nan))]
        own = [None] * len(candidates) if groups is None else [[g] for g in groups]
        return [together(pipeline, [c], g, are_sites, how)[0] for c, g in zip(candidates, own, strict=True)]
    return [
        replace(
            c, lattice=lattice.numpy().round(DIGITS), frac_coords=frac.numpy().round(DIGITS), numbers=numbers.numpy()
        )
        for c, (lattice, frac, numbers) in zip(candidates, made, strict=True)
    ]


def structure_of(candidate: Candidate) -> Structure | None:
    """The crystal of a candidate, None for one that came apart."""
    if not np.isfinite(candidate.lattice).all() or abs(np.linalg.det(candidate.lattice)) < 1e-3:
        return None
    arrays = (candidate.lattice, candidate.frac_coords, candidate.numbers)
    return arrays_to_structures([arrays], properties=[{}])[0]


def facts(crystals: list[Structure | None], truths: list[Truth]) -> dict[str, Any]:
    """Validity, space groups kept, and match rate of one crystal a request."""
    groups = [None if c is None else group_of(c) for c in crystals]
    pairs = [(k, k) for k, c in enumerate(crystals) if c is not None]
    made = arrays_of([t.crystal if c is None else c for c, t in zip(crystals, truths, strict=True)])
    rms: list[list[float | None]] = [[None] for _ in truths]
    work: dict[str, Any] = {"tolerances": TOLERANCES, "processes": 1, "progress": False}
    for (k, _), r in zip(
        pairs, compare_pairs(made, arrays_of([t.crystal for t in truths]), pairs, **work), strict=True
    ):
        rms[k] = [r if isinstance(r, float) else None]
    matched = match_summary(rms, ks=[1])
    present = [(g, t.group) for g, t in zip(groups, truths, strict=True) if g is not None]
    return {
        "valid": share([c is not None and structural_validity(c).valid for c in crystals]),
        "group_kept": share([g == asked for g, asked in present]),
        "match_rate": round(float(matched["match_at"][1]), 4),
        "rmse": matched["rmse"],
    }


def group_of(crystal: Structure) -> int:
    """The number of its space group at the tolerance of ``generate``; 0 where there is none."""
    try:
        return int(analyse(*to_arrays(crystal)).number)
    except StructureError:
        return 0


if __name__ == "__main__":
    main()
