"""How likely AutoPeri-GNN finds a crystal: ln p of its orbits, and the density of its free parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi.data.checks import whole_number
from autoperi.data.convert import to_arrays
from autoperi.data.random import check_seed, torch_generator
from autoperi.errors import RequestError
from autoperi.hub.networks import LoadedBundle
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.models.orbit_network import OrbitNetwork
from autoperi.pipelines.flow import log_likelihood
from autoperi.processes.flow import crystal_noise
from autoperi.progress import progress_bar
from autoperi.symmetry.analysis import SymmetryInfo
from autoperi.symmetry.freedom import Orbit, freedom_at_volume
from autoperi.symmetry.orbit_grammar import canonical
from autoperi.symmetry.orbits import contents_of, primitive_lattice, read_orbits

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "formula",
    "space_group",
    "log_p_orbits",
    "log_density",
    "standard_error",
    "free_parameters",
    "bits_per_parameter",
    "reason",
)
BATCH = 16


def log_likelihoods(
    model: LoadedBundle,
    structures: Sequence[Any],
    *,
    tolerance: float,
    probes: int,
    seed: int,
    progress: bool | None,
) -> pd.DataFrame:
    """One row a crystal, see :meth:`autoperi.AutoPeri.log_likelihood`."""
    flow, orbits = (model.need(kind, "log_likelihood") for kind in ("autoperi_gnn", "orbit_network"))
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 1e-8 <= tolerance <= 1:
        raise RequestError(f"tolerance={tolerance!r} is not a number of nats from 1e-8 to 1; give one")
    probes, seed = whole_number(probes, "probes", least=2), check_seed(seed)
    with progress_bar(len(structures), enabled=progress, description="log-likelihoods") as bar:
        return _table(flow, orbits, structures, tolerance=float(tolerance), probes=probes, seed=seed, bar=bar)


def _table(
    flow: AutoPeriGnn,
    orbits: OrbitNetwork,
    structures: Sequence[Any],
    *,
    tolerance: float,
    probes: int,
    seed: int,
    bar: Any,
) -> pd.DataFrame:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    readable: list[tuple[int, SymmetryInfo, list[Orbit]]] = []
    for k, structure in enumerate(structures):
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        rows.append(row)
        read = read_orbits(*to_arrays(structure))
        if read is None:
            row["reason"] = "its atoms lie on no Wyckoff positions of a space group; atoms may be on top of one another"
            continue
        info, found = read
        letters, content = contents_of(found)
        elements, sentence = canonical(info.number, letters)
        group, words = orbits.log_probabilities(elements, [content[z] for z in elements], [(info.number, sentence)])
        row |= {"formula": _formula(content), "space_group": info.number, "log_p_orbits": float((group + words)[0])}
        readable.append((k, info, found))
    volume, device = flow.element_volume.double().cpu().numpy(), flow.element_volume.device
    for start in range(0, len(readable), BATCH):
        part = readable[start : start + BATCH]
        freedom, s = freedom_at_volume([info.number for _, info, _ in part], [own for _, _, own in part], volume)
        y = freedom.coordinates(torch.as_tensor(np.stack([primitive_lattice(info) for _, info, _ in part])), s)
        draws = [crystal_noise(freedom, [torch_generator(seed, probe) for _ in part]).sign() for probe in range(probes)]
        signs = torch.stack(draws).to(device)
        density = log_likelihood(flow, freedom.to(device=device), y.to(device), tolerance=tolerance, probes=signs)
        for j, (k, _, _) in enumerate(part):
            free = int(density.dimensions[j])
            rows[k] |= {
                "log_density": float(density.nats[j]),
                "standard_error": float(density.standard_error[j]),
                "free_parameters": free,
                "bits_per_parameter": float(density.bits_per_dimension[j]) if free else None,
            }
        bar.update(len(part))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _formula(content: Mapping[int, int]) -> str:
    from ase.data import chemical_symbols

    return " ".join(f"{chemical_symbols[z]}{n}" for z, n in sorted(content.items()))
