"""Relax the lattice of a crystal whose cell is wrong, and keep its space group."""

from pymatgen.core import Lattice, Structure

from autoperi import AutoPeri

peri = AutoPeri.from_pretrained()

# rock salt with a lattice constant that is 8 % too large
start = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64 * 1.08), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
relaxed = peri.relax_lattice(start, fix_symmetry=True)

note = relaxed.properties["autoperi"]["relaxation"]
print(f"a: {start.lattice.a:.3f} Å -> {relaxed.lattice.a:.3f} Å")
print(f"status {note['status']} after {note['passes']} passes; volume changed by a factor {note['volume_ratio']}")
print("space group", start.get_space_group_info()[1], "->", relaxed.get_space_group_info()[1])

# several at once, in the container you gave
both = peri.relax_lattice([start, start * (2, 1, 1)])
print([len(s) for s in both], "atoms")
