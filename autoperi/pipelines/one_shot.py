"""The sampler of a network that draws elements and a space group too, and makes a crystal in one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from autoperi.data.random import numpy_generator
from autoperi.hub.networks import LoadedBundle
from autoperi.pipelines.base import DE_NOVO, Candidate
from autoperi.pipelines.request import Request
from autoperi.pipelines.sampler import SamplerPipeline
from autoperi.pipelines.settings import Settings
from autoperi.pipelines.slot_elements import SlotElements
from autoperi.symmetry.spacegroup import space_group


@dataclass(frozen=True, eq=False)
class OneShotPipeline(SamplerPipeline):
    """As a sampler; the composition is what comes out."""

    stream_batch: ClassVar[int] = 1024

    @classmethod
    def from_bundle(cls, model: LoadedBundle, settings: Settings) -> OneShotPipeline:  # noqa: D102
        made = super().from_bundle(model, settings)
        assert isinstance(made, cls)
        return replace(made, steps=1, supports=made.supports - {"composition", "steps"} | {DE_NOVO})

    def elements(self, request: Request) -> SlotElements:
        """What draws the elements of a request.

        Raises:
            RequestError: what the model cannot make.
        """
        network: Any = self.network
        return SlotElements.of_request(network.occurrences.cpu().numpy(), network.together.cpu().numpy(), request)

    def check(self, request: Request, model: str) -> None:
        """As of every pipeline, and that there are elements and groups for the request.

        Raises:
            RequestError: naming the option.
        """
        super().check(request, model)
        self.elements(request)

    def candidates(self, request: Request, indices: Iterable[int]) -> Iterator[Candidate | None]:
        """The elements and the group of each crystal; where its atoms are is for :meth:`refine` to draw."""
        elements = self.elements(request)
        for index in indices:
            drawn = elements.draw(numpy_generator(request.seed, index, 1))
            if drawn is None:
                yield None
                continue
            number, own = drawn
            group, nowhere = space_group(number).primitive, np.zeros((len(own), 3))
            numbers = np.array(own)
            yield Candidate(index, np.eye(3), nowhere, numbers, None, self.origin, group=group, group_asked=True)
