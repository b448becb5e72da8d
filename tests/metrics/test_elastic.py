"""Elastic constants against the equation of state, published EMT behaviour, and the criteria of each crystal system."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.eos import EquationOfState
from pymatgen.core import Lattice, Structure

from autoperi.errors import RequestError
from autoperi.evaluation.calculators import make_calculator, relax
from autoperi.metrics.elastic import born_stable, elastic, elastic_stability, moduli, point_group, symmetrised
from autoperi.metrics.relaxation import bare_atoms
from autoperi.units import EV_PER_A3_IN_GPA


@pytest.fixture(scope="module")
def emt():
    return make_calculator("emt")


def relaxed(atoms, calculator):
    found = relax([atoms], calculator, fmax=0.001)[0]
    assert found.status == "converged"
    return found.structure


def bulk_modulus(structure, calculator) -> float:
    """GPa, by the energy alone."""
    atoms = bare_atoms(structure)
    cell = np.array(atoms.cell[:])
    volumes, energies = [], []
    for s in np.linspace(0.98, 1.02, 9):
        atoms.set_cell(cell * s, scale_atoms=True)
        atoms.calc = calculator
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy())
    return EquationOfState(volumes, energies, eos="birchmurnaghan").fit()[2] * EV_PER_A3_IN_GPA


def cubic(c11, c12, c44):
    c = np.diag([c11] * 3 + [c44] * 3).astype(float)
    c[:3, :3] += c12 * (1 - np.eye(3))
    return c


class TestMetals:
    @pytest.mark.parametrize("symbol", ["Cu", "Al", "Au"])
    def test_bulk_modulus_is_that_of_the_equation_of_state(self, emt, symbol):
        structure = relaxed(bulk(symbol), emt)
        found = elastic(structure, emt)
        assert found["born_stable"] is True
        assert found["bulk_modulus_GPa"] == pytest.approx(bulk_modulus(structure, emt), rel=0.02)
        assert found["residual_stress_GPa"] < 0.05
        json.dumps(found)

    def test_shear_constant_is_the_curvature_of_the_energy(self, emt):
        structure = relaxed(bulk("Cu"), emt)
        atoms = bare_atoms(structure)
        cell, energies, gammas = np.array(atoms.cell[:]), [], np.linspace(-0.02, 0.02, 9)
        for g in gammas:
            strain = np.zeros((3, 3))
            strain[1, 2] = strain[2, 1] = g / 2
            atoms.set_cell(cell @ (np.eye(3) + strain), scale_atoms=True)
            atoms.calc = emt
            energies.append(atoms.get_potential_energy())
        c44 = 2 * np.polyfit(gammas, energies, 4)[2] / abs(np.linalg.det(cell)) * EV_PER_A3_IN_GPA
        assert elastic(structure, emt)["tensor_GPa"][3][3] == pytest.approx(c44, rel=0.02)

    def test_the_tensor_turns_with_the_crystal(self, emt):
        structure = relaxed(bulk("Cu"), emt)
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        turned = Structure(Lattice(structure.lattice.matrix @ turn.T), structure.species, structure.frac_coords)
        a, b = elastic(structure, emt), elastic(turned, emt)
        assert not np.allclose(a["tensor_GPa"], b["tensor_GPa"], atol=1)
        rotated = symmetrised(np.array(a["tensor_GPa"]), turn[None])
        assert np.allclose(rotated, b["tensor_GPa"], atol=0.5)
        assert a["bulk_modulus_GPa"] == pytest.approx(b["bulk_modulus_GPa"], rel=1e-3)

    @pytest.mark.parametrize(("kind", "a"), [("sc", 2.4), ("bcc", 2.85)])
    def test_simple_and_body_centred_copper_are_unstable(self, emt, kind, a):
        found = elastic(relaxed(bulk("Cu", kind, a=a), emt), emt)
        assert found["born_stable"] is False
        assert found["eigenvalues_GPa"][0] < -1
        assert found["bulk_modulus_GPa"] is None

    def test_atoms_relax_within_strained_cells(self, emt):
        crystal = relaxed(
            Structure(Lattice.hexagonal(2.56, 4.18), ["Cu", "Cu"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]), emt
        )
        free, clamped = elastic(crystal, emt, fmax=1e-3), elastic(crystal, emt, relax_positions=False)
        assert free["unrelaxed"] == 0
        assert free["tensor_GPa"][5][5] < clamped["tensor_GPa"][5][5] - 1  # freedom only softens
        c = np.array(free["tensor_GPa"])
        assert c[5, 5] == pytest.approx((c[0, 0] - c[0, 1]) / 2, rel=1e-3)  # hexagonal

    def test_argon(self):
        lj = make_calculator("lj", {"sigma": 3.4, "epsilon": 0.0104, "rc": 12.0, "smooth": True})
        crystal = relaxed(bulk("Ar", "fcc", a=5.25), lj)
        found = elastic(crystal, lj)
        c = np.array(found["tensor_GPa"])
        assert found["born_stable"] is True
        assert c[0, 1] == pytest.approx(
            c[3, 3], rel=0.02
        )  # Cauchy: pair forces, no pressure, every atom a centre of inversion
        assert found["bulk_modulus_GPa"] == pytest.approx(bulk_modulus(crystal, lj), rel=0.02)


class TestLinearAlgebra:
    def test_isotropic_moduli(self):
        k, g = 100.0, 40.0
        found = moduli(cubic(k + 4 * g / 3, k - 2 * g / 3, g))
        for name, value in found.items():
            assert value == pytest.approx(k if name.startswith("K") else g), name

    def test_cubic_moduli_by_hand(self):
        c11, c12, c44 = 168.0, 121.0, 75.0
        found = moduli(cubic(c11, c12, c44))
        assert found["K_vrh"] == pytest.approx((c11 + 2 * c12) / 3)
        voigt, reuss = (c11 - c12 + 3 * c44) / 5, 5 * c44 * (c11 - c12) / (4 * c44 + 3 * (c11 - c12))
        assert found["G_vrh"] == pytest.approx((voigt + reuss) / 2)

    def test_moduli_of_a_triclinic_tensor_against_pymatgen(self):
        from pymatgen.core.elasticity.elastic import ElasticTensor

        a = np.random.default_rng(1).normal(size=(6, 6))
        c = a @ a.T + 3 * np.eye(6)
        theirs = ElasticTensor.from_voigt(c)
        ours = moduli(c)
        assert ours["K_vrh"] == pytest.approx(theirs.k_vrh)
        assert ours["G_vrh"] == pytest.approx(theirs.g_vrh)

    def test_symmetrising_against_pymatgen(self):
        from pymatgen.core.elasticity.elastic import ElasticTensor

        a = np.random.default_rng(2).normal(size=(6, 6))
        c = a @ a.T
        crystal = Structure.from_spacegroup(
            152, Lattice.hexagonal(4.9, 5.4), ["Si", "O"], [(0.47, 0, 1 / 3), (0.41, 0.27, 0.11)]
        )
        theirs = ElasticTensor.from_voigt(c).fit_to_structure(crystal, symprec=0.01).voigt
        ours = symmetrised(c, point_group(bare_atoms(crystal)))
        assert np.allclose(ours, theirs, atol=1e-6)
        assert abs(ours[0, 3]) > 1e-3  # trigonal: C14 is allowed
        assert ours[0, 3] == pytest.approx(-ours[1, 3])

    def test_eigenvalues_agree_with_the_criteria_of_each_system(self):
        """Mouhat & Coudert 2014: cubic eq. 9, hexagonal and tetragonal I eq. 10, orthorhombic eq. 21."""
        rng = np.random.default_rng(3)
        verdicts = []
        for _ in range(400):
            c11, c12, c13, c33, c44, c66 = rng.uniform(-50, 150, 6)
            closed = [
                (cubic(c11, c12, c44), c11 - c12 > 0 and c11 + 2 * c12 > 0 and c44 > 0),
            ]
            for c66_ in (c66, (c11 - c12) / 2):
                c = np.diag([c11, c11, c33, c44, c44, c66_])
                c[0, 1] = c[1, 0] = c12
                c[0, 2] = c[2, 0] = c[1, 2] = c[2, 1] = c13
                closed.append((c, c11 > abs(c12) and 2 * c13**2 < c33 * (c11 + c12) and c44 > 0 and c66_ > 0))
            o = np.diag(rng.uniform(-20, 150, 6))
            o[0, 1], o[0, 2], o[1, 2] = rng.uniform(-60, 60, 3)
            o = o + np.triu(o, 1).T
            minor = o[0, 0] * o[1, 1] > o[0, 1] ** 2
            closed.append((o, o[0, 0] > 0 and minor and np.linalg.det(o[:3, :3]) > 0 and (np.diag(o)[3:] > 0).all()))
            for tensor, criterion in closed:
                verdicts.append(bool(criterion))
                assert born_stable(tensor) == bool(criterion)
        assert 100 < sum(verdicts) < len(verdicts) - 100


class TestFailures:
    def test_a_failed_crystal_has_a_reason(self, emt):
        found = elastic(Structure(Lattice.cubic(5), ["Xe"], [[0, 0, 0]]), emt)
        assert found["tensor_GPa"] is found["born_stable"] is found["bulk_modulus_GPa"] is None
        assert "Xe" in found["reason"]

    def test_not_a_number(self):
        class Broken(Calculator):
            implemented_properties = ("energy", "forces", "stress")

            def calculate(self, atoms=None, properties=None, system_changes=all_changes):
                super().calculate(atoms, properties, system_changes)
                self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.full(6, np.nan)}

        assert elastic(bulk("Cu"), Broken())["reason"] == "a stress is not finite"

    def test_summary(self, emt):
        crystals = [relaxed(bulk("Cu"), emt), bulk("Cu", "sc", a=2.4), Structure(Lattice.cubic(5), ["Xe"], [[0, 0, 0]])]
        summary, rows = elastic_stability(crystals, emt, progress=False, strains=(-0.005, 0.005))
        assert len(rows) == 3
        assert (summary["born_stable"]["value"], summary["born_stable"]["of"], summary["born_stable"]["missing"]) == (
            0.5,
            2,
            1,
        )
        assert summary["bulk_modulus_GPa"]["of"] == 1
        assert summary["parameters"]["strains"] == [-0.005, 0.005]
        json.dumps(summary)

    @pytest.mark.parametrize("strains", [(), (0.01,), (0.01, 0.02), (-0.01, 0.0), (-0.5, 0.5), (-0.01, float("nan"))])
    def test_bad_strains(self, emt, strains):
        with pytest.raises(RequestError, match="strains"):
            elastic(bulk("Cu"), emt, strains=strains)
