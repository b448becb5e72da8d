"""The façade: what is asked is what comes back, the same whatever the batch, the threads and what ran before."""

from __future__ import annotations

import copy
import os
import pickle
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Composition, Lattice, Structure

from autoperi import AutoPeri
from autoperi.errors import AutoPeriWarning, GenerationInterrupted, RequestError, StructureError, WeightsError
from autoperi.hub.bundle import Bundle
from autoperi.symmetry.analysis import analyse


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Bundle) -> AutoPeri:
    return AutoPeri(tiny_bundle)


@pytest.fixture(scope="module")
def base() -> AutoPeri:
    return AutoPeri.from_pretrained()


def signature(structures: list[Structure]) -> list[tuple]:
    notes = [s.properties["autoperi"] for s in structures]
    return [
        (
            s.formula,
            s.lattice.matrix.tolist(),
            s.frac_coords.tolist(),
            n["index"],
            n["rank_score"],
            n["formation_energy_per_atom_eV"],
        )
        for s, n in zip(structures, notes, strict=True)
    ]


def number_of(s: Structure, symprec: float = 0.01) -> int:
    return analyse(s.lattice.matrix, s.frac_coords, [site.specie.Z for site in s], symprec=symprec).number


# --- generate: requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formula", ["NaCl", "SrTiO3", "TiO2", "Ca(OH)2", "LiFePO4", "Cu"])
def test_composition_is_exact(base: AutoPeri, formula: str) -> None:
    found = base.generate(formula, n=4, seed=0)
    assert len(found) == 4
    assert {s.composition.reduced_composition for s in found} == {Composition(formula).reduced_composition}


@pytest.mark.parametrize(
    ("formula", "group"), [("NaCl", 225), ("TiO2", 136), ("SrTiO3", "Pm-3m"), ("GaAs", 216), ("MgO", 186)]
)
def test_space_group_holds_at_tight_tolerance(base: AutoPeri, formula: str, group: int | str) -> None:
    from autoperi.symmetry.spacegroup import parse_space_group

    for s in base.generate(formula, n=2, space_group=group, seed=1):
        assert number_of(s) == parse_space_group(group)


def test_number_of_atoms(base: AutoPeri) -> None:
    assert {len(s) for s in base.generate("TiO2", n=5, num_atoms=6, seed=0)} == {6}
    assert {len(s) for s in base.generate("TiO2", n=5, num_atoms=(7, 13), seed=0)} <= {9, 12}
    assert all(8 <= len(s) <= 12 for s in base.generate(n=4, num_atoms=(8, 12), seed=0))


def test_de_novo_honours_elements(base: AutoPeri) -> None:
    for s in base.generate(n=5, chemical_system="Li-Fe-O", seed=0):
        assert {e.symbol for e in s.composition} == {"Li", "Fe", "O"}
    for s in base.generate(n=8, exclude_elements=["O", "F"], seed=0):
        assert not {"O", "F"} & {e.symbol for e in s.composition}


def test_number_of_elements(base: AutoPeri) -> None:
    assert {len(s.composition) for s in base.generate(n=6, num_elements=2, seed=0)} == {2}
    assert {len(s.composition) for s in base.generate(n=6, num_elements=(4, 5), num_atoms=(20, 40), seed=0)} <= {4, 5}
    for request, word in (
        ({"num_elements": 0}, "num_elements=0"),
        ({"num_elements": (3, 2)}, "ascending"),
        ({"num_elements": 100}, "loosen"),
    ):
        with pytest.raises(RequestError, match=word):
            base.generate(**request)
    with pytest.raises(RequestError, match="num_elements=3 excludes composition=NaCl, which has 2"):
        base.generate("NaCl", num_elements=3)
    with pytest.raises(RequestError, match="num_elements=2 excludes chemical_system"):
        base.generate(chemical_system="Li-Fe-O", num_elements=2)


def test_de_novo_gives_nothing_twice_and_ends_where_nothing_is_left(base: AutoPeri) -> None:
    with pytest.warns(AutoPeriWarning, match="crystals of any composition"):
        found = base.generate(n=200, chemical_system="Na-Cl", num_atoms=2, steps=0, seed=0, strict=False)
    assert 2 <= len(found) < 60
    assert len(
        {
            (s.properties["autoperi"]["space_group"], round(s.volume, 3), tuple(np.round(s.frac_coords.ravel(), 3)))
            for s in found
        }
    ) == len(found)


def test_no_atoms_overlap(base: AutoPeri) -> None:
    for s in base.generate(n=10, seed=5) + base.generate("Fe2O3", n=10, seed=5):
        assert s.properties["autoperi"]["min_distance_ratio"] >= 0.55
        assert s.is_valid(tol=0.5)


def test_composition_and_mapping_and_reduced_formula_are_one_request(base: AutoPeri) -> None:
    expected = signature(base.generate("NaCl", n=3, seed=0, rank="none"))
    assert signature(base.generate(Composition("Na2Cl2"), n=3, seed=0, rank="none")) == expected
    assert signature(base.generate({"Cl": 1, "Na": 1}, n=3, seed=0, rank="none")) == expected


# --- generate: reproducibility ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        {"composition": "NaCl", "n": 12, "num_atoms": (1, 8)},
        {"composition": None, "n": 10},
        {"composition": "TiO2", "n": 4, "space_group": 62, "num_atoms": 12},
    ],
)
def test_same_seed_same_crystals_whatever_the_batch_and_threads(base: AutoPeri, request_: dict) -> None:
    expected = None
    threads = torch.get_num_threads()
    try:
        for batch_size, count in ((1, 1), (7, 2), (64, 1)):
            torch.set_num_threads(count)
            got = signature(base.generate(**request_, seed=3, batch_size=batch_size))
            expected = expected or got
            assert got == expected
    finally:
        torch.set_num_threads(threads)


def test_fewer_are_the_first_of_more(base: AutoPeri) -> None:
    for composition in ("LiFePO4", None):
        more = signature(base.generate(composition, n=12, seed=4, rank="none"))
        assert signature(base.generate(composition, n=5, seed=4, rank="none")) == more[:5]


def test_seeds_differ_and_are_recorded(base: AutoPeri) -> None:
    one, two = base.generate(n=3, seed=1), base.generate(n=3, seed=2)
    assert signature(one) != signature(two)
    drawn = base.generate(n=2)
    seed = drawn[0].properties["autoperi"]["seed"]
    assert signature(base.generate(n=2, seed=seed)) == signature(drawn)


def test_nothing_global_changes(tiny: AutoPeri, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    before = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        torch.get_default_dtype(),
        dict(os.environ),
    )
    found = tiny.generate("NaCl", n=3, seed=0)
    tiny.relax_lattice(found)
    tiny.score(found)
    after = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        torch.get_default_dtype(),
        dict(os.environ),
    )
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err == ""


# --- generate: results -----------------------------------------------------------------------------------------------


def test_provenance(tiny: AutoPeri) -> None:
    (s,) = tiny.generate("NaCl", seed=7)
    note = s.properties["autoperi"]
    assert note["model"] == "tiny"
    assert note["seed"] == 7
    assert note["index"] == 0
    assert note["origin"] == "prototype"
    assert note["log_likelihood"] <= 0
    assert set(note["versions"]) >= {"autoperi", "torch"}
    (a,) = tiny.generate("NaCl", seed=7, as_ase=True)
    assert isinstance(a, Atoms)
    assert a.info["autoperi"] == note


def test_ranking_orders(base: AutoPeri) -> None:
    request: dict[str, Any] = {"composition": "SrTiO3", "n": 5, "num_atoms": (5, 10), "seed": 0}
    by_probability = [s.properties["autoperi"]["log_likelihood"] for s in base.generate(**request, rank="probability")]
    assert by_probability == sorted(by_probability, reverse=True)
    by_energy = [s.properties["autoperi"]["rank_score"] for s in base.generate(**request)]
    assert by_energy == sorted(by_energy)
    in_order = [s.properties["autoperi"]["index"] for s in base.generate(**request, rank="none")]
    assert in_order == sorted(in_order)


def test_callback_sees_each_crystal_before_ranking(tiny: AutoPeri) -> None:
    seen: list[Structure] = []
    found = tiny.generate("NaCl", n=4, seed=0, callback=seen.append)
    assert sorted(s.properties["autoperi"]["index"] for s in found) == [s.properties["autoperi"]["index"] for s in seen]


def test_interrupt_keeps_what_is_finished(tiny: AutoPeri) -> None:
    seen: list[Structure] = []

    def stop(structure: Structure) -> None:
        seen.append(structure)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(GenerationInterrupted) as caught:
        tiny.generate("NaCl", n=30, seed=0, callback=stop, batch_size=4)
    assert len(caught.value.finished) == 3
    assert caught.value.wanted == 30


def test_too_few_is_an_error_or_a_warning(base: AutoPeri) -> None:
    # H in a cell of one atom, cubic I-centred, cannot be many distinct crystals of group 1: every start is more
    # symmetric
    with pytest.raises(RequestError, match="of 3 crystals"):
        base.generate("Po", n=3, space_group=1, num_atoms=1, seed=0)
    with pytest.warns(AutoPeriWarning, match="of 3 crystals"):
        assert len(base.generate("Po", n=3, space_group=1, num_atoms=1, seed=0, strict=False)) < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"composition": "Xx2O"}, "'Xx'.*not an element"),
        ({"composition": "Fe2O3-"}, "'-' in it"),
        ({"composition": "Fe0O3"}, "amount of 0"),
        ({"composition": ""}, "empty"),
        ({"composition": "NaCl", "n": 0}, "n=0"),
        ({"composition": "NaCl", "n": -1}, "n=-1"),
        ({"composition": "NaCl", "n": True}, "n=True"),
        ({"composition": "NaCl", "num_atoms": 7}, "num_atoms=7.*use 8|num_atoms=7"),
        ({"composition": "NaCl", "num_atoms": 0}, "num_atoms=0"),
        ({"composition": "NaCl", "space_group": 231}, "231"),
        ({"composition": "NaCl", "space_group": "Fm-4m"}, "Fm-4m"),
        ({"composition": "LiFePO4", "space_group": 225, "num_atoms": 7}, r"Fm-3m \(225\)"),
        ({"composition": "NaCl", "exclude_elements": ["Na"]}, "Na, which exclude_elements"),
        ({"composition": "NaCl", "chemical_system": "Na-O"}, "chemical system"),
        ({"chemical_system": "Li-Xq"}, "'Xq'"),
        ({"chemical_system": "Li-O", "exclude_elements": ["O"]}, "both in chemical_system"),
        ({"composition": "NaCl", "target": {"band_gap": 1.0}}, "target"),
        ({"composition": "NaCl", "rank": "beauty"}, "rank='beauty'"),
        ({"composition": "NaCl", "steps": -1}, "steps=-1"),
        ({"composition": "NaCl", "seed": -1}, "seed=-1"),
        ({"composition": "NaCl", "batch_size": 0}, "batch_size=0"),
        ({"composition": "NaCl", "model": "gan"}, "model='gan'"),
    ],
)
def test_bad_requests_are_refused_before_any_work(
    tiny: AutoPeri, options: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoperi.pipelines.generate.run", lambda *_, **__: pytest.fail("work was started"))
    with pytest.raises(RequestError, match=message) as caught:
        tiny.generate(**options)
    assert "\n" not in str(caught.value)


# --- relax -----------------------------------------------------------------------------------------------------------


def strained(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell[:] @ np.array([[1.08, 0.02, 0], [0.02, 0.95, 0], [0, 0, 1.03]]), scale_atoms=True)
    return atoms


def test_relaxation_goes_towards_the_crystal(base: AutoPeri) -> None:
    true = bulk("MgO", "rocksalt", 4.25)

    def error(atoms: Atoms) -> float:
        return float(np.abs(atoms.cell.cellpar()[3:] - 60).mean())

    relaxed = base.relax_lattice(strained(true))
    assert error(relaxed) < 0.4 * error(strained(true))
    assert relaxed.get_volume() == pytest.approx(true.get_volume(), rel=0.08)


def test_relaxation_gives_back_kind_and_container(tiny: AutoPeri) -> None:
    atoms = strained(bulk("NaCl", "rocksalt", 5.6))
    atoms.info["mine"] = 1
    structure = Structure(
        Lattice(atoms.cell[:]), atoms.numbers, atoms.get_scaled_positions(), site_properties={"magmom": [1.0, 2.0]}
    )
    assert isinstance(tiny.relax_lattice(atoms), Atoms)
    assert tiny.relax_lattice(atoms).info["mine"] == 1
    out = tiny.relax_lattice((structure, atoms))
    assert isinstance(out, tuple)
    assert isinstance(out[0], Structure)
    assert out[0].site_properties["magmom"] == [1.0, 2.0]
    assert np.allclose(out[0].frac_coords, structure.frac_coords)
    assert "autoperi" not in structure.properties  # the input is left alone
    assert tiny.relax_lattice([]) == []


def test_relaxation_does_not_depend_on_description(base: AutoPeri) -> None:
    atoms = strained(bulk("ZnO", "wurtzite", 3.3, 5.2))
    plain = base.relax_lattice(atoms)
    turned = atoms.copy()
    turned.rotate(37, "x", rotate_cell=True)
    sheared = Atoms(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=np.array([[1, 1, 0], [0, 1, 0], [0, 2, 1]]) @ atoms.cell[:],
        pbc=True,
    )
    double = atoms * (1, 2, 1)
    for other, cells in ((turned, 1), (sheared, 1), (double, 2)):
        assert base.relax_lattice(other).get_volume() == pytest.approx(cells * plain.get_volume(), rel=1e-7)
    assert np.allclose(base.relax_lattice(turned).cell.cellpar(), plain.cell.cellpar(), atol=1e-6)


def test_relaxation_keeps_symmetry_and_reports(base: AutoPeri) -> None:
    swollen = bulk("Cu", "fcc", 4.1)
    relaxed = base.relax_lattice(swollen, fix_symmetry=True)
    assert analyse(relaxed.cell[:], relaxed.get_scaled_positions(), relaxed.numbers, symprec=1e-5).number == 225
    note = relaxed.info["autoperi"]["relaxation"]
    assert note["status"] in {"converged", "max_steps"}
    assert note["volume_ratio"] == pytest.approx(relaxed.get_volume() / swollen.get_volume(), rel=1e-5)
    assert base.relax_lattice(swollen, steps=0).get_volume() == pytest.approx(swollen.get_volume())


def test_isolated_atoms_stay(tiny: AutoPeri) -> None:
    alone = Atoms("Ar", cell=np.eye(3) * 20, pbc=True)
    assert np.allclose(tiny.relax_lattice(alone).cell[:], alone.cell[:])


def test_bad_crystals_are_refused(tiny: AutoPeri) -> None:
    good = bulk("Cu")
    flat, nan, free = good.copy(), good.copy(), good.copy()
    flat.cell[2] = flat.cell[1]
    nan.positions[0, 0] = np.nan
    free.pbc = (True, True, False)
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    for bad, message in ((flat, "volume"), (nan, "NaN"), (free, "periodic"), (mixed, "disorder"), ("NaCl", "str")):
        for method in (tiny.relax_lattice, tiny.score):
            with pytest.raises(StructureError, match=message):
                method([good, bad])


# --- score -----------------------------------------------------------------------------------------------------------


def test_score_is_a_table_like_the_input(base: AutoPeri) -> None:
    crystals = [bulk("NaCl", "rocksalt", 5.6), bulk("Si", "diamond", 5.43), bulk("Cu", "fcc", 3.6)]
    table = base.score(pd.Series(crystals, index=["salt", "silicon", "copper"]))
    assert table.index.tolist() == ["salt", "silicon", "copper"]
    assert table["space_group"].tolist() == [225, 227, 225]
    assert table["valid"].tolist() == [True, True, True]
    assert table.loc["salt", "formation_energy_per_atom_eV"] == pytest.approx(-2.1, abs=0.25)
    assert abs(table.loc["copper", "formation_energy_per_atom_eV"]) < 0.2
    assert table.loc["salt", "min_distance_A"] == pytest.approx(2.8)


def test_score_agrees_with_generate(base: AutoPeri) -> None:
    found = base.generate("SrTiO3", n=3, seed=0)
    table = base.score(found)
    notes = [s.properties["autoperi"] for s in found]
    assert np.allclose(
        table["formation_energy_per_atom_eV"], [n["formation_energy_per_atom_eV"] for n in notes], atol=1e-5
    )
    assert table["space_group"].tolist() == [n["space_group"] for n in notes]
    # score asks the prior alone; what generate says is that mixed with the orbit network, which agrees about such a
    # common crystal
    assert table["log_likelihood"].iloc[0] == pytest.approx(notes[0]["log_likelihood"], abs=0.5)


def test_score_of_chosen_properties_and_hull(base: AutoPeri) -> None:
    salt = bulk("NaCl", "rocksalt", 5.6)
    assert list(base.score(salt, properties=["density"]).columns) == ["density_g_per_cm3", "volume_per_atom_A3"]
    table = base.score(salt, references={"NaCl": -2.0, "Na": 0.0, "Cl2": 0.0})
    energy = table["formation_energy_per_atom_eV"].iloc[0]
    assert table["energy_above_hull_eV"].iloc[0] == pytest.approx(energy + 2.0, abs=1e-5)
    assert pd.isna(base.score(bulk("Cu"), references={"NaCl": -2.0})["energy_above_hull_eV"].iloc[0])
    for bad in ({}, {"Xx": 1.0}, {"NaCl": float("nan")}):
        with pytest.raises(RequestError, match="references"):
            base.score(salt, references=bad)
    with pytest.raises(RequestError, match="beauty"):
        base.score(salt, properties=["beauty"])


# --- models ----------------------------------------------------------------------------------------------------------


def test_save_and_load_round_trip(tiny: AutoPeri, tmp_path) -> None:
    tiny.save_pretrained(tmp_path / "mine")
    again = AutoPeri.from_pretrained(tmp_path / "mine")
    assert signature(again.generate("NaCl", n=3, seed=0)) == signature(tiny.generate("NaCl", n=3, seed=0))
    single = AutoPeri.from_pretrained(tmp_path / "mine", dtype=torch.float32)
    atoms = strained(bulk("NaCl", "rocksalt", 5.6))
    assert np.allclose(single.relax_lattice(atoms).cell[:], again.relax_lattice(atoms).cell[:], atol=1e-3)


def test_known_weight(base: AutoPeri) -> None:
    before = base.settings
    other = base.with_settings(known_weight=0.0)
    assert other.settings.known_weight == 0.0
    assert base.settings is before
    assert base.settings.known_weight > 0
    with pytest.raises(RequestError, match="known_weight=2"):
        base.with_settings(known_weight=2)
    with pytest.raises(RequestError, match=r"'known_weihgt' is no setting; choose from .*known_weight"):
        base.with_settings(known_weihgt=1)
    both = other.with_settings(denovo_known=1.0)
    assert (both.settings.known_weight, both.settings.denovo_known) == (0.0, 1.0)
    assert base.settings.denovo_known == other.settings.denovo_known == 0.0
    with pytest.raises(RequestError, match="denovo_known=-1"):
        base.with_settings(denovo_known=-1)


def test_list_pretrained() -> None:
    table = AutoPeri.list_pretrained()
    assert "autoperi-base" in table["name"].tolist()
    assert table.loc[table["name"] == "autoperi-base", "licence"].item() == "CC-BY-4.0"


# --- generate: one part alone ----------------------------------------------------------------------------------------


def test_the_prior_alone_gives_structure_types_as_they_are(base: AutoPeri) -> None:
    found = base.generate("SrTiO3", n=4, num_atoms=5, seed=0, model="prior", rank="none", steps=0)
    assert {s.properties["autoperi"]["origin"] for s in found} <= {"prototype", "prototype variant"}
    again = base.generate("SrTiO3", n=4, num_atoms=5, seed=1, model="prior", rank="none", steps=0)
    for one, other in zip(found, again, strict=True):  # nothing is drawn
        assert np.array_equal(one.lattice.matrix, other.lattice.matrix)


def test_the_flow_alone_owes_nothing_to_prototypes(base: AutoPeri) -> None:
    found = base.generate("SrTiO3", n=3, num_atoms=5, seed=0, model="autoperi-gnn", strict=False)
    assert {s.properties["autoperi"]["origin"] for s in found} <= {"orbits", "random"}
    assert "orbits" in {s.properties["autoperi"]["origin"] for s in found}
    assert all(s.composition.reduced_formula == "SrTiO3" for s in found)


def test_the_flow_alone_draws_no_cell_that_its_networks_do_not_know(base: AutoPeri) -> None:
    """Beyond 24 atoms there would be random crystals alone, in which no network has a part."""
    with pytest.raises(RequestError, match="up to 24 atoms, and the smallest that was asked for has 28"):
        base.generate("LiFePO4", num_atoms=28, model="autoperi-gnn")
    found = base.generate("LiFePO4", n=2, num_atoms=(14, 56), seed=0, model="autoperi-gnn", rank="none", strict=False)
    assert [s.properties["autoperi"]["origin"] for s in found] == ["orbits", "orbits"]
    assert all(len(s) <= 24 for s in found)


def test_parts_that_cannot_be_alone(base: AutoPeri, tiny: AutoPeri) -> None:
    with pytest.raises(RequestError, match="not a generator"):
        base.generate("NaCl", model="crystal-ball")
    with pytest.raises(RequestError, match="draws no compositions"):
        base.generate(model="autoperi-gnn")
    with pytest.raises(WeightsError, match="no flow"):
        tiny.generate("NaCl", model="autoperi-gnn")


def test_numbers_of_numpy_are_numbers(tiny: AutoPeri) -> None:
    found = tiny.generate(
        "NaCl", n=np.int64(1), num_atoms=np.int64(2), steps=np.int32(0), batch_size=np.int64(4), seed=np.int64(3)
    )
    assert signature(found) == signature(tiny.generate("NaCl", n=1, num_atoms=2, steps=0, seed=3))


@pytest.mark.parametrize(
    ("composition", "options", "words"),
    [
        ({"Na": "x", "Cl": 1}, {}, "'x' of Na"),
        ({"Na": None, "Cl": 1}, {}, "None of Na"),
        ({"Na": 1e12, "Cl": 1}, {}, "up to 1000"),
        ("NaCl", {"callback": 3}, "callback=3 cannot be called"),
    ],
)
def test_odd_values_are_refused_before_any_work(tiny: AutoPeri, composition, options: dict, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        tiny.generate(composition, **options)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda peri: pickle.loads(pickle.dumps(peri))])
def test_copies_and_pickles_are_the_same_model(tiny_bundle: Bundle, again: Any):
    peri = AutoPeri(tiny_bundle, device="cpu", dtype=torch.float32).with_settings(known_weight=0.5)
    found = peri.generate("NaCl", n=2, seed=0, progress=False)
    other = again(peri)
    assert (other.settings, other.dtype, other.device) == (peri.settings, peri.dtype, peri.device)
    assert signature(other.generate("NaCl", n=2, seed=0, progress=False)) == signature(found)


def test_passes_of_a_relaxation_are_no_steps_of_a_sampler(tiny: AutoPeri):
    with pytest.raises(RequestError, match=r"^steps=21 is not a number of relaxation passes; give an integer from 0"):
        tiny.relax_lattice([], steps=21)


def test_settings_take_the_numbers_of_numpy_and_refuse_those_no_float_holds(tiny: AutoPeri) -> None:
    changed = tiny.with_settings(relax_steps=np.int64(2), known_weight=np.float32(0.5)).settings
    assert (type(changed.relax_steps), type(changed.known_weight)) == (int, float)
    assert (changed.relax_steps, changed.known_weight) == (2, 0.5)
    for name in ("noise_steps", "energy_temperature"):
        with pytest.raises(RequestError, match=f"{name}=1000.* is not a setting"):
            tiny.with_settings(**{name: 10**400})


@pytest.mark.parametrize("options", [{"properties": 5}, {"properties": "formula"}, {"references": 5}])
def test_options_of_score_that_are_no_lists_are_refused(tiny: AutoPeri, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        tiny.score(bulk("Cu"), **options)
