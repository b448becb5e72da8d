"""Hull distances against hand calculations, pymatgen's own diagram and a linear program."""

from __future__ import annotations

import gzip
import json
import sys
import types
import warnings

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from autoperi.errors import AutoPeriWarning, DataError, RequestError
from autoperi.evaluation.calculators import make_calculator
from autoperi.metrics.hull import (
    Hull,
    energies_above_hull,
    energy_above_hull,
    hull_facts,
    lowest_mixture,
    near_hull,
    recompute,
)
from autoperi.metrics.references import formation_energies, formula_energies, reference_entries

HAND = {"NaCl": -1.0, "Na3Cl": -0.2, "NaCl3": -0.6}


def random_pairs(seed: int, elements: tuple[str, ...], n: int) -> list[tuple[str, float]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        amounts = rng.integers(0, 4, len(elements))
        if (amounts > 0).sum() >= 2:
            pairs.append(
                ("".join(f"{e}{k}" for e, k in zip(elements, amounts, strict=True) if k), float(rng.uniform(-2, 0.3)))
            )
    return pairs


class TestByHand:
    def test_two_elements(self):
        # hull: Na 0, NaCl -1, NaCl3 -0.6, Cl 0; Na3Cl (-0.2) lies above the line at x=1/4, which is -0.5
        found = energy_above_hull(
            ["Na3Cl", "NaCl", "NaCl2", "Na2Cl", "Cl"], [-0.2, -1.2, 0.0, -2 / 3, 0.05], reference_entries(HAND)
        )
        middle = (1 / 3) * -1.0 + (2 / 3) * -0.6  # Na2Cl4: NaCl has 2 of its 6 atoms, NaCl3 the other 4
        assert [d.energy for d in found] == pytest.approx([0.3, -0.2, -middle, 0.0, 0.05], abs=1e-6)
        assert dict(found[0].decomposition) == pytest.approx({"Na": 0.5, "NaCl": 0.5})
        assert dict(found[2].decomposition) == pytest.approx({"NaCl": 1 / 3, "NaCl3": 2 / 3}, abs=1e-5)

    def test_lowest_polymorph_spans_the_hull(self):
        refs = reference_entries([("NaCl", -0.5), ("NaCl", -1.0), ("Na2Cl2", -0.7)])
        assert energy_above_hull(["NaCl"], [-0.5], refs)[0].energy == pytest.approx(0.5)

    def test_element_above_zero_does_not_lift_the_zero(self):
        assert energies_above_hull(["Na"], [0.1], {"Na": 0.3, "NaCl": -1.0}) == [pytest.approx(0.1)]

    def test_unknown_element_and_missing_energy_have_reasons(self):
        found = energy_above_hull(["KCl", "NaCl", "NaCl"], [-1.0, None, float("nan")], reference_entries(HAND))
        assert [d.energy for d in found] == [None, None, None]
        assert found[0].reason == "no reference for K"
        assert found[1].reason == found[2].reason == "no energy"


class TestAgainstPymatgen:
    @pytest.mark.parametrize("seed", range(4))
    def test_formation_energies(self, seed):
        elements = ("Li", "Fe", "P", "O")
        pairs = random_pairs(seed, elements, 60)
        entries = [PDEntry(Composition(f), e * Composition(f).num_atoms) for f, e in pairs]
        diagram = PhaseDiagram(entries + [PDEntry(Composition(e), 0.0) for e in elements])
        queries = random_pairs(seed + 100, elements, 40)
        found = energy_above_hull([f for f, _ in queries], [e for _, e in queries], reference_entries(pairs))
        for (formula, energy), ours in zip(queries, found, strict=True):
            assert ours.energy == pytest.approx(
                energy - diagram.get_hull_energy_per_atom(Composition(formula)), abs=2e-6
            )

    def test_total_energies_on_both_scales(self):
        zero = {"Li": -1.9, "Fe": -8.3, "O": -4.9}
        pairs = random_pairs(7, tuple(zero), 40)
        total = [
            (f, e + sum(x * zero[k] for k, x in Composition(f).fractional_composition.get_el_amt_dict().items()))
            for f, e in pairs
        ]
        refs = reference_entries(
            [PDEntry(Composition(f), e * Composition(f).num_atoms) for f, e in [*total, *zero.items()]]
        )
        assert refs.kind == "total"
        formation = reference_entries(pairs)
        queries = random_pairs(8, tuple(zero), 20)
        names, values = [f for f, _ in queries], [e for _, e in queries]
        expected = [d.energy for d in energy_above_hull(names, values, formation)]
        assert [d.energy for d in energy_above_hull(names, values, refs, scale="formation")] == pytest.approx(
            expected, abs=2e-6
        )
        lifted = [
            e + sum(x * zero[k] for k, x in Composition(f).fractional_composition.get_el_amt_dict().items())
            for f, e in queries
        ]
        assert [d.energy for d in energy_above_hull(names, lifted, refs, scale="total")] == pytest.approx(
            expected, abs=2e-6
        )
        assert formation_energies(names, lifted, zero) == pytest.approx(values, abs=1e-9)
        assert formation_energies(["LiK", "Li"], [1.0, None], zero) == [None, None]

    def test_linear_program_is_the_diagram(self):
        elements = ("Li", "Fe", "P", "O", "S")
        hull = Hull(reference_entries(random_pairs(3, elements, 80)))
        for formula, _ in random_pairs(4, elements, 30):
            composition = Composition(formula)
            phases, energy = lowest_mixture(hull.entries(elements), composition)
            assert energy == pytest.approx(hull.diagram(elements).get_hull_energy_per_atom(composition), abs=1e-7)
            assert sum(phases.values()) == pytest.approx(1)

    def test_many_elements_take_the_linear_program(self):
        elements = ["Li", "Na", "K", "Mg", "Ca", "Fe", "Co", "O", "F", "S"]
        refs = reference_entries(
            [("Li2O", -2.0), ("NaF", -3.0), ("CaS", -2.4), ("FeCo", -0.1), ("MgO", -3.0), ("KF", -2.9)]
        )
        found = energy_above_hull(["".join(elements)], [0.0], refs)[0]
        assert found.energy is not None
        assert found.energy > 0
        assert sum(found.decomposition.values()) == pytest.approx(1, abs=1e-4)


class TestSources:
    def entries(self):
        salt = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)])
        return [
            ComputedStructureEntry(salt, -27.0, correction=-1.0, entry_id="a"),
            ComputedEntry("Na", -1.3, entry_id="b"),
            PDEntry(Composition("Cl"), -1.8),
        ]

    @pytest.mark.parametrize("name", ["e.json", "e.json.gz"])
    def test_pymatgen_entries_survive_the_file(self, tmp_path, name):
        entries = self.entries()
        text = json.dumps([e.as_dict() for e in entries])
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        found = reference_entries(path)
        assert found.kind == "total"
        assert list(found.energies) == pytest.approx([e.energy_per_atom for e in entries])
        assert found.energies[0] == pytest.approx(-3.5)  # with the correction
        assert [c.reduced_formula for c in found.compositions] == ["NaCl", "Na", "Cl2"]
        assert found.structure_of(0) == entries[0].structure
        assert found.structure_of(1) is None

    def test_entries_without_elements_are_unknown_not_zero(self):
        found = energy_above_hull(["NaCl"], [-3.0], reference_entries(self.entries()[:2]), scale="total")
        assert found[0].energy is None
        assert found[0].reason == "no reference for Cl"

    def test_csv(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("id,formula,formation_energy_per_atom\n1,NaCl,-1.0\n2,NaCl3,-0.6\n3,Na3Cl,\n")
        found = reference_entries(path)
        assert (found.kind, len(found), found.dropped) == ("formation", 2, {"no energy": 1})
        path.write_text("formula,energy_per_atom\nNaCl,-3.0\n")
        with pytest.raises(DataError, match="kind="):
            reference_entries(path)
        assert reference_entries(path, kind="total").kind == "total"
        path.write_text("name,e\nNaCl,-3.0\n")
        with pytest.raises(DataError, match="name, e"):
            reference_entries(path)

    def test_parquet_carries_structures(self, tmp_path):
        import pandas as pd

        salt = self.entries()[0].structure
        row = {
            "formula": "NaCl",
            "formation_energy_per_atom": -1.0,
            "lattice": salt.lattice.matrix.ravel().tolist(),
            "frac_coords": salt.frac_coords.ravel().tolist(),
            "atomic_numbers": list(salt.atomic_numbers),
        }
        pd.DataFrame([{**row, "formation_energy_per_atom": None}, row]).to_parquet(tmp_path / "t.parquet")
        found = reference_entries(tmp_path / "t.parquet")
        assert len(found) == 1
        assert np.allclose(found.structure_of(0).frac_coords, salt.frac_coords)

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            ("[]", "empty"),
            ("{", "no reference entries"),
            ('{"Xx": 1}', "Xx"),
            ('[{"composition": {"Na": 1}}]', "entry 0"),
        ],
    )
    def test_bad_files_name_the_value(self, tmp_path, content, word):
        path = tmp_path / "r.json"
        path.write_text(content)
        with pytest.raises(DataError, match=word):
            reference_entries(path)

    def test_plain_formation_energies(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("formula,energy\nLi2O,-2.0\nFe0.5O0.5,-1.5\n")
        assert formula_energies(path) == [("Li2.0O1.0", -2.0), ("Fe0.5O0.5", -1.5)]
        path.write_text("formula,energy\nLi2O,-2.0\nNaCl,\n")
        with pytest.raises(DataError, match="1 rows have no energy"):
            formula_energies(path)
        entries = tmp_path / "r.json"
        entries.write_text(json.dumps([e.as_dict() for e in self.entries()]))
        with pytest.raises(DataError, match="total ones"):
            formula_energies(entries)

    def test_nothing_named_in_a_file_is_imported(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_text(
            json.dumps([{"@module": "antigravity", "@class": "X", "composition": {"Na": 1}, "energy": -1.0}])
        )
        reference_entries(path)
        assert "antigravity" not in sys.modules

    def test_materials_project_client(self, monkeypatch):
        with pytest.raises(RequestError, match="chemical_systems"):
            reference_entries("materials-project")
        monkeypatch.delenv("MP_API_KEY", raising=False)
        with pytest.raises(RequestError, match="MP_API_KEY"):
            reference_entries("mp", chemical_systems=["Na-Cl"])
        monkeypatch.setitem(sys.modules, "mp_api.client", None)
        with pytest.raises(RequestError, match="pip install mp-api"):
            reference_entries("mp", chemical_systems=["Na-Cl"], api_key="k")
        asked = []
        entries = self.entries()[:2]

        class Client:
            def __init__(self, key):
                assert key == "k"

            def __enter__(self):
                return self

            def __exit__(self, *_):
                return None

            def get_entries_in_chemsys(self, elements):
                asked.append(elements)
                return entries

        module = types.ModuleType("mp_api.client")
        module.MPRester = Client
        monkeypatch.setitem(sys.modules, "mp_api", types.ModuleType("mp_api"))
        monkeypatch.setitem(sys.modules, "mp_api.client", module)
        found = reference_entries("mp", chemical_systems=["Na-Cl", ("Cl", "Na")], api_key="k")
        assert asked == [["Cl", "Na"]]
        assert (len(found), found.kind, found.source) == (2, "total", "Materials Project")


class TestScales:
    def references(self):
        atoms = {"Cu": bulk("Cu"), "Au": bulk("Au")}
        ordered = Structure(
            Lattice.cubic(3.75), ["Au", "Cu", "Cu", "Cu"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
        )
        from pymatgen.io.ase import AseAtomsAdaptor

        plain = [AseAtomsAdaptor.get_structure(a) for a in atoms.values()]
        return reference_entries([ComputedStructureEntry(s, -4.0 * len(s)) for s in [*plain, ordered]]), ordered

    def test_recomputed_references_are_on_the_scale_of_the_judge(self):
        refs, ordered = self.references()
        emt = make_calculator("emt")
        ours = recompute(refs, emt, judge="emt", elements=[("Cu", "Au")], relax={"fmax": 0.01})
        assert (ours.judge, ours.kind, len(ours)) == ("emt", "total", 3)
        atoms = bulk("Cu", a=ours.structure_of(0).lattice.a * 2**0.5)
        atoms.calc = emt
        assert ours.energies[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = energy_above_hull([ordered], [ours.energies[2] + 0.05], ours, scale="total", judge="emt")
        assert found[0].energy == pytest.approx(0.05, abs=1e-5)  # EMT orders Cu3Au: it is on its own hull
        assert recompute(refs, emt, judge="emt", elements=[("Cu",)]).compositions[0].reduced_formula == "Cu"
        assert hull_facts(ours, scale="total", judge="emt")["mixed"] is False

    def test_failed_references_are_counted(self):
        emt = make_calculator("emt")
        xenon = Structure(Lattice.cubic(5), ["Xe"], [[0, 0, 0]])
        refs = reference_entries([ComputedStructureEntry(xenon, -1.0), ComputedEntry("Cu", -4.0)])
        with pytest.raises(RequestError, match="could be recomputed"):
            recompute(refs, emt, judge="emt")
        copper = self.references()[0].structure_of(0)
        refs = reference_entries(
            [ComputedStructureEntry(xenon, -1.0), ComputedEntry("Cu", -4.0), ComputedStructureEntry(copper, -4.0)]
        )
        assert recompute(refs, emt, judge="emt").dropped == {"the calculator failed": 1, "no structure": 1}

    def test_mixed_scales_are_marked_and_impossible_ones_refused(self):
        with pytest.raises(RequestError, match="no common zero"):
            energy_above_hull(["NaCl"], [-3.0], reference_entries(HAND), scale="total")
        with pytest.warns(AutoPeriWarning, match="emt"):
            energy_above_hull(["NaCl"], [-1.0], reference_entries(HAND), judge="emt")
        facts = hull_facts(reference_entries(HAND), scale="formation", judge="emt")
        assert facts["mixed"] is True
        assert "emt" in facts["note"]
        assert hull_facts(reference_entries(HAND), scale="formation", judge=None)["mixed"] is None
        json.dumps(facts)
        assert hull_facts(reference_entries(HAND, judge="emt"), scale="formation", judge="emt")["mixed"] is False

    def test_near_hull(self):
        refs = reference_entries({**HAND, "KBr": -1.0})
        assert near_hull(Hull(refs), 0.05) == {0, 2, 3}
        assert near_hull(Hull(refs), 0.4, [("Na", "Cl")]) == {0, 1, 2}


class TestOldInterface:
    def test_mapping_and_pairs(self):
        assert energies_above_hull(["NaCl", "KCl"], [-0.9, 0.0], HAND) == [pytest.approx(0.1), None]
        assert energies_above_hull(["NaCl"], [-0.9], HAND.items()) == [pytest.approx(0.1)]

    @pytest.mark.parametrize("bad", [{}, {"Qq": 1.0}, {"NaCl": float("nan")}, {"NaCl": "x"}])
    def test_bad_references(self, bad):
        with pytest.raises(RequestError, match="references"):
            energies_above_hull(["NaCl"], [0.0], bad)
