from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT

from autoperi.errors import DataError, RequestError
from autoperi.evaluation.potential import evaluate_potential
from autoperi.units import EV_PER_A3_IN_GPA

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

OFFSET = {"Cu": -2.0, "Ni": 0.7, "Al": 0.1}


def frames() -> list[Atoms]:
    """Eleven rattled and strained cells that EMT knows."""
    rng = np.random.default_rng(0)
    made = []
    for k, element in enumerate(["Cu", "Cu", "Cu", "Ni", "Ni", "Ni", "Al", "Al", "Cu", "Ni", "Al"]):
        atoms = bulk(element, cubic=True)
        if k >= 8:
            atoms.symbols[0] = ["Ni", "Al", "Cu"][k - 8]
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        made.append(atoms)
    return made


def rows() -> list[dict[str, Any]]:
    out = []
    for k, atoms in enumerate(frames()):
        atoms.calc = EMT()
        out.append(
            {
                "id": f"frame-{k}",
                "split": "test" if k != 2 else "train",
                "tag": f"{atoms.symbols[1]}/{'pure' if k < 8 else 'alloy'}",
                "lattice": atoms.cell[:].ravel(),
                "frac_coords": atoms.get_scaled_positions().ravel(),
                "atomic_numbers": atoms.numbers,
                "energy_eV": atoms.get_potential_energy(),
                "forces_eV_per_A": atoms.get_forces().ravel(),
                "stress_GPa": (atoms.get_stress(voigt=False) * EV_PER_A3_IN_GPA).ravel(),
            }
        )
    return out


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    pd.DataFrame(records).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("data") / "frames.parquet", rows())


class Shifted(EMT):
    """EMT with another zero of energy, forces half as large, and a pressure of 1 GPa."""

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = dict(self.results)
        self.results["energy"] += sum(OFFSET[s] for s in atoms.get_chemical_symbols())
        self.results["free_energy"] = self.results["energy"]
        self.results["forces"] = self.results["forces"] / 2
        self.results["stress"] = self.results["stress"] - np.array([1, 1, 1, 0, 0, 0]) / EV_PER_A3_IN_GPA


class Partial(Calculator):
    """No stress, and a failure wherever there is aluminium."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        if "Al" in atoms.get_chemical_symbols():
            raise RuntimeError("aluminium is not known")
        self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3))}


def test_emt_against_its_own_labels(table):
    found = evaluate_potential("emt", table, progress=False)
    assert found["n"] == 10, "the training frame is left out"
    for key in ("mae", "rmse", "mae_shifted"):
        assert found["energy"][key]["value"] == pytest.approx(0, abs=1e-5), key
    for key in ("mae", "rmse"):
        assert found["force"][key]["value"] == pytest.approx(0, abs=1e-5)
        assert found["stress"][key]["value"] == pytest.approx(0, abs=1e-5)
    assert found["force"]["cosine"]["value"] == pytest.approx(1)
    assert found["failed"] == found["no_stress"] == 0
    assert found["model"] == "emt"


def test_offsets_are_removed_and_errors_are_what_they_are(table):
    found = evaluate_potential(Shifted(), table, progress=False)
    test = [r for r in rows() if r["split"] == "test"]
    assert found["energy"]["mae"]["value"] > 100
    assert found["energy"]["mae_shifted"]["value"] == pytest.approx(0, abs=1e-5)
    assert found["element_energies"] == pytest.approx(OFFSET, abs=1e-5)
    forces = np.concatenate([r["forces_eV_per_A"] for r in test])
    assert found["force"]["mae"]["value"] == pytest.approx(500 * np.abs(forces).mean(), rel=1e-5)
    assert found["force"]["rmse"]["value"] == pytest.approx(500 * np.sqrt((forces**2).mean()), rel=1e-5)
    assert found["force"]["cosine"]["value"] == pytest.approx(1)
    assert found["stress"]["pressure_mae"]["value"] == pytest.approx(1, abs=1e-5)
    assert found["stress"]["mae"]["value"] == pytest.approx(0.5, abs=1e-5)
    given = evaluate_potential(Shifted(), table, element_energies=OFFSET, progress=False)
    assert given["energy"]["mae_shifted"]["value"] == pytest.approx(0, abs=1e-5)
    assert given["element_energies_from"] == "given"


def test_groups_and_their_parents(table):
    found = evaluate_potential("emt", table, split=None, progress=False)
    groups = found["by_group"]
    assert {name: g["n"] for name, g in groups.items()} == {
        "Al": 3, "Al/alloy": 1, "Al/pure": 2, "Cu": 4, "Cu/alloy": 1, "Cu/pure": 3,
        "Ni": 4, "Ni/alloy": 1, "Ni/pure": 3,
    }  # fmt: skip
    only = evaluate_potential("emt", table, only=["Cu", "Ni/alloy"], progress=False)
    assert only["n"] == 4
    assert "by_group" not in evaluate_potential("emt", table, group=None, progress=False)


def test_failures_are_counted_with_their_reason(table):
    found = evaluate_potential(Partial(), table, progress=False)
    assert found["failed"] == 4
    assert found["failures"] == {"RuntimeError: aluminium is not known": 4}
    assert found["energy"]["mae"]["missing"] == 4
    assert found["force"]["missing_frames"] == 4
    assert found["no_stress"] == 6
    assert next(iter(found["no_stress_reasons"])).startswith(PropertyNotImplementedError.__name__)
    assert found["stress"]["mae"]["value"] is None
    assert found["stress"]["mae"]["reason"]
    series = found.pop("series")
    json.dumps(found, allow_nan=False)
    assert len(series["force_parity"]["x"]) == found["force"]["mae"]["of"]
    assert series["stress_parity"]["reason"] == "no stresses"


def test_missing_labels_are_counted(tmp_path):
    records = rows()
    records[0]["stress_GPa"] = None
    records[1]["energy_eV"] = None
    records[3]["forces_eV_per_A"] = None
    path = written(tmp_path / "holes.parquet", records)
    found = evaluate_potential("emt", path, split=None, progress=False)
    assert found["without_label"] == {"energy": 1, "forces": 1, "stress": 1}
    assert (
        found["energy"]["mae"]["missing"] == found["force"]["missing_frames"] == found["stress"]["missing_frames"] == 1
    )
    for part in ("energy", "force", "stress"):
        assert found[part]["mae"]["value"] == pytest.approx(0, abs=1e-5)


def test_draw_depends_on_the_seed_alone(table):
    first, again, other = (evaluate_potential(Shifted(), table, limit=5, seed=s, progress=False) for s in (0, 0, 1))
    assert first["n"] == 5
    assert first["energy"] == again["energy"]
    assert first["energy"] != other["energy"]
    assert first["parameters"] == {
        "calculator": first["calculator"],
        "split": "test",
        "group": "tag",
        "only": None,
        "element_energies": "fitted on the frames",
        "limit": 5,
        "seed": 0,
    }


def test_bad_requests(table, tmp_path):
    with pytest.raises(RequestError, match=r"'dev'.*test, train"):
        evaluate_potential("emt", table, split="dev")
    with pytest.raises(RequestError, match="Ge"):
        evaluate_potential("emt", table, only=["Ge"])
    with pytest.raises(RequestError, match="group None is none of"):
        evaluate_potential("emt", table, only=["Cu"], group=None)
    with pytest.raises(RequestError, match="nonsense"):
        evaluate_potential("nonsense", table)
    bare = [{k: v for k, v in r.items() if "_eV" not in k and "GPa" not in k} for r in rows()]
    with pytest.raises(DataError, match="has none of the columns"):
        evaluate_potential("emt", written(tmp_path / "bare.parquet", bare))
    for column in ("energy_eV", "stress_GPa"):
        words = rows()
        for record in words:
            record[column] = "low"
        with pytest.raises(DataError, match=f"{column} holds what is no"):
            evaluate_potential("emt", written(tmp_path / "words.parquet", words))
    short = rows()
    short[0]["forces_eV_per_A"] = short[0]["forces_eV_per_A"][:-1]
    with pytest.raises(DataError, match="holds 11 numbers where 12 belong"):
        evaluate_potential("emt", written(tmp_path / "short.parquet", short))
