"""Every kind of the registry: what its line names exists, it is saved and loaded, trained and resumed, and obeys the
laws.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from pymatgen.core import Lattice, Structure
from small_kinds import small_model, small_network

from autoperi import AutoPeri, registry
from autoperi.cli.main import main
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError, WeightsError
from autoperi.hub.bundle import Bundle, load_bundle, save_bundle
from autoperi.hub.networks import LoadedBundle, network_component
from autoperi.laws import check_batch_independent, check_invariant, check_lattice_field, random_orthogonal, rotated

NETWORKS = [kind.name for kind in registry.KINDS if not kind.built_from_component] + ["toy"]
TRAINED = [kind.name for kind in registry.KINDS if kind.task or kind.trainer] + ["toy"]
torch.set_num_threads(1)  # sums over several threads may differ in the last bit between two trainings
PRECISIONS = [torch.float32, torch.float64]


def skewed(dtype: torch.dtype, seed: int = 3) -> CrystalBatch:
    """Cells of low symmetry with one, three and six atoms."""
    g = torch.Generator().manual_seed(seed)
    cells = []
    for n in (1, 3, 6):
        lattice = torch.eye(3, dtype=torch.float64) * (18 * n) ** (1 / 3)
        lattice = lattice + 0.4 * torch.randn(3, 3, generator=g, dtype=torch.float64)
        frac = torch.rand(n, 3, generator=g, dtype=torch.float64)
        cells.append((lattice, frac, torch.randint(1, 90, (n,), generator=g)))
    return CrystalBatch.from_list(cells, dtype=dtype)


@pytest.mark.parametrize("name", [kind.name for kind in registry.KINDS] + ["toy"])
def test_what_a_line_names_exists(name: str) -> None:
    kind = registry.kind_named(name)
    assert callable(registry.load(kind.model))
    for reference in filter(None, (kind.process, kind.task, kind.trainer)):
        assert registry.load(reference) is not None
    assert kind.pipeline in {"", *registry.PIPELINES}
    assert registry.kind_named(kind.word) is kind
    assert kind.summary
    assert kind.summary == kind.summary.strip(".")
    if kind.role == "generator" and kind.pipeline:
        assert kind.process


def test_component_names_are_told_apart() -> None:
    names = [n for kind in registry.kinds().values() for n in kind.names if not kind.config_kind]
    assert len(names) == len(set(names))
    assert registry.kind_of("empnn", {"kind": "relaxer"}).name == "lattice_relaxer"
    assert registry.kind_of("empnn", {}).name == "empnn"
    assert registry.kind_of("flow", {}).name == "autoperi_gnn"
    assert registry.kind_of("crystal_ball", {}) is None
    with pytest.raises(RequestError, match="'empn' is no kind of network; did you mean 'empnn'"):
        registry.kind_named("empn")


class Entry:
    """An entry point."""

    value = "odd_package:KIND"

    def __init__(self, kind: object) -> None:
        self.name, self.kind = "odd", kind

    def load(self) -> object:
        if isinstance(self.kind, Exception):
            raise self.kind
        return self.kind


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (ImportError("no torch_odd"), r"cannot be loaded \(no torch_odd\)"),
        ("text", "is no autoperi.registry.Kind"),
        (registry.Kind("potential", "potential", "another", "odd:Net"), "is called 'potential', as another"),
        (registry.Kind("flow", "generator", "an older name", "odd:Net"), "is called 'flow', as another"),
        (registry.Kind("odd", "generator", "", "odd:Net", components=("prior",)), "is called 'prior', as another"),
        (registry.Kind("my-toy", "generator", "a hyphen", "odd:Net"), "is called 'my-toy', which is no name"),
    ],
)
def test_an_entry_point_that_is_no_kind_is_refused(
    kind: object, words: str, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [Entry(kind)])
    monkeypatch.setattr(registry, "kinds", registry.kinds.__wrapped__)
    with pytest.raises(WeightsError, match=rf"kind 'odd' of 'odd_package:KIND' {words}.*uninstall the package"):
        registry.kinds()
    # what AutoPeri itself knows asks no other package
    AutoPeri(tiny_bundle)
    assert registry.kind_named("empnn").name == "empnn"
    with pytest.raises(WeightsError, match="uninstall the package"):
        registry.kind_of("crystal_ball", {})


def test_a_component_of_an_unknown_kind_is_refused(tiny_bundle: Bundle) -> None:
    other = {**tiny_bundle.components, "crystal_ball": tiny_bundle.components["empnn"]}
    with pytest.raises(WeightsError, match=r"'crystal_ball'.*does not know; install the package"):
        AutoPeri(Bundle("odd", other))


def test_two_components_for_one_part_are_refused(tiny_bundle: Bundle) -> None:
    twice = {**tiny_bundle.components, "lattice_relaxer": tiny_bundle.components["empnn"]}
    with pytest.raises(
        WeightsError, match=r"two components for one part, .* and 'lattice_relaxer'; take one of them out"
    ):
        AutoPeri(Bundle("odd", twice))


def test_a_potential_of_another_package_is_used_for_its_role(monkeypatch: pytest.MonkeyPatch) -> None:
    base = small_model()
    theirs = registry.Kind("their_potential", "potential", "another", "autoperi.models.potential:Potential")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [Entry(theirs)])
    monkeypatch.setattr(registry, "kinds", registry.kinds.__wrapped__)
    components = {("their_potential" if name == "potential" else name): c for name, c in base.components.items()}
    components.setdefault("their_potential", network_component(small_network("potential")))
    peri = AutoPeri(Bundle("theirs", components))
    assert peri.judge.potential is not None
    assert peri.pipeline is not None
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert peri.relax_lattice(salt, steps=1, positions=True).properties["autoperi"]["relaxation"]["status"]
    atoms = salt.to_ase_atoms()
    atoms.calc = peri.calculator()
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize("name", [None, "", "sampler", ["sampler"]])
def test_what_a_config_may_say_of_its_pipeline(name: object, tiny_bundle: Bundle) -> None:
    peri = AutoPeri(Bundle("odd", tiny_bundle.components, {"pipeline": name}))
    if not name:
        assert type(peri.pipeline).__name__ == "PrototypePipeline"
        return
    with pytest.raises(WeightsError, match="sampler"):
        peri.pipeline  # noqa: B018


def test_a_pipeline_of_an_unknown_name_is_refused(tiny_bundle: Bundle) -> None:
    peri = AutoPeri(Bundle("odd", tiny_bundle.components, {"pipeline": "crystal_ball"}))
    with pytest.raises(WeightsError, match="'crystal_ball'; known are prototype, sampler"):
        peri.generate("NaCl")


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    network = small_network(name)
    component = network_component(network)
    json.dumps(component.config)
    save_bundle(Bundle("one", {name: component}), tmp_path / "one")
    again = LoadedBundle(load_bundle(tmp_path / "one")).find(name, torch.float32)
    assert type(again) is type(network)
    assert again.config == network.config
    assert not again.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", [k.name for k in registry.KINDS if k.role in ("property", "baseline", "potential")])
def test_what_is_read_of_a_crystal_is_invariant(name: str, dtype: torch.dtype) -> None:
    network, batch = small_network(name).to(dtype), skewed(dtype)

    def read(crystals: CrystalBatch) -> torch.Tensor:
        if name == "property_heads":
            from autoperi.models.property_heads import encode

            encoder = small_network("formation_energy").to(dtype)
            return network(encode(encoder, crystals))["elastic"].mean
        if name == "potential":
            return network(crystals, derivatives=False).energy.to(dtype) / crystals.n_atoms
        return network(crystals)

    with torch.no_grad():
        # nearest neighbours of far cells differ where two are equally near
        if name in ("cgcnn", "crystal_transformer"):
            check_batch_independent(read, batch)
        check_invariant(read, batch)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", [k.name for k in registry.KINDS if k.role == "relaxer"])
def test_what_acts_on_a_lattice_turns_with_the_crystal(name: str, dtype: torch.dtype) -> None:
    with torch.no_grad():
        check_lattice_field(small_network(name).to(dtype), skewed(dtype))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", ["toy"])
def test_a_prediction_turns_with_the_crystal(name: str, dtype: torch.dtype) -> None:
    """Displacements ``[N, 3]`` and strain rates ``[B, 3, 3]`` under rotations and reflections."""
    network, batch = small_network(name).to(dtype), skewed(dtype)

    class State:
        def __init__(self, crystals: CrystalBatch) -> None:
            self.batch = crystals

        def crystals(self) -> CrystalBatch:
            return self.batch

    turn = random_orthogonal(torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        moves, strain = network.predict(State(batch), 0.3, batch)
        moves_turned, strain_turned = network.predict(State(rotated(batch, turn)), 0.3, batch)
        check_lattice_field(lambda b: network.predict(State(b), 0.3, b)[1], batch)
    limit = 1e-4 if dtype == torch.float32 else 1e-9
    assert torch.allclose(moves_turned, moves @ turn.T, atol=limit)
    assert torch.allclose(strain_turned, turn @ strain @ turn.T, atol=limit)


def frames(folder: Path) -> list[str]:
    """Files of frames with energies, forces and stresses of ASE's own EMT."""
    import ase.io
    from ase.calculators.emt import EMT

    generator, images = np.random.default_rng(0), []
    for symbol in ("Cu", "Al", "Au", "Ni"):
        for _ in range(3):
            atoms = bulk(symbol, cubic=True)
            atoms.positions += generator.normal(0, 0.1, atoms.positions.shape)
            atoms.calc = EMT()
            atoms.get_stress()
            atoms.get_forces()
            images.append(atoms)
    for name, part in (("train", images[::2]), ("val", images[1::2])):
        ase.io.write(folder / f"{name}.extxyz", part)
    return [str(folder / "train.extxyz"), str(folder / "val.extxyz")]


@pytest.mark.parametrize("name", TRAINED)
def test_trained_saved_loaded_and_resumed(name: str, crystals: Path, tmp_path: Path) -> None:
    kind = registry.kind_named(name)
    data, val = (str(crystals / f"{part}.parquet") for part in ("train", "val"))
    if name == "potential":
        data, val = frames(tmp_path)
    save_bundle(small_model(), tmp_path / "base")
    words = ["train", kind.word, "--data", data, "--base", str(tmp_path / "base"), "--device", "cpu", "--quiet"]
    if kind.task:
        sizes = small_options(name).items()
        words += ["--val", val, "--batch-size", "8", *(w for k, v in sizes for w in ("--set", f"{k}={json.dumps(v)}"))]
    assert main([*words, "--out", str(tmp_path / "run"), "--epochs", "1"]) == 0
    assert main([*words, "--out", str(tmp_path / "run"), "--epochs", "2"]) == 2  # nothing is overwritten
    assert main([*words, "--out", str(tmp_path / "run"), "--epochs", "2", "--resume"]) == 0
    assert main([*words, "--out", str(tmp_path / "straight"), "--epochs", "2"]) == 0
    first, second = (load_bundle(tmp_path / run / "model") for run in ("run", "straight"))
    for key, value in second.components[name].tensors.items():
        assert torch.equal(value, first.components[name].tensors[key]), key
    assert kind.word in first.card
    LoadedBundle(first).find(name)


def small_options(name: str) -> dict[str, Any]:
    """For ``--set``: the numbers of the small config that are options, and what small data need."""
    from small_kinds import SMALL, SMALL_TASKS

    from autoperi.training.request import options_of

    network, _ = options_of(registry.kind_named(name))
    sizes = {k: v for k, v in SMALL[name].items() if k in network and isinstance(v, int)}
    return {**sizes, **SMALL_TASKS.get(name, {})}
