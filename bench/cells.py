"""Cells: the things a suite measures, each with the content key of everything that can change its number.

A suite is planned in two steps, since what depends on a model is keyed by its weights' hash: the training
cells are known at once, a model's other cells as soon as its weights are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from bench import registry
from bench.errors import UsageError
from bench.identity import SCHEMA, content_key, source_digest
from bench.runtime import Runtime
from bench.suite import Suite

if TYPE_CHECKING:
    from bench.data import ImageData

SHARD = 256
"""Images of a shard: the unit of seed, checkpoint, retry and merge."""

Kind = Literal["anchors", "floor", "training", "quality", "likelihood", "throughput"]


@dataclass(frozen=True)
class Cell:
    """One thing to measure.

    spec   everything that can change the number; its canonical JSON is hashed to the key
    row    columns shared by the records of this cell
    parts  shards (or timed rounds) it consists of
    items  images (or steps) of each part, for progress
    """

    kind: Kind
    label: str
    spec: Mapping[str, Any]
    row: Mapping[str, Any]
    parts: int = 1
    items: tuple[int, ...] = (1,)
    weights: str = ""
    """Key of the training cell whose weights it uses; of a training, that of the model it builds on."""

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of the specification."""
        return content_key({"schema": SCHEMA, "kind": self.kind, **self.spec})

    def shard(self, index: int) -> range:
        """Global image indices of a shard."""
        start = sum(self.items[:index])
        return range(start, start + self.items[index])


@dataclass(frozen=True)
class Planner:
    """Makes the cells of a suite on a runtime."""

    suite: Suite
    data: ImageData
    runtime: Runtime
    features: str
    """Identity of the feature network: name and weights' hash."""
    _paths: dict[str, str] = field(default_factory=dict)

    def path(self, label: str) -> str:
        """Import path of a model of the suite."""
        if label not in self._paths:
            self._paths[label] = registry.import_path(self.suite.models[label].model)
        return self._paths[label]

    def traits(self, label: str) -> tuple[str, str | None]:
        """Family and native sampler of a model of the suite."""
        return registry.traits(self.path(label))

    def references(self) -> list[Cell]:
        """What needs no model: the floor of real test images and the model-free anchors."""
        cells = []
        if "quality" in self.suite.metrics:
            group = min(self.suite.quality.group, len(self.data.test))
            spec = {
                **self._dataset,
                "features": self.features,
                "group": group,
                "runtime": self.runtime.identity,
                "code": source_digest("bench.metrics.quality"),
            }
            row = {"model": "real test images", "family": "reference", "split": "test"}
            cells.append(Cell("floor", "real test images", spec, row))
        if "likelihood" in self.suite.metrics:
            spec = {**self._dataset, "code": source_digest("bench.metrics.anchors")}
            cells.append(Cell("anchors", "model-free anchors", spec, {"family": "anchor", "split": "test"}))
        return cells

    def training(self, label: str) -> Cell:
        """The training of a model."""
        model = self.suite.models[label]
        config = model.training.model_dump()
        del config["checkpoint_every"]  # where it may be killed does not change what it becomes
        spec = {
            **self._dataset,
            "model": self._model(label),
            "training": config,
            "seed": self.suite.seed,
            "runtime": self.runtime.identity,
            "code": source_digest(self.path(label).partition(":")[0], "bench.training"),
        }
        if model.builds_on:
            # The key of the other training stands for its weights: it holds everything that decides them.
            spec["builds_on"] = self.training(model.builds_on).key
        row = {"model": label, "split": "train"}
        base = self.training(model.builds_on).key if model.builds_on else ""
        return Cell("training", f"{label} · training", spec, row, items=(model.training.steps,), weights=base)

    def dependents(self, label: str, family: str, native: str | None, weights_sha256: str) -> list[Cell]:
        """Everything measured on trained weights, in the order it is measured."""
        cells, samplings = [], self.samplings(label, native)
        if "quality" in self.suite.metrics:
            for sampling in samplings:
                sets = ["test", *self.suite.models[label].prompts]
                cells += [self._quality(label, sampling, weights_sha256, prompts) for prompts in sets]
        if "likelihood" in self.suite.metrics:
            cells.append(self._likelihood(label, weights_sha256))
        if "throughput" in self.suite.metrics:
            cells += [self._throughput(label, sampling, weights_sha256) for sampling in samplings]
        row = {"model": label, "family": family, "weights_sha256": weights_sha256}
        trained = self.training(label).key
        return [replace(cell, row={**cell.row, **row}, weights=trained) for cell in cells]

    def samplings(self, label: str, native: str | None) -> list[dict[str, Any]]:
        """Sampler, steps, grid and guidance of each cell: the family's own way, or all it is given."""
        entry, settings = self.suite.models[label], self.suite.sampling
        ways: list[dict[str, Any]]
        if native is not None:
            ways = [{"sampler": native, "steps": None, "grid": "", "options": {}}]
        else:
            ways = [
                {"sampler": s.name, "steps": n, "grid": settings.grid, "options": dict(s.options)}
                for s in (settings.samplers if entry.samplers is None else entry.samplers)
                for n in s.steps
            ]
        weights: list[float | None] = [*entry.guidance] or [None]
        return [{**way, "guidance": w} for way in ways for w in weights]

    @functools.cached_property
    def _dataset(self) -> dict[str, Any]:
        return {"dataset": self.data.name, "data": self.data.fingerprint}

    def _model(self, label: str) -> dict[str, Any]:
        return {
            "path": self.path(label),
            "options": self.suite.models[label].options,
            "shape": list(self.data.shape),
            "levels": self.data.levels,
        }

    def _common(self, label: str, weights_sha256: str, measurement: str) -> dict[str, Any]:
        return {
            "model": self._model(label),
            "weights": weights_sha256,
            "seed": self.suite.seed,
            "dtype": self.suite.dtype,
            "code": source_digest(self.path(label).partition(":")[0], measurement),
        }

    def _row(self, sampling: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "sampler": sampling["sampler"],
            "grid": sampling["grid"],
            "steps": sampling["steps"],
            "guidance": sampling["guidance"],
            "dtype": self.suite.dtype,
        }

    def _quality(self, label: str, sampling: dict[str, Any], weights: str, prompts: str) -> Cell:
        settings = self.suite.sampling
        spec = {
            **self._common(label, weights, "bench.metrics.quality"),
            **self._dataset,
            "sampling": {**sampling, "images": settings.images, "batch": settings.batch, "shard": SHARD},
            "prompts": prompts,
            "features": self.features,
            "group": self.suite.quality.group,
            "runtime": self.runtime.identity,
        }
        items = shard_sizes(settings.images)
        title = _title(label, sampling) + ("" if prompts == "test" else f" · {prompts} prompts")
        return Cell("quality", title, spec, self._row(sampling), len(items), items)

    def _likelihood(self, label: str, weights: str) -> Cell:
        settings, model = self.suite.likelihood, self.suite.models[label]
        images = min(settings.images or len(self.data.test), len(self.data.test))
        spec = {
            **self._common(label, weights, "bench.metrics.bits"),
            **self._dataset,
            "likelihood": {
                "options": model.likelihood,
                "images": images,
                "batch": settings.batch,
                "shard": SHARD,
                "split": "test",
            },
            "runtime": self.runtime.identity,
        }
        items = shard_sizes(images)
        row = {"split": "test", "dtype": self.suite.dtype}
        return Cell("likelihood", f"{label} · bits per dimension", spec, row, len(items), items)

    def _throughput(self, label: str, sampling: dict[str, Any], weights: str) -> Cell:
        settings = self.suite.throughput
        spec = {
            **self._common(label, weights, "bench.metrics.throughput"),
            **self._dataset,
            "sampling": sampling,
            "throughput": settings.model_dump(),
            "hardware": self.runtime.hardware,
        }
        items = (settings.batch,) * settings.repeats
        title = f"{_title(label, sampling)} · throughput"
        return Cell("throughput", title, spec, self._row(sampling), settings.repeats, items)


def shard_sizes(images: int) -> tuple[int, ...]:
    """Shards of 256 and a last one of what is left."""
    return tuple(min(SHARD, images - start) for start in range(0, images, SHARD))


def _title(label: str, sampling: Mapping[str, Any]) -> str:
    steps = f" · {sampling['steps']} steps" if sampling["steps"] is not None else ""
    options = "".join(f" · {name}={value}" for name, value in sampling["options"].items())
    guided = "" if sampling["guidance"] is None else f" · w={sampling['guidance']:g}"
    return f"{label} · {sampling['sampler']}{options}{steps}{guided}"


def check_names(suite: Suite) -> None:
    """Refuse unknown samplers, sampler options, grids and models before anything is computed."""
    from models.samplers import catalogue

    own = [choice for model in suite.models.values() for choice in model.samplers or []]
    for choice in [*suite.sampling.samplers, *own]:
        for steps in choice.steps:
            try:
                catalogue.check(choice.name, choice.options, suite.sampling.grid, steps)
            except ValueError as error:
                raise UsageError(str(error)) from error
    for model in suite.models.values():
        registry.import_path(model.model)
