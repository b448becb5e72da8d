"""``autoperi generate --stream``: crystals into a folder as they come."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from autoperi.cli import common
from autoperi.data.files import crystal_target
from autoperi.errors import DataError, RequestError, StreamInterrupted
from autoperi.pipelines.options import given_flags, taken
from autoperi.pipelines.request import Request, RunOptions
from autoperi.pipelines.stream_options import ShardOptions, StreamOptions, make_stream_request
from autoperi.workflows.resume import check_there


def run_stream(args: argparse.Namespace) -> int:
    """Generate and write, shard by shard; print what there is."""
    asked, options = given_flags(args, Request), given_flags(args, StreamOptions, ShardOptions)
    _check(args, asked, options)
    peri = common.load_model(args)
    from autoperi.pipelines.accept import reasons
    from autoperi.workflows.stream import write_stream

    interrupted: StreamInterrupted | None = None
    try:
        how: dict[str, Any] = {"batch_size": args.batch_size, "progress": common.progress_of(args)}
        record = write_stream(peri, out=args.out, **asked, **options, **how)
    except StreamInterrupted as stop:
        record, interrupted = stop.record, stop
    with common.uninterrupted():
        shards = [shard for shard in record["shards"] if shard["file"] is not None]
        if args.json:
            common.say_json({**record, "shards": len(shards), "interrupted": interrupted is not None})
        elif interrupted is None:
            counts = record["counts"]
            said = reasons(record["settings"].get("composition") is not None)
            refused = [f"{counts[name]:,} {words}" for name, words in said.items() if counts[name]]
            common.say(
                f"{counts['accepted']:,} crystals of {counts['tried']:,} candidates in {len(shards):,} shards of "
                f"{args.out}" + (f"; refused: {', '.join(refused)}" if refused else "")
            )
            common.say(
                f"model {record['model']['model']}, seed {record['settings']['seed']}; "
                f"{record['run']['crystals']:,} crystals in this run, {record['run']['crystals_per_second']:,} a second"
            )
        if interrupted is not None:
            words = ["autoperi", "generate", "--stream", "--out", args.out, "--resume"]
            again = shlex.join([*words, "--model", args.model] if args.model != common.DEFAULT_MODEL else words)
            common.note(f"{interrupted}, in {len(shards)} whole shards; go on with: {again}")
    return 0 if interrupted is None else 130


def _check(args: argparse.Namespace, asked: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuse what a stream cannot honour, before the model is loaded."""
    if args.out is None:
        raise RequestError("--stream writes into a folder; name it with --out")
    if crystal_target(args.out, n=2) != "folder":
        raise DataError(f"{args.out} is a file, and --stream writes into a folder; end it with /")
    if "strict" in given_flags(args, RunOptions):
        raise RequestError("--no-strict means nothing beside --stream, which keeps what there is; leave it out")
    make_stream_request(**asked)
    for cls in (StreamOptions, ShardOptions):
        taken(dict(options), cls)  # which checks them
    from autoperi.data.io import STREAM

    if "n" not in asked and not (options.get("resume") and (Path(args.out) / STREAM).exists()):
        if options.get("resume"):
            check_there(Path(args.out), "stream")
        raise RequestError("--stream needs the number of crystals; give it with -n, such as -n 100000")
