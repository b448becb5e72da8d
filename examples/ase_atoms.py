"""Work in ASE: Atoms in, Atoms out."""

from ase.build import bulk
from ase.io import write

from autoperi import AutoPeri

peri = AutoPeri.from_pretrained()

atoms = bulk("NaCl", "rocksalt", a=6.1)
relaxed = peri.relax_lattice(atoms)
print(type(relaxed).__name__, atoms.get_volume(), "->", relaxed.get_volume(), "Å³")

print(peri.score([atoms, relaxed], properties=["distance", "formation_energy"]).to_string())

found = peri.generate("TiO2", n=3, space_group="P4_2/mnm", seed=0, as_ase=True)
for candidate in found:
    print(candidate, candidate.info["autoperi"]["space_group"])
write("TiO2.cif", found)
