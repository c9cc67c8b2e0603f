"""The training cell: train a model, calibrate it, store its weights and learning curve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import save

from bench import files, registry
from bench.cells import Cell
from bench.drivers.group import Group
from bench.identity import file_sha256
from bench.records import Record
from bench.store import Part
from bench.suite import Model
from bench.training import Progress, Trainer
from bench.workbench import WEIGHTS, Workbench, parameter_count
from models.base import ImageModel
from models.seeds import derive_seed

CHECKPOINT = "checkpoint.safetensors"


def train_cell(cell: Cell, entry: Model, bench: Workbench, group: Group | None = None) -> Iterator[Progress]:
    """Train (or go on training) and store; the first progress says where it starts.

    group  processes that train it together, all of which call this; process 0 stores it
    """
    folder, spec, seed = bench.store.folder(cell.key), cell.spec["model"], cell.spec["seed"]
    torch.manual_seed(derive_seed("weights", seed))
    model = registry.build(spec["path"], dict(spec["options"]), tuple(spec["shape"]), spec["levels"])
    pixels, device = bench.pixels("train"), bench.runtime.device
    if cell.weights:
        # Also on resuming: what it draws from the other model depends on the seed alone.
        generator = torch.Generator(device).manual_seed(derive_seed("learn from", seed))
        model.to(device).learn_from(bench.trained(cell.weights), pixels.to(device), generator)
    condition = bench.condition(model, "train")
    trainer = Trainer(model, pixels, entry.training, seed, device, folder / CHECKPOINT, condition, group)
    yield Progress(trainer.step, entry.training.steps, float("nan"))
    yield from trainer.run()
    if group is not None and group.rank > 0:
        return
    trained = trainer.accelerator.unwrap_model(trainer.model)
    with torch.no_grad():
        generator = torch.Generator(trained.device).manual_seed(derive_seed("calibrate", seed))
        trained.calibrate(pixels.to(trained.device), generator)
    _store(cell, trained, trainer, bench)


def _store(cell: Cell, trained: ImageModel, trainer: Trainer, bench: Workbench) -> None:
    folder = bench.store.folder(cell.key)
    state = {name: value.cpu().contiguous() for name, value in trained.state_dict().items()}
    files.write_bytes(folder / WEIGHTS, save(state))
    info = {"seconds": trainer.seconds, "params": parameter_count(trained)}
    bench.store.save_part(cell.key, 0, Part(trainer.curve.arrays(), info))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    bench.store.finish(cell.key, [_record(cell, trained, trainer, bench)])


def _record(cell: Cell, trained: ImageModel, trainer: Trainer, bench: Workbench) -> Record:
    """What the training cost; the hash of the weights is what everything else is keyed by."""
    config = cell.spec["training"]
    return bench.row(
        cell,
        family=trained.family,
        params=parameter_count(trained),
        weights_sha256=file_sha256(bench.store.folder(cell.key) / WEIGHTS),
        dtype=cell.spec["training"]["precision"].replace("no", "float32"),
        metric="training time",
        value=trainer.seconds,
        unit="s",
        seconds=trainer.seconds,
        protocol=f"AdamW, {config['steps']} steps of {config['batch_size']} images, averaged weights, "
        f"{_shared(config, trainer)}{bench.runtime.threads} threads; no interval: trained once",
    )


def _shared(config: dict[str, Any], trainer: Trainer) -> str:
    """How the work of a step was divided, where it was."""
    if "micro_batches" not in config:
        return ""
    processes = 1 if trainer.group is None else trainer.group.size
    return f"in {config['micro_batches']} micro-batches by {processes} process{'es' * (processes > 1)}, "
