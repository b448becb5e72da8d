"""Score crystals: one pandas row each, with energies above the hull of references that you choose."""

from autoperi import AutoPeri

peri = AutoPeri.from_pretrained()

# references on the same scale as the prediction: the best predicted crystal of each neighbouring phase
phases = {formula: peri.generate(formula, n=3, seed=0) for formula in ("Li2O", "Fe2O3")}
references = {
    formula: peri.score(found, properties=["formation_energy"]).iloc[:, 0].min() for formula, found in phases.items()
}

table = peri.score(peri.generate("LiFeO2", n=4, seed=0), references=references)
print(table[["formula", "n_atoms", "space_group_symbol", "valid", "reason"]].to_string())
print(
    table[["min_distance_ratio", "formation_energy_per_atom_eV", "energy_above_hull_eV", "log_likelihood"]].to_string()
)

table.to_csv("LiFeO2.csv", index=False)
