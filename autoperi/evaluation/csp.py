"""Crystal structure prediction: composition and number of atoms given, k ranked candidates, matched with the truth.

Candidates are generated and matched in several processes. Besides the rates that every paper prints, METRe compares
each candidate with every test crystal of the same composition (OMatG).
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.chemistry.smact import StateSet, check_states, smact_validity
from autoperi.data.checks import whole_number
from autoperi.data.io import read_crystals
from autoperi.errors import DataError, RequestError, StructureError
from autoperi.evaluation.asking import Asked, generate_all
from autoperi.evaluation.common import decimals, facts, load
from autoperi.evaluation.csp_series import csp_headline, csp_match, csp_series
from autoperi.metrics.match import (
    ANGLE_TOL,
    LTOL,
    STOL,
    failures,
    match_curve,
    match_summary,
    metre_names,
    reject_flat,
    same_composition,
    smaller,
    summarise,
    verdicts,
)
from autoperi.metrics.pairs import Arrays, arrays_of, compare_pairs
from autoperi.metrics.parallel import Failure, check_processes
from autoperi.pipelines.request import make_request
from autoperi.symmetry.analysis import SYMPREC, analyse
from autoperi.symmetry.spacegroup import parse_space_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoperi.auto import AutoPeri

SMACT_LIST: StateSet = "pymatgen-all"  # the closest of pymatgen's lists to SMACT's own: 87 % of mp_val pass


def evaluate_csp(
    peri: AutoPeri | None,
    path: str | Path,
    *,
    k: int = 20,
    limit: int | None = None,
    seed: int = 0,
    space_group: bool = False,
    known: bool = False,
    steps: int | None = None,
    finish: int = 0,
    rank: str = "energy",
    predictions: str | Path | None = None,
    oxidation_states: StateSet = SMACT_LIST,
    processes: int | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Match rates and RMSE on a table of crystals, StructureMatcher 0.5/0.3/10, unfiltered and SMACT-filtered, and
    METRe.

    Args:
        peri: the model; None with ``predictions``.
        path: Parquet, CSV or other table of crystals.
        k: candidates for each composition, ranked.
        limit: rows, drawn with ``seed``; None for all.
        seed: of the rows and of the generation.
        space_group: give the true one: that of the table's column ``space_group``, a number or a symbol, or spglib's at
            symprec 0.1 Å where it holds neither.
        known: keep the model's default weight of crystals that the prior knows at exactly the test composition. By
            default it is 0, because no test crystal is in the training set: those are other polymorphs.
        steps, finish, rank: as in :meth:`AutoPeri.generate`.
        predictions: judge another model's crystals instead: a file (``.json``, ``.extxyz``, ``.parquet``) whose every
            crystal has the number of its row in the table, from 0, as its property ``row``; those of one row are taken
            in the order of the file, best first.
        oxidation_states: list of the SMACT filter; see :func:`~autoperi.chemistry.smact.smact_validity`.
        processes: that generate and match; the result is the same for any number. None for all cores. Several load the
            model from its directory: a model that was changed in memory needs 1.
        progress: show bars; None shows them on a terminal.

    Returns:
        Counts, rates, RMSE, times, ``parameters``, ``series``. ``match`` holds the figures that papers print with their
        counts and, where there is none, the reason (:func:`~autoperi.evaluation.csp_series.csp_match`); ``per_k`` holds
        all figures at 1..k; ``metre`` those of the first candidates, of all and of valid crystals; ``no_candidate``
        counts compositions for which nothing was generated, ``given_up`` comparisons beyond their budget.

    Raises:
        DataError: a table or predictions that cannot be read.
        RequestError: an option that cannot be honoured.
    """
    k = whole_number(k, "k", refusal="is not a number of candidates; give at least 1")
    # a bad option is an error, not a composition without candidates
    make_request(None, n=k, seed=seed, steps=steps, finish=finish, rank=rank)
    check_states(oxidation_states)
    check_processes(processes)
    if (peri is None) == (predictions is None):
        raise RequestError("give either a model or predictions of another one, not both and not neither")
    table, rows = load(path, limit, seed)
    truths = table[rows].structures()
    started = time.perf_counter()
    given, fresh, generating, weight = 0, 0, 0.0, None
    candidates: Sequence[Sequence[Arrays | Failure]]
    if predictions is not None:
        file = Path(predictions)
        candidates = _read_predictions(file, rows, len(table), k)
        model = {"model": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    else:
        assert peri is not None
        model, weight = peri.provenance(), peri.settings.known_weight if known else 0.0
        asked = [
            Asked(
                {e.Z: int(c) for e, c in truth.composition.items()},
                len(truth),
                _true_group(table, row, truth) if space_group else None,
            )
            for row, truth in zip(rows, truths, strict=True)
        ]
        given = sum(a.space_group is not None for a in asked)
        keys = [(tuple(sorted(a.content.items())), a.space_group) for a in asked]
        distinct = dict(zip(keys, asked, strict=True))  # who asks for the same thing gets the same answer
        clock = time.perf_counter()
        found = generate_all(
            peri,
            list(distinct.values()),
            n=k,
            seed=seed,
            steps=steps,
            finish=finish,
            rank=rank,
            known_weight=weight,
            processes=processes,
            progress=progress,
        )
        generating = time.perf_counter() - clock
        answers = dict(zip(distinct, found, strict=True))
        candidates, fresh = [answers[key] for key in keys], sum(map(len, found))
    made = sum(map(len, candidates))
    matched = _match(candidates, arrays_of(truths), k, oxidation_states, processes, progress)
    results = matched["results"]
    smact = [
        smact_validity({e.Z: int(c) for e, c in t.composition.items()}, oxidation_states=oxidation_states).valid
        for t in truths
    ]
    passed = [s is True for s in smact]
    summary = match_summary(results, ks=range(1, k + 1))
    at = {rank: decimals(rate) for rank, rate in summary["match_at"].items()}
    curve = match_curve(results, k=k, passed=passed)
    for point, metre in zip(curve, matched["metre_per_k"], strict=True):
        point |= metre
    parameters = {
        "k": k,
        "limit": limit,
        "seed": seed,
        "space_group": space_group,
        "known": known,
        "steps": steps,
        "finish": finish,
        "rank": rank,
        "predictions": None if predictions is None else Path(predictions).name,
        "oxidation_states": oxidation_states,
    }
    return {
        "task": "csp",
        "n": len(results),
        "k": k,
        "headline": csp_headline(k),
        "match": csp_match(curve, matched["metre"]),
        "match_at_1": at[1],
        "match_at_5": at[5] if k >= 5 else None,
        "match_at_k": at[k],
        "rmse": decimals(summary["rmse"]),
        "rmse_at_k": decimals(summary["rmse_at_k"]),
        "match_at_1_smact": decimals(curve[0]["match_rate_filtered"]["value"]),
        "smact_valid": sum(passed),
        "smact_unknown": sum(s is None for s in smact),
        "smact_oxidation_states": oxidation_states,
        "match_at": {str(rank): rate for rank, rate in at.items()},
        "per_k": curve,
        "metre": matched["metre"],
        "no_candidate": sum(not c for c in candidates),
        "candidates": made,
        "unreadable": matched["unreadable"],
        "given_up": matched["given_up"],
        "seconds": decimals(time.perf_counter() - started, 1),
        "seconds_generating": decimals(generating, 1),
        "crystals_per_second": decimals(fresh / generating, 2) if generating else None,
        "space_group_given": given,
        "matcher": {"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL},
        "known_weight": weight,
        "steps": steps,
        "rank": rank if peri is not None else None,
        "series": csp_series(results, curve, STOL),
    } | facts(path, model, seed, parameters=parameters)


def _match(
    candidates: Sequence[Sequence[Arrays | Failure]],
    truths: Sequence[Arrays | Failure],
    k: int,
    oxidation_states: StateSet,
    processes: int | None,
    progress: bool | None,
) -> dict[str, Any]:
    """Every candidate against its own truth, and against every other of the same composition (METRe); each pair is
    compared once, and equal candidates of several rows are one.
    """
    flat, place = _distinct(candidates)
    first_rank: dict[int, int] = {}
    for row in place:
        for rank, i in enumerate(row):
            first_rank[i] = min(rank, first_rank.get(i, rank))
    solid, solid_truths = reject_flat(flat), reject_flat(truths)
    pairs = list(
        dict.fromkeys([*((i, j) for j, row in enumerate(place) for i in row), *same_composition(solid, solid_truths)])
    )
    limits = {"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL}
    found = compare_pairs(flat, truths, pairs, tolerances=limits, processes=processes, progress=progress)
    rms = {pair: r if isinstance(r, float) else None for pair, r in zip(pairs, found, strict=True)}
    # METRe looks at no flat cell, the match rate of CDVAE and DiffCSP at every cell.
    across: list[list[tuple[int, int, float]]] = [[] for _ in range(k)]
    for (i, j), r in rms.items():
        if r is not None and not isinstance(solid[i], Failure) and not isinstance(solid_truths[j], Failure):
            across[first_rank[i]].append((i, j, r))
    best: list[float | None] = [None] * len(truths)
    per_k = []
    for rank in range(k):
        for _, j, r in across[rank]:
            best[j] = smaller(best[j], r)
        named = metre_names(summarise(best))
        per_k.append({"metre": named["metre"], "crmse": named["crmse"]})
        if rank == 0:
            of_all = named
    leading = across[0]
    valid_candidate = verdicts(solid, {i for i, _, _ in leading}, oxidation_states)
    valid_truth = verdicts(truths, {j for _, j, _ in leading}, oxidation_states)
    best_valid: list[float | None] = [None] * len(truths)
    for i, j, r in leading:
        if valid_candidate[i] is True and valid_truth[j] is True:
            best_valid[j] = smaller(best_valid[j], r)
    return {
        "results": [[rms[i, j] for i in row] for j, row in enumerate(place)],
        "metre": {"all": of_all, "valid": metre_names(summarise(best_valid))},
        "metre_per_k": per_k,
        "unreadable": sum(isinstance(flat[i], Failure) for row in place for i in row),
        "given_up": failures(found) - sum(isinstance(flat[i], Failure) for i, _ in pairs),
    }


def _distinct(candidates: Sequence[Sequence[Arrays | Failure]]) -> tuple[list[Arrays | Failure], list[list[int]]]:
    """Candidates without repetitions, and for each row where its own are among them."""
    flat: list[Arrays | Failure] = []
    seen: dict[Any, int] = {}
    place = []
    for row in candidates:
        own = []
        for c in row:
            key = id(c) if isinstance(c, Failure) else tuple(np.asarray(a).tobytes() for a in c)
            if key not in seen:
                seen[key] = len(flat)
                flat.append(c)
            own.append(seen[key])
        place.append(own)
    return flat, place


def _read_predictions(path: Path, rows: Sequence[int], n: int, k: int) -> list[list[Arrays | Failure]]:
    """The first k crystals of each of the chosen rows, in the order of the file."""
    chosen: dict[int, list[Any]] = {row: [] for row in rows}
    for i, crystal in enumerate(read_crystals(path)):
        row = crystal.properties.get("row")
        if isinstance(row, bool) or not isinstance(row, (int, float, np.number)) or row != int(row) or not 0 <= row < n:
            raise DataError(
                f"crystal {i} of {path} has the row {row!r}; give each the property 'row', the number 0..{n - 1} of "
                "its test crystal"
            )
        if int(row) in chosen and len(chosen[int(row)]) < k:
            chosen[int(row)].append(crystal)
    return [arrays_of(chosen[row]) for row in rows]


def _true_group(table: Any, row: int, truth: Any) -> int | None:
    """The table's number or symbol; spglib's where it holds nothing that is a space group, None where that fails
    too.
    """
    labels = table.labels
    if "space_group" in labels:
        value = labels["space_group"].iloc[row]
        if isinstance(value, (float, np.floating)) and float(value).is_integer():
            value = int(value)  # a column with gaps is read as floats
        try:
            return parse_space_group(value)
        except RequestError:
            pass
    try:
        numbers = np.array([site.specie.Z for site in truth])
        return analyse(truth.lattice.matrix, truth.frac_coords, numbers, symprec=SYMPREC).number
    except StructureError:
        return None
