"""Model cards: what they state, and what they must not leave out."""

from __future__ import annotations

import json
from pathlib import Path

import build_sampler
import card_facts
import pytest

from autoperi.hub import check_card, model_card
from autoperi.hub.card import with_checksums

DIGESTS = {"empnn.safetensors": "a" * 64, "prior.safetensors": "b" * 64}
FACTS = {
    "name": "tiny",
    "description": "A tiny model.",
    "licence": "CC-BY-4.0",
    "tags": ["tiny"],
    "data": {"source": "Materials Project", "crystals": 100},
    "split": "80/10/10 by composition",
    "steps": 1000,
    "time": "3 min",
    "hardware": "1 CPU core",
    "metrics": [
        {
            "name": "match",
            "value": 0.123456,
            "unit": "",
            "data": "val",
            "command": "autoperi evaluate --sets a|b",
            "note": "Small set.",
        },
        {"name": "n", "value": 3, "command": "autoperi bench"},
    ],
    "limits": ["No magnetism.", "No disorder."],
    "sha256": DIGESTS,
}


def test_a_full_card() -> None:
    card = model_card(FACTS)
    assert check_card(card, sha256=DIGESTS) == []
    for words in (
        'license: "cc-by-4.0"',
        '- "tiny"',
        "Materials Project",
        "- steps: 1000",
        "0.1235",
        "`autoperi evaluate --sets a\\|b`",
        "- No magnetism.",
    ):
        assert words in card, words
    assert card.count("---\n") == 2
    assert "Small set." in card


def test_front_matter_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    front = yaml.safe_load(model_card({**FACTS, "datasets": ["a/b"], "tags": ['odd: "tag"', "yes"]}).split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "autoperi"
    assert front["tags"][-2:] == ['odd: "tag"', "yes"]
    assert front["datasets"] == ["a/b"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("data", "Training data"),
        ("split", "Split"),
        ("metrics", "Results"),
        ("limits", "Limits"),
        ("licence", "Licence"),
        ("sha256", "Checksums"),
    ],
)
def test_what_is_missing_is_named(key: str, words: str) -> None:
    problems = check_card(model_card({k: v for k, v in FACTS.items() if k != key}))
    assert any(words in line for line in problems)
    assert all("\n" not in line for line in problems)


def test_a_number_without_command_is_named() -> None:
    card = model_card(
        {**FACTS, "metrics": [{"name": "match", "value": 0.5}, {"name": "n", "value": 1, "command": "autoperi bench"}]}
    )
    assert check_card(card) == ["result 'match' names no command that prints it; add one"]


def test_wrong_checksums_are_named() -> None:
    problems = check_card(model_card(FACTS), sha256={"prior.safetensors": "c" * 64})
    assert len(problems) == 1
    assert "prior.safetensors" in problems[0]
    assert check_card("hello")[0].startswith("no YAML front matter")


def test_checksums_are_replaced_and_the_rest_kept() -> None:
    card = model_card(FACTS)
    changed = with_checksums(card, sha256={"prior.safetensors": "c" * 64})
    assert "c" * 64 in changed
    assert "b" * 64 not in changed
    assert with_checksums(changed, sha256=DIGESTS) == card
    assert with_checksums("# Mine", sha256={}) == "# Mine\n"


def test_a_card_says_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_facts, "RESULTS", tmp_path)
    result = {"data": "x.parquet", "crystals": 7, "runs": [{"valid": {"value": 0.5}, "rate": {"20": 0.25}}]}
    (tmp_path / "draws.json").write_text(json.dumps(result))
    shown = {"draws": {"runs.0.valid": "valid", "runs.0.rate.20": "match at 20"}, "absent": ("n",)}
    rows = card_facts.measured({"draws": "python x.py", "absent": "python y.py"}, shown)
    assert [(row["name"], row["value"]) for row in rows] == [("valid", 0.5), ("match at 20", 0.25)]
    assert {row["data"] for row in rows} == {"x.parquet, n = 7"}


def test_a_record_takes_the_history_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"epoch": 0}\n{"epoch": 1}\n')
    record = tmp_path / "record.json"
    assert card_facts.renew_record(record, tmp_path, epochs=2) == {"epochs": 2}
    assert card_facts.renew_record(record, tmp_path, command="autoperi train") == {
        "epochs": 2,
        "command": "autoperi train",
    }
    assert json.loads(record.read_text())["history"] == [{"epoch": 0}, {"epoch": 1}]
    assert card_facts.told({"max_atoms": 20, "command": "x"}) == "max atoms: 20; `x`"


def test_a_run_that_is_not_over_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text('{"epochs": 3, "batch_size": 8, "seed": 0}')
    (tmp_path / "history.jsonl").write_text('{"epoch": 1, "step": 9, "seconds": 61, "val_loss": 0.5}\n')
    said = "3 epochs, 40 crystals, 61 s on 1 threads in the last run; `autoperi train gemsdiff`"
    with pytest.raises(SystemExit, match="ends after 2 of 3 epochs; resume it"):
        build_sampler.summary_of(tmp_path, said)
    (tmp_path / "training.json").write_text('{"epochs": 2, "batch_size": 8, "seed": 0}')
    found = build_sampler.summary_of(tmp_path, said)
    assert (found["crystals"], found["steps"], found["command"]) == (40, 9, "autoperi train gemsdiff")
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"epoch": 1, "step": 9, "seconds": 119, "val_loss": 0.5}\n')
        file.write('{"epoch": 1, "step": 9, "seconds": 59, "val_loss": 0.5}\n')
    assert build_sampler.summary_of(tmp_path, said)["time"] == "3 min (2 + 1), threads: 1"
    with pytest.raises(SystemExit, match="does not say"):
        build_sampler.summary_of(tmp_path, "3 epochs")


def test_an_empty_card_is_still_a_card() -> None:
    assert model_card({}).startswith("---\nlibrary_name")
