"""``autoperi train``: train, resume, load."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from autoperi import AutoPeri
from autoperi.data.io import read_table, write_crystals
from autoperi.hub import load_bundle
from autoperi.hub.bundle import save_bundle
from autoperi.hub.networks import network_component
from autoperi.models.cgcnn import load_cgcnn
from autoperi.models.crystal_transformer import load_crystal_transformer
from autoperi.models.lattice_relaxer import LatticeRelaxer
from autoperi.testing import tiny_crystals
from autoperi.training.prepare import tensor_crystals


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """``train.parquet`` and ``val.parquet`` with made-up labels."""
    folder = tmp_path_factory.mktemp("data")
    crystals = tiny_crystals()
    for k, crystal in enumerate(crystals):
        crystal.properties.update(
            formation_energy_per_atom=-0.1 * k, energy=float(k), label_origin="elsewhere" if k % 3 == 0 else None
        )
    crystals[1].properties["formation_energy_per_atom"] = None
    write_crystals(crystals[:18], folder / "train.parquet")
    write_crystals(crystals[18:], folder / "val.parquet")
    return folder


@pytest.fixture
def options(data, tiny_dir):
    return [
        "--data",
        data / "train.parquet",
        "--val",
        data / "val.parquet",
        "--base",
        tiny_dir,
        "--batch-size",
        8,
        "--device",
        "cpu",
        "--quiet",
    ]


def same(first, second):
    return all(
        torch.equal(first.tensors[key], second.tensors[key]) for key in first.tensors.keys() | second.tensors.keys()
    )


@pytest.mark.parametrize("component", ["empnn", "formation_energy"])
def test_train_resume_load(cli, options, tiny_bundle, tmp_path, component):
    run = tmp_path / "run"
    ran = cli("train", component, *options, "--out", run, "--epochs", 1).done()
    assert f"from_pretrained('{run / 'model'}')" in ran.out
    assert ran.err == ""
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["history.jsonl", "last.ckpt", "training.json"]
    first = load_bundle(run / "model")
    # again without --resume: nothing is overwritten
    cli("train", component, *options, "--out", run, "--epochs", 2).refused("earlier run", "--resume")
    assert load_bundle(run / "model").sha256 == first.sha256
    summary = cli("train", component, *options, "--out", run, "--epochs", 2, "--resume", "--json").done().json
    assert summary["summary"]["epochs"] == 2
    assert summary["summary"]["steps"] == 6
    assert summary["model"] == str(run / "model")
    resumed = load_bundle(run / "model")
    assert not same(resumed.components[component], first.components[component])
    # a run without a break gives the same weights, to the last bit
    cli("train", component, *options, "--out", tmp_path / "straight", "--epochs", 2).done()
    assert same(load_bundle(tmp_path / "straight" / "model").components[component], resumed.components[component])
    epochs = [json.loads(line)["epoch"] for line in (run / "checkpoints" / "history.jsonl").read_text().splitlines()]
    assert epochs == [0, 1]
    # the other components are those of the base, and the model works
    for name in {"empnn", "formation_energy", "prior"} - {component}:
        assert same(resumed.components[name], tiny_bundle.components[name])
    peri = AutoPeri.from_pretrained(run / "model", device="cpu")
    (crystal,) = peri.generate("NaCl", seed=0)
    assert crystal.properties["autoperi"]["model"] == "run"
    assert resumed.metadata["base_model"]["name"] == "tiny"
    assert "2 epochs" in resumed.card
    assert "autoperi train" in resumed.card
    assert str(tmp_path) not in resumed.card
    cli("models", "verify", run / "model").done()


def test_a_relaxer_is_trained_as_one(cli, options, tiny_bundle, tmp_path):
    """Models of earlier versions call it ``empnn``; its config says by its kind which of the two networks that is."""
    relaxer = network_component(LatticeRelaxer(channels=8, layers=1, hidden=8))
    save_bundle(replace(tiny_bundle, components={**tiny_bundle.components, "empnn": relaxer}), tmp_path / "base")
    changed = [tmp_path / "base" if k and options[k - 1] == "--base" else option for k, option in enumerate(options)]
    ran = cli("train", "lattice-relaxer", *changed, "--out", tmp_path / "run", "--epochs", 1, "--json").done().json
    assert ran["settings"]["model"] == "lattice_relaxer"
    assert "val_cube_lengths" in ran["summary"]["final"]
    components = load_bundle(tmp_path / "run" / "model").components
    assert "empnn" not in components  # one relaxer a model, by its own name now
    trained = components["lattice_relaxer"]
    assert trained.config == relaxer.config
    assert not same(trained, relaxer)
    (crystal,) = AutoPeri.from_pretrained(tmp_path / "run" / "model", device="cpu").generate("NaCl", seed=0)
    note = (
        AutoPeri.from_pretrained(tmp_path / "run" / "model", device="cpu")
        .relax_lattice(crystal)
        .properties["autoperi"]["relaxation"]
    )
    assert 0 < note["confidence"] <= 1
    assert note["expected_error"] > 0


@pytest.mark.parametrize(("name", "load"), [("cgcnn", load_cgcnn), ("crystal_transformer", load_crystal_transformer)])
def test_a_baseline_is_a_model_by_itself(cli, options, tmp_path, name, load):
    run = tmp_path / "run"
    ran = cli("train", name, *options, "--out", run, "--epochs", 1).done()
    assert f"load_{name}('{run / 'model'}')" in ran.out
    first = load_bundle(run / "model")
    assert list(first.components) == [name]
    assert f"load_{name}" in first.card
    assert "from_pretrained" not in first.card
    assert f"autoperi train {name.replace('_', '-')}" in first.card
    summary = cli("train", name, *options, "--out", run, "--epochs", 2, "--resume", "--json").done().json
    assert summary["base"] is None
    resumed = load_bundle(run / "model").components[name]
    cli("train", name, *options, "--out", tmp_path / "straight", "--epochs", 2).done()
    assert same(load_bundle(tmp_path / "straight" / "model").components[name], resumed)
    assert load(run / "model").config == first.components[name].config
    cli("models", "verify", run / "model").done()
    cli("generate", "NaCl", "--model", run / "model").refused("baseline", f"load_{name}", "autoperi-base")


def test_settings_need_not_be_repeated(cli, options, tmp_path, data, tiny_dir):
    run = tmp_path / "run"
    cli("train", "empnn", *options, "--out", run, "--epochs", 1, "--set", "channels=4", "--seed", 3).done()
    short = [
        "--data",
        data / "train.parquet",
        "--val",
        data / "val.parquet",
        "--base",
        tiny_dir,
        "--out",
        run,
        "--quiet",
        "--resume",
    ]
    summary = cli("train", "empnn", *short, "--epochs", 2, "--json").done().json
    assert summary["settings"]["seed"] == 3
    assert summary["settings"]["batch_size"] == 8
    assert summary["settings"]["model_config"]["channels"] == 4
    assert load_bundle(run / "model").components["empnn"].config["channels"] == 4
    cli("train", "empnn", *short, "--set", "channels=8").refused("channels=8", "differs from 4")
    cli("train", "empnn", *short, "--learning-rate", 0.5).refused("learning_rate=0.5", "differs from 0.002")
    cli("train", "formation_energy", *short).refused("model='formation_energy'", "'empnn'")
    (run / "checkpoints" / "training.json").write_text("{")
    cli("train", "empnn", *short).refused("training.json", "cannot be read")


def test_a_damaged_checkpoint(cli, options, tmp_path):
    cli("train", "empnn", *options, "--out", tmp_path / "run", "--epochs", 1).done()
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    cli("train", "empnn", *options, "--out", tmp_path / "run", "--epochs", 2, "--resume").refused(
        "last.ckpt", "cannot be read"
    )


def test_prior(cli, data, tiny_dir, tmp_path, monkeypatch):
    run, common = tmp_path / "prior", ["--data", data / "train.parquet", "--base", tiny_dir]
    ran = cli("train", "prior", *common, "--out", run, "--epochs", 1).done()
    assert ran.err.startswith("autoperi: epoch 0, loss ")
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["library.safetensors", "training.json"]
    first = load_bundle(run / "model")
    cli("train", "prior", *common, "--out", run, "--epochs", 1).refused("earlier run")
    with monkeypatch.context() as patch:
        patch.setattr(
            "autoperi.training.tasks.prior.learn_library", lambda *_, **__: pytest.fail("the library is there already")
        )
        summary = cli("train", "prior", *common, "--out", run, "--resume", "--json", "--quiet").done().json
    assert summary["summary"]["crystals"] == 18
    assert summary["settings"]["epochs"] == 1
    assert same(load_bundle(run / "model").components["prior"], first.components["prior"])
    assert cli("generate", "NaCl", "--model", run / "model", "--json").done().json["provenance"]["model"] == "prior"
    cli("train", "prior", "--data", data / "val.parquet", "--base", tiny_dir, "--out", run, "--resume").refused(
        "library.safetensors", "18"
    )
    cli("train", "prior", *common, "--out", tmp_path / "x", "--max-atoms", 1).refused("--max-atoms 1")


def test_prior_with_a_reference(cli, data, tiny_dir, tmp_path):
    table = pd.read_parquet(data / "train.parquet")
    table["source"] = ["mine" if k % 3 == 0 else "theirs" for k in range(len(table))]
    table.to_parquet(tmp_path / "with_source.parquet")
    common = ["--data", tmp_path / "with_source.parquet", "--base", tiny_dir, "--quiet", "--epochs", 1]
    cli("train", "prior", *common, "--out", tmp_path / "a", "--reference", "source=mine").done()
    weight = load_bundle(tmp_path / "a" / "model").components["prior"].tensors["member_weight"]
    assert int(weight.sum()) == int((table["source"] == "mine").sum())
    cli("train", "prior", *common, "--out", tmp_path / "a", "--resume", "--reference", "source=theirs").refused(
        "reference"
    )
    cli("train", "prior", *common, "--out", tmp_path / "b", "--reference", "nothing=mine").refused(
        "COLUMN=VALUE", "source"
    )
    cli("train", "prior", *common, "--out", tmp_path / "b", "--reference", "source=yours").refused(
        "source=yours", "no row"
    )


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("channels=0", "give 1 or more"),
        ("layers=0", "give 1 or more"),
        ("l_max=-1", "give 0 or more"),
        ("cutoff=NaN", "not a finite number"),
    ],
)
def test_options_that_make_no_network(cli, options, tmp_path, option, words, nothing_left):
    cli("train", "formation-energy", *options, "--out", tmp_path / "run", "--set", option).refused(
        option.split("=")[0], words
    )
    nothing_left()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("lattice=foo", "choose algebra or none or log_metric"),
        ("decode=foo", "choose cube or cell"),
        ("positions=foo", "choose jump or bridge"),
        ("ends=foo", "choose given or nearest"),
        ("knn=-1", "give 0 or more"),
        ("lattice_beta=[1]", "two numbers between 0 and 1"),
        ("lattice_beta=[0,0.1]", "two numbers between 0 and 1"),
        ("position_beta=[0.1,1.5]", "two numbers between 0 and 1"),
        ('position_beta=["a",0.1]', "two numbers between 0 and 1"),
        ("channels=7", "give an even number"),
        ("cutoff=0", "above 0"),
        ("l_max=1", "give 2 or 3"),
        ("l_max=9", "give 2 or 3"),
        ("weighted=3", "not of the type of its default"),
    ],
)
def test_options_that_make_no_diffusion(cli, options, tmp_path, option, words, nothing_left, monkeypatch):
    monkeypatch.setattr("autoperi.training.tasks.base.training_crystals", lambda *_, **__: pytest.fail("crystals read"))
    cli("train", "gemsdiff", *options, "--out", tmp_path / "run", "--set", option).refused(option.split("=")[0], words)
    nothing_left()


def test_a_network_that_cannot_be_made_is_refused_in_one_line(cli, options, tmp_path, nothing_left):
    cli("train", "crystal-transformer", *options, "--out", tmp_path / "run", "--set", "heads=0").refused("heads=0")
    nothing_left()


def test_options_are_listed(cli):
    listed = cli("train", "gemsdiff", "--options").done().out
    assert {"knn", "decode", "lattice_beta", "weighted", "ends"} <= set(listed.split())
    assert "adamw or muon" in " ".join(cli("train", "--help").out.split())


def test_a_kind_without_options_says_so(cli):
    assert "prior has no options" in cli("train", "prior", "--options").out


def test_interrupting(cli, options, tmp_path, monkeypatch):
    import signal

    import autoperi.training.run

    def stop(*_, **__):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Lightning does
        raise SystemExit(1)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(autoperi.training.run, "train", stop)
    ran = cli("train", "empnn", *options, "--out", tmp_path / "run")
    assert ran.code == 130
    assert ran.err.startswith("autoperi: interrupted; go on with the same command and --resume")
    assert ran.err.count("\n") == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_without_lightning(cli, options, tmp_path, monkeypatch, nothing_left):
    monkeypatch.setitem(sys.modules, "lightning", None)
    cli("train", "empnn", *options, "--out", tmp_path / "run").refused("Lightning", 'pip install "autoperi[train]"')
    nothing_left()


@pytest.mark.parametrize(
    ("component", "more", "words"),
    [
        ("empnn", ["--epochs", "0"], ["--epochs 0", "at least 1"]),
        ("empnn", ["--epochs", "-1"], ["--epochs -1"]),
        ("empnn", ["--batch-size", "0"], ["--batch-size 0"]),
        ("empnn", ["--learning-rate", "0"], ["--learning-rate 0.0"]),
        ("empnn", ["--learning-rate", "nan"], ["--learning-rate nan"]),
        ("empnn", ["--seed", "-1"], ["--seed -1"]),
        ("empnn", ["--seed", str(2**63)], [f"--seed {2**63}", "2**63 - 1"]),
        ("empnn", ["--set", "channels=-1"], ["channels=-1", "1 or more"]),
        ("empnn", ["--max-atoms", "0"], ["--max-atoms 0"]),
        ("empnn", ["--max-atoms", "1"], ["train.parquet", "1 atoms"]),
        ("empnn", ["--data", "missing.parquet"], ["missing.parquet", "does not exist"]),
        (
            "empnn",
            ["--data", "missing.parquet", "--base", "elsewhere"],
            ["missing.parquet"],
        ),  # before any network is built
        ("empnn", ["--base", "missing"], ["missing"]),
        ("empnn", ["--out", "/proc/nowhere"], ["/proc/nowhere"]),
        ("empnn", ["--device", "abacus"], ["'abacus'"]),
        ("formation_energy", ["--label", "beauty"], ["'beauty'", "formation_energy_per_atom"]),
        ("formation_energy", ["--label", "label_origin"], ["'label_origin'", "numbers"]),
        ("prior", [], ["--val", "does not apply"]),
        ("empnn", ["--reference", "a=b"], ["--reference a=b", "prior"]),
        ("empnn", ["--optimizer", "sgd", "--data", "missing.parquet"], ["'sgd'", "choose adamw or muon"]),
    ],
)
def test_refused(cli, options, tmp_path, nothing_left, component, more, words):
    cli("train", component, *options, "--out", tmp_path / "run", *more).refused(*words)
    nothing_left()


def test_validation_is_needed(cli, data, tmp_path, nothing_left):
    cli("train", "empnn", "--data", data / "train.parquet", "--out", tmp_path / "run").refused("--val")
    nothing_left()


def test_labels(data):
    table = read_table(data / "train.parquet")
    made = tensor_crystals(table)
    energy, weight = made.labels["formation_energy_per_atom"], made.labels["label_weight"]
    assert made.crystals.lattice.dtype == energy.dtype == weight.dtype == torch.float32
    assert torch.isnan(energy[1])
    assert energy[2:4].tolist() == pytest.approx([-0.2, -0.3])
    assert weight[:4].tolist() == pytest.approx([0.3, 1, 1, 0.3])
    assert tensor_crystals(table, label="energy").labels["formation_energy_per_atom"][5] == 5
    small = tensor_crystals(table, max_atoms=2)
    assert len(small) == int((torch.tensor([len(n) for n in table.atomic_numbers]) <= 2).sum())
    assert int(small.crystals.n_atoms.max()) <= 2
    assert bool(
        torch.isnan(tensor_crystals(table, label="nothing", required=False).labels["formation_energy_per_atom"]).all()
    )
