"""Stability of generated crystals: relaxed and judged by a calculator, or judged as they are by the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from autoperi.data.checks import whole_number
from autoperi.errors import AutoPeriError, DataError, RequestError
from autoperi.evaluation.calculators import describe_calculator, make_calculator, relax
from autoperi.evaluation.common import tally
from autoperi.metrics.counts import mean, share
from autoperi.metrics.elastic import elastic_stability
from autoperi.metrics.hull import Hull, energy_above_hull, hull_facts, near_hull, recompute
from autoperi.metrics.parallel import check_processes
from autoperi.metrics.pgcgm import relax_and_match
from autoperi.metrics.phonons import phonon_stability
from autoperi.metrics.references import MATERIALS_PROJECT, References, composition_of, reference_entries
from autoperi.metrics.relaxation import Relaxation
from autoperi.metrics.stability import RELAXED_TOLERANCE, ROUNDING_TOLERANCE, stability


def composition_or_none(crystal: Any) -> Any:
    """Composition of a crystal; None where it cannot be read."""
    try:
        return composition_of(crystal)
    except AutoPeriError:
        return None


NEAR_HULL = 0.05
"""eV/atom: reference entries this near to their own hull are the ones that a calculator is asked for."""


Compare: TypeAlias = Callable[[Sequence[Any]], tuple[Mapping[str, Any], Mapping[str, Any] | None]]
"""Crystals to the results of ``uniqueness`` and ``novelty`` (:mod:`autoperi.metrics.novelty`)."""


@dataclass(frozen=True)
class Settings:
    """What was asked for, checked before any work.

    Attributes:
        entries: the source of the reference entries, or None.
        calculator, options: of the judge, or None.
        relax_limit, relax_steps, mechanical: see :func:`~autoperi.evaluation.generation.evaluate_generation`.

    Raises:
        RequestError: an unknown calculator or a number that is none. DataError: no such file of entries.
    """

    entries: Any
    calculator: Any
    options: Mapping[str, Any] | str | None
    relax_limit: int | None
    relax_steps: int
    mechanical: int

    def __post_init__(self) -> None:
        for name, least in (("relax_limit", 1), ("relax_steps", 1), ("mechanical", 0)):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), name, least=least)
        if self.mechanical and self.calculator is None:
            raise RequestError(f"mechanical={self.mechanical} needs forces; name a calculator too")
        if self.calculator is not None:
            make_calculator(self.calculator, self.options)
        entries = self.entries
        named = isinstance(entries, (str, Path)) and str(entries).lower() not in MATERIALS_PROJECT
        if named and not Path(entries).is_file():
            raise DataError(
                f"entries={str(entries)!r} is not a file; give entries as .json, .csv or .parquet, or "
                "'materials-project'"
            )

    @property
    def described(self) -> dict[str, Any] | None:
        """Name, package, version and options of the calculator."""
        return None if self.calculator is None else describe_calculator(self.calculator, self.options)


@dataclass(frozen=True)
class Judgement:
    """What came of it.

    Attributes:
        summary: for the report.
        above_hull: eV/atom of each crystal, None where unknown.
        relaxed: one each where a calculator relaxed them.
        hull: of the references, None without any.
        energies: eV/atom of each crystal on the scale of the hull.
    """

    summary: dict[str, Any]
    above_hull: list[float | None]
    relaxed: list[Relaxation] = field(default_factory=list)
    hull: Hull | None = None
    energies: list[float | None] = field(default_factory=list)


def judge(
    crystals: Sequence[Any],
    formation_energies: Sequence[float | None],
    settings: Settings,
    *,
    model: str,
    sound: Sequence[bool],
    compare: Compare,
    lost: int,
    processes: int | None,
    progress: bool | None,
) -> Judgement:
    """Relaxation, energy above hull, S.U.N., and mechanical stability, as far as the settings ask for them.

    Args:
        crystals: generated.
        formation_energies: of the model, eV/atom; the judge where there is no calculator.
        settings: checked.
        model: its name.
        sound: whether a crystal's distances are those of a crystal; without a calculator no other one is judged,
            because a network trained on crystals says anything of what is none.
        compare: what is unique and novel, the latter None without a training set (then there is no S.U.N.). With
            a calculator it sees the relaxed crystals: those are the ones whose energy is judged.
        lost: crystals that could not even be read; they count as not stable.
        processes, progress: of the relaxations.
    """
    n = len(crystals)
    summary: dict[str, Any] = {}
    relaxed: list[Relaxation] = []
    scale, name, judged = "formation", f"{model} formation energy, not relaxed", list(crystals)
    energies = [e if ok else None for e, ok in zip(formation_energies, sound, strict=True)]
    if settings.calculator is not None:
        name, scale = describe_calculator(settings.calculator, settings.options)["calculator"], "total"
        count = n if settings.relax_limit is None else min(n, settings.relax_limit)
        workers = check_processes(processes) if isinstance(settings.calculator, str) else 1
        how: dict[str, Any] = {"steps": settings.relax_steps, "processes": workers, "progress": progress}
        relaxed = relax(crystals[:count], settings.calculator, options=settings.options, **how)
        summary["relaxation"] = _relaxation_summary(crystals[:count], relaxed, processes, progress)
        energies = [r.energy_after for r in relaxed] + [None] * (n - count)
        ends = [c if r.structure is None else r.structure for r, c in zip(relaxed, crystals, strict=False)]
        judged = [*ends, *crystals[count:]]
    summary["judge"] = name
    if settings.entries is None:
        summary["reason"] = "no reference entries were given"
        return _finish(Judgement(summary, [None] * n, relaxed), settings, progress)
    systems = sorted({tuple(sorted(found.get_el_amt_dict())) for c in crystals if (found := composition_or_none(c))})
    references = reference_entries(settings.entries, chemical_systems=systems)
    if scale == "total" and references.judge is None:
        try:
            references = _on_scale(references, settings, name, systems, progress)
        except RequestError as error:  # the relaxations are done and stay in the report
            summary["reason"] = f"the reference entries could not be put on the scale of {name}: {error}"
            return _finish(Judgement(summary, [None] * n, relaxed), settings, progress)
    hull = Hull(references)
    distances = energy_above_hull(judged, energies, hull, scale=scale, judge=name)  # type: ignore[arg-type]
    above = [d.energy for d in distances]
    unique, novel = compare(judged)
    none = [False] * lost
    summary |= stability(
        [*above, *[math.inf] * lost],
        unique=[*unique["flags"], *none],
        novel=None if novel is None else [*novel["flags"], *none],
        # of crystals that match, any stable one makes their kind count
        groups=[*unique["same_as"], *range(n, n + lost)],
        tolerance=RELAXED_TOLERANCE if relaxed else ROUNDING_TOLERANCE,
    )
    if novel is None:
        summary["sun_reason"] = "no training set was given to tell what is novel"
    summary["hull"] = hull_facts(hull.references, scale=scale, judge=name)  # type: ignore[arg-type]
    missing = [(d.reason, relaxed or ok) for d, ok in zip(distances, sound, strict=True) if d.reason]
    reasons = [reason if ok else "distances that no crystal has" for reason, ok in missing]
    summary["not_judged"] = tally(reasons)
    return _finish(Judgement(summary, above, relaxed, hull, energies), settings, progress)


def _on_scale(
    references: References, settings: Settings, name: str, systems: Sequence[tuple[str, ...]], progress: bool | None
) -> References:
    """The references near their own hull, relaxed by the judge: only then do its errors cancel."""
    keep = near_hull(Hull(references), NEAR_HULL, systems)
    calculator = make_calculator(settings.calculator, settings.options)
    how: dict[str, Any] = {"relax": {"steps": settings.relax_steps}, "progress": progress}
    return recompute(references, calculator, judge=name, elements=systems, keep=keep, **how)


def _relaxation_summary(
    crystals: Sequence[Any], relaxed: Sequence[Relaxation], processes: int | None, progress: bool | None
) -> dict[str, Any]:
    ends = [r.structure if r.status != "failed" else None for r in relaxed]
    matched = relax_and_match(crystals, ends, processes=processes, progress=progress)
    matched.pop("values", None)
    status = [r.status for r in relaxed]
    both = [(r.energy_before, r.energy_after) for r in relaxed]
    return {
        "converged": share([name == "converged" for name in status]),
        "status": {name: status.count(name) for name in ("converged", "not converged", "failed")},
        "failures": tally(str(r.reason) for r in relaxed if r.status == "failed"),
        "energy_gain_eV_per_atom": mean(None if a is None or b is None else a - b for a, b in both),
        "rms_displacement_A": mean(r.rms_displacement for r in relaxed),
        "volume_change": mean(r.volume_change for r in relaxed),
        "force_calls": mean(float(r.force_calls) for r in relaxed),
        "relax_and_match": matched,
    }


def _finish(judgement: Judgement, settings: Settings, progress: bool | None) -> Judgement:
    """Add elastic and phonon stability of the most stable relaxed crystals."""
    if not settings.mechanical:
        return judgement
    order = [k for k, r in enumerate(judgement.relaxed) if r.status == "converged"]
    order.sort(key=lambda k: (judgement.above_hull[k] is None, judgement.above_hull[k] or 0.0, k))
    chosen = [judgement.relaxed[k].structure for k in order[: settings.mechanical]]
    calculator = make_calculator(settings.calculator, settings.options)
    born, _ = elastic_stability(chosen, calculator, progress=progress)
    phonon, _ = phonon_stability(chosen, calculator, progress=progress)
    judgement.summary["mechanical"] = {"crystals": order[: settings.mechanical], "elastic": born, "phonons": phonon}
    return judgement
