"""From a request to crystals: the pipeline's stream, the checks, the ranking, a target, and finishing with the
potential.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autoperi.data.convert import structure_to_atoms
from autoperi.errors import AutoPeriWarning, GenerationInterrupted, RequestError, WeightsError
from autoperi.hub.networks import LoadedBundle
from autoperi.pipelines.accept import DEFAULT_BATCH, Accepted, Judge, Tally, batch_size_of, run, structures_of
from autoperi.pipelines.base import Pipeline
from autoperi.pipelines.finish import finish
from autoperi.pipelines.ranking import Ranker
from autoperi.pipelines.request import MAX_IN_MEMORY, Request, RunOptions
from autoperi.pipelines.score import columns_of, score_table
from autoperi.pipelines.settings import Settings
from autoperi.pipelines.stream import Stream
from autoperi.pipelines.stream_options import StreamOptions
from autoperi.pipelines.target import candidates_for, nearest
from autoperi.pipelines.where import filter_of
from autoperi.progress import progress_bar
from autoperi.relax.model import ModelRelaxer
from autoperi.symmetry.analysis import STRICT_SYMPREC

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure


@dataclass(frozen=True, eq=False)
class Generation:
    """Answers requests with one model.

    Attributes:
        model: its networks.
        pipeline: makes candidates.
        judge: checks them.
        settings: of the model.
        relaxer: relaxes positions and cells, where crystals are to be finished.
    """

    model: LoadedBundle
    pipeline: Pipeline
    judge: Judge
    settings: Settings
    relaxer: ModelRelaxer

    def check(self, request: Request, options: RunOptions) -> None:
        """Refuse what this model cannot honour.

        Raises:
            RequestError: naming the option. WeightsError: a network is missing.
        """
        name = self.model.bundle.name
        self.pipeline.check(request, name)
        if request.finish and not self.model.kinds("potential"):
            raise WeightsError(
                f"model {name!r} has no potential, which finish={request.finish} needs; leave it out, or use "
                "'autoperi-base'"
            )
        if options.callback is not None and not callable(options.callback):
            raise RequestError(f"callback={options.callback!r} cannot be called; give a function of one crystal")
        offered = columns_of(self.model)
        lacks = [target for target, _ in request.target if target not in offered]
        if lacks:
            raise RequestError(
                f"model {name!r} predicts no {', '.join(lacks)}; drop it from target, or load a model that does"
            )

    def answer(self, request: Request, options: RunOptions, *, batch_size: int) -> list[Any]:
        """The crystals of a request, best first.

        Raises:
            RequestError: what the model cannot honour; or too few crystals, where ``options.strict``.
            WeightsError: a network is missing.
            GenerationInterrupted: Ctrl-C; it holds the crystals that were done, ranked.
        """
        if request.n > MAX_IN_MEMORY:
            raise RequestError(
                f"n={request.n} crystals are more than a list should hold; take generate_stream (--stream), or at most "
                f"{MAX_IN_MEMORY}"
            )
        self.check(request, options)
        ranker, wanted = self._ranker(request), request.n
        pipeline = self._pipeline(request)
        if request.target:
            request = replace(request, n=candidates_for(wanted))
        give = structure_to_atoms if options.as_ase else (lambda structure: structure)
        tally, accepted = Tally(), list[Accepted]()
        pool = ranker.pool(request)
        with progress_bar(pool, enabled=options.progress, description="generating") as bar:

            def one(item: Accepted) -> None:
                accepted.append(item)
                bar.update()
                if options.callback is not None:
                    options.callback(give(self._structures([item], request, ranker)[0]))

            try:
                run(request, pipeline, self.judge, pool=pool, batch_size=batch_size, on_accepted=one, tally=tally)
            except KeyboardInterrupt:
                done = [give(s) for s in self._best(accepted, request, ranker, wanted)]
                raise GenerationInterrupted(done, wanted) from None
        if len(accepted) < wanted:
            message = tally.too_few(wanted, request)
            if options.strict:
                raise RequestError(
                    f"{message}; ask for fewer, loosen the request, or pass strict=False to keep what there is"
                )
            warnings.warn(message, AutoPeriWarning, stacklevel=3)
        best = self._best(accepted, request, ranker, wanted)
        if request.finish:
            try:
                relax = self.relaxer.positions(
                    steps=request.finish, fix_symmetry=True, batch_size=batch_size, progress=options.progress
                )
                best = finish(best, relax, wanted=wanted, symprec=STRICT_SYMPREC)
            except GenerationInterrupted as stop:
                raise GenerationInterrupted([give(s) for s in stop.finished], wanted) from None
        return [give(s) for s in best]

    def stream(self, request: Request, options: StreamOptions) -> Stream:
        """The crystals of a request one after another.

        Raises:
            RequestError: what the model cannot honour. WeightsError: a network is missing.
        """
        self.check(request, RunOptions())
        pipeline = self._pipeline(request)
        size = options.batch_size
        return Stream(
            request,
            pipeline,
            self.judge,
            Ranker(self.settings, request.rank),
            self.relaxer.provenance | {"seed": request.seed},
            filter_of(options.where, self.model, self.settings),
            (pipeline.stream_batch or DEFAULT_BATCH) if size == "auto" else batch_size_of(size),
            options.as_ase,
        )

    def _pipeline(self, request: Request) -> Pipeline:
        return self.pipeline if request.model is None else self.pipeline.part(request.model)

    def _ranker(self, request: Request) -> Ranker:
        """The ranking rule; without any energy it is the probability's, and a warning says so."""
        if request.rank == "energy" and self.judge.energy is None and not self.judge.ranks_by_potential(request):
            warnings.warn(
                f"model {self.model.bundle.name!r} predicts no energy of these crystals, so they are ranked by "
                "probability; pass rank='probability' to say so",
                AutoPeriWarning,
                stacklevel=4,
            )
            return Ranker(self.settings, "probability")
        return Ranker(self.settings, request.rank)

    def _best(self, accepted: Sequence[Accepted], request: Request, ranker: Ranker, n: int) -> list[Structure]:
        """The best ``n`` of what is accepted, or those nearest to the target."""
        ordered = ranker.order(accepted)
        if not request.target:
            return self._structures(ordered[:n], request, ranker)
        made = self._structures(ordered, request, ranker)
        if not made:
            return []
        target = dict(request.target)
        log_p = [s.properties["autoperi"]["log_likelihood"] for s in made]
        chosen = nearest(target, self._score(made, list(target)), log_p, n)
        for k, compared in chosen:
            made[k].properties["autoperi"]["target"] = compared
        return [made[k] for k, _ in chosen]

    def _structures(self, accepted: Sequence[Accepted], request: Request, ranker: Ranker) -> list[Structure]:
        return structures_of(accepted, ranker, self.relaxer.provenance | {"seed": request.seed})

    def _score(self, made: list[Structure], names: list[str]) -> pd.DataFrame:
        return score_table(made, self.model, self.settings, properties=names, progress=False)
