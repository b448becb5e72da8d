"""Model cards: Markdown with YAML front matter, made from the facts a training run records about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoperi._version import __version__

_BEGIN, _END = "<!-- checksums -->", "<!-- /checksums -->"
_SECTIONS = (
    ("intended_use", "Intended use"),
    ("data", "Training data"),
    ("split", "Split"),
    ("training", "Training"),
    ("metrics", "Results"),
    ("limits", "Limits"),
    ("licence", "Licence"),
    ("citation", "Citation"),
)
_TRAINING = ("steps", "time", "hardware", "seed", "command")
_NEEDED = ("Training data", "Split", "Training", "Results", "Limits", "Licence", "Checksums")
_TAGS = ("materials-science", "crystal-structure", "crystal-structure-prediction", "ase", "pymatgen")


def model_card(metadata: Mapping[str, Any]) -> str:
    """The text of a model card; sections without facts are left out, and :func:`check_card` names them.

    Args:
        metadata: ``name``, ``description``, ``licence`` (SPDX identifier of the weights), ``licence_text``, ``tags``,
            ``datasets``; ``usage``, the Python that loads it, where that is not ``from_pretrained``; the sections
            ``intended_use``, ``data``, ``split``, ``limits``, ``citation`` (text, list or mapping); ``steps``,
            ``time``, ``hardware``, ``seed`` and ``command`` of the training; ``metrics``, a list of mappings with
            ``name``, ``value``, ``command`` and optionally ``unit``, ``data``, ``note``; ``sha256`` (file → digest).
    """
    from jinja2 import Environment

    facts = dict(metadata)
    name = facts["name"] = str(facts.get("name") or "AutoPeri model")
    load = f'from autoperi import AutoPeri\n\nperi = AutoPeri.from_pretrained("{facts.get("repo_id") or name}")'
    sections = facts | {"training": facts.get("training") or {key: facts[key] for key in _TRAINING if facts.get(key)}}
    if facts.get("licence"):
        code = f"Weights: {facts['licence']}. Code: MIT (AutoPeri {__version__})."
        sections["licence"] = facts.get("licence_text") or code
    facts |= {"usage": facts.get("usage") or load, "tags": dict.fromkeys([*_TAGS, *facts.get("tags", ())])}
    facts["sections"] = [(title, sections[key]) for key, title in _SECTIONS if sections.get(key)]
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"quoted": json.dumps, "cell": _cell}
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    return with_checksums(template.render(facts), sha256=facts.get("sha256") or {})


def with_checksums(card: str, *, sha256: Mapping[str, str]) -> str:
    """``card`` with its table of checksums replaced, or appended where it has none."""
    if not sha256:
        return card.rstrip() + "\n"
    rows = [f"| `{file}` | `{digest}` |" for file, digest in sorted(sha256.items())]
    block = "\n".join([_BEGIN, "| file | sha256 |", "| --- | --- |", *rows, _END])
    pattern = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
    if pattern.search(card):
        return pattern.sub(lambda _: block, card, count=1)
    return card.rstrip() + f"\n\n## Checksums\n\n{block}\n"


def check_card(card: str, *, sha256: Mapping[str, str] | None = None) -> list[str]:
    """What a card lacks before its model may be published, one line each; [] when nothing.

    Args:
        card: the Markdown text.
        sha256: file → digest that the card must state.
    """
    problems = []
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    keys = set(re.findall(r"^([a-z_]+):", front.group(1), re.MULTILINE)) if front else set()
    if front is None:
        problems.append("no YAML front matter; begin the card with a block between two lines '---'")
    problems += [
        f"front matter lacks '{key}:'; add it"
        for key in ("license", "library_name", "tags")
        if front and key not in keys
    ]
    titles = re.findall(r"^## (.+?)\s*$", card, re.MULTILINE)
    problems += [f"section '{title}' is missing; add '## {title}'" for title in _NEEDED if title not in titles]
    results = re.search(r"^## Results\s*$(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    for row in re.findall(r"^\|(.+)\|\s*$", results.group(1) if results else "", re.MULTILINE)[2:]:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]
        if not cells[-1].strip("`"):
            problems.append(f"result {cells[0]!r} names no command that prints it; add one")
    for file, digest in (sha256 or {}).items():
        if digest not in card:
            problems.append(f"sha256 {digest[:12]}… of {file} is not in the card; save the model again")
    return problems


def _cell(value: object) -> str:
    """The text of a cell of the table of results."""
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|").replace("\n", " ")
