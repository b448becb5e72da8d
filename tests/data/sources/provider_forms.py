"""Documents in the form in which each provider publishes them, of textbook crystals."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pymatgen.core import Lattice, Structure

if TYPE_CHECKING:
    from pathlib import Path

CATIONS = {"Li": 2.57, "Na": 2.82, "K": 3.15, "Rb": 3.29, "Mg": 2.11, "Ca": 2.41, "Sr": 2.58, "Ba": 2.77, "Mn": 2.22}
ANIONS = {"F": -0.5, "Cl": 0.0, "Br": 0.15, "I": 0.4, "O": 0.02, "S": 0.3, "Se": 0.42, "Te": 0.6, "N": 0.1}


FACES = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


@cache
def salts() -> list[Structure]:
    """81 rock salts in their conventional cells, none like another."""
    anions = [[(x + 0.5) % 1 for x in place] for place in FACES]
    return [
        Structure(Lattice.cubic(2 * (r + d)), [c] * 4 + [a] * 4, FACES + anions)
        for c, r in CATIONS.items()
        for a, d in ANIONS.items()
    ]


def primitive(k: int) -> Structure:
    """One of them in its primitive cell."""
    crystal, a = salts()[k], salts()[k].lattice.a / 2
    return Structure([[0, a, a], [a, 0, a], [a, a, 0]], [crystal[0].specie, crystal[4].specie], [[0] * 3, [0.5] * 3])


def summary(k: int, **changes: Any) -> dict[str, Any]:
    """A ``SummaryDoc`` of Materials Project, as its REST service sends it."""
    structure = primitive(k)
    return {
        "builder_meta": {"emmet_version": "0.86.3", "database_version": "2026.09.22", "license": "BY-C"},
        "nsites": len(structure),
        "elements": sorted(e.symbol for e in structure.composition),
        "formula_pretty": structure.composition.reduced_formula,
        "volume": structure.volume,
        "symmetry": {"crystal_system": "Cubic", "symbol": "Fm-3m", "number": 225, "point_group": "m-3m"},
        "material_id": f"mp-{1000 + k}",
        "deprecated": False,
        "deprecation_reasons": None,
        "last_updated": "2026-03-01T10:00:00",
        "structure": structure.as_dict(),
        "uncorrected_energy_per_atom": -3.0 - 0.01 * k,
        "energy_per_atom": -3.25 - 0.01 * k,
        "formation_energy_per_atom": -2.0 - 0.01 * k,
        "energy_above_hull": 0.0,
        "band_gap": 5.0 + 0.01 * k,
        "bulk_modulus": {"voigt": 24.1, "reuss": 24.0, "vrh": 24.05},
        "shear_modulus": None,
        "total_magnetization": 0.0,
        "theoretical": False,
        **changes,
    }


def oqmd(k: int, **changes: Any) -> dict[str, Any]:
    """An element of ``data`` of OQMD's ``formationenergy``."""
    structure = primitive(k)
    return {
        "name": structure.composition.reduced_formula,
        "entry_id": 2000 + k,
        "calculation_id": 90000 + k,
        "icsd_id": None,
        "formationenergy_id": 4000000 + k,
        "duplicate_entry_id": None,
        "composition": "".join(f"{e}{int(n)} " for e, n in structure.composition.items()).strip(),
        "composition_generic": "AB",
        "prototype": "NaCl",
        "spacegroup": "Fm-3m",
        "volume": structure.volume,
        "ntypes": 2,
        "natoms": len(structure),
        "unit_cell": structure.lattice.matrix.tolist(),
        "sites": [f"{s.species_string} @ {s.a:.6g} {s.b:.6g} {s.c:.6g}" for s in structure],
        "band_gap": 5.0,
        "delta_e": -1.9 - 0.01 * k,
        "stability": 0.0,
        "fit": "standard",
        "calculation_label": "static",
        **changes,
    }


def oqmd_answer(documents: list[dict[str, Any]], *, following: str | None = None, total: int = 0) -> dict[str, Any]:
    return {
        "links": {
            "next": following,
            "previous": None,
            "base_url": {"href": "http://oqmd.org/oqmdapi", "meta": {"_oqmd_version": "1.0"}},
        },
        "resource": {},
        "data": documents,
        "meta": {
            "query": {"representation": "/formationenergy?fields=name&filter=ntypes=2"},
            "api_version": "1.0",
            "time_stamp": "2026-10-08 15:13:12",
            "data_returned": len(documents),
            "data_available": total or len(documents),
            "comments": "",
            "query_tree": "",
            "more_data_available": following is not None,
        },
        "response_message": "OK",
    }


def optimade(k: int, *, species: list[dict[str, Any]] | None = None, **attributes: Any) -> dict[str, Any]:
    """A ``structures`` resource of OPTIMADE 1.2."""
    structure = primitive(k)
    symbols = [s.species_string for s in structure]
    own = [{"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in dict.fromkeys(symbols)]
    return {
        "type": "structures",
        "id": str(3000 + k),
        "attributes": {
            "immutable_id": f"exmpl-{k}",
            "last_modified": "2026-01-02T03:04:05Z",
            "lattice_vectors": structure.lattice.matrix.tolist(),
            "cartesian_site_positions": structure.cart_coords.tolist(),
            "species": species or own,
            "species_at_sites": [s["name"] for s in species] if species else symbols,
            "dimension_types": [1, 1, 1],
            "structure_features": [],
            "_exmpl_hull_distance": 0.01 * k,
            **attributes,
        },
        "relationships": {},
        "links": None,
    }


def optimade_answer(resources: list[dict[str, Any]], *, following: Any = None, total: int = 0) -> dict[str, Any]:
    return {
        "data": resources,
        "links": {"next": following, "base_url": None},
        "meta": {
            "query": {"representation": "/structures?filter=nelements=2"},
            "api_version": "1.2.0",
            "time_stamp": "2026-10-08T15:13:12Z",
            "data_returned": total or len(resources),
            "data_available": 100,
            "more_data_available": following is not None,
            "provider": {"name": "Example provider", "description": "For tests", "prefix": "exmpl"},
        },
    }


def computed_entry(k: int) -> dict[str, Any]:
    """A ``ComputedStructureEntry`` with an adjustment, as pymatgen writes it."""
    from pymatgen.entries.computed_entries import CompositionEnergyAdjustment, ComputedStructureEntry

    structure = primitive(k)
    adjustment = CompositionEnergyAdjustment(-0.687, 1, name="MP2020 anion correction (oxide)")
    return ComputedStructureEntry(
        structure,
        -11.5 - 0.01 * k,
        energy_adjustments=[adjustment],
        parameters={"run_type": "GGA"},
        data={"oxide_type": "oxide"},
        entry_id=f"mp-{1000 + k}-GGA",
    ).as_dict()


# ---- CIFs in the style of COD

HEAD = """#------------------------------------------------------------------------------
#$Date: 2024-11-11 11:11:11 +0200 (Mon, 11 Nov 2024) $
#$Revision: 290000 $
#$URL: file:///home/coder/svn-repositories/cod/cif/{short}/{number}.cif $
#------------------------------------------------------------------------------
#
# This file is available in the Crystallography Open Database (COD),
# http://www.crystallography.net/
#
# All data on this site have been placed in the public domain by the
# contributors.
#
data_{number}
loop_
_publ_author_name
'Wyckoff, R. W. G.'
_publ_section_title
;
 Second edition. Interscience Publishers, New York
;
_journal_name_full               'Crystal Structures'
_journal_page_first              85
_journal_volume                  1
_journal_year                    1963
_chemical_formula_sum            '{formula}'
_cod_original_sg_symbol_H-M      'P m -3 m'
_cod_database_code               {number}
{more}"""

SITES = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


CELL = """loop_
_symmetry_equiv_pos_as_xyz
{operations}
_cell_angle_alpha                90
_cell_angle_beta                 90
_cell_angle_gamma                90
_cell_formula_units_Z            1
_cell_length_a                   {a:.4f}(3)
_cell_length_b                   {a:.4f}(3)
_cell_length_c                   {a:.4f}(3)
_symmetry_space_group_name_H-M   'P m -3 m'
_symmetry_Int_Tables_number      221
"""


@cache
def operations() -> str:
    from pymatgen.symmetry.groups import SpaceGroup

    return "\n".join(sorted(op.as_xyz_str().replace(" ", "") for op in SpaceGroup("Pm-3m").symmetry_ops))


def cod_cif(k: int, number: int, *, formula: str | None = None, more: str = "", sites: str | None = None) -> str:
    """A CIF as COD gives it, of a salt in the structure of CsCl; ``sites`` instead of its own."""
    crystal = salts()[k]
    cation, anion = (e.symbol for e in sorted(crystal.composition, key=lambda e: e.X))
    own = f"{cation}1 {cation} 0 0 0 1\n{anion}1 {anion} 0.5 0.5 0.5 1\n"
    name = formula or crystal.composition.reduced_composition.hill_formula
    head = HEAD.format(short="9/00/85", number=number, formula=name, more=more + "\n" if more else "")
    cell = CELL.format(operations=operations(), a=0.58 * crystal.lattice.a)
    return head + cell + SITES + (own if sites is None else sites)


MIXED = "Na1 Na 0 0 0 0.5\nK1 K 0 0 0 0.5\nCl1 Cl 0.5 0.5 0.5 1\n"
HALF = "Na1 Na 0 0 0 0.75\nCl1 Cl 0.5 0.5 0.5 1\n"


def cod_folder(folder: Path) -> dict[str, str]:
    """100 CIFs, 80 of them sound; the reason of each of the 20 others by its file name."""
    folder.mkdir()
    for k in range(80):
        (folder / f"{9008000 + k}.cif").write_text(cod_cif(k, 9008000 + k), encoding="utf-8")
    bad: dict[str, tuple[str, str]] = {}
    for n in range(5):
        bad[f"disordered{n}"] = (cod_cif(9 + n, 9100000 + n, sites=MIXED, formula="Cl2 K Na"), "disordered")
    for n in range(4):
        bad[f"partial{n}"] = (cod_cif(10 + n, 9110000 + n, sites=HALF, formula="Cl4 Na3"), "partially occupied")
    sound = cod_cif(80, 9120000)
    bad |= {
        "no_sites": (sound[: sound.index("loop_\n_atom_site_label")], "broken"),
        "empty": ("", "broken"),
        "web_page": ("<html><body>404: no such file</body></html>", "broken"),
        "no_cell": (sound.replace("_cell_length_a", "_cell_length_q"), "broken"),
        "unknown_element": (cod_cif(80, 9120001, sites="Qq1 Qq 0 0 0 1\n", formula="Q"), "broken"),
        "not_a_number": (cod_cif(80, 9120002, sites="Na1 Na zero 0 0 1\n", formula="Na"), "broken"),
        "hydrogens": (cod_cif(4 * 9 + 4, 9120003, formula="H2 Mg O2"), "incomplete"),
        "ratio": (cod_cif(1, 9120004, formula="Cl2 Li"), "incomplete"),
        "withdrawn": (cod_cif(80, 9120005, more="_cod_error_flag retracted"), "retracted"),
        "again": (cod_cif(0, 9008000), "duplicate"),
        "copy": (cod_cif(1, 9120006), "duplicate"),
    }
    for name, (text, _) in bad.items():
        (folder / f"x_{name}.cif").write_text(text, encoding="utf-8")
    return {f"x_{name}": reason for name, (_, reason) in bad.items()}
