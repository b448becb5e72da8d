"""``AutoPeri``: the façade. It loads models, wires them to processes, and speaks the language of ASE and pymatgen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi._version import __version__
from autoperi.data.containers import is_series
from autoperi.data.convert import arrays_to_structures, as_list, structure_to_atoms
from autoperi.data.random import check_seed
from autoperi.errors import AutoPeriError, AutoPeriWarning, GenerationInterrupted, RequestError, WeightsError
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.nn.device import check_device, check_dtype
from autoperi.pipelines import finish as finishing
from autoperi.pipelines import generation
from autoperi.pipelines.bundle import Parts, parts_of
from autoperi.pipelines.ranking import ranked
from autoperi.pipelines.request import GenerationRequest, check_steps, make_request, whole_number
from autoperi.pipelines.target import nearest, pool_size
from autoperi.processes.lattice import MAX_BATCH_CRYSTALS
from autoperi.progress import progress_bar
from autoperi.relax.lattice import relax_lattices, relax_positions

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from pymatgen.core import Structure

    from autoperi.interfaces.ase import AutoPeriCalculator
    from autoperi.models.autoperi_gnn import AutoPeriGnn
    from autoperi.models.orbit_network import OrbitNetwork


class AutoPeri:
    """A pretrained model: generate, relax and score crystals.

    Make one with :meth:`from_pretrained`. All methods are deterministic for a seed, whatever the batch size and the
    number of threads.
    """

    def __init__(
        self, bundle: Bundle, *, device: str | torch.device = "auto", dtype: torch.dtype | None = None
    ) -> None:
        self.bundle = bundle
        self.device = check_device(device)
        self._parts: Parts = parts_of(bundle, device=self.device, dtype=check_dtype(dtype))

    # --- models ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "autoperi-base",
        *,
        revision: str | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> AutoPeri:
        """Load a model.

        Args:
            name_or_path: a bundled name (see :meth:`list_pretrained`), a directory, or a hub repository ``owner/name``.
            revision: branch, tag or commit of a hub repository.
            device: ``"auto"`` (CUDA where there is one, else CPU), ``"cpu"``, ``"cuda"``.
            dtype: of the networks; float64 by default, which makes results independent of batch size and threads.
            cache_dir: where hub downloads are kept.
            local_files_only: never touch the network.
            token: hub token; by default that of ``HF_TOKEN`` or of the login.

        Raises:
            WeightsError, HubError: the model is missing or damaged; the message says what to do.
        """
        from autoperi.hub.download import load_pretrained

        bundle = load_pretrained(
            name_or_path, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        return cls(bundle, device=device, dtype=dtype)

    @staticmethod
    def list_pretrained() -> pd.DataFrame:
        """The bundled models, one row each: name, description, licence, status, size."""
        import pandas as pd

        from autoperi.hub.store import list_pretrained

        return pd.DataFrame([info.to_dict() for info in list_pretrained()])

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write the model as a directory that :meth:`from_pretrained` reads.

        Raises:
            WeightsError: the directory cannot be written.
        """
        save_bundle(self.bundle, directory)

    def push_to_hub(
        self, repo_id: str, *, token: str | bool | None = None, private: bool = False, revision: str | None = None
    ) -> str:
        """Upload the model to a hub repository, made if need be; returns the URL of the commit.

        Raises:
            HubError: the hub refuses or cannot be reached.
        """
        import tempfile

        from autoperi.hub.download import push

        with tempfile.TemporaryDirectory() as directory:
            target = os.path.join(directory, self.bundle.name)  # noqa: PTH118
            self.save_pretrained(target)
            return push(target, repo_id, token=token, private=private, revision=revision)

    def provenance(self) -> dict[str, Any]:
        """What identifies this model: name, revision, sha256 of its config (which holds those of its weights),
        versions.
        """
        return {
            "model": self.bundle.name,
            "revision": self.bundle.revision,
            "sha256": self.bundle.sha256.get("config.json"),
            "versions": {"autoperi": __version__, "torch": torch.__version__, "numpy": np.__version__},
        }

    @property
    def known_weight(self) -> float:
        """Probability that ``generate`` gives to crystals known at exactly the requested composition, where there are
        any.
        """
        return self._parts.proposer.known_weight

    @property
    def denovo_known(self) -> float:
        """Share of the crystals without a composition that may be known ones; of the others none is."""
        return self._parts.proposer.denovo_known

    @contextmanager
    def using(self, *, known_weight: float | None = None, denovo_known: float | None = None) -> Iterator[None]:
        """Another :attr:`known_weight` or :attr:`denovo_known` within a ``with`` block; with ``known_weight=0`` every
        known polymorph is ruled out.

        Raises:
            RequestError: not a number from 0 to 1.
        """
        proposer = self._parts.proposer
        before = {"known_weight": proposer.known_weight, "denovo_known": proposer.denovo_known}
        given = {k: v for k, v in {"known_weight": known_weight, "denovo_known": denovo_known}.items() if v is not None}
        for name, value in given.items():
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise RequestError(f"{name}={value!r} is not a probability; give a number from 0 to 1")
            setattr(proposer, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(proposer, name, value)

    # --- generate --------------------------------------------------------------------------------------------------

    def generate(
        self,
        composition: Any = None,
        *,
        n: int = 1,
        space_group: int | str | None = None,
        num_atoms: int | tuple[int, int] | None = None,
        chemical_system: str | Iterable[str] | None = None,
        exclude_elements: Iterable[str] = (),
        num_elements: int | tuple[int, int] | None = None,
        target: Mapping[str, float] | None = None,
        like: Any = None,
        model: str | None = None,
        steps: int | None = None,
        finish: int = 0,
        rank: str = "energy",
        seed: int | None = None,
        batch_size: int | str = "auto",
        strict: bool = True,
        progress: bool | None = None,
        callback: Callable[[Structure], None] | None = None,
        as_ase: bool = False,
    ) -> list[Structure] | list[Atoms]:
        """Generate ``n`` crystals, best first.

        Candidates come from the prototype prior and the orbit network in order of probability (distinct prototypes
        first), the flow moves their free coordinates and cells, EMPNN relaxes the cells, atoms that come too close and
        space groups that are not the one asked for are refused, and the rest is ranked.

        Args:
            composition: ``"LiFePO4"``, a pymatgen ``Composition``, or None to draw compositions too (de novo).
            n: crystals wanted.
            space_group: number 1..230 or Hermann–Mauguin symbol; holds for every crystal at symprec 0.01 Å.
            num_atoms: atoms in the primitive cell, a number or a (smallest, largest) pair.
            chemical_system: ``"Li-Fe-O"``: exactly these elements (de novo).
            exclude_elements: elements that must not occur (de novo).
            num_elements: distinct elements, a number or a (fewest, most) pair (de novo).
            target: such as ``{"band_gap": 1.5}``, of ``formation_energy, band_gap, bulk_modulus, shear_modulus,
                last_phonon_peak`` in the units of :meth:`score`: ten times as many candidates are made, and those with
                the nearest predictions returned, which ``["target"]`` of the provenance tells.
            like: a ``Structure`` or ``Atoms``: its space group and orbits, with the elements of ``composition`` on its
                places in every way that keeps numbers of atoms, likeliest first.
            model: of what ``generate`` is made of, one part alone: ``"autoperi-gnn"``, orbits of the network with
                geometries from noise (up to 24 atoms, needs a composition), or ``"prior"``, structure types as they
                are. None is all of it.
            steps: lattice-relaxation passes; 0 leaves the cells that the flow gave.
            finish: steps of positions and cell with the potential, inside the space group, for the crystals that are
                returned (``relax_lattice(positions=True, fix_symmetry=True)``). Neither their choice nor their order
                changes, and energies of the provenance but those of its ``relaxation`` are those before. Where it would
                break what was asked for, or fails, a crystal stays as it was.
            rank: ``"energy"`` (energy of the potential and log-probability), ``"probability"`` or ``"none"`` (stream
                order).
            seed: of all randomness; None draws one, which the provenance records.
            batch_size: candidates relaxed together, or ``"auto"``; never changes a result.
            strict: raise where fewer than ``n`` crystals can be had; False returns those with a warning.
            progress: show a bar; None shows it on a terminal.
            callback: called with each crystal as it passes the checks, before ranking and ``finish``; with
                ``rank="energy"`` more are finished than returned.
            as_ase: return ASE ``Atoms``.

        Returns:
            Structures (or Atoms) with provenance in ``.properties["autoperi"]`` (``.info["autoperi"]``).

        Raises:
            RequestError: the request cannot be honoured; before any work where that can be known.
            WeightsError: ``finish`` with a model that has no potential, ``model="autoperi-gnn"`` with one that has no
            flow.
            GenerationInterrupted: Ctrl-C; ``.finished`` holds the crystals that were done, ranked.
        """
        generator = self._generator(model, composition)
        request = make_request(
            composition,
            n=n,
            space_group=space_group,
            num_atoms=num_atoms,
            chemical_system=chemical_system,
            exclude_elements=exclude_elements,
            num_elements=num_elements,
            target=target,
            like=like,
            rank=rank,
            steps=steps,
            finish=finish,
            seed=seed,
        )
        if request.finish and generator.potential is None:
            raise WeightsError(
                f"model {self.bundle.name!r} has no potential, which finish={finish} needs; leave it out, or use "
                "'autoperi-base'"
            )
        if callback is not None and not callable(callback):
            raise RequestError(f"callback={callback!r} cannot be called; give a function of one crystal")
        size, wanted = _batch_size(batch_size), request.n
        if request.target:
            lacking = [name for name, _ in request.target if name not in self.score_properties]
            if lacking:
                raise RequestError(
                    f"model {self.bundle.name!r} predicts no {', '.join(lacking)}; drop it from target, or load a "
                    "model that does"
                )
            request = replace(request, n=pool_size(request.n))
        pool = generator.pool.size(request)
        tally = generation.Tally()
        finished: list[generation.Finished] = []
        give = structure_to_atoms if as_ase else (lambda s: s)
        with progress_bar(pool, enabled=progress, description="generating") as bar:

            def one(item: generation.Finished) -> None:
                finished.append(item)
                bar.update()
                if callback is not None:
                    callback(give(self._structures([item], request)[0]))

            try:
                generation.run(request, generator, pool=pool, batch_size=size, on_finished=one, tally=tally)
            except KeyboardInterrupt:
                done = [give(s) for s in self._chosen(finished, request, wanted)]
                raise GenerationInterrupted(done, wanted) from None
        if len(finished) < wanted:
            message = tally.too_few(wanted, composition)
            if strict:
                raise RequestError(
                    f"{message}; ask for fewer, loosen the request, or pass strict=False to keep what there is"
                )
            warnings.warn(message, AutoPeriWarning, stacklevel=2)
        best = self._chosen(finished, request, wanted)
        if request.finish:
            try:
                best = finishing.finished(
                    best, partial(self._finish, request, size, progress), wanted=wanted, symprec=generation.SYMPREC
                )
            except GenerationInterrupted as stop:
                raise GenerationInterrupted([give(s) for s in stop.finished], wanted) from None
        return [give(s) for s in best]

    def _generator(self, name: str | None, composition: Any) -> generation.Generator:
        """The part that ``model=`` names."""
        whole = self._parts.generator
        if name is None:
            return whole
        if name not in generation.GENERATORS:
            raise RequestError(
                f"model={name!r} is not a generator of {self.bundle.name}; choose from "
                f"{', '.join(generation.GENERATORS)}"
            )
        if name == "autoperi-gnn":
            if composition is None:
                raise RequestError("model='autoperi-gnn' draws no compositions; give one, or leave model out")
            self._flow_and_orbits()
        return whole.alone(name)

    def _flow_and_orbits(self) -> tuple[AutoPeriGnn, OrbitNetwork]:
        """The networks of AutoPeri-GNN.

        Raises:
            WeightsError: the model lacks one.
        """
        generator = self._parts.generator
        if generator.decoder is None or generator.mixture.network is None:
            raise WeightsError(
                f"model {self.bundle.name!r} has no flow and no orbit network; use a complete model such as "
                "'autoperi-base'"
            )
        return generator.decoder.network, generator.mixture.network

    def _finish(
        self, request: GenerationRequest, batch_size: int, progress: bool | None, made: list[Structure]
    ) -> list[Structure]:
        options: dict[str, Any] = {"steps": request.finish, "batch_size": batch_size, "progress": progress}
        relaxed: list[Structure] = self.relax_lattice(made, positions=True, fix_symmetry=True, **options)
        return relaxed

    def _chosen(self, finished: Sequence[generation.Finished], request: GenerationRequest, n: int) -> list[Structure]:
        """The best ``n`` of what is finished, or those nearest to the target."""
        best = ranked(list(finished), request.rank)
        if not request.target:
            return self._structures(best[:n], request)
        return self._nearest(self._structures(best, request), dict(request.target), n)

    def _nearest(self, made: list[Structure], target: dict[str, float], n: int) -> list[Structure]:
        if not made:
            return []
        table = self.score(made, properties=list(target), progress=False)
        chosen = nearest(target, table, [s.properties["autoperi"]["log_likelihood"] for s in made], n)
        for k, told in chosen:
            made[k].properties["autoperi"]["target"] = told
        return [made[k] for k, _ in chosen]

    def _structures(self, finished: Sequence[generation.Finished], request: GenerationRequest) -> list[Structure]:
        common = self.provenance() | {"seed": request.seed}
        return arrays_to_structures(
            [(f.lattice, f.proposal.frac_coords, f.proposal.numbers) for f in finished],
            properties=[{"autoperi": common | f.note()} for f in finished],
        )

    # --- relax -----------------------------------------------------------------------------------------------------

    def relax_lattice(
        self,
        structures: Any,
        *,
        steps: int | None = None,
        positions: bool = False,
        fix_symmetry: bool = False,
        seed: int | None = None,
        batch_size: int | str = "auto",
        progress: bool | None = None,
    ) -> Any:
        """Relax lattices by EMPNN: L' = L·exp(A), fractional coordinates unchanged; then positions and cell with the
        potential if asked.

        Args:
            structures: one ``Structure`` or ``Atoms``, or a sequence of them.
            steps: passes, by default the model's; with ``positions`` the most steps of FIRE after them, by default 500.
            positions: after the lattice passes, relax positions and cell together with the model's potential (batched
                FIRE) until forces and scaled stress are below 0.05 eV/Å.
            fix_symmetry: project onto the space group found at symprec 0.01 Å: the lattice (an equivariant pass keeps
                it up to rounding already; this removes the rounding), and with ``positions`` the forces and the stress.
            seed: accepted for symmetry with ``generate``; relaxation draws nothing.
            batch_size: crystals per pass, or ``"auto"``.
            progress: show a bar; None shows it on a terminal.

        Returns:
            The same kind and container, each with ``["autoperi"]["relaxation"]``: status (``converged``, ``max_steps``,
            ``isolated``, ``exploded``, ``collapsed``, ``nan``, ``failed``), passes, last strain, volume change,
            expected relative error of the lengths and the confidence that they are right within 2 %. A crystal whose
            status is one of the last four comes back as it was given; ``failed`` has a ``reason``: no space group to
            keep. With ``positions`` also FIRE steps, energies, largest force, and further reasons to have failed:
            elements the potential never saw, atoms at one place, runaways.

        Raises:
            StructureError: a crystal that cannot be read; RequestError: an option that cannot be honoured, such as
            ``positions``
                with a model that has no potential.
        """
        check_seed(seed)
        if positions:
            return relax_positions(
                structures,
                lattice_pass=partial(self.relax_lattice, fix_symmetry=fix_symmetry, progress=False),
                bundle=self.bundle,
                device=self.device,
                dtype=self._parts.dtype,
                steps=steps,
                fix_symmetry=fix_symmetry,
                symprec=generation.SYMPREC,
                batch_size=_batch_size(batch_size),
                provenance=self.provenance(),
                progress=progress,
            )
        passes = check_steps(steps)
        passes = self._parts.relax_steps if passes is None else passes
        return relax_lattices(
            structures,
            network=self._parts.empnn,
            device=self.device,
            dtype=self._parts.dtype,
            passes=passes,
            fix_symmetry=fix_symmetry,
            symprec=generation.SYMPREC,
            batch_size=MAX_BATCH_CRYSTALS if batch_size == "auto" else _batch_size(batch_size),
            provenance=self.provenance(),
            progress=progress,
        )

    # --- score -----------------------------------------------------------------------------------------------------

    @property
    def score_properties(self) -> dict[str, tuple[str, ...]]:
        """What ``score`` can be asked for, and the columns that each brings with this model."""
        from autoperi.pipelines.score import columns_of

        return columns_of(self._parts.properties)

    def score(
        self,
        structures: Any,
        *,
        properties: Iterable[str] | None = None,
        references: Mapping[str, float] | Iterable[tuple[str, float]] | None = None,
        batch_size: int | str = "auto",
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """A table with one row per crystal, indexed like the input.

        Args:
            structures: one ``Structure`` or ``Atoms``, a sequence of them, or a pandas Series of them.
            properties: names from ``formula, validity, distance, charge, density, symmetry, formation_energy, band_gap,
                bulk_modulus, shear_modulus, last_phonon_peak, log_likelihood``; by default all that the model has (the
                four before the last need a model with property heads, which adds a ``…_std`` to each prediction).
            references: formula to formation energy (eV/atom); adds ``energy_above_hull_eV``.
            batch_size: crystals per pass, or ``"auto"``.
            progress: show a bar; None shows it on a terminal.

        Raises:
            StructureError: a crystal that cannot be read; RequestError: an unknown property, or one that the model
            lacks.
        """
        from autoperi.pipelines.score import score_table

        table = score_table(
            as_list(structures),
            energy=self._parts.energy,
            proposer=self._parts.proposer,
            heads=self._parts.properties,
            properties=properties,
            references=references,
            batch_size=_batch_size(batch_size),
            progress=progress,
        )
        if is_series(structures):
            table.index = structures.index
        return table

    def log_likelihood(
        self, structures: Any, *, tolerance: float = 1e-4, probes: int = 8, seed: int = 0, progress: bool | None = None
    ) -> pd.DataFrame:
        """How likely AutoPeri-GNN finds crystals, one row each, indexed like the input.

        ``log_p_orbits`` is ln p(space group, orbits, placement | composition and cell size) of the orbit network, ``log_density`` the log density of
        the crystal's free parameters under the flow from noise: strains of its standard primitive cell, and turns of
        its free coordinates, as they are in one of its descriptions (it has as many as its orbits have representatives
        and can be exchanged). Both in nats; ``bits_per_parameter`` is the density's negative logarithm in bits per free
        parameter; of a polar group these hold the origin too. ``standard_error`` is 0 where the divergence was exact,
        that is up to 48 free parameters. Space groups are those found at symprec 0.1 Å.

        Args:
            structures: one ``Structure`` or ``Atoms``, a sequence of them, or a pandas Series of them.
            tolerance: nats that one step of the integration may be wrong by; steps are as short as that needs.
            probes: of Hutchinson's estimate, at least 2; its error, often ten nats with eight of them, falls with their
                root.
            seed: of the probes.
            progress: show a bar; None shows it on a terminal.

        Raises:
            WeightsError: the model has no flow. StructureError: a crystal that cannot be read; one without orbits gets
            a ``reason`` instead.
            RequestError: a number that is not positive.
        """
        from autoperi.pipelines.likelihood import log_likelihoods

        flow, orbits = self._flow_and_orbits()
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 1e-8 <= tolerance <= 1:
            raise RequestError(f"tolerance={tolerance!r} is not a number of nats from 1e-8 to 1; give one")
        probes = whole_number(probes, "probes", least=2)
        crystals = as_list(structures)
        with progress_bar(len(crystals), enabled=progress, description="log-likelihoods") as bar:
            table = log_likelihoods(
                flow, orbits, crystals, tolerance=float(tolerance), probes=probes, seed=check_seed(seed), bar=bar
            )
        if is_series(structures):
            table.index = structures.index
        return table

    # --- calculator ------------------------------------------------------------------------------------------------

    def calculator(self, **options: Any) -> AutoPeriCalculator:
        """An ASE calculator with energy, free_energy, energies, forces and stress, on the device of this model.

        Args:
            **options: ``device``, ``dtype`` and ``skin`` of :class:`~autoperi.interfaces.ase.AutoPeriCalculator`.

        Raises:
            WeightsError: the model has no potential; RequestError: an unknown option.
        """
        from autoperi.interfaces.ase import AutoPeriCalculator

        return AutoPeriCalculator(self.bundle, **{"device": self.device, **options})


def _batch_size(value: int | str) -> int:
    if value == "auto":
        return generation.DEFAULT_BATCH
    return whole_number(value, "batch_size", refusal="is not a positive number; give one, or 'auto'")


__all__ = ["AutoPeri", "AutoPeriError"]
