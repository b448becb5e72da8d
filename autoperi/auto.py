"""``AutoPeri``: the façade. It loads models, wires them to pipelines, and speaks the language of ASE and pymatgen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi._version import __version__
from autoperi.data.containers import indexed_like
from autoperi.data.convert import as_list
from autoperi.data.random import check_seed
from autoperi.errors import AutoPeriError
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.networks import LoadedBundle
from autoperi.nn.device import check_device, check_dtype
from autoperi.pipelines.accept import Judge, batch_size_of
from autoperi.pipelines.base import Pipeline
from autoperi.pipelines.generate import Generation
from autoperi.pipelines.options import refuse_unknown, taken, takes
from autoperi.pipelines.request import Request, RunOptions, check_steps, make_request
from autoperi.pipelines.settings import Settings
from autoperi.pipelines.stream_options import NOT_STREAMED, StreamOptions, make_stream_request
from autoperi.processes.lattice import MAX_BATCH_CRYSTALS
from autoperi.registry import load, pipeline_path
from autoperi.relax.model import ModelRelaxer
from autoperi.workflows.explore_request import ExploreOptions, ExploreRequest

if TYPE_CHECKING:
    import pandas as pd

    from autoperi.relax.calculator import AutoPeriCalculator
    from autoperi.workflows.explore_files import Exploration


class AutoPeri:
    """A pretrained model: generate, relax and score crystals.

    Make one with :meth:`from_pretrained`. All methods are deterministic for a seed, whatever the batch size and the
    number of threads. A model never changes: :meth:`with_settings` gives another.

    Attributes:
        bundle: components and metadata.
        device: of the networks.
        dtype: of ``relax_lattice`` (``generate`` and ``score`` always run in float64).
        settings: numbers that no training decides.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.bundle, self.device, self.dtype = bundle, check_device(device), check_dtype(dtype)
        self.settings = settings or Settings.of_model(bundle.metadata.get("settings") or {}, bundle.name)
        self._model = LoadedBundle(bundle, device=self.device)
        self._model.build_all()

    def __reduce__(self) -> Any:  # copies and pickles hold the model and build its networks anew
        return partial(type(self), device=self.device, dtype=self.dtype, settings=self.settings), (self.bundle,)

    # --- models ---------------------------------------------------------------------------------------------------

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
        from autoperi.hub.download import push_bundle

        return push_bundle(self.bundle, repo_id, token=token, private=private, revision=revision)

    def provenance(self) -> dict[str, Any]:
        """What identifies this model: name, revision, sha256 of its config (which holds those of its weights), and
        versions.
        """
        return {
            "model": self.bundle.name,
            "revision": self.bundle.revision,
            "sha256": self.bundle.sha256.get("config.json"),
            "versions": {"autoperi": __version__, "torch": torch.__version__, "numpy": np.__version__},
        }

    def with_settings(self, **changes: float) -> AutoPeri:
        """The same model with other :class:`~autoperi.pipelines.settings.Settings`; this one stays as it is.

        With ``known_weight=0``, for example, no crystal known at exactly the requested composition is preferred.

        Raises:
            RequestError: an unknown setting, or a value outside its range.
        """
        other = object.__new__(type(self))
        shared = {k: v for k, v in vars(self).items() if k != "pipeline"}
        vars(other).update(shared, settings=self.settings.replaced(**changes))
        return other

    # --- generate -------------------------------------------------------------------------------------------------

    @cached_property
    def pipeline(self) -> Pipeline:
        """How this model generates.

        Raises:
            WeightsError: it has no networks that generate, or names a pipeline that does not exist.
        """
        pipeline: type[Pipeline] = load(pipeline_path(self.bundle.metadata.get("pipeline"), self.bundle.name))
        return pipeline.from_bundle(self._model, self.settings)

    @property
    def judge(self) -> Judge:
        """The checks of candidates, and the energies that rank them."""
        return Judge(self._model.find("formation_energy"), self._model.potential(), self.device)

    @property
    def generation(self) -> Generation:
        """What answers requests."""
        return Generation(self._model, self.pipeline, self.judge, self.settings, self._relaxer)

    @takes(Request, RunOptions)
    def generate(self, composition: Any = None, **options: Any) -> list[Any]:
        """Generate ``n`` crystals, best first.

        The pipeline of the model proposes candidates: that of ``autoperi-base`` takes them from the prototype prior and
        the orbit network in order of probability (distinct prototypes first), the flow moves their free coordinates and
        cells, and EMPNN relaxes the cells. Atoms that come too close and space groups that are not the one asked for
        are refused, and the rest is ranked.

        Args:
            composition: ``"LiFePO4"``, a pymatgen ``Composition``, or None to draw compositions too (de novo); or a
                :class:`~autoperi.pipelines.request.Request`, which says everything up to ``model``.
            {options}

        Returns:
            ``Structure`` (or ``Atoms``) objects with provenance in ``.properties["autoperi"]`` (``.info["autoperi"]``).

        Raises:
            RequestError: the request cannot be honoured; before any work where that can be known.
            WeightsError: ``finish`` with a model that has no potential, ``model="autoperi-gnn"`` with one that has no
                flow, or a model that cannot generate.
            GenerationInterrupted: Ctrl-C; ``.finished`` holds the crystals that were done, ranked.
        """
        refuse_unknown("generate", options, Request, RunOptions)
        how = RunOptions(**taken(options, RunOptions))
        request = make_request(composition, **options)
        return self.generation.answer(request, how, batch_size=batch_size_of(how.batch_size))

    @takes(Request, StreamOptions, without=NOT_STREAMED)
    def generate_stream(self, composition: Any = None, **options: Any) -> Iterator[Any]:
        """The crystals of ``generate(rank="none")`` one after another, any number of them, none kept in memory.

        To write them into files, and go on after an interruption, there is
        :func:`~autoperi.workflows.stream.write_stream`.

        Args:
            composition: as in :meth:`generate`.
            {options}

        Yields:
            ``Structure`` (or ``Atoms``) objects with their provenance. A warning says why there are fewer than ``n``.

        Raises:
            RequestError, WeightsError: as :meth:`generate`, before the first crystal; and for ``rank``, ``finish`` and
                ``target``, which look at all crystals of a request.
        """
        refuse_unknown("generate_stream", options, Request, StreamOptions)
        how = StreamOptions(**taken(options, StreamOptions))
        return self.generation.stream(make_stream_request(composition, **options), how).crystals()

    @takes(ExploreRequest, ExploreOptions)
    def explore(self, system: Any, **options: Any) -> Exploration:
        """Explore a chemical system: crystals at many ratios, relaxed by one potential, and their convex hull, as an
        :class:`~autoperi.workflows.explore_files.Exploration`.

        Args:
            system: one to four elements, such as ``"Li-Fe-O"``.
            {options}

        Raises:
            RequestError, DataError, WeightsError: before any work, or where every crystal of an element failed.
            ExplorationInterrupted: Ctrl-C; ``.finished`` is the exploration of what was done.
        """
        from autoperi.workflows.explore import explore

        refuse_unknown("explore", options, ExploreRequest, ExploreOptions)
        return explore(self, system, **options)

    # --- relax ----------------------------------------------------------------------------------------------------

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
            StructureError: a crystal that cannot be read. RequestError: an option that cannot be honoured, such as
                ``positions`` with a model that has no potential. WeightsError: a model without a lattice relaxer.
        """
        check_seed(seed)
        how: dict[str, Any] = {"fix_symmetry": fix_symmetry, "progress": progress}
        if positions:
            return self._relaxer.positions(steps=steps, batch_size=batch_size_of(batch_size), **how)(structures)
        size = MAX_BATCH_CRYSTALS if batch_size == "auto" else batch_size_of(batch_size)
        return self._relaxer.lattices(passes=check_steps(steps), batch_size=size, **how)(structures)

    @property
    def _relaxer(self) -> ModelRelaxer:
        return ModelRelaxer(self._model, self.dtype, self.settings.relax_steps, self.provenance())

    # --- score ----------------------------------------------------------------------------------------------------

    @property
    def score_properties(self) -> dict[str, tuple[str, ...]]:
        """What ``score`` can be asked for, and the columns that each brings with this model."""
        from autoperi.pipelines.score import columns_of

        return columns_of(self._model)

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
            self._model,
            self.settings,
            properties=properties,
            references=references,
            batch_size=batch_size_of(batch_size),
            progress=progress,
        )
        return indexed_like(structures, table)

    def log_likelihood(
        self,
        structures: Any,
        *,
        tolerance: float = 1e-4,
        probes: int = 8,
        seed: int = 0,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """How likely AutoPeri-GNN finds crystals, one row each, indexed like the input.

        Neither column is ln p of the crystal, nor is their sum: composition and cell size are given, equivalent
        descriptions and bases of the lattice are not summed over, and :meth:`generate` samples otherwise (prototypes,
        annealed steps, the better of several draws). The ``log_likelihood`` of provenance and of :meth:`score` is
        another quantity, a probability of structure types.

        ``log_p_orbits`` is ln p(space group, orbits, placement | composition and cell size) of the orbit network,
        ``log_density`` the log density of the crystal's free parameters under the flow from noise: strains of its
        standard primitive cell, and turns of its free coordinates, as they are in one of its descriptions (it has as
        many as its orbits have representatives and can be exchanged). Both are in nats; ``bits_per_parameter`` is the
        density's negative logarithm in bits per free parameter; of a polar group these hold the origin too.
        ``standard_error`` is 0 where the divergence was exact, that is up to 48 free parameters. Space groups are those
        found at symprec 0.1 Å.

        Args:
            structures: one ``Structure`` or ``Atoms``, a sequence of them, or a pandas Series of them.
            tolerance: nats that one step of the integration may be wrong by; steps are as short as that needs.
            probes: of Hutchinson's estimate, at least 2; its error, often ten nats with eight of them, falls with their
                root.
            seed: of the probes.
            progress: show a bar; None shows it on a terminal.

        Raises:
            WeightsError: the model has no flow. StructureError: a crystal that cannot be read; one without orbits gets
                a ``reason`` instead. RequestError: a number that is not positive.
        """
        from autoperi.pipelines.likelihood import log_likelihoods

        table = log_likelihoods(
            self._model, as_list(structures), tolerance=tolerance, probes=probes, seed=seed, progress=progress
        )
        return indexed_like(structures, table)

    # --- calculator -----------------------------------------------------------------------------------------------

    def calculator(self, **options: Any) -> AutoPeriCalculator:
        """An ASE calculator with energy, free_energy, energies, forces and stress, on the device of this model.

        Args:
            **options: ``device``, ``dtype`` and ``skin`` of :class:`~autoperi.relax.calculator.AutoPeriCalculator`.

        Raises:
            WeightsError: the model has no potential; RequestError: an unknown option.
        """
        from autoperi.relax.calculator import AutoPeriCalculator

        return AutoPeriCalculator(self.bundle, **{"device": self.device, **options})


__all__ = ["AutoPeri", "AutoPeriError"]
