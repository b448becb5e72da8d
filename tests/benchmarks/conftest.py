"""Benchmark scripts import their neighbours by name; so do the tests of what several of them share."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "empnn"), str(BENCHMARKS / "potential")]
