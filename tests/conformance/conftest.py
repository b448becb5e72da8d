"""A kind of another package, whose code is that of ``docs/adding_a_model.md``, and crystals to train on."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperi import registry
from autoperi.data.io import write_crystals
from autoperi.testing import tiny_crystals

sys.path.insert(0, str(Path(__file__).parent))  # for small_kinds
PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_model.md"


@pytest.fixture(scope="session", autouse=True)
def toy_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``toy_crystals`` beside AutoPeri, as pip would install it: its files, and metadata with an entry point."""
    site = tmp_path_factory.mktemp("site")
    package, info = site / "toy_crystals", site / "toy_crystals-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("")
    for name, code in re.findall(
        r"^## .*?`toy_crystals/(\w+\.py)`.*?```python\n(.*?)```", PAGE.read_text(), re.S | re.M
    ):
        (package / name).write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-crystals\nVersion: 1.0\n")
    (entry,) = re.findall(r"```toml\n\[project\.entry-points\.\"(.*?)\"\]\n(\w+) = \"(.*?)\"\n```", PAGE.read_text())
    (info / "entry_points.txt").write_text(f"[{entry[0]}]\n{entry[1]} = {entry[2]}\n")
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    registry.kinds.cache_clear()
    yield site
    sys.path.remove(str(site))
    for name in [n for n in sys.modules if n.split(".")[0] == "toy_crystals"]:
        del sys.modules[name]
    registry.kinds.cache_clear()


@pytest.fixture(scope="session")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train.parquet`` and ``val.parquet``."""
    folder = tmp_path_factory.mktemp("crystals")
    made = tiny_crystals()
    for k, crystal in enumerate(made):
        crystal.properties.update(formation_energy_per_atom=-0.1 * k, material_id=f"x-{k}")
    write_crystals(made[:16], folder / "train.parquet")
    write_crystals(made[16:], folder / "val.parquet")
    return folder
