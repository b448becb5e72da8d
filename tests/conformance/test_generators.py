"""Every generator through one suite: :func:`autoperi.testing.check_generator`."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_kinds import small_model

from autoperi import AutoPeri
from autoperi.errors import AutoPeriWarning, RequestError, WeightsError
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.testing import check_generator

PIPELINES = {
    "prototypes, cells relaxed": ((), {}),
    "prototypes and orbits, moved by the flow": (("autoperi_gnn", "orbit_network", "potential"), {}),
    "the orbit network alone": (("autoperi_gnn", "orbit_network"), {"model": "autoperi-gnn", "space_group": None}),
    "the prior alone": ((), {"model": "prior"}),
    "toy": (("toy",), {"steps": 3}),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_generator(name: str) -> None:
    kinds, options = PIPELINES[name]
    check_generator(AutoPeri(small_model(*kinds), device="cpu"), **options)


def test_the_bundled_model() -> None:
    check_generator(AutoPeri.from_pretrained(device="cpu"), ["NaCl", "SrTiO3"])


def test_a_model_without_energies_says_so_and_ranks_by_probability(tmp_path: Path) -> None:
    save_bundle(small_model("toy"), tmp_path / "toy")
    peri = AutoPeri.from_pretrained(tmp_path / "toy")
    with pytest.warns(AutoPeriWarning, match="'toy' predicts no energy.*ranked by probability"):
        found = peri.generate("NaCl", n=3, seed=0, steps=2, strict=False)
    assert [s.properties["autoperi"]["origin"] for s in found] == ["toy"] * len(found)
    assert all(s.properties["autoperi"]["formation_energy_per_atom_eV"] is None for s in found)


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
