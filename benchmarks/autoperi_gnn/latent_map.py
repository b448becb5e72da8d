"""What the latent vector z of AutoPeri-GNN knows: a map of the test set in two dimensions, and what can be read from
all of them.

    python benchmarks/autoperi_gnn/latent_map.py mp20_test.parquet

The encoder reads every crystal into mean and variance of q(z | crystal). Principal components of the means give the
map. Probes, cross-validated in five
parts, say how much of crystal system and formation energy a linear map, or the ten nearest crystals, find in the means,
beside what they find in the composition (fractions of the elements).
"""

from __future__ import annotations

import argparse
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import save_small
from flow_weights import load_flow

from autoperi.data.convert import batch_arrays
from autoperi.data.io import read_table
from autoperi.symmetry.analysis import SYMPREC, analyse
from autoperi.symmetry.spacegroup import crystal_system, parse_space_group, space_group
from autoperi.units import MAX_ATOMIC_NUMBER

ROOT = Path(__file__).resolve().parents[2]
RESULTS, FIGURE = ROOT / "benchmarks" / "results" / "latent_map.json", ROOT / "docs" / "images" / "latent_map.png"
SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
FOLDS, NEIGHBOURS, BATCH = 5, 10, 128
ACTIVE = 0.01
"""Variance of a dimension's means over crystals from which it counts as used (Burda et al., ICLR 2016)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a table with space_group and formation_energy_per_atom")
    parser.add_argument(
        "--weights",
        type=Path,
        help="autoperi_gnn.safetensors of a run, or a model directory; the bundled model's by default",
    )
    parser.add_argument("--limit", type=int, help="the first crystals alone")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    args = parser.parse_args()
    model, sha256 = load_flow(args.weights)
    table = read_table(args.data)
    rows = range(len(table) if args.limit is None else min(args.limit, len(table)))
    mean, log_variance = encode(model, table, rows)
    groups = np.array([group(table, k) for k in rows])
    systems = np.array([SYSTEMS.index(crystal_system(g)) for g in groups])
    energy = table.labels["formation_energy_per_atom"].to_numpy(dtype=float)[list(rows)]
    fractions = np.stack(
        [
            np.bincount(table.atomic_numbers[k], minlength=MAX_ATOMIC_NUMBER + 1) / len(table.atomic_numbers[k])
            for k in rows
        ]
    )
    points, result = summary(mean, log_variance, fractions, systems, energy)
    sizes = np.array([len(table.atomic_numbers[k]) for k in rows])
    volume = np.abs(np.linalg.det(np.stack([table.lattice[k] for k in rows])))
    expected = sizes * (fractions @ model.element_volume.double().numpy())
    kl = divergence(mean, log_variance).sum(1)
    facts = {"atoms": sizes, "volume_ratio": volume / expected, "formation_energy_eV": energy, "kl_nats": kl}
    result["ends"] = ends(points, groups, facts)
    result = {"task": "latent_map", "data": Path(args.data).name, "flow_sha256": sha256, **result}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(points, systems, energy, result, args.figure)
    print(json.dumps(result, indent=1))


def encode(model: Any, table: Any, rows: range) -> tuple[np.ndarray, np.ndarray]:
    """Means and log variances of q(z | crystal), each ``[n, latent]``."""
    found = []
    for start in range(0, len(rows), BATCH):
        part = list(rows[start : start + BATCH])
        batch = batch_arrays(
            [table.lattice[k] for k in part],
            [table.frac_coords[k] for k in part],
            [table.atomic_numbers[k] for k in part],
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        with torch.no_grad():
            found.append(torch.stack(model.encode(batch)).double().numpy())
    mean, log_variance = np.concatenate(found, 1)
    return mean, log_variance


def group(table: Any, k: int) -> int:
    """The space group that the table has, spglib's at symprec 0.1 Å where it has none."""
    value = table.labels["space_group"].iloc[k] if "space_group" in table.labels else None
    if value is None or value != value:
        return analyse(table.lattice[k], table.frac_coords[k], table.atomic_numbers[k], symprec=SYMPREC).number
    return parse_space_group(int(value) if isinstance(value, (float, np.floating)) else value)


def summary(
    mean: np.ndarray, log_variance: np.ndarray, fractions: np.ndarray, systems: np.ndarray, energy: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """Points of the map ``[n, 2]``, and all that is said in numbers."""
    centred = mean - mean.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    for axis in axes[:2]:  # a sign that another machine finds, too
        axis *= np.sign(axis[np.abs(axis).argmax()])
    variance = singular**2 / max((singular**2).sum(), 1e-300)
    kl = divergence(mean, log_variance).mean(0)
    fold = np.random.default_rng(0).permutation(len(mean)) % FOLDS
    features = {
        "z": scaled(mean),
        "composition": scaled(fractions),
        "z_and_composition": np.concatenate([scaled(mean), scaled(fractions)], 1),
    }
    labelled = np.isfinite(energy)
    onehot = np.eye(len(SYSTEMS))[systems]
    result: dict[str, Any] = {
        "crystals": len(mean),
        "dimensions": mean.shape[1],
        "active_dimensions": int((mean.var(0) > ACTIVE).sum()),
        "effective_dimensions": rounded(1 / (variance**2).sum(), 2),
        "kl_nats": rounded(kl.sum()),
        "kl_nats_by_dimension": [rounded(v) for v in np.sort(kl)[::-1]],
        "variance_by_component": [rounded(v, 4) for v in variance],
        "variance_in_map": rounded(variance[:2].sum(), 4),
        "systems": {name: int((systems == k).sum()) for k, name in enumerate(SYSTEMS)},
        "crystal_system": {"majority": rounded(onehot.mean(0).max(), 4)},
        "formation_energy": {"mean_mae_eV": rounded(np.abs(energy - energy[labelled].mean())[labelled].mean(), 4)},
    }
    for name, x in features.items():
        linear, near = ridge(x, onehot, fold).argmax(1), neighbours(x, onehot, fold).argmax(1)
        result["crystal_system"][name] = {
            "linear": rounded((linear == systems).mean(), 4),
            "nearest": rounded((near == systems).mean(), 4),
        }
        y, f = energy[labelled], fold[labelled]
        by = {
            "linear": ridge(x[labelled], y[:, None], f)[:, 0],
            "nearest": neighbours(x[labelled], y[:, None], f)[:, 0],
        }
        result["formation_energy"][name] = {
            how: {
                "mae_eV": rounded(np.abs(found - y).mean(), 4),
                "r2": rounded(1 - ((found - y) ** 2).sum() / ((y - y.mean()) ** 2).sum(), 4),
            }
            for how, found in by.items()
        }
    points = centred @ axes[:2].T
    result["along_map"] = {
        f"component_{k + 1}": {
            "formation_energy_correlation": rounded(np.corrcoef(points[labelled, k], energy[labelled])[0, 1]),
            "system_variance_share": rounded(between(points[:, k], systems)),
        }
        for k in range(2)
    }
    return points, result


def divergence(mean: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """KL of q(z | crystal) from the standard normal in nats, by crystal and dimension."""
    return 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)


def ends(points: np.ndarray, groups: np.ndarray, facts: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the tenth of the crystals at either end of each axis of the map is, beside all of them."""
    tenth = max(1, len(points) // 10)
    chosen = {"all": np.arange(len(points))}
    for k, axis in enumerate(("first", "second")):
        order = np.argsort(points[:, k], kind="stable")
        chosen |= {f"{axis}_low": order[:tenth], f"{axis}_high": order[-tenth:]}
    out = {}
    for name, rows in chosen.items():
        numbers, counts = np.unique(groups[rows], return_counts=True)
        common = np.argsort(-counts, kind="stable")[:3]
        out[name] = {
            "space_groups": {space_group(int(numbers[c])).symbol: rounded(counts[c] / len(rows)) for c in common},
            "cubic": rounded((groups[rows] >= 195).mean()),
            **{fact: rounded(np.nanmedian(values[rows])) for fact, values in facts.items()},
        }
    return out


def scaled(x: np.ndarray) -> np.ndarray:
    """Columns that vary, with mean 0 and variance 1."""
    kept = x[:, x.std(0) > 1e-9]
    return (kept - kept.mean(0)) / kept.std(0) if kept.shape[1] else np.zeros((len(x), 1))


def ridge(x: np.ndarray, y: np.ndarray, fold: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Cross-validated predictions of a linear map with a constant."""
    x, out = np.concatenate([x, np.ones((len(x), 1))], 1), np.zeros(y.shape)
    for f in range(FOLDS):
        train = fold != f
        weights = np.linalg.solve(x[train].T @ x[train] + strength * np.eye(x.shape[1]), x[train].T @ y[train])
        out[~train] = x[~train] @ weights
    return out


def neighbours(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Cross-validated means over the nearest crystals of the other parts."""
    out, square = np.zeros(y.shape), (x**2).sum(1)
    for f in range(FOLDS):
        train, test = np.nonzero(fold != f)[0], np.nonzero(fold == f)[0]
        distance = square[test][:, None] + square[train][None] - 2 * x[test] @ x[train].T
        nearest = np.argpartition(distance, min(NEIGHBOURS, len(train) - 1), axis=1)[:, :NEIGHBOURS]
        out[test] = y[train][nearest].mean(1)
    return out


def between(values: np.ndarray, classes: np.ndarray) -> float:
    """Share of the variance that lies between classes."""
    means = np.array([values[classes == c].mean() if (classes == c).any() else 0.0 for c in range(len(SYSTEMS))])
    return float(((means[classes] - values.mean()) ** 2).sum() / max(((values - values.mean()) ** 2).sum(), 1e-300))


def rounded(value: Any, digits: int = 3) -> float:
    return round(float(value), digits)


def draw(points: np.ndarray, systems: np.ndarray, energy: np.ndarray, result: dict[str, Any], path: Path) -> None:
    """Two panels: crystal system, formation energy."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from autoperi.figures.style import COLOURS, INK, padded, robust_limits, styled

    colours = np.array([INK, *COLOURS[:1], *COLOURS[2:], COLOURS[1]])  # cubic, the most common, stands out
    order = np.random.default_rng(1).permutation(len(points))  # no class on top of the others
    limits = [padded(*robust_limits(points[:, k], central=0.995, spread=1.2)) for k in range(2)]
    with styled():
        figure = Figure(figsize=(11.2, 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        size = {"s": 7, "linewidths": 0}
        left.scatter(*points[order].T, color=colours[systems[order]], alpha=0.6, **size)
        for k, name in enumerate(SYSTEMS):
            left.scatter([], [], color=colours[k], s=36, linewidths=0, label=f"{name} ({result['systems'][name]:,})")
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside lower left", ncols=4, handletextpad=0.2, columnspacing=1.2
        )
        known = order[np.isfinite(energy[order])]
        low, high = np.quantile(energy[known], [0.01, 0.99])
        shown = right.scatter(*points[known].T, c=energy[known], cmap="viridis", vmin=low, vmax=high, alpha=0.7, **size)
        bar = figure.colorbar(ScalarMappable(shown.norm, "viridis"), ax=right, extend="both", shrink=0.9)
        bar.set_label("Formation energy (eV/atom)")
        share = result["variance_by_component"]
        for axes, title in ((left, "Crystal system"), (right, "Formation energy")):
            axes.set_title(title, fontweight="bold", fontsize=11, loc="left")
            axes.set_xlabel(f"First component of z ({100 * share[0]:.0f} % of its variance)")
            axes.set(xlim=limits[0], ylim=limits[1])
        left.set_ylabel(f"Second component ({100 * share[1]:.0f} %)")
        drawn = BytesIO()
        figure.savefig(drawn, dpi=130, format="png")
    save_small(drawn, path, result, colours=256)


if __name__ == "__main__":
    main()
