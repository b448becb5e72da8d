"""The prototype prior as a component of a model: its library and its ranker."""

from __future__ import annotations

from torch import Tensor

from autoperi.hub.bundle import Component, load_state, state_of
from autoperi.hub.networks import fitting_config
from autoperi.prior.library import FIELDS, OPTIONAL_FIELDS, PrototypeLibrary
from autoperi.prior.propose import Proposer
from autoperi.prior.ranker import Ranker


def proposer_of(component: Component, **settings: float) -> Proposer:
    """The prior from its component, with settings of :class:`~autoperi.prior.propose.Proposer`.

    Raises:
        WeightsError: config or tensors do not fit.
    """
    with fitting_config("prior"):
        ranker = Ranker(**component.config)
    own = {k.removeprefix("ranker."): v for k, v in component.tensors.items() if k.startswith("ranker.")}
    load_state(ranker, own, source="component 'prior'")
    return Proposer(PrototypeLibrary(_of_library(component.tensors)), ranker, **settings)


def prior_component(library: PrototypeLibrary, ranker: Ranker) -> Component:
    """A learned prior as a component."""
    own = {f"ranker.{k}": v for k, v in state_of(ranker).items()}
    return Component(config=dict(ranker.config), tensors=_of_library(library.tensors) | own)


def _of_library(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: tensors[k] for k in (*FIELDS, *OPTIONAL_FIELDS) if k in tensors}
