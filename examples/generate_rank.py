"""Generate crystals of one composition, see why they are ranked as they are, and write them as CIF files."""

from autoperi import AutoPeri
from autoperi.data.io import write_crystals

peri = AutoPeri.from_pretrained()
found = peri.generate("LiFePO4", n=5, seed=0)

for place, crystal in enumerate(found, start=1):
    note = crystal.properties["autoperi"]
    print(
        f"{place}. {crystal.composition.reduced_formula}, {len(crystal)} atoms, space group {note['space_group']}, "
        f"predicted formation energy {note['formation_energy_per_atom_eV']:.3f} eV/atom, "
        f"ln p {note['log_likelihood']}, from {note['origin']}"
    )

for path in write_crystals(found, "LiFePO4/"):
    print("wrote", path)

# the same request with the same seed gives the same crystals, also in another batch size
again = peri.generate("LiFePO4", n=5, seed=0, batch_size=1)
assert again == found
