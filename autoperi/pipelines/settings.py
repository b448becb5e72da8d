"""Settings of a model: numbers that no training decides, each with its range, declared once."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from numbers import Number
from typing import Any

from autoperi.errors import RequestError, WeightsError


def _setting(default: float, low: float, high: float = math.inf, *, says: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "says": says})


@dataclass(frozen=True)
class Settings:
    """What ``config.json`` may say of a model under ``settings``, and :meth:`autoperi.AutoPeri.with_settings` may
    change.

    Raises:
        RequestError: a value outside its range, or a fraction where a whole number is meant.
    """

    generate_steps: int = _setting(1, 0, 20, says="lattice passes in generate")
    relax_steps: int = _setting(3, 0, 20, says="lattice passes in relax_lattice")
    sampling_steps: int = _setting(100, 1, 10_000, says="steps of a sampler's process")
    energy_temperature: float = _setting(
        0.5, 1e-6, says="eV/atom of formation energy that weigh one nat in the ranking"
    )
    potential_temperature: float = _setting(
        0.03, 1e-6, says="eV/atom of the potential's energy that weigh one nat in the ranking"
    )
    orbits_share: float = _setting(0.4, 0, 1, says="w, the orbit network's part in probabilities of prototypes")
    orbits_novelty: float = _setting(0.01, 0, 1, says="u, the weight of orbits that no prototype has")
    near_steps: int = _setting(2, 0, 100, says="flow steps from a prototype; 0 leaves it as it is")
    noise_steps: int = _setting(8, 1, 100, says="flow steps from noise")
    noise_draws: int = _setting(4, 1, 64, says="draws from noise, of which the best is kept")
    anneal: float = _setting(5.0, 0, 100, says="how much faster the flow moves atoms towards its end")
    pool_least: int = _setting(0, 0, 10_000, says="fewest candidates that are finished before ranking")
    pool_share: float = _setting(1.0, 1, 100, says="candidates finished for each that is returned")
    known_weight: float = _setting(
        0.25, 0, 1, says="probability given to crystals known at exactly the requested composition, where there are any"
    )
    denovo_temperature: float = _setting(0.2, 0.01, 10, says="T of draws without a composition, in element distance")
    denovo_known: float = _setting(
        0.0, 0, 1, says="share of the draws without a composition that may be known crystals"
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value, low, high, whole = getattr(self, f.name), f.metadata["low"], f.metadata["high"], _whole(f)
            number = (
                isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
            )
            if not number or not low <= value <= high or (whole and not isinstance(value, int)):
                kind = "a whole number" if whole else "a number"
                upto = "" if high == math.inf else f" to {high:g}"
                raise RequestError(f"{f.name}={value!r} is not a setting; give {kind} from {low:g}{upto}")

    def replaced(self, **changes: Any) -> Settings:
        """The same with some settings changed.

        Raises:
            RequestError: an unknown name, or a value outside its range.
        """
        _check_names(changes)
        # NumPy's numbers become Python's
        plain = {k: v.item() if isinstance(v, Number) and hasattr(v, "item") else v for k, v in changes.items()}
        return replace(self, **plain)

    @classmethod
    def of_model(cls, said: Mapping[str, Any], name: str) -> Settings:
        """What the config of the model ``name`` says, defaults for the rest.

        Raises:
            WeightsError: an unknown setting, or a value outside its range.
        """
        try:
            _check_names(said)
            return cls(**said)
        except RequestError as error:
            raise WeightsError(f"settings of model {name!r}: {error} in its config.json") from None


def _whole(f: Field[Any]) -> bool:
    return f.type == "int"


def _check_names(names: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(Settings)]
    for name in names:
        if name not in known:
            raise RequestError(f"{name!r} is no setting; choose from {', '.join(known)}")
