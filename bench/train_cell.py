"""The training cell: train a model, calibrate it, store its weights and learning curve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from bench import files, registry
from bench.cells import Cell
from bench.drivers.group import Group
from bench.identity import content_key, file_sha256
from bench.large_array import LargeArray
from bench.records import Record
from bench.store import Part
from bench.suite import Model
from bench.training import Progress, Trainer
from bench.workbench import WEIGHTS, Workbench, parameter_count
from models.base import ImageModel
from models.seeds import derive_seed

CHECKPOINT = "checkpoint.safetensors"
FITTED = 60_000
"""Training images, the first ones, that are given to what is fitted once before or after training."""
ENCODED = 64
"""Images that are prepared together."""


def train_cell(cell: Cell, entry: Model, bench: Workbench, group: Group | None = None) -> Iterator[Progress]:
    """Train (or go on training) and store; the first progress says where it starts.

    group  processes that train it together, all of which call this; process 0 stores it
    """
    folder, spec, seed = bench.store.folder(cell.key), cell.spec["model"], cell.spec["seed"]
    torch.manual_seed(derive_seed("weights", seed))
    model = registry.build(spec["path"], dict(spec["options"]), tuple(spec["shape"]), spec["levels"])
    pixels, device = bench.pixels("train"), bench.runtime.device
    some = pixels[:FITTED]
    if cell.weights:
        # Also on resuming: what it draws from the other model depends on the seed alone.
        generator = torch.Generator(device).manual_seed(derive_seed("learn from", seed))
        model.to(device).learn_from(bench.trained(cell.weights), some.to(device), generator)
    condition = bench.condition(model, "train")
    inputs = prepared(model, pixels, cell, bench)
    trainer = Trainer(model, inputs, entry.training, seed, device, folder / CHECKPOINT, condition, group)
    yield Progress(trainer.step, entry.training.steps, float("nan"))
    yield from trainer.run()
    if group is not None and group.rank > 0:
        return
    trained = trainer.accelerator.unwrap_model(trainer.model)
    with torch.no_grad():
        generator = torch.Generator(trained.device).manual_seed(derive_seed("calibrate", seed))
        trained.calibrate(some.to(trained.device), generator)
    _store(cell, trained, trainer, bench)


def prepared(model: ImageModel, pixels: Tensor, cell: Cell, bench: Workbench) -> Tensor:
    """What training starts from: pixels, or what a model prepares of them, kept on disk for all that need it.

    Trainings on the latents of one autoencoder share one file, `<store>/prepared/<key>.npy`.
    """
    model = model.to(bench.runtime.device).eval()
    first = model.prepare(pixels[:1].to(model.device))
    if first is None:
        return pixels
    base = {"data": bench.data.fingerprint, "from": cell.weights, "how": cell.spec["code"]}
    shape = (len(pixels), *first.shape[1:])
    array = LargeArray(bench.store.root / "prepared", content_key(base), shape, "<f4")

    def fill(start: int) -> Iterator[np.ndarray]:
        for chunk in pixels[start:].split(ENCODED):
            made = model.prepare(chunk.to(model.device))
            assert made is not None
            yield made.float().cpu().numpy()

    return torch.from_numpy(array.made(fill))


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
