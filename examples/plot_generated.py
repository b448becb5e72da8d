"""Draw the five best crystals of a composition: python examples/plot_generated.py LiFePO4 LiFePO4.png"""

import sys
from itertools import combinations, product

import matplotlib.pyplot as plt
import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from ase.utils import rotate
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from autoperi import AutoPeri

composition, out = sys.argv[1:] or ("LiFePO4", "LiFePO4.png")
crystals = AutoPeri.from_pretrained().generate(composition, n=5, seed=0)
figure, axes = plt.subplots(1, 5, figsize=(16, 3.7))
corners, view = np.array(list(product((0, 1), repeat=3))), rotate("-80x,-14y,4z")
for place, (crystal, axis) in enumerate(zip(crystals, axes, strict=True), start=1):
    analysis = SpacegroupAnalyzer(crystal, symprec=0.01)
    cell = analysis.get_conventional_standard_structure()
    images = (cell.frac_coords % 1 + corners[:, None]).reshape(-1, 3)
    inside = (images < 1.001).all(1)  # atoms on a face are drawn on the opposite face too
    xyz, numbers = images[inside] @ cell.lattice.matrix @ view, np.tile(cell.atomic_numbers, 8)[inside]
    radii = covalent_radii[numbers]
    for a, b in combinations(range(8), 2):
        if abs(corners[a] - corners[b]).sum() == 1:
            axis.plot(*(corners[[a, b]] @ cell.lattice.matrix @ view)[:, :2].T, color="0.3", linewidth=0.8, zorder=-999)
    for a, b in combinations(range(len(xyz)), 2):
        if np.linalg.norm(xyz[a] - xyz[b]) < 1.12 * (radii[a] + radii[b]):
            axis.plot(*xyz[[a, b], :2].T, color="0.6", linewidth=2.2, zorder=min(xyz[a, 2], xyz[b, 2]) - 0.5)
    for z, radius, point in zip(numbers, radii, xyz, strict=True):
        axis.add_patch(plt.Circle(point[:2], radius / 2, facecolor=jmol_colors[z], edgecolor="0.2", zorder=point[2]))
    energy = crystal.properties["autoperi"]["formation_energy_per_atom_eV"]
    formula, symbol = crystal.composition.reduced_formula, analysis.get_space_group_symbol()
    axis.set_title(f"{place}. {formula}, {symbol}\n{energy:.2f} eV/atom (predicted)", fontsize=11)
    axis.set_aspect("equal")
    axis.set_axis_off()
figure.tight_layout()
figure.savefig(out, dpi=120)
