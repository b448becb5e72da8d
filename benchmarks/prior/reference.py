"""Give the members of a learned prior their weights in draws without a composition, without learning it again.

    python benchmarks/prior/reference.py mp_train.parquet MODEL_DIRECTORY --reference
    origin=mp20_train_partial,mp20_val_partial

Members know neither ids nor rows. A member is told to be the row of the same reduced composition whose volume, over the
additive one, is nearest (rounded to 1e-4 in the library; a few hundred rows are alike in both, and count as their
first). What `autoperi train prior --reference` stores at once, this writes into an existing model directory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoperi.data.io import CrystalTable, read_table
from autoperi.hub.bundle import load_bundle, save_bundle
from autoperi.prior.component import proposer_of
from autoperi.prior.library import PrototypeLibrary
from autoperi.training.tasks.prior import reference_weights

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from update_pretrained import update_registry  # the folder must be known first

TOLERANCE = 0.01
"""Largest difference of ln(volume over additive volume) between a member and its row; cells idealised at 0.1 Å differ
by less.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the table that the prior was learned from")
    parser.add_argument("model", type=Path, help="a model directory, which is written anew")
    parser.add_argument("--reference", required=True, metavar="COLUMN=VALUE,…")
    args = parser.parse_args()
    bundle, table = load_bundle(args.model), read_table(args.data)
    library = proposer_of(bundle.components["prior"]).library
    rows, apart = rows_of(library, table)
    if apart.max() > TOLERANCE:
        raise SystemExit(
            f"{int((apart > TOLERANCE).sum())} of {len(apart)} members are in no row of {args.data}; give the data of "
            "this prior"
        )
    weight = reference_weights(table, args.reference)[rows]
    bundle.components["prior"].tensors["member_weight"] = torch.as_tensor(weight)
    save_bundle(bundle, args.model)
    update_registry()
    told: dict[str, Any] = {
        "members": len(rows),
        "distinct rows": len(set(rows.tolist())),
        "of the reference": int((weight > 0).sum()),
    }
    print(json.dumps(told | {"largest difference": round(float(apart.max()), 5)}))
    return 0


def rows_of(library: PrototypeLibrary, table: CrystalTable) -> tuple[np.ndarray, np.ndarray]:
    """The row of each member, ``[M]``, and how far its log volume ratio is from the member's."""
    volume = library["element_volume"]
    known = defaultdict(list)
    for row, (lattice, numbers) in enumerate(zip(table.lattice, table.atomic_numbers, strict=True)):
        ratio = np.log(abs(np.linalg.det(np.asarray(lattice))) / volume[numbers].sum())
        known[_reduced(numbers)].append((float(ratio), row))
    rows, apart = [], []
    for v, counts in enumerate(library.counts):
        a, b = library["member_start"][v : v + 2]
        for elements, ratio in zip(library.members(v), library["member_volume"][a:b], strict=True):
            near = min(
                ((abs(r - float(ratio)), row) for r, row in known[_reduced(np.repeat(elements.astype(int), counts))]),
                default=(np.inf, 0),
            )
            apart.append(near[0])
            rows.append(near[1])
    return np.array(rows), np.array(apart)


def _reduced(numbers: np.ndarray) -> tuple[tuple[int, int], ...]:
    elements, counts = np.unique(numbers, return_counts=True)
    return tuple(zip(elements.tolist(), (counts // np.gcd.reduce(counts)).tolist(), strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
