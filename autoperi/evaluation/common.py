"""What every evaluation records: which rows, which data, which versions, how long."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from autoperi._version import __version__
from autoperi.errors import DataError, RequestError
from autoperi.io import CrystalTable, read_table
from autoperi.random import check_seed

PACKAGES = ("torch", "numpy", "pymatgen-core", "spglib", "e3nn")


def sample_rows(n: int, limit: int | None, seed: int) -> list[int]:
    """Rows to evaluate: all, or ``limit`` of them as ``pandas.DataFrame.sample(limit, random_state=seed)`` draws them."""
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


def facts(path: str | Path, model: dict[str, Any], seed: int) -> dict[str, Any]:
    """Data hash, model and package versions."""
    versions: dict[str, str | None] = {"autoperi": __version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return {
        "model": model["model"],
        "model_sha256": model["sha256"],
        "seed": seed,
        "data": Path(path).name,
        "data_sha256": digest,
        "versions": versions,
    }


def decimals(value: float | None, digits: int = 4) -> float | None:
    """Rounded, and None kept None."""
    return None if value is None else round(float(value), digits)
