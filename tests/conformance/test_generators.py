"""Every generator through one suite: :func:`autoperi.testing.check_generator`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from small_kinds import small_model

from autoperi import AutoPeri, registry
from autoperi.errors import AutoPeriWarning, RequestError, WeightsError
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.pipelines.request import make_request
from autoperi.testing import check_generator

PIPELINES = {
    "prototypes, cells relaxed": ((), {}),
    "prototypes and orbits, moved by the flow": (("autoperi_gnn", "orbit_network", "potential"), {}),
    "the orbit network alone": (("autoperi_gnn", "orbit_network"), {"model": "autoperi-gnn", "space_group": None}),
    "the prior alone": ((), {"model": "prior"}),
    "gemsdiff": (("gemsdiff",), {"steps": 3}),
    "score-langevin": (("score_langevin",), {"steps": 3}),
    "pgcgm": (("pgcgm",), {}),
    "toy": (("toy",), {"steps": 3}),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_generator(name: str) -> None:
    kinds, options = PIPELINES[name]
    check_generator(AutoPeri(small_model(*kinds), device="cpu"), **options)


def test_every_generator_of_the_registry_is_here() -> None:
    tried = {name for kinds, _ in PIPELINES.values() for name in kinds}
    assert tried >= {kind.name for kind in registry.KINDS if kind.role == "generator"}


def test_the_bundled_model() -> None:
    check_generator(AutoPeri.from_pretrained(device="cpu"), ["NaCl", "SrTiO3"])


@pytest.mark.parametrize(
    ("name", "options"), [("gemsdiff", {"steps": 5}), ("score-langevin", {"steps": 5}), ("pgcgm", {})]
)
def test_the_bundled_samplers(name: str, options: dict[str, int]) -> None:
    check_generator(AutoPeri.from_pretrained(name, device="cpu"), **options)


def test_a_model_without_energies_says_so_and_ranks_by_probability(tmp_path: Path) -> None:
    save_bundle(small_model("toy"), tmp_path / "toy")
    peri = AutoPeri.from_pretrained(tmp_path / "toy")
    with pytest.warns(AutoPeriWarning, match="'toy' predicts no energy.*ranked by probability"):
        found = peri.generate("NaCl", n=3, seed=0, steps=2, strict=False)
    assert [s.properties["autoperi"]["origin"] for s in found] == ["toy"] * len(found)
    assert all(s.properties["autoperi"]["formation_energy_per_atom_eV"] is None for s in found)


def test_sites_instead_of_a_composition() -> None:
    """The group makes atoms of the sites, which keep it; what contradicts them is refused before any work."""
    peri = AutoPeri(small_model("score_langevin"), device="cpu")
    with pytest.warns(AutoPeriWarning, match="'score_langevin' predicts no energy|only"):
        found = peri.generate(sites="NaCl2", space_group=10, n=2, seed=0, steps=3, strict=False)
    assert found
    for crystal in found:
        assert {e.symbol for e in crystal.composition.elements} == {"Na", "Cl"}
        assert SpacegroupAnalyzer(crystal, symprec=0.01).get_space_group_number() == 10
    for options, words in (
        ({"sites": "NaCl"}, "sites need a space group"),
        ({"sites": "NaCl", "composition": "NaCl", "space_group": 225}, "instead of composition=NaCl"),
        ({"sites": "NaX", "space_group": 225}, "'X', which is not an element"),
        ({"sites": "", "space_group": 225}, "sites='' is empty; give a formula such as 'LiFePO4'$"),
        ({"sites": "Na1.5Cl", "space_group": 225}, "not whole"),
        ({"sites": {"Na": 2.5}, "space_group": 225}, "not whole"),
        ({"sites": "Na61", "space_group": 225}, "at most 60"),
        ({"sites": "NaCl", "space_group": 225, "exclude_elements": "Na"}, "contains Na, which exclude_elements"),
        ({"sites": "NaCl", "space_group": 225, "chemical_system": "Li-O"}, "not of the chemical system Li-O"),
        ({"sites": "NaCl", "space_group": 225, "num_elements": 3}, "num_elements=3 excludes sites"),
        ({"sites": "Na2Cl", "space_group": 225, "num_atoms": 2}, "at least 4 atoms.*num_atoms=2"),
        ({"sites": "H60", "space_group": 225}, "at least 346 atoms.*default limit of 60"),
        ({"sites": "NaCl", "space_group": 231}, "231"),
    ):
        with pytest.raises(RequestError, match=words) as caught:
            peri.generate(**options)
        assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match=r"does not honour sites.*'score-langevin'"):
        AutoPeri(small_model(), device="cpu").generate(sites="NaCl", space_group=225)


def test_what_is_drawn_holds() -> None:
    """A group that was drawn is found in what comes back, and the elements are those of the request."""
    peri = AutoPeri(small_model("pgcgm"), device="cpu")
    found = peri.generate(n=40, seed=3, rank="none", strict=False, progress=False)
    assert len(found) > 10
    groups = [SpacegroupAnalyzer(s, symprec=0.01).get_space_group_number() for s in found]
    assert set(groups) == {221, 225}
    drawn = {c.index: c.group.number for c in peri.pipeline.candidates(make_request(seed=3), range(400)) if c}
    for crystal, group in zip(found, groups, strict=True):
        said = crystal.properties["autoperi"]
        assert drawn[said["index"]] == group == said["space_group"]
        assert {e.symbol for e in crystal.composition} in ({"Na", "Cl"}, {"Sr", "Ti", "O"})
    for options, words in (
        ({"composition": "NaCl"}, "does not honour composition"),
        ({"space_group": 62}, "space group 62 is none"),
        ({"chemical_system": "Na-Au"}, "Au occurs in no crystal"),
        ({"steps": 5}, "does not honour steps"),
    ):
        with pytest.raises(RequestError, match=words):
            peri.generate(**options)


def test_what_a_model_lacks_is_refused_in_one_line(tiny_bundle: Bundle) -> None:
    toy = AutoPeri(small_model("toy"))
    salt = AutoPeri(tiny_bundle).generate("NaCl", seed=0)[0]
    for refused, error, words in (
        (lambda: toy.generate("NaCl", finish=3), WeightsError, "no potential"),
        (lambda: toy.generate("NaCl", target={"band_gap": 1.0}), RequestError, "predicts no band_gap"),
        (lambda: toy.generate("NaCl", space_group=225), RequestError, "'toy' does not honour space_group"),
        (lambda: toy.generate("NaCl", model="prior"), RequestError, "does not honour model"),
        (lambda: toy.generate(), RequestError, "draws no compositions"),
        (lambda: toy.relax_lattice(salt), WeightsError, "no component 'lattice_relaxer'"),
        (lambda: toy.relax_lattice(salt, positions=True), RequestError, "needs a potential"),
        (lambda: toy.log_likelihood(salt), WeightsError, "no component 'autoperi_gnn'"),
        (lambda: toy.calculator(), WeightsError, "no component 'potential'"),
        (lambda: toy.score(salt, properties=["formation_energy"]), RequestError, "predicts no formation_energy"),
    ):
        with pytest.raises(error, match=words) as caught:
            refused()
        assert "\n" not in str(caught.value)
    table = toy.score(salt)
    assert "formation_energy_per_atom_eV" not in table
    assert table["space_group"].tolist() == [225]


def test_a_model_that_only_relaxes(tiny_bundle: Bundle) -> None:
    relaxer = AutoPeri(Bundle("relaxer", {"empnn": tiny_bundle.components["empnn"]}))
    salt = AutoPeri(tiny_bundle).generate("NaCl", seed=0)[0]
    assert relaxer.relax_lattice(salt).properties["autoperi"]["relaxation"]["status"]
    with pytest.raises(WeightsError, match="no component 'prior', which the prototype pipeline needs"):
        relaxer.generate("NaCl")


def toy_with(process: Any) -> AutoPeri:
    """The toy's network with another process."""
    peri = AutoPeri(small_model("toy"), device="cpu")
    vars(peri)["pipeline"] = replace(peri.pipeline, process=process)
    return peri


def test_a_sampler_whose_crystals_all_fail_ends() -> None:
    from toy_crystals.process import ToyProcess

    with pytest.raises(RequestError, match=r"only 0 of 1 crystals of NaCl .* 210 with atoms too close"):
        toy_with(ToyProcess(volume=0.5)).generate("NaCl", seed=0, steps=1, rank="none")


@pytest.mark.parametrize("fault", ["NaN at the end", "NaN on the way", "no volume at the end"])
def test_a_crystal_that_comes_apart_takes_no_other_with_it(fault: str) -> None:
    from toy_crystals.process import CellAndTorus, ToyProcess

    class Breaking(ToyProcess):
        """Crystals of four atoms lose their lattice."""

        def step(self, state: Any, prediction: Any, t: float, dt: float, generators: Any) -> Any:
            batch = super().step(state, prediction, t, dt, generators).batch
            if fault != "NaN on the way" and t + dt < 1:
                return CellAndTorus(batch)
            broken = (batch.n_atoms == 4)[:, None, None]
            value = 0.0 if "volume" in fault else torch.nan
            return CellAndTorus(batch.replace(lattice=torch.where(broken, value, batch.lattice)))

    peri = toy_with(Breaking())
    found = [
        peri.generate("NaCl", n=4, seed=0, steps=2, rank="none", batch_size=size, progress=False) for size in (1, 3, 8)
    ]
    assert all(len(s) != 4 for s in found[0])
    indices = [[s.properties["autoperi"]["index"] for s in made] for made in found]
    assert indices[0] == indices[1] == indices[2]
    assert [s.lattice.matrix.tolist() for s in found[0]] == [s.lattice.matrix.tolist() for s in found[2]]


def test_a_sampler_takes_a_step_at_least() -> None:
    toy = AutoPeri(small_model("toy"))
    with pytest.raises(RequestError, match=r"steps=0 is not a number of steps of a process; give .* from 1 to 10000"):
        toy.generate("NaCl", steps=0)


@pytest.mark.parametrize("word", ["de novo", "like", "spacegroup"])
def test_what_a_sampler_cannot_hand_on_no_kind_supports(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small_model("toy")
    kind = replace(registry.kind_named("toy"), supports=("space_group", word))
    monkeypatch.setattr(registry, "kinds", lambda: {"toy": kind})
    with pytest.raises(WeightsError, match=f"supports {word}, which the pipeline 'sampler' cannot hand on"):
        AutoPeri(bundle).generate("NaCl")


def test_a_process_is_told_the_space_group() -> None:
    from toy_crystals.process import ToyProcess

    told = []

    class Listening(ToyProcess):
        def start(self, condition: Any, generators: Any) -> Any:
            told.append(condition.space_group)
            return super().start(condition, generators)

    peri = toy_with(Listening())
    vars(peri)["pipeline"] = replace(peri.pipeline, supports=peri.pipeline.supports | {"space_group"})
    found = peri.generate("NaCl", space_group=1, seed=0, steps=1, rank="none")
    assert [s.properties["autoperi"]["space_group"] for s in found] == [1]
    assert told[0].tolist() == [1]


def test_work_before_a_refusal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoperi.pipelines.sampler import SamplerPipeline

    monkeypatch.setattr(SamplerPipeline, "check", lambda *_: None)
    with pytest.raises(AssertionError, match=re.escape("is not refused before any work")):
        check_generator(AutoPeri(small_model("toy")), ["NaCl"], steps=2, n=1)
