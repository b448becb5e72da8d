"""Assemble a bundled generator that a sampler runs, from its training run.

usage: python tools/build_sampler.py NAME RUN [--hardware TEXT]

NAME is a name of :data:`CARDS` and RUN the folder that ``autoperi train NAME --out RUN`` wrote. The history of the run
goes to ``benchmarks/training/NAME.json``; the card's figures come from benchmarks/results, so that the same command
writes them into the card after the model was measured. The weights, and the sha256 by which results name the model, do
not change by that.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from card_facts import TRAINING, WEIGHTS, Keys, measured, renew_record, told
from update_pretrained import update_registry

from autoperi.hub.bundle import Bundle, load_bundle, save_bundle
from autoperi.hub.card import model_card
from autoperi.registry import kind_named

HARDWARE = "two-core CPU (AMD EPYC, shared with other work), float32"
DATA = (
    "Materials Project crystals of `mp_train` (part of MP-20 training and validation, MPTS-52 validation and test, and "
    "smaller sets)"
)
SPLIT = (
    "Validated on mp_val (1,000 crystals of the MP-20 validation split), which decided the settings; figures on "
    "mp20_test (4,702 of the 9,046 official MP-20 test crystals, nearly all with at most three elements). No test "
    "crystal is in the training set by its id; mp_train before its last filter (28,645 crystals) had up to 97 crystals "
    "that match one by StructureMatcher(0.5, 0.3, 10), most of them loosely."
)
MATERIALS_PROJECT = "Jain et al., The Materials Project, APL Materials 1, 011002 (2013) (data)."


class Card(NamedTuple):
    """What the record of a run does not say of a model.

    Attributes:
        facts: sections of the card.
        training: entries of the summary of its training.
        commands: by which its figures were printed, by file of benchmarks/results.
        shown: the figures of each file.
    """

    facts: dict[str, Any]
    training: dict[str, str]
    commands: dict[str, str]
    shown: dict[str, Keys]


CARDS = {
    "gemsdiff": Card(
        facts={
            "description": "GemsDiff after Klipfel et al. (AAAI 2024): diffusion of whole crystals of a given "
            "composition, without templates.",
            "licence": "CC-BY-4.0",
            "licence_text": "Weights: CC-BY-4.0, learned from Materials Project data (CC-BY-4.0). Code: MIT.",
            "datasets": ["Materials Project"],
            "usage": "from autoperi import AutoPeri\n\n"
            'peri = AutoPeri.from_pretrained("gemsdiff")\n'
            'found = peri.generate("NaCl", n=3, seed=0)',
            "intended_use": [
                "Crystals of a given composition drawn from noise, as a published system beside the default model "
                "`autoperi-base`, which proposes better crystals for the same request.",
                "It holds one network: it predicts no energies, so it ranks nothing and relaxes nothing.",
            ],
            "data": f"The 19,284 {DATA} that have at most 20 atoms, in their Niggli cells.",
            "split": SPLIT,
            "limits": [
                "Not the published weights, nor the paper's data and budget: one short run on a CPU, with switches of "
                "our own (docs/gemsdiff.md says which and what each is worth).",
                "Cells do not diffuse: the network is asked for the cell anew at every step.",
                "Where several cells fit a composition, the predicted one lies between them; draws of one composition "
                "differ less than crystals do.",
                "Crystals have no symmetry of their own accord: nothing is symmetrised, so coordinates are near "
                "special positions, not on them.",
                "Trained on at most 20 atoms in the primitive cell; larger cells are drawn and seldom right.",
                "A space group, properties and examples cannot be asked for, and no composition is drawn: each is "
                "refused.",
            ],
            "citation": [
                "Klipfel, Fregier, Sayede, Bouraoui, Vector Field Oriented Diffusion Model for Crystal Material "
                "Generation, AAAI 2024.",
                MATERIALS_PROJECT,
            ],
        },
        training={
            "task": "cells and ways of atoms home, in units of the noise (weighted), to the nearest description; cells "
            "do not diffuse",
            "max_atoms": "20",
            "schedule": "the cosine was planned for 52 epochs, and for 44 from epoch 34 on",
            "optimizer": "Muon 3e-3 and AdamW for vectors and embeddings, weight decay 1e-3, cosine with warm-up, EMA "
            "0.995 (which is what ships)",
        },
        commands={
            "gemsdiff_mp20_test": "python benchmarks/gemsdiff/sample.py mp20_test.parquet --limit 2000 --frechet "
            "--steps 100 --threads 2",
            "gemsdiff_csp_mp20_test": "python benchmarks/gemsdiff/sample.py mp20_test.parquet --limit 1000 -k 20 "
            "--steps 20 --threads 1",
        },
        shown={
            "gemsdiff_mp20_test": {
                "runs.0.valid": "valid, 100 steps",
                "runs.0.density": "Wasserstein distance of densities, g/cm³",
                "runs.0.energy": "Wasserstein distance of predicted formation energies, eV/atom",
                "runs.0.match_rate.1": "match at 1, 100 steps",
                "runs.0.crystals_per_second": "crystals per second, 100 steps, two threads",
            },
            "gemsdiff_csp_mp20_test": {
                "runs.0.match_rate.1": "match at 1, 20 steps",
                "runs.0.match_rate.20": "match at 20, 20 steps",
                "runs.0.rmse": "RMSE of the first matches, in (V/N)^(1/3)",
            },
        },
    ),
    "score-langevin": Card(
        facts={
            "description": "Score-based Langevin dynamics after Sultanov et al. (2023): sites and cells under a space "
            "group, without templates.",
            "licence": "CC-BY-4.0",
            "licence_text": "Weights: CC-BY-4.0, learned from Materials Project data (CC-BY-4.0). Code: MIT.",
            "datasets": ["Materials Project"],
            "usage": "from autoperi import AutoPeri\n\n"
            'peri = AutoPeri.from_pretrained("score-langevin")\n'
            'found = peri.generate("TiO2", space_group=136, n=3, seed=0)',
            "intended_use": [
                "Crystals of a given space group, and a composition or sites, drawn from noise, as a published system "
                "beside the default model `autoperi-base`, which proposes better crystals for the same request.",
                "It holds one network: it predicts no energies, so it ranks nothing and relaxes nothing.",
            ],
            "data": f"The {DATA} that have at most 20 atoms, as sites of the space group that spglib finds.",
            "split": SPLIT,
            "limits": [
                "Not the published weights, nor the paper's data, network and budget: one short run on a CPU "
                "(docs/score_langevin.md says what differs).",
                "Shapes of cells of low symmetry are often wrong: the noise of positions hides them until late.",
                "Where only a composition is given, the space group is drawn by how often it occurs, whatever the "
                "elements are.",
                "Some draws have atoms too near each other or a higher symmetry than was asked for; `generate` draws "
                "again.",
                "Trained on at most 20 atoms in the primitive cell; larger cells are drawn and seldom right.",
                "Properties and examples cannot be asked for, and no composition is drawn: each is refused.",
            ],
            "citation": [
                "Sultanov, Crivello, Rebafka, Sokolovska, Data-Driven Score-Based Models for Generating Stable "
                "Structures with Adaptive Crystal Cells, J. Chem. Inf. Model. 63, 6986 (2023).",
                MATERIALS_PROJECT,
            ],
        },
        training={
            "task": "scores of positions at a fixed cell, and of cells with both perturbed, in units of the noise",
            "max_atoms": "20",
            "schedule": "the cosine was planned for 115 epochs, and for 90 from epoch 59 on",
            "optimizer": "Muon 3e-3 and AdamW for vectors and embeddings, weight decay 1e-3, cosine with warm-up, EMA "
            "0.999 (which is what ships)",
        },
        commands={
            "score_langevin_mp20_test": "python benchmarks/score_langevin/sample.py mp20_test.parquet --floor "
            "mp_train.parquet --threads 1",
            "score_langevin_known": "python benchmarks/score_langevin/known.py mp20_test.parquet --threads 1",
        },
        shown={
            "score_langevin_mp20_test": {
                "group.returned.cov_precision": "COV-P, composition and space group",
                "group.returned.cov_recall": "COV-R",
                "group.returned.frechet_crystalnn": "Fréchet distance, CrystalNN",
                "group.returned.frechet_cgcnn": "Fréchet distance, CGCNN",
                "group.returned.match_rate": "match at 1",
                "group.returned.group_kept": "space group kept (enforced)",
                "group.drawn.group_kept": "space group kept, as drawn",
                "group.drawn.valid": "valid, as drawn",
                "group.returned.crystals_per_second": "crystals per second, 100 steps, one thread",
            },
            "score_langevin_known": {
                "rediscovery.sites.found": "of 36 test crystals found in 50 draws, by sites and space group",
                "rediscovery.group.found": "by composition and space group",
            },
        },
    ),
    "pgcgm": Card(
        facts={
            "description": "PGCGM after Zhao et al. (npj Comput. Mater. 2023): a physics-guided GAN that makes "
            "crystals of two to four elements in one step, inside a space group.",
            "licence": "CC-BY-4.0",
            "licence_text": "Weights: CC-BY-4.0, learned from Materials Project, WBM, Alexandria, OQMD, AFLOW and "
            "JARVIS crystals. Code: MIT.",
            "datasets": ["Materials Project", "WBM", "LeMat-GenBench"],
            "usage": "from autoperi import AutoPeri\n\n"
            'peri = AutoPeri.from_pretrained("pgcgm")\n'
            'found = peri.generate(chemical_system="Sr-Ti-O", space_group=221, n=3, seed=0)',
            "intended_use": [
                "Many crystals of a chemical system and a space group, or of any, as candidates for a search, and as "
                "the GAN beside the other generators. For a composition, take the default model `autoperi-base`.",
                "It holds one network: it predicts no energies, so it ranks nothing and relaxes nothing.",
            ],
            "data": "The crystals of `mp_train`, `wbm_sample` and `extra_crystals` with two to four elements, one "
            "orbit each, and at most 40 atoms, in the 93 space groups that have ten or more "
            "(`benchmarks/pgcgm/data.py`).",
            "split": "Validated on mp_val (993 crystals of the MP-20 validation split), which decided the settings; "
            "figures on mp20_test (4,702 of the 9,046 official MP-20 test crystals, nearly all with at most three "
            "elements). No test crystal, nor one that matches it by StructureMatcher(0.5, 0.3, 10), is in the training "
            "table.",
            "limits": [
                "Not the published weights, nor the paper's data: a network of our own inside the paper's branches, "
                "with switches that the paper does not have (docs/pgcgm.md says which and what each is worth).",
                "One orbit an element: no crystal in which an element takes two places.",
                "The composition is what comes out; it cannot be asked for. Of crystals as drawn, about as many are "
                "charge-neutral as in the training data, which hold many alloys.",
                "For given elements and group it says nearly the same each time, and not always what a chemist would: "
                "Sr, Ti and O in Pm-3m come as Sr3Ti8O.",
                "Lengths of cells are wrong by a tenth or more in many crystals; relax them.",
                "Elements are drawn slot by slot from crystals of the group: plausible, not known to be stable.",
                "A composition, sites, steps, properties and examples cannot be asked for: each is refused.",
            ],
            "citation": [
                "Zhao, Siriwardane, Wu, Fu, Al-Fahdi, Hu, Hu, Physics guided deep learning for generative design of "
                "crystal materials with symmetry constraints, npj Comput. Mater. 9, 38 (2023).",
                MATERIALS_PROJECT,
                "Wang, Botti, Marques, Predicting stable crystalline compounds using chemical similarity, npj Comput. "
                "Mater. 7, 12 (2021) (data: WBM).",
            ],
        },
        training={
            "task": "Wasserstein GAN with gradient penalty, two batches of the discriminator for each of the "
            "generator, and the loss of distances",
            "max_atoms": "40",
            "rows": "a crystal counts 32 times, with other base sites each",
            "optimizer": "AdamW with momenta 0.5 and 0.9, cosine with warm-up, EMA 0.999 (which is what ships)",
        },
        commands={
            "pgcgm_mp20_test": "python benchmarks/pgcgm/sample.py mp20_test.parquet --floor TRAIN.parquet --threads 2",
            "pgcgm_relaxed": "python benchmarks/pgcgm/relax.py --threads 2",
        },
        shown={
            "pgcgm_mp20_test": {
                "readable": "draws whose group survives and whose CIF pymatgen reads",
                "returned": "draws that `generate` returns",
                "table_1.distance": "of the readable, no two atoms within 0.5 Å",
                "table_1.neutral": "of the readable, charge-neutral by pymatgen's guess",
                "table_1.wasserstein.min_distance": "Wasserstein distance of shortest distances, Å",
                "table_1.wasserstein.max_distance": "of longest distances, Å",
                "table_1.wasserstein.density": "of densities, g/cm³",
                "table_1.diversity": "different compositions",
                "raw_per_second": "draws per second: elements, base sites, cells",
                "merged_per_second": "draws per second, from base sites to merged crystals",
                "checked_per_second": "returned crystals per second, merged and checked",
            },
            "pgcgm_relaxed": {
                "match_rate": "match what they relax to (ltol 0.2, stol 0.2, 0.5°)",
                "rms": "RMS of those",
            },
        },
    ),
}


def main() -> int:
    """Assemble, write the card, write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", choices=sorted(CARDS))
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--hardware", default=HARDWARE, help="what the run ran on")
    args = parser.parse_args()
    card, kind = CARDS[args.name], kind_named(args.name)
    trained = load_bundle(args.run / "model")
    checkpoints = args.run / "checkpoints"
    summary = card.training | {"hardware": args.hardware} | summary_of(checkpoints, trained.metadata["training"])
    record = renew_record(TRAINING / f"{kind.name}.json", checkpoints, **summary)
    metadata = {key: card.facts[key] for key in ("licence", "description")} | {"pipeline": kind.pipeline}
    # figures go into the card alone: the sha256 of config.json names the model, and measuring it must not change its
    # name
    facts = card.facts | {"name": args.name, "training": told(record), "metrics": measured(card.commands, card.shown)}
    bundle = Bundle(args.name, {kind.name: trained.components[kind.name]}, metadata, card=model_card(facts))
    save_bundle(bundle, WEIGHTS / args.name)
    update_registry()
    return 0


def summary_of(checkpoints: Path, said: str) -> dict[str, Any]:
    """What a run says of itself.

    Args:
        checkpoints: with ``training.json`` and ``history.jsonl``.
        said: the line of the model's card on its training, which ends with the command.
    """
    settings = json.loads((checkpoints / "training.json").read_text())
    history = [json.loads(line) for line in (checkpoints / "history.jsonl").read_text().splitlines()]
    last = history[-1]
    # a run that was resumed begins to count anew
    parts = [
        row["seconds"] / 60
        for row, after in zip(history, [*history[1:], None], strict=True)
        if after is None or after["seconds"] < row["seconds"]
    ]
    resumed = f" ({' + '.join(f'{part:.0f}' for part in parts)})" if len(parts) > 1 else ""
    crystals, threads = (re.search(rf"(\d+) {word}", said) for word in ("crystals", "threads"))
    command = re.search(r"`(autoperi train .*)`", said)
    if crystals is None or threads is None or command is None:
        raise SystemExit(f"{said!r} does not say crystals, threads and the command")
    if last["epoch"] + 1 != settings["epochs"]:
        raise SystemExit(f"{checkpoints} ends after {last['epoch'] + 1} of {settings['epochs']} epochs; resume it")
    return {
        "crystals": int(crystals[1]),
        "epochs": settings["epochs"],
        "steps": last["step"],
        "time": f"{sum(parts):.0f} min{resumed}, threads: {threads[1]}",
        "batch_size": settings["batch_size"],
        "seed": settings["seed"],
        "val_loss": round(last["val_loss"], 4),
        "command": command[1],
    }


if __name__ == "__main__":
    raise SystemExit(main())
