"""What AutoPeri brings into ASE: its calculator (formats and plugins are registered by entry points)."""

from __future__ import annotations

from autoperi.relax.calculator import NAME, AutoPeriCalculator

__all__ = ["NAME", "AutoPeriCalculator"]
