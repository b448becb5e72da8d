"""What the cards of bundled models say of training and results, from benchmarks/training and benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, TRAINING, WEIGHTS = (
    ROOT / "benchmarks" / "results",
    ROOT / "benchmarks" / "training",
    ROOT / "autoperi" / "weights",
)


def told(summary: Mapping[str, Any]) -> str:
    """The summary of a training in one line."""
    return "; ".join(f"`{v}`" if k == "command" else f"{k.replace('_', ' ')}: {v}" for k, v in summary.items())


def renew_record(path: Path, run: Path, **summary: Any) -> dict[str, Any]:
    """Write the history of a run (``OUT/checkpoints``) into its record, with what is new in the summary; the summary.

    Args:
        path: of ``benchmarks/training``; made where it is not there.
        run: holds ``history.jsonl``.
        **summary: entries that are replaced or added.
    """
    record = json.loads(path.read_text()) if path.exists() else {"summary": {}}
    record["summary"] |= summary
    record["history"] = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    path.write_text(json.dumps(record, indent=1, ensure_ascii=True) + "\n")
    found: dict[str, Any] = record["summary"]
    return found


def value_at(result: Any, key: str) -> Any:
    """What a JSON holds at ``a.b.0``; of a quantity with its counts, the value."""
    for part in key.split("."):
        result = result[int(part)] if isinstance(result, list) else result[part]
    return result["value"] if isinstance(result, dict) else result


Keys = Mapping[str, str] | Sequence[str]
"""Keys of a JSON, or what each of them is called."""


def measured(commands: Mapping[str, str], shown: Mapping[str, Keys]) -> list[dict[str, Any]]:
    """Rows of a card's results.

    Args:
        commands: by which each file of benchmarks/results was printed; files that are not there are left out.
        shown: what is taken of each file, by :func:`value_at`.
    """
    rows = []
    for name, command in commands.items():
        file = RESULTS / f"{name}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        result |= result.get("all", {})
        keys = shown[name]
        words = keys if isinstance(keys, Mapping) else {key: key for key in keys}
        data = f"{result['data']}, n = {result.get('n', result.get('crystals'))}"
        rows += [
            {"name": word, "value": value_at(result, key), "data": data, "command": command}
            for key, word in words.items()
        ]
    return rows
