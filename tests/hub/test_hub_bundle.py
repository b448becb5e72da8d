"""Model directories: what is saved comes back, and everything damaged is named in one line with its remedy."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from autoperi.errors import AutoPeriError, WeightsError
from autoperi.hub import Bundle, Component, load_bundle, load_state, save_bundle, state_of, verify
from autoperi.hub.bundle import read_config

if TYPE_CHECKING:
    from collections.abc import Callable


def message(function: Callable[[], object]) -> str:
    """The text of the WeightsError that ``function`` raises, which must be one line."""
    with pytest.raises(WeightsError) as caught:
        function()
    text = str(caught.value)
    assert "\n" not in text
    assert isinstance(caught.value, (AutoPeriError, ValueError))
    return text


def edit(directory: Path, change: Callable[[dict], object]) -> Path:
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_round_trip(bundle: Bundle, tmp_path: Path) -> None:
    written = save_bundle(bundle, tmp_path / "deep" / "er")
    read = load_bundle(tmp_path / "deep" / "er")
    assert read.name == "tiny"
    assert read.source == str(tmp_path / "deep" / "er")
    assert read.revision is None
    assert list(read.components) == ["empnn", "prior"]
    for name, component in bundle.components.items():
        assert read.components[name].config == component.config
        assert same(read.components[name].tensors, component.tensors)
    assert bundle.metadata.items() <= read.metadata.items()
    assert set(read.metadata["versions"]) == {"e3nn", "torch"}
    assert read.sha256 == written
    for file, digest in written.items():
        assert hashlib.sha256((tmp_path / "deep" / "er" / file).read_bytes()).hexdigest() == digest
    assert sorted(p.name for p in (tmp_path / "deep" / "er").iterdir()) == sorted([*written, "README.md"])
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["er"]


def test_saving_again_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    save_bundle(load_bundle(model), tmp_path / "again")
    for path in model.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_saving_over_another_model(bundle: Bundle, model: Path) -> None:
    bundle.components["empnn"].tensors["layer.bias"] += 1
    save_bundle(bundle, model)
    assert torch.equal(load_bundle(model).components["empnn"].tensors["layer.bias"], torch.ones(3))
    assert [p.name for p in model.iterdir() if p.name.startswith(".")] == []


def test_a_card_of_ones_own_keeps_its_text_and_gets_new_checksums(bundle: Bundle, tmp_path: Path) -> None:
    bundle.card = "---\nlicense: mit\n---\n# Mine\n"
    save_bundle(bundle, tmp_path / "a")
    read = load_bundle(tmp_path / "a")
    read.components["prior"].tensors["counts"] += 1
    written = save_bundle(read, tmp_path / "b")
    card = (tmp_path / "b" / "README.md").read_text()
    assert card.startswith(bundle.card)
    assert card.count("empnn.safetensors") == 1
    assert written["prior.safetensors"] in card


def test_tied_and_strided_tensors_are_stored(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": base, "b": base, "t": base.T, "grad": base.clone().requires_grad_()}
    save_bundle(Bundle("m", {"c": Component({}, tensors)}), tmp_path / "m")
    read = load_bundle(tmp_path / "m").components["c"].tensors
    assert same(read, {"a": base, "b": base, "t": base.T, "grad": base})


def test_new_directories_are_readable_by_others(model: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert model.stat().st_mode & 0o777 == 0o777 & ~mask
    assert (model / "config.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_no_global_state_and_no_output(bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.get_default_dtype(), torch.get_rng_state(), dict(os.environ)
    save_bundle(bundle, tmp_path / "m")
    load_bundle(tmp_path / "m")
    assert torch.get_default_dtype() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert dict(os.environ) == before[2]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: setattr(b, "name", "no/slash"), "no/slash"),
        (lambda b: b.components.clear(), "no components"),
        (lambda b: b.components.update({"../x": Component()}), "'../x'"),
        (lambda b: b.components["empnn"].config.update(f=float("nan")), "not JSON"),
        (lambda b: b.components["empnn"].config.update(f=torch.float32), "not JSON"),
        (lambda b: b.components["empnn"].config.update(nested=[{3: "Li"}]), "key 3 (int)"),
        (lambda b: b.components["empnn"].tensors.update(x=[1.0]), "'x' of component 'empnn' is a list"),
    ],
)
def test_what_cannot_be_saved(bundle: Bundle, tmp_path: Path, change: Callable, words: str) -> None:
    change(bundle)
    assert words in message(lambda: save_bundle(bundle, tmp_path / "m"))
    assert list(tmp_path.iterdir()) == []


def test_no_write_permission(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    text = message(lambda: save_bundle(bundle, tmp_path / "file" / "model"))
    assert str(tmp_path / "file" / "model") in text
    assert "choose a directory you may write to" in text
    assert "choose a directory" in message(lambda: save_bundle(bundle, tmp_path / "file"))

    # A test may run as root, whom no mode of a directory stops.
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "Permission denied" in message(lambda: save_bundle(bundle, tmp_path / "new"))


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
def test_a_failed_save_leaves_the_old_model(
    model: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before = {p.name: p.read_bytes() for p in model.iterdir()}
    bundle.components["empnn"].tensors["layer.bias"] += 1

    def full(self: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, failing, full)
        assert "No space left" in message(lambda: save_bundle(bundle, model))
    assert {p.name: p.read_bytes() for p in model.iterdir()} == before


def test_directory_without_config(tmp_path: Path) -> None:
    assert "does not exist" in message(lambda: load_bundle(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    assert "is a file" in message(lambda: load_bundle(tmp_path / "file"))
    text = message(lambda: load_bundle(tmp_path))
    assert f"'{tmp_path}' holds no config.json" in text
    assert "save_pretrained" in text


def test_directory_above_the_model(model: Path) -> None:
    assert f"perhaps '{model}'" in message(lambda: load_bundle(model.parent))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format_version=99), ["99", "pip install -U autoperi"]),
        (lambda c: c.pop("format_version"), ["no format_version", "give an AutoPeri model directory"]),
        (lambda c: c.pop("name"), ["lacks name"]),
        (lambda c: c.update(surprise=1), ["unknown surprise"]),
        (lambda c: c.update(components={}), ["components"]),
        (lambda c: c.update(components=[1]), ["components"]),
        (lambda c: c.update(metadata=[1]), ["metadata"]),
        (lambda c: c["components"].update(empnn=3), ["'empnn'", "not a JSON object"]),
        (lambda c: c["components"]["empnn"].pop("sha256"), ["'empnn'", "lacks sha256"]),
        (lambda c: c["components"]["empnn"].update(extra=1), ["'empnn'", "unknown extra"]),
        (lambda c: c["components"]["empnn"].update(sha256="abc"), ["'empnn'", "sha256"]),
        (lambda c: c["components"]["empnn"].update(config=[]), ["'empnn'", "config"]),
        (
            lambda c: c["components"]["empnn"].update(file="../../etc/x.safetensors"),
            ["../../etc/x.safetensors", "plain names"],
        ),
        (lambda c: c["components"]["empnn"].update(file="/x.safetensors"), ["plain names"]),
        (lambda c: c["components"]["empnn"].update(file="model.pt"), ["model.pt", "plain names"]),
    ],
)
def test_wrong_config(model: Path, change: Callable, words: list[str]) -> None:
    text = message(lambda: load_bundle(edit(model, change)))
    assert all(word in text for word in [*words, "config.json"]), text


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_unreadable_config(broken: Callable[[str, bytes], Path], data: bytes) -> None:
    assert "config.json" in message(lambda: load_bundle(broken("config.json", data)))


def test_missing_file(model: Path) -> None:
    (model / "prior.safetensors").unlink()
    text = message(lambda: load_bundle(model))
    assert "prior.safetensors' is missing" in text
    assert "download the model again" in text


def test_no_read_permission(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "empnn.safetensors' cannot be read: Permission denied; check its permissions" in message(
        lambda: load_bundle(model)
    )


def test_wrong_sha256(model: Path) -> None:
    file = model / "empnn.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    wanted = read_config(model)["components"]["empnn"]["sha256"]
    file.write_bytes(data)
    text = message(lambda: load_bundle(model))
    assert hashlib.sha256(data).hexdigest()[:12] in text
    assert wanted[:12] in text
    assert f"delete '{file}'" in text
    assert load_bundle(model, verify=False).name == "tiny"


def test_every_truncation_is_found(model: Path, broken: Callable[[str, bytes], Path]) -> None:
    data = (model / "empnn.safetensors").read_bytes()
    for length in range(len(data)):
        text = message(lambda n=length: load_bundle(broken("empnn.safetensors", data[:n]), verify=False))
        assert "truncated" in text, (length, text)
        assert "empnn.safetensors" in text
    assert "truncated" in message(lambda: load_bundle(broken("empnn.safetensors", data + b"\0"), verify=False))


def test_every_flipped_byte_is_found(model: Path, broken: Callable[[str, bytes], Path]) -> None:
    data = (model / "prior.safetensors").read_bytes()
    for position in range(len(data)):
        wrong = data[:position] + bytes([data[position] ^ 0x41]) + data[position + 1 :]
        message(lambda d=wrong: load_bundle(broken("prior.safetensors", d)))


class Bomb:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was read",))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_renamed_to_safetensors(broken: Callable[[str, bytes], Path], protocol: int) -> None:
    for verify_ in (True, False):
        text = message(
            lambda v=verify_: load_bundle(broken("empnn.safetensors", pickle.dumps(Bomb(), protocol)), verify=v)
        )
        assert "pickles are never read" in text
        assert "save_pretrained" in text


def test_torch_file_renamed_to_safetensors(model: Path) -> None:
    torch.save({"a": Bomb()}, model / "empnn.safetensors")
    assert "pickles are never read" in message(lambda: load_bundle(model))


def test_git_lfs_pointer(broken: Callable[[str, bytes], Path]) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
    assert "git lfs pull" in message(lambda: load_bundle(broken("empnn.safetensors", pointer)))


def test_login_page(broken: Callable[[str, bytes], Path]) -> None:
    page = b"<!DOCTYPE html><html>please log in</html>"
    assert "not a safetensors file" in message(lambda: load_bundle(broken("empnn.safetensors", page)))


@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b'{"a":{"data_offsets":[0,1e999]}}', b'{"a":{"data_offsets":[0,"x"]}}', b"{}}", b"[]"]
)
def test_hostile_header(broken: Callable[[str, bytes], Path], header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header
    assert "empnn.safetensors" in message(lambda: load_bundle(broken("empnn.safetensors", data), verify=False))
    assert "empnn.safetensors" in message(
        lambda: load_bundle(broken("empnn.safetensors", b"\xff" * 8 + header), verify=False)
    )


def test_a_header_that_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    """A header of 640 bytes has the length 80 02 00 … and nothing of a pickle."""
    from safetensors.torch import save

    names = ("x" * length for length in range(500, 640))
    name = next(name for name in names if save({name: torch.zeros(1)}, metadata={"format": "pt"})[:2] == b"\x80\x02")
    component = Component({}, {name: torch.zeros(1)})
    save_bundle(Bundle("m", {"c": component}), tmp_path / "m")
    assert (tmp_path / "m" / "c.safetensors").read_bytes()[:2] == b"\x80\x02"
    assert same(load_bundle(tmp_path / "m").components["c"].tensors, component.tensors)


def test_verify(model: Path) -> None:
    rows = verify(model)
    assert [row.file for row in rows] == ["config.json", "empnn.safetensors", "prior.safetensors"]
    assert all(ok and len(digest) == 64 for _, ok, digest in rows)
    (model / "empnn.safetensors").write_bytes(b"x")
    (model / "prior.safetensors").unlink()
    rows = verify(model)
    assert [row.ok for row in rows] == [True, False, False]
    assert rows[1].sha256 == hashlib.sha256(b"x").hexdigest()
    assert rows[2].sha256 == ""


def test_concurrent_loads(model: Path) -> None:
    found: list[Bundle] = []
    threads = [threading.Thread(target=lambda: found.append(load_bundle(model))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(same(b.components["empnn"].tensors, found[0].components["empnn"].tensors) for b in found)


def test_concurrent_saves_into_a_new_directory(bundle: Bundle, tmp_path: Path) -> None:
    threads = [threading.Thread(target=save_bundle, args=(bundle, tmp_path / "m")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_bundle(tmp_path / "m").name == "tiny"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("output_mask", torch.ones(3))


def test_load_state_converts_precision() -> None:
    net, other = Net(), Net().double()
    load_state(other, state_of(net))
    assert other.layer.weight.dtype == torch.float64
    assert torch.equal(other.layer.weight.float(), net.layer.weight)
    load_state(net, {**state_of(other), "steps": torch.tensor(7, dtype=torch.int32)})
    assert net.steps == 7
    assert net.steps.dtype == torch.int64


def test_generated_buffers_are_neither_saved_nor_wanted() -> None:
    net = Net()
    assert set(state_of(net)) == {"layer.weight", "layer.bias", "steps"}
    load_state(net, net.state_dict())


def test_e3nn_module_survives() -> None:
    from e3nn import o3

    a, b = (o3.FullyConnectedTensorProduct("2x0e+1x1o", "1x0e+1x1o", "2x0e+1x1o") for _ in range(2))
    state = state_of(a)
    assert set(state) == {"weight"}
    load_state(b, state)
    x, y = torch.randn(4, 5), torch.randn(4, 4)
    assert torch.equal(a(x, y), b(x, y))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("layer.bias"), "layer.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is unexpected"),
        (lambda s: s.update({"layer.weight": torch.zeros(3, 3)}), "layer.weight has shape (3, 3) and not (3, 2)"),
        (lambda s: s.update({"layer.bias": torch.zeros(1)}), "layer.bias has shape (1,)"),
        (lambda s: s.update({"layer.bias": torch.zeros(3, dtype=torch.long)}), "layer.bias has dtype torch.int64"),
        (lambda s: s.update(steps=torch.tensor(0.5)), "steps has dtype torch.float32"),
        (lambda s: s.clear() or s.update({f"k{i}": torch.zeros(1) for i in range(9)}), "(and 8 more)"),
    ],
)
def test_load_state_is_strict_and_changes_nothing(change: Callable, words: str) -> None:
    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = state_of(Net())
    change(state)
    text = message(lambda: load_state(net, state, source="'x.safetensors'"))
    assert words in text
    assert text.startswith("'x.safetensors' do not fit Net")
    assert same(net.state_dict(), before)
