"""Generated crystals against a test set: validity, distribution, distances, novelty and stability in one report.

Definitions are those of the metrics that are called; this module says which crystals go into each. Coverage,
uniqueness and novelty see every crystal, Fréchet distances as many reference crystals as there are generated ones (or
the other way round); GenEval's Wasserstein distances (CDVAE, DiffCSP) see up to 1,000 random valid ones.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.chemistry.smact import check_states
from autoperi.data.io import CrystalTable, crystal_files, read_crystals, read_table
from autoperi.errors import AutoPeriError, DataError, RequestError
from autoperi.evaluation.common import facts, load, sample_rows
from autoperi.evaluation.extractors import extractor
from autoperi.evaluation.generation_figures import generation_series
from autoperi.evaluation.stability_judge import Judgement, Settings, composition_or_none, judge
from autoperi.metrics import distribution
from autoperi.metrics import novelty as novelty_metrics
from autoperi.metrics.counts import share
from autoperi.metrics.coverage import coverage_curve, nearest_distances, resolve_cutoffs, summarise
from autoperi.metrics.fingerprints import composition_fingerprints, require_matminer, structure_fingerprints
from autoperi.metrics.frechet import frechet_report
from autoperi.metrics.pairs import check_tolerances
from autoperi.metrics.parallel import Failure, check_processes, featurise_batched
from autoperi.metrics.validity import validity_report, validity_shares
from autoperi.symmetry.analysis import SYMPREC

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri

CRYSTALNN = "crystalnn"
GENERATED = 1000
"""Crystals to generate where nothing is said."""
PACKAGES = ("matminer", "scipy", "smact", "phonopy", "chgnet")


def evaluate_generation(
    peri: AutoPeri,
    path: str | Path,
    *,
    crystals: str | Path | Sequence[Any] | None = None,
    n: int | None = None,
    num_elements: int | tuple[int, int] | None = None,
    train: str | Path | None = None,
    entries: str | Path | None = None,
    calculator: Any = None,
    calculator_options: Mapping[str, Any] | str | None = None,
    relax_limit: int | None = None,
    relax_steps: int = 200,
    mechanical: int = 0,
    cutoffs: str | Sequence[float] = "mp20",
    features: Sequence[str] = (CRYSTALNN, "cgcnn", "autoperi"),
    oxidation_states: Any = "smact-icsd24",
    symprec: float = SYMPREC,
    tolerances: str = "default",
    limit: int | None = None,
    seed: int = 0,
    processes: int | None = None,
    cache: bool | str = True,
    progress: bool | None = None,
) -> dict[str, Any]:
    """The whole report on a set of generated crystals.

    Args:
        peri: the model that generates, and whose formation energies are compared and judge stability where no
            calculator does.
        path: table of reference crystals, the test set.
        crystals: a file or folder that any generator wrote, or crystals themselves; None generates ``n`` de novo with
            ``peri``.
        n: crystals to generate (1,000 by default), or to draw from ``crystals`` with ``seed`` (all of them by default).
        num_elements: distinct elements of the crystals that ``peri`` generates, a number or (fewest, most), for a test
            set that has no others.
        train: table of the generator's training set, for novelty.
        entries: reference entries of the convex hull, see :func:`~autoperi.metrics.references.reference_entries`.
        calculator, calculator_options: any ASE calculator or its name; relaxes the crystals and judges their stability.
        relax_limit: crystals that it relaxes, the first ones; None for all.
        relax_steps: of each relaxation, at most.
        mechanical: elastic and phonon stability of so many relaxed crystals, the most stable ones.
        cutoffs: of coverage, a preset or (structure, composition).
        features: spaces of the Fréchet distances: ``crystalnn`` and those of :mod:`autoperi.evaluation.extractors`.
        oxidation_states: list of the SMACT test.
        symprec: Å, of space groups, Wyckoff consistency and prototype keys.
        tolerances: preset of the matcher for uniqueness and novelty.
        limit: reference rows, drawn with ``seed``; None for all.
        seed: of the generation and every draw.
        processes: workers; the result is the same for any number.
        cache: remember fingerprints and features by content; a folder, or False.
        progress: show bars; None shows them on a terminal.

    Returns:
        ``validity``, ``reference_validity`` (what the test set itself has), ``distribution``, ``coverage``,
        ``frechet``, ``novelty``, ``stability``, ``diversity``, ``symmetry``, ``crystals`` (each crystal's verdicts),
        ``seconds`` by section, ``parameters`` and provenance, and ``series`` for the figures.

    Raises:
        RequestError, DataError: an option or a file that cannot be used, before any work.
    """
    check_processes(processes)
    require_matminer()
    check_states(oxidation_states)
    check_tolerances(tolerances, {"stol": None, "ltol": None, "angle_tol": None})
    limits = resolve_cutoffs(cutoffs)
    learned = [name for name in features if name != CRYSTALNN]
    for name in learned:
        extractor(name)
    model = str(peri.provenance()["model"])
    settings = Settings(entries, calculator, calculator_options, relax_limit, relax_steps, mechanical)
    table, rows = load(path, limit, seed)
    known = None if train is None else _table(train, "train")
    seconds: dict[str, float] = {}
    with _section(seconds, "generating"):
        generated, source, unreadable, read = _crystals(peri, crystals, n, num_elements, seed, progress)
    if not generated:
        failed = f"{source} holds no crystal that can be read ({len(unreadable)} failed)"
        raise DataError(f"{failed}; nothing can be said of it")
    reference = table[rows].structures()
    both = (generated, reference)
    work: dict[str, Any] = {"processes": processes, "progress": progress}
    slow: dict[str, Any] = work | {"cache": cache}
    matching: dict[str, Any] = work | {"tolerances": tolerances}

    with _section(seconds, "validity"):
        validity = validity_report(generated, oxidation_states=oxidation_states, symprec=symprec, **slow)
        valid = [row["valid"] for row in validity["crystals"]]
        real = validity_shares(reference, oxidation_states=oxidation_states)
    with _section(seconds, "properties"):
        properties = [distribution.crystal_properties(side, **slow) for side in both]
        groups = [distribution.space_groups(side, symprec=symprec, **slow) for side in both]
        energies = [_energies(peri, side, cache, progress) for side in both]
    with _section(seconds, "fingerprints"):
        structure = [structure_fingerprints(side, **slow) for side in both]
        composition = [composition_fingerprints(side, **slow) for side in both]
    with _section(seconds, "coverage"):
        nearest = nearest_distances(structure[0], composition[0], structure[1], composition[1])
        coverage = summarise(nearest, limits)
        curve = coverage_curve(nearest, cutoffs=limits)
        parts = {"properties": properties, "structure": structure, "composition": composition, "energy": energies}
        sides = [{name: pair[k] for name, pair in parts.items()} for k in (0, 1)]
        emd = distribution.geneval(sides[0], sides[1], valid=valid, seed=seed)
        discrepancy = {name: distribution.mmd(*parts[name], seed=seed) for name in ("structure", "composition")}
    with _section(seconds, "frechet"):
        given = {CRYSTALNN: (structure[0], structure[1])} if CRYSTALNN in features else None
        extractors = [extractor(name) for name in learned]
        frechet = frechet_report(
            generated, reference, features=extractors, given=given, equal_seed=seed, cache=cache, progress=progress
        )
    with _section(seconds, "novelty"):
        unique = novelty_metrics.uniqueness(generated, **matching)
        keys = novelty_metrics.prototype_keys(generated, symprec=symprec, **slow)
        unique_keys = novelty_metrics.prototype_uniqueness(keys)
        novel = new_keys = new_types = None
        if known is not None:
            novel = novelty_metrics.novelty(generated, known, **matching)
            new_keys = novelty_metrics.prototype_novelty(generated, known, symprec=symprec, **slow)
            new_types = novelty_metrics.structure_type_novelty(generated, known, **slow)
        found = novelty_metrics.rediscovery(generated, table[rows], symprec=symprec, **slow)
    with _section(seconds, "stability"):

        def compare(judged: Sequence[Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
            if calculator is None:
                return unique, novel
            again = novelty_metrics.uniqueness(judged, **matching)
            return again, None if known is None else novelty_metrics.novelty(judged, known, **matching)

        judged = judge(
            generated,
            energies[0],
            settings,
            model=model,
            sound=[row["structural"] is True and row["radii"] is not False for row in validity["crystals"]],
            compare=compare,
            lost=len(unreadable),
            **work,
        )
    symmetry = distribution.symmetry_distances(*groups, symprec=symprec)
    result: dict[str, Any] = {
        "task": "generation",
        "n": len(generated),
        "source": source,
        "headline": HEADLINE if calculator is not None else {JUDGED_BY_MODEL.get(k, k): v for k, v in HEADLINE.items()},
        "validity": {
            **validity["shares"],
            # as CDVAE counts: what cannot be judged or read is not valid
            "valid_of_all": share([v is True for v in valid] + [False] * len(unreadable)),
        },
        "reference_validity": real,
        "coverage": coverage,
        "distribution": {**emd, "all_crystals": distribution.property_distances(*properties), "mmd": discrepancy},
        "frechet": frechet,
        "novelty": {
            "unique": unique["unique"],
            "unique_prototype": unique_keys["unique"],
            **{key: novel[key] if novel else None for key in ("novel", "new_composition")},
            "novel_prototype": new_keys["novel"] if new_keys else None,
            "novel_structure_type": new_types["novel"] if new_types else None,
            "rediscovery": {k: v for k, v in found.items() if k != "pairs"},
            "matcher": unique["matcher"],
            **({} if novel else {"novel_reason": "no training set was given"}),
        },
        "stability": judged.summary,
        "diversity": {
            "compositions": distribution.composition_diversity(generated),
            "structure_distance": distribution.mean_pairwise_distance(structure[0]),
            "composition_distance": distribution.mean_pairwise_distance(composition[0]),
        },
        "symmetry": symmetry,
        "unreadable_files": unreadable,
        "files_read": read,
        "crystals": _rows(generated, validity["crystals"], groups[0], energies[0], unique, novel, judged),
        "seconds": seconds,
    }
    drawn: dict[str, Any] = {"properties": properties, "energies": energies, "curve": curve, "rediscovered": found}
    result["series"] = generation_series(result, **drawn, judged=judged, model=model)
    parameters = {
        "n": n,
        "num_elements": num_elements,
        "limit": limit,
        "seed": seed,
        "reference_rows": len(reference),
        "cutoffs": list(limits),
        "features": list(features),
        "oxidation_states": oxidation_states,
        "symprec": symprec,
        "tolerances": tolerances,
        "relax_limit": relax_limit,
        "relax_steps": relax_steps,
        "mechanical": mechanical,
        "validity": validity["parameters"],
        "calculator": settings.described,
        "generation": "de novo, ranked by energy" if crystals is None else None,
    }
    others: dict[str, Any] = {
        "train": train,
        "entries": entries if isinstance(entries, (str, Path)) and Path(entries).exists() else None,
        "crystals_read": crystals if isinstance(crystals, (str, Path)) else None,
    }
    return result | facts(path, peri.provenance(), seed, parameters=parameters, others=others, packages=PACKAGES)


HEADLINE = {
    "valid (structure and SMACT)": "validity.valid",
    "valid structure": "validity.structural",
    "valid composition": "validity.compositional",
    "valid, the test set itself": "reference_validity.valid",
    "COV-R": "coverage.cov_recall",
    "COV-P": "coverage.cov_precision",
    "Wasserstein, density": "distribution.wasserstein.density",
    "Wasserstein, elements": "distribution.wasserstein.n_elements",
    "Wasserstein, energy": "distribution.wasserstein.energy",
    "Fréchet, CrystalNN": "frechet.crystalnn",
    "Fréchet, CGCNN": "frechet.cgcnn",
    "unique": "novelty.unique",
    "novel": "novelty.novel",
    "of a structure type that the training set lacks": "novelty.novel_structure_type",
    "stable": "stability.stable",
    "metastable": "stability.metastable",
    "S.U.N.": "stability.sun",
}


JUDGED_BY_MODEL = {name: f"{name} (by the model, not relaxed)" for name in ("stable", "metastable", "S.U.N.")}


@contextmanager
def _section(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes the seconds of a section of the work."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn of single crystals; what fails is counted
        yield
    seconds[name] = round(time.perf_counter() - started, 1)


def _table(path: str | Path, name: str) -> CrystalTable:
    if not Path(path).is_file():
        raise DataError(f"{name}={str(path)!r} is not a file; give one table of crystals, such as a .parquet or .csv")
    return read_table(path)


def _crystals(
    peri: AutoPeri,
    crystals: str | Path | Sequence[Any] | None,
    n: int | None,
    num_elements: Any,
    seed: int,
    progress: bool | None,
) -> tuple[list[Any], str, dict[str, str], int]:
    """Crystals, where they come from, the files that could not be read with their reasons, and how many files could."""
    if crystals is not None and num_elements is not None:
        words = "is about crystals that are generated, and crystals were given; drop one of the two"
        raise RequestError(f"num_elements={num_elements!r} {words}")
    if crystals is None:
        options: dict[str, Any] = {"num_elements": num_elements, "seed": seed, "strict": False, "progress": progress}
        made = list(peri.generate(n=n or GENERATED, **options))
        return made, f"generated by {peri.provenance()['model']}", {}, 0
    found: list[Any] = []
    failed: dict[str, str] = {}
    read, source = 0, "given"
    if isinstance(crystals, (str, Path)):
        folder = Path(crystals)
        source = folder.name
        files = crystal_files(folder) if folder.is_dir() else [folder]
        for file in files:
            try:
                found += read_crystals(file)
                read += 1
            except AutoPeriError as error:
                if not folder.is_dir():
                    raise
                failed[file.name] = str(error)[:200]  # one bad file among many is counted
    else:
        found = list(crystals)
    if n is not None and n > len(found):
        raise RequestError(
            f"n={n} crystals are asked for, but {source} holds {len(found)}; ask for no more, or leave it out for all"
        )
    return [found[k] for k in sample_rows(len(found), n, seed)], source, failed, read


def _energies(peri: AutoPeri, crystals: Sequence[Any], cache: bool | str, progress: bool | None) -> list[float | None]:
    """The model's formation energies in eV/atom; None for a crystal that it cannot read."""

    def energies(batch: list[Any]) -> Any:
        scored = peri.score(batch, properties=["formation_energy"], progress=False)
        return scored[["formation_energy_per_atom_eV"]].to_numpy(float)

    weights = {"weights": peri.provenance()["sha256"]}
    about: dict[str, Any] = {"name": "formation_energy", "version": 1, "parameters": weights}
    rows = featurise_batched(energies, crystals, **about, cache=cache, progress=progress)
    return [None if isinstance(row, Failure) or not math.isfinite(row[0]) else float(row[0]) for row in rows]


def _rows(
    crystals: Sequence[Any],
    validity: Sequence[Mapping[str, Any]],
    groups: Sequence[int | None],
    energies: Sequence[float | None],
    unique: Mapping[str, Any],
    novel: Mapping[str, Any] | None,
    judged: Judgement,
) -> list[dict[str, Any]]:
    """One dictionary a crystal: every verdict, with the reason where it is not True."""
    found = [composition_or_none(crystal) for crystal in crystals]
    formulas = [None if c is None else str(c.reduced_formula) for c in found]
    columns = {
        "formula": formulas,
        "space_group": groups,
        "formation_energy_per_atom_eV": [None if e is None else round(float(e), 6) for e in energies],
        "unique": unique["flags"],
        "novel": novel["flags"] if novel else [None] * len(crystals),
        "energy_above_hull_eV": judged.above_hull,
    }
    return [dict(row) | {name: values[k] for name, values in columns.items()} for k, row in enumerate(validity)]
