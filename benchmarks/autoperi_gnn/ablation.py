"""What each part of ``generate`` adds: CSP on crystals of mp_val with parts switched off.

usage: python benchmarks/autoperi_gnn/ablation.py mp_val.parquet [--model autoperi-base] [--limit 250] --out FILE

Rows that FILE holds already, of the same model and settings, are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from autoperi import AutoPeri
from autoperi.evaluation.common import facts
from autoperi.evaluation.csp import evaluate_csp
from autoperi.pipelines.accept import Judge
from autoperi.pipelines.base import Pipeline

KEYS = ("match_at_1", "match_at_5", "match_at_k", "rmse", "candidates", "no_candidate", "crystals_per_second")


class FormationEnergyRanks(AutoPeri):
    """The model with its potential out of the ranking."""

    @property
    def judge(self) -> Judge:
        return dataclasses.replace(super().judge, potential=None)


class NetworkAlone(AutoPeri):
    """Orbits of the network, with geometries from noise."""

    @property
    def pipeline(self) -> Pipeline:  # type: ignore[override]
        return super().pipeline.part("autoperi-gnn")


def without(peri: AutoPeri, component: str) -> AutoPeri:
    """The model without a component."""
    kept = {name: c for name, c in peri.bundle.components.items() if name != component}
    return AutoPeri(dataclasses.replace(peri.bundle, components=kept))


def rows() -> dict[str, tuple[Callable[[AutoPeri], AutoPeri], dict[str, Any]]]:
    """Name to the model that is asked, and options of the evaluation."""

    def itself(peri: AutoPeri) -> AutoPeri:
        return peri

    return {
        "as it is": (itself, {}),
        "prototypes are not refined by the flow": (lambda peri: peri.with_settings(near_steps=0), {}),
        "no orbits without a prototype": (lambda peri: peri.with_settings(orbits_novelty=0.0), {}),
        "no orbit network": (lambda peri: without(peri, "orbits"), {}),
        "ranked by formation energy instead of the potential": (lambda peri: FormationEnergyRanks(peri.bundle), {}),
        "not ranked: in order of probability": (itself, {"rank": "none"}),
        "no lattice relaxation": (itself, {"steps": 0}),
        "finished by 20 steps with the potential": (itself, {"finish": 20}),
        "no prior: orbits of the network, from noise": (lambda peri: NetworkAlone(peri.bundle), {}),
        "the space group is given": (itself, {"space_group": True}),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--only", nargs="+", help="beginnings of the names of rows")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    peri = AutoPeri.from_pretrained(args.model)
    head = {
        "task": "generate_ablation",
        "limit": args.limit,
        "settings": peri.bundle.metadata.get("settings"),
        **facts(args.table, peri.provenance(), 0),
    }
    old = json.loads(args.out.read_text()) if args.out.exists() else {}
    same = all(old.get(key) == head[key] for key in ("limit", "settings", "model_sha256"))
    found = old["rows"] if old and same else {}
    for name, (change, options) in rows().items():
        if name in found or (args.only and not name.startswith(tuple(args.only))):
            continue
        report = evaluate_csp(
            change(peri), args.table, limit=args.limit, seed=0, processes=1, progress=False, **options
        )
        found[name] = {key: report[key] for key in KEYS}
        ordered = {key: found[key] for key in rows() if key in found}  # in their order, whatever was run first
        args.out.write_text(json.dumps(head | {"rows": ordered}, indent=1) + "\n")
        print(name, found[name], flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
