"""AutoPeri within pymatgen's transformations, transmuters and histories, and in worker processes."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import FrozenInstanceError, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from joblib import Parallel, delayed
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.alchemy.materials import TransformedStructure
from pymatgen.alchemy.transmuters import StandardTransmuter
from pymatgen.core import Composition, Element, Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from pymatgen.transformations.advanced_transformations import SuperTransformation
from pymatgen.transformations.standard_transformations import (
    OxidationStateDecorationTransformation,
    SupercellTransformation,
)

from autoperi import AutoPeri
from autoperi.errors import AutoPeriWarning, RequestError, StructureError, WeightsError
from autoperi.interfaces.pymatgen import (
    GenerateTransformation,
    RelaxLatticeTransformation,
    SubstituteAndRelaxTransformation,
    load_model,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pymatgen.transformations.transformation_abc import AbstractTransformation

    from autoperi.hub import Bundle

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.94), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]
)
EACH = (
    GenerateTransformation(n=3, num_atoms=(2, 8), space_group="Fm-3m", target={"band_gap": 1}, generator="prior"),
    SubstituteAndRelaxTransformation({"Na": "K"}, steps=1),
    SubstituteAndRelaxTransformation(composition="KBr", n=4, place=2, seed=7, strict=True),
    RelaxLatticeTransformation(positions=True, fix_symmetry=True, steps=30, revision="v1", device="cpu"),
)


@pytest.fixture
def tiny(tiny_dir: Path) -> dict[str, Any]:
    return {"model": tiny_dir, "device": "cpu"}


def decoded(text: str) -> Any:
    return json.loads(text, cls=MontyDecoder)


def replayed(entry: dict[str, Any]) -> Structure:
    """What the transformation of an entry of a history makes of the structure that the entry names."""
    transformation = MontyDecoder().process_decoded({k: v for k, v in entry.items() if k != "input_structure"})
    made = transformation.apply_transformation(Structure.from_dict(entry["input_structure"]))
    assert isinstance(made, Structure)
    return made


# --- as pymatgen uses them -------------------------------------------------------------------------------------------


def test_one_to_many_with_a_ranked_list(tiny: dict[str, Any]) -> None:
    transformation = GenerateTransformation(n=3, seed=4, **tiny)
    assert transformation.is_one_to_many
    assert transformation.inverse is None
    assert not transformation.use_multiprocessing
    expected = AutoPeri.from_pretrained(tiny["model"], device="cpu").generate("NaCl", n=3, seed=4)
    assert transformation.apply_transformation(SALT) == expected[0]
    ranked: Any = transformation.apply_transformation(SALT, return_ranked_list=True)
    assert [x["structure"] for x in ranked] == expected
    for k, (entry, structure) in enumerate(zip(ranked, expected, strict=True)):
        note = structure.properties["autoperi"]
        assert entry["structure"].properties["autoperi"] == note
        assert entry["energy"] == pytest.approx(note["formation_energy_per_atom_eV"] * len(structure))
        assert entry["log_likelihood"] == note["log_likelihood"]
        assert entry["transformation"] == replace(transformation, place=k)
        assert entry["transformation"].apply_transformation(SALT) == structure
    assert min(x["energy_above_minimum"] for x in ranked) == 0
    for number in (1, 2):
        assert len(transformation.apply_transformation(SALT, return_ranked_list=number)) == number


def test_transmuters_branch(tiny: dict[str, Any]) -> None:
    oxide = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    transmuter = StandardTransmuter.from_structures(
        [SALT, oxide],
        [SupercellTransformation([[1, 0, 0], [0, 1, 0], [0, 0, 2]]), GenerateTransformation(seed=0, **tiny)],
        extend_collection=3,
    )
    assert [t.final_structure.reduced_formula for t in transmuter.transformed_structures] == ["NaCl", "MgO"] + [
        "NaCl"
    ] * 2 + ["MgO"] * 2
    transmuter.append_transformation(RelaxLatticeTransformation(steps=1, **tiny))
    for made in transmuter.transformed_structures:
        assert [h["@class"] for h in made.history] == [
            "SupercellTransformation",
            "GenerateTransformation",
            "RelaxLatticeTransformation",
        ]
        assert made.history[1]["output_parameters"]["space_group"] in range(1, 231)
        note = made.final_structure.properties["autoperi"]
        assert note["seed"] == 0
        assert note["relaxation"]["model"] == "tiny"
    by_super = StandardTransmuter.from_structures(
        [SALT], [SuperTransformation([RelaxLatticeTransformation(**tiny), GenerateTransformation(**tiny)])], 2
    )
    assert len(by_super) == 2


def test_a_history_is_replayed_exactly(tiny: dict[str, Any]) -> None:
    made = TransformedStructure(SALT, [GenerateTransformation(**tiny), RelaxLatticeTransformation(steps=2, **tiny)])
    made.append_transformation(SubstituteAndRelaxTransformation({"Na": "K"}, **tiny), return_alternatives=2)
    before = made.final_structure
    rest = made.append_transformation(GenerateTransformation(**tiny), return_alternatives=3)
    assert len(rest) == 2
    for one in (made, *rest):
        again = TransformedStructure.from_dict(json.loads(json.dumps(one.as_dict())))
        assert again.final_structure == one.final_structure
        # pymatgen 2026.10 writes the last of a ranked list into the history of the first, where the input should be
        again.history[3]["input_structure"] = before.as_dict()
        for entry, after in zip(again.history, again.structures[1:], strict=True):
            assert replayed(entry) == after
            assert replayed(entry).properties == after.properties
    last = made.final_structure
    made.undo_last_change()
    assert made.final_structure != last
    made.redo_next_change()
    assert made.final_structure == last


@pytest.mark.parametrize("transformation", EACH, ids=lambda value: type(value).__name__)
def test_json(transformation: AbstractTransformation) -> None:
    plain = json.dumps(transformation.as_dict())
    assert plain == json.dumps(json.loads(json.dumps(transformation, cls=MontyEncoder)))
    for again in (
        decoded(plain),
        decoded(json.dumps(transformation, cls=MontyEncoder)),
        decoded(transformation.to_json()),
        type(transformation).from_dict(json.loads(plain)),
        pickle.loads(pickle.dumps(transformation)),
        eval(repr(transformation)),
    ):
        assert type(again) is type(transformation)
        assert again == transformation
        assert hash(again) == hash(transformation)
        assert repr(again) == repr(transformation)
        assert again.as_dict() == transformation.as_dict()


def test_different_options_are_different() -> None:
    assert len(set(EACH)) == len(EACH)
    assert EACH[0] != replace(EACH[0], n=4)
    assert EACH[0] != 3
    assert repr(RelaxLatticeTransformation(positions=True)) == "RelaxLatticeTransformation(positions=True)"
    with pytest.raises(FrozenInstanceError):
        EACH[0].n = 2  # type: ignore[misc]


def test_a_seed_is_drawn_once(tiny: dict[str, Any]) -> None:
    one, other = GenerateTransformation(**tiny), GenerateTransformation(**tiny)
    assert one.seed != other.seed
    assert one.apply_transformation(SALT) == one.apply_transformation(SALT)
    assert one.apply_transformation(SALT).properties["autoperi"]["seed"] == one.seed


# --- what the input means --------------------------------------------------------------------------------------------


def test_the_input_gives_a_composition_and_nothing_else(tiny: dict[str, Any]) -> None:
    transformation = GenerateTransformation(num_atoms=4, seed=1, **tiny)
    before = SALT.copy()
    expected = transformation.apply_transformation(SALT)
    assert expected.formula == "Na2 Cl2"
    assert before == SALT
    charged = OxidationStateDecorationTransformation({"Na": 1, "Cl": -1}).apply_transformation(SALT * (1, 1, 2))
    assert transformation.apply_transformation(charged) == expected
    disordered = Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Al": 0.5}], [[0, 0, 0]])
    assert GenerateTransformation(**tiny).apply_transformation(disordered).reduced_formula == "AlCu"


def test_relaxing_is_relax_lattice(tiny: dict[str, Any]) -> None:
    strained = SALT.copy()
    strained.add_site_property("magmom", list(range(8)))
    strained.properties["id"] = "salt"
    strained.apply_strain([0.05, 0, 0])
    transformation = RelaxLatticeTransformation(steps=2, fix_symmetry=True, **tiny)
    assert not transformation.is_one_to_many
    relaxed = transformation.apply_transformation(strained)
    peri = AutoPeri.from_pretrained(tiny["model"], device="cpu")
    assert relaxed == peri.relax_lattice(strained, steps=2, fix_symmetry=True)
    assert relaxed.properties["id"] == "salt"
    assert relaxed.properties["autoperi"]["relaxation"]["passes"] <= 2
    assert relaxed.site_properties["magmom"] == list(range(8))
    with pytest.raises(StructureError, match="disorder"):
        transformation.apply_transformation(Structure(Lattice.cubic(3), [{"Cu": 0.5, "Al": 0.5}], [[0, 0, 0]]))


@pytest.mark.parametrize("species_map", [{"Sr": "Ba"}, {"Sr": "Ti", "Ti": "Sr"}, {"Ti": "Ba", "O": "F"}])
def test_a_species_map_is_taken_at_its_word(tiny: dict[str, Any], species_map: dict[str, str]) -> None:
    made = SubstituteAndRelaxTransformation(species_map, **tiny).apply_transformation(PEROVSKITE * (1, 1, 2))
    assert SpacegroupAnalyzer(made, symprec=0.01).get_space_group_number() == 221
    expected = PEROVSKITE.copy().replace_species(species_map)
    assert made.composition == expected.composition
    for crystal in (made, expected):  # the same corner of the cell, and the same centre
        crystal.sort(key=lambda site: site.specie.Z)
    shortest = [np.sort(crystal.distance_matrix / crystal.lattice.a, axis=1) for crystal in (made, expected)]
    assert shortest[0] == pytest.approx(shortest[1], abs=1e-6)


def test_substitution(tiny: dict[str, Any]) -> None:
    made = SubstituteAndRelaxTransformation({Element("Na"): Element("K"), "Rb": "Cs"}, **tiny).apply_transformation(
        SALT
    )
    assert made.formula == "K1 Cl1"
    assert made.properties["autoperi"]["origin"] == "like"
    ranked: Any = SubstituteAndRelaxTransformation({"Na": "K"}, **tiny).apply_transformation(SALT, 3)
    assert len(ranked) == 1
    with pytest.raises(RequestError, match="made only 1 crystals of 2"):
        SubstituteAndRelaxTransformation({"Na": "K"}, n=2, place=1, **tiny).apply_transformation(SALT)
    two = SubstituteAndRelaxTransformation(composition=Composition("BaZrO3"), n=2, seed=0, **tiny)
    assert two == SubstituteAndRelaxTransformation(composition={"Ba": 1.0, "Zr": 1.0, "O": 3.0}, n=2, seed=0, **tiny)
    ranked = two.apply_transformation(PEROVSKITE, return_ranked_list=True)
    assert [x["structure"].reduced_formula for x in ranked] == ["BaZrO3"] * 2
    assert ranked[0]["structure"] != ranked[1]["structure"]
    with pytest.warns(AutoPeriWarning, match="only 2 of 5"):
        assert len(two.apply_transformation(PEROVSKITE, return_ranked_list=5)) == 2
    with pytest.raises(RequestError, match="only 2 of 5"):
        replace(two, strict=True).apply_transformation(PEROVSKITE, return_ranked_list=5)
    with pytest.warns(AutoPeriWarning), pytest.raises(RequestError, match="only 2 crystals of 5"):
        replace(two, n=5, place=4).apply_transformation(PEROVSKITE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"species_map": {"K": "Na"}}, "NaCl has none of the elements K"),
        ({"species_map": {"Na": "Cl"}}, "makes two elements of NaCl one"),
        ({"composition": "KBr2"}, "ratio 1:1"),
    ],
)
def test_a_crystal_that_cannot_be_substituted(tiny: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        SubstituteAndRelaxTransformation(**options, **tiny).apply_transformation(SALT)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (
            GenerateTransformation,
            {"temperature": 3},
            r"\['temperature'\] are not known to GenerateTransformation; it ta",
        ),
        (GenerateTransformation, {"n": 0}, "n=0"),
        (GenerateTransformation, {"n": 2, "place": 2}, "place=2 is not a whole number from 0 to 1"),
        (GenerateTransformation, {"space_group": "Fm-3n3"}, "Fm-3n3"),
        (GenerateTransformation, {"num_atoms": 0}, "num_atoms"),
        (GenerateTransformation, {"target": {"colour": 1}}, "colour"),
        (GenerateTransformation, {"steps": -1}, "steps=-1"),
        (GenerateTransformation, {"finish": 1.5}, "finish=1.5"),
        (GenerateTransformation, {"rank": "beauty"}, "rank='beauty'"),
        (GenerateTransformation, {"seed": -1}, "seed=-1"),
        (GenerateTransformation, {"strict": "no"}, "strict='no' is neither True nor False"),
        (GenerateTransformation, {"model": 3}, "model=3 is no text"),
        (GenerateTransformation, {"revision": ["v1"]}, "revision"),
        (RelaxLatticeTransformation, {"steps": 21}, "steps=21"),
        (RelaxLatticeTransformation, {"steps": -1, "positions": True}, "steps=-1"),
        (RelaxLatticeTransformation, {"seed": 1}, "seed"),
        (SubstituteAndRelaxTransformation, {}, "either species_map"),
        (SubstituteAndRelaxTransformation, {"species_map": {"Na": "K"}, "composition": "KCl"}, "either species_map"),
        (SubstituteAndRelaxTransformation, {"species_map": {}}, "maps no element"),
        (SubstituteAndRelaxTransformation, {"species_map": {"Na": "Kk"}}, "'Kk' is not a chemical element"),
        (SubstituteAndRelaxTransformation, {"composition": "K-Cl"}, "no formula may"),
    ],
)
def test_options_are_refused_when_a_transformation_is_made(
    kind: type[AbstractTransformation], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        kind(**options)
    with pytest.raises(RequestError):
        MontyDecoder().process_decoded({"@module": kind.__module__, "@class": kind.__name__, **options})


@pytest.mark.parametrize(
    ("transformation", "kind", "words"),
    [
        (GenerateTransformation(model="autoperi-bsae"), WeightsError, "did you mean 'autoperi-base'"),
        (GenerateTransformation(device="tpu"), RequestError, "device='tpu'"),
        (GenerateTransformation(finish=5), WeightsError, "no potential"),
        (GenerateTransformation(target={"band_gap": 1}), RequestError, "predicts no band_gap"),
        (GenerateTransformation(generator="autoperi-gnn"), WeightsError, "no flow"),
        (GenerateTransformation(generator="diffusion"), RequestError, "autoperi-gnn, prior"),
        (GenerateTransformation(batch_size=0), RequestError, "batch_size=0"),
        (SubstituteAndRelaxTransformation({"Na": "K"}, finish=5), WeightsError, "no potential"),
        (RelaxLatticeTransformation(positions=True), RequestError, "needs a potential"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_are_refused_before_any_work(
    tiny: dict[str, Any], transformation: Any, kind: type[Exception], words: str
) -> None:
    given = {name: value for name, value in tiny.items() if transformation.as_dict()[name] in ("autoperi-base", "auto")}
    with pytest.raises(kind, match=words):
        replace(transformation, **given).apply_transformation(SALT)


def test_return_ranked_list_is_a_number(tiny: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="return_ranked_list=-1"):
        GenerateTransformation(**tiny).apply_transformation(SALT, return_ranked_list=-1)


# --- models and processes --------------------------------------------------------------------------------------------


def test_models_are_loaded_once_and_never_pickled(tiny: dict[str, Any]) -> None:
    transformation = RelaxLatticeTransformation(steps=0, **tiny)
    transformation.apply_transformation(SALT)
    loaded = load_model.cache_info().misses
    GenerateTransformation(**tiny).apply_transformation(SALT)
    assert load_model.cache_info().misses == loaded
    assert len(pickle.dumps(transformation)) < 1000
    assert pickle.loads(pickle.dumps(transformation)) == transformation


def test_a_directory_is_named_from_its_root(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_dir.parent)
    assert RelaxLatticeTransformation(model=type(tiny_dir)("tiny")).model == str(tiny_dir)


def test_the_commit_of_a_branch_is_recorded(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, *, revision: str | None, **_: Any) -> Bundle:
        asked.append((name, revision))
        return replace(tiny_bundle, revision="5ca1ab1e")

    monkeypatch.setattr("autoperi.hub.download.load_pretrained", load)
    transformation = GenerateTransformation(model="someone/crystals", revision="main", device="cpu")
    assert transformation.as_dict()["revision"] == "main"
    made = TransformedStructure(SALT)
    made.append_transformation(transformation)
    assert replayed(made.history[0]) == made.final_structure
    assert asked == [("someone/crystals", "main"), ("someone/crystals", "5ca1ab1e")]
    made.append_transformation(transformation, return_alternatives=2)
    assert [h["revision"] for h in made.history] == ["5ca1ab1e"] * 2
    load_model.cache_clear()


def test_spawned_processes(tiny: dict[str, Any]) -> None:
    transformation = GenerateTransformation(seed=3, **tiny)
    expected = transformation.apply_transformation(SALT)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(transformation.apply_transformation, SALT).result() == expected
    ranked = Parallel(n_jobs=2)(delayed(transformation.apply_transformation)(SALT, k) for k in (0, 1))
    assert ranked[0] == expected
    assert ranked[1][0]["structure"] == expected
    assert ranked[1][0]["transformation"] == transformation


def test_the_bundled_model() -> None:
    steps = [
        SubstituteAndRelaxTransformation({"Na": "K"}, seed=0, finish=2),
        RelaxLatticeTransformation(positions=True, fix_symmetry=True),
    ]
    made = TransformedStructure(SALT, steps)
    relaxed = made.final_structure
    assert relaxed.volume / len(relaxed) * 8 == pytest.approx(6.29**3, rel=0.05)  # potassium chloride
    assert relaxed.properties["autoperi"]["relaxation"]["status"] == "converged"
    assert replayed(made.history[0]) == made.structures[1]
    ranked: Any = GenerateTransformation(seed=0).apply_transformation(relaxed, return_ranked_list=2)
    note = ranked[0]["structure"].properties["autoperi"]
    assert ranked[0]["energy"] == pytest.approx(note["potential_energy_per_atom_eV"] * len(ranked[0]["structure"]))
    with pytest.raises(RequestError, match="hold NaCl in a primitive cell of 2 to 2 atoms"):
        GenerateTransformation(space_group=227, num_atoms=2).apply_transformation(SALT)


def test_a_ranked_list_of_a_model_without_energies(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = replace(tiny_bundle, name="prior", components={"prior": tiny_bundle.components["prior"]})
    AutoPeri(bundle).save_pretrained(tmp_path / "prior")
    transformation = GenerateTransformation(model=tmp_path / "prior", n=2, rank="probability", seed=0, device="cpu")
    ranked = transformation.apply_transformation(SALT, return_ranked_list=True)
    assert [(d["energy"], d["energy_above_minimum"]) for d in ranked] == [(None, None)] * 2


def test_what_is_no_structure_is_refused() -> None:
    with pytest.raises(StructureError, match="a NoneType is no pymatgen Structure"):
        GenerateTransformation().apply_transformation(None)  # type: ignore[arg-type]
