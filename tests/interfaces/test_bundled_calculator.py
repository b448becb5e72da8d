"""The potential that ships with AutoPeri in the tools of ASE, pymatgen and matcalc, and what it says of odd atoms."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from autoperi import AutoPeri
from autoperi.data.convert import as_structure
from autoperi.errors import StructureError

if TYPE_CHECKING:
    from pathlib import Path

    from autoperi.interfaces.ase import AutoPeriCalculator


@pytest.fixture(scope="module")
def base() -> AutoPeri:
    return AutoPeri.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def double(base: AutoPeri) -> AutoPeriCalculator:
    return base.calculator(dtype="float64")


def salt(seed: int = 0) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", 5.5, cubic=True)
    atoms.rattle(0.08, seed=seed)
    return atoms


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "atoms",
    [salt(), bulk("Si", a=5.3) * (2, 1, 1), bulk("Cu", a=3.5, cubic=True)],
    ids=lambda atoms: str(atoms.symbols),
)
def test_forces_and_stress_are_slopes_and_energies_add_up(double: AutoPeriCalculator, atoms: Atoms) -> None:
    from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

    atoms = atoms.copy()
    atoms.rattle(0.05, seed=3)
    atoms.calc = double
    forces, stress = atoms.get_forces(), atoms.get_stress()
    assert forces[:2] == pytest.approx(
        calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 1]), rel=1e-4, abs=1e-4 * np.abs(forces).max()
    )
    assert stress == pytest.approx(
        calculate_numerical_stress(atoms, eps=1e-5), rel=1e-4, abs=1e-4 * np.abs(stress).max()
    )
    energy = atoms.get_potential_energy()
    assert double.get_potential_energy(atoms * (2, 1, 3)) == pytest.approx(6 * energy, rel=1e-10)


# --- tools -----------------------------------------------------------------------------------------------------------


def test_bfgs_finds_rock_salt_again(double: AutoPeriCalculator) -> None:
    atoms = salt()
    atoms.calc = double
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=60)
    distances = atoms.get_all_distances(mic=True)
    np.fill_diagonal(distances, 9)
    assert distances.min(1) == pytest.approx(np.full(8, 5.5 / 2), abs=0.03)


def test_frechet_cell_filter_takes_stress_away(double: AutoPeriCalculator) -> None:
    atoms = salt(1)
    atoms.set_cell(
        atoms.cell[:] @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.02, 0], [0, 0, 0.01]])), scale_atoms=True
    )
    atoms.calc = double
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.003, steps=150)
    assert np.abs(atoms.get_stress()).max() < 1e-3
    assert atoms.cell.lengths() == pytest.approx(np.full(3, atoms.cell.lengths().mean()), rel=1e-2)
    assert atoms.cell.lengths().mean() == pytest.approx(5.64, rel=0.03)


def test_velocity_verlet_keeps_the_energy_in_float32(base: AutoPeri) -> None:
    atoms = bulk("Si", cubic=True)
    atoms.calc = base.calculator(dtype="float32")
    masses = atoms.get_masses()[:, None]
    momenta = np.random.default_rng(0).normal(size=(8, 3)) * np.sqrt(masses * units.kB * 600)
    atoms.set_momenta(momenta - masses * momenta.sum(0) / masses.sum())
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    totals, kinetic = [], []
    for _ in range(60):
        dynamics.run(1)
        totals.append(atoms.get_total_energy() / 8)
        kinetic.append(atoms.get_kinetic_energy() / 8)
    assert np.ptp(totals) < 5e-4
    assert np.ptp(kinetic) > 50 * np.ptp(totals)


def test_ase_phonons_of_copper_are_real(double: AutoPeriCalculator, tmp_path: Path) -> None:
    from ase.phonons import Phonons

    phonons = Phonons(bulk("Cu", a=3.62), double, supercell=(3, 3, 3), delta=0.02, name=str(tmp_path / "phonon"))
    phonons.run()
    phonons.read(acoustic=True)
    corner = phonons.band_structure([[0.5, 0, 0.5]])[0] / (units._hplanck / units._e) / 1e12
    assert corner.min() > 1
    assert 3 < corner.max() < 10  # experiment: 7.2 THz


def test_sums_with_another_calculator(double: AutoPeriCalculator) -> None:
    atoms, other = salt(), LennardJones(sigma=2.0, epsilon=0.01)
    atoms.calc = SumCalculator([double, other])
    assert atoms.get_potential_energy() == pytest.approx(
        double.get_potential_energy(atoms) + other.get_potential_energy(atoms)
    )
    assert atoms.get_forces() == pytest.approx(double.get_forces(atoms) + other.get_forces(atoms), abs=1e-10)
    assert atoms.get_stress() == pytest.approx(double.get_stress(atoms) + other.get_stress(atoms), abs=1e-12)


def test_pymatgen_relaxes_and_calculates(double: AutoPeriCalculator) -> None:
    structure = as_structure(salt(2))
    relaxed = structure.relax(calculator=double, fmax=0.05, steps=100, verbose=False)
    assert relaxed.lattice.abc == pytest.approx((5.64,) * 3, rel=0.03)
    assert relaxed.calc.get_potential_energy() < structure.calculate(calculator=double).get_potential_energy()


@pytest.mark.filterwarnings(
    "ignore:Elastic strain-stress fits:RuntimeWarning"
)  # its mean R² counts components that symmetry makes zero
def test_matcalc_s_workflows_run() -> None:
    matcalc = pytest.importorskip("matcalc")
    calculator = AutoPeri.from_pretrained(device="cpu").calculator(dtype="float64")
    copper = as_structure(bulk("Cu", a=3.7))
    relaxed = matcalc.RelaxCalc(calculator, fmax=0.01).calc(copper)
    constant = relaxed["final_structure"].volume ** (1 / 3) * 4 ** (1 / 3)
    assert constant == pytest.approx(3.615, rel=0.02)
    curve = matcalc.EOSCalc(calculator, relax_structure=False, n_points=7, max_abs_strain=0.03, fmax=0.05).calc(
        relaxed["final_structure"]
    )
    elastic = matcalc.ElasticityCalc(calculator, fmax=0.01, relax_structure=False, units_GPa=True).calc(
        relaxed["final_structure"]
    )
    assert elastic["elastic_tensor"].shape == (3, 3, 3, 3)
    assert 60 < elastic["bulk_modulus_vrh"] < 250  # experiment: 137 GPa
    assert curve["bulk_modulus_bm"] == pytest.approx(elastic["bulk_modulus_vrh"], rel=0.25)


# --- odd atoms -------------------------------------------------------------------------------------------------------


def pictures() -> dict[str, Atoms]:
    """Atoms that are no crystal, or hardly one."""
    boxed = molecule("CH3CH2OH", vacuum=6.0)
    boxed.pbc = True
    slab = fcc111("Al", (2, 2, 3), vacuum=8.0)
    thick = slab.copy()
    thick.pbc = True
    return {
        "molecule": molecule("H2O"),
        "molecule in a periodic box": boxed,
        "isolated atom": Atoms("Fe"),
        "isolated atom in a periodic box": Atoms("Xe", cell=[30, 30, 30], pbc=True),
        "two atoms out of reach": Atoms("NaCl", positions=[[0, 0, 0], [0, 0, 15]], cell=[30, 30, 30], pbc=True),
        "one-atom cell": bulk("Cu"),
        "flat one-atom cell": Atoms("Au", cell=[2.9, 2.9, 40], pbc=True),
        "slab": slab,
        "slab in a periodic box": thick,
        "wire": Atoms("Cu2", positions=[[0, 0, 0], [0, 0.3, 2.4]], cell=[0, 0, 4.8], pbc=[False, False, True]),
        "close pair": Atoms("C2", positions=[[0, 0, 0], [0, 0, 0.3]], cell=[9, 9, 9], pbc=True),
        "squeezed": bulk("Fe", "bcc", a=1.4),
        "stretched": bulk("Fe", "bcc", a=6.0),
    }


@pytest.mark.parametrize("name", pictures())
def test_odd_atoms_have_a_defined_result(base: AutoPeri, name: str) -> None:
    atoms = pictures()[name]
    atoms.calc = base.calculator(dtype="float64")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert np.isfinite(energy)
    assert forces.shape == (len(atoms), 3)
    assert np.isfinite(forces).all()
    assert np.abs(forces.sum(0)).max() < 1e-6 * (1 + np.abs(forces).max())
    assert atoms.get_potential_energies().sum() == pytest.approx(energy)
    if atoms.pbc.all():
        assert np.isfinite(atoms.get_stress()).all()
    if "isolated" in name or "reach" in name:
        assert forces == pytest.approx(np.zeros((len(atoms), 3)), abs=1e-9)
    single = base.calculator(dtype="float32")
    assert single.get_potential_energy(atoms) == pytest.approx(energy, rel=1e-5, abs=1e-4 * len(atoms))


def test_molecules_and_slabs_do_not_feel_their_vacuum(double: AutoPeriCalculator) -> None:
    odd = pictures()
    free = odd["molecule in a periodic box"].copy()
    free.pbc = False
    free.cell = None
    assert double.get_forces(free) == pytest.approx(double.get_forces(odd["molecule in a periodic box"]), abs=1e-8)
    assert double.get_forces(odd["slab"]) == pytest.approx(double.get_forces(odd["slab in a periodic box"]), abs=1e-8)
    pair = double.get_potential_energy(odd["two atoms out of reach"])
    alone = sum(double.get_potential_energy(Atoms(element)) for element in ("Na", "Cl"))
    assert pair == pytest.approx(alone, abs=1e-8)


def test_elements_never_seen_are_one_clear_error(base: AutoPeri) -> None:
    atoms = bulk("Po", "sc", a=3.3)
    atoms.calc = base.calculator()
    for ask in (atoms.get_potential_energy, atoms.get_forces, atoms.get_stress):
        with pytest.raises(StructureError, match="never trained on Po;"):
            ask()
    atoms.numbers[0] = 29
    assert np.isfinite(atoms.get_forces()).all()


def test_odd_crystals_relax_to_a_status_and_finite_numbers(base: AutoPeri) -> None:
    odd = {name: atoms for name, atoms in pictures().items() if atoms.pbc.all()} | {
        "never seen": bulk("Po", "sc", a=3.3)
    }
    given = deepcopy(odd)
    found = dict(zip(odd, base.relax_lattice(list(odd.values()), positions=True, steps=25), strict=True))
    for name, atoms in found.items():
        note = atoms.info["autoperi"]["relaxation"]
        assert note["status"] in {"converged", "max_steps", "failed"}, name
        assert np.isfinite(atoms.positions).all(), name
        assert np.isfinite(atoms.cell[:]).all(), name
        assert (note["status"] == "failed") == ("reason" in note)
        if note["status"] == "failed":
            assert atoms.cell[:] == pytest.approx(given[name].cell[:], abs=1e-12)
        else:
            assert np.isfinite(note["energy_eV_per_atom"])
    assert "never trained on Po" in found["never seen"].info["autoperi"]["relaxation"]["reason"]
    assert found["isolated atom in a periodic box"].info["autoperi"]["relaxation"]["status"] == "converged"
