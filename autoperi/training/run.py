"""Run a training: data to checkpoints to tensors that ``from_pretrained`` reads."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from autoperi.data.checks import whole_number
from autoperi.errors import RequestError
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.models.cgcnn import Cgcnn
from autoperi.models.crystal_transformer import CrystalTransformer
from autoperi.models.empnn import Empnn
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.lattice_relaxer import LatticeRelaxer
from autoperi.models.orbit_network import OrbitNetwork
from autoperi.models.potential import Potential
from autoperi.nn.backbone import Backbone
from autoperi.training.checkpoint import SafetensorsCheckpointIO
from autoperi.training.data import Batches, Rows, TensorCrystals, widths
from autoperi.training.pretraining import CrysGnn, CrysGnnTask, DistilledTask
from autoperi.training.tasks.autoperi_gnn import AutoPeriGnnTask
from autoperi.training.tasks.base import CgcnnTask, CrystalTask, EmpnnTask, FormationEnergyTask, NeighbourTask
from autoperi.training.tasks.lattice_relaxer import RelaxerTask
from autoperi.training.tasks.orbit_network import OrbitNetworkTask
from autoperi.training.tasks.potential import PotentialTask

logger = logging.getLogger(__name__)

TASKS: dict[str, tuple[type, type[CrystalTask]]] = {
    "empnn": (Empnn, EmpnnTask),
    "relaxer": (LatticeRelaxer, RelaxerTask),
    "formation_energy": (FormationEnergy, FormationEnergyTask),
    "cgcnn": (Cgcnn, CgcnnTask),
    "crystal_transformer": (CrystalTransformer, NeighbourTask),
    "potential": (Potential, PotentialTask),
    "autoperi_gnn": (AutoPeriGnn, AutoPeriGnnTask),
    "orbit_network": (OrbitNetwork, OrbitNetworkTask),
    "crysgnn": (CrysGnn, CrysGnnTask),
    "distilled": (FormationEnergy, DistilledTask),
}


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training run.

    ``warmup`` is that of the task where it is None, and ``task_config`` holds its other options. ``held_out`` is for
    the record: the share of the data that was set aside for validation (:func:`autoperi.data.splits.held_out`), 0 where
    validation data were given.
    """

    model: str
    epochs: int
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    ema: float = 0.999
    warmup: int | None = None
    optimizer: str = "adamw"
    seed: int = 0
    model_config: dict[str, Any] = field(default_factory=dict)
    task_config: dict[str, Any] = field(default_factory=dict)
    held_out: float = 0.0


LAST = "last.ckpt"


class _Record(Callback):
    """After each epoch: metrics appended to ``history.jsonl``, and everything a resume needs in ``last.ckpt``."""

    def __init__(self, directory: Path) -> None:
        self.path, self.checkpoint, self.start = directory / "history.jsonl", directory / LAST, time.perf_counter()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        if not trainer.is_global_zero:
            return
        # rows of epochs that the checkpoint does not hold, or of an earlier run, would be told twice
        rows = self.path.read_text().splitlines() if self.path.exists() else []
        self.path.write_text("".join(f"{row}\n" for row in rows if json.loads(row)["epoch"] < trainer.current_epoch))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": round(time.perf_counter() - self.start, 1),
            **metrics,
        }
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        # in every process, of which one writes; explicit, because Lightning's ModelCheckpoint with save_top_k=0 writes
        # nothing before the run ends
        trainer.save_checkpoint(self.checkpoint)


class _Order(Callback):
    """Tells the batches which epoch comes and whose they are: Lightning would do so for the sampler of a DataLoader,
    and for nothing else.
    """

    def __init__(self, batches: Batches, val: Batches) -> None:
        self.batches, self.val = batches, val

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:  # noqa: ARG002
        for batches in (self.batches, self.val):
            batches.share(trainer.global_rank, trainer.world_size)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self.batches.set_epoch(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self.batches.set_epoch(trainer.current_epoch)


def train(
    config: TrainingConfig,
    *,
    train_data: Rows,
    val_data: Rows,
    directory: str | Path,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    progress: bool = False,
    initial: Mapping[str, torch.Tensor] | None = None,
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Train ``config.model``, with a checkpoint each epoch in ``directory``.

    On several ``devices`` the gradient is the mean over their batches (Lightning's DDP): a step sees ``devices`` times
    ``config.batch_size`` crystals. There is a process a device, and Lightning makes the others by starting the same
    command again: a script that calls this must be runnable from its beginning, and what it does afterwards happens in
    each of them but where it asks :func:`first_process`. Which batch goes where depends on the seed and the number of
    devices alone; the first process keeps the record and the checkpoints.

    Args:
        config: the run.
        train_data, val_data: crystals with labels.
        directory: where checkpoints, ``history.jsonl`` and ``training.json`` go.
        resume: go on from ``last.ckpt`` there, if there is one.
        device: a Lightning accelerator: ``auto``, ``cpu``, ``gpu``.
        devices: how many of them; on ``cpu``, processes.
        progress: show Lightning's bar.
        initial: tensors to begin with, those of another model's encoder for one; what they do not name is drawn with
            the seed.

    Returns:
        The averaged model, and what the card should say of the run.

    Raises:
        RequestError: ``devices`` is not positive, or ``initial`` holds tensors of another network.
    """
    whole_number(devices, "devices", refusal="is not a positive whole number; give at least 1")
    directory = Path(directory)
    if first_process():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "training.json").write_text(json.dumps(asdict(config), indent=1))
    network, task_type = TASKS[config.model]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # inside the fork: the caller's generator is untouched
        model = network(**config.model_config)
    if initial:
        unknown = model.load_state_dict(dict(initial), strict=False).unexpected_keys
        if unknown:
            raise RequestError(
                f"initial holds {', '.join(unknown[:3])}, which {config.model} does not have; give tensors of the "
                "same network"
            )
    backbone = getattr(model, "backbone", None)
    width = None
    if isinstance(backbone, Backbone) and isinstance(train_data, TensorCrystals):
        seen = model.scaled(train_data.crystals) if isinstance(model, LatticeRelaxer) else train_data.crystals
        width = widths(seen, backbone.cutoff)
    batches = Batches(train_data, config.batch_size, seed=config.seed, width=width, processes=devices)
    val = Batches(val_data, config.batch_size, shuffle=False)
    task = task_type(
        model,
        total_steps=config.epochs * len(batches),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        ema=config.ema,
        seed=config.seed,
        optimizer=config.optimizer,
        **({} if config.warmup is None else {"warmup": config.warmup}),
        **config.task_config,
    )
    last = directory / LAST
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        warnings.filterwarnings("ignore", message="find_unused_parameters")
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            accelerator=device,
            devices=devices,
            # a loss that counts for no crystal of a batch leaves parameters without a gradient
            strategy="auto" if devices == 1 else "ddp_find_unused_parameters_true",
            plugins=[SafetensorsCheckpointIO()],
            callbacks=[_Order(batches, val), _Record(directory)],
            enable_checkpointing=False,
            default_root_dir=directory,
            gradient_clip_val=5.0,
            logger=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            inference_mode=False,  # forces are gradients, also where nothing is learned
        )
        trainer.fit(
            task,
            train_dataloaders=batches,
            val_dataloaders=val,
            ckpt_path=str(last) if resume and last.exists() else None,
        )
    history = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    summary = {
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "crystals": len(train_data),
        **({"devices": devices} if devices > 1 else {}),
        "seconds_last_run": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
        "final": history[-1] if history else {},
    }
    return task.average.module.requires_grad_(True), summary


def first_process() -> bool:
    """Whether this is the only process of a training, or the first of several: the one to write and to print."""
    return int(rank_zero_only.rank) == 0
