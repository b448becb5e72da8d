"""What every evaluation records: which rows, which data, which versions, how long."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoperi._version import __version__
from autoperi.data.io import CrystalTable, read_table
from autoperi.data.random import check_seed
from autoperi.errors import DataError, RequestError

PACKAGES = ("torch", "numpy", "pymatgen-core", "spglib", "e3nn")


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
    versions: dict[str, str | None] = {"autoperi": __version__}
    for name in (*PACKAGES, *packages):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
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


def decimals(value: float | None, digits: int = 4) -> float | None:
    """Rounded, and None kept None."""
    return None if value is None else round(float(value), digits)
