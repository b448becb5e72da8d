"""What the evaluations share: the rows of a table, what a result records, and the entries that its figures are drawn
from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoperi._version import __version__
from autoperi.data.io import CrystalTable, read_table
from autoperi.data.random import check_seed
from autoperi.errors import DataError, RequestError

PACKAGES = ("torch", "numpy", "pymatgen-core", "spglib", "e3nn")
NOT_RECORDED = ("peri", "path", "calculator_options", "processes", "progress")
"""Arguments of an evaluation that its parameters do not hold: other keys of the result do, or they change no number."""


def sample_rows(n: int, limit: int | None, seed: int) -> list[int]:
    """Rows to evaluate: all, or ``limit`` of them as ``pandas.DataFrame.sample(limit, random_state=seed)`` draws
    them.
    """
    if limit is None or limit >= n:
        return list(range(n))
    return np.random.RandomState(seed).choice(n, size=limit, replace=False).tolist()


def load(path: str | Path, limit: int | None, seed: int) -> tuple[CrystalTable, list[int]]:
    """The table and the chosen rows.

    Raises:
        DataError: no such file, or a folder; RequestError: a seed that NumPy's legacy generator cannot take.
    """
    if not Path(path).is_file():
        raise DataError(f"{path} is not a file; give one table of crystals, such as a .parquet or .csv")
    if check_seed(seed) >= 2**32:
        raise RequestError(f"seed={seed} is too large to draw rows with; give one below 2**32")
    table = read_table(path)
    return table, sample_rows(len(table), limit, seed)


def numbers_of(labels: Any, column: str, where: str, remedy: str) -> np.ndarray:
    """A column of a table's labels as floats (n,), NaN where it is empty.

    Raises:
        DataError: it holds words; ``where`` names it, and ``remedy`` says what to give instead.
    """
    try:
        return labels[column].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} holds what is no number ({error}); {remedy}") from None


def facts(
    path: str | Path,
    model: Mapping[str, Any] | None,
    seed: int,
    *,
    parameters: Mapping[str, Any] | None = None,
    others: Mapping[str, str | Path | None] | None = None,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """What a number rests on: data hashes, model, package versions, and every parameter.

    Args:
        path: the table of reference crystals.
        model: provenance of the model; None where the crystals came from elsewhere.
        seed: of rows and all randomness.
        parameters: all options of the run.
        others: further files or folders that were read, by what they are for (``train``, ``crystals``); None ones are
            left out.
        packages: further distributions whose version matters here.
    """
    found: dict[str, Any] = {
        "model": model["model"] if model else None,
        "model_sha256": model["sha256"] if model else None,
        "seed": seed,
        "data": Path(path).name,
        "data_sha256": content_hash(path),
    }
    for name, other in (others or {}).items():
        if other is not None:
            found |= {name: Path(other).name, f"{name}_sha256": content_hash(other)}
    versions = {"autoperi": __version__, **versions_of((*PACKAGES, *packages))}
    return found | ({"parameters": dict(parameters)} if parameters is not None else {}) | {"versions": versions}


def content_hash(path: str | Path) -> str:
    """sha256 of a file, or of the names and contents of all files in a folder."""
    path = Path(path)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def options_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run, for its ``parameters``: the arguments of its function but :data:`NOT_RECORDED`."""
    return {name: value for name, value in arguments.items() if name not in NOT_RECORDED}


def file_name(path: str | Path | None) -> str | None:
    """Name of a file without its folder."""
    return None if path is None else Path(path).name


def versions_of(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of distributions, None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            found[name] = None
    return found


def entry(kind: str, title: str, x_label: str = "", **arguments: Any) -> dict[str, Any]:
    """An entry of ``series``, from which :func:`autoperi.figures.draw.draw` draws a figure."""
    return {"kind": kind, "title": title, **({"x_label": x_label} if x_label else {}), **arguments}


def tally(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason occurs, in alphabetical order."""
    return dict(sorted(Counter(reasons).items()))


def per_second(count: int, seconds: float, digits: int = 1) -> float | None:
    """A rate, None where no time was measured."""
    return decimals(count / seconds, digits) if seconds else None


def decimals(value: float | None, digits: int = 4) -> float | None:
    """Rounded, and None kept None."""
    return None if value is None else round(float(value), digits)
