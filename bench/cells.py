"""Cells: the things a suite measures, each with the content key of everything that can change its number.

A suite is planned in two steps, since what depends on a model is keyed by its weights' hash: the training
cells are known at once, a model's other cells as soon as its weights are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench import registry
from bench.choices import SamplerChoice
from bench.errors import UsageError
from bench.identity import SCHEMA, code_sha256, content_key, source_digest
from bench.runtime import Runtime
from bench.suite import Model, Suite

if TYPE_CHECKING:
    from bench.data import ImageData

DATA = Path(__file__).parent / "data"

SHARD = 256
"""Images of a shard: the unit of seed, checkpoint, retry and merge."""

Kind = Literal[
    "anchors", "floor", "certificate", "training", "quality", "likelihood", "throughput", "scaling"
]


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
        """What needs no model: the floor of real test images, the model-free anchors, the samplers."""
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
        if "certificates" in self.suite.metrics:
            cells += self._certificates()
        return cells

    def training(self, label: str) -> Cell:
        """The training of a model."""
        model = self.suite.models[label]
        config = model.training.model_dump()
        del config["checkpoint_every"]  # where it may be killed does not change what it becomes
        if config["micro_batches"] == 1:
            del config["micro_batches"]
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
            chosen = self.suite.models[label].likelihoods
            cells += [self._likelihood(label, weights_sha256, options) for options in chosen]
        if "throughput" in self.suite.metrics:
            cells += [self._throughput(label, sampling, weights_sha256) for sampling in samplings]
        if "scaling" in self.suite.metrics:
            cells.append(self._scaling(label, samplings[0], weights_sha256))
        row = {"model": label, "family": family, "weights_sha256": weights_sha256}
        trained = self.training(label).key
        return [replace(cell, row={**cell.row, **row}, weights=trained) for cell in cells]

    def samplings(self, label: str, native: str | None) -> list[dict[str, Any]]:
        """Sampler, steps, grid and guidance of each cell: the family's own way, or all it is given."""
        entry, settings = self.suite.models[label], self.suite.sampling
        ways: list[dict[str, Any]]
        if native is not None:
            ways = [{"sampler": native, "steps": None, "grid": "", "options": {}, "execution": "eager"}]
        else:
            ways = [
                {
                    "sampler": choice.name,
                    "steps": n,
                    "grid": resolved_grid(choice, settings.grid),
                    "options": dict(choice.options),
                    "execution": choice.execution,
                }
                for choice in (settings.samplers if entry.samplers is None else entry.samplers)
                for n in numbers_of_steps(choice)
            ]
        return [{**way, **guided} for way in ways for guided in self._guidances(entry)]

    def _guidances(self, entry: Model) -> list[dict[str, Any]]:
        """The weight, the rest of the rule, and the training that stands for the weaker model's weights."""
        return [
            {
                "guidance": choice.weight,
                "rule": choice.how,
                "weaker": self.training(choice.weaker).key if choice.weaker else "",
            }
            for choice in entry.guidance
        ] or [{"guidance": None, "rule": {}, "weaker": ""}]

    def _certificates(self) -> list[Cell]:
        """A certificate for each way of sampling, whatever its steps, weights of guidance and models."""
        own = [choice for model in self.suite.models.values() for choice in model.samplers or []]
        found: dict[str, Cell] = {}
        for choice in [*self.suite.sampling.samplers, *own]:
            grid = resolved_grid(choice, self.suite.sampling.grid)
            cell = certificate(choice.name, choice.options, grid, self.data.shape)
            found.setdefault(cell.key, cell)
        return list(found.values())

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
            "options": self._told(sampling),
            "dtype": self.suite.dtype,
        }

    def _told(self, sampling: Mapping[str, Any]) -> str:
        """How a cell is sampled beyond sampler, grid, steps and weight, in words."""
        from models.guidance import Guidance
        from models.samplers import catalogue

        own = sampling["grid"] != "" and catalogue.describe(sampling["sampler"], sampling["options"])
        rule = "" if not sampling["rule"] else str(Guidance.of({"weight": 1.0, **sampling["rule"]}))
        if sampling["weaker"]:
            names = {self.training(label).key: label for label in self.suite.models}
            rule = f"{rule} from {names[sampling['weaker']]}"
        execution = "" if sampling["execution"] == "eager" else sampling["execution"]
        return ", ".join(filter(None, [own or "", rule, execution]))

    def _title(self, label: str, sampling: Mapping[str, Any]) -> str:
        steps = "" if sampling["steps"] is None else f"{sampling['steps']} steps"
        grid = "" if sampling["grid"] in ("", self.suite.sampling.grid) else sampling["grid"]
        guided = "" if sampling["guidance"] is None else f"w={sampling['guidance']:g}"
        words = [label, sampling["sampler"], steps, grid, guided, self._told(sampling)]
        return " · ".join(filter(None, words))

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
        title = self._title(label, sampling) + ("" if prompts == "test" else f" · {prompts} prompts")
        return Cell("quality", title, spec, self._row(sampling), len(items), items)

    def _likelihood(self, label: str, weights: str, options: dict[str, Any]) -> Cell:
        settings, model = self.suite.likelihood, self.suite.models[label]
        images = min(settings.images or len(self.data.test), len(self.data.test))
        spec = {
            **self._common(label, weights, "bench.metrics.bits"),
            **self._dataset,
            "likelihood": {
                "options": options,
                "images": images,
                "batch": settings.batch,
                "marginal": settings.marginal,
                "shard": SHARD,
                "split": "test",
            },
            "runtime": self.runtime.identity,
        }
        items = shard_sizes(images)
        row = {"split": "test", "dtype": self.suite.dtype}
        several = len(model.likelihoods) > 1
        said = ", ".join(f"{name}={value}" for name, value in options.items()) if several else ""
        title = " · ".join(filter(None, [label, "bits per dimension", said]))
        return Cell("likelihood", title, spec, row, len(items), items)

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
        title = f"{self._title(label, sampling)} · throughput"
        return Cell("throughput", title, spec, self._row(sampling), settings.repeats, items)

    def _scaling(self, label: str, sampling: dict[str, Any], weights: str) -> Cell:
        """Of the first way that a model is sampled in."""
        settings = self.suite.scaling
        spec = {
            **self._common(label, weights, "bench.metrics.scaling"),
            **self._dataset,
            "sampling": sampling,
            "scaling": settings.model_dump(),
            "hardware": self.runtime.hardware,
        }
        items = (sum(settings.batches) + settings.images,) * settings.repeats
        title = f"{self._title(label, sampling)} · scaling"
        return Cell("scaling", title, spec, self._row(sampling), settings.repeats, items)


def numbers_of_steps(choice: SamplerChoice) -> Sequence[int | None]:
    """The steps of a sampler; None where it chooses its own."""
    return choice.steps or (None,)


def resolved_grid(choice: SamplerChoice, grid: str) -> str:
    """The grid of a sampler as canonical text: its own choice or the suite's, `native` by its name."""
    from models.grids import Grid
    from models.samplers import catalogue

    return str(Grid.parse(choice.grid or grid).resolved(catalogue.ENTRIES[choice.name].native_grid))


CERTIFIED_STEPS = (4, 8, 16, 32, 64, 128)
"""Numbers of steps at which every sampler's own error is taken."""


def certificate(
    name: str, options: Mapping[str, Any], grid: Any, shape: tuple[int, ...] | None = None
) -> Cell:
    """The certificate of a sampler with some options on a grid; it belongs to no suite, so all share it.

    shape  of the images, for a grid that depends on it
    """
    from models import options as named
    from models.grids import GRIDS, Grid
    from models.samplers import catalogue

    entry = catalogue.ENTRIES[name]
    own = Grid.parse(grid).resolved(entry.native_grid)
    told = catalogue.describe(name, options)
    code = [source_digest("bench.metrics.certificates"), code_sha256(DATA / "mixture.py")]
    spec = {
        "sampler": name,
        "options": named.changed(options, entry.options),
        "grid": str(own),
        "shape": list(shape) if shape and GRIDS[own.name].by_shape else None,
        "steps": [1] if entry.adaptive else list(CERTIFIED_STEPS),
        "mixture": "anisotropic",
        "dtype": "float64",
        "code": content_key(code),
    }
    row = {"model": "mixture", "family": "certificate", "dataset": "mixture", "sampler": name}
    row |= {"options": told, "grid": str(own), "dtype": "float64"}
    label = " · ".join(["certificate", name, *filter(None, [told]), str(own)])
    return Cell("certificate", label, spec, row)


def shard_sizes(images: int) -> tuple[int, ...]:
    """Shards of 256 and a last one of what is left."""
    return tuple(min(SHARD, images - start) for start in range(0, images, SHARD))


def check_names(suite: Suite) -> None:
    """Refuse unknown samplers, sampler options, grids and models before anything is computed."""
    from models.samplers import catalogue

    own = [choice for model in suite.models.values() for choice in model.samplers or []]
    for choice in [*suite.sampling.samplers, *own]:
        for steps in numbers_of_steps(choice):
            try:
                # The name first: what grid is native depends on it.
                catalogue.check(choice.name, choice.options, suite.sampling.grid, steps)
                grid = resolved_grid(choice, suite.sampling.grid)
                catalogue.check(choice.name, choice.options, grid, steps)
            except ValueError as error:
                raise UsageError(str(error)) from error
    for model in suite.models.values():
        registry.import_path(model.model)
