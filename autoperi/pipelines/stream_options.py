"""Options of a stream, and what of a request a stream cannot honour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from autoperi.data.checks import whole_number
from autoperi.errors import RequestError
from autoperi.pipelines.options import Flag, option, option_of, whole
from autoperi.pipelines.request import Request, RunOptions, make_request
from autoperi.pipelines.where import check_where

FORMATS = ("parquet", "extxyz")
SHARD_SIZE = 2000
"""Candidates of a shard where nothing is said: what a kill loses at most, which takes a slow sampler some minutes."""
NOT_STREAMED = {
    "rank": "a stream keeps the order in which crystals come",
    "finish": "relax the shards afterwards (autoperi relax)",
    "target": "a stream compares no crystals; keep what comes near with where",
}
"""Options of ``generate`` that look at all crystals of a request, and what to do instead."""


def _format(given: Any) -> str:
    if given not in FORMATS:
        raise RequestError(f"format={given!r} is not known; choose one of {', '.join(FORMATS)}")
    return str(given)


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is answered."""

    where: Any = option(
        None,
        annotation="str | Callable[[Structure], bool] | None",
        says=(
            'which crystals to keep: an expression over the columns of ``score``, such as ``"charge_neutral and '
            'density_g_per_cm3 > 3"`` (the name of a property stands for its first column), or a function of one '
            "crystal; ``n`` counts those that are kept."
        ),
        check=check_where,
        flag=Flag("--where", "EXPR", "with --stream: keep crystals of which it holds, e.g. 'charge_neutral'"),
    )
    batch_size: int | str = option_of(RunOptions, "batch_size")
    as_ase: bool = option_of(RunOptions, "as_ase")


@dataclass(frozen=True)
class ShardOptions:
    """How a stream is written."""

    format: str = option(
        "parquet",
        annotation="str",
        says='``"parquet"`` (fast, small) or ``"extxyz"``.',
        check=_format,
        flag=Flag("--format", "FORMAT", "with --stream: parquet or extxyz (default: parquet)"),
    )
    shard_size: int = option(
        SHARD_SIZE,
        annotation="int",
        says="candidates of a shard, which is written when all of them have been tried.",
        check=lambda given: whole_number(given, "shard_size"),
        flag=Flag("--shard-size", "N", f"with --stream: candidates of a shard (default: {SHARD_SIZE})", type=whole),
    )
    resume: bool = option(
        False,
        annotation="bool",
        says="go on with the stream in the folder, with its settings.",
        flag=Flag("--resume", help="with --stream: go on with the stream in DIR, with its settings", switch=True),
    )


def make_stream_request(composition: Any = None, **options: Any) -> Request:
    """The request of a stream, whose crystals keep their order.

    Args:
        composition: as in ``generate``; or a :class:`Request`.
        **options: of :class:`Request`.

    Raises:
        RequestError: naming the value and the remedy; also for :data:`NOT_STREAMED`. TypeError: an unknown option.
    """
    if "rank" not in options and not isinstance(composition, Request):
        options["rank"] = "none"
    request = make_request(composition, **options)
    wanted = {**request.wanted(), **({"rank": request.rank} if "rank" in options else {})}
    for name, instead in NOT_STREAMED.items():
        if name in wanted and (name, wanted[name]) != ("rank", "none"):
            value = options.get(name, wanted[name])
            raise RequestError(f"{name}={value!r} cannot be had of a stream; leave it out: {instead}")
    return replace(request, rank="none")
