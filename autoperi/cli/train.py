"""``autoperi train``: one component of a model, trained on your crystals, in a complete model."""

from __future__ import annotations

import argparse
import importlib.util
import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.cli import common
from autoperi.data.files import check_exists, check_writable
from autoperi.data.random import MAX_SEED
from autoperi.errors import AutoPeriError, RequestError
from autoperi.registry import Kind, kind_named, kinds, load

if TYPE_CHECKING:
    from autoperi.training.request import TrainingRequest

EXAMPLE = """examples:
  autoperi train formation-energy --data crystals.parquet --val val.parquet --out run/ --epochs 20
  autoperi train lattice-relaxer --data crystals.parquet --val val.parquet --out run/ --resume
  autoperi train prior --data crystals.parquet --out prior/
  autoperi train potential --data frames.extxyz --val val.extxyz --out potential/
  autoperi train autoperi-gnn --data crystals.parquet --out gnn/ --max-atoms 24 --set energy_weight=0.1 --devices 4
  autoperi generate NaCl --model run/model

After each epoch run/checkpoints/last.ckpt holds all that --resume needs; run/model is what from_pretrained reads: the
base model with the trained component in place of its own. --set changes an option of the network or of its training;
`autoperi train KIND --options` lists them with their defaults. Without --val, autoperi-gnn holds out a fifth of the
crystals by their ids. All but prior need `pip install "autoperi[train]"`. Baselines are models by themselves."""

SETTINGS: dict[str, tuple[Any, str, str]] = {
    "epochs": (common.whole, "N", "passes over the data (default: 20; prior: 12; gemsdiff: 512)"),
    "batch_size": (common.whole, "N", "crystals per step (default: 64; gemsdiff: 128; score-langevin: 32)"),
    "learning_rate": (float, "X", "of the optimiser (default: 0.002; gemsdiff: 0.001)"),
    "optimizer": (str, "NAME", "adamw or muon (default: adamw)"),
    "seed": (common.whole, "S", "of all randomness (default: 0)"),
}
"""Settings that every network's training has: type, placeholder and help."""
LEAST = {"epochs": 1, "batch_size": 1, "max_atoms": 1, "devices": 1}


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "train",
        "train one component of a model on your crystals",
        description="Train a component and write a complete model.",
        example=EXAMPLE,
    )
    add = partial(common.add_option, parser)
    add("kind", "KIND", ", ".join(kind.word for kind in trainable()))
    add("--options", "", "list what --set may change, and train nothing")
    add("--data", "FILE", "what to train on: .parquet, .csv, .json, .extxyz or a folder")
    add("--val", "FILE", "what to validate on; needed where a kind sets nothing aside")
    add("--out", "DIR", "DIR/checkpoints and DIR/model are written")
    for name, (kind, metavar, text) in SETTINGS.items():
        add(f"--{name.replace('_', '-')}", metavar, text, type=kind)
    what = "an option of the network or its training, such as channels=32; may be repeated"
    add("--set", "NAME=VALUE", what, action="append", default=[])
    add("--max-atoms", "N", "leave out larger crystals", type=common.whole)
    add("--label", "COLUMN", "column of the formation energy in eV/atom (default: formation_energy_per_atom)")
    what = "the rows whose distribution `generate` follows without a composition, e.g. source=mine (default: all)"
    add("--reference", "COLUMN=VALUE,…", f"prior: {what}")
    add("--resume", "", "go on with the run in DIR, or begin it; its settings need not be repeated")
    what = f"the rest of the model (default: {common.DEFAULT_MODEL})"
    add("--base", "NAME_OR_DIR", what, default=common.DEFAULT_MODEL)
    common.add_device(parser)
    add("--devices", "N", "GPUs, or processes on a CPU, that train together (default: 1)", type=common.whole)
    common.add_output(parser)
    parser.set_defaults(func=run)


def trainable() -> list[Kind]:
    """The kinds that this command trains."""
    return [kind for kind in kinds().values() if kind.task or kind.trainer]


def run(args: argparse.Namespace) -> int:
    """Train, export, print."""
    kind = kind_named(args.kind, among=trainable())
    if kind not in trainable():
        words = ", ".join(k.word for k in trainable())
        raise RequestError(f"{kind.word} is trained by no command; choose from {words}")
    if args.options:
        return _say_options(kind, json=args.json)
    _check(args, kind)
    check_writable(Path(args.out) / "model", folder=True)
    request = _request(args, kind)
    from autoperi.hub.networks import loading
    from autoperi.training.export import export, is_alone

    try:
        trained = load(kind.trainer or "autoperi.training.run:train_network")(request)
    except KeyboardInterrupt:
        common.note(
            "interrupted; go on with the same command and --resume, finished epochs are in " + str(request.checkpoints)
        )
        return 130
    if not _writes(kind):
        return 0
    data, validation = request.data.name, "" if request.val is None else request.val.name
    if trained.settings.get("held_out"):
        share = round(100 * trained.settings["held_out"])
        data, validation = f"{100 - share} % of {data}", f"{share} % of {data}, by its ids"
    facts = {
        "name": request.out.resolve().name,
        "data": data,
        "validation": validation,
        "settings": trained.settings,
        "summary": trained.summary,
        "command": _command(args, kind, trained.settings),
    }
    directory = request.out / "model"
    with common.uninterrupted():
        export(request.base, kind, trained.component, directory, facts)
    base = None if is_alone(kind) else request.base.name
    if args.json:
        facts = {"component": kind.name, "model": str(directory), "base": base, **facts}
        common.say_json({k: facts[k] for k in ("component", "model", "base", "settings", "summary")})
        return 0
    for key, value in trained.summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {common.format_number(v)}" for k, v in value.items())
        common.say(f"{key:<16}  {value}")
    how = f"from_pretrained('{directory}')" if kind.role != "baseline" else loading(kind, str(directory))
    what = f"this {kind.word}" if base is None else f"{base} with this {kind.word}"
    common.say(f"\n{what} is in {directory}; load it with {how}")
    return 0


def _say_options(kind: Kind, *, json: bool) -> int:
    from autoperi.training.request import options_of

    network, task = options_of(kind)
    if json:
        common.say_json({"network": network, "training": task})
        return 0
    if not network and not task:
        common.say(f"{kind.word} has no options for --set")
        return 0
    rows = [
        {"of": of, "option": k, "default": str(v)}
        for of, own in (("network", network), ("training", task))
        for k, v in own.items()
    ]
    common.say(common.format_table(rows, {key: key for key in ("of", "option", "default")}))
    return 0


def _check(args: argparse.Namespace, kind: Kind) -> None:
    """Refuse values that make no run.

    Raises:
        RequestError: naming the option. AutoPeriError: Lightning is missing.
    """
    from autoperi.training.request import check_optimizer, parse_options, split_options

    for option in ("data", "out"):
        if getattr(args, option) is None:
            raise RequestError(f"--{option} is missing; see `autoperi train --help`")
    for option, least in LEAST.items():
        value = getattr(args, option)
        if value is not None and value < least:
            raise RequestError(f"--{option.replace('_', '-')} {value} is not positive; give at least {least}")
    if args.learning_rate is not None and not (args.learning_rate > 0 and math.isfinite(args.learning_rate)):
        raise RequestError(f"--learning-rate {args.learning_rate} is not a positive number; give one such as 0.002")
    if args.seed is not None and not 0 <= args.seed <= MAX_SEED:
        raise RequestError(f"--seed {args.seed} is not an integer between 0 and 2**63 - 1; give one")
    if args.optimizer is not None:
        check_optimizer(args.optimizer)
    split_options(kind, parse_options(args.set))
    if not kind.task:
        for option in ("val", "label", "devices", "optimizer"):
            if getattr(args, option) is not None:
                raise RequestError(f"--{option} {getattr(args, option)} does not apply to {kind.word}; leave it out")
        return
    if args.reference is not None:
        raise RequestError(f"--reference {args.reference} is for the prior, not for {kind.word}; leave it out")
    if importlib.util.find_spec("lightning") is None:
        raise AutoPeriError(
            f'training {kind.word} needs Lightning, which is not installed; run `pip install "autoperi[train]"`'
        )
    task = load(kind.task)
    if args.label is not None and not task.labelled:
        raise RequestError(
            f"--label {args.label} does not apply to {kind.word}, which learns from crystals alone; leave it out"
        )
    if args.val is None and not task.holds_out:
        raise RequestError(f"--val is missing; give crystals to validate {kind.word} on, which are not in --data")


def _request(args: argparse.Namespace, kind: Kind) -> TrainingRequest:
    """The request, with its base model loaded; files that are missing are refused first."""
    from autoperi.hub.download import load_pretrained
    from autoperi.nn.device import check_device
    from autoperi.training.export import check_base
    from autoperi.training.request import TrainingRequest, parse_options

    for table in filter(None, (args.data, args.val)):
        check_exists(Path(table))
    device = check_device(args.device).type
    base = load_pretrained(args.base)
    check_base(base, kind)
    if device == "cuda" and args.devices is not None:
        import torch

        if args.devices > torch.cuda.device_count():
            raise RequestError(
                f"--devices {args.devices} is more than the {torch.cuda.device_count()} GPUs of this machine; give "
                "fewer"
            )
    return TrainingRequest(
        kind,
        Path(args.data),
        Path(args.out),
        base,
        args.base,
        val=None if args.val is None else Path(args.val),
        settings={name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None},
        options=parse_options(args.set),
        label=args.label,
        reference=args.reference,
        max_atoms=args.max_atoms,
        resume=args.resume,
        device=device,
        devices=args.devices or 1,
        bar=sys.stdout.isatty() and not args.quiet and not args.json,
        note=(lambda _: None) if args.quiet else common.note,
    )


def _writes(kind: Kind) -> bool:
    """Whether this process writes and prints: of several that train together, the first."""
    if not kind.task:
        return True
    from autoperi.training.run import first_process

    return first_process()


def _command(args: argparse.Namespace, kind: Kind, settings: dict[str, Any]) -> str:
    """The command that repeats the run, with file names and no folders: cards are published."""
    from autoperi.training.export import is_alone

    words = ["autoperi", "train", kind.word, "--data", Path(args.data).name]
    words += ["--val", Path(args.val).name] if args.val else []
    base = args.base if args.base == common.DEFAULT_MODEL else Path(args.base).name
    words += ["--out", Path(args.out).resolve().name, *(() if is_alone(kind) else ("--base", base))]
    for key in SETTINGS:
        words += [f"--{key.replace('_', '-')}", str(settings[key])] if key in settings else []
    for key in ("max_atoms", "label", "reference", "devices"):
        words += [f"--{key.replace('_', '-')}", str(getattr(args, key))] if getattr(args, key) is not None else []
    words += [word for text in args.set for word in ("--set", text)]
    return shlex.join(words)
