"""``autoperi evaluate csp | denoise | reconstruct | properties | generation | potential``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from autoperi.cli import common
from autoperi.pipelines.options import number_range

EXAMPLE = """examples:
  autoperi evaluate csp --data mp20_test.parquet --limit 1000 -k 20 --json
  autoperi evaluate csp --data mp20_test.parquet --limit 1000 --space-group --report csp.html
  autoperi evaluate generation --data mp20_test.parquet --train mp_train.parquet -n 1000 --report generation.html
  autoperi evaluate generation --crystals samples/ --data mp20_test.parquet --calculator chgnet --entries hull.json
  autoperi evaluate denoise --data mp_val.parquet --sigma 0.01 0.1 --json
  autoperi evaluate reconstruct --data carbon24_test.csv --train carbon24_train.csv
  autoperi evaluate properties --data mp20_test.parquet --baselines-from mp_train.parquet --json
  autoperi evaluate potential --data frames.parquet --calculator chgnet --json"""


Option: TypeAlias = tuple[str, Mapping[str, Any]]
"""A flag and how argparse reads it; the name that it gets there is the argument of the task's function."""


def _option(flag: str, text: str, **how: Any) -> Option:
    """``--name METAVAR`` with its help, to which a default that is a word or a number is added; N is a whole number."""
    name, _, metavar = flag.partition(" ")
    if isinstance(how.get("default"), int | float | str):
        text = f"{text} (default: {how['default']})"
    return name, {
        **({"metavar": metavar} if metavar else {}),
        **({"type": common.whole} if metavar == "N" else {}),
        **how,
        "help": text,
    }


def _calculator(text: str, options: str = "calculator_options", **how: Any) -> tuple[Option, Option]:
    names = "autoperi, chgnet, emt, lj, morse, or package.module:callable of any ASE calculator"
    asked = _option("--calculator NAME", f"{text}: {names}", **how)
    return asked, _option("--calculator-options JSON", "its keyword arguments", dest=options)


STEPS = _option("--steps", "lattice-relaxation passes (default: the model's)", type=common.whole)
PROCESSES = _option("--processes N", "processes to work in; never changes a result (default: all cores)")
DATA = (
    _option("--data FILE", "table of crystals: .parquet, .csv (CDVAE), .json, .cif, .extxyz", required=True),
    _option("--limit N", "use N rows of it, drawn with --seed (default: all)"),
    _option("--seed", "of the rows and of all randomness", type=common.whole, default=0),
)
MODEL = ("--model", {"default": common.DEFAULT_MODEL, "metavar": "NAME_OR_DIR", "help": "default: %(default)s"})
OUTPUT = (
    _option("--report FILE.html", "write everything, with figures, to one self-contained page"),
    _option("--figures DIR", "write each figure as PNG and SVG"),
)
KNOWN = "keep the default weight of crystals the prior knows at the same composition"
CSP = (
    _option("-k", "candidates per composition", type=common.whole, default=20),
    _option("--space-group", "give the true space group", action="store_true"),
    _option("--known", KNOWN, action="store_true"),
    _option("--rank", "energy, probability or none", default="energy"),
    _option("--finish N", "steps with the potential for each candidate", default=0),
    _option("--predictions FILE", "judge another model's crystals, each with its row of the table as property 'row'"),
    STEPS,
    PROCESSES,
)
SIGMA = "standard deviation of the strain's entries, one or more (default: 0.1)"
DENOISE = (
    _option("--sigma S", SIGMA, type=float, nargs="+", default=[0.1]),
    STEPS,
    *_calculator("judge of the energies (eq. 13)"),
    _option("--calculator-limit N", "crystals that it judges", default=32),
)
CUBES = "start lattices: 'radii cube' (volume from atomic radii), 'unit cube' (EMPNN's 1 Å) (default: radii cube)"
RECONSTRUCT = (
    _option("--train FILE", "table from which the baselines take their volumes"),
    _option("--protocol NAME", CUBES, dest="protocols", nargs="+", default=["radii cube"]),
    _option("--cells", "basis of the crystals", default="given", choices=["given", "niggli"]),
    STEPS,
)
SPLIT = "only these rows, by sha256 of the id; baselines on its train rows"
PROPERTIES = (
    _option("--property COLUMN", "label", dest="label", default="formation_energy_per_atom"),
    _option("--baselines-from FILE", "table on which to fit the baselines", dest="train"),
    _option("--split", SPLIT, choices=["train", "val", "test"]),
)
CRYSTALS = "judge these crystals (a file or folder of any generator) instead of generating"
NUMBER = "crystals to generate, or to draw from --crystals (default: 1000; all that are given)"
FEATURES = "of the Fréchet distances: crystalnn, cgcnn, autoperi, chgnet (default: the first three)"
MATCHER = "tolerances of uniqueness and novelty (default: pymatgen's own; adit; csp)"
ENTRIES = "reference entries of the convex hull: pymatgen's as .json(.gz), or a table of formation energies"
GENERATION = (
    _option("--crystals PATH", CRYSTALS),
    _option("-n", NUMBER, type=common.whole),
    _option(
        "--num-elements N_or_RANGE", "distinct elements of the crystals that are generated, e.g. 1-3 (default: any)"
    ),
    _option("--table FILE.csv", "write every crystal's verdicts and reasons"),
    _option("--train FILE", "the generator's training set, for novelty"),
    _option("--cutoffs", "of coverage", default="mp20", choices=["mp20", "carbon", "perovskite"]),
    _option("--features NAME", FEATURES, nargs="*", default=["crystalnn", "cgcnn", "autoperi"]),
    _option("--oxidation-states LIST", "of the SMACT test", default="smact-icsd24"),
    _option("--symprec Å", "tolerance of space groups", type=float, default=0.1),
    ("--matcher", {"dest": "tolerances", "default": "default", "metavar": "PRESET", "help": MATCHER}),
    _option("--entries FILE", ENTRIES),
    *_calculator("judge of relaxation and stability"),
    _option("--relax-limit N", "relax and judge the first N crystals with --calculator (default: all)"),
    _option("--relax-steps N", "at most, for each crystal", default=200),
    _option("--mechanical N", "elastic and phonon stability of the N most stable crystals", default=0),
    PROCESSES,
    _option("--no-cache", "work out every fingerprint anew and remember none", dest="cache", action="store_false"),
)
ROWS = "rows whose column 'split' says this (default: test; 'all' for every row)"
CONSTANTS = "eV/atom by element to subtract from the predictions (default: fitted on the frames)"
POTENTIAL = (
    *_calculator("the calculator to measure", "options", required=True),
    ("--split", {"default": "test", "help": ROWS}),
    _option("--group COLUMN", "column whose values get rows of their own", default="tag"),
    _option("--element-energies JSON", CONSTANTS),
    _option("--only GROUP", "groups to measure, such as Ge or Ge/AIMD-NVT", nargs="+"),
)
TASKS: Mapping[str, tuple[str, Sequence[Option]]] = {
    "csp": ("crystal structure prediction: match rate and RMSE", CSP),
    "denoise": ("lattice relaxation of deformed crystals", DENOISE),
    "reconstruct": ("lattices from elements and fractional coordinates alone", RECONSTRUCT),
    "properties": ("predicted properties against labels", PROPERTIES),
    "generation": ("generated crystals against a test set: validity, distribution, novelty, stability", GENERATION),
    "potential": ("energies, forces and stresses of a calculator against DFT", POTENTIAL),
}
"""What a task measures and its options beside those of every task; ``evaluate_<name>`` of its module does it."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    about = "Measure a model on a table of crystals."
    parser = common.add_command(
        subparsers, "evaluate", "measure a model on a table of crystals", description=about, example=EXAMPLE
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, (summary, options) in TASKS.items():
        text = summary[0].upper() + summary[1:] + "."
        own = common.add_command(tasks, name, summary, description=text, example=EXAMPLE)
        for flag, how in (*DATA, *([] if name == "potential" else [MODEL])):
            own.add_argument(flag, **how)
        common.add_output(own)
        for flag, how in OUTPUT:
            own.add_argument(flag, **how)
        arguments = [own.add_argument(flag, **how).dest for flag, how in options]
        own.set_defaults(func=run, arguments=["limit", "seed", *arguments])


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write the report."""
    _check(args)
    result = _evaluate(args)
    result["command"] = shlex.join(
        ["autoperi", *(sys.argv[1:] if Path(sys.argv[0]).stem in {"autoperi", "__main__"} else ["evaluate", args.task])]
    )
    crystals = result.get("crystals")
    printed = {k: v for k, v in result.items() if k not in ("crystals", "series")}
    if args.json:
        sys.stdout.write(common.dumps(printed) + "\n")
    else:
        rows = list(_lines({k: v for k, v in printed.items() if k != "headline"}))
        width = max(len(name) for name, _ in rows)
        sys.stdout.write("".join(f"{name:<{width}}  {text}\n" for name, text in rows))
    sys.stdout.flush()  # the numbers are out before anything that can fail is written
    if getattr(args, "table", None):
        _write_table(crystals, args.table)
    if args.report or args.figures:
        from autoperi.evaluation.report import write_figures, write_report

        if args.report:
            write_report(result, args.report)
        if args.figures:
            write_figures(result, args.figures)
    return 0


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Call the function of the task with its options, the model (or the calculator) and the table."""
    given = {name: getattr(args, name) for name in args.arguments if name != "table"}
    given |= {name: convert(given[name]) for name, convert in CONVERTED.items() if given.get(name) is not None}
    module = importlib.import_module(f"autoperi.evaluation.{args.task}")
    function = getattr(module, f"evaluate_{args.task}")
    if args.task == "potential":
        measured = given.pop("calculator")
        given["split"] = None if args.split == "all" else args.split
    else:
        from autoperi.auto import AutoPeri

        measured = None if given.get("predictions") else AutoPeri.from_pretrained(args.model)
    return function(measured, args.data, progress=common.progress_of(args), **given)


def _element_energies(text: str | None) -> Any:
    from autoperi.errors import RequestError

    remedy = "write it like '{\"Si\": -5.42}'"
    try:
        found = None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"--element-energies {text!r} is not JSON ({error}); {remedy}") from None
    if text is not None and not isinstance(found, dict):
        raise RequestError(f"--element-energies {text!r} is not a JSON object; {remedy}")
    return found


CONVERTED: Mapping[str, Callable[[Any], Any]] = {
    "sigma": lambda values: values[0] if len(values) == 1 else values,
    "num_elements": number_range("num_elements"),
    "element_energies": _element_energies,
}
"""Options that the functions take in another form than argparse gives them."""


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before any work."""
    from autoperi.errors import DataError, RequestError

    if args.limit is not None and args.limit < 1:
        raise RequestError(f"--limit {args.limit} is not positive; give at least 1, or leave it out for all rows")
    if getattr(args, "k", 1) < 1:
        raise RequestError(f"-k {args.k} is not positive; ask for at least one candidate")
    if (getattr(args, "n", None) or 1) < 1:
        raise RequestError(f"-n {args.n} is not positive; ask for at least one crystal")
    for name in ("report", "figures", "table"):
        target = Path(getattr(args, name, None) or ".")
        folder = target if name == "figures" and target.exists() else target.parent
        if folder.is_dir() and not os.access(folder, os.W_OK):
            raise DataError(f"--{name} {target}: {folder} cannot be written; choose another folder")
    for sigma in getattr(args, "sigma", []):
        if not sigma >= 0:
            raise RequestError(
                f"--sigma {sigma} is not a standard deviation; give a strain such as 0.1, or 0 for crystals as they are"
            )
    if args.report or args.figures:
        from autoperi.evaluation.report import check_report
        from autoperi.figures.draw import require_matplotlib

        require_matplotlib()
        if args.report and not check_report(args.report).parent.is_dir():
            raise DataError(f"--report {args.report}: there is no folder {Path(args.report).parent}; make it first")
    table = getattr(args, "table", None)
    if table and (Path(table).suffix.lower() != ".csv" or not Path(table).parent.is_dir()):
        raise DataError(f"--table {table}: give a name that ends in .csv, in a folder that exists")
    if args.figures and Path(args.figures).exists() and not Path(args.figures).is_dir():
        raise DataError(f"--figures {args.figures} is a file; name a folder")


def _write_table(rows: Any, path: str) -> None:
    import pandas as pd

    from autoperi.data.files import write_atomically

    flat = [
        {
            k: "; ".join(f"{name}: {why}" for name, why in v.items()) if isinstance(v, Mapping) else v
            for k, v in row.items()
        }
        for row in rows
    ]
    write_atomically(path, pd.DataFrame(flat).to_csv(index=False))


def _lines(value: Any, name: str = "") -> Any:
    """Rows of the printed table: a quantity on one line with its counts, nested names joined by dots."""
    if isinstance(value, Mapping) and "value" in value and "of" in value:
        counts = [f"of {value['of']}"] + ([f"{value['missing']} missing"] if value.get("missing") else [])
        number = "none" if value["value"] is None else f"{value['value']:g}"
        yield name, f"{number}  ({', '.join(counts)}{'; ' + value['reason'] if value.get('reason') else ''})"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _lines(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)) and (len(value) > 12 or any(isinstance(v, Mapping) for v in value)):
        yield name, f"{len(value)} values, in --json"
    else:
        yield name, str(value)
