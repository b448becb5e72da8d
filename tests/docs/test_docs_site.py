"""The documentation as a site: every page is in the navigation, and what the API pages show exists."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
API = sorted((DOCS / "api").glob("*.md"))


def in_nav(entry: Any) -> list[str]:
    """Every page below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for below in (entry.values() if isinstance(entry, dict) else entry) for page in in_nav(below)]


def test_navigation_has_every_page_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(in_nav(site["nav"])) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert site["strict"]


@pytest.mark.parametrize("page", API, ids=lambda page: page.name)
def test_api_pages_show_what_exists(page: Path) -> None:
    names = re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert names or page.name == "index.md"
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert (
            importlib.util.find_spec(name)
            if attribute.islower()
            else hasattr(importlib.import_module(module), attribute)
        ), f"{name} does not exist"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
