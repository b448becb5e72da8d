"""One progress helper: silent unless somebody watches."""

from __future__ import annotations

import os
import sys
from typing import Any


def progress_bar(total: int | None, *, enabled: bool | None, description: str, unit: str = "crystal") -> Any:
    """A tqdm bar on standard error.

    Args:
        total: items, or None where unknown.
        enabled: True or False as the caller says; None shows it only on a terminal and where
            ``HF_HUB_DISABLE_PROGRESS_BARS`` is not set.
        description: what is being done.
        unit: of an item.
    """
    from tqdm import tqdm

    if enabled is None:
        enabled = sys.stderr.isatty() and os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").lower() not in {
            "1",
            "true",
            "yes",
            "on",
        }
    return tqdm(total=total, desc=description, unit=unit, disable=not enabled, leave=False)
