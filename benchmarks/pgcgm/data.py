"""Write the table that pgcgm learns from: `mp_train`, `wbm_sample` and `extra_crystals`, without what matches a test
crystal.

usage: python benchmarks/pgcgm/data.py DATA_DIR OUT.parquet

`mp_train` holds no match already and `extra_crystals` marks its own; those of `wbm_sample` are found here, by
composition and then by the matcher that scores hits. What cannot be a crystal of 2 to 4 elements is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from autoperi.data.io import read_table
from autoperi.metrics.match import same_composition
from autoperi.metrics.pairs import CSP, compare_pairs

TABLES = ("mp_train", "extra_crystals", "wbm_sample")
COLUMNS = ["id", "formula", "n_atoms", "lattice", "frac_coords", "atomic_numbers"]


def matches(path: Path, test: Path) -> np.ndarray:
    """Which crystals of a table match one of the test, ``[N]``."""
    table, known = (
        list(zip(t.lattice, t.frac_coords, t.atomic_numbers, strict=True)) for t in map(read_table, (path, test))
    )
    pairs = [(j, i) for i, j in same_composition(table, known)]
    rms = compare_pairs(known, table, pairs, tolerances=dict(CSP), processes=1, progress=False)
    found = np.zeros(len(table), dtype=bool)
    found[[i for (_, i), own in zip(pairs, rms, strict=True) if isinstance(own, float)]] = True
    return found


def main() -> int:
    """Join, leave out, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA_DIR", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    args = parser.parse_args()
    parts = []
    for name in TABLES:
        frame = pd.read_parquet(args.data / f"{name}.parquet")
        keep = np.ones(len(frame), dtype=bool)
        if "matches_mp20_test" in frame:
            keep &= ~frame["matches_mp20_test"].fillna(False).to_numpy(dtype=bool)
        if name == "wbm_sample":
            keep &= ~matches(args.data / f"{name}.parquet", args.data / "mp20_test.parquet")
        elements = np.array([len(set(row)) for row in frame["atomic_numbers"]])
        wanted = keep & (elements >= 2) & (elements <= 4)
        print(f"{name}: {len(frame)} crystals, {int((~keep).sum())} match a test crystal, {int(wanted.sum())} taken")
        parts.append(frame.loc[wanted, COLUMNS])
    table = pd.concat(parts, ignore_index=True)
    for name, kind in (("lattice", np.float32), ("frac_coords", np.float32), ("atomic_numbers", np.int64)):
        table[name] = [np.asarray(row, dtype=kind) for row in table[name]]
    table.to_parquet(args.out, compression="zstd")
    print(f"{len(table)} crystals in {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
