"""``autoperi evaluate csp | denoise | properties``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from autoperi.cli.common import dumps

EXAMPLE = """examples:
  autoperi evaluate csp --data mp20_test.parquet --limit 1000 -k 20 --seed 0 --json
  autoperi evaluate csp --data mp20_test.parquet --limit 1000 -k 20 --space-group --json
  autoperi evaluate denoise --data mp_val.parquet --sigma 0.1 --json
  autoperi evaluate properties --data mp20_test.parquet --baselines-from mp_train.parquet --json"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "evaluate", help="measure a model on a table of crystals", epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, text in (
        ("csp", "crystal structure prediction: match rate and RMSE"),
        ("denoise", "lattice relaxation of deformed crystals"),
        ("properties", "formation energy against labels"),
    ):
        task = tasks.add_parser(name, help=text, description=text, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
        task.add_argument("--data", required=True, metavar="FILE", help="table of crystals: .parquet, .csv (CDVAE), .json, .cif, .extxyz")
        task.add_argument("--limit", type=int, metavar="N", help="evaluate N rows, drawn with --seed (default: all)")
        task.add_argument("--seed", type=int, default=0, help="of the rows and of all randomness (default: 0)")
        task.add_argument("--model", default="autoperi-base", metavar="NAME_OR_DIR", help="model (default: autoperi-base)")
        task.add_argument("--json", action="store_true", help="print one JSON object")
        task.add_argument("--quiet", action="store_true", help="no progress bar")
        task.set_defaults(func=run)
        if name == "csp":
            task.add_argument("-k", type=int, default=20, help="candidates per composition (default: 20)")
            task.add_argument("--space-group", action="store_true", help="give the true space group")
            task.add_argument(
                "--known", action="store_true", help="keep the default weight of crystals the prior knows at the same composition"
            )
            task.add_argument("--rank", default="energy", help="energy, probability or none (default: energy)")
        if name in {"csp", "denoise"}:
            task.add_argument("--steps", type=int, help="lattice-relaxation passes (default: the model's)")
        if name == "denoise":
            task.add_argument("--sigma", type=float, default=0.1, help="standard deviation of the strain's entries (default: 0.1)")
        if name == "properties":
            task.add_argument("--baselines-from", metavar="FILE", help="table on which to fit the baselines")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from autoperi.auto import AutoPeri
    from autoperi.errors import RequestError

    if args.limit is not None and args.limit < 1:
        raise RequestError(f"--limit {args.limit} is not positive; give at least 1, or leave it out for all rows")
    if getattr(args, "k", 1) < 1:
        raise RequestError(f"-k {args.k} is not positive; ask for at least one candidate")
    if not getattr(args, "sigma", 1.0) > 0:
        raise RequestError(f"--sigma {args.sigma} is not positive; give a strain such as 0.1")
    peri = AutoPeri.from_pretrained(args.model)
    progress = False if args.quiet else None
    common = {"limit": args.limit, "seed": args.seed, "progress": progress}
    if args.task == "csp":
        from autoperi.evaluation.csp import evaluate_csp

        result = evaluate_csp(
            peri, args.data, k=args.k, space_group=args.space_group, known=args.known, steps=args.steps, rank=args.rank, **common
        )
    elif args.task == "denoise":
        from autoperi.evaluation.denoise import evaluate_denoise

        result = evaluate_denoise(peri, args.data, sigma=args.sigma, steps=args.steps, **common)
    else:
        from autoperi.evaluation.properties import evaluate_properties

        result = evaluate_properties(peri, args.data, train=args.baselines_from, **common)
    if args.json:
        sys.stdout.write(dumps(result) + "\n")
    else:
        width = max(map(len, result))
        for key, value in result.items():
            sys.stdout.write(f"{key:<{width}}  {value}\n")
    return 0
