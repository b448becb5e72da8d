"""Our CrystalNN fingerprint of a site beside matminer's ``CrystalNNFingerprint("ops")``: processor time and largest
difference.

pip install "autoperi[metrics]" && python benchmarks/crystalnn_speed.py --out benchmarks/results/crystalnn_speed.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
import warnings
from pathlib import Path

import numpy as np
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.core import Lattice, Structure

from autoperi.data.convert import to_arrays
from autoperi.data.io import write_atomically
from autoperi.metrics.crystalnn import site_fingerprint

OLIVINE = [[0, 0, 0], [0.28, 0.25, 0.975], [0.095, 0.25, 0.418]]
OLIVINE_OXYGEN = [[0.097, 0.25, 0.743], [0.457, 0.25, 0.206], [0.166, 0.046, 0.285]]


def crystals() -> dict[str, Structure]:
    """From two to 28 atoms, coordination numbers from 4 to 12."""
    build = Structure.from_spacegroup
    spinel = build("Fd-3m", Lattice.cubic(8.08), ["Mg", "Al", "O"], [[1 / 8] * 3, [0.5] * 3, [0.2624] * 3])
    salt = build("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cubic = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    return {
        "NaCl": salt.get_primitive_structure(),
        "SrTiO3": build("Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], cubic),
        "TiO2": build("P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
        "MgAl2O4": spinel.get_primitive_structure(),
        "Mg": build("P6_3/mmc", Lattice.hexagonal(3.2, 5.2), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
        "LiFePO4": build(
            "Pnma",
            Lattice.orthorhombic(10.33, 6.01, 4.69),
            ["Li", "Fe", "P", "O", "O", "O"],
            [*OLIVINE, *OLIVINE_OXYGEN],
        ),
    }


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3, help="the least time of so many counts")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    theirs, rows = CrystalNNFingerprint.from_preset("ops"), {}
    for name, crystal in crystals().items():
        arrays, sites = to_arrays(crystal), range(0, len(crystal), max(1, len(crystal) // 4))
        found, least = {}, {}
        for who in ("ours", "matminer"):
            seconds = []
            for _ in range(args.repeats):
                begun = time.process_time()
                rows_of = [
                    site_fingerprint(*arrays, i) if who == "ours" else theirs.featurize(crystal, i) for i in sites
                ]
                seconds.append(time.process_time() - begun)
            found[who], least[who] = np.array(rows_of), min(seconds) / len(sites)
        rows[name] = {
            "sites": len(sites),
            "ours_ms_per_site": round(1000 * least["ours"], 2),
            "matminer_ms_per_site": round(1000 * least["matminer"], 2),
            "ratio": round(least["matminer"] / least["ours"], 1),
            "largest_difference": float(np.abs(found["ours"] - found["matminer"]).max()),
        }
    packages = {name: importlib.metadata.version(name) for name in ("matminer", "pymatgen-core", "scipy")}
    out = json.dumps({"packages": packages, "crystals": rows}, indent=1) + "\n"
    print(out)
    write_atomically(args.out, out)


if __name__ == "__main__":
    main()
