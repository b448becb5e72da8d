"""Crystal structure prediction on Perov-5 and Carbon-24, with the prior learned from their own training splits.

    python benchmarks/perov_carbon.py perov5 DATA_DIR
    python benchmarks/perov_carbon.py carbon24 DATA_DIR
    python benchmarks/perov_carbon.py carbon24 DATA_DIR --split val --limit 200 --settings '{"near_steps": 5}' --out
    choice.json

Published models are trained on each data set by itself. So is the prior here; flow, lattice relaxer and energies are
those of the bundled model, and its orbit network, which knows Materials Project crystals alone, has no say
(``orbits_share`` 0). DATA_DIR has perov5_train.parquet and so on. What is done is kept in --run: the prior, and
candidates by the hundred, so that an interrupted run goes on.

Each test crystal of N atoms gets k candidates of N atoms. A sixth of Carbon-24 repeats a smaller primitive cell, hence
cells of N/2, N/3, … atoms are candidates as well, as often as in the training split, and are repeated to N atoms.
SETTINGS measure the prior alone; the whole system is another run, with results in a file of its own:

    python benchmarks/perov_carbon.py perov5 DATA_DIR --whole

Ranking is by probability: in Perov-5 and Carbon-24 crystals are not what is stable (most perovskites lie far above the
hull, and carbon is at 10 GPa and any of many minima). On 200 crystals of the validation split of Perov-5 an energy made
the order worse (``--temperature``; docs/evaluate.md).

``match_at_*`` is that of ranked lists: rows that ask the same have the same list. METRe asks how many test crystals any
candidate of their composition matches, with one candidate a test crystal (k = 1): for ``metre_dealt`` the M rows that
ask the same are dealt the first M candidates, one each.
``match_at_1_by_composition``: the splits of Perov-5 are random, and most of its test compositions are in training with
A and B exchanged; these figures tell what that does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from pymatgen.core import Element, Structure

from autoperi import AutoPeri
from autoperi.data.files import write_atomically
from autoperi.data.io import read_crystals, read_table, write_crystals
from autoperi.errors import RequestError
from autoperi.evaluation.common import load
from autoperi.evaluation.csp import evaluate_csp
from autoperi.hub.bundle import load_bundle, save_bundle
from autoperi.hub.download import load_pretrained
from autoperi.metrics.match import ANGLE_TOL, LTOL, STOL
from autoperi.metrics.pairs import arrays_of, compare_pairs
from autoperi.prior.learn import standardise
from autoperi.training.export import export
from autoperi.training.tasks.prior import train_prior

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS: dict[str, dict[str, float]] = {
    "perov5": {"orbits_share": 0.0, "orbits_novelty": 0.0, "near_steps": 0, "generate_steps": 0},
    "carbon24": {"orbits_share": 0.0, "orbits_novelty": 0.0, "near_steps": 0, "generate_steps": 0},
}
"""The prior's crystals as they are: the flow has seen neither perovskites far above the hull nor carbon at 10 GPa.
Assumed, not compared with others.
"""
EPOCHS = {"perov5": 4, "carbon24": 12}
"""Of the prior's ranker. Nearly all of Perov-5 has the same counts of atoms: an epoch compares each of its crystals
with all others, in five minutes.
"""
Request = tuple[tuple[int, int], ...]
"""Atoms of each element, ((atomic number, count), …)."""
CHUNK = {"perov5": 100, "carbon24": 1}
"""Requests of which candidates are kept together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=tuple(SETTINGS))
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--limit", type=int, help="rows, drawn with the seed (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="of the prior's ranker (default: 4 for Perov-5, 12 for Carbon-24)")
    parser.add_argument("--base", default="autoperi-base", help="model that the other components are of")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of settings instead of the chosen ones")
    parser.add_argument(
        "--whole",
        action="store_true",
        help="the model's own settings, with orbit network, flow and lattice relaxer, ranked by its potential",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="eV/atom of the potential's energy that weigh as much as one nat (default: no energy; with --whole that "
        "of the model's settings)",
    )
    parser.add_argument("--run", type=Path, default=Path(".train/perov_carbon"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, help="that match (default: all cores)")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/csp_DATASET_test.json")
    args = parser.parse_args()
    args.epochs = args.epochs or EPOCHS[args.dataset]
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    folder = args.run / args.dataset
    settings = ({} if args.whole else SETTINGS[args.dataset]) | args.settings
    if args.temperature is None:
        base = load_pretrained(args.base).metadata["settings"]
        args.temperature = base["potential_temperature"] if args.whole else math.inf
    model = assemble(args, folder, settings)
    peri = AutoPeri.from_pretrained(model)
    data = args.data_dir / f"{args.dataset}_{args.split}.parquet"
    table, rows = load(data, args.limit, args.seed)
    asked = [request_of(table.atomic_numbers[row]) for row in rows]
    sizes = primitive_sizes(args, folder)
    lists, generation = candidates(args, folder, peri, asked, sizes)
    files = {}
    for name, choice in {"ranked": ranked(asked, lists, args.k), "dealt": dealt(asked, lists)}.items():
        files[name] = folder / f"{args.split}_{name}.parquet"
        write_crystals([placed(s, row) for row, own in zip(rows, choice, strict=True) for s in own], files[name])
    common: dict[str, Any] = {"limit": args.limit, "seed": args.seed, "processes": args.processes, "progress": False}
    result = evaluate_csp(None, data, k=args.k, predictions=files["ranked"], **common)
    one = evaluate_csp(None, data, k=1, predictions=files["dealt"], **common)
    known = compositions(args.data_dir / f"{args.dataset}_train.parquet")
    first = [lists[request][:1] for request in asked]
    result = {key: value for key, value in result.items() if key not in {"series", "per_k"}} | {
        "model": peri.provenance()["model"],
        "model_sha256": peri.provenance()["sha256"],
        "base": args.base,
        "prior_from": f"{args.dataset}_train.parquet",
        "prior": json.loads((folder / "prior.json").read_text()),
        "parts": "the whole system" if args.whole else "the prior alone",
        "settings": settings,
        "temperature_eV_per_atom": None if math.isinf(args.temperature) else args.temperature,
        "rank": "probability" if math.isinf(args.temperature) else "energy",
        "distinct_requests": len(set(asked)),
        "generation": generation,
        "metre_dealt": one["match"]["metre"]["value"],
        "crmse_dealt": one["match"]["crmse"]["value"],
        "match_at_1_by_composition": by_composition(
            first, table[rows].structures(), [request in known for request in asked], args.processes
        ),
    }
    out = args.out or RESULTS / f"csp_{args.dataset}_{args.split}{'_whole' if args.whole else ''}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps(
            {
                k: result[k]
                for k in ("n", "match_at_1", "match_at_5", "match_at_k", "rmse", "rmse_at_k", "metre_dealt", "seconds")
            }
        )
    )


def request_of(numbers: Any) -> Request:
    return tuple(sorted(Counter(numbers.tolist()).items()))


def compositions(path: Path) -> set[Request]:
    """What the training split has crystals of."""
    return {request_of(numbers) for numbers in read_table(path).atomic_numbers}


def by_composition(
    first: list[list[Structure]], truths: list[Structure], known: list[bool], processes: int | None
) -> dict[str, Any]:
    """Match at 1 of rows whose composition the training split has, as another crystal, and of the others."""
    pairs = [(k, k) for k, own in enumerate(first) if own]
    left = arrays_of([own[0] if own else truth for own, truth in zip(first, truths, strict=True)])
    tolerances = {"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL}
    found = compare_pairs(left, arrays_of(truths), pairs, tolerances=tolerances, processes=processes, progress=False)
    hits = {k for (k, _), r in zip(pairs, found, strict=True) if isinstance(r, float)}
    out = {}
    for name, wanted in (("in_training", True), ("new", False)):
        rows = [k for k, is_known in enumerate(known) if is_known == wanted]
        out[name] = {"rows": len(rows), "match_at_1": round(len(hits & set(rows)) / len(rows), 4) if rows else None}
    return out


def assemble(args: argparse.Namespace, folder: Path, settings: dict[str, float]) -> Path:
    """The base model with the prior of the training split, learned once, and the settings; a directory."""
    base, trained = load_pretrained(args.base), folder / "trained"
    train = args.data_dir / f"{args.dataset}_train.parquet"
    if not (trained / "config.json").exists():
        table = read_table(train)
        crystals = list(zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True))
        prior, summary = train_prior(
            crystals, epochs=args.epochs, seed=0, directory=folder / "checkpoints", resume=True, report=print
        )
        facts = {
            "name": f"{args.dataset}-prior",
            "data": train.name,
            "summary": summary,
            "settings": {"epochs": args.epochs, "seed": 0},
        }
        export(base, "prior", prior, trained, facts)
        (folder / "prior.json").write_text(json.dumps(summary, indent=1))
    prior = load_bundle(trained).components["prior"]
    facts = {"name": f"autoperi-{args.dataset}", "data": train.name}
    bundle = export(base, "prior", prior, folder / "model", facts)
    bundle.metadata["settings"] = dict(base.metadata.get("settings", {})) | settings
    bundle.card = ""
    save_bundle(bundle, folder / "model")
    return folder / "model"


def primitive_sizes(args: argparse.Namespace, folder: Path) -> dict[int, dict[int, float]]:
    """p(atoms of the primitive cell | atoms of the listed one), from the training split.

    Nothing for Perov-5, whose cells are all primitive.
    """
    if args.dataset == "perov5":
        return {}
    stored = folder / "primitive_sizes.json"
    if not stored.exists():
        table = read_table(args.data_dir / f"{args.dataset}_train.parquet")
        found: dict[int, Counter] = defaultdict(Counter)
        for crystal in zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True):
            standard = standardise(crystal)
            if standard is not None:
                found[len(crystal[2])][len(standard.slots)] += 1
        write_atomically(
            stored, json.dumps({n: {m: c / own.total() for m, c in own.items()} for n, own in found.items()})
        )
    return {int(n): {int(m): p for m, p in own.items()} for n, own in json.loads(stored.read_text()).items()}


def candidates(
    args: argparse.Namespace, folder: Path, peri: AutoPeri, asked: list[Request], sizes: dict[int, dict[int, float]]
) -> tuple[dict[Request, list[Structure]], dict[str, Any]]:
    """Ranked candidates of every request: at least k, and as many as rows ask for it."""
    cells: dict[Request, int] = {}
    for request, rows in Counter(asked).items():
        n = sum(count for _, count in request)
        for m in sizes.get(n, {n: 1.0}):
            if n % m == 0 and all(count % (n // m) == 0 for _, count in request):
                own = tuple((z, count * m // n) for z, count in request)
                bucket = peri._model.find("prior").bucket(tuple(sorted(count for _, count in own)))
                if bucket is not None:  # beyond its candidates there are random crystals alone
                    cells[own] = min(max(cells.get(own, 0), args.k, rows), bucket.n_decorations)
    key = json.dumps([peri.provenance()["sha256"], args.k, args.seed, sorted(cells.items())])
    store = folder / f"candidates_{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    store.mkdir(parents=True, exist_ok=True)
    made: dict[Request, list[Structure]] = {own: [] for own in cells}
    order, seconds = sorted(cells), 0.0
    for start in range(0, len(order), CHUNK[args.dataset]):
        part, file = order[start : start + CHUNK[args.dataset]], store / f"{start}.json"
        timed = file.with_suffix(".seconds")
        if not timed.exists():  # written last
            clock, found = time.perf_counter(), []
            for place, own in enumerate(part):
                for s in generate(peri, own, cells[own], args.seed):
                    s.properties = {"cell": place, **{name: s.properties["autoperi"].get(name) for name in NOTES}}
                    found.append(s)
            write_crystals(found, file)
            timed.write_text(f"{time.perf_counter() - clock:.1f}")
        seconds += float(timed.read_text())
        for s in read_crystals(file):
            made[part[int(s.properties["cell"])]].append(s)
    total = sum(map(len, made.values()))
    notes = {
        "crystals": total,
        "seconds": round(seconds, 1),
        "crystals_per_second": round(total / seconds, 2),
        "threads": args.threads,
    }
    return {request: merged(request, made, sizes, args.temperature) for request in set(asked)}, notes


NOTES = ("log_likelihood", "potential_energy_per_atom_eV", "origin")


def generate(peri: AutoPeri, own: Request, n: int, seed: int) -> list[Structure]:
    formula = "".join(f"{Element.from_Z(z).symbol}{count}" for z, count in own)
    try:
        atoms = sum(count for _, count in own)
        return peri.with_settings(known_weight=0.0).generate(
            formula, n=n, num_atoms=atoms, seed=seed, rank="probability", strict=False, progress=False
        )
    except RequestError:
        return []


def merged(
    request: Request, made: dict[Request, list[Structure]], sizes: dict[int, dict[int, float]], temperature: float
) -> list[Structure]:
    """Candidates of every primitive size as cells of the listed size, best first."""
    n = sum(count for _, count in request)
    found = []
    for m, p in sizes.get(n, {n: 1.0}).items():
        own = tuple((z, count * m // n) for z, count in request)
        for place, s in enumerate(made.get(own, ())):
            log_p = s.properties["log_likelihood"]
            score = (-12.0 - place / 1000 if log_p is None else log_p) + math.log(p)
            energy = s.properties["potential_energy_per_atom_eV"]
            score -= 0.0 if energy is None or math.isinf(temperature) else energy / temperature
            found.append((-score, m, place, s))
    found.sort(key=lambda f: f[:3])
    return [repeated(s, n // len(s)) for *_, s in found]


def repeated(s: Structure, times: int) -> Structure:
    """The crystal in a cell of so many primitive ones."""
    return s if times == 1 else s.make_supercell([times, 1, 1], in_place=False)


def ranked(asked: list[Request], lists: dict[Request, list[Structure]], k: int) -> list[list[Structure]]:
    """The first k candidates of each row."""
    return [lists[request][:k] for request in asked]


def dealt(asked: list[Request], lists: dict[Request, list[Structure]]) -> list[list[Structure]]:
    """One candidate a row: the first row that asks for something gets the best, the next that asks for the same the
    second.
    """
    taken: Counter = Counter()
    out = []
    for request in asked:
        out.append(lists[request][taken[request] : taken[request] + 1])
        taken[request] += 1
    return out


def placed(s: Structure, row: int) -> Structure:
    """A copy that says which row it is for."""
    copy = s.copy()
    copy.properties = {"row": row}
    return copy


if __name__ == "__main__":
    main()
