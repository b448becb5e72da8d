"""How likely AutoPeri-GNN finds a crystal: ln p of its orbits, and the density of its free parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from autoperi.convert import to_arrays
from autoperi.errors import StructureError
from autoperi.geometry.wyckoff import LETTERS
from autoperi.models.autoperi_gnn import AutoPeriGnn, crystal_noise
from autoperi.models.orbit_network import OrbitNetwork
from autoperi.prior.orbit_grammar import canonical
from autoperi.random import torch_generator
from autoperi.training.orbits import orbit_crystals, read_orbits

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("formula", "space_group", "log_p_orbits", "log_density", "standard_error", "free_parameters", "bits_per_parameter", "reason")
BATCH = 16


def log_likelihoods(
    flow: AutoPeriGnn, orbits: OrbitNetwork, structures: Sequence[Any], *, steps: int, probes: int, seed: int, bar: Any
) -> pd.DataFrame:
    """One row a crystal, see :meth:`autoperi.AutoPeri.log_likelihood`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    readable: list[int] = []
    crystals = []
    for k, structure in enumerate(structures):
        arrays = to_arrays(structure)
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        rows.append(row)
        read = read_orbits(*arrays)
        if read is None:
            row["reason"] = "its atoms lie on no Wyckoff positions of a space group; atoms may be on top of one another"
            continue
        info, found = read
        letters: dict[int, list[int]] = {}
        content: Counter[int] = Counter()
        for o in found:
            letters.setdefault(o.element, []).append(LETTERS.index(o.position.letter))
            content[o.element] += o.position.primitive_multiplicity
        elements, sentence = canonical(info.number, letters)
        group, words = orbits.log_probabilities(elements, [content[z] for z in elements], [(info.number, sentence)])
        row |= {"formula": _formula(content), "space_group": info.number, "log_p_orbits": float((group + words)[0])}
        readable.append(k)
        crystals.append(arrays)
    for start in range(0, len(readable), BATCH):
        part = readable[start : start + BATCH]
        data, failed = orbit_crystals(crystals[start : start + BATCH], element_volume=flow.element_volume.double().cpu())
        if failed:
            raise StructureError(f"crystal {part[failed[0]]} was read once and cannot be read again; this is an error of AutoPeri")
        batch, _ = data.take(torch.arange(len(part)))
        device = flow.element_volume.device
        draws = [
            crystal_noise(batch.freedom, [torch_generator(seed, k, probe) for k in part]).sign().to(device)
            for probe in range(max(2, probes))
        ]
        found_density = flow.log_likelihood(batch.freedom.to(device=device), batch.y.to(device), steps=steps, probes=torch.stack(draws))
        for j, k in enumerate(part):
            free = int(found_density.dimensions[j])
            rows[k] |= {
                "log_density": float(found_density.nats[j]),
                "standard_error": float(found_density.standard_error[j]),
                "free_parameters": free,
                "bits_per_parameter": float(found_density.bits_per_dimension[j]) if free else None,
            }
        bar.update(len(part))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _formula(content: Counter[int]) -> str:
    from ase.data import chemical_symbols

    return " ".join(f"{chemical_symbols[z]}{n}" for z, n in sorted(content.items()))
