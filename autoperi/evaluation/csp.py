"""Crystal structure prediction: composition and number of atoms given, k ranked candidates, matched with the truth."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.errors import RequestError, StructureError
from autoperi.evaluation.common import decimals, facts, load
from autoperi.geometry.symmetry import analyse
from autoperi.metrics.match import ANGLE_TOL, LTOL, STOL, match_rms, match_summary, matcher
from autoperi.metrics.smact import StateSet, smact_validity
from autoperi.progress import progress_bar
from autoperi.request import make_request

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri

SMACT_LIST: StateSet = "pymatgen-all"  # the closest of pymatgen's lists to SMACT's own: 87 % of mp_val pass


def evaluate_csp(
    peri: AutoPeri,
    path: str | Path,
    *,
    k: int = 20,
    limit: int | None = None,
    seed: int = 0,
    space_group: bool = False,
    known: bool = False,
    steps: int | None = None,
    rank: str = "energy",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Match rates and RMSE on a table of crystals, StructureMatcher 0.5/0.3/10, unfiltered and SMACT-filtered.

    Args:
        peri: the model.
        path: Parquet, CSV or other table of crystals.
        k: candidates for each composition, ranked.
        limit: rows, drawn with ``seed``; None for all.
        seed: of the rows and of the generation.
        space_group: give the true one (that of the table, or spglib's at symprec 0.1 Å where it has none).
        known: keep the model's default weight of crystals that the prior knows at exactly the test composition. By default
            it is 0, because no test crystal is in the training set: those are other polymorphs.
        steps, rank: as in :meth:`AutoPeri.generate`.
        progress: show a bar; None shows it on a terminal.

    Returns:
        Counts, rates, RMSE, times, parameters; ``no_candidate`` counts compositions for which nothing was generated.
    """
    make_request(None, n=k, seed=seed, steps=steps, rank=rank)  # a bad option is an error, not a composition without candidates
    weight = peri.known_weight if known else 0.0
    table, rows = load(path, limit, seed)
    structures = table[rows].structures()
    judge = matcher()
    results: list[list[float | None]] = []
    smact: list[bool | None] = []
    given, generating, made, none = 0, 0.0, 0, 0
    started = time.perf_counter()
    with progress_bar(len(structures), enabled=progress, description="csp") as bar:
        for row, truth in zip(rows, structures, strict=True):
            group = _true_group(table, row, truth) if space_group else None
            given += group is not None
            clock = time.perf_counter()
            with peri.using(known_weight=weight):
                candidates = _candidates(peri, truth, group, k, seed, steps, rank)
            generating += time.perf_counter() - clock
            made += len(candidates)
            none += not candidates
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results.append(match_rms(candidates, truth, judge=judge))
            smact.append(smact_validity({e.Z: int(c) for e, c in truth.composition.items()}, oxidation_states=SMACT_LIST).valid)
            bar.update()
    ks = sorted({1, min(5, k), k})
    summary = match_summary(results, ks=ks)
    at = summary["match_at"]
    passed = [s is True for s in smact]
    filtered = sum(bool(r) and r[0] is not None and ok for r, ok in zip(results, passed, strict=True))
    return {
        "task": "csp",
        "n": len(results),
        "k": k,
        "match_at_1": decimals(at[1]),
        "match_at_5": decimals(at[5]) if k >= 5 else None,
        "match_at_k": decimals(at[k]),
        "rmse": decimals(summary["rmse"]),
        "rmse_at_k": decimals(summary["rmse_at_k"]),
        "match_at_1_smact": decimals(filtered / len(results)) if results else None,
        "smact_valid": sum(passed),
        "smact_unknown": sum(s is None for s in smact),
        "smact_oxidation_states": SMACT_LIST,
        "no_candidate": none,
        "candidates": made,
        "seconds": decimals(time.perf_counter() - started, 1),
        "seconds_generating": decimals(generating, 1),
        "crystals_per_second": decimals(made / generating, 2) if generating else None,
        "space_group_given": given if space_group else 0,
        "matcher": {"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL},
        "known_weight": weight,
        "steps": steps,
        "rank": rank,
    } | facts(path, peri.provenance(), seed)


def _true_group(table: Any, row: int, truth: Any) -> int | None:
    labels = table.labels
    if "space_group" in labels:
        value = labels["space_group"].iloc[row]
        if value is not None and value == value:
            return int(value)
    try:
        numbers = np.array([site.specie.Z for site in truth])
        return analyse(truth.lattice.matrix, truth.frac_coords, numbers, symprec=0.1).number
    except StructureError:
        return None


def _candidates(peri: AutoPeri, truth: Any, group: int | None, k: int, seed: int, steps: int | None, rank: str) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer than k is counted, not warned of
        try:
            return peri.generate(
                truth.composition,
                n=k,
                num_atoms=len(truth),
                space_group=group,
                seed=seed,
                steps=steps,
                rank=rank,
                strict=False,
                progress=False,
            )
        except RequestError:
            return []  # counted as no_candidate
