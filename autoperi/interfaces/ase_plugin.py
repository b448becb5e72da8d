"""Entry point of ASE's plugin system (group ``ase.plugins``): tells ASE of the calculator without importing torch.

The system is marked experimental in ASE 3.29 (``ase._4.plugins``); where it is not there, nothing is registered. In
every ASE, ``import autoperi.interfaces.ase`` makes ``ase.calculators.calculator.get_calculator_class("autoperi")``
work.
"""

from __future__ import annotations

import sys
from typing import Any

__ase_plugins__: set[Any] = set()

try:
    from ase._4.plugins.plugin import CalculatorPlugin
except ImportError:  # another ASE: the place says that it will move
    pass
else:
    __ase_plugins__.add(
        CalculatorPlugin(
            "autoperi",
            citation="A. Klipfel et al., Equivariant message passing neural network for crystal material discovery, "
            "AAAI 2023",
            module=sys.modules[__name__],
            implementation="autoperi.interfaces.ase.AutoPeriCalculator",
        )
    )
