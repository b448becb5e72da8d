"""Write the sha256 of the bundled weights into ``autoperi/hub/pretrained.json``, or say what is wrong with them.

usage: python tools/update_pretrained.py
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from autoperi.data.files import write_atomically
from autoperi.errors import DataError, WeightsError
from autoperi.hub import store
from autoperi.hub.bundle import CONFIG_FILE, read_config, verify

MAX_MODEL_BYTES = 12_000_000
MAX_TOTAL_BYTES = 40_000_000
"""Largest size of one bundled model (12 MB), and of all of them together (40 MB)."""


def check_registry() -> list[str]:
    """What is wrong with the bundled weights, one line each; [] when every file is the one the registry names."""
    problems = []
    for info in store.list_pretrained():
        if info.status != "active":
            continue
        if not info.available:
            problems.append(f"{info.name}: no weights in '{info.directory}'")
        elif {row.file: row.sha256 for row in verify(info.directory)} != info.sha256:
            problems.append(f"{info.name}: files differ from pretrained.json; run `python tools/update_pretrained.py`")
    return problems


def update_registry() -> list[store.ModelInfo]:
    """Write the sha256 of all bundled weights into ``pretrained.json``; models not listed there yet are added.

    Raises:
        WeightsError: a damaged or misnamed model, or one above :data:`MAX_MODEL_BYTES`, or all of them above
            :data:`MAX_TOTAL_BYTES`.
    """
    models = {info.name: info for info in store.list_pretrained()}
    total = 0
    for directory in sorted(p.parent for p in store.WEIGHTS_DIR.glob(f"*/{CONFIG_FILE}")):
        config = read_config(directory)
        if config["name"] != directory.name:
            raise WeightsError(
                f"'{directory}' holds the model {config['name']!r}; the directory must have the name of the model"
            )
        rows = verify(directory)
        bad = [row.file for row in rows if not row.ok]
        if bad:
            raise WeightsError(f"'{directory / bad[0]}' is not what {CONFIG_FILE} says; save the model again")
        about = str(config.get("metadata", {}).get("description", ""))
        info = models.get(directory.name) or store.ModelInfo(directory.name, description=about)
        total += info.size_bytes
        if info.size_bytes > MAX_MODEL_BYTES or total > MAX_TOTAL_BYTES:
            raise WeightsError(
                f"'{directory}' has {info.size_bytes} bytes and all models {total}; keep to {MAX_MODEL_BYTES} and "
                f"{MAX_TOTAL_BYTES}"
            )
        sha256 = {row.file: row.sha256 for row in rows}
        models[info.name] = replace(info, licence=config.get("licence") or info.licence, sha256=sha256)
    entries = [
        {k: v for k, v in asdict(models[name]).items() if v or k in {"description", "licence"}}
        for name in sorted(models)
    ]
    text = json.dumps({"format_version": 1, "models": entries}, indent=2, ensure_ascii=False) + "\n"
    try:
        write_atomically(store.REGISTRY_FILE, text)
    except DataError as error:
        raise WeightsError(f"{error}; run this in a source checkout you may write to") from error
    return store.list_pretrained()


if __name__ == "__main__":
    update_registry()
