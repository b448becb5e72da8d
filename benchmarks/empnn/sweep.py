"""What the sweeps over vector fields and over losses share: one small budget, one training loop, one measurement.

Every network sees the same crystals of mp_train in the same order with the same deformations L̃ = L·exp(A), A symmetric
with entries N(0, σ), and is measured by ``autoperi.evaluation.denoise`` on mp_val with the same σ, one pass.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lattice_losses import lattice_loss
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoperi.data.convert import to_batch, to_structures
from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.evaluation.denoise import evaluate_denoise
from autoperi.geometry.lattice import from_lengths_angles, lengths_angles, symmetric_exp
from autoperi.models.empnn import Empnn
from autoperi.nn.backbone import Backbone
from autoperi.nn.heads import sum_per_crystal
from autoperi.processes.lattice import lattice_step
from autoperi.training.data import Batches, TensorCrystals
from autoperi.training.prepare import training_crystals
from autoperi.training.tasks.base import deform


@dataclass(frozen=True)
class Budget:
    """The same for every row of a table."""

    crystals: int = 6000
    max_atoms: int = 20
    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup: int = 30
    sigma: float = 0.1


@dataclass(frozen=True)
class Row:
    """One network to train: its name, what the paper calls it, options of the network (None for the feed-forward
    baseline), loss and seed.
    """

    name: str
    paper: str
    options: dict[str, Any] | None
    loss: str = "parameters_mae"
    seed: int = 0


class FeedForward(nn.Module):
    """EMPNN's baseline FF: an invariant encoder, the mean over atoms, and a feed-forward network that reads lengths and
    angles from it.

    Lengths over N^(1/3) and angles in degrees are standardised over the training crystals.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, channels: int = 64, layers: int = 3, l_max: int = 0) -> None:
        super().__init__()
        self.config = {"channels": channels, "layers": layers, "l_max": l_max}
        self.backbone = Backbone(channels=channels, layers=layers, l_max=l_max)
        self.readout = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 128),
            nn.SiLU(),
            nn.Linear(128, 128),
            nn.SiLU(),
            nn.Linear(128, 6),
        )
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("std", torch.ones(6))

    def parameters_of(self, lattice: Tensor, n_atoms: Tensor) -> Tensor:
        """(a, b, c)/N^(1/3) and (α, β, γ) of lattices, ``[B, 6]``."""
        lengths, angles = lengths_angles(lattice)
        return torch.cat([lengths / n_atoms.to(lengths).pow(1 / 3).unsqueeze(-1), angles], -1)

    def fit(self, crystals: CrystalBatch) -> None:
        """Take mean and standard deviation from the training crystals."""
        values = self.parameters_of(crystals.lattice, crystals.n_atoms)
        self.mean.copy_(values.mean(0))
        self.std.copy_(values.std(0))

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised parameters, ``[B, 6]``."""
        return self.readout(
            sum_per_crystal(self.backbone(batch).scalars, batch) / batch.n_atoms.to(batch.lattice).unsqueeze(-1)
        )

    def loss(self, batch: CrystalBatch, true: Tensor) -> Tensor:
        """Mean absolute error of the standardised parameters, ``[B]``."""
        target = (self.parameters_of(true, batch.n_atoms) - self.mean) / self.std
        return (self(batch) - target).abs().mean(-1)

    def lattices(self, batch: CrystalBatch) -> list[Tensor | None]:
        """Predicted lattices; None where no cell has these parameters."""
        values = self(batch) * self.std + self.mean
        found: list[Tensor | None] = []
        for row, n in zip(values.double(), batch.n_atoms.tolist(), strict=True):
            try:
                found.append(from_lengths_angles(row[None, :3] * n ** (1 / 3), row[None, 3:])[0])
            except ValueError:
                found.append(None)
        return found


def sweep_data(path: Path, budget: Budget) -> TensorCrystals:
    """The training crystals, drawn with seed 0."""
    every = training_crystals(path, required=False, max_atoms=budget.max_atoms)
    rows = torch.randperm(len(every), generator=torch_generator(0))[: budget.crystals]
    return TensorCrystals(every.take(rows)[0], {})


def make_network(row: Row) -> Empnn | FeedForward:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(row.seed)
        return FeedForward() if row.options is None else Empnn(**row.options)


def fit(network: Empnn | FeedForward, data: TensorCrystals, row: Row, budget: Budget) -> list[float]:
    """Train in place; the mean loss of each epoch."""
    if isinstance(network, FeedForward):
        network.fit(data.crystals)
    loss_of = lattice_loss(row.loss)
    batches = Batches(data, budget.batch_size, seed=row.seed)
    steps = budget.epochs * len(batches)
    optimiser = torch.optim.AdamW(network.parameters(), lr=budget.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda k: min(1.0, (k + 1) / budget.warmup) * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * k / steps)))),
    )
    history = []
    for epoch in range(budget.epochs):
        batches.set_epoch(epoch)
        losses = []
        for k, (crystals, _) in enumerate(batches):
            sigma = torch.full((len(crystals),), budget.sigma)
            noisy, _ = deform(crystals, sigma, 0 * sigma, torch_generator(row.seed, epoch, k))
            if isinstance(network, FeedForward):
                loss = network.loss(noisy, crystals.lattice).mean()
            else:
                loss = loss_of(noisy.lattice @ symmetric_exp(network(noisy)), crystals.lattice).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        history.append(sum(losses) / len(losses))
    return history


class Denoiser:
    """A network as a function of structures, which remembers what it was given and what it gave."""

    def __init__(self, network: Empnn | FeedForward, *, batch_size: int = 64) -> None:
        self.network, self.batch_size = network.eval(), batch_size
        self.noisy: list[Any] = []
        self.denoised: list[Any] = []

    def __call__(self, structures: list[Any]) -> Sequence[Any]:
        self.noisy, self.denoised = list(structures), []
        for start in range(0, len(structures), self.batch_size):
            part = structures[start : start + self.batch_size]
            batch = to_batch(part, dtype=torch.float64)
            with torch.no_grad():
                if isinstance(self.network, FeedForward):
                    lattices = self.network.lattices(batch.to(dtype=torch.float32))
                else:
                    strain = self.network(batch.to(dtype=torch.float32)).double()
                    lattices = list(lattice_step(batch, strain).lattice)
            for k, lattice in enumerate(lattices):
                one = batch[k]
                self.denoised.append(None if lattice is None else to_structures(one.replace(lattice=lattice[None]))[0])
        return self.denoised


def finished(row: Row, budget: Budget, folder: Path) -> dict[str, Any] | None:
    """What an earlier run of this very row under this very budget measured, if there is one."""
    record = folder / f"{row.name}.json"
    if not record.exists():
        return None
    found = json.loads(record.read_text())
    description = json.loads(json.dumps({**asdict(row), "budget": asdict(budget)}))
    return found if {k: found.get(k) for k in description} == description else None


def run_row(row: Row, data: TensorCrystals | None, val: Path, budget: Budget, folder: Path) -> dict[str, Any]:
    """Train and measure one row; what an earlier run left in ``folder`` is read instead."""
    known = finished(row, budget, folder)
    if known is not None:
        return known
    assert data is not None
    folder.mkdir(parents=True, exist_ok=True)
    network = make_network(row)
    started = time.process_time()
    history = fit(network, data, row, budget)
    seconds = time.process_time() - started
    save_file(network.state_dict(), str(folder / f"{row.name}.safetensors"))
    denoiser = Denoiser(network)
    measured = evaluate_denoise(None, val, sigma=budget.sigma, relax=denoiser)
    result = {
        **asdict(row),
        "budget": asdict(budget),
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds_training": round(seconds, 1),
        "loss_by_epoch": [round(x, 6) for x in history],
        **{k: measured[k] for k in (*MEASURED, "improvement")},
    }
    (folder / f"{row.name}.json").write_text(json.dumps(result, indent=1))
    return result


MEASURED = (
    "n",
    "length_mae_before_A",
    "length_mae_after_A",
    "angle_mae_before_deg",
    "angle_mae_after_deg",
    "length_error_removed",
    "angle_error_removed",
)


def trained(row: Row, folder: Path) -> Empnn | FeedForward:
    """The network that :func:`run_row` left in ``folder``."""
    network = make_network(row)
    network.load_state_dict(load_file(str(folder / f"{row.name}.safetensors")))
    return network


def line(result: dict[str, Any], more: Callable[[dict[str, Any]], str] = lambda _: "") -> str:
    gain = result["improvement"]
    return (
        f"{result['name']:28s} {gain['length_A']['value']:8.4f} Å {gain['angle_deg']['value']:8.4f}°  "
        f"removed {result['length_error_removed']:.3f} {result['angle_error_removed']:.3f}  "
        f"{result['seconds_training']:.0f} s{more(result)}"
    )
