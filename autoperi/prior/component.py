"""The prototype prior as a component of a model: its library and its ranker."""

from __future__ import annotations

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
    tensors = component.tensors
    own = {k.removeprefix("ranker."): v for k, v in tensors.items() if k.startswith("ranker.")}
    load_state(ranker, own, source="component 'prior'")
    return Proposer(
        PrototypeLibrary({k: tensors[k] for k in (*FIELDS, *OPTIONAL_FIELDS) if k in tensors}), ranker, **settings
    )


def prior_component(library: PrototypeLibrary, ranker: Ranker) -> Component:
    """A learned prior as a component."""
    tensors = {k: library.tensors[k] for k in (*FIELDS, *OPTIONAL_FIELDS) if k in library.tensors}
    return Component(
        config=dict(ranker.config), tensors=tensors | {f"ranker.{k}": v for k, v in state_of(ranker).items()}
    )
