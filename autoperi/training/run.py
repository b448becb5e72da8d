"""Run a training: data to checkpoints to tensors that ``from_pretrained`` reads."""

from __future__ import annotations

import json
import logging
import signal
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from autoperi.data.checks import whole_number
from autoperi.data.splits import HELD_OUT
from autoperi.errors import RequestError
from autoperi.hub.networks import find_component, network_component
from autoperi.nn.backbone import Backbone
from autoperi.registry import Kind, kind_named, load
from autoperi.training.checkpoint import SafetensorsCheckpointIO
from autoperi.training.data import Batches, Rows, TensorCrystals, widths
from autoperi.training.prepare import run_settings
from autoperi.training.request import DEFAULTS, Trained, TrainingRequest, options_of, split_options

logger = logging.getLogger(__name__)


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
    kind: tuple[type, type] | None = None,
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
        kind: network and task of what is no kind of the registry; ``config.model`` is then a name for the record.

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
    network, task_type = _classes(config.model) if kind is None else kind
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
        # a network that scales crystals reads those that it has scaled
        scaled = getattr(model, "scaled", None)
        seen = train_data.crystals if scaled is None else scaled(train_data.crystals)
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
    with warnings.catch_warnings(), torch.random.fork_rng():
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
    task.finish(train_data)
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


def _classes(name: str) -> tuple[Any, Any]:
    """Network and task of a kind.

    Raises:
        RequestError: no such kind, or one without a task.
    """
    kind = kind_named(name)
    if not kind.task:
        raise RequestError(f"{kind.name} is trained by no common task; choose another kind")
    return load(kind.model), load(kind.task)


def _check_network(kind: Kind, config: Mapping[str, Any]) -> None:
    """Refuse options of which no network can be made, before any crystal is read.

    Raises:
        RequestError: what the network says of them.
    """
    with torch.random.fork_rng():
        try:
            load(kind.model)(**config)
        except RequestError:
            raise
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            said = ", ".join(f"{name}={value!r}" for name, value in config.items())
            why = " ".join(str(error).split())
            raise RequestError(f"{said} make no network {kind.word} ({why}); give others") from None


def train_network(request: TrainingRequest) -> Trained:
    """Train a kind of network on tables of crystals, as its task reads them.

    Raises:
        RequestError, DataError: before any work, what makes no run.
        KeyboardInterrupt: Ctrl-C; finished epochs are in ``request.checkpoints``.
    """
    kind, task_type = request.kind, load(request.kind.task)
    network_options, task_options = split_options(kind, request.options)
    task_options = task_type.check_options(task_options, request)
    own = find_component(request.base, kind.name)
    base = {} if own is None else own.config
    said: dict[str, Any] = {**request.settings, "model": kind.name}
    said["model_config"] = {**base, **network_options} if network_options else None
    said["task_config"] = task_options or None
    defaults: dict[str, Any] = {**DEFAULTS, **task_type.defaults, "model": kind.name}
    network_defaults, defaults["task_config"] = options_of(kind)
    defaults["model_config"] = {**network_defaults, **base}  # all of them, so that a resume with others is noticed
    if task_type.holds_out:
        defaults["held_out"], said["held_out"] = 0.0, 0.0 if request.val else HELD_OUT
    settings = run_settings(said, defaults, directory=request.checkpoints, resume=request.resume)
    _check_network(kind, settings["model_config"])
    # what is read may depend on options of a base model or of the run that is resumed, which nobody repeats
    sources = task_type.sources(replace(request, options={**settings["model_config"], **settings["task_config"]}))
    if settings.get("held_out") and first_process():
        aside, kept = len(sources.val), len(sources.train)
        request.note(
            f"no --val: {aside} of {kept + aside} crystals are held out to validate on, by sha256 of their ids"
        )
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    before = signal.getsignal(signal.SIGINT)
    try:
        network, summary = train(
            TrainingConfig(**settings),
            train_data=sources.train,
            val_data=sources.val,
            directory=request.checkpoints,
            resume=request.resume,
            device="gpu" if request.device == "cuda" else "cpu",
            devices=request.devices,
            progress=request.bar,
            initial=sources.initial,
        )
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    return Trained(network_component(network), settings, summary)


def first_process() -> bool:
    """Whether this is the only process of a training, or the first of several: the one to write and to print."""
    return int(rank_zero_only.rank) == 0
