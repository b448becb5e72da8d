"""From the components of a :class:`~autoperi.hub.bundle.Bundle` to networks that can be asked, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoperi.errors import WeightsError
from autoperi.hub.bundle import Bundle, Component, load_state, state_of
from autoperi.registry import Kind, Role, kind_named, kind_of, load

if TYPE_CHECKING:
    from autoperi.models.potential import Potential


ALONE: tuple[Role, ...] = ("relaxer", "potential")
"""Roles of which a model has one network at most, whichever its kind."""


class LoadedBundle:
    """A model and its networks, each built when it is first asked for, in evaluation mode, and kept.

    Args:
        bundle: the model.
        device: of the networks.

    Raises:
        WeightsError: a component of a kind that this installation does not know, or two that would stand for one.
    """

    def __init__(self, bundle: Bundle, *, device: torch.device | str = "cpu") -> None:
        self.bundle, self.device = bundle, torch.device(device)
        self.components: dict[str, Component] = {}
        self._kinds: dict[str, Kind] = {}
        self._built: dict[tuple[str, torch.dtype], Any] = {}
        self._lock = RLock()
        for name, component in bundle.components.items():
            kind = kind_of(name, component.config)
            if kind is None:
                raise WeightsError(
                    f"component {name!r} of model {bundle.name!r} is of a kind that this installation does not know; "
                    "install the package that defines it, or update AutoPeri"
                )
            other = next((k for k in self._kinds.values() if k.name == kind.name or k.role == kind.role in ALONE), None)
            if other is not None:
                raise WeightsError(
                    f"model {bundle.name!r} has two components for one part, {other.name!r} and {name!r}; take one of "
                    "them out of its config.json"
                )
            self._kinds[kind.name], self.components[kind.name] = kind, component

    def __contains__(self, kind: str) -> bool:
        return kind in self.components

    def kinds(self, *roles: Role) -> list[Kind]:
        """The kinds of its components, of these roles or all."""
        return [kind for kind in self._kinds.values() if not roles or kind.role in roles]

    def find(self, kind: str, dtype: torch.dtype = torch.float64) -> Any:
        """The network of a kind, None where the model has none.

        Raises:
            WeightsError: config or tensors do not fit.
        """
        if kind not in self.components:
            return None
        with self._lock:
            if (kind, dtype) not in self._built:
                network = network_of(self._kinds[kind], self.components[kind])
                if isinstance(network, nn.Module):
                    network = network.to(device=self.device, dtype=dtype)
                self._built[kind, dtype] = network
            return self._built[kind, dtype]

    def need(self, kind: str, purpose: str, dtype: torch.dtype = torch.float64) -> Any:
        """The network of a kind; ``purpose`` says in the error what needs it.

        Raises:
            WeightsError: the model has none, or its config or tensors do not fit.
        """
        network = self.find(kind, dtype)
        if network is None:
            raise WeightsError(lacking(self.bundle, kind, purpose))
        return network

    def build_all(self) -> None:
        """Build every network in float64, so that what does not fit is refused before any work.

        Raises:
            WeightsError: config or tensors do not fit, or the model holds baselines alone, which do nothing that a
                complete model does.
        """
        baselines = self.kinds("baseline")
        if baselines and len(baselines) == len(self.components):
            kind, bundle = baselines[0], self.bundle
            where = bundle.name if bundle.name == kind.pretrained else bundle.source
            raise WeightsError(
                f"model {bundle.name!r} is a baseline ({', '.join(bundle.components)}) that neither generates nor "
                f"relaxes; load it with {loading(kind, where)}, or give a complete model such as 'autoperi-base'"
            )
        for kind in self.kinds():
            network = self.find(kind.name)
            if hasattr(network, "check_beside"):
                network.check_beside(self)

    def relaxer(self, dtype: torch.dtype = torch.float64) -> Any:
        """The network that relaxes lattices, of whatever kind, None where the model has none."""
        return next((self.find(kind.name, dtype) for kind in self.kinds("relaxer")), None)

    def potential(self, dtype: torch.dtype = torch.float64) -> Any:
        """The network of energies and forces, of whatever kind, None where the model has none."""
        return next((self.find(kind.name, dtype) for kind in self.kinds("potential")), None)


def loading(kind: Kind, where: str) -> str:
    """The expression that loads a network of a kind by itself from a model."""
    if kind.pretrained:  # AutoPeri's own baselines have a function each
        return f"autoperi.models.{kind.name}.load_{kind.name}({where!r})"
    return f"autoperi.hub.networks.load_pretrained_network({kind.name!r}, {where!r})"


def lacking(bundle: Bundle, kind: str, purpose: str = "") -> str:
    """That a model has no component of a kind, and what to do; ``purpose`` is what needs it."""
    known = kind_named(kind)
    return (
        f"model {bundle.name!r} has no component {kind!r}{f', which {purpose} needs' if purpose else ''}; it holds "
        f"{', '.join(bundle.components) or 'nothing'}: give {known.pretrained or 'autoperi-base'!r}, or what "
        f"`autoperi train {known.word}` wrote"
    )


def find_component(bundle: Bundle, kind: str) -> Component | None:
    """The component of a kind, None where the model has none."""
    for name, component in bundle.components.items():
        found = kind_of(name, component.config)
        if found is not None and found.name == kind:
            return component
    return None


def component_of(bundle: Bundle, kind: str, purpose: str = "") -> Component:
    """The component of a kind; ``purpose`` says in the error what needs it.

    Raises:
        WeightsError: the model has none.
    """
    found = find_component(bundle, kind)
    if found is None:
        raise WeightsError(lacking(bundle, kind, purpose))
    return found


def network_of(kind: Kind | str, component: Component) -> Any:
    """The network of a component, made anew, in evaluation mode, float32.

    Raises:
        WeightsError: config or tensors do not fit.
    """
    kind = kind_named(kind) if isinstance(kind, str) else kind
    if kind.built_from_component:
        return load(kind.model)(component)
    with fitting_config(kind.name):
        network: nn.Module = load(kind.model)(**component.config)
    load_state(network, component.tensors, source=f"component {kind.name!r}")
    return network.eval()


@contextmanager
def fitting_config(component: str) -> Iterator[None]:
    """Building a module inside draws from a generator of its own, and a config that does not fit is one clear error.

    Raises:
        WeightsError: what is built refuses its config.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are filled
            yield
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"config of component {component!r} does not fit this version of AutoPeri ({error}); update AutoPeri or "
            "the model"
        ) from None


def potential_of(bundle: Bundle) -> Potential:
    """The potential of a model, made anew, in evaluation mode, float32; nothing else of the model is built.

    Raises:
        WeightsError: the model has none, or its config or tensors do not fit.
    """
    for name, component in bundle.components.items():
        kind = kind_of(name, component.config)
        if kind is not None and kind.role == "potential":
            potential: Potential = network_of(kind, component)
            return potential
    raise WeightsError(lacking(bundle, "potential", "energies and forces"))


def network_component(network: Any) -> Component:
    """A trained network as a component."""
    return Component(config=dict(network.config), tensors=state_of(network))


def load_pretrained_network(kind: str, name_or_path: Any = None) -> Any:
    """The network of a kind from a model that holds it, in evaluation mode, float32.

    Args:
        kind: such as ``cgcnn`` or ``potential``.
        name_or_path: bundled name, directory or hub repository; None is the bundled model of that kind.

    Raises:
        WeightsError: no such model, or one without this component.
    """
    from autoperi.hub.download import load_pretrained

    known = kind_named(kind)
    bundle = load_pretrained(name_or_path or known.pretrained or "autoperi-base")
    return network_of(known, component_of(bundle, known.name))
