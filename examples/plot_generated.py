"""Draw the best generated crystals side by side: python examples/plot_generated.py LiFePO4 --out LiFePO4.png"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from ase.geometry import get_distances
from ase.utils import rotate
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from autoperi import AutoPeri

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("composition", nargs="?", default="LiFePO4")
parser.add_argument("-n", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="generated.png")
args = parser.parse_args()

corners = np.indices((2, 2, 2)).reshape(3, -1).T
figure, axes = plt.subplots(1, args.n, figsize=(3.2 * args.n, 3.6), squeeze=False)
for place, (crystal, axis) in enumerate(
    zip(AutoPeri.from_pretrained().generate(args.composition, n=args.n, seed=args.seed), axes[0], strict=True), 1
):
    cell = SpacegroupAnalyzer(crystal, symprec=0.01).get_conventional_standard_structure()
    images = (cell.frac_coords % 1 + corners[:, None]).reshape(-1, 3)  # atoms on a face are drawn on the opposite face too
    inside, view = (images < 1.001).all(1), rotate("-80x,-14y,4z")
    numbers = np.tile(cell.atomic_numbers, len(corners))[inside]
    xyz, edges = images[inside] @ cell.lattice.matrix @ view, corners @ cell.lattice.matrix @ view
    radii = covalent_radii[numbers]
    for a, b in zip(*np.nonzero(np.triu(get_distances(xyz)[1] < 1.12 * (radii[:, None] + radii), 1)), strict=True):
        axis.plot(*xyz[[a, b], :2].T, color="0.6", linewidth=2.2, zorder=2 * min(xyz[a, 2], xyz[b, 2]) - 1)
    for a, b in [(a, b) for a in range(8) for b in range(a) if abs(corners[a] - corners[b]).sum() == 1]:
        axis.plot(*edges[[a, b], :2].T, color="0.3", linewidth=0.8, zorder=-1000)
    for z, point in zip(numbers, xyz, strict=True):
        axis.add_patch(
            plt.Circle(point[:2], 0.5 * covalent_radii[z], facecolor=jmol_colors[z], edgecolor="0.2", linewidth=0.6, zorder=2 * point[2])
        )
    note, symbol = crystal.properties["autoperi"], crystal.get_space_group_info()[0]
    axis.set_title(
        f"{place}. {crystal.composition.reduced_formula}  {symbol}\n{note['formation_energy_per_atom_eV']:.2f} eV/atom predicted",
        fontsize=11,
    )
    axis.set(aspect="equal")
    axis.set_axis_off()
figure.tight_layout()
figure.savefig(args.out, dpi=120)
