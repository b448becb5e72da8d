"""Names of models, and what else a user may write where a name is expected."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import update_pretrained
from update_pretrained import check_registry, update_registry

from autoperi.errors import WeightsError
from autoperi.hub import (
    Bundle,
    Component,
    check_card,
    list_pretrained,
    load_bundle,
    load_pretrained,
    resolve,
    save_bundle,
    store,
)


@pytest.fixture
def shelf(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that ships ``tiny`` and remembers two others."""
    weights = tmp_path / "weights"
    shutil.copytree(model, weights / "tiny")
    models = [
        {"name": "tiny", "aliases": ["small"], "description": "Tiny.", "licence": "CC-BY-4.0", "status": "active"},
        {"name": "old", "status": "retired", "reason": "trained on wrong stresses", "replacement": "tiny"},
        {"name": "absent", "status": "active"},
    ]
    (tmp_path / "registry.json").write_text(json.dumps({"format_version": 1, "models": models}))
    monkeypatch.setattr(store, "WEIGHTS_DIR", weights)
    monkeypatch.setattr(store, "REGISTRY_FILE", tmp_path / "registry.json")
    monkeypatch.chdir(tmp_path)
    return weights


def message(what: object) -> str:
    with pytest.raises(WeightsError) as caught:
        resolve(what)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bundled_name_and_alias(shelf: Path) -> None:
    for name in ("tiny", "small"):
        found = resolve(name)
        assert (found.kind, found.name, found.path) == ("bundled", "tiny", shelf / "tiny")
        assert load_pretrained(name).name == "tiny"


@pytest.mark.usefixtures("shelf")
def test_a_name_means_the_same_in_every_working_directory(tmp_path: Path, bundle: Bundle) -> None:
    save_bundle(bundle, tmp_path / "tiny")
    assert resolve("tiny").kind == "bundled"
    assert resolve("./tiny").kind == "directory"
    assert resolve(Path("tiny")).kind == "directory"


@pytest.mark.usefixtures("shelf")
def test_directories_and_repositories(tmp_path: Path) -> None:
    assert resolve(tmp_path).path == tmp_path
    assert resolve(str(tmp_path)).kind == "directory"
    assert resolve("owner/name").kind == "hub"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert resolve("owner/name").kind == "directory"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("tinny", ["'tinny'", "did you mean 'tiny'?", "owner/name"]),
        ("Tiny", ["did you mean 'tiny'?"]),
        ("zzzz", ["'zzzz'", "known are", "'small'"]),
        ("./none", ["'./none' does not exist"]),
        ("/none/at/all", ["'/none/at/all' does not exist"]),
        ("a/b/c", ["'a/b/c' does not exist"]),
        ("~/none", ["'~/none' does not exist"]),
        (Path("owner/none"), ["does not exist"]),
        (Path("none"), ["'none' does not exist"]),
        ("registry.json", ["is a file", "config.json"]),
        ("https://huggingface.co/owner/name", ["URL", "'owner/name'", "HF_ENDPOINT"]),
        ("~nobody-of-this-name/x", ["cannot be read"]),
        ("x" * 5000, ["cannot be read"]),
        ("a\0b", ["unknown model"]),
        (b"tiny", ["b'tiny'"]),
        ("", ["''"]),
        (None, ["None"]),
        (3, ["3"]),
        ("old", ["retired", "wrong stresses", "use 'tiny' instead"]),
        ("absent", ["not in", "force-reinstall"]),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_what_is_no_model(what: object, words: list[str]) -> None:
    text = message(what)
    assert all(word in text for word in words), text


def test_list(shelf: Path) -> None:
    models = list_pretrained()
    assert [m.name for m in models] == ["absent", "tiny", "old"]
    tiny = models[1]
    assert tiny.available
    assert tiny.size_bytes == sum(p.stat().st_size for p in (shelf / "tiny").iterdir())
    assert json.loads(json.dumps(tiny.to_dict()))["aliases"] == ["small"]
    assert not models[0].available
    assert models[2].to_dict()["reason"] == "trained on wrong stresses"


def test_update_registry(shelf: Path, bundle: Bundle) -> None:
    save_bundle(Bundle("more", bundle.components, bundle.metadata), shelf / "more")
    models = {m.name: m for m in update_registry()}
    assert set(models) == {"absent", "tiny", "old", "more"}
    assert set(models["tiny"].sha256) == {"config.json", "empnn.safetensors", "prior.safetensors"}
    assert models["tiny"].aliases == ("small",)
    assert models["more"].description == "A tiny model for tests."
    assert models["more"].licence == "CC-BY-4.0"
    assert check_registry() == [f"absent: no weights in '{shelf / 'absent'}'"]
    bundle.components["empnn"].config["width"] = 4
    save_bundle(bundle, shelf / "tiny")
    assert "python tools/update_pretrained.py" in check_registry()[1]
    update_registry()
    assert len(check_registry()) == 1


def test_update_registry_refuses(shelf: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(update_pretrained, "MAX_MODEL_BYTES", 100)
        with pytest.raises(WeightsError, match="keep to 100"):
            update_registry()
    (shelf / "tiny" / "empnn.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match="save the model again"):
        update_registry()
    save_bundle(bundle, shelf / "tiny")
    save_bundle(Bundle("one", {"c": Component()}), shelf / "another")
    with pytest.raises(WeightsError, match="must have the name of the model"):
        update_registry()


@pytest.mark.parametrize("text", ["", "{}", '{"models": [{}]}', '{"models": [{"name": "a", "colour": 1}]}'])
@pytest.mark.usefixtures("shelf")
def test_damaged_registry(tmp_path: Path, text: str) -> None:
    (tmp_path / "registry.json").write_text(text)
    with pytest.raises(WeightsError, match="reinstall"):
        list_pretrained()


def test_what_this_installation_ships() -> None:
    models = list_pretrained()
    assert models[0].name == store.DEFAULT_MODEL
    assert all(m.description and m.licence for m in models if m.status == "active")
    words = [word for m in models for word in (m.name, *m.aliases)]
    assert len(words) == len(set(words))
    assert [line for line in check_registry() if "no weights" not in line] == []
    for found in (load_bundle(m.directory) for m in models if m.available and m.status == "active"):
        weights = {file: digest for file, digest in found.sha256.items() if file.endswith(".safetensors")}
        assert check_card(found.card, sha256=weights) == []
    assert sum(m.size_bytes for m in models) <= update_pretrained.MAX_TOTAL_BYTES


def test_importing_is_light() -> None:
    code = (
        "import sys, autoperi.hub; autoperi.hub.list_pretrained(); "
        "sys.exit(bool({'torch', 'huggingface_hub'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60).returncode == 0
