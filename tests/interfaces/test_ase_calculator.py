"""The ASE calculator: conventions, any periodicity, clear refusals, and the tools that users put it into."""

from __future__ import annotations

import importlib.util
import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError, all_changes, get_calculator_class
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from ase.stress import full_3x3_to_voigt_6_stress

from autoperi import AutoPeri
from autoperi.data.convert import to_batch
from autoperi.errors import RequestError, StructureError, WeightsError
from autoperi.hub.bundle import Bundle, load_bundle, save_bundle
from autoperi.hub.networks import network_component
from autoperi.interfaces.ase import AutoPeriCalculator
from autoperi.models.potential import Potential

ALL = ("energy", "free_energy", "energies", "forces", "stress")


@pytest.fixture(scope="module")
def tiny() -> Potential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Potential(channels=8, layers=2, cutoff=4.0, n_radial=4, hidden=16)


def calculator(tiny: Potential, **options: Any) -> AutoPeriCalculator:
    return AutoPeriCalculator(tiny, **{"device": "cpu", "dtype": "float64", **options})


def salt(seed: int = 0) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", 5.4, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


# --- conventions -----------------------------------------------------------------------------------------------------


def test_results_are_those_of_the_potential_in_ase_s_conventions(tiny: Potential) -> None:
    atoms, calc = salt(), calculator(tiny)
    calc.calculate(atoms, ALL, all_changes)
    expected = deepcopy(tiny).double()(to_batch(atoms, dtype=torch.float64))
    assert isinstance(calc.results["energy"], float)
    assert (
        calc.results["free_energy"]
        == calc.results["energy"]
        == pytest.approx(float(expected.energy.detach()), abs=1e-10)
    )
    assert all(calc.results[k].dtype == np.float64 for k in ("energies", "forces", "stress"))
    assert calc.results["forces"] == pytest.approx(expected.forces.numpy(), abs=1e-10)
    assert calc.results["stress"] == pytest.approx(full_3x3_to_voigt_6_stress(expected.stress[0].numpy()), abs=1e-12)
    assert calc.results["energies"].sum() == pytest.approx(calc.results["energy"])


def test_forces_and_stress_equal_ase_s_own_finite_differences(tiny: Potential) -> None:
    from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

    atoms = salt(1)
    atoms.calc = calculator(tiny)
    assert atoms.get_forces()[:2] == pytest.approx(
        calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 1]), rel=1e-4, abs=1e-6
    )
    assert atoms.get_stress() == pytest.approx(calculate_numerical_stress(atoms, eps=1e-4), rel=1e-4, abs=1e-8)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_squeezed_crystals_have_negative_stress(tiny: Potential) -> None:
    atoms = bulk("Fe", "bcc", 1.6)
    atoms.calc = calculator(tiny)
    assert atoms.get_stress()[:3].max() < 0


def test_forces_are_computed_only_when_asked_for_and_results_are_remembered(
    tiny: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    forward = Potential.forward
    monkeypatch.setattr(
        Potential, "forward", lambda self, *a, **k: calls.append(k["derivatives"]) or forward(self, *a, **k)
    )
    atoms = salt()
    atoms.calc = calculator(tiny)
    atoms.get_potential_energy()
    assert "forces" not in atoms.calc.results
    atoms.get_forces()
    atoms.get_stress()
    atoms.get_potential_energies()
    atoms.set_initial_magnetic_moments([1.0] * 8)
    forces = atoms.get_forces()
    assert calls == [False, True]
    forces[:] = 0
    assert np.abs(atoms.get_forces()).max() > 0


@pytest.mark.parametrize("dtype", ["float32", torch.float32])
def test_float32_is_close_to_float64(tiny: Potential, dtype: Any) -> None:
    atoms = salt() * (2, 2, 2)
    single, double = calculator(tiny, dtype=dtype), calculator(tiny)
    assert single.get_forces(atoms) == pytest.approx(double.get_forces(atoms), abs=1e-4)
    assert single.get_potential_energy(atoms) == pytest.approx(
        double.get_potential_energy(atoms), abs=1e-5 * len(atoms)
    )
    assert single.parameters["dtype"] == "float32"


def test_the_skin_changes_no_result_and_saves_searches(tiny: Potential) -> None:
    lazy, eager = calculator(tiny, skin=1.0), calculator(tiny, skin=0.0)
    atoms = salt()
    for step in range(6):
        atoms.rattle(0.02, seed=step)
        atoms.set_cell(atoms.cell * 1.002, scale_atoms=True)
        if step == 4:
            atoms.wrap()
        assert lazy.get_forces(atoms) == pytest.approx(eager.get_forces(atoms), abs=1e-10)
        assert lazy.get_stress(atoms) == pytest.approx(eager.get_stress(atoms), abs=1e-10)
    assert lazy.neighbours.searches <= 2 < eager.neighbours.searches
    other = bulk("Cu")
    assert lazy.get_potential_energy(other) == pytest.approx(eager.get_potential_energy(other))
    atoms.numbers[0] = 3
    assert lazy.get_potential_energy(atoms) == pytest.approx(eager.get_potential_energy(atoms))


def test_nothing_global_changes(tiny: Potential) -> None:
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed())
    weights = {k: v.clone() for k, v in tiny.state_dict().items()}
    calculator(tiny).get_forces(salt())
    assert before == (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed())
    assert all(torch.equal(v, weights[k]) for k, v in tiny.state_dict().items())
    assert next(tiny.parameters()).dtype == torch.float32
    assert all(p.requires_grad for p in tiny.parameters())
    with torch.inference_mode():
        calculator(tiny).get_forces(salt())


# --- any atoms -------------------------------------------------------------------------------------------------------


def test_molecules_need_no_cell_and_no_vacuum_matters(tiny: Potential) -> None:
    calc = calculator(tiny)
    free, boxed, periodic = molecule("C2H6"), molecule("C2H6", vacuum=0.5), molecule("C2H6", vacuum=10.0)
    periodic.pbc = True
    for atoms in (free, boxed, periodic):
        atoms.calc = deepcopy(calc)
    for atoms in (boxed, periodic):
        assert atoms.get_potential_energy() == pytest.approx(free.get_potential_energy(), abs=1e-9)
        assert atoms.get_forces() == pytest.approx(free.get_forces(), abs=1e-9)
    assert np.isfinite(periodic.get_stress()).all()
    for atoms in (free, boxed):
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()
    apart = free.copy()
    apart.positions[0] += 60.0
    apart.calc = free.calc
    assert np.isfinite(apart.get_forces()).all()


def test_slabs_and_wires_repeat_along_their_periodic_axes_only(tiny: Potential) -> None:
    slab = fcc111("Al", (2, 2, 2), vacuum=8.0)
    slab.rattle(0.05, seed=0)
    assert slab.pbc.tolist() == [True, True, False]
    thick = slab.copy()
    thick.pbc = True
    bare = slab.copy()
    bare.cell[2] = 0
    calc = calculator(tiny)
    expected = calculator(tiny).get_forces(thick)
    for atoms in (slab, bare):
        assert calc.get_forces(atoms) == pytest.approx(expected, abs=1e-9)
    assert calc.get_stress(slab) == pytest.approx(calculator(tiny).get_stress(thick), abs=1e-12)
    with pytest.raises(PropertyNotImplementedError):
        calc.get_stress(bare)
    wire = Atoms("Cu2", positions=[[0, 0, 0], [0, 0.3, 2.4]], cell=[0, 0, 4.8], pbc=[False, False, True])
    boxed = wire.copy()
    boxed.cell = [30, 30, 4.8]
    boxed.pbc = True
    assert calc.get_forces(wire) == pytest.approx(calculator(tiny).get_forces(boxed), abs=1e-9)


def test_lonely_atoms_and_one_atom_cells(tiny: Potential) -> None:
    calc = calculator(tiny)
    for atoms in (Atoms("Ar"), Atoms("Ar", cell=[50, 50, 50], pbc=True), bulk("Cu")):
        assert calc.get_forces(atoms) == pytest.approx(np.zeros((1, 3)), abs=1e-12)
        assert calc.get_property("energies", atoms).shape == (1,)
    assert calc.get_stress(Atoms("Ar", cell=[50, 50, 50], pbc=True)).tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (Atoms(), "no atoms"),
        (Atoms("Cu", pbc=True), "set a cell, or pbc to False"),
        (Atoms("Cu", cell=[[3, 0, 0], [3, 0, 0], [0, 0, 3]], pbc=True), "no independent vectors"),
        (Atoms("Cu", positions=[[np.nan, 0, 0]]), "NaN"),
        (Atoms("Cu", cell=[np.inf, 3, 3], pbc=True), "NaN or infinity"),
        (Atoms("XCu", positions=[[0, 0, 0], [2, 0, 0]]), "atomic number 0"),
        (Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0]]), "at the same place"),
        (Atoms("Cu2", positions=[[0, 0, 0], [3, 0, 0]], cell=[3, 9, 9], pbc=True), "at the same place"),
    ],
)
def test_what_has_no_energy_is_one_clear_error(tiny: Potential, atoms: Atoms, words: str) -> None:
    atoms.calc = calculator(tiny)
    with pytest.raises(StructureError, match=words):
        atoms.get_forces()
    salty = salt()
    salty.calc = atoms.calc
    assert np.isfinite(salty.get_forces()).all()  # a refusal leaves the calculator in order


def test_elements_never_seen_are_named(tiny: Potential) -> None:
    known = deepcopy(tiny)
    known.set_seen(torch.tensor([11, 6]))
    with pytest.raises(StructureError, match="never trained on Cl;"):
        calculator(known).get_potential_energy(salt())


# --- options, models, copies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stress_weight": 0.01}, "stress_weight"),
        ({"dtype": "half"}, "half"),
        ({"skin": -1.0}, "skin"),
        ({"device": "mps"}, "mps"),
    ],
)
def test_options_it_does_not_have_are_refused(tiny: Potential, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        calculator(tiny, **options)


def test_copies_and_pickles_give_the_same(tiny: Potential) -> None:
    atoms = salt()
    atoms.calc = calculator(tiny)
    expected = atoms.get_forces()
    for again in (deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        again.rattle(0.01, seed=1)
        assert np.abs(again.get_forces() - expected).max() > 1e-4
        again.positions = atoms.positions
        assert again.get_forces() == pytest.approx(expected, abs=1e-12)
    assert atoms.calc.todict() == {"model": "Potential", "dtype": "float64", "skin": 0.5}


def test_a_model_with_a_potential_gives_its_calculator(tiny: Potential, tiny_bundle: Bundle, tmp_path: Any) -> None:
    bundle = deepcopy(tiny_bundle)
    bundle.components["potential"] = network_component(tiny)
    save_bundle(bundle, tmp_path / "model")
    peri = AutoPeri(load_bundle(tmp_path / "model"), device="cpu")
    calc = peri.calculator(dtype="float64", skin=0.2)
    assert isinstance(calc, AutoPeriCalculator)
    assert calc.get_forces(salt()) == pytest.approx(calculator(tiny).get_forces(salt()), abs=1e-12)
    assert calc.parameters["model"] == "tiny"
    assert AutoPeriCalculator(str(tmp_path / "model"), device="cpu").get_potential_energy(salt()) == pytest.approx(
        calc.get_potential_energy(salt()), abs=1e-4
    )
    with pytest.raises(RequestError, match="speed"):
        peri.calculator(speed=3)
    with pytest.raises(WeightsError, match="no component 'potential'"):
        AutoPeri(tiny_bundle).calculator()


def test_ase_knows_it_by_name() -> None:
    assert get_calculator_class("autoperi") is AutoPeriCalculator
    plugin = pytest.importorskip("ase._4.plugins.plugin")
    from autoperi.interfaces import ase_plugin

    (found,) = ase_plugin.__ase_plugins__
    assert isinstance(found, plugin.CalculatorPlugin)
    assert found.name == "autoperi"
    assert found.implementation is AutoPeriCalculator


# --- in the tools of others ------------------------------------------------------------------------------------------


def test_optimisers_lower_the_energy_and_keep_constraints(tiny: Potential) -> None:
    for optimiser in (BFGS, FIRE):
        atoms = salt(2)
        atoms.set_constraint(FixAtoms([0]))
        fixed = atoms.positions[0].copy()
        atoms.calc = calculator(tiny)
        before = atoms.get_potential_energy()
        optimiser(atoms, logfile=None).run(fmax=1e-3, steps=15)
        assert atoms.get_potential_energy() < before
        assert atoms.positions[0] == pytest.approx(fixed)


def test_cells_relax_through_the_frechet_filter(tiny: Potential) -> None:
    atoms = salt(3)
    atoms.calc = calculator(tiny)
    before = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=15)
    assert atoms.get_potential_energy() < before


def test_dynamics_keep_the_total_energy(tiny: Potential) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = calculator(tiny)
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    totals, kinetic = [], []
    for _ in range(30):
        dynamics.run(2)
        totals.append(atoms.get_total_energy())
        kinetic.append(atoms.get_kinetic_energy())
    assert np.ptp(totals) / len(atoms) < 2e-5
    assert np.ptp(totals) < 0.02 * np.ptp(kinetic) + 1e-6


def test_phonons_sums_and_mixing(tiny: Potential, tmp_path: Any) -> None:
    from ase.phonons import Phonons

    phonons = Phonons(bulk("Cu"), calculator(tiny), supercell=(2, 2, 2), delta=0.01, name=str(tmp_path / "phonon"))
    phonons.run()
    phonons.read(acoustic=True)
    assert np.isfinite(phonons.band_structure([[0, 0, 0], [0.5, 0, 0.5]])).all()
    atoms = salt()
    single, other = calculator(tiny), LennardJones()
    atoms.calc = SumCalculator([single, other])
    assert atoms.get_stress() == pytest.approx(single.get_stress(atoms) + LennardJones().get_stress(atoms))
    assert atoms.get_potential_energy() == pytest.approx(
        single.get_potential_energy(atoms) + LennardJones().get_potential_energy(atoms)
    )


def test_pymatgen_relaxes_with_it(tiny: Potential) -> None:
    from autoperi.data.convert import as_structure

    structure = as_structure(salt(4))
    relaxed = structure.relax(calculator=calculator(tiny), steps=5, verbose=False)
    assert relaxed.lattice.volume != pytest.approx(structure.lattice.volume)
    assert structure.calculate(calculator=calculator(tiny)).get_forces().shape == (8, 3)


@pytest.mark.skipif(importlib.util.find_spec("matcalc") is None, reason="matcalc is not installed")
def test_matcalc_s_elasticity_runs(tiny: Potential) -> None:
    from matcalc import ElasticityCalc

    from autoperi.data.convert import as_structure

    found = ElasticityCalc(
        calculator(tiny),
        norm_strains=(-0.005, 0.005),
        shear_strains=(-0.005, 0.005),
        relax_structure=False,
        relax_deformed_structures=False,
    ).calc(as_structure(bulk("Cu")))
    assert np.isfinite(found["bulk_modulus_vrh"])
    assert found["elastic_tensor"].shape == (3, 3, 3, 3)


def test_a_calculator_stays_what_it_was_made(tiny: Potential) -> None:
    calc = calculator(tiny)
    before = dict(calc.parameters)
    for change in (
        {"dtype": "float32"},
        {"dtype": torch.float32},
        {"skin": 1.0},
        {"model": "other"},
        {"xc": "PBE"},
        {"parameters": "file"},
    ):
        with pytest.raises(RequestError, match="make a new calculator"):
            calc.set(**change)
    assert dict(calc.parameters) == before
    energy = calc.get_potential_energy(salt())
    assert calc.set() == calc.set(**before) == calc.set(dtype=torch.float64) == {}
    assert calc.results["energy"] == energy


@pytest.mark.parametrize(
    "option", [{"skin": "a"}, {"skin": None}, {"skin": [1]}, {"dtype": ["a"]}, {"dtype": None}, {"dtype": {}}]
)
def test_options_of_the_wrong_type_are_refused(tiny: Potential, option: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(option))):
        calculator(tiny, **option)
