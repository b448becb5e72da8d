"""Speed and memory of a stream into a folder, as one JSON object.

usage: python benchmarks/stream.py MODEL -n N [--composition FORMULA] [--num-atoms N_or_RANGE] [--where EXPR]
    [--threads 2] [--out FILE]

``candidates_per_second`` are raw ones, ``crystals_per_second`` those that passed the checks (and the filter) and are
written; ``peak_memory_MiB`` is the most that this process has held when 10 %, 50 % and 100 % of the crystals were
there, so that a stream in flat memory shows about one number. ``checks`` takes the first 256 candidates apart: seconds
that one needs for distances, for symmetry analysis (spglib), and for all checks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from itertools import count, islice
from pathlib import Path
from typing import Any

from autoperi.pipelines.options import number_range

MARKS = (0.1, 0.5, 1.0)
CHECKED = 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--composition")
    parser.add_argument("--num-atoms", type=number_range("num_atoms"), metavar="N_or_RANGE")
    parser.add_argument("--where")
    parser.add_argument("--shard-size", type=int, default=2000)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    args = parser.parse_args()
    import torch

    from autoperi import AutoPeri
    from autoperi.pipelines.stream import Stream
    from autoperi.workflows.stream import write_stream

    torch.set_num_threads(args.threads)
    peri = AutoPeri.from_pretrained(args.model)
    size: int | str = args.batch_size or "auto"
    common: dict[str, Any] = {"n": args.n, "seed": args.seed, "where": args.where, "batch_size": size}
    if args.num_atoms:
        common["num_atoms"] = args.num_atoms
    marks = [(share, max(1, round(share * args.n))) for share in MARKS]
    memory: dict[str, float] = {}
    real = Stream.verdicts

    def watched(self: Stream, place: Any) -> Any:
        """The stream itself, noting the memory as it passes the marks."""
        for verdict in real(self, place):
            for share, crystals in marks:
                if place.kept == crystals:
                    memory.setdefault(f"{share:.0%}", peak())
            yield verdict

    Stream.verdicts = watched  # type: ignore[method-assign]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        record = write_stream(peri, args.composition, out=folder, shard_size=args.shard_size, progress=None, **common)
        size_on_disk = sum(p.stat().st_size for p in Path(folder).iterdir())
    seconds = time.perf_counter() - started
    counts = record["counts"]
    result = {
        "task": "stream",
        "composition": args.composition,
        "num_atoms": args.num_atoms,
        "crystals": counts["accepted"],
        "counts": counts,
        "ended": record["ended"],
        "seconds": round(seconds, 2),
        "candidates_per_second": round(counts["tried"] / seconds, 1),
        "crystals_per_second": round(counts["accepted"] / seconds, 1),
        "bytes_per_crystal": round(size_on_disk / max(1, counts["accepted"])),
        "peak_memory_MiB": memory,
        "checks": checks_of(peri, args.composition, args.seed),
        "threads": args.threads,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "shard_size": args.shard_size,
        "where": args.where,
        "model": record["model"],
    }
    text = json.dumps(result)
    if args.out:
        Path(args.out).write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


def peak() -> float:
    """Most memory that this process has held, MiB."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(held / (1024 if sys.platform != "darwin" else 1024**2), 1)


def checks_of(peri: Any, composition: str | None, seed: int) -> dict[str, Any]:
    """Seconds that the checks of one candidate take."""
    from unittest.mock import patch

    from autoperi.pipelines import accept
    from autoperi.pipelines.stream_options import make_stream_request

    request = make_stream_request(composition, seed=seed)
    starts = [c for c in islice(peri.pipeline.candidates(request, count()), CHECKED) if c is not None]
    made = peri.pipeline.refine(request, starts)
    spent = {"distances": 0.0, "symmetry": 0.0}

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent[name] += time.perf_counter() - begun

        return call

    with (
        patch.object(accept, "minimum_distance_ratios", timed("distances", accept.minimum_distance_ratios)),
        patch.object(accept, "_symmetry", timed("symmetry", accept._symmetry)),
    ):
        begun = time.perf_counter()
        passed = sum(not isinstance(v, str) for v in peri.judge.verdicts(made, request))
        whole = time.perf_counter() - begun
    return {
        "candidates": len(made),
        "passed": passed,
        **{f"seconds_{name}": round(value / max(1, len(made)), 6) for name, value in spent.items()},
        "seconds_all": round(whole / max(1, len(made)), 6),
    }


if __name__ == "__main__":
    raise SystemExit(main())
