"""Text formats of crystals: CIF, POSCAR, extended XYZ and pymatgen JSON, each a reader and a writer of text.

:mod:`autoperi.data.io` opens the files, chooses the format and explains what goes wrong.
"""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.data.files import plain
from autoperi.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure


def crystal_filename(structure: Structure, index: int) -> str:
    """A file name such as ``001_LiFePO4.cif`` with nothing in it but letters, digits, points and one underscore."""
    # "Li1 Fe1 P1 O4", most metallic first
    formula = structure.composition.element_composition.reduced_composition.formula
    formula = re.sub(r"(?<=[A-Za-z])1(?= |$)| ", "", formula)
    return f"{index:03d}_{re.sub(r'[^A-Za-z0-9.]', '', formula)[:100]}.cif"


# ---- CIF and POSCAR


def read_cif(text: str, limit: int | None) -> list[Structure]:
    """Every block of a CIF as a structure."""
    from pymatgen.io.cif import CifBlock, CifParser

    structures: list[Structure] = []
    # Block by block: the parser keeps only the last of several blocks of one name.
    for part in re.split(r"^\s*data_", f"\n{text}", flags=re.MULTILINE)[1:]:
        if (limit is not None and len(structures) >= limit) or "_atom_site_fract_x" not in part:
            continue
        block = CifBlock.from_str(f"data_{part}").data
        operations: Any = next(
            (v for k, v in block.items() if k.lower().endswith(("equiv_pos_as_xyz", "symop_operation_xyz"))), []
        )
        # Coordinates near 1/3 and 2/3 are rounded to them so that symmetry finds its images; a listing of all atoms is
        # taken as it is.
        tolerance = 0.0 if isinstance(operations, str) or len(operations) == 1 else 1e-4
        structures += CifParser.from_str(f"data_{part}", frac_tolerance=tolerance).parse_structures(
            primitive=False, on_error="raise"
        )
    if not structures:
        raise DataError("no CIF block with atoms in it; give cell, symmetry and _atom_site_fract_x, y, z")
    return structures


def cif_text(structures: list[Structure]) -> str:
    """A CIF with one block a structure."""
    from pymatgen.io.cif import CifWriter

    blocks = []
    for i, structure in enumerate(structures, start=1):
        if len(set(structure.labels)) < len(structure):  # CIF wants them unique; without any, the writer numbers them
            structure = structure.copy()
            for site in structure:
                site.label = None
        (block,) = CifWriter(structure).cif_file.data.values()
        block.header = crystal_filename(structure, i)[: -len(".cif")]
        blocks.append(f"{block}\n")
    return "\n".join(blocks)


def read_poscar(text: str, _: int | None) -> list[Structure]:
    """The one crystal of a POSCAR, in a list."""
    import warnings

    from pymatgen.io.vasp.inputs import BadPoscarWarning, Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadPoscarWarning)
        poscar = Poscar.from_str(text)
    if not poscar.true_names:
        raise DataError("the file names no elements (VASP 4 format); add their symbols as the sixth line")
    return [poscar.structure]


def poscar_text(structures: list[Structure]) -> str:
    """A POSCAR of one structure."""
    from pymatgen.io.vasp.inputs import Poscar

    from autoperi.data.convert import arrays_to_structures, to_arrays

    lattice, coords, numbers = to_arrays(structures[0], name="the structure")
    # VASP refuses left-handed cells. Two axes in the other order are the same crystal; pymatgen's own way out, which
    # turns the axes round, is its mirror image.
    if np.linalg.det(lattice) < 0:
        lattice, coords = lattice[[0, 2, 1]], coords[:, [0, 2, 1]]
    (structure,) = arrays_to_structures([(lattice, coords, numbers)])
    mobile = structures[0].site_properties.get("selective_dynamics")
    poscar = Poscar(
        structure,
        comment=structures[0].composition.reduced_formula,
        selective_dynamics=None if mobile is None or mobile[0] is None else mobile,
    )
    return poscar.get_str(significant_figures=16)


# ---- extended XYZ and JSON


def read_extxyz(text: str, limit: int | None) -> list[Structure]:
    """Every frame of an extended XYZ file."""

    import ase.io

    from autoperi.data.convert import atoms_to_structure

    structures = []
    for i, atoms in enumerate(ase.io.read(StringIO(text), index=slice(limit), format="extxyz")):
        # ASE hands energies, forces and the like to a calculator; here they are labels again.
        for key, value in (atoms.calc.results if atoms.calc is not None else {}).items():
            if np.ndim(value) and len(value) == len(atoms) and key != "stress":
                atoms.set_array(key, np.asarray(value))
            else:
                atoms.info[key] = value
        rest = atoms.info.pop(_REST, {})
        structure = atoms_to_structure(atoms, name=f"frame {i}")
        structure.properties = {
            k: v.item() if isinstance(v, np.generic) else v for k, v in structure.properties.items()
        }
        structure.properties.update(rest.get("properties", {}))
        for key, values in rest.get("site_properties", {}).items():
            structure.add_site_property(key, values)
        structures.append(structure)
    return structures


_REST = "autoperi_rest"
"""Key for what the comment line and the columns of extended XYZ cannot hold, as JSON."""


def extxyz_text(structures: list[Structure]) -> str:
    """Extended XYZ with one frame a structure."""

    import ase.io

    from autoperi.data.convert import structure_to_atoms, to_arrays

    images = []
    for i, structure in enumerate(structures):
        to_arrays(structure, name=f"crystal {i}")
        atoms = structure_to_atoms(structure)
        info, rest = {k: v for k, v in atoms.info.items() if _fits_comment(k, v)}, {}
        native = {"autoperi": atoms.info["autoperi"]} if isinstance(atoms.info.get("autoperi"), dict) else {}
        if left := {k: plain(v) for k, v in atoms.info.items() if k not in info and k not in native}:
            rest["properties"] = left
        if left := {k: plain(atoms.arrays.pop(k)) for k, a in list(atoms.arrays.items()) if not _fits_column(k, a)}:
            rest["site_properties"] = left
        for key, value in {**native, **({_REST: rest} if rest else {})}.items():
            # the writer quotes, the reader takes one level of backslashes away
            info[key] = "_JSON " + json.dumps(plain(value)).replace("\\", "\\\\")
        atoms.info = info
        images.append(atoms)
    buffer = StringIO()
    ase.io.write(buffer, images, format="extxyz")
    return buffer.getvalue()


def _fits_comment(key: object, value: Any) -> bool:
    """Whether the comment line of extended XYZ gives ``value`` back as it is."""
    from ase.calculators.calculator import all_properties

    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z]\w*", key) or key in ("autoperi", _REST):
        return False
    if key.lower() in ("lattice", "pbc", "properties", "uid", "virial", "stress"):
        return key == "stress" and isinstance(value, np.ndarray) and value.shape == (6,)
    if key in all_properties and key not in ("energy", "free_energy", "magmom"):
        return False  # ASE's reader makes an array of floats of it, or fails where it is text
    if isinstance(value, str):  # a word that is neither a number nor a truth value
        return bool(re.fullmatch(r"[A-Za-z][\w./+-]*", value)) and not re.fullmatch(
            r"(?i)t|f|true|false|nan|inf|infinity", value
        )
    return isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)) and -(2**53) < float(value) < 2**53


def _fits_column(key: str, array: NDArray[Any]) -> bool:
    """Whether a column of extended XYZ gives the array back (numbers to eight digits after the point)."""
    if key in ("numbers", "positions"):
        return True
    named = re.fullmatch(r"[A-Za-z]\w*", key) is not None and key not in (
        "species",
        "pos",
        "Z",
        "charge",
        "symbols",
        "move_mask",
    )
    shaped = array.ndim == 1 or (array.ndim == 2 and array.shape[1] > 1)
    sized = array.dtype.kind != "i" or bool((np.abs(array) < 2**31).all())
    return named and shaped and sized and array.dtype.kind in "bif"


def read_json(text: str, limit: int | None) -> list[Structure]:
    """The structures of pymatgen JSON, one or a list."""
    from pymatgen.core import Structure

    content = json.loads(text)
    entries = content if isinstance(content, list) else [content]
    if not entries or not all(isinstance(e, dict) and {"lattice", "sites"} <= e.keys() for e in entries):
        raise DataError("this JSON is no pymatgen Structure and no list of them; write it with Structure.as_dict()")
    for entry in entries:
        refuse_foreign_classes(entry["sites"])
    return [Structure.from_dict(e) for e in entries[:limit]]


def refuse_foreign_classes(value: Any) -> None:
    """pymatgen imports whatever module a site property names; a file of crystals has no business naming others than its
    own.
    """
    if isinstance(value, dict):
        module = str(value.get("@module", "numpy"))
        if module.split(".")[0] not in ("numpy", "pymatgen") or "@callable" in value:
            raise DataError(
                f"a site property names the module {module!r}; only numpy and pymatgen objects are read from JSON"
            )
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        refuse_foreign_classes(item)


def json_text(structures: list[Structure]) -> str:
    """A JSON list of pymatgen dictionaries."""
    return json.dumps([plain(s.as_dict()) for s in structures])
