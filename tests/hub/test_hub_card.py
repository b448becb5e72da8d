"""Model cards: what they state, and what they must not leave out."""

from __future__ import annotations

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


def test_an_empty_card_is_still_a_card() -> None:
    assert model_card({}).startswith("---\nlibrary_name")
