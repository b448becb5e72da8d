"""Every format gives back what it was given, and every failure is one line."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pymatgen.core import Element, Lattice, Species, Structure
from pymatgen.core.structure_matcher import StructureMatcher
from pymatgen.io.cif import CifWriter

from autoperi.data import io as autoperi_io
from autoperi.data.convert import structure_to_atoms, to_batch
from autoperi.data.files import write_atomically
from autoperi.data.formats import crystal_filename
from autoperi.data.io import CrystalTable, read_crystals, read_table, write_crystals
from autoperi.errors import DataError, StructureError

LAWS = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PROVENANCE = {
    "model": "autoperi-base",
    "seed": 2**40,
    "index": 3,
    "log_likelihood": -1.25e-3,
    "versions": {"torch": "2.4", "é Å": 'say "hi"\\n'},
    "nothing": None,
    "list": [1, 2.5, "x", [True]],
    "text": "a=b, {c} 'd'\nnext line",
}
NAMES = {
    "json": "x.json",
    "extxyz": "x.extxyz",
    "xyz": "x.xyz",
    "parquet": "x.parquet",
    "cif": "x.cif",
    "poscar": "x.vasp",
}
EXACT = ("json", "parquet")


@functools.cache
def expanded(*args: object) -> Structure:
    group, lattice, species, sites = args
    return Structure.from_spacegroup(group, Lattice.from_parameters(*lattice), species, sites)


def rock_salt() -> Structure:
    return expanded("Fm-3m", (5.64, 5.64, 5.64, 90, 90, 90), ("Na", "Cl"), ((0, 0, 0), (0.5, 0.5, 0.5))).copy()


def olivine() -> Structure:
    """LiFePO4, with 28 atoms whose CIF has fractional coordinates near 1/3 and 2/3."""
    sites = (
        (0, 0, 0),
        (0.282, 0.25, 0.975),
        (0.095, 0.25, 0.418),
        (0.097, 0.25, 0.743),
        (0.457, 0.25, 0.206),
        (0.166, 0.04667, 0.33337),
    )
    return expanded("Pnma", (10.33, 6.01, 4.69, 90, 90, 90), ("Li", "Fe", "P", "O", "O", "O"), sites).copy()


def some() -> list[Structure]:
    skewed = Structure(
        Lattice([[3, 0, 0], [9, 3, 0.5], [-5, 7, 4]]),
        ["U", "H", "Fe"],
        [[0, 0, 0], [-0.3, 1.2, 0.5], [0.33333, 0.6667, 0.1]],
    )
    one = Structure(Lattice.hexagonal(2.5, 4.1), ["Mg"], [[1 / 3, 2 / 3, 0.25]])
    return [rock_salt(), olivine(), skewed, one]


def same_crystal(a: Structure, b: Structure, atol: float) -> bool:
    """The same atoms in the same places, up to order, wrapping and orientation."""
    if a.composition != b.composition or not np.allclose(
        a.lattice.parameters, b.lattice.parameters, atol=10 * atol + 1e-12
    ):
        return False
    difference = a.frac_coords[:, None] - b.frac_coords[None]
    distance = np.abs(difference - np.round(difference)).max(-1)
    match = (distance < atol + 1e-14) & (np.array(a.atomic_numbers)[:, None] == np.array(b.atomic_numbers)[None])
    return bool((match.sum(0) == 1).all() and (match.sum(1) == 1).all())


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- round trips
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("i", range(4))
def test_each_format_gives_the_crystal_back(tmp_path, kind, i):
    old = some()[i]
    (path,) = write_crystals(old, tmp_path / "new" / "folder" / NAMES[kind])
    (new,) = read_crystals(path)
    assert same_crystal(old, new, 0 if kind in EXACT else 3e-8)
    if kind != "cif":  # which knows no orientation, and whose reader sorts by element
        assert np.allclose(old.lattice.matrix, new.lattice.matrix, rtol=0, atol=0 if kind in EXACT else 1e-14)
        assert [s.symbol for s in old.species] == [s.symbol for s in new.species]
        assert np.allclose(old.frac_coords, new.frac_coords, rtol=0, atol=0 if kind in EXACT else 3e-8)


@pytest.mark.parametrize("kind", [k for k in NAMES if k != "poscar"])
def test_many_crystals_keep_their_order(tmp_path, kind):
    old = [*some(), rock_salt()]  # twice the same formula
    new = read_crystals(*write_crystals(old, tmp_path / NAMES[kind]))
    assert len(new) == 5
    assert all(same_crystal(a, b, 3e-8) for a, b in zip(old, new, strict=True))
    first = read_crystals(tmp_path / NAMES[kind], limit=2)
    assert len(first) == 2
    assert all(same_crystal(a, b, 3e-8) for a, b in zip(old, first, strict=False))
    assert len(read_crystals(tmp_path / NAMES[kind], limit=99)) == 5


@pytest.mark.parametrize("kind", ["json", "extxyz", "parquet"])
def test_provenance_and_labels_survive(tmp_path, kind):
    old = some()
    for i, s in enumerate(old):
        s.properties = {
            "autoperi": {**PROVENANCE, "index": i},
            "id": f"mp-{i}",
            "energy": -1.5 * i,
            "stable": i == 0,
            "band_gap": 0.1,
        }
    del old[1].properties["band_gap"]
    new = read_crystals(*write_crystals(old, tmp_path / NAMES[kind]))
    assert [s.properties for s in new] == [s.properties for s in old]
    assert all(type(v) is type(old[0].properties[k]) for k, v in new[0].properties.items())


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", ["json", "extxyz"])
@settings(LAWS, max_examples=60)
@given(
    properties=st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["autoperi", "pbc", "stress", "uid", "energy", "magmom", "dipole"]),
        TREES,
        max_size=4,
    )
)
@example(properties={"dipole": "A"})
@example(properties={"dipole": 1.5, "charges": True, "energy": "low"})
def test_any_properties_survive(tmp_path, kind, properties):
    old = Structure(Lattice.cubic(3), ["H"], [[0, 0, 0]], properties=properties)
    (new,) = read_crystals(*write_crystals(old, tmp_path / NAMES[kind]))
    assert new.properties == properties


@pytest.mark.parametrize("kind", ["json", "extxyz"])
def test_site_properties_survive(tmp_path, kind):
    old = rock_salt()
    old.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    rng = np.random.default_rng(0)
    site_properties = {
        "magmom": rng.normal(size=8).tolist(),
        "charge": [1.0] * 4 + [-1.0] * 4,
        "forces": rng.normal(size=(8, 3)).tolist(),
        "my flags": [True, False] * 4,
        "flags": [True, False] * 4,
        "count": list(range(8)),
        "words": ["a b", "", "c"] + ["d"] * 5,
        "gaps": [None, 1, "x", [1, 2], {"k": 1}, 2.5, True, None],
        "selective_dynamics": [[True, True, False]] + [[True] * 3] * 6 + [[False] * 3],
    }
    for key, values in site_properties.items():
        old.add_site_property(key, values)
    (new,) = read_crystals(*write_crystals(old, tmp_path / NAMES[kind]))
    assert set(new.site_properties) == set(site_properties)
    for key, values in site_properties.items():
        found = new.site_properties[key]
        assert np.allclose(found, values, rtol=0, atol=1e-8) if key in ("magmom", "forces") else found == values, key
    assert new.species == old.species == [Species("Na", 1)] * 4 + [Species("Cl", -1)] * 4


@LAWS
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 7, 30]), st.sampled_from(list(NAMES)))
def test_random_cells_survive(tmp_path, seed, n, kind):
    rng = np.random.default_rng(seed)
    lattice = (np.diag(rng.uniform(3, 12, 3)) + np.triu(rng.uniform(-4, 4, (3, 3)), 1)) @ np.linalg.qr(
        rng.normal(size=(3, 3))
    )[0]
    numbers = [Element.from_Z(int(z)) for z in rng.integers(1, 119, n)]
    old = Structure(Lattice(lattice), numbers, rng.uniform(-1, 2, (n, 3)))
    (new,) = read_crystals(*write_crystals(old, tmp_path / NAMES[kind]))
    if kind == "poscar" and np.linalg.det(lattice) < 0:  # written as the same crystal in a right-handed cell
        assert np.linalg.det(new.lattice.matrix) > 0
        assert np.allclose(
            np.sort(np.round(old.distance_matrix, 6).ravel()),
            np.sort(np.round(new.distance_matrix, 6).ravel()),
            atol=3e-6,
        )
    else:
        assert same_crystal(old, new, 1e-7)


def test_atoms_are_written_like_structures(tmp_path):
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.64)
    atoms.info["autoperi"] = PROVENANCE
    for kind in ("json", "extxyz", "parquet"):
        (new,) = read_crystals(*write_crystals([atoms], tmp_path / NAMES[kind]))
        assert new.properties["autoperi"] == PROVENANCE
        assert np.allclose(new.cart_coords, atoms.positions, atol=1e-8)


def test_ase_reads_what_we_write_and_we_read_what_ase_writes(tmp_path):
    structure = rock_salt()
    structure.properties = {"autoperi": PROVENANCE, "energy": -3.5, "note": "plain"}
    write_crystals(structure, tmp_path / "ours.extxyz")
    atoms = ase.io.read(tmp_path / "ours.extxyz")
    assert atoms.info["autoperi"] == PROVENANCE
    assert atoms.info["note"] == "plain"
    assert atoms.get_potential_energy() == -3.5
    theirs = structure_to_atoms(rock_salt())
    theirs.info = {"energy": -3.5, "stress": np.arange(6.0), "run": 7}
    theirs.arrays["forces"] = np.ones((8, 3))
    ase.io.write(tmp_path / "theirs.extxyz", [theirs, theirs])
    first, second = read_crystals(tmp_path / "theirs.extxyz")
    assert first.properties["energy"] == -3.5
    assert first.properties["run"] == 7
    assert first.properties["stress"].tolist() == [0, 1, 2, 3, 4, 5]
    assert second.site_properties["forces"] == [[1.0, 1.0, 1.0]] * 8
    write_crystals(first, tmp_path / "again.extxyz")
    assert read_crystals(tmp_path / "again.extxyz")[0].properties["stress"].tolist() == [0, 1, 2, 3, 4, 5]


# ---- CIF and POSCAR
# ---------------------------------------------------------------------------------------------------------


def test_cif_with_symmetry_is_expanded_and_its_rounded_thirds_are_mended(tmp_path):
    hexagonal = Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(3.2, 5.2), ["Mg"], [[1 / 3, 2 / 3, 0.25]])
    text = str(CifWriter(hexagonal, symprec=1e-3, significant_figures=4))
    assert "0.3333 " in text
    (tmp_path / "mg.cif").write_text(text)
    (new,) = read_crystals(tmp_path / "mg.cif")
    assert len(new) == 2
    assert StructureMatcher().fit(hexagonal, new)
    assert same_crystal(hexagonal, new, 1e-6)


def test_blocks_of_the_same_name_and_blocks_without_atoms(tmp_path):
    block = str(CifWriter(rock_salt()))
    (tmp_path / "x.cif").write_text(f"data_global\n_journal_year 2020\n{block}\n{block}")
    assert len(read_crystals(tmp_path / "x.cif")) == 2


def test_disordered_crystals_are_read_but_not_batched(tmp_path):
    disordered = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Mn": 0.5}], [[0, 0, 0]])
    for name in ("x.cif", "x.json"):
        (new,) = read_crystals(*write_crystals(disordered, tmp_path / name))
        assert not new.is_ordered
        with pytest.raises(StructureError, match="disordered"):
            to_batch(new)
        with pytest.raises(DataError, match="crystal 0 is disordered"):
            read_table(tmp_path / name)
    for name in ("x.extxyz", "x.parquet", "POSCAR"):
        with pytest.raises(StructureError, match="disordered"):
            write_crystals([disordered], tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["POSCAR", "CONTCAR", "POSCAR_LiFePO4", "x.vasp", "poscar.VASP"])
def test_names_of_poscar(tmp_path, name):
    write_crystals(olivine(), tmp_path / name)
    assert (tmp_path / name).read_text().split("\n")[5].split() == ["Li", "Fe", "P", "O"]
    assert same_crystal(read_crystals(tmp_path / name)[0], olivine(), 1e-14)


def test_poscar_keeps_selective_dynamics(tmp_path):
    free = [[True] * 3, [False] * 3]
    s = Structure(
        Lattice.cubic(4), ["Li", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]], site_properties={"selective_dynamics": free}
    )
    (new,) = read_crystals(*write_crystals(s, tmp_path / "POSCAR"))
    assert np.array_equal(new.site_properties["selective_dynamics"], free)


def test_poscar_without_elements_is_refused(tmp_path):
    (tmp_path / "POSCAR").write_text("old\n1.0\n4 0 0\n0 4 0\n0 0 4\n1\nDirect\n0 0 0\n")
    with pytest.raises(DataError, match="names no elements") as error:
        read_crystals(tmp_path / "POSCAR")
    assert str(tmp_path) in one_line(error)


# ---- tables
# -----------------------------------------------------------------------------------------------------------------


def cdvae_csv(path: Path) -> list[Structure]:
    structures = some()[:2]
    frame = pd.DataFrame(
        {
            "material_id": ["007", "mp-2"],
            "formation_energy_per_atom": [-2.0, None],
            "cif": [str(CifWriter(s)) for s in structures],
            "pretty_formula": ["NaCl", "LiFePO4"],
        }
    )
    frame.to_csv(path)  # with the unnamed index column that CDVAE's own files have
    return structures


def test_csv_as_cdvae_writes_it(tmp_path):
    structures = cdvae_csv(tmp_path / "train.csv")
    table = read_table(tmp_path / "train.csv")
    assert table.ids == ["007", "mp-2"]
    assert table.labels.columns.tolist() == ["formation_energy_per_atom", "pretty_formula"]
    assert table.batch().n_atoms.tolist() == [8, 28]
    for old, new in zip(structures, read_crystals(tmp_path / "train.csv"), strict=True):
        assert same_crystal(old, new, 1e-8)
    assert read_crystals(tmp_path / "train.csv")[0].properties == {
        "id": "007",
        "formation_energy_per_atom": -2.0,
        "pretty_formula": "NaCl",
    }
    assert "formation_energy_per_atom" not in read_crystals(tmp_path / "train.csv")[1].properties
    assert len(read_table(tmp_path / "train.csv", limit=1)) == 1


def columns() -> dict[str, object]:
    structures = some()
    return {
        "id": ["a", "b", None, "d"],
        "formula": [s.reduced_formula for s in structures],
        "n_atoms": [len(s) for s in structures],
        "lattice": [s.lattice.matrix.ravel().tolist() for s in structures],
        "frac_coords": [s.frac_coords.ravel().tolist() for s in structures],
        "atomic_numbers": pa.array([list(s.atomic_numbers) for s in structures], pa.list_(pa.uint8())),
        "band_gap": [0.5, None, 1.5, None],
    }


def test_parquet_is_read_as_arrays_with_labels(tmp_path):
    pq.write_table(pa.table(columns()), tmp_path / "x.parquet", row_group_size=1)
    table = read_table(tmp_path / "x.parquet")
    assert len(table) == 4
    assert table.ids == ["a", "b", "2", "d"]
    assert table.labels.columns.tolist() == ["formula", "n_atoms", "band_gap"]
    assert table.labels["band_gap"].isna().tolist() == [False, True, False, True]
    assert [s.properties for s in table.structures()] == [
        {"id": "a", "band_gap": 0.5},
        {"id": "b"},
        {"id": "2", "band_gap": 1.5},
        {"id": "d"},
    ]
    for old, new in zip(some(), table.structures(), strict=True):
        assert np.array_equal(old.lattice.matrix, new.lattice.matrix)
        assert np.array_equal(old.frac_coords, new.frac_coords)
    expected, batch = to_batch(some()), table.batch()
    assert batch.lattice.dtype == torch.float32
    assert table.batch(dtype=torch.float64).lattice.dtype == torch.float64
    for name in ("lattice", "frac_coords", "atomic_numbers", "n_atoms"):
        assert torch.equal(getattr(batch, name), getattr(expected, name))
    for limit in (1, 2, 3, 4, 9):
        assert read_table(tmp_path / "x.parquet", limit=limit).ids == table.ids[:limit]


def test_parquet_in_other_people_s_types(tmp_path):
    nested = columns()
    nested["lattice"] = pa.array([s.lattice.matrix.tolist() for s in some()])
    nested["frac_coords"] = pa.array([s.frac_coords.tolist() for s in some()], pa.large_list(pa.list_(pa.float32(), 3)))
    nested["material_id"] = [1, 2, 3, 4]
    pq.write_table(pa.table(nested), tmp_path / "nested.parquet")
    table = read_table(tmp_path / "nested.parquet")
    assert table.ids == ["1", "2", "3", "4"]
    assert all(same_crystal(a, b, 1e-6) for a, b in zip(some(), table.structures(), strict=True))
    cifs = pd.DataFrame({"cif": [str(CifWriter(s)) for s in some()], "x": range(4)})
    cifs.to_parquet(tmp_path / "cif.parquet")
    assert all(same_crystal(a, b, 1e-8) for a, b in zip(some(), read_crystals(tmp_path / "cif.parquet"), strict=True))
    assert len(read_table(tmp_path / "cif.parquet", limit=2)) == 2


def test_rows_of_a_table_are_a_table(tmp_path):
    pq.write_table(pa.table(columns()), tmp_path / "x.parquet")
    table = read_table(tmp_path / "x.parquet")
    assert table[1:3].ids == ["b", "2"]
    assert table[[3, 0]].ids == ["d", "a"]
    assert table[[3, 0]].labels["formula"].tolist() == ["Mg", "NaCl"]
    assert table[np.array([True, False, False, True])].ids == ["a", "d"]
    assert len(table[[]]) == len(table[4:]) == len(table[[]].batch()) == 0
    assert torch.equal(table[[3, 0]].batch().lattice, table.batch()[[3, 0]].lattice)


def test_any_crystals_make_a_table(tmp_path):
    structures = some()
    structures[0].properties = {"material_id": "mp-1", "band_gap": 1.0, "autoperi": PROVENANCE}
    table = CrystalTable.from_structures([*structures, ase.build.bulk("Cu")])
    assert table.ids == ["mp-1", "1", "2", "3", "4"]
    assert table.labels.columns.tolist() == ["band_gap", "autoperi"]
    assert len(CrystalTable.from_structures([])) == 0
    for kind in ("json", "extxyz"):
        write_crystals(structures, tmp_path / NAMES[kind])
        assert read_table(tmp_path / NAMES[kind]).ids == table.ids[:4]
    with pytest.raises(DataError, match="lengths"):
        CrystalTable(table.lattice, table.frac_coords, table.atomic_numbers, table.ids[:2], table.labels)


def bad_columns(**changes: object) -> dict[str, object]:
    return {k: v for k, v in {**columns(), **changes}.items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lattice": None}, ["no column lattice", "frac_coords", "band_gap"]),
        ({"lattice": None, "atomic_numbers": None}, ["no column lattice, atomic_numbers", "id, formula"]),
        ({"lattice": [[1.0] * 9] * 2 + [[1.0] * 6, [1.0] * 9]}, ["row 2", "9 numbers"]),
        ({"frac_coords": [[0.0] * 24, [0.0] * 84, [0.0] * 8, [0.0] * 3]}, ["row 2", "3 coordinates for each atom"]),
        ({"frac_coords": [[0.0] * 24, None, [0.0] * 9, [0.0] * 3]}, ["row 1", "no frac_coords"]),
        ({"lattice": ["[1, 0, 0]"] * 4}, ["column lattice holds string", "list of numbers"]),
        ({"atomic_numbers": [["Na"] * 8, ["Li"] * 28, ["H"] * 3, ["Mg"]]}, ["column atomic_numbers", "numbers"]),
        ({"frac_coords": [[None] * 24, [0.0] * 84, [0.0] * 9, [0.0] * 3]}, ["column frac_coords", "numbers"]),
        ({"lattice": [[0.0] * 9] + [np.eye(3).ravel().tolist()] * 3}, ["crystal 0", "volume"]),
        ({"atomic_numbers": [[11] * 8, [3] * 28, [1, 200, 3], [12]]}, ["crystal 2", "atomic number 200"]),
        (
            {"atomic_numbers": [[11] * 8, [3] * 28, [], [12]], "frac_coords": [[0.0] * 24, [0.0] * 84, [], [0.0] * 3]},
            ["crystal 2", "no atoms"],
        ),
    ],
)
def test_bad_tables_name_file_row_and_remedy(tmp_path, changes, words):
    pq.write_table(pa.table(bad_columns(**changes)), tmp_path / "x.parquet")
    for read in (read_table, read_crystals):
        with pytest.raises(DataError) as error:
            read(tmp_path / "x.parquet")
        assert all(word in one_line(error) for word in [str(tmp_path / "x.parquet"), *words])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("material_id,energy\na,1\n", ["no column cif", "material_id, energy"]),
        ("material_id,cif\nmp-1,nonsense\n", ["row 0 (mp-1)", "cif that cannot be read"]),
        ("material_id,cif\nmp-1,\n", ["row 0 (mp-1)", "cif that cannot be read"]),
        ("material_id,cif\n", ["no rows"]),
        ("", ["empty"]),
    ],
)
def test_bad_csv(tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError) as error:
        read_crystals(tmp_path / "x.csv")
    assert all(word in one_line(error) for word in [str(tmp_path / "x.csv"), *words])


# ---- folders
# ----------------------------------------------------------------------------------------------------------------


def test_a_folder_of_cifs_out_and_in(tmp_path):
    paths = write_crystals(some(), tmp_path / "out")
    assert [p.name for p in paths] == ["001_NaCl.cif", "002_LiFePO4.cif", "003_UFeH.cif", "004_Mg.cif"]
    assert sorted(os.listdir(tmp_path / "out")) == [p.name for p in paths]  # noqa: PTH208
    assert all(same_crystal(a, b, 1e-7) for a, b in zip(some(), read_crystals(tmp_path / "out"), strict=True))
    write_crystals(rock_salt(), f"{tmp_path / 'LiFePO4.v2'}/")
    assert (tmp_path / "LiFePO4.v2" / "001_NaCl.cif").exists()


def test_a_folder_is_read_in_the_order_of_its_names_and_tables_are_left_out(tmp_path):
    write_crystals([rock_salt(), rock_salt()], tmp_path / "b.extxyz")
    write_crystals(olivine(), tmp_path / "POSCAR_a")
    write_crystals(some()[3], tmp_path / "c.cif")
    write_crystals(some(), tmp_path / "d.json")
    write_crystals(some(), tmp_path / "e.parquet")
    (tmp_path / "notes.txt").write_text("not a crystal")
    (tmp_path / ".hidden.cif").write_text("not a crystal")
    (tmp_path / "sub").mkdir()
    assert [s.reduced_formula for s in read_crystals(tmp_path)] == ["LiFePO4", "NaCl", "NaCl", "Mg"]
    assert [s.reduced_formula for s in read_crystals(tmp_path, limit=2)] == ["LiFePO4", "NaCl"]
    assert read_table(tmp_path).ids == ["0", "1", "2", "3"]


def test_file_names_are_safe():
    assert crystal_filename(olivine(), 1) == "001_LiFePO4.cif"
    hydroxide = Structure(Lattice.cubic(5), ["Mg", "O", "H", "O", "H"], np.random.default_rng(0).random((5, 3)))
    assert crystal_filename(hydroxide, 12) == "012_MgH2O2.cif"
    disordered = Structure(
        Lattice.cubic(5), [{"Li+": 0.5}, "Co3+", "O2-", "O2-"], np.random.default_rng(0).random((4, 3))
    )
    assert crystal_filename(disordered, 1000) == "1000_Li0.5CoO2.cif"
    many = Structure(
        Lattice.cubic(50), [Element.from_Z(z) for z in range(1, 100)], np.random.default_rng(0).random((99, 3))
    )
    assert len(crystal_filename(many, 1)) < 120


# ---- what goes wrong
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_crystals, read_table])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.cif", None, ["does not exist"]),
        ("gone", None, ["does not exist"]),
        ("x.txt", b"x", ["'.txt'", ".parquet", ".cif", "POSCAR"]),
        ("x", b"x", ["''", ".parquet", ".cif", "POSCAR"]),
        *((f"empty{suffix}", b"", ["empty"]) for suffix in (".csv", ".cif", ".vasp", ".extxyz", ".json")),
        ("empty.parquet", b"", ["cannot be read"]),
        *((f"junk{suffix}", b"this is no crystal\n\xff\xfe", ["junk"]) for suffix in autoperi_io.READABLE),
        ("blank.cif", b" \n\t\n", ["empty"]),
        ("noatoms.cif", b"data_x\n_cell_length_a 3\n", ["no CIF block with atoms"]),
        (
            "short.cif",
            b"data_x\n_cell_length_a 3\nloop_\n_atom_site_label\n_atom_site_fract_x\nLi 0\n",
            ["cannot be read"],
        ),
        ("x.json", b"{}", ["no pymatgen Structure"]),
        ("x.json", b"[]", ["no pymatgen Structure"]),
        ("x.json", b'[{"lattice": {}, "sites": []}, 3]', ["no pymatgen Structure"]),
        ("x.json", b'{"lattice": {}, "sites": [{}]}', ["cannot be read"]),
        ("x.json", b"{", ["cannot be read"]),
        ("x.xyz", b"1\nplain\nH 0 0 0\n", ["frame 0 is not periodic", "set pbc"]),
        ("x.extxyz", b'2\nLattice="4 0 0 0 4 0 0 0 4"\nH 0 0 0\n', ["cannot be read"]),
        ("x.extxyz", b'1\nLattice="4 0 0 0 4 0 0 0 0"\nH 0 0 0\n', ["frame 0", "volume"]),
        ("x.extxyz", b'1\nLattice="4 0 0 0 4 0 0 0 4"\nQq 0 0 0\n', ["cannot be read", "Qq"]),
    ],
)
def test_what_cannot_be_read_is_explained_in_one_line(tmp_path, read, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read(tmp_path / name)
    text = one_line(error)
    assert all(word in text for word in [str(tmp_path / name), *words]), text


def test_an_empty_folder_is_explained(tmp_path):
    with pytest.raises(DataError, match="holds no CIF"):
        read_crystals(tmp_path)


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "3"])
def test_bad_limits(tmp_path, limit):
    for read in (read_crystals, read_table):
        with pytest.raises(DataError, match="positive integer"):
            read(tmp_path, limit=limit)


def test_a_file_nobody_may_read(tmp_path, monkeypatch):
    path = tmp_path / "x.cif"
    path.write_text("data_x")
    monkeypatch.setattr(
        Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(DataError, match="permission denied") as error:
        read_crystals(path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("module", ["os", "subprocess", "builtins", "torch", "pymatgenx"])
def test_json_names_no_foreign_module(tmp_path, module):
    entry = rock_salt().as_dict()
    entry["sites"][3]["properties"] = {"magmom": [{"deep": {"@module": module, "@class": "Popen", "args": ["ls"]}}]}
    (tmp_path / "x.json").write_text(json.dumps([entry]))
    with pytest.raises(DataError, match=repr(module)) as error:
        read_crystals(tmp_path / "x.json")
    one_line(error)


@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.pt", "x.cif.gz"])
def test_unknown_suffixes_are_not_written(tmp_path, name):
    with pytest.raises(DataError) as error:
        write_crystals(rock_salt(), tmp_path / name)
    assert all(word in one_line(error) for word in (Path(name).suffix, ".extxyz", ".parquet", "POSCAR"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_or_too_much_to_write(tmp_path):
    with pytest.raises(DataError, match="no crystals"):
        write_crystals([], tmp_path / "x.cif")
    with pytest.raises(DataError, match="one crystal, not 2"):
        write_crystals([rock_salt(), rock_salt()], tmp_path / "POSCAR")
    with pytest.raises(StructureError, match="crystal 1 is of type str"):
        write_crystals([rock_salt(), "NaCl"], tmp_path / "x.cif")
    with pytest.raises(StructureError, match="crystal 1 is not periodic"):
        write_crystals([rock_salt(), ase.build.molecule("H2O")], tmp_path / "x.cif")
    broken = rock_salt()
    broken.translate_sites([0], [np.nan, 0, 0], to_unit_cell=False)
    for kind in ("extxyz", "parquet"):
        with pytest.raises(StructureError, match="crystal 0 has NaN"):
            write_crystals(broken, tmp_path / NAMES[kind])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.cif", "x.json", "out"])
def test_places_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written") as error:
        write_crystals(rock_salt(), tmp_path / "file" / name)
    assert str(tmp_path / "file" / name) in one_line(error)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(PermissionError(13, "Permission denied"), "permission denied"), (OSError(28, "No space"), "No space")],
)
@pytest.mark.parametrize("where", ["replace", "write"])
def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch, trouble, words, where):
    path = tmp_path / "x.json"
    write_crystals(rock_salt(), path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise trouble

    def fail_half_way(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:10])
        raise trouble

    with monkeypatch.context() as patch:
        if where == "replace":
            patch.setattr(os, "replace", fail)
        else:
            patch.setattr(Path, "write_bytes", fail_half_way)
        with pytest.raises(DataError, match=words) as error:
            write_crystals(olivine(), path)
    assert str(path) in one_line(error)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write_crystals(olivine(), path)
    assert read_crystals(path)[0].reduced_formula == "LiFePO4"


def test_write_atomically_makes_folders_follows_links_and_replaces(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.txt", "Å")
    assert path.read_bytes() == "Å".encode()
    link = tmp_path / "link.txt"
    try:
        link.symlink_to(path)
    except OSError:
        pytest.skip("no symbolic links here")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
