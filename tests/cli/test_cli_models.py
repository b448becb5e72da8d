"""``autoperi models``, and models that every command refuses."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
from update_pretrained import update_registry

from autoperi.hub import store as registry
from autoperi.hub.bundle import save_bundle


@pytest.fixture
def model(tiny_dir, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(tiny_dir, tmp_path / "model")
    return tmp_path / "model"


def truncate(model):
    data = (model / "prior.safetensors").read_bytes()
    (model / "prior.safetensors").write_bytes(data[: len(data) // 2])


def change(model):
    data = bytearray((model / "empnn.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "empnn.safetensors").write_bytes(bytes(data))


def strip(model):
    config = json.loads((model / "config.json").read_text())
    del config["components"]["prior"]
    (model / "config.json").write_text(json.dumps(config))


def widen(model):
    config = json.loads((model / "config.json").read_text())
    config["components"]["empnn"]["config"]["width"] = 3
    (model / "config.json").write_text(json.dumps(config))


DAMAGE = {
    "truncated": (truncate, ["prior.safetensors", "truncated", "again"]),
    "pickle": (
        lambda m: (m / "empnn.safetensors").write_bytes(pickle.dumps([1])),
        ["empnn.safetensors", "pickle", "save_pretrained"],
    ),
    "changed": (change, ["empnn.safetensors", "sha256"]),
    "no config": (lambda m: (m / "config.json").unlink(), ["config.json", "save_pretrained"]),
    "no file": (lambda m: (m / "prior.safetensors").unlink(), ["prior.safetensors", "missing"]),
    "empty config": (lambda m: (m / "config.json").write_text(""), ["config.json", "cannot be read"]),
    "other version": (widen, ["'empnn'", "update AutoPeri"]),
}


@pytest.mark.parametrize("command", ["generate", "relax", "score", "train"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_models(cli, model, rock_salt, tmp_path, damage, command):
    spoil, words = DAMAGE[damage]
    spoil(model)
    before = set(tmp_path.rglob("*"))
    arguments = {
        "generate": ["NaCl", "--out", tmp_path / "new", "--model", model],
        "relax": [rock_salt, "--out", tmp_path / "x.cif", "--model", model],
        "score": [rock_salt, "--out", tmp_path / "x.csv", "--model", model],
        "train": [
            "formation_energy",
            "--data",
            rock_salt,
            "--val",
            rock_salt,
            "--out",
            tmp_path / "run",
            "--base",
            model,
        ],
    }[command]
    cli(command, *arguments, "--json").refused(*words)
    assert set(tmp_path.rglob("*")) == before


def test_a_model_without_a_prior_does_all_but_generate(cli, model, rock_salt, tmp_path):
    strip(model)
    before = set(tmp_path.rglob("*"))
    refused = cli("generate", "NaCl", "--out", tmp_path / "new", "--model", model, "--json")
    refused.refused("no component 'prior'", "prototype pipeline", "autoperi train prior")
    assert set(tmp_path.rglob("*")) == before
    cli("relax", rock_salt, "--out", tmp_path / "x.extxyz", "--model", model).done()
    cli("score", rock_salt, "--out", tmp_path / "x.csv", "--model", model).done()


@pytest.mark.parametrize(
    ("name", "words"), [("autoperi-bass", ["autoperi-base"]), ("./nowhere", ["does not exist"]), ("", ["not a name"])]
)
def test_unknown_models(cli, name, words):
    cli("generate", "NaCl", "--model", name).refused(*words)
    cli("models", "info", name).refused(*words)
    cli("models", "verify", name).refused(*words)


def test_a_revision_is_for_the_hub(cli, tiny_dir, tmp_path):
    cli("models", "download", tiny_dir, "--to", tmp_path / "x", "--revision", "v1").refused("'v1'", "leave it out")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "mps"])
def test_unknown_devices(cli, tiny_dir, device):
    cli("generate", "NaCl", "--model", tiny_dir, "--device", device).refused(f"'{device}'", "'cpu'")


def test_list(cli):
    ran = cli("models", "list").done()
    assert "autoperi-base" in ran.out
    (entry,) = [m for m in cli("models", "list", "--json").done().json["models"] if m["name"] == "autoperi-base"]
    assert entry["status"] == "active"


def test_info(cli, model):
    ran = cli("models", "info", model).done()
    assert "component    empnn" in ran.out
    assert "channels=8" in ran.out
    facts = cli("models", "info", model, "--json").done().json
    assert facts["name"] == "tiny"
    assert facts["kind"] == "directory"
    assert set(facts["components"]) == {"empnn", "formation_energy", "prior"}
    assert facts["components"]["prior"]["bytes"] == (model / "prior.safetensors").stat().st_size
    (model / "prior.safetensors").unlink()
    cli("models", "info", model).refused("prior.safetensors")


@pytest.fixture
def bundled(monkeypatch, tiny_bundle, tmp_path):
    """An installation with one model that is there, one that is not and one that is retired."""
    from dataclasses import replace

    entries = [
        {"name": "tiny", "aliases": ["small"], "description": "For tests.", "licence": "MIT"},
        {"name": "gone", "description": "Not in this wheel."},
        {"name": "old", "status": "retired", "reason": "it was wrong", "replacement": "tiny"},
    ]
    (tmp_path / "registry.json").write_text(json.dumps({"models": entries}))
    monkeypatch.setattr(registry, "REGISTRY_FILE", tmp_path / "registry.json")
    monkeypatch.setattr(registry, "WEIGHTS_DIR", tmp_path / "weights")
    save_bundle(replace(tiny_bundle, name="tiny"), tmp_path / "weights" / "tiny")
    update_registry()
    return tmp_path / "weights" / "tiny"


def test_bundled_models(cli, bundled):
    lines = cli("models", "list").done().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["gone", "active", "no"],
        ["tiny", "active", "yes"],
        ["old", "retired", "no"],
    ]
    assert cli("models", "info", "small", "--json").done().json["directory"] == str(bundled)
    assert cli("models", "info", "old", "--json").done().json["replacement"] == "tiny"
    assert cli("models", "info", "gone", "--json").done().json["available"] is False
    assert cli("generate", "NaCl", "--model", "small", "--json").done().json["provenance"]["model"] == "tiny"
    cli("generate", "NaCl", "--model", "old").refused("retired", "it was wrong", "'tiny'")
    cli("generate", "NaCl", "--model", "gone").refused("gone", "reinstall")


def test_verify(cli, model):
    ran = cli("models", "verify", model).done()
    assert [line.split()[:2] for line in ran.out.splitlines()[1:]] == [
        ["config.json", "yes"],
        ["empnn.safetensors", "yes"],
        ["formation_energy.safetensors", "yes"],
        ["prior.safetensors", "yes"],
    ]
    facts = cli("models", "verify", model, "--json").done().json
    assert facts["ok"] is True
    change(model)
    ran = cli("models", "verify", model)
    ran.refused("empnn.safetensors", "sha256")
    assert "no" in ran.out.splitlines()[2].split()
    assert "sha256" in cli("models", "verify", model, "--json").json["error"]


def test_verify_a_bundled_model(cli, bundled, tiny_bundle):
    cli("models", "verify", "tiny").done()
    save_bundle(tiny_bundle.__class__(name="tiny", components={"prior": tiny_bundle.components["prior"]}), bundled)
    cli("models", "verify", "tiny").refused("config.json", "reinstall")  # sound, but not the one that was released
    cli("models", "verify", "owner/name").refused("download it first")


def test_download(cli, model, tmp_path, tiny_bundle):
    copy = tmp_path / "deep" / "copy"
    assert "from_pretrained" in cli("models", "download", model, "--to", copy).done().out
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {p.name: p.read_bytes() for p in model.iterdir()}
    facts = cli("models", "download", model, "--to", copy, "--json").done().json
    assert facts["files"] == sorted(p.name for p in model.iterdir())
    save_bundle(tiny_bundle.__class__(name="other", components={"prior": tiny_bundle.components["prior"]}), copy)
    cli("models", "download", model, "--to", copy).refused("not empty", "--force")
    cli("models", "download", model, "--to", copy, "--force").done()
    cli("models", "verify", copy).done()
    cli("models", "download", model, "--to", "/proc/nowhere").refused("/proc/nowhere")
    cli("models", "download", model, "--to", model / "config.json").refused("config.json", "is a file")
