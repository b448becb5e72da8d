"""Generate without a composition: from a chemical system, a size and a space group, leaving out elements you do not
want.
"""

from autoperi import AutoPeri

peri = AutoPeri.from_pretrained()

print("exactly Li, Fe and O, at most 16 atoms in the primitive cell")
for crystal in peri.generate(n=4, chemical_system="Li-Fe-O", num_atoms=(4, 16), seed=0):
    print(" ", crystal.composition.formula, crystal.properties["autoperi"]["space_group"])

print("cubic perovskites' space group, five atoms, nothing toxic or radioactive")
toxic = ["Be", "As", "Cd", "Hg", "Tl", "Pb", "Tc", "Po", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu"]
for crystal in peri.generate(n=4, space_group="Pm-3m", num_atoms=5, exclude_elements=toxic, seed=0):
    assert not {site.specie.symbol for site in crystal} & set(toxic)
    print(" ", crystal.composition.formula, crystal.properties["autoperi"]["space_group"])
