"""The networks whose features are at hand, by name: where a Fréchet distance between sets of crystals is taken.

================  ====  ===========================================================================================
name              d     definition
================  ====  ===========================================================================================
``cgcnn``         128   penultimate activations of the bundled CGCNN (:mod:`autoperi.models.cgcnn`), formation energy
``autoperi``      64    mean over atoms of the invariant node features that the frozen formation-energy network of
                        ``autoperi-base`` gives to its head (:class:`autoperi.nn.backbone.Backbone`)
``chgnet``        64    ``crystal_fea`` of CHGNet 0.3.0 (Deng et al. 2023) divided by the atoms: the package gives a sum
                        over atoms, which would make a supercell another crystal
================  ====  ===========================================================================================

All are remembered on disk by the content of the crystal and the sha256 of the weights
(:mod:`autoperi.metrics.features`). ALIGNN's package ships no weights, so ``alignn`` is refused; whoever has them passes
an :class:`~autoperi.metrics.features.Extractor` of their own.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.data.convert import as_structure, to_batch
from autoperi.errors import RequestError
from autoperi.metrics.features import Extractor

if TYPE_CHECKING:
    import torch

    from autoperi.data.crystal import CrystalBatch

FEATURES = ("cgcnn", "autoperi", "chgnet")


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
    if features in ("cgcnn", "autoperi"):
        return _cgcnn(model) if features == "cgcnn" else _autoperi(model)
    if features == "chgnet":
        return _chgnet()
    if features == "alignn":
        raise RequestError(
            "features='alignn': the package ships no weights; use 'chgnet' or 'autoperi', or pass an "
            "autoperi.metrics.features.Extractor whose function gives what your ALIGNN feeds to its last layer"
        )
    raise RequestError(f"features={features!r} is unknown; give one of {', '.join(FEATURES)}, or an Extractor")


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
