"""Learned features of crystals: what a network knows of a crystal just before it says its energy.

================  ====  ===========================================================================================
name              d     definition
================  ====  ===========================================================================================
``cgcnn``         128   penultimate activations of the bundled CGCNN (:mod:`autoperi.models.cgcnn`), formation energy
``autoperi``      64    mean over atoms of the invariant node features that the frozen formation-energy network of
                        ``autoperi-base`` gives to its head (:class:`autoperi.nn.backbone.Backbone`)
``chgnet``        64    ``crystal_fea`` of CHGNet 0.3.0 (Deng et al. 2023) divided by the atoms: the package gives a sum
                        over atoms, which would make a supercell another crystal
================  ====  ===========================================================================================

A distance between sets of features (:mod:`autoperi.metrics.frechet`) means something only beside another made with the
same network and the same weights: the features of these three, of Sultanov's CGCNN and of GemsDiff's ALIGNN (256
numbers) are different spaces. ALIGNN's package ships no weights, so ``alignn`` is refused; whoever has them passes an
:class:`Extractor` of their own.

All are remembered on disk by the content of the crystal and the sha256 of the weights
(:func:`autoperi.metrics.parallel.featurise_batched`).
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoperi.data.convert import as_structure, to_batch
from autoperi.errors import RequestError, StructureError
from autoperi.metrics.parallel import Failure, featurise_batched

if TYPE_CHECKING:
    import torch

    from autoperi.data.crystal import CrystalBatch

FEATURES = ("cgcnn", "autoperi", "chgnet")
MIN_VOLUME = 1.0
"""Å³ per atom below which a crystal has no features: thousands of neighbours, and no meaning to any network."""


@dataclass(frozen=True)
class Extractor:
    """A network that turns crystals into vectors.

    Attributes:
        name: of the feature; also of its cache.
        function: a list of pymatgen structures or ASE atoms to an array ``[n, d]``; batchmates must not change a row.
        version: raise it when the definition changes.
        parameters: all that decides the result, such as the sha256 of the weights; JSON-serialisable, part of the key.
        packages: distributions whose version decides the result too.
        description: one line for reports.
    """

    name: str
    function: Callable[[list[Any]], Any]
    version: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    description: str = ""


def extractor(features: str | Extractor, *, model: str | os.PathLike[str] | None = None) -> Extractor:
    """The extractor of a name.

    Args:
        features: one of :data:`FEATURES`, or an extractor of your own, which is returned as it is.
        model: other weights for ``cgcnn`` or ``autoperi``: bundled name, directory or hub repository.

    Raises:
        RequestError: an unknown name, or one whose package or weights are missing.
        WeightsError: the weights cannot be read.
    """
    if isinstance(features, Extractor):
        return features
    if features == "cgcnn":
        return _cgcnn(model)
    if features == "autoperi":
        return _autoperi(model)
    if features == "chgnet":
        return _chgnet()
    if features == "alignn":
        raise RequestError(
            "features='alignn': the package ships no weights; use 'chgnet' or 'autoperi', or pass an "
            "autoperi.metrics.features.Extractor "
            "whose function gives what your ALIGNN feeds to its last layer"
        )
    raise RequestError(f"features={features!r} is unknown; give one of {', '.join(FEATURES)}, or an Extractor")


def learned_features(
    crystals: Sequence[Any],
    *,
    features: str | Extractor = "cgcnn",
    model: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    cache: bool | str | os.PathLike[str] = True,
    progress: bool | None = None,
) -> list[Any]:
    """The features of each crystal, independent of the others.

    Args:
        crystals: pymatgen structures or ASE atoms.
        features, model: see :func:`extractor`.
        batch_size: crystals at a time.
        cache: True for the folder of :func:`autoperi.metrics.parallel.cache_directory`, a folder, or False.
        progress: show a bar; None shows it on a terminal.

    Returns:
        A vector ``[d]`` of float64, or a :class:`~autoperi.metrics.parallel.Failure`, for each crystal in order.

    Raises:
        RequestError, WeightsError: as :func:`extractor`.
    """
    source = extractor(features, model=model)
    return featurise_batched(
        functools.partial(_rows, source.function),
        crystals,
        name=source.name,
        version=source.version,
        parameters=source.parameters,
        packages=source.packages,
        batch_size=batch_size,
        cache=cache,
        progress=progress,
    )


def feature_matrix(rows: Sequence[Any]) -> NDArray[np.float64]:
    """The vectors among ``rows`` as one array ``[n, d]``, without failures and without rows that are not finite."""
    found = [np.asarray(row, dtype=np.float64) for row in rows if not isinstance(row, Failure) and row is not None]
    found = [row for row in found if np.isfinite(row).all()]
    return np.stack(found) if found else np.zeros((0, 0))


def _rows(function: Callable[[list[Any]], Any], crystals: list[Any]) -> NDArray[np.float64]:
    for crystal in crystals:
        structure = as_structure(crystal)
        if structure.volume < MIN_VOLUME * len(structure):
            raise StructureError(f"{structure.volume / len(structure):.3g} Å³ per atom is less than any crystal has")
    return np.asarray(function(crystals), dtype=np.float64)


def _run(network: Callable[[CrystalBatch], torch.Tensor], crystals: list[Any]) -> Any:
    import torch

    with torch.no_grad():
        # float64: a batch of another size rounds its sums differently, far below what is looked at
        return network(to_batch(crystals, dtype=torch.float64)).numpy()


def _cgcnn(model: str | os.PathLike[str] | None) -> Extractor:
    from autoperi.hub.store import resolve
    from autoperi.models.cgcnn import BUNDLED, COMPONENT, load_cgcnn

    network, name = load_cgcnn(model or BUNDLED), str(model or BUNDLED)
    return Extractor(
        "cgcnn",
        functools.partial(_run, network.features),
        parameters={"weights": _digest(network)},
        description=f"{network.config['hidden']} penultimate activations of {resolve(name).name} ({COMPONENT})",
    )


def _autoperi(model: str | os.PathLike[str] | None) -> Extractor:
    import torch

    from autoperi.hub.download import load_pretrained
    from autoperi.hub.networks import component_of, network_of
    from autoperi.models.formation_energy import FormationEnergy
    from autoperi.nn.heads import sum_per_crystal

    bundle = load_pretrained(model or "autoperi-base")
    if "formation_energy" not in bundle.components:
        raise RequestError(
            f"model {bundle.name!r} has no component 'formation_energy'; give one that has, such as 'autoperi-base'"
        )
    network = network_of("formation_energy", component_of(bundle, "formation_energy")).to(torch.float64)
    assert isinstance(network, FormationEnergy)

    def mean_scalars(batch: CrystalBatch) -> torch.Tensor:
        return sum_per_crystal(network.backbone(batch).scalars, batch) / batch.n_atoms.to(torch.float64).unsqueeze(-1)

    return Extractor(
        "autoperi",
        functools.partial(_run, mean_scalars),
        parameters={"weights": _digest(network)},
        packages=("e3nn",),
        description=f"mean of the {network.backbone.channels} invariant node features of {bundle.name}'s "
        "formation-energy network",
    )


def _chgnet() -> Extractor:
    if importlib.util.find_spec("chgnet") is None:
        raise RequestError("features='chgnet' needs the package chgnet; run `pip install \"autoperi[metrics]\" chgnet`")

    @functools.cache
    def network() -> Any:
        import contextlib
        import io

        from chgnet.model import CHGNet

        with contextlib.redirect_stdout(io.StringIO()):  # it announces its size whatever verbose says
            return CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)

    def crystal_features(crystals: list[Any]) -> Any:
        structures = [as_structure(crystal) for crystal in crystals]
        # one at a time: float32 sums would otherwise depend on the batch
        found = network().predict_structure(structures, task="e", return_crystal_feas=True, batch_size=1)
        sums = [one["crystal_fea"] for one in (found if isinstance(found, list) else [found])]
        return np.stack([total / len(structure) for total, structure in zip(sums, structures, strict=True)])

    return Extractor(
        "chgnet",
        crystal_features,
        parameters={"model": "0.3.0"},
        packages=("chgnet",),
        description="64 crystal features of CHGNet 0.3.0 per atom",
    )


def _digest(network: torch.nn.Module) -> str:
    """sha256 of the weights themselves, so that a renamed copy shares its cache and an edited one does not."""
    import hashlib

    from autoperi.hub.bundle import state_of

    digest = hashlib.sha256()
    for key, tensor in sorted(state_of(network).items()):
        digest.update(key.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
