"""Assemble the bundled model from trained parts and measured figures.

usage: python tools/build_autoperi_base.py --prior DIR --empnn DIR --formation-energy DIR [--properties DIR]
[--potential RUN]

Each DIR is a model directory (``OUT/model`` of ``autoperi train``, ``--component`` of benchmarks/empnn/calibrate.py, or
a bundled model, to keep its component) or a run directory with ``last.ckpt``; ``--prior`` takes also a pair
LIBRARY.safetensors RANKER.safetensors. Settings come from benchmarks/results/choose_ranking_mp_val.json; the card's
figures from the other files of benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from card_facts import TRAINING, WEIGHTS, measured, told
from safetensors.torch import load_file
from update_pretrained import update_registry

from autoperi.hub.bundle import Bundle, Component, load_bundle, save_bundle
from autoperi.hub.card import model_card
from autoperi.hub.networks import network_component
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.models.empnn import Empnn
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.orbit_network import OrbitNetwork
from autoperi.models.potential import Potential
from autoperi.prior.component import prior_component
from autoperi.prior.library import FIELDS, OPTIONAL_FIELDS, PrototypeLibrary
from autoperi.prior.ranker import Ranker
from autoperi.training.checkpoint import SafetensorsCheckpointIO

TARGET = WEIGHTS / "autoperi-base"

SETTINGS = {
    "generate_steps": 1,
    "relax_steps": 4,
    "energy_temperature": 0.5,
    "potential_temperature": 0.03,
    "known_weight": 0.25,
    "orbits_share": 0.4,
    "orbits_novelty": 0.01,
    "near_steps": 2,
    "noise_steps": 6,
    "noise_draws": 2,
    "denovo_temperature": 0.2,
    "denovo_known": 0.0,
    "anneal": 5.0,
    "pool_least": 10,
    "pool_share": 1.0,
}

FACTS: dict[str, Any] = {
    "description": "The default model of AutoPeri for inorganic crystals: a prototype prior, AutoPeri-GNN (orbit "
    "network and flow), an EMPNN "
    "lattice relaxer, formation energy and other properties with their uncertainty, and a potential.",
    "licence": "CC-BY-4.0",
    "licence_text": "Weights: CC-BY-4.0, learned from Materials Project data (CC-BY-4.0). Code: MIT.",
    "datasets": ["Materials Project", "Perov-5", "Carbon-24"],
    "intended_use": [
        "Candidate crystals of a composition, ranked; lattices of guessed crystals; a first formation energy.",
        "Not a replacement for a DFT relaxation: positions are those that a flow learned, and energies carry the "
        "error stated below.",
    ],
    "data": (
        "28,645 Materials Project crystals of up to 60 atoms (part of MP-20 training and validation, MPTS-52 "
        "validation and test, and smaller sets). The prior is learned from all of them, the formation energy from the "
        "26,462 with at most 40 atoms, the lattice relaxer from the 19,381 with at most 20, 4,000 perovskites of "
        "Perov-5 and 6,011 crystals of Carbon-24. Formation energies joined from another Materials Project release "
        "(19 %) weigh 0.3. The prior holds no ids; of each crystal it keeps which elements filled the slots of its "
        "prototype, the logarithm of its volume over the additive one, and whether it is of MP-20 (8,747 are, which "
        "draws without a composition follow); a prototype with one member keeps the shape and free coordinates of "
        "that structure type, rounded to 1e-4. Property heads: band gaps of the same crystals, moduli of 3,294 "
        "crystals and phonon peaks of 1,004, by a split of ids. Orbit network: all 28,645. Flow: the 21,565 with at "
        "most 24 atoms in the primitive cell. The potential: 40,630 perturbed crystals (from the training crystals of "
        "up to 20 atoms, and from candidates of the prior) labelled by CHGNet 0.3.0, and 1,100 PBE frames (mlearn, "
        "SNAP training sets), their energies shifted by one constant an element. CHGNet itself learned from MPtrj, "
        "relaxations of nearly all Materials Project crystals, those of mp20_test among them; it was asked about "
        "perturbed training crystals and candidates of the prior only. AutoPeri-GNN's flow was trained without its "
        "energy, symmetry, reconstruction and adversarial losses."
    ),
    "split": (
        "Choices on mp_val (1,000 crystals of the MP-20 validation split); figures on mp20_test (4,702 of the 9,046 "
        "official MP-20 test crystals, nearly all with at most three elements). No test crystal is in the training set "
        "by its id; up to 97 of the 28,645 training crystals match one by StructureMatcher(0.5, 0.3, 10), most of them "
        "loosely, and have left the table since. The training set holds crystals of the test splits of MPTS-52 and "
        "MP-40: do not measure this model there."
    ),
    "citation": [
        "Klipfel et al., Equivariant Message Passing Neural Network for Crystal Material Discovery, AAAI 2023 (the "
        "lattice relaxer).",
        "Lipman et al., Flow Matching for Generative Modeling, ICLR 2023; Chen and Lipman, Flow Matching on General "
        "Geometries, ICLR 2024 (the flow).",
        "Jain et al., The Materials Project, APL Materials 1, 011002 (2013) (data).",
        "MP-20: Xie et al., CDVAE, ICLR 2022. MPTS-52: Baird et al. 2022.",
        "CHGNet and MPtrj: Deng et al., Nat. Mach. Intell. 5, 1031 (2023) (teacher of the potential).",
        "Perov-5: Castelli et al., Energy Environ. Sci. 5, 5814 and 9034 (2012). Carbon-24: Pickard, AIRSS data for "
        "carbon at 10 GPa (2020), CC-BY-4.0.",
    ],
    "limits": [
        "Structure types: mostly those seen among the training crystals; orbits that none of them has (`origin: "
        "orbits`) get three in five of their geometries right. Where nothing fits the counts and space group, "
        "crystals with random orbits and coordinates are given and marked `random`; they are seldom good.",
        "Free coordinates are those of a flow learned from relaxed crystals; forces are followed on request alone "
        "(`finish`).",
        "The lattice relaxer gives cells as PBE has them at 0 K, and carbon's as at 10 GPa; it leaves a cell where it "
        "is that differs by less than it can know.",
        "Elements are poorly predicted (diamond silicon 0.17, copper 0.10 eV/atom instead of 0), and the composition "
        "alone explains most of the formation energy.",
        "Match at 1 was to be 76 % and is 75.6 % (standard error 0.6); match at 20 was to be 94 % and is 91.7 %, "
        "where nearest-template lookup reaches 91.2 % (on 1,000 of the rows).",
        "Formation energies are of PBE(+U) as Materials Project corrects it, trained on relaxed crystals; for "
        "strained or wrong crystals they are too low.",
        "The probabilities answer 'which crystal not yet known'; crystals known at exactly the composition are given "
        "a quarter of the probability (`known_weight`).",
        "Property heads stand on an encoder that has seen most of the elastic test crystals, with another label.",
        "log_likelihood is no likelihood of a crystal: a probability of structure types in the provenance, a density "
        "of free parameters given the orbits in AutoPeri.log_likelihood.",
        "Uncertainties are calibrated on validation crystals so that two standard deviations hold 95 %; tails are "
        "heavy, and some wide-gap oxides are called metals (rutile TiO2).",
        "The potential learned from CHGNet 0.3.0 and is 108 meV/A from its forces on held-out perturbed crystals "
        "(aimed at: 80; zero forces: 623). On crystals as they are it is 38 meV/A off, where zero forces would be 30. "
        "Confirm what matters with DFT or a larger potential.",
        "Formation energies of hypothetical crystals are too low: against DFT energies of 1,000 WBM crystals the error "
        "is 0.145 and the bias -0.122 eV/atom. Energies above a hull of generated crystals are no measurement of "
        "stability.",
        "Without a composition, validity by SMACT, uniqueness and novelty are enforced by refusals, and no structure "
        "type is new.",
        "No magnetism, no disorder, no molecules, no surfaces in generation.",
    ],
}

COMMANDS = {
    "csp_mp20_test": "autoperi evaluate csp --data mp20_test.parquet -k 20 --seed 0 --json",
    "csp_mp20_test_1000": "autoperi evaluate csp --data mp20_test.parquet --limit 1000 -k 20 --seed 0 --json",
    "csp_mp20_test_1000_space_group": "autoperi evaluate csp --data mp20_test.parquet --limit 1000 -k 20 --seed 0 "
    "--space-group --json",
    "denoise_mp20_test": "autoperi evaluate denoise --data mp20_test.parquet --sigma 0.1 --seed 0 --json",
    "properties_mp20_test": "autoperi evaluate properties --data mp20_test.parquet --baselines-from mp_train.parquet "
    "--json",
    "properties_band_gap_mp20_test": "autoperi evaluate properties --data mp20_test.parquet --property band_gap "
    "--baselines-from mp_train.parquet --json",
    "properties_k_vrh_mp_elastic_test": "autoperi evaluate properties --data mp_elastic.parquet --property k_vrh "
    "--split test --baselines-from mp_elastic.parquet --json",
    "properties_g_vrh_mp_elastic_test": "autoperi evaluate properties --data mp_elastic.parquet --property g_vrh "
    "--split test --baselines-from mp_elastic.parquet --json",
    "properties_last_phonon_peak_matbench_test": (
        "autoperi evaluate properties --data matbench_phonons.parquet --property last_phdos_peak_per_cm --split test "
        "--baselines-from matbench_phonons.parquet --json"
    ),
    "potential_teacher_mp_val": "python benchmarks/potential/evaluate.py",
}
SHOWN = {
    "csp_mp20_test": ("match_at_1", "match_at_5", "match_at_k", "rmse", "match_at_1_smact"),
    "csp_mp20_test_1000": ("match_at_1", "match_at_k", "rmse"),
    "csp_mp20_test_1000_space_group": ("match_at_1", "match_at_k", "rmse"),
    "denoise_mp20_test": ("length_error_removed", "angle_error_removed"),
    "properties_mp20_test": ("mae_eV_per_atom", "composition_only_mae_eV", "mean_predictor_mae_eV"),
    "properties_band_gap_mp20_test": ("mae_eV", "composition_only_mae_eV", "mean_predictor_mae_eV"),
    "properties_k_vrh_mp_elastic_test": ("mae_GPa", "mae_log10_GPa", "composition_only_mae_log10_GPa"),
    "properties_g_vrh_mp_elastic_test": ("mae_GPa", "mae_log10_GPa", "composition_only_mae_log10_GPa"),
    "properties_last_phonon_peak_matbench_test": ("mae_per_cm", "composition_only_mae_per_cm"),
    "potential_teacher_mp_val": ("energy_mae_meV_per_atom", "force_mae_meV_per_A", "stress_mae_GPa"),
}


def main() -> int:
    """Assemble, write the card, write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", nargs="+", required=True, type=Path)
    parser.add_argument("--empnn", required=True, type=Path)
    parser.add_argument("--formation-energy", required=True, type=Path)
    parser.add_argument(
        "--properties", type=Path, help="property heads of this encoder (OUT/component of train_property_heads.py)"
    )
    parser.add_argument("--potential", type=Path, help="run of benchmarks/potential/train.py")
    parser.add_argument("--flow", type=Path, help="run of benchmarks/autoperi_gnn/train.py")
    parser.add_argument("--orbits", type=Path, help="run of benchmarks/autoperi_gnn/orbits.py")
    args = parser.parse_args()
    names = [
        "empnn",
        "formation_energy",
        "prior",
        *(name for name in ("potential", "flow", "orbits") if getattr(args, name)),
    ]
    runs = {name: json.loads((TRAINING / f"{name}.json").read_text()) for name in names}
    components = {
        "empnn": _network(args.empnn, "empnn", Empnn),
        "formation_energy": _network(args.formation_energy, "formation_energy", FormationEnergy),
        "prior": _prior(args.prior),
    }
    if args.properties:
        components["properties"] = load_bundle(args.properties).components["properties"]
    if args.potential:
        potential = Potential()
        potential.load_state_dict(load_file(args.potential / "potential.safetensors"))
        components["potential"] = network_component(potential.eval())
    for name, kind in (("flow", AutoPeriGnn), ("orbits", OrbitNetwork)):
        if getattr(args, name):
            components[name] = _network(getattr(args, name), name, kind)
    # Figures go into the card alone: the sha256 of config.json names the model, and measuring it must not change its
    # name.
    training = {n: told(run["summary"]) for n, run in runs.items()}
    if args.properties:
        training["properties"] = (
            "ensembles on the frozen encoder of formation_energy; `python benchmarks/train_property_heads.py DATA`, 9 "
            "min, one thread"
        )
    facts = FACTS | {"name": "autoperi-base", "training": training, "metrics": measured(COMMANDS, SHOWN)}
    metadata = {"licence": FACTS["licence"], "description": FACTS["description"], "settings": SETTINGS}
    save_bundle(Bundle(name="autoperi-base", components=components, metadata=metadata, card=model_card(facts)), TARGET)
    update_registry()
    return 0


def _network(path: Path, name: str, kind: type) -> Component:
    if (path / "config.json").exists():
        return load_bundle(path).components[name]
    state = SafetensorsCheckpointIO().load_checkpoint(path / "last.ckpt")["state_dict"]
    config = json.loads((path / "training.json").read_text())["model_config"]
    network = kind(**config)
    network.load_state_dict(
        {k.removeprefix("average.module."): v for k, v in state.items() if k.startswith("average.module.")}
    )
    return network_component(network.eval())


def _prior(paths: list[Path]) -> Component:
    if len(paths) == 1:
        return load_bundle(paths[0]).components["prior"]
    tensors, ranker = load_file(paths[0]), Ranker()
    ranker.load_state_dict(load_file(paths[1]))
    return prior_component(
        PrototypeLibrary({k: tensors[k] for k in (*FIELDS, *OPTIONAL_FIELDS) if k in tensors}), ranker
    )


if __name__ == "__main__":
    raise SystemExit(main())
