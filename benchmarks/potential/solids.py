"""Si, Cu, NaCl and MgO with the bundled potential beside CHGNet and experiment: lattice, equation of state, elastic
constants, phonons.

    python benchmarks/potential/solids.py --peer --out benchmarks/results/solids.json --figure docs/images/solids.png
    # draw the figure again
    python benchmarks/potential/solids.py --from benchmarks/results/solids.json --figure docs/images/solids.png
    # write the tables of the docs
    python tools/refresh_docs.py
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk
from ase.eos import EquationOfState

from autoperi import AutoPeri
from autoperi.data.files import write_atomically
from autoperi.evaluation.calculators import describe_calculator, make_calculator
from autoperi.metrics.elastic import elastic
from autoperi.metrics.phonons import phonons
from autoperi.metrics.relaxation import relax_one
from autoperi.units import EV_PER_A3_IN_GPA

CELLS = {
    "Si": {"name": "Si", "crystalstructure": "diamond", "a": 5.43, "cubic": True},
    "Cu": {"name": "Cu", "crystalstructure": "fcc", "a": 3.61, "cubic": True},
    "NaCl": {"name": "NaCl", "crystalstructure": "rocksalt", "a": 5.64, "cubic": True},
    "MgO": {"name": "MgO", "crystalstructure": "rocksalt", "a": 4.21, "cubic": True},
}
LATTICE_SOURCE = (
    "Swanson et al., Standard X-ray Diffraction Powder Patterns, NBS Circular 539, vol. 1 and 2 (1953), 25 to 27 °C"
)
EXPERIMENT: dict[str, dict[str, Any]] = {
    "Si": {
        "a": 5.430,
        "C11": 165.7,
        "C12": 63.9,
        "C44": 79.6,
        "source": "McSkimin & Andreatch, J. Appl. Phys. 35, 2161 (1964), 298 K",
    },
    "Cu": {
        "a": 3.615,
        "C11": 168.4,
        "C12": 121.4,
        "C44": 75.4,
        "source": "Overton & Gaffney, Phys. Rev. 98, 969 (1955), 300 K",
    },
    "NaCl": {
        "a": 5.640,
        "C11": 48.7,
        "C12": 12.4,
        "C44": 12.6,
        "source": "Overton & Swenson, Phys. Rev. 84, 758 (1951), 300 K",
    },
    "MgO": {
        "a": 4.213,
        "C11": 297.8,
        "C12": 97.0,
        "C44": 156.3,
        "source": "Sumino et al., J. Phys. Earth 24, 263 (1976), 293 K",
    },
}
"""Å and GPa (adiabatic), at room temperature: thermal expansion and zero-point motion, which no static calculation has,
are in them.
"""
VOLUMES = tuple(np.round(np.linspace(0.94, 1.06, 13), 3).tolist())
PATH = "GXU,KGL"
SETTINGS: dict[str, Any] = {
    "relax": {"fmax": 1e-3, "steps": 300, "fix_symmetry": True, "optimizer": "BFGS"},
    "elastic": {"strains": [-0.01, -0.005, 0.005, 0.01], "fmax": 1e-3, "steps": 300},
    "phonons": {"min_length": 10.0, "distance": 0.01, "mesh_length": 40.0, "tolerance": 0.1, "path": PATH},
}
COLOURS = {"autoperi": "#0072B2", "chgnet": "#D55E00"}
LABELS = {"autoperi": "AutoPeri", "chgnet": "CHGNet"}


def measure(formula: str, calculator: Any) -> dict[str, Any]:
    """All numbers of one crystal with one calculator."""
    began = time.process_time()
    relaxed = relax_one(bulk(**CELLS[formula]), calculator, **SETTINGS["relax"])
    atoms = bulk(**CELLS[formula])
    final = relaxed.structure
    atoms.set_cell(final.cell if hasattr(final, "cell") else final.lattice.matrix, scale_atoms=True)
    curve = equation_of_state(atoms, calculator)
    constants = elastic(atoms, calculator, **SETTINGS["elastic"])
    tensor = constants["tensor_GPa"]
    found = phonons(atoms, calculator, **SETTINGS["phonons"])
    return {
        "relaxation": relaxed.status,
        "a": round(float(atoms.cell.lengths().mean()), 4),
        "K": curve.pop("K"),
        **{
            name: None if tensor is None else round(tensor[i][j], 2)
            for name, i, j in (("C11", 0, 0), ("C12", 0, 1), ("C44", 3, 3))
        },
        "eos": curve,
        "elastic": constants,
        "bands": found.pop("bands", None),
        "phonons": found,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def equation_of_state(atoms: Any, calculator: Any) -> dict[str, Any]:
    """Energies at the :data:`VOLUMES` and the third-order Birch-Murnaghan fit; positions are fixed by symmetry in these
    crystals.
    """
    volumes, energies = [], []
    for factor in VOLUMES:
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell * factor ** (1 / 3), scale_atoms=True)
        scaled.calc = calculator
        volumes.append(scaled.get_volume() / len(atoms))
        energies.append(float(scaled.get_potential_energy()) / len(atoms))
    fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
    volume, energy, modulus = fit.fit(warn=False)
    residual = np.asarray(energies) - fit.func(np.asarray(volumes), *fit.eos_parameters)
    return {
        "K": round(float(modulus) * EV_PER_A3_IN_GPA, 2),
        "K_prime": round(float(fit.eos_parameters[2]), 2),
        "V0_A3_per_atom": round(float(volume), 4),
        "E0_eV_per_atom": round(float(energy), 6),
        "rms_residual_meV_per_atom": round(1000 * float(np.sqrt((residual**2).mean())), 4),
        "volume_A3_per_atom": [round(v, 5) for v in volumes],
        "energy_eV_per_atom": [round(e, 6) for e in energies],
    }


def report(model: str, *, peer: bool) -> dict[str, Any]:
    """The whole JSON."""
    peri = AutoPeri.from_pretrained(model, device="cpu")
    calculators = {"autoperi": peri.calculator(dtype="float64")}
    if peer:
        calculators["chgnet"] = make_calculator("chgnet", {"use_device": "cpu"})
    solids: dict[str, Any] = {}
    for formula in CELLS:
        known = EXPERIMENT[formula]
        solids[formula] = {
            "experiment": known | {"K": round((known["C11"] + 2 * known["C12"]) / 3, 1), "a_source": LATTICE_SOURCE}
        }
        for name, calculator in calculators.items():
            solids[formula][name] = measure(formula, calculator)
            print(
                formula,
                name,
                {k: solids[formula][name][k] for k in ("a", "K", "C11", "C12", "C44", "cpu_seconds")},
                flush=True,
            )
    return {
        "task": "solids",
        "model": peri.provenance()["model"],
        "model_sha256": peri.provenance()["sha256"],
        "dtype": "float64",
        "peer": describe_calculator("chgnet", {"use_device": "cpu"}) if peer else None,
        "parameters": SETTINGS | {"volumes": list(VOLUMES), "cells": CELLS},
        "summary": {name: errors(solids, name) for name in calculators},
        "solids": solids,
        "versions": {name: importlib.metadata.version(name) for name in ("autoperi", "torch", "ase", "phonopy")},
    }


def errors(solids: dict[str, Any], name: str) -> dict[str, Any]:
    """Mean absolute deviations from experiment in per cent, and the imaginary modes of all crystals."""

    def deviation(keys: tuple[str, ...]) -> float | None:
        found = [s[name][k] and abs(s[name][k] / s["experiment"][k] - 1) for s in solids.values() for k in keys]
        return None if None in found else round(100 * float(np.mean(found)), 2)

    modes = [s[name]["phonons"]["imaginary_modes"] for s in solids.values()]
    return {
        "a_percent": deviation(("a",)),
        "K_percent": deviation(("K",)),
        "C_percent": deviation(("C11", "C12", "C44")),
        "imaginary_modes": None if None in modes else sum(modes),
    }


def draw(result: dict[str, Any], path: str | Path) -> None:
    """Equations of state above, phonon bands below, one column a crystal."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from autoperi.figures.style import GREY, INK, PALE, styled

    names = [n for n in LABELS if n in next(iter(result["solids"].values()))]
    with styled():
        figure = Figure(figsize=(11.2, 6.0), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, len(result["solids"]))
        for (formula, solid), upper, lower in zip(result["solids"].items(), *panels, strict=True):
            cell = bulk(**CELLS[formula])
            known = solid["experiment"]["a"] ** 3 / len(cell)
            upper.axvline(known, color=INK, linewidth=1.0, linestyle=":", label="experiment, room temperature")
            for name in names:
                curve, style = solid[name]["eos"], "-" if name == "autoperi" else "--"
                volumes, energies = np.array(curve["volume_A3_per_atom"]), np.array(curve["energy_eV_per_atom"])
                shifted = 1000 * (energies - energies.min())
                upper.plot(
                    volumes,
                    shifted,
                    style,
                    marker="o",
                    markersize=2.5,
                    color=COLOURS[name],
                    label=LABELS[name],
                    linewidth=1.3,
                )
                bands = solid[name]["bands"] or {"x": [], "frequency": []}
                for x, frequency in zip(bands["x"], bands["frequency"], strict=True):
                    # fractions of the path: the two have different lattice constants
                    along = np.array(x) / bands["ticks"][-1][0]
                    lower.plot(
                        along,
                        frequency,
                        style,
                        color=COLOURS[name],
                        linewidth=1.1,
                        zorder=3 if name == "autoperi" else 2,
                    )
            upper.set_title(formula, fontweight="bold", fontsize=11)
            upper.set_xlabel("Volume (Å³/atom)")
            ticks = next((solid[n]["bands"]["ticks"] for n in names if solid[n]["bands"]), [[1.0, ""]])
            lower.set_xticks([t / ticks[-1][0] for t, _ in ticks], [n for _, n in ticks])
            lower.grid(visible=True, axis="x", color=GREY, linewidth=0.6)
            lower.grid(visible=True, axis="y", color=PALE, linewidth=0.6)
            lower.axhline(0, color=INK, linewidth=0.8)
            lower.set_xlim(0, 1)
            lower.set_xlabel("Wave vector")
        panels[0][0].set_ylabel("Energy above the minimum\n(meV/atom)")
        panels[1][0].set_ylabel("Phonon frequency (THz)")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        drawn = BytesIO()
        figure.savefig(drawn, dpi=110, format="png")
    with Image.open(drawn) as image:  # few colours: a third of the bytes
        about = PngInfo()
        about.add_text("results", fingerprint(result))
        image.convert("RGB").quantize(64).save(path, format="png", optimize=True, pnginfo=about)


def fingerprint(result: dict[str, Any]) -> str:
    """sha256 of results, which the figure carries: a test then knows that it was drawn from those that are stated
    beside it.
    """
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--peer", action="store_true", help="CHGNet, too")
    parser.add_argument("--from", dest="source", type=Path, help="results to draw, without measuring")
    parser.add_argument("--out", type=Path, help="where to write the results")
    parser.add_argument("--figure", type=Path, help="where to draw them, .png")
    args = parser.parse_args()
    result = json.loads(args.source.read_text(encoding="utf-8")) if args.source else report(args.model, peer=args.peer)
    if args.out:
        write_atomically(args.out, json.dumps(result, separators=(",", ":")) + "\n")
    if args.figure:
        draw(result, args.figure)
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
