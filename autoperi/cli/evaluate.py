"""``autoperi evaluate csp | denoise | reconstruct | properties | generation | potential``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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

TASKS = {
    "csp": "crystal structure prediction: match rate and RMSE",
    "denoise": "lattice relaxation of deformed crystals",
    "reconstruct": "lattices from elements and fractional coordinates alone",
    "properties": "predicted properties against labels",
    "generation": "generated crystals against a test set: validity, distribution, novelty, stability",
    "potential": "energies, forces and stresses of a calculator against DFT",
}


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "evaluate",
        "measure a model on a table of crystals",
        description="Measure a model on a table of crystals.",
        example=EXAMPLE,
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, text in TASKS.items():
        task = common.add_command(tasks, name, text, description=text[0].upper() + text[1:] + ".", example=EXAMPLE)
        task.add_argument(
            "--data",
            required=True,
            metavar="FILE",
            help="table of crystals: .parquet, .csv (CDVAE), .json, .cif, .extxyz",
        )
        task.add_argument(
            "--limit", type=common.whole, metavar="N", help="use N rows of it, drawn with --seed (default: all)"
        )
        task.add_argument("--seed", type=common.whole, default=0, help="of the rows and of all randomness (default: 0)")
        if name != "potential":
            task.add_argument(
                "--model", default=common.DEFAULT_MODEL, metavar="NAME_OR_DIR", help=f"default: {common.DEFAULT_MODEL}"
            )
        common.add_output(task)
        task.add_argument(
            "--report", metavar="FILE.html", help="write everything, with figures, to one self-contained page"
        )
        task.add_argument("--figures", metavar="DIR", help="write each figure as PNG and SVG")
        task.set_defaults(func=run)
        OPTIONS[name](task)


def _csp(task: argparse.ArgumentParser) -> None:
    task.add_argument("-k", type=common.whole, default=20, help="candidates per composition (default: 20)")
    task.add_argument("--space-group", action="store_true", help="give the true space group")
    task.add_argument(
        "--known",
        action="store_true",
        help="keep the default weight of crystals the prior knows at the same composition",
    )
    task.add_argument("--rank", default="energy", help="energy, probability or none (default: energy)")
    task.add_argument(
        "--finish",
        type=common.whole,
        default=0,
        metavar="N",
        help="steps with the potential for each candidate (default: 0)",
    )
    task.add_argument(
        "--predictions",
        metavar="FILE",
        help="judge another model's crystals, each with its row of the table as property 'row'",
    )
    _steps(task)
    _processes(task)


def _denoise(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--sigma",
        type=float,
        nargs="+",
        default=[0.1],
        metavar="S",
        help="standard deviation of the strain's entries, one or more (default: 0.1)",
    )
    _steps(task)
    _calculator(task, "judge of the energies (eq. 13)")
    task.add_argument(
        "--calculator-limit", type=common.whole, default=32, metavar="N", help="crystals that it judges (default: 32)"
    )


def _reconstruct(task: argparse.ArgumentParser) -> None:
    task.add_argument("--train", metavar="FILE", help="table from which the baselines take their volumes")
    task.add_argument(
        "--protocol",
        nargs="+",
        default=["radii cube"],
        metavar="NAME",
        help="start lattices: 'radii cube' (volume from atomic radii), 'unit cube' (EMPNN's 1 Å) (default: radii cube)",
    )
    task.add_argument(
        "--cells", default="given", choices=["given", "niggli"], help="basis of the crystals (default: given)"
    )
    _steps(task)


def _properties(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--property",
        default="formation_energy_per_atom",
        metavar="COLUMN",
        help="label (default: formation_energy_per_atom)",
    )
    task.add_argument("--baselines-from", metavar="FILE", help="table on which to fit the baselines")
    task.add_argument(
        "--split",
        choices=["train", "val", "test"],
        help="only these rows, by sha256 of the id; baselines on its train rows",
    )


def _generation(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--crystals",
        metavar="PATH",
        help="judge these crystals (a file or folder of any generator) instead of generating",
    )
    task.add_argument(
        "-n",
        type=common.whole,
        help="crystals to generate, or to draw from --crystals (default: 1000; all that are given)",
    )
    task.add_argument(
        "--num-elements",
        metavar="N_or_RANGE",
        help="distinct elements of the crystals that are generated, e.g. 1-3 (default: any)",
    )
    task.add_argument("--table", metavar="FILE.csv", help="write every crystal's verdicts and reasons")
    task.add_argument("--train", metavar="FILE", help="the generator's training set, for novelty")
    task.add_argument(
        "--cutoffs", default="mp20", choices=["mp20", "carbon", "perovskite"], help="of coverage (default: mp20)"
    )
    task.add_argument(
        "--features",
        nargs="*",
        default=["crystalnn", "cgcnn", "autoperi"],
        metavar="NAME",
        help="of the Fréchet distances: crystalnn, cgcnn, autoperi, chgnet (default: the first three)",
    )
    task.add_argument(
        "--oxidation-states", default="smact-icsd24", metavar="LIST", help="of the SMACT test (default: smact-icsd24)"
    )
    task.add_argument(
        "--symprec", type=float, default=0.1, metavar="Å", help="tolerance of space groups (default: 0.1)"
    )
    task.add_argument(
        "--matcher",
        default="default",
        metavar="PRESET",
        help="tolerances of uniqueness and novelty (default: pymatgen's own; adit; csp)",
    )
    task.add_argument(
        "--entries",
        metavar="FILE",
        help="reference entries of the convex hull: pymatgen's as .json(.gz), or a table of formation energies",
    )
    _calculator(task, "judge of relaxation and stability")
    task.add_argument(
        "--relax-limit",
        type=common.whole,
        metavar="N",
        help="relax and judge the first N crystals with --calculator (default: all)",
    )
    task.add_argument(
        "--relax-steps", type=common.whole, default=200, metavar="N", help="at most, for each crystal (default: 200)"
    )
    task.add_argument(
        "--mechanical",
        type=common.whole,
        default=0,
        metavar="N",
        help="elastic and phonon stability of the N most stable crystals (default: 0)",
    )
    _processes(task)
    task.add_argument("--no-cache", action="store_true", help="work out every fingerprint anew and remember none")


def _potential(task: argparse.ArgumentParser) -> None:
    _calculator(task, "the calculator to measure", required=True)
    task.add_argument(
        "--split", default="test", help="rows whose column 'split' says this (default: test; 'all' for every row)"
    )
    task.add_argument(
        "--group", default="tag", metavar="COLUMN", help="column whose values get rows of their own (default: tag)"
    )
    task.add_argument(
        "--element-energies",
        metavar="JSON",
        help="eV/atom by element to subtract from the predictions (default: fitted on the frames)",
    )
    task.add_argument("--only", nargs="+", metavar="GROUP", help="groups to measure, such as Ge or Ge/AIMD-NVT")


def _steps(task: argparse.ArgumentParser) -> None:
    task.add_argument("--steps", type=common.whole, help="lattice-relaxation passes (default: the model's)")


def _processes(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--processes",
        type=common.whole,
        metavar="N",
        help="processes to work in; never changes a result (default: all cores)",
    )


def _calculator(task: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    task.add_argument(
        "--calculator",
        required=required,
        metavar="NAME",
        help=f"{text}: autoperi, chgnet, emt, lj, morse, or package.module:callable of any ASE calculator",
    )
    task.add_argument("--calculator-options", metavar="JSON", help="its keyword arguments")


OPTIONS: Mapping[str, Callable[[argparse.ArgumentParser], None]] = {
    "csp": _csp,
    "denoise": _denoise,
    "reconstruct": _reconstruct,
    "properties": _properties,
    "generation": _generation,
    "potential": _potential,
}


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write the report."""
    _check(args)
    result = EVALUATE[args.task](args)
    result["command"] = shlex.join(
        ["autoperi", *(sys.argv[1:] if Path(sys.argv[0]).stem in {"autoperi", "__main__"} else ["evaluate", args.task])]
    )
    full = dict(result)
    crystals = result.pop("crystals", None)
    result.pop("series", None)
    if args.json:
        sys.stdout.write(common.dumps(result) + "\n")
    else:
        rows = list(_lines({k: v for k, v in result.items() if k != "headline"}))
        width = max(len(name) for name, _ in rows)
        sys.stdout.write("".join(f"{name:<{width}}  {text}\n" for name, text in rows))
    sys.stdout.flush()  # the numbers are out before anything that can fail is written
    if getattr(args, "table", None):
        _write_table(crystals, args.table)
    if args.report or args.figures:
        from autoperi.evaluation.report import write_figures, write_report

        if args.report:
            write_report(full, args.report)
        if args.figures:
            write_figures(full, args.figures)
    return 0


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
        from autoperi.evaluation.figures import require_matplotlib
        from autoperi.evaluation.report import check_report

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


def _model(args: argparse.Namespace) -> Any:
    from autoperi.auto import AutoPeri

    return AutoPeri.from_pretrained(args.model)


def _common(args: argparse.Namespace) -> dict[str, Any]:
    return {"limit": args.limit, "seed": args.seed, "progress": common.progress_of(args)}


def _run_csp(args: argparse.Namespace) -> dict[str, Any]:
    from autoperi.evaluation.csp import evaluate_csp

    return evaluate_csp(
        None if args.predictions else _model(args),
        args.data,
        k=args.k,
        space_group=args.space_group,
        known=args.known,
        steps=args.steps,
        finish=args.finish,
        rank=args.rank,
        predictions=args.predictions,
        processes=args.processes,
        **_common(args),
    )


def _run_denoise(args: argparse.Namespace) -> dict[str, Any]:
    from autoperi.evaluation.denoise import evaluate_denoise

    return evaluate_denoise(
        _model(args),
        args.data,
        sigma=args.sigma[0] if len(args.sigma) == 1 else args.sigma,
        steps=args.steps,
        calculator=args.calculator,
        calculator_options=args.calculator_options,
        calculator_limit=args.calculator_limit,
        **_common(args),
    )


def _run_reconstruct(args: argparse.Namespace) -> dict[str, Any]:
    from autoperi.evaluation.reconstruct import evaluate_reconstruct

    return evaluate_reconstruct(
        _model(args),
        args.data,
        train=args.train,
        protocols=args.protocol,
        cells=args.cells,
        steps=args.steps,
        **_common(args),
    )


def _run_properties(args: argparse.Namespace) -> dict[str, Any]:
    from autoperi.evaluation.properties import evaluate_properties

    return evaluate_properties(
        _model(args), args.data, label=args.property, train=args.baselines_from, split=args.split, **_common(args)
    )


def _run_generation(args: argparse.Namespace) -> dict[str, Any]:
    from autoperi.evaluation.generation import evaluate_generation

    return evaluate_generation(
        _model(args),
        args.data,
        crystals=args.crystals,
        n=args.n,
        num_elements=None if args.num_elements is None else number_range("num_elements")(args.num_elements),
        train=args.train,
        entries=args.entries,
        calculator=args.calculator,
        calculator_options=args.calculator_options,
        relax_limit=args.relax_limit,
        relax_steps=args.relax_steps,
        mechanical=args.mechanical,
        cutoffs=args.cutoffs,
        features=args.features,
        oxidation_states=args.oxidation_states,
        symprec=args.symprec,
        tolerances=args.matcher,
        processes=args.processes,
        cache=not args.no_cache,
        **_common(args),
    )


def _run_potential(args: argparse.Namespace) -> dict[str, Any]:
    from autoperi.evaluation.potential import evaluate_potential

    return evaluate_potential(
        args.calculator,
        args.data,
        options=args.calculator_options,
        split=None if args.split == "all" else args.split,
        group=args.group,
        only=args.only,
        element_energies=_json(args.element_energies, "--element-energies"),
        **_common(args),
    )


def _json(text: str | None, option: str) -> Any:
    from autoperi.errors import RequestError

    if text is None:
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"{option} {text!r} is not JSON ({error}); write it like '{{\"Si\": -5.42}}'") from None
    if not isinstance(found, dict):
        raise RequestError(f"{option} {text!r} is not a JSON object; write it like '{{\"Si\": -5.42}}'")
    return found


EVALUATE: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "csp": _run_csp,
    "denoise": _run_denoise,
    "reconstruct": _run_reconstruct,
    "properties": _run_properties,
    "generation": _run_generation,
    "potential": _run_potential,
}


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
