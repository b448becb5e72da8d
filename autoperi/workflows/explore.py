"""Explore a chemical system: crystals at many ratios, relaxed and judged by one potential, and their convex hull.

Compositions are worked on in blocks, in a fixed order: their crystals are generated one composition after another and
relaxed together, which is faster, and the blocks are the same whether or not a run was interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoperi.chemistry.formula import Formula
from autoperi.data.elements import symbol_of
from autoperi.data.files import check_writable, dumps, remove_unfinished, write_atomically
from autoperi.errors import DataError, ExplorationInterrupted, RequestError, StructureError
from autoperi.pipelines.accept import batch_size_of
from autoperi.pipelines.options import options_of
from autoperi.pipelines.request import Request, RunOptions, make_request
from autoperi.progress import progress_bar
from autoperi.workflows.explore_files import CIFS, RECORD, Exploration, listed
from autoperi.workflows.explore_parts import EnergyJudge, Part, digest, generate, known_crystals, part_of
from autoperi.workflows.explore_request import IN_MEMORY, ExploreOptions, ExploreRequest, formula_text, make_exploration
from autoperi.workflows.resume import check_same, check_same_makers

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from autoperi.auto import AutoPeri

DEFAULT_JUDGE = "autoperi-base"
BLOCK = 8
"""Compositions whose crystals are relaxed together."""
PARTS = "parts"
KNOWN = "known"


def explore(peri: AutoPeri, system: Any = None, **options: Any) -> Exploration:
    """Explore a chemical system, see :meth:`autoperi.auto.AutoPeri.explore`.

    Raises:
        RequestError, DataError, WeightsError: before any work, with the value and the remedy; and RequestError where
            every crystal of an element failed.
        ExplorationInterrupted: Ctrl-C.
    """
    how = ExploreOptions(**{f.name: options.pop(f.name) for f in options_of(ExploreOptions) if f.name in options})
    folder = None if how.out is None else Path(os.fspath(how.out))
    stored = _earlier_run(folder, how.resume)
    given = {name: value for name, value in {"system": system, **options}.items() if value is not None}
    request = _request(given, stored, folder)
    batch_size = None if how.batch_size == "auto" else batch_size_of(how.batch_size)
    judge = _judge(peri, request, batch_size)
    work = _Work(peri, request, judge, how, folder)
    work.check()
    if stored is not None:
        check_same_makers(work.header(), stored, folder, ("model", "model_settings", "judge", "known"))
    return work.run()


def _earlier_run(folder: Path | None, resume: bool) -> dict[str, Any] | None:
    """The record of the run in a folder, if it is to be resumed and there is one.

    Raises:
        RequestError: nothing to resume is named. DataError: there is a run and it is not to be resumed, or its record
            is damaged or missing; the folder holds CIFs that are of no run, or cannot be written.
    """
    if folder is None:
        if resume:
            raise RequestError("resume needs the folder of the run; give it as out")
        return None
    check_writable(folder, folder=True)
    record, parts = folder / RECORD, folder / PARTS
    if record.exists() and not resume:
        raise DataError(f"{folder} holds an earlier run; go on with it (--resume), or choose another folder")
    if not record.exists():
        if parts.is_dir() and any(parts.iterdir()):
            raise DataError(f"{folder} holds parts of a run but no {RECORD} that says of which; choose another folder")
        if theirs := sorted(listed(folder / CIFS)):
            raise DataError(f"{folder / CIFS} holds {theirs[0]}, which is not of a run; choose another folder")
        return None
    try:
        stored: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if not all(isinstance(stored[key], dict) for key in ("settings", "model", "judge")):
            raise ValueError("it names no settings")
        tuple(stored["settings"]["num_atoms"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record} cannot be read ({' '.join(str(error).split())}); choose another folder") from None
    return stored


def _request(given: Mapping[str, Any], stored: Mapping[str, Any] | None, folder: Path | None) -> ExploreRequest:
    """The request: what is given, and else the settings of the run that is resumed.

    Raises:
        RequestError: a setting differs from the run that is resumed.
    """
    if stored is None:
        return make_exploration(**given)
    old = dict(stored["settings"])
    settings = {"model" if name == "generator" else name: value for name, value in old.items() if value is not None}
    settings.pop("compositions" if settings.get("formula_atoms") is not None else "formula_atoms", None)
    if settings.get("known") == IN_MEMORY and "known" not in given:
        raise RequestError(f"the run in {folder} has known crystals that were given in Python; give them again")
    clash = {"compositions": "formula_atoms", "formula_atoms": "compositions"}
    for name, other in clash.items():
        if name in given:
            settings.pop(other, None)
    settings["num_atoms"] = tuple(settings["num_atoms"])
    if "system" in given:  # first, because the compositions of the run are not of another system
        check_same("system", make_exploration(given["system"]).echo()["system"], old, folder)
    request = make_exploration(**{**settings, **given})
    for name, value in request.echo().items():
        check_same(name, value, old, folder)
    return request


def _judge(peri: AutoPeri, request: ExploreRequest, batch_size: int | None) -> EnergyJudge:
    """The judge, checked to know the elements.

    Raises:
        WeightsError: no such model. RequestError: it has no potential, or one that never saw an element.
    """
    given, model = request.judge, peri
    if given is None and peri.judge.potential is None:
        given = DEFAULT_JUDGE
    if given is not None:
        model = given if hasattr(given, "provenance") else type(peri).from_pretrained(given, device=peri.device)
    potential = model.judge.potential
    if potential is None:
        raise RequestError(
            f"judge {model.bundle.name!r} has no potential, which all energies come from; use {DEFAULT_JUDGE!r}, or "
            "another model with the component 'potential'"
        )
    try:
        potential.check_elements(torch.tensor(request.system))
    except StructureError as error:
        raise RequestError(f"judge {model.bundle.name!r}: {error}") from None
    return EnergyJudge(potential, model.provenance(), request.relax, batch_size)


@dataclass(eq=False)
class _Work:
    """One exploration on its way."""

    peri: AutoPeri
    request: ExploreRequest
    judge: EnergyJudge
    how: ExploreOptions
    folder: Path | None

    def check(self) -> None:
        """Refuse what the model cannot generate, and known crystals that cannot be used.

        Raises:
            RequestError: naming the value and the remedy.
        """
        request = self.request
        if request.model is not None:
            self.peri.pipeline.part(request.model)  # refuses a part that the model has not
        self.requests: list[Request] = []
        for formula in request.compositions:
            one = make_request(
                formula_text(formula),
                n=request.n,
                num_atoms=request.num_atoms,
                seed=request.seed,
                rank=request.rank,
                steps=request.steps,
                model=request.model,
            )
            self.peri.generation.check(one, RunOptions())
            self.requests.append(one)
        elements = [symbol_of(z) for z in request.system]
        self.known: list[Structure] = []
        if request.known is not None:
            self.known = known_crystals(request.known, elements, self.judge.provenance["model"])
        self.names = part_names(request.compositions)

    def header(self) -> dict[str, Any]:
        """What the record says before anything is done."""
        known = None
        if self.known:
            source = self.request.echo()["known"]
            known = {"source": source, "crystals": len(self.known), "sha256": digest(self.known)}
        return {
            "system": self.request.echo()["system"],
            "settings": self.request.echo(),
            "model": self.peri.provenance(),
            "model_settings": asdict(self.peri.settings),
            "judge": self.judge.provenance,
            "known": known,
        }

    def run(self) -> Exploration:
        """All parts, and what comes of them."""
        if self.folder is not None:
            remove_unfinished(self.folder, self.folder / PARTS, self.folder / CIFS)
            if not (self.folder / RECORD).exists():
                write_atomically(self.folder / RECORD, dumps({**self.header(), "complete": False}, indent=1) + "\n")
        parts: list[Part] = []
        known: Part | None = None
        total = len(self.requests)
        try:
            with progress_bar(total, enabled=self.how.progress, description="exploring", unit="composition") as bar:
                if self.known:
                    known = self._known_part()
                for block in self._blocks():
                    parts += self._block(block)
                    self._check_elements(parts, known)
                    bar.update(len(block))
            return self._finish(parts, known, complete=True)
        except KeyboardInterrupt:
            finished = None
            if len(parts) >= len(self.request.system):
                finished = self._finish(parts, known, complete=False)
            raise ExplorationInterrupted(finished, len(parts), total) from None

    def _finish(self, parts: Sequence[Part], known: Part | None, *, complete: bool) -> Exploration:
        found = Exploration.of(self.header(), parts, known, complete=complete, wanted=len(self.requests))
        if self.folder is not None:
            found.write(self.folder)
        return found

    def _blocks(self) -> Iterator[range]:
        """Positions of compositions: the elements, then :data:`BLOCK` at a time."""
        first, total = len(self.request.system), len(self.requests)
        yield range(first)
        for start in range(first, total, BLOCK):
            yield range(start, min(start + BLOCK, total))

    def _block(self, block: range) -> list[Part]:
        """The parts of a block: read where all of them are there, else made together."""
        kept = [self._read(self.names[k], self.requests[k].asked) for k in block]
        if all(part is not None for part in kept):
            return [part for part in kept if part is not None]
        made = [generate(self.peri, self.requests[k], self.how.batch_size) for k in block]
        settled = self.judge.settle([crystal for crystals, _ in made for crystal in crystals])
        parts, start = [], 0
        for k, (crystals, note) in zip(block, made, strict=True):
            own, start = settled[start : start + len(crystals)], start + len(crystals)
            part = part_of(self.requests[k].asked, own, requested=self.request.n, note=note)
            self._write(self.names[k], part)
            parts.append(part)
        return parts

    def _known_part(self) -> Part:
        kept = self._read(KNOWN, KNOWN)
        if kept is None:
            settled = self.judge.settle(self.known)
            kept = part_of(KNOWN, settled, requested=len(self.known), note=None, merge=False)
            self._write(KNOWN, kept)
        return kept

    def _check_elements(self, parts: Sequence[Part], known: Part | None) -> None:
        """Refuse to go on without an energy of every element, which a hull starts from.

        Raises:
            RequestError: naming the element.
        """
        there = {c.composition.reduced_formula for part in (known, *parts) if part is not None for c in part.usable}
        for part in parts[: len(self.request.system)]:
            if part.formula not in there:
                why = part.note or f"{part.generated} were generated, and all of them failed to relax"
                raise RequestError(
                    f"no crystal of the element {part.formula} has an energy ({why}), and without one there is no "
                    "hull; raise n or num_atoms, take another judge, or give a crystal of it as known"
                )

    def _read(self, name: str, formula: str) -> Part | None:
        """A part of an earlier process, None where there is none that is whole."""
        if self.folder is None:
            return None
        with suppress(OSError, ValueError, TypeError, KeyError):
            part = Part.from_text((self.folder / PARTS / f"{name}.json").read_text(encoding="utf-8"))
            return part if part.formula == formula else None
        return None

    def _write(self, name: str, part: Part) -> None:
        if self.folder is not None:
            write_atomically(self.folder / PARTS / f"{name}.json", part.to_text())


def part_names(formulas: Sequence[Formula]) -> list[str]:
    """File names: the formula, with a number where a file system without capitals would confuse two (Co and CO)."""
    seen, names = {KNOWN}, []
    for k, formula in enumerate(formulas):
        text = formula_text(formula)
        name = f"{text}_{k}" if text.lower() in seen else text
        seen.add(text.lower())
        names.append(name)
    return names
