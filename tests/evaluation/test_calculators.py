"""Calculators by name, and relaxations that converge, stop, or fail with a reason."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from pymatgen.core import Lattice, Structure

from autoperi.errors import RequestError
from autoperi.evaluation.calculators import describe_calculator, energies, judge_each, make_calculator, relax
from autoperi.metrics.relaxation import displacement
from autoperi.symmetry.analysis import analyse


class Faulty(Calculator):
    """Energies that turn to NaN, or a cell that is blown up or pulled together."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, *, stress: float = 0.0, nan_after: int | None = None, pause: float = 0.0) -> None:
        super().__init__()
        self.push, self.nan_after, self.pause, self.calls = stress, nan_after, pause, 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        time.sleep(self.pause)
        energy = np.nan if self.nan_after is not None and self.calls > self.nan_after else -float(self.calls)
        stress = np.array([self.push] * 3 + [0.0] * 3)
        self.results = {"energy": energy, "forces": np.zeros((len(atoms), 3)), "stress": stress}


class TestNames:
    def test_short_names_and_paths(self):
        assert isinstance(make_calculator("EMT"), EMT)
        assert isinstance(make_calculator("ase.calculators.emt:EMT"), EMT)
        assert isinstance(make_calculator(EMT), EMT)
        made = EMT()
        assert make_calculator(made) is made
        assert make_calculator(lambda: made) is made

    def test_options(self):
        assert make_calculator("lj", '{"sigma": 3.4}').parameters["sigma"] == 3.4
        assert make_calculator("lj", {"sigma": 3.4}).parameters["sigma"] == 3.4

    @pytest.mark.parametrize(
        ("spec", "options", "words"),
        [
            ("emtt", None, "emtt.*chgnet, emt"),
            ("no_such_package.x:Y", None, "no_such_package.*pip install no_such_package"),
            ("ase.calculators.emt:Nope", None, "ase.calculators.emt has no Nope"),
            ("math:sqrt", None, "math:sqrt"),
            ("builtins:dict", None, "made a dict"),
            (3, None, "3"),
            ("emt", "{", "not JSON"),
            ("emt", "[1]", "keyword"),
            (EMT(), {"a": 1}, "already made"),
        ],
    )
    def test_errors_name_the_spec(self, spec, options, words):
        with pytest.raises(RequestError, match=words):
            make_calculator(spec, options)

    def test_description(self):
        found = describe_calculator("lj", {"sigma": 3.4})
        assert found["calculator"] == "lj"
        assert found["package"] == "ase"
        assert found["version"]
        assert found["options"] == {"sigma": 3.4}
        assert describe_calculator(EMT())["calculator"] == "ase.calculators.emt:EMT"


class TestRelax:
    def test_against_ase_alone(self):
        from ase.filters import FrechetCellFilter

        atoms = bulk("Cu", a=3.75)
        found = relax([atoms], "emt", fmax=0.001, progress=False)[0]
        assert found.status == "converged"
        assert found.reason is None
        atoms.calc = EMT()
        assert found.energy_before == pytest.approx(atoms.get_potential_energy())
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.001)
        assert found.energy_after == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        assert found.structure.volume == pytest.approx(atoms.get_volume(), rel=1e-3)
        assert found.volume_change == pytest.approx(found.structure.volume / (3.75**3 / 4) - 1, abs=1e-5)
        assert found.rms_displacement == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("optimizer", ["FIRE", "BFGS", "LBFGS"])
    def test_displaced_atom_comes_back(self, optimizer):
        atoms = bulk("Cu", a=3.6, cubic=True)
        atoms.positions[0] += [0.2, 0.1, 0.0]
        found = relax([atoms], EMT(), fmax=0.005, optimizer=optimizer)[0]
        assert found.status == "converged"
        moved = np.array([[0.2, 0.1, 0.0], *[[0.0] * 3] * 3])
        expected = np.sqrt(((moved - moved.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert found.rms_displacement == pytest.approx(expected, abs=0.01)
        assert found.energy_after < found.energy_before
        assert found.force_calls > 3

    def test_fixed_cell_and_step_limit(self):
        atoms = bulk("Cu", a=3.6, cubic=True)
        atoms.positions[0] += [0.2, 0.1, 0.0]
        found = relax([atoms], EMT(), cell=False, fmax=1e-3, steps=3)[0]
        assert np.allclose(found.structure.lattice.matrix, np.eye(3) * 3.6)
        assert found.status == "not converged"
        assert "3 steps" in found.reason
        assert found.force_calls == 4
        assert relax([atoms], EMT(), steps=0)[0].energy_after == pytest.approx(found.energy_before)

    def test_symmetry_is_kept(self):
        crystal = Structure.from_spacegroup(221, Lattice.cubic(3.7), ["Cu", "Au"], [(0, 0.5, 0.5), (0, 0, 0)])
        found = relax([crystal], EMT(), fix_symmetry=True, fmax=0.01)[0]
        assert found.status == "converged"
        s = found.structure
        assert analyse(s.lattice.matrix, s.frac_coords, np.array(s.atomic_numbers), symprec=1e-5).number == 221

    def test_properties_survive_and_input_does_not_change(self):
        crystal = Structure(Lattice.cubic(2.9), ["Cu", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]], properties={"id": "x"})
        before = crystal.copy()
        assert relax([crystal], EMT())[0].structure.properties["id"] == "x"
        assert crystal == before

    @pytest.mark.parametrize(
        ("crystal", "calculator", "words"),
        [
            (bulk("Cu"), Faulty(stress=-0.5), "volume"),
            (bulk("Cu"), Faulty(stress=0.5), "volume"),
            (bulk("Cu"), Faulty(stress=0.05, nan_after=2), "not finite"),
            (Structure(Lattice.cubic(3), ["Cu", "Cu"], [[0, 0, 0], [0.02, 0, 0]]), EMT(), "force"),
            (Structure(Lattice.cubic(3), ["Cu", "Cu"], [[0, 0, 0], [0.1, 0, 0]]), Faulty(), "close"),
            (Structure(Lattice.cubic(3), ["Xe"], [[0, 0, 0]]), EMT(), "Xe"),
            (Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]), EMT(), "disorder|occup|partial"),
            ("not a crystal", EMT(), "str"),
        ],
    )
    def test_what_explodes_is_a_status(self, crystal, calculator, words):
        found = relax([crystal, bulk("Cu")], calculator, steps=60)
        assert found[0].status == "failed"
        assert found[0].energy_after is None
        import re

        assert re.search(words, found[0].reason), found[0].reason
        if isinstance(calculator, EMT):
            assert found[1].status == "converged"  # and the next crystal is not the worse for it

    def test_time_limit(self):
        found = relax([bulk("Cu")], Faulty(stress=0.01, pause=0.02), seconds=0.1, steps=10_000, fmax=1e-9)[0]
        assert found.status == "not converged"
        assert "0.1 s" in found.reason
        assert found.force_calls < 100

    def test_settings_are_checked_first(self):
        for bad in ({"steps": -1}, {"steps": 1.5}, {"fmax": 0}, {"optimizer": "MD"}, {"seconds": 0}, {"processes": 0}):
            with pytest.raises(RequestError, match=next(iter(bad))):
                relax([bulk("Cu")], "emt", **bad)
        with pytest.raises(RequestError, match="by name"):
            relax([bulk("Cu")], EMT(), processes=2)

    def test_by_name_in_other_processes_gives_the_same(self):
        crystals = [bulk("Cu", a=3.5 + 0.02 * i) for i in range(3)]  # few: the work stays here, but goes the same way
        one, two = relax(crystals, "emt", fmax=0.01), relax(crystals, "emt", fmax=0.01, processes=2, progress=False)
        assert [r.as_dict() for r in one] == [r.as_dict() for r in two]


def test_energies():
    atoms = bulk("Cu", cubic=True)
    found = energies([atoms, Structure(Lattice.cubic(3), ["Xe"], [[0, 0, 0]]), atoms], "emt", progress=False)
    atoms.calc = EMT()
    assert found[0].energy == found[2].energy == pytest.approx(atoms.get_potential_energy() / 4)
    assert found[1].energy is None
    assert "Xe" in found[1].reason
    assert energies([bulk("Cu")], Faulty(nan_after=0))[0].reason == "the energy is nan"


def test_any_function_of_a_crystal_and_a_judge():
    from autoperi.metrics.elastic import elastic

    crystals = [bulk("Cu"), bulk("Al")]
    found = judge_each(elastic, crystals, "emt", settings={"strains": (-0.005, 0.005)}, processes=2, progress=False)
    assert [row["tensor_GPa"] for row in found] == [
        elastic(c, EMT(), strains=(-0.005, 0.005))["tensor_GPa"] for c in crystals
    ]


def test_displacement_leaves_out_drift_and_cell():
    before = np.random.default_rng(0).random((5, 3))
    lattice = np.diag([3.0, 4.0, 5.0])
    assert displacement(before, before + 0.3, lattice) == pytest.approx(0)
    after = before.copy()
    after[0, 0] += 0.1
    assert displacement(before, after, lattice) == pytest.approx(np.sqrt((0.3**2 * (0.8**2 + 4 * 0.2**2)) / 5))
