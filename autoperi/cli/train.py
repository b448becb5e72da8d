"""``autoperi train``: one component of a model, trained on your crystals, in a complete model."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.cli import common
from autoperi.errors import AutoPeriError, RequestError

if TYPE_CHECKING:
    from autoperi.hub.bundle import Bundle, Component

EXAMPLE = """examples:
  autoperi train formation_energy --data crystals.parquet --val val.parquet --out run/ --epochs 20
  autoperi train empnn --data crystals.parquet --val val.parquet --out run/ --resume
  autoperi train prior --data crystals.parquet --out prior/
  autoperi train autoperi-gnn --data crystals.parquet --out gnn/ --max-atoms 24
  autoperi train autoperi-gnn --data crystals.parquet --out gnn/ --max-atoms 24 --energy-weight 0.1 --devices 4
  autoperi generate NaCl --model run/model

After each epoch run/checkpoints/last.ckpt holds all that --resume needs; run/model is what from_pretrained reads: the base
model with the trained component in place of its own. autoperi-gnn is the flow that gives candidates their geometry; without --val
it holds out a fifth of the crystals by their ids. orbits is the network that says which element takes which Wyckoff positions.
All but prior need `pip install "autoperi[train]"`. cgcnn and crystal_transformer are baselines for the formation energy and models
by themselves: autoperi.models.cgcnn.load_cgcnn and autoperi.models.crystal_transformer.load_crystal_transformer read run/model."""

BASELINES = ("cgcnn", "crystal_transformer")
GENERATORS = {"autoperi-gnn": "flow", "orbits": "orbits"}
"""What the command calls the parts of AutoPeri-GNN, and what a model calls them."""
NETWORKS = ("empnn", "formation_energy", *GENERATORS, *BASELINES)
DEFAULTS: dict[str, Any] = {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "seed": 0, "model_config": {}}
PRIOR_DEFAULTS: dict[str, Any] = {"model": "prior", "epochs": 12, "seed": 0, "reference": None}
NETWORK_OPTIONS = ("val", "batch_size", "learning_rate", "channels", "layers", "label", "devices")
FLOW_OPTIONS: dict[str, str] = {
    "energy_weight": "energy above that of the true crystal, by the base model's potential (default: 0, off)",
    "symmetry_weight": "distance from the images under the space group's operations (default: 0, off)",
    "reconstruction_weight": "difference of neighbours' distances where the latent vector is given (default: 0, off)",
    "adversarial_weight": "what a discriminator says, trained along (default: 0, off)",
    "kl_weight": "divergence of the latent vector from a standard normal one (default: 0.001)",
    "near_share": "part of the paths that start near the crystal instead of from noise (default: 0.5)",
}
"""Options of ``autoperi-gnn`` alone that take a number: losses' weights and a share."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "train",
        "train one component of a model on your crystals",
        description="Train a component and write a complete model.",
        example=EXAMPLE,
    )
    parser.add_argument(
        "component",
        choices=(*NETWORKS, "prior"),
        metavar="COMPONENT",
        help="empnn, formation_energy, prior, autoperi-gnn, orbits, or a baseline: cgcnn, crystal_transformer",
    )
    parser.add_argument(
        "--data", required=True, metavar="FILE", help="crystals to train on: .parquet, .csv, .json, .extxyz or a folder"
    )
    parser.add_argument(
        "--val", metavar="FILE", help="crystals to validate on (needed for all but prior and autoperi-gnn)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="DIR/checkpoints and DIR/model are written")
    parser.add_argument(
        "--epochs", type=common.whole, metavar="N", help="passes over the data (default: 20; prior: 12)"
    )
    parser.add_argument("--batch-size", type=common.whole, metavar="N", help="crystals per step (default: 64)")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="of AdamW (default: 0.002)")
    parser.add_argument("--seed", type=common.whole, metavar="S", help="of all randomness (default: 0)")
    parser.add_argument(
        "--channels", type=common.whole, metavar="N", help="width of the network (default: that of the base model)"
    )
    parser.add_argument(
        "--layers", type=common.whole, metavar="N", help="depth of the network (default: that of the base model)"
    )
    parser.add_argument("--max-atoms", type=common.whole, metavar="N", help="leave out larger crystals")
    parser.add_argument(
        "--label",
        metavar="COLUMN",
        help="column of the formation energy in eV/atom (default: formation_energy_per_atom)",
    )
    parser.add_argument(
        "--reference",
        metavar="COLUMN=VALUE,…",
        help="prior: the rows whose distribution `generate` follows without a composition, e.g. source=mine (default: "
        "all)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in DIR, or begin it; its settings need not be repeated",
    )
    parser.add_argument(
        "--base",
        default=common.DEFAULT_MODEL,
        metavar="NAME_OR_DIR",
        help=f"the rest of the model (default: {common.DEFAULT_MODEL})",
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--devices",
        type=common.whole,
        metavar="N",
        help="GPUs, or processes on a CPU, that train together (default: 1)",
    )
    flow = parser.add_argument_group("losses and paths of autoperi-gnn")
    for name, words in FLOW_OPTIONS.items():
        flow.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=words)
    flow.add_argument(
        "--ends",
        choices=("nearest", "random", "given"),
        help="description of the crystal that a path ends at: nearest to its start, random, or that of the data "
        "(default: nearest)",
    )
    common.add_output(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Train, export, print."""
    _check(args)
    common.check_writable(Path(args.out) / "model", folder=True)
    from autoperi.data.io import check_exists
    from autoperi.hub.download import load_pretrained
    from autoperi.nn.device import check_device
    from autoperi.training.export import check_base, export

    for table in filter(None, (args.data, args.val)):
        check_exists(Path(table))
    device = check_device(args.device).type
    alone = args.component in BASELINES
    base = load_pretrained(args.base)
    component_name = GENERATORS.get(args.component, args.component)
    check_base(base, component_name)
    try:
        component, facts = _prior(args) if args.component == "prior" else _network(args, base, device)
        if not _first_process(args):
            return 0
    except KeyboardInterrupt:
        common.note(
            "interrupted; go on with the same command and --resume, finished epochs are in "
            f"{Path(args.out) / 'checkpoints'}"
        )
        return 130
    data = Path(args.data).name
    validation = Path(args.val).name if args.val else ""
    if args.component == "autoperi-gnn" and not args.val:
        data, validation = f"80 % of {data}", f"20 % of {data}, by its ids"
    facts |= {"name": Path(args.out).resolve().name, "data": data, "validation": validation}
    facts["command"] = _command(args, facts["settings"])
    directory = Path(args.out) / "model"
    with common.uninterrupted():
        export(base, component_name, component, directory, facts)
    if args.json:
        common.say(
            common.dumps(
                {
                    "component": args.component,
                    "model": str(directory),
                    "base": None if alone else base.name,
                    **{k: facts[k] for k in ("settings", "summary")},
                }
            )
        )
    else:
        for key, value in facts["summary"].items():
            text = (
                ", ".join(f"{k} {common.format_number(v)}" for k, v in value.items())
                if isinstance(value, dict)
                else value
            )
            common.say(f"{key:<16}  {text}")
        if alone:
            common.say(
                f"\nthis {args.component} is in {directory}; load it with "
                f"autoperi.models.{args.component}.load_{args.component}('{directory}')"
            )
        else:
            common.say(
                f"\n{base.name} with this {args.component} is in {directory}; load it with "
                f"from_pretrained('{directory}')"
            )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse values that make no run.

    Raises:
        RequestError: naming the option.
    """
    for option in ("epochs", "batch_size", "channels", "layers", "max_atoms", "devices"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise RequestError(f"--{option.replace('_', '-')} {value} is not positive; give at least 1")
    if args.learning_rate is not None and not (args.learning_rate > 0 and math.isfinite(args.learning_rate)):
        raise RequestError(f"--learning-rate {args.learning_rate} is not a positive number; give one such as 0.002")
    if args.seed is not None and args.seed < 0:
        raise RequestError(f"--seed {args.seed} is negative; give 0 or more")
    _check_flow(args)
    if args.component == "prior":
        for option in NETWORK_OPTIONS:
            if getattr(args, option) is not None:
                raise RequestError(
                    f"--{option.replace('_', '-')} {getattr(args, option)} does not apply to the prior; leave it out"
                )
        return
    if args.reference is not None:
        raise RequestError(f"--reference {args.reference} is for the prior, not for {args.component}; leave it out")
    if args.component in GENERATORS and args.label is not None:
        raise RequestError(
            f"--label {args.label} does not apply to {args.component}, which learns from crystals alone; leave it out"
        )
    if args.val is None and args.component != "autoperi-gnn":
        raise RequestError(f"--val is missing; give crystals to validate {args.component} on, which are not in --data")
    if importlib.util.find_spec("lightning") is None:
        raise AutoPeriError(
            f'training {args.component} needs Lightning, which is not installed; run `pip install "autoperi[train]"`'
        )


def _check_flow(args: argparse.Namespace) -> None:
    """Refuse values of :data:`FLOW_OPTIONS` that make no run, and all of them for another component."""
    for option in (*FLOW_OPTIONS, "ends"):
        value, name = getattr(args, option), f"--{option.replace('_', '-')}"
        if value is None:
            continue
        if args.component != "autoperi-gnn":
            raise RequestError(f"{name} {value} does not apply to {args.component}; leave it out")
        if option == "near_share" and not 0 <= value <= 1:
            raise RequestError(f"{name} {value} is not a share; give a number from 0 to 1")
        if option in FLOW_OPTIONS and not 0 <= value < math.inf:
            raise RequestError(f"{name} {value} is not a weight; give 0 or more")


def _first_process(args: argparse.Namespace) -> bool:
    """Whether this process writes and prints: of several that train together, the first."""
    if args.component == "prior":
        return True
    from autoperi.training.run import first_process

    return first_process()


def _task_config(args: argparse.Namespace, base: Bundle) -> dict[str, Any] | None:
    """What was said of losses and paths.

    Raises:
        RequestError: an energy is wanted and the base model has no potential.
    """
    said = {option: getattr(args, option) for option in (*FLOW_OPTIONS, "ends") if getattr(args, option) is not None}
    if said.get("energy_weight"):
        if "potential" not in base.components:
            raise RequestError(
                f"--energy-weight {args.energy_weight} needs a potential, and model {base.name!r} has none; give "
                "another --base"
            )
        said["potential"] = args.base
    return said or None


def _network(args: argparse.Namespace, base: Bundle, device: str) -> tuple[Component, dict[str, Any]]:
    """Train one of :data:`NETWORKS`."""
    from autoperi.pipelines.bundle import network_component
    from autoperi.training.prepare import run_settings

    directory = Path(args.out) / "checkpoints"
    shape = {key: getattr(args, key) for key in ("channels", "layers") if getattr(args, key) is not None}
    name = GENERATORS.get(args.component, args.component)
    own = base.components[name].config if name in base.components else {}
    defaults = {**DEFAULTS, "model_config": own}
    given: dict[str, Any] = {key: getattr(args, key) for key in ("epochs", "batch_size", "learning_rate", "seed")}
    # a base model's lattice network may be a relaxer of several passes, whose training is another
    model = {"flow": "autoperi_gnn", "orbits": "orbit_network"}.get(name, own.get("kind", name))
    given |= {"model": model, "model_config": {**own, **shape} if shape else None}
    if args.component == "autoperi-gnn":
        from autoperi.data.splits import HELD_OUT
        from autoperi.training.tasks.autoperi_gnn import TASK_DEFAULTS

        defaults |= {"task_config": TASK_DEFAULTS, "held_out": 0.0}
        given |= {"task_config": _task_config(args, base), "held_out": 0.0 if args.val else HELD_OUT}
    _check_devices(args, device)
    settings = run_settings(given, {**defaults, "model": model}, directory=directory, resume=args.resume)
    data, val, initial = _data(args)
    from autoperi.training.run import TrainingConfig, first_process, train

    if settings.get("held_out") and first_process() and not args.quiet:
        common.note(
            f"no --val: {len(val)} of {len(data) + len(val)} crystals are held out to validate on, by sha256 of their "
            "ids"
        )

    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    before = signal.getsignal(signal.SIGINT)
    try:
        network, summary = train(
            TrainingConfig(**settings),
            train_data=data,
            val_data=val,
            directory=directory,
            resume=args.resume,
            device="gpu" if device == "cuda" else "cpu",
            devices=args.devices or 1,
            progress=sys.stdout.isatty() and not args.quiet and not args.json,
            initial=initial,
        )
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    return network_component(network), {"settings": settings, "summary": summary}


def _check_devices(args: argparse.Namespace, device: str) -> None:
    """Refuse more GPUs than there are.

    Raises:
        RequestError: saying how many there are.
    """
    if device == "cuda" and args.devices is not None:
        import torch

        if args.devices > torch.cuda.device_count():
            raise RequestError(
                f"--devices {args.devices} is more than the {torch.cuda.device_count()} GPUs of this machine; give "
                "fewer"
            )


def _data(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any] | None]:
    """Crystals to train and to validate on, as the component wants them, and tensors that its network starts with."""
    if args.component == "autoperi-gnn":
        from autoperi.training.orbit_data import orbit_table, split_orbit_table

        if args.val is None:
            crystals, val = split_orbit_table(args.data, max_atoms=args.max_atoms)
        else:
            crystals, _ = orbit_table(args.data, max_atoms=args.max_atoms)
            val, _ = orbit_table(args.val, max_atoms=args.max_atoms, element_volume=crystals.element_volume)
        return crystals, val, {"element_volume": crystals.element_volume.float()}
    if args.component == "orbits":
        from autoperi.models.orbit_network import tables
        from autoperi.training.tasks.orbit_network import sentence_table

        sentences, of_val = (sentence_table(path, max_atoms=args.max_atoms)[0] for path in (args.data, args.val))
        return sentences, of_val, tables()
    from autoperi.training.prepare import LABEL, training_crystals

    label, needed = args.label or LABEL, args.component != "empnn"
    data, validation = (
        training_crystals(path, label=label, required=needed, max_atoms=args.max_atoms)
        for path in (args.data, args.val)
    )
    return data, validation, None


def _prior(args: argparse.Namespace) -> tuple[Component, dict[str, Any]]:
    """Train ``prior``."""
    import numpy as np

    from autoperi.data.io import read_table
    from autoperi.progress import progress_bar
    from autoperi.training.prepare import run_settings
    from autoperi.training.tasks.prior import reference_weights, train_prior

    directory = Path(args.out) / "checkpoints"
    given = {"model": "prior", "epochs": args.epochs, "seed": args.seed, "reference": args.reference}
    settings = run_settings(given, PRIOR_DEFAULTS, directory=directory, resume=args.resume)
    table = read_table(args.data)
    if args.max_atoms is not None:
        table = table[np.array([len(numbers) <= args.max_atoms for numbers in table.atomic_numbers])]
    if not len(table):
        raise RequestError(f"--max-atoms {args.max_atoms} leaves no crystal of {args.data}; allow more")
    crystals = list(zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True))
    weights = None if settings["reference"] is None else reference_weights(table, settings["reference"])
    progress = common.progress_of(args)

    def track(items: Any, description: str) -> Any:
        with progress_bar(
            len(items) if hasattr(items, "__len__") else None, enabled=progress, description=description, unit=""
        ) as bar:
            for item in items:
                yield item
                bar.update()

    def report(row: dict[str, Any]) -> None:
        if not args.quiet:
            common.note(", ".join(f"{key} {common.format_number(value)}" for key, value in row.items()))

    component, summary = train_prior(
        crystals,
        epochs=settings["epochs"],
        weights=weights,
        reference=settings["reference"],
        seed=settings["seed"],
        directory=directory,
        resume=args.resume,
        track=track,
        report=report,
    )
    return component, {"settings": settings, "summary": summary}


def _command(args: argparse.Namespace, settings: dict[str, Any]) -> str:
    """The command that repeats the run, with file names and no folders: cards are published."""
    words = ["autoperi", "train", args.component, "--data", Path(args.data).name]
    words += ["--val", Path(args.val).name] if args.val else []
    words += [
        "--out",
        Path(args.out).resolve().name,
        "--base",
        args.base if args.base == common.DEFAULT_MODEL else Path(args.base).name,
    ]
    for key in ("epochs", "batch_size", "learning_rate", "seed"):
        words += [f"--{key.replace('_', '-')}", str(settings[key])] if key in settings else []
    for key in ("channels", "layers", "max_atoms", "label", "reference", "devices", *FLOW_OPTIONS, "ends"):
        words += [f"--{key.replace('_', '-')}", str(getattr(args, key))] if getattr(args, key) is not None else []
    return shlex.join(words)
