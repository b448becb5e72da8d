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
from autoperi.evaluation.common import decimals, entry, facts, file_name, load, options_of, per_second
from autoperi.evaluation.requests import Asked, generate_all
from autoperi.metrics import match
from autoperi.metrics.counts import quantity
from autoperi.metrics.match import ANGLE_TOL, LTOL, STOL
from autoperi.metrics.pairs import Arrays, arrays_of, compare_pairs
from autoperi.metrics.parallel import Failure, check_processes
from autoperi.pipelines.request import make_request
from autoperi.symmetry.analysis import SYMPREC, analyse
from autoperi.symmetry.spacegroup import parse_space_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        counts and, where there is none, the reason; ``per_k`` holds
        all figures at 1..k; ``metre`` those of the first candidates, of all and of valid crystals; ``no_candidate``
        counts compositions for which nothing was generated, ``given_up`` comparisons beyond their budget.

    Raises:
        DataError: a table or predictions that cannot be read.
        RequestError: an option that cannot be honoured.
    """
    parameters = options_of(locals()) | {"predictions": file_name(predictions)}
    k = parameters["k"] = whole_number(k, "k", refusal="is not a number of candidates; give at least 1")
    # a bad option is an error, not a composition without candidates
    make_request(None, n=k, seed=seed, steps=steps, finish=finish, rank=rank)
    check_states(oxidation_states)
    check_processes(processes)
    if (peri is None) == (predictions is None):
        raise RequestError("give either a model or predictions of another one, not both and not neither")
    table, rows = load(path, limit, seed)
    truths = table[rows].structures()
    contents = [{e.Z: int(c) for e, c in truth.composition.items()} for truth in truths]
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
        groups = [_true_group(table, r, t) if space_group else None for r, t in zip(rows, truths, strict=True)]
        given = sum(group is not None for group in groups)
        asked = [Asked(c, len(t), g) for c, t, g in zip(contents, truths, groups, strict=True)]
        keys = [(tuple(sorted(a.content.items())), a.space_group) for a in asked]
        distinct = dict(zip(keys, asked, strict=True))  # who asks for the same thing gets the same answer
        clock = time.perf_counter()
        options: dict[str, Any] = {"n": k, "seed": seed, "steps": steps, "finish": finish, "rank": rank}
        work: dict[str, Any] = {"known_weight": weight, "processes": processes, "progress": progress}
        found = generate_all(peri, list(distinct.values()), **options, **work)
        generating = time.perf_counter() - clock
        answers = dict(zip(distinct, found, strict=True))
        candidates, fresh = [answers[key] for key in keys], sum(map(len, found))
    matched = _match(candidates, arrays_of(truths), k, oxidation_states, processes, progress)
    results = matched["results"]
    smact = [smact_validity(content, oxidation_states=oxidation_states).valid for content in contents]
    passed = [s is True for s in smact]
    summary = match.match_summary(results, ks=range(1, k + 1))
    at = {rank: decimals(rate) for rank, rate in summary["match_at"].items()}
    curve = match.match_curve(results, k=k, passed=passed)
    for point, metre in zip(curve, matched["metre_per_k"], strict=True):
        point |= metre
    return {
        "task": "csp",
        "n": len(results),
        "k": k,
        "headline": _headline(k),
        "match": _printed(curve, matched["metre"]),
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
        "candidates": sum(map(len, candidates)),
        "unreadable": matched["unreadable"],
        "given_up": matched["given_up"],
        "seconds": decimals(time.perf_counter() - started, 1),
        "seconds_generating": decimals(generating, 1),
        "crystals_per_second": per_second(fresh, generating, 2),
        "space_group_given": given,
        "matcher": {"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL},
        "known_weight": weight,
        "steps": steps,
        "rank": rank if peri is not None else None,
        "series": _series(results, curve, STOL),
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
    solid, solid_truths = match.reject_flat(flat), match.reject_flat(truths)
    pairs = list(
        dict.fromkeys(
            [*((i, j) for j, row in enumerate(place) for i in row), *match.same_composition(solid, solid_truths)]
        )
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
            best[j] = match.smaller(best[j], r)
        named = match.metre_names(match.summarise(best))
        per_k.append({"metre": named["metre"], "crmse": named["crmse"]})
        if rank == 0:
            of_all = named
    best_valid = match.smallest(match.of_valid(across[0], solid, truths, oxidation_states), len(truths))
    return {
        "results": [[rms[i, j] for i in row] for j, row in enumerate(place)],
        "metre": {"all": of_all, "valid": match.metre_names(match.summarise(best_valid))},
        "metre_per_k": per_k,
        "unreadable": sum(isinstance(flat[i], Failure) for row in place for i in row),
        "given_up": match.failures(found) - sum(isinstance(flat[i], Failure) for i, _ in pairs),
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


def _printed(curve: Sequence[Mapping[str, Any]], metre: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures that papers print, each as a quantity: ``at_1``, ``at_5``, ``at_k`` and the SMACT-filtered
    ``at_1_smact``; ``rmse`` and ``corrected_rmse`` of first candidates, ``rmse_at_k`` of the best; ``metre``,
    ``metre_valid`` and ``crmse`` of first candidates. ``at_5`` has no value below five candidates, and says so.
    """
    k, first, last = len(curve), curve[0], curve[-1]
    few = f"{k} candidate{'s' if k > 1 else ''} for each composition; ask for 5 or more"
    none = quantity(None, of=0, missing=first["match_rate"]["of"], reason=few)
    return {
        "at_1": first["match_rate"],
        "at_5": curve[4]["match_rate"] if k >= 5 else none,
        "at_k": last["match_rate"],
        "at_1_smact": first["match_rate_filtered"],
        "rmse": first["rmse"],
        "rmse_at_k": last["rmse"],
        "corrected_rmse": first["corrected_rmse"],
        "metre": metre["all"]["metre"],
        "metre_valid": metre["valid"]["metre"],
        "crmse": metre["all"]["crmse"],
    }


def _headline(k: int) -> dict[str, str]:
    """Labels and the paths of their quantities in the result, for k candidates."""
    rates = {"match rate at 1": "match.at_1"}
    rates |= {"match rate at 5": "match.at_5"} if k >= 5 else {}
    rates |= {f"match rate at {k}": "match.at_k"} if k not in (1, 5) else {}
    errors = {"RMSE at 1": "match.rmse"} | ({f"RMSE at {k}": "match.rmse_at_k"} if k > 1 else {})
    return {
        **rates,
        "match rate at 1, SMACT-filtered": "match.at_1_smact",
        **errors,
        "corrected RMSE at 1": "match.corrected_rmse",
        "METRe at 1": "match.metre",
        "METRe at 1, valid crystals": "match.metre_valid",
        "cRMSE at 1": "match.crmse",
    }


def _series(
    results: Sequence[Sequence[float | None]], curve: Sequence[Mapping[str, Any]], stol: float
) -> dict[str, Any]:
    """Rates and RMSE against the number of candidates, and the RMS of what matches.

    Args:
        results: for each test crystal, the RMS of its candidates in order, None where one does not match.
        curve: points 1..k with the quantities of the match rate and of METRe.
        stol: RMS of a crystal without a match in corrected figures.
    """
    k = [point["k"] for point in curve]
    rates = {"unfiltered": "match_rate", "SMACT-filtered": "match_rate_filtered", "METRe": "metre"}
    rms = {"RMSE, matched crystals": "rmse", "corrected RMSE": "corrected_rmse", "cRMSE of METRe": "crmse"}
    lines, errors = (
        {words: {"x": k, "y": [point[key] for point in curve]} for words, key in names.items()}
        for names in (rates, rms)
    )
    matches = [[r for r in row if r is not None] for row in results]
    sets = {"first candidate": [row[0] for row in results if row and row[0] is not None]}
    if len(k) > 1 and any(matches):
        sets["first that matches"] = [row[0] for row in matches if row]
    unit = "RMS over (V/N)^(1/3)"
    across = "METRe: a candidate may match any test crystal of its composition."
    corrected = f"Corrected: over all test crystals, {stol:g} for one without a match."
    share: dict[str, Any] = {"y_label": "share of test crystals", "curves": lines, "share": True, "note": across}
    none = "no candidate matches its test crystal"
    return {
        "match_rate": entry("curve", "Match rate", "candidates", **share),
        "rmse": entry("curve", "RMSE of the best candidate", "candidates", y_label=unit, curves=errors, note=corrected),
        "first_match_rms": entry("histogram", "RMS of matching crystals", unit, sets=sets, reason=none),
    }
