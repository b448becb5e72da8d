"""Digests of what AutoPeri answers, to hold two versions of the code against each other bit for bit.

    python tools/digests.py > after.json
    PYTHONPATH=OTHER_CHECKOUT python tools/digests.py > before.json
    diff before.json after.json

Every number of every answer goes into its digest in full precision; what names the version of a package is left out.
The bundled weights answer, no data file is read. About four minutes on one core.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymatgen.core import Lattice, Structure

from autoperi import AutoPeri

REQUESTS: dict[str, dict[str, Any]] = {
    "rock salt": {"composition": "NaCl", "n": 3},
    "triphylite": {"composition": "LiFePO4", "n": 4},
    "titania, ten": {"composition": "TiO2", "n": 10},
    "rutile by its group": {"composition": "TiO2", "n": 3, "space_group": 136, "num_atoms": 6},
    "perovskite by its symbol": {"composition": "SrTiO3", "n": 2, "space_group": "Pm-3m"},
    "by probability": {"composition": "BaSO4", "n": 3, "rank": "probability"},
    "in stream order": {"composition": "MgAl2O4", "n": 3, "rank": "none"},
    "sizes": {"composition": "SiO2", "n": 4, "num_atoms": (3, 9)},
    "no passes": {"composition": "CaF2", "n": 2, "steps": 0},
    "finished": {"composition": "GaN", "n": 2, "finish": 5},
    "de novo": {"composition": None, "n": 6},
    "a chemical system": {"composition": None, "n": 4, "chemical_system": "Li-Fe-O", "num_atoms": (4, 14)},
    "limits": {"composition": None, "n": 4, "exclude_elements": ("Pb", "Cd", "Hg"), "num_elements": (2, 3)},
    "a target": {"composition": "ZnS", "n": 2, "target": {"band_gap": 2.0}},
    "the network alone": {"composition": "CaTiO3", "n": 3, "model": "autoperi-gnn"},
    "the prior alone": {"composition": "CaTiO3", "n": 3, "model": "prior"},
    "odd elements": {"composition": "PuRhAc", "n": 2, "strict": False},
    "noble": {"composition": "HeXe3", "n": 2, "strict": False},
}


def main() -> None:
    """Print the digests as JSON."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    peri = AutoPeri.from_pretrained(device="cpu")
    tasks: dict[str, Callable[[], Any]] = {
        f"generate: {name}": (
            lambda r=request: peri.generate(
                r["composition"], seed=7, **{k: v for k, v in r.items() if k != "composition"}
            )
        )
        for name, request in REQUESTS.items()
    }
    crystals = textbook()
    bent = [strained(crystal, k) for k, crystal in enumerate(crystals)]
    tasks |= {
        "generate: as_ase": lambda: peri.generate("NaCl", n=2, seed=3, as_ase=True),
        "generate: like": lambda: peri.generate("KBr", n=1, like=crystals[0], seed=1),
        "generate: nothing known": lambda: unknown(peri).generate("NaCl", n=3, seed=5),
        "relax_lattice": lambda: peri.relax_lattice(bent),
        "relax_lattice: fix_symmetry": lambda: peri.relax_lattice(bent, fix_symmetry=True, steps=2),
        "relax_lattice: positions": lambda: peri.relax_lattice(bent[:4], positions=True, steps=30),
        "relax_lattice: float32": lambda: AutoPeri.from_pretrained(device="cpu", dtype=torch.float32).relax_lattice(
            bent[0]
        ),
        "score": lambda: peri.score(bent).to_dict("list"),
        "score: references": lambda: peri.score(
            bent, properties=["formation_energy"], references=[("NaCl", -2.0), ("TiO2", -3.0)]
        ).to_dict("list"),
        "log_likelihood": lambda: peri.log_likelihood(crystals).to_dict("list"),
        "calculator": lambda: calculated(peri, bent[0]),
        "save_pretrained": lambda: saved(peri),
        "provenance": lambda: {k: v for k, v in peri.provenance().items() if k != "versions"},
    }
    found = {}
    for name, task in tasks.items():
        found[name] = digest(task())
        sys.stderr.write(f"{name}\n")
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


def textbook() -> list[Structure]:
    """A few crystals from the literature."""
    return [
        Structure.from_spacegroup(
            225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
        ).get_primitive_structure(),
        Structure.from_spacegroup(136, Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
        Structure.from_spacegroup(
            186, Lattice.hexagonal(3.25, 5.21), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]
        ),
        Structure.from_spacegroup(
            221, Lattice.cubic(3.91), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
        ),
        Structure.from_spacegroup(229, Lattice.cubic(2.87), ["Fe"], [[0, 0, 0]]).get_primitive_structure(),
    ]


def strained(crystal: Structure, k: int) -> Structure:
    """The crystal with a strain of a few per cent and atoms off their places."""
    generator = np.random.default_rng(k)
    strain = generator.normal(0, 0.03, (3, 3))
    moved = Structure(
        crystal.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2), crystal.species, crystal.frac_coords
    )
    return moved.perturb(0.02, seed=k) if len(moved) > 1 else moved


def unknown(peri: AutoPeri) -> AutoPeri:
    """The model without what it knows of the very composition."""
    if hasattr(peri, "with_settings"):
        return peri.with_settings(known_weight=0.0)
    other = AutoPeri.from_pretrained(device="cpu")
    other._parts.proposer.known_weight = 0.0
    return other


def calculated(peri: AutoPeri, crystal: Structure) -> dict[str, Any]:
    """Energy, forces and stress of the ASE calculator."""
    atoms = crystal.to_ase_atoms()
    atoms.calc = peri.calculator()
    return {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}


def saved(peri: AutoPeri) -> dict[str, str]:
    """Digests of the files that ``save_pretrained`` writes, without the text of the card."""
    with tempfile.TemporaryDirectory() as directory:
        peri.save_pretrained(Path(directory) / "model")
        return {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(Path(directory, "model").iterdir())
            if p.suffix != ".md"
        }


def digest(value: Any) -> str:
    """sha256 of an answer, over every number in full precision."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()[:16]


def _feed(sha: Any, value: Any) -> None:
    if hasattr(value, "lattice"):
        _feed(sha, [value.lattice.matrix, value.frac_coords, [s.specie.Z for s in value], value.properties])
    elif hasattr(value, "get_atomic_numbers"):
        _feed(sha, [value.cell[:], value.get_positions(), value.get_atomic_numbers(), dict(value.info)])
    elif isinstance(value, Mapping):
        for key in sorted(map(str, value)):
            if key != "versions":
                sha.update(key.encode())
                _feed(sha, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(sha, item)
    elif isinstance(value, np.ndarray):
        sha.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, (float, np.floating)):
        sha.update(struct.pack("d", float(value)))
    elif isinstance(value, (bool, np.bool_)):
        sha.update(repr(bool(value)).encode())
    elif isinstance(value, (int, np.integer)):
        sha.update(repr(int(value)).encode())
    else:
        sha.update(repr(value).encode())


if __name__ == "__main__":
    main()
