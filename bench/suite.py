"""A suite says what to measure: data set, models with their training, samplers × steps, metrics, sizes.

It is a YAML file, one of the built-in names (`noisebench ls suites`) or a path of the user's own. A file
may `extends:` another suite and state only what differs. Unknown keys and names are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pydantic
from pydantic import Field, field_validator, model_validator

from bench.choices import Grid, GuidanceChoice, Positive, SamplerChoice, Strict
from bench.errors import UsageError, unknown
from bench.identity import content_key
from bench.suite_text import expanded, merged
from models.names import shown

Metric = Literal["quality", "likelihood", "throughput", "certificates", "scaling"]
METRICS: tuple[Metric, ...] = ("quality", "likelihood", "throughput", "certificates", "scaling")
DEFAULT_METRICS: tuple[Metric, ...] = METRICS[:-1]
LONGEST_LABEL = 80
"""Characters of a model's name."""
MOST_REPEATS = 10_000
"""Of a timing."""
SHORT = {"nll": "likelihood", "fid": "quality"}
"""What people call metrics on the command line."""


class Training(Strict):
    """How a model is trained: AdamW, linear warm-up then cosine decay to 0, averaged weights.

    micro_batches  parts of a batch whose gradients are taken one after another and added: memory for one of
                   them is enough, and as many processes may share the work; a power of two
    """

    steps: Positive = 2000
    batch_size: Positive = 64
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(100, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Literal["no", "bf16", "fp16"] = "no"
    micro_batches: Positive = 1
    checkpoint_every: Positive = 200

    @model_validator(mode="after")
    def _micro_batches_divide_the_batch(self) -> Training:
        parts = self.micro_batches
        if parts & (parts - 1) or self.batch_size % parts:
            raise ValueError(
                f"training.micro_batches must be a power of two that divides training.batch_size "
                f"({self.batch_size}), and {parts} is not"
            )
        return self


class Model(Strict):
    """A model of the suite: which class, its options, training and likelihood protocol.

    likelihood options of the model's `nll`; or a list of them, for several estimates of one model, the first
               being the one that the report leads with
    builds_on  another model of the suite, listed before it, which it learns from (a teacher, an autoencoder)
    samplers   of this model alone, in place of the suite's
    guidance   weights w to sample with, for a conditional model; 1 is none; or ways of guiding
    prompts    sets of captions to sample for, beside those of the test images
    """

    model: str
    options: dict[str, Any] = Field(default_factory=dict)
    training: Training = Training()
    likelihood: dict[str, Any] | list[dict[str, Any]] = Field(default_factory=dict)
    builds_on: str = ""
    samplers: list[SamplerChoice] | None = None
    guidance: list[GuidanceChoice] = Field(default_factory=list)
    prompts: list[str] = Field(default_factory=list)

    @field_validator("likelihood")
    @classmethod
    def _one_or_more_likelihoods(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not value:
                raise ValueError("likelihood is a mapping of options or a list of one or more, and is empty")
            if any(one in value[:index] for index, one in enumerate(value)):
                raise ValueError("likelihood names the same estimate twice")
        return value

    @property
    def likelihoods(self) -> list[dict[str, Any]]:
        """The options of each estimate, the leading one first."""
        return self.likelihood if isinstance(self.likelihood, list) else [self.likelihood]


class Sampling(Strict):
    """How many images a cell has, in which inner batch, by which samplers, on which grid."""

    images: int = Field(1440, gt=0, le=10**8)
    batch: Positive = 64
    grid: Grid = "shared"
    samplers: list[SamplerChoice] = Field(default_factory=list)

    @model_validator(mode="after")
    def _batch_divides_shard(self) -> Sampling:
        if 256 % self.batch:
            raise ValueError(f"sampling.batch must divide the shard of 256 images, and {self.batch} does not")
        return self


class Quality(Strict):
    """The feature network, and the equal number of images at which every Fréchet distance is taken."""

    features: str
    group: Positive


class Likelihood(Strict):
    """Test images whose likelihood is taken (null: all of them), in inner batches of `batch`.

    marginal  of models that are told labels, also with the label summed out: evaluations for every class
    """

    images: Positive | None = None
    batch: Positive = 64
    marginal: bool = False

    @model_validator(mode="after")
    def _batch_divides_shard(self) -> Likelihood:
        if 256 % self.batch:
            raise ValueError(
                f"likelihood.batch must divide the shard of 256 images, and {self.batch} does not"
            )
        return self


class Throughput(Strict):
    """Batch of a timed trajectory, discarded first runs, counted runs."""

    batch: Positive = 64
    warmup: int = Field(1, ge=0)
    repeats: int = Field(9, ge=3, le=MOST_REPEATS)


class Scaling(Strict):
    """Batches that are timed, rounds over them, and single images that each round times."""

    batches: list[Positive] = Field(default_factory=lambda: [1, 4, 16, 64], min_length=1)
    repeats: int = Field(9, ge=3, le=MOST_REPEATS)
    images: int = Field(12, ge=1)


class Suite(Strict):
    """The whole resolved suite; `digest` identifies it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    dataset: str
    seed: int = Field(0, ge=0)
    dtype: Literal["float32"] = "float32"
    metrics: list[Metric] = Field(default_factory=lambda: list(DEFAULT_METRICS))
    training: Training = Training()
    models: dict[str, Model] = Field(min_length=1)
    sampling: Sampling = Sampling()
    quality: Quality
    likelihood: Likelihood = Likelihood()
    throughput: Throughput = Throughput()
    scaling: Scaling = Scaling()

    @model_validator(mode="before")
    @classmethod
    def _training_defaults(cls, data: Any) -> Any:
        """Each model's training starts from the suite's; a bare name or import path will do."""
        if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
            return data
        defaults = data.get("training") or {}
        models = {}
        for label, entry in data["models"].items():
            _check_label(label)
            if entry is not None and not isinstance(entry, str | dict):
                raise ValueError(f"models.{shown(label)} is a name or a mapping, and not {shown(entry)}")
            entry = {"model": entry} if isinstance(entry, str) else dict(entry or {})
            entry.setdefault("model", label)
            if isinstance(defaults, dict) and isinstance(entry.get("training", {}), dict):
                entry["training"] = {**defaults, **entry.get("training", {})}
            models[label] = entry
        return {**data, "models": models}

    @model_validator(mode="after")
    def _built_on_what_comes_before(self) -> Suite:
        labels = list(self.models)
        for index, (label, model) in enumerate(self.models.items()):
            needed = {"builds_on": [model.builds_on], "guidance.weaker": [g.weaker for g in model.guidance]}
            for key, name in ((key, name) for key, names in needed.items() for name in names if name):
                if name not in labels[:index]:
                    before = f"one of {', '.join(labels[:index])}" if index else "a model listed before it"
                    raise ValueError(f"models.{label}.{key} must be {before}, and is '{name}'")
        return self

    @model_validator(mode="after")
    def _groups_divide_images(self) -> Suite:
        if self.sampling.images % self.quality.group:
            raise ValueError(
                f"sampling.images ({self.sampling.images}) must be a multiple of quality.group "
                f"({self.quality.group}), the number of images at which distances are compared"
            )
        return self

    @property
    def digest(self) -> str:
        """First twelve hex digits of the SHA-256 of the resolved suite."""
        return content_key(self.model_dump(mode="json", exclude={"description"}))[:12]


def _check_label(label: object) -> None:
    """Names of models stand in lines, lists and tables, and are chosen by `--models a,b`."""
    text = str(label)
    if not text.isprintable() or text != text.strip() or not 0 < len(text) <= LONGEST_LABEL or "," in text:
        raise ValueError(
            f"models.{shown(text)}: the name of a model has 1 to {LONGEST_LABEL} printable characters, no "
            "comma, and no space at its ends"
        )


def _valid_keys(location: Sequence[int | str]) -> list[str]:
    """The keys allowed at the place a validation error names."""
    model: Any = Suite
    for part in location[:-1]:
        if isinstance(part, int) or not hasattr(model, "model_fields"):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        known = {"models": Model, "samplers": SamplerChoice, "guidance": GuidanceChoice}
        inner = known.get(str(part), annotation)
        model = inner if inner is not None else model
    return list(getattr(model, "model_fields", {}))


def _explain(error: pydantic.ValidationError, source: str) -> UsageError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown(f"key in suite {source}:", place, _valid_keys_paths(first["loc"]))
    message = shown(str(first.get("ctx", {}).get("error", first["msg"])).removesuffix("."), 600)
    place = f"{shown(place)}: " if place else ""
    return UsageError(f"Suite {source}: {place}{message}.")


def _valid_keys_paths(location: Sequence[int | str]) -> list[str]:
    prefix = "".join(f"{part}." for part in location[:-1])
    return [prefix + key for key in _valid_keys(location)]


def load_suite(source: str, overrides: Mapping[str, Any] | None = None) -> Suite:
    """The suite called or stored at `source`, with `overrides` merged over it.

    Raises UsageError, one sentence, for an unknown name, key or a value out of range.
    """
    data = merged(expanded(source), overrides or {})
    try:
        return Suite.model_validate(data)
    except pydantic.ValidationError as error:
        raise _explain(error, source) from None


def select(suite: Suite, models: Sequence[str], samplers: Sequence[str], metrics: Sequence[str]) -> Suite:
    """The suite cut down to some models, samplers and metrics; empty means all.

    A model given as an import path (`package.module:Class`) that the suite does not name is added, with
    the suite's training. What a chosen model builds on comes with it.
    """
    entries = dict(suite.models)
    for name in models:
        if name not in entries:
            if ":" not in name:
                raise unknown("model", name, entries, "See: noisebench ls models.")
            entries[name] = Model(model=name, training=suite.training)
    wanted = set(models) or set(entries)
    for label in reversed(entries):
        if label in wanted:
            used = [entries[label].builds_on, *(choice.weaker for choice in entries[label].guidance)]
            wanted |= set(filter(None, used))
    own = [choice for entry in entries.values() for choice in entry.samplers or []]
    offered = [choice.name for choice in [*suite.sampling.samplers, *own]]
    for name in samplers:
        if name not in offered:
            raise unknown(f"sampler in suite {suite.name}", name, offered, "See: noisebench ls samplers.")
    metrics = [SHORT.get(name, name) for name in metrics]
    for name in metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)

    def cut(choices: Sequence[SamplerChoice]) -> list[dict[str, Any]]:
        return [choice.model_dump() for choice in choices if not samplers or choice.name in samplers]

    return Suite.model_validate(
        {
            **suite.model_dump(),
            "models": {
                label: {
                    **entry.model_dump(),
                    "samplers": None if entry.samplers is None else cut(entry.samplers),
                }
                for label, entry in entries.items()
                if label in wanted
            },
            "sampling": {**suite.sampling.model_dump(), "samplers": cut(suite.sampling.samplers)},
            "metrics": [metric for metric in suite.metrics if not metrics or metric in metrics],
        }
    )
