"""The hub through the real client, against a server on the loopback: nothing here leaves the machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from autoperi.errors import HubError, WeightsError
from autoperi.hub import Bundle, download_to, fetch, load_bundle, load_pretrained, push, save_bundle, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopback import LoopbackHub

REPO = "lab/tiny"


def message(function: Callable[[], object], kind: type[WeightsError] = HubError) -> str:
    """The text of the error that ``function`` raises, which must be one line."""
    with pytest.raises(kind) as caught:
        function()
    text = str(caught.value)
    assert "\n" not in text
    assert "hf_" not in text.replace("hf_hub", ""), "a token must not be shown"
    return text


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list]:
    """Call it to refuse every connection from then on; what was tried is in the list it returns."""

    def block() -> list:
        tried: list = []

        def refuse(_: socket.socket, address: object) -> None:
            tried.append(address)
            raise OSError("sockets are blocked")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket.socket, "connect_ex", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: refuse(None, a))  # type: ignore[arg-type]
        return tried

    return block


def test_download(hub: LoopbackHub, files: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    commit = hub.add(REPO, {**files, "huge.safetensors": b"not wanted", "train.log": b"neither"})
    bundle = load_pretrained(REPO)
    assert bundle.revision == commit
    assert bundle.name == "tiny"
    assert bundle.card.startswith("---\nlicense")
    assert bundle.source == str(tmp_path / "cache" / "models--lab--tiny" / "snapshots" / commit)
    assert hub.requests("huge|train.log|api/models") == []
    assert not any(seen.token for seen in hub.seen)
    assert capfd.readouterr() == ("", "")


def test_files_come_from_the_commit_of_the_config(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    """A push between two files of one download must not mix two models."""
    commit = hub.add(REPO, files)
    load_pretrained(REPO)
    weights = hub.requests("safetensors", server="hub")
    assert weights
    assert all(f"/resolve/{commit}/" in seen.path for seen in weights)


def test_cached_reload_with_sockets_blocked(
    hub: LoopbackHub, files: dict[str, bytes], no_sockets: Callable[[], list]
) -> None:
    from huggingface_hub import constants

    commit = hub.add(REPO, files)
    first = load_pretrained(REPO)
    constants.HF_HUB_DISABLE_TELEMETRY = False  # the fixture puts it back: not even that may be sent
    tried = no_sockets()
    again = load_pretrained(REPO, revision=commit)
    assert tried == []
    assert again.sha256 == first.sha256
    assert load_pretrained(REPO, local_files_only=True).revision == commit
    assert tried == []
    assert load_pretrained(REPO).revision == commit
    assert len(tried) <= 3, "a branch is asked for once, not once a file"


def test_offline_variable(
    hub: LoopbackHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, no_sockets: Callable[[], list]
) -> None:
    from huggingface_hub import constants

    hub.add(REPO, files)
    load_pretrained(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    tried = no_sockets()
    assert load_pretrained(REPO).name == "tiny"
    text = message(lambda: load_pretrained("lab/other", revision="v1"))
    assert "HF_HUB_OFFLINE is set" in text
    assert "`autoperi models download lab/other --revision v1 --to DIR`" in text
    assert "from_pretrained('DIR')" in text
    assert tried == []


def test_local_files_only_without_cache(hub: LoopbackHub, tmp_path: Path) -> None:
    text = message(lambda: load_pretrained(REPO, local_files_only=True, cache_dir=tmp_path / "mine"))
    assert str(tmp_path / "mine") in text
    assert "local_files_only=True" in text
    assert "autoperi models download lab/tiny --to DIR" in text
    assert hub.seen == []


def test_half_a_cache_offline(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    hub.add(REPO, files)
    directory = fetch(REPO)
    (directory / "prior.safetensors").unlink()
    assert "prior.safetensors of 'lab/tiny'" in message(lambda: load_pretrained(REPO, local_files_only=True))
    assert load_pretrained(REPO).name == "tiny"


@pytest.mark.usefixtures("impatient")
def test_no_network_and_no_cache(hub: LoopbackHub, no_sockets: Callable[[], list]) -> None:
    no_sockets()
    text = message(lambda: load_pretrained(REPO))
    assert f"cannot reach the hub at {hub.endpoint}" in text
    assert "autoperi models download lab/tiny --to DIR" in text


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.usefixtures("impatient")
def test_hub_out_of_order(hub: LoopbackHub, files: dict[str, bytes], status: int) -> None:
    hub.add(REPO, files)
    hub.status = status
    text = message(lambda: load_pretrained(REPO))
    assert f"answered {status}" in text
    assert "try again later" in text
    hub.status = 0
    commit = load_pretrained(REPO).revision
    hub.status = status
    assert load_pretrained(REPO).revision == commit


def test_a_proxy_answers_instead(hub: LoopbackHub) -> None:
    hub.foreign = True
    assert "check HF_ENDPOINT and the proxy" in message(lambda: load_pretrained(REPO))


def test_cache_dir_and_home(hub: LoopbackHub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add(REPO, files)
    assert tmp_path / "mine" in fetch(REPO, cache_dir=tmp_path / "mine").parents
    assert tmp_path / "cache" in fetch(REPO).parents


def test_cache_without_write_permission(hub: LoopbackHub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add(REPO, files)
    (tmp_path / "file").write_text("")
    text = message(lambda: load_pretrained(REPO, cache_dir=tmp_path / "file" / "cache"), WeightsError)
    assert str(tmp_path / "file" / "cache") in text
    assert "pass cache_dir=" in text


def test_revisions(hub: LoopbackHub, bundle: Bundle, files: dict[str, bytes], tmp_path: Path) -> None:
    old = hub.add(REPO, files)
    bundle.components["empnn"].tensors["layer.bias"] += 1
    save_bundle(bundle, tmp_path / "new")
    new = hub.add(REPO, {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()}, branch="next/one")
    assert load_pretrained(REPO).revision == old
    for revision in ("next/one", new):
        found = load_pretrained(REPO, revision=revision)
        assert found.revision == new
        assert torch.equal(found.components["empnn"].tensors["layer.bias"], torch.ones(3))
    assert torch.equal(load_pretrained(REPO, revision=old).components["empnn"].tensors["layer.bias"], torch.zeros(3))
    text = message(lambda: load_pretrained(REPO, revision="v9"))
    assert "'v9'" in text
    assert "full commit hash" in text
    assert "'0000" in message(lambda: load_pretrained(REPO, revision="0" * 40))


def test_a_branch_that_moved_is_noticed(
    hub: LoopbackHub, bundle: Bundle, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add(REPO, files)
    load_pretrained(REPO)
    bundle.components["empnn"].tensors["layer.bias"] += 1
    save_bundle(bundle, tmp_path / "new")
    moved = hub.add(REPO, {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()})
    assert load_pretrained(REPO).revision == moved
    assert len(hub.requests("GET .*", server="storage")) == 3, "the unchanged prior is not downloaded again"


def test_wrong_sha256(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    wrong = bytearray(files["empnn.safetensors"])
    wrong[-1] ^= 1
    hub.add(REPO, {**files, "empnn.safetensors": bytes(wrong)})
    text = message(lambda: load_pretrained(REPO), WeightsError)
    assert "sha256" in text
    assert "models download --force" in text


def test_damaged_cache_and_its_remedy(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    commit = hub.add(REPO, files)
    cached = fetch(REPO) / "empnn.safetensors"
    blob = cached.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    text = message(lambda: load_pretrained(REPO, revision=commit), WeightsError)
    assert f"delete '{blob}'" in text
    blob.unlink()
    assert load_pretrained(REPO, revision=commit).name == "tiny"
    blob.write_bytes(blob.read_bytes()[:-9])
    text = message(lambda: load_pretrained(REPO, revision=commit), WeightsError)
    assert "truncated" in text
    assert f"delete '{blob}'" in text
    fetch(REPO, force_download=True)
    assert load_pretrained(REPO, revision=commit).name == "tiny"


def test_missing_file(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    hub.add(REPO, {k: v for k, v in files.items() if k != "prior.safetensors"})
    text = message(lambda: load_pretrained(REPO))
    assert "'lab/tiny'" in text
    assert "holds no prior.safetensors" in text
    assert "push the model again" in text


def test_not_a_model(hub: LoopbackHub) -> None:
    hub.add("lab/bert", {"pytorch_model.bin": b"x"})
    assert "not an AutoPeri model" in message(lambda: load_pretrained("lab/bert"))
    hub.add("lab/gpt", {"config.json": b'{"hidden_size": 8}', "model.safetensors": b"x"})
    assert "AutoPeri did not write it" in message(lambda: load_pretrained("lab/gpt"), WeightsError)
    assert hub.requests("safetensors") == []


def test_a_model_without_card(hub: LoopbackHub, files: dict[str, bytes], no_sockets: Callable[[], list]) -> None:
    commit = hub.add(REPO, {k: v for k, v in files.items() if k != "README.md"})
    assert load_pretrained(REPO).card == ""
    no_sockets()
    assert load_pretrained(REPO, revision=commit).card == ""


def test_a_config_that_leads_out_of_the_directory(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    config = json.loads(files["config.json"])
    config["components"]["empnn"]["file"] = "../../../x.safetensors"
    hub.add(REPO, {**files, "config.json": json.dumps(config).encode()})
    assert "plain names" in message(lambda: load_pretrained(REPO), WeightsError)
    assert hub.requests("x.safetensors") == []


@pytest.mark.usefixtures("impatient")
def test_interrupted_download_is_resumed(
    hub: LoopbackHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16)
    hub.add(REPO, files)
    hub.cuts = [100, 64]
    for _ in range(2):  # clients before 1.0 go on in the next call only
        with suppress(HubError):
            load_pretrained(REPO)
    assert load_pretrained(REPO).name == "tiny"
    assert hub.cuts == []
    resumed = [
        int(seen.range.removeprefix("bytes=").removesuffix("-"))
        for seen in hub.requests("GET", server="storage")
        if seen.range
    ]
    assert len(resumed) == 2
    assert 0 < resumed[0] <= 100
    assert resumed[0] < resumed[1] <= 164


@pytest.mark.usefixtures("impatient")
def test_download_that_breaks_for_good_leaves_no_half_file(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    hub.add(REPO, files)
    hub.cuts = [0] * 50
    assert "cannot reach the hub" in message(lambda: load_pretrained(REPO))
    assert "is not in the cache" in message(lambda: load_pretrained(REPO, local_files_only=True))
    hub.cuts = []
    assert load_pretrained(REPO).name == "tiny"


def test_unknown_and_private_repository(
    hub: LoopbackHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add(REPO, files, private=True)
    for repo in (REPO, "lab/none"):
        text = message(lambda r=repo: load_pretrained(r))
        assert f"'{repo}'" in text
        assert "pass token= (or set HF_TOKEN)" in text
    assert "your token may not read it" in message(lambda: load_pretrained("lab/none", token="hf_reader"))
    assert "rights of the token" in message(lambda: load_pretrained(REPO, token="hf_wrong"))
    assert load_pretrained(REPO, token="hf_reader").revision == commit
    assert load_pretrained(REPO, revision=commit).revision == commit, "what is cached needs no token"
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert load_pretrained(REPO, cache_dir=Path(fetch(REPO)).parents[3] / "second").revision == commit
    assert "pass token=" in message(lambda: load_pretrained("lab/none", token=False))


def test_gated_repository(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    hub.add(REPO, files, gated=True)
    for token in (None, "hf_reader"):
        assert "is gated; accept its terms" in message(lambda t=token: load_pretrained(REPO, token=t))
    assert load_pretrained(REPO, token="hf_good").name == "tiny"
    assert not any(seen.token for seen in hub.requests(server="storage")), "a token never goes to the storage"


@pytest.mark.parametrize("name", ["lab/a--b", "lab/x..y", "lab/name.git"])
def test_impossible_repository_names(hub: LoopbackHub, name: str) -> None:
    assert "give 'owner/name'" in message(lambda: load_pretrained(name))
    assert hub.seen == []


@pytest.mark.usefixtures("hub")
def test_revision_of_what_has_none(model: Path) -> None:
    text = message(lambda: load_pretrained(model, revision="v1"), WeightsError)
    assert "hub repositories only" in text
    assert load_pretrained(model).source == str(model)
    assert load_pretrained(str(model)).name == "tiny"


def test_concurrent_loads(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    commit = hub.add(REPO, files)
    found: list[Bundle] = []
    threads = [threading.Thread(target=lambda: found.append(load_pretrained(REPO))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b.revision for b in found] == [commit] * 6
    assert all(torch.equal(b.components["prior"].tensors["counts"], torch.arange(5)) for b in found)


def test_download_to(
    hub: LoopbackHub, files: dict[str, bytes], model: Path, tmp_path: Path, no_sockets: Callable[[], list]
) -> None:
    hub.add(REPO, files)
    carried = download_to(REPO, tmp_path / "usb" / "tiny")
    assert {p.name: p.read_bytes() for p in carried.iterdir()} == files
    assert not any(p.is_symlink() for p in carried.iterdir())
    assert all(row.ok for row in verify(carried))
    no_sockets()
    assert load_pretrained(carried).name == "tiny"
    assert download_to(model, carried) == carried, "the same model again is no mistake"
    assert download_to(model, tmp_path / "copy") == tmp_path / "copy"


def test_download_to_a_directory_in_use(hub: LoopbackHub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add(REPO, files)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("mine")
    assert "is not empty" in message(lambda: download_to(REPO, tmp_path / "thesis"), WeightsError)
    assert (tmp_path / "thesis" / "README.md").read_text() == "mine"
    download_to(REPO, tmp_path / "thesis", force=True)
    assert load_bundle(tmp_path / "thesis").name == "tiny"


def test_download_to_repairs_a_damaged_cache(hub: LoopbackHub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add(REPO, files)
    (fetch(REPO) / "empnn.safetensors").resolve().write_bytes(b"?")
    message(lambda: download_to(REPO, tmp_path / "a"), WeightsError)
    assert not (tmp_path / "a").exists()
    assert load_bundle(download_to(REPO, tmp_path / "a", force=True)).name == "tiny"


def test_push_and_back(hub: LoopbackHub, model: Path, bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    (model / "notes.txt").write_text("not for the hub")
    url = push(model, "me/new", token="hf_good")
    commit = url.rsplit("/", 1)[-1]
    assert url == f"{hub.endpoint}/me/new/commit/{commit}"
    found = load_pretrained("me/new")
    assert found.revision == commit
    assert found.sha256 == load_bundle(model).sha256
    assert torch.equal(
        found.components["empnn"].tensors["layer.weight"], bundle.components["empnn"].tensors["layer.weight"]
    )
    repository = hub.repositories["me/new"]
    assert len(repository.commits) == 2, "one commit beside the one that made the repository"
    assert "notes.txt" not in repository.commits[commit]
    assert len(hub.requests("PUT", server="storage")) == 2
    assert not any(seen.token for seen in hub.requests(server="storage"))
    assert capfd.readouterr() == ("", "")


def test_push_from_the_cache_to_a_private_branch(
    hub: LoopbackHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, files)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    push(fetch(REPO), "me/fork", private=True, revision="trial")
    assert hub.repositories["me/fork"].private
    assert load_pretrained("me/fork", revision="trial").name == "tiny"
    assert "holds no config.json" in message(lambda: load_pretrained("me/fork"))
    assert "private" in message(lambda: load_pretrained("me/fork", token=False, revision="other"))


def test_pushing_the_same_again(hub: LoopbackHub, model: Path) -> None:
    assert push(model, "me/new", token="hf_good") == push(model, "me/new", token="hf_good")
    assert len(hub.repositories["me/new"].commits) == 2


@pytest.mark.parametrize("token", [None, "hf_reader", "hf_wrong"])
def test_push_without_the_right(hub: LoopbackHub, model: Path, token: str | None) -> None:
    text = message(lambda: push(model, "me/new", token=token))
    assert "'me/new'" in text
    assert "write access" in text
    assert hub.repositories == {}


def test_push_refuses_what_would_not_load(hub: LoopbackHub, model: Path) -> None:
    (model / "empnn.safetensors").write_bytes(b"x")
    message(lambda: push(model, "me/new", token="hf_good"), WeightsError)
    assert hub.seen == []


@pytest.mark.usefixtures("hub")
def test_push_names_a_card_the_hub_refuses(model: Path) -> None:
    (model / "README.md").write_text("no front matter")
    assert "README.md" in message(lambda: push(model, "me/new", token="hf_good"))


@pytest.mark.usefixtures("impatient")
def test_push_broken_off(hub: LoopbackHub, model: Path) -> None:
    hub.storage_status = 507
    assert "the hub answered 507 for hub repository 'me/new'" in message(lambda: push(model, "me/new", token="hf_good"))
    assert "holds no config.json" in message(lambda: load_pretrained("me/new"))
    hub.storage_status = 0
    push(model, "me/new", token="hf_good")
    assert load_pretrained("me/new").name == "tiny"


@pytest.mark.usefixtures("hub", "impatient")
def test_push_impossible_names_and_no_network(model: Path, no_sockets: Callable[[], list]) -> None:
    assert "give 'owner/name'" in message(lambda: push(model, "me/a--b", token="hf_good"))
    no_sockets()
    assert "cannot reach the hub" in message(lambda: push(model, "me/new", token="hf_good"))


def test_environment_of_a_fresh_process(files: dict[str, bytes], tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE as users set them, and what a download leaves behind in the
    process.
    """
    from loopback import LoopbackHub

    script = f"""
import os, sys, socket, torch
tried, connect = [], socket.socket.connect
socket.socket.connect = lambda self, address: (tried.append(address), connect(self, address))[1]
before = torch.get_default_dtype(), torch.get_rng_state(), dict(os.environ)
from autoperi.hub import load_pretrained
from autoperi.errors import HubError
assert "huggingface_hub" not in sys.modules
bundle = load_pretrained({REPO!r})
online = len(tried)
tried.clear()
load_pretrained({REPO!r}, revision=bundle.revision)
load_pretrained({REPO!r}, local_files_only=True)
assert tried == [], tried
assert {str(tmp_path / "home")!r} in bundle.source
assert torch.get_default_dtype() == before[0] and torch.equal(torch.get_rng_state(), before[1])
assert dict(os.environ) == before[2]
try:
    load_pretrained("lab/none")
except HubError as error:
    assert ("HF_HUB_OFFLINE" in str(error)) == ("HF_HUB_OFFLINE" in os.environ), error
assert all(address[0] == "127.0.0.1" for address in tried)
sys.exit(0 if bool(online) != ("HF_HUB_OFFLINE" in os.environ) else 3)
"""
    with LoopbackHub() as server:
        server.add(REPO, files, private=True)
        root = str(Path(__file__).resolve().parents[2])
        keep = {
            k: v
            for k, v in os.environ.items()
            if k in {"PATH", "HOME", "SYSTEMROOT", "TMPDIR", "TEMP", "OMP_NUM_THREADS"}
        }
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**keep, **server.environment(tmp_path / "home"), "HF_TOKEN": "hf_reader", "PYTHONPATH": path}
        for extra in ({}, {"HF_HUB_OFFLINE": "1"}):
            done = subprocess.run(
                [sys.executable, "-c", script],
                env={**env, **extra},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert server.requests("config.json")
