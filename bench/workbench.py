"""What a measurement works with: data, store, device, trained models and feature network, loaded once."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from bench import registry
from bench.cells import Cell, Planner
from bench.errors import CellFailed, UsageError
from bench.identity import file_sha256
from bench.records import Record
from bench.runtime import Runtime
from bench.store import Part, Store
from bench.suite import Model
from kernels.attention import choose_backend
from models.base import ImageModel
from models.guidance import Guidance
from models.likelihood.of_paths import PathLikelihoods

if TYPE_CHECKING:
    from bench.data import ImageData
    from bench.metrics.features import FeatureNetwork
    from bench.metrics.moments import Moments

WEIGHTS = "weights.safetensors"


class Measurement(Protocol):
    """How one kind of cell is measured: shard by shard, then into numbers."""

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """Compute one shard; a pure function of cell and index."""
        ...

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """The numbers of all shards, merged in shard order."""
        ...


class Workbench:
    """Loads what cells need and keeps it."""

    def __init__(self, data: ImageData, store: Store, runtime: Runtime, features: str) -> None:
        self.data, self.store, self.runtime = data, store, runtime
        self._features_name = features
        self._models: dict[str, ImageModel] = {}
        torch.set_num_threads(runtime.threads)
        choose_backend(runtime.attention)

    @functools.cached_property
    def features(self) -> FeatureNetwork:
        """The feature network of the suite."""
        from bench.metrics.features import feature_network

        return feature_network(self._features_name)

    @functools.cached_property
    def reference(self) -> Moments:
        """Moments of the training images' features; kept in the store for who compares runs."""
        from bench.metrics.indexed_moments import IndexedMoments

        batches = (self.features.extract(some).cpu().numpy() for some in self.pixels("train").split(4096))
        found = IndexedMoments.of(batches).moments()
        self.store.save_reference(self.data.fingerprint, self.features.identity, found)
        return found

    def pixels(self, split: str) -> Tensor:
        """All images of a split, uint8 (N, C, H, W), on the processor."""
        return torch.from_numpy(self.data.train if split == "train" else self.data.test)

    def condition(self, model: ImageModel, prompts: str) -> Tensor | None:
        """What a conditional model is told, a row an image or prompt; None for the others."""
        if model.conditioning.kind == "none":
            return None
        return torch.from_numpy(self.data.condition(model.conditioning.kind, prompts))

    def prompts(self, cell: Cell, indices: Sequence[int]) -> dict[str, Any]:
        """The keywords `condition` and `guidance` of samples i: those of prompt i modulo their number."""
        model, guidance = self.model(cell), self.guidance(cell)
        known = self.condition(model, cell.spec.get("prompts", "test"))
        told = {} if guidance is None else {"guidance": guidance}
        if known is None:
            if told and not (isinstance(guidance, Guidance) and guidance.weaker):
                raise CellFailed(
                    f"{cell.row['model']} is unconditional and cannot be guided: leave guidance out"
                )
            return told
        rows = known[torch.as_tensor(list(indices)) % len(known)].to(self.runtime.device)
        return {"condition": rows} | told

    def guidance(self, cell: Cell) -> float | Guidance | None:
        """How a cell is guided: by a weight, which every guided model takes, or by more than that."""
        sampling = cell.spec["sampling"]
        if not sampling["rule"]:
            weight: float | None = sampling["guidance"]
            return weight
        weaker = self.trained(sampling["weaker"]) if sampling["weaker"] else None
        return Guidance.of({"weight": sampling["guidance"], **sampling["rule"], "weaker": weaker})

    def networks(self, cell: Cell) -> list[nn.Module]:
        """What is evaluated when a cell samples: its model's network, and that of a weaker one."""
        guidance = self.guidance(cell)
        weaker = guidance.weaker if isinstance(guidance, Guidance) else None
        return [self.model(cell).network, *([] if weaker is None else [weaker.network])]

    def model(self, cell: Cell) -> ImageModel:
        """The trained model of a cell, its weights checked against the hash in the cell."""
        return self.trained(cell.weights, cell.spec["weights"])

    def trained(self, key: str, sha256: str = "") -> ImageModel:
        """The model of a finished training cell, loaded once; its weights must have the recorded hash."""
        if key not in self._models:
            if not self.store.is_finished(key):
                raise CellFailed("a model that it needs was not trained: see its training")
            (record,) = self.store.records(key)[:1]
            wanted = sha256 or record.weights_sha256
            path = self.store.folder(key) / WEIGHTS
            found = file_sha256(path)
            if found != wanted:
                raise CellFailed(
                    f"{WEIGHTS} of {record.model} has SHA-256 {found[:12]}… instead of "
                    f"{wanted[:12]}…: run `noisebench doctor --repair` and start again"
                )
            self._models[key] = load_model(self.store.spec(key)["model"], path, self.runtime.device)
        return self._models[key]

    def row(self, cell: Cell, **columns: Any) -> Record:
        """A record of a cell with the columns that every record of it shares."""
        base: dict[str, Any] = {
            "cell_key": cell.key,
            "dataset": self.data.name,
            "device": self.runtime.label,
            **cell.row,
        }
        if cell.weights and cell.kind != "training":
            base["params"] = parameter_count(self.model(cell))
        return Record(**{**base, **columns})


def check_models(planner: Planner) -> None:
    """Build every model of a suite without memory for its weights: wrong options end here, not in an hour."""
    data = planner.data
    for label, entry in planner.suite.models.items():
        path = planner.path(label)
        with torch.device("meta"):
            model = registry.build(path, dict(entry.options), data.shape, data.levels)
        for options in entry.likelihoods:
            check_likelihood(label, path, model, options)
        _check_conditioning(label, entry, model, data)


def check_likelihood(label: str, path: str, model: ImageModel, options: Mapping[str, Any]) -> None:
    """Refuse an unknown estimator or option of a likelihood, and what this model cannot be asked."""
    registry.check_options(path, dict(options), "nll", "likelihood option")
    if isinstance(model, PathLikelihoods):
        try:
            model.check_likelihood(**options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"Model {label}: {error}") from error


def _check_conditioning(label: str, entry: Model, model: ImageModel, data: ImageData) -> None:
    """A model is told what the data can tell, and builds on another if its class does."""
    kind = model.conditioning.kind
    if kind == "label" and model.conditioning.size != data.classes:
        raise UsageError(
            f"Model {label} is conditioned on {model.conditioning.size} classes and {data.name} has "
            f"{data.classes}: set options.classes to that."
        )
    if kind == "text" and data.captions is not None:
        wanted = (len(data.captions.vocabulary), data.captions.length)
        if (model.conditioning.size, model.conditioning.length) != wanted:
            raise UsageError(
                f"Model {label} must be built for the captions of {data.name}: set options.vocabulary to "
                f"{wanted[0]} and options.length to {wanted[1]}."
            )
    try:
        for prompts in ("test", *entry.prompts) if kind != "none" else ():
            data.condition(kind, prompts)
    except ValueError as error:
        raise UsageError(f"Model {label}: {error}") from error
    told = [choice for choice in entry.guidance if not choice.weaker]
    if kind == "none" and (told or entry.prompts):
        raise UsageError(f"Model {label} is unconditional: leave guidance and prompts out.")
    if model.native_sampler is not None and any(choice.how for choice in entry.guidance):
        raise UsageError(f"Model {label} has no noise levels to guide at: give weights of guidance alone.")
    if bool(model.builds_on) != bool(entry.builds_on):
        need = f"needs builds_on: the name of a trained {model.builds_on} of this suite"
        raise UsageError(
            f"Model {label} {need if model.builds_on else 'builds on no other model: leave it out'}."
        )


def load_model(spec: dict[str, Any], path: Any, device: str) -> ImageModel:
    """Build a model and load its weights, ready to evaluate."""
    from safetensors.torch import load_file

    model = registry.build(spec["path"], dict(spec["options"]), tuple(spec["shape"]), spec["levels"])
    model.load_state_dict(load_file(path))
    return model.to(device).eval()


def parameter_count(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


class Evaluations:
    """Counts how many images a network was evaluated on, whoever called it."""

    def __init__(self) -> None:
        self.rows = 0

    def _count(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()]
        self.rows += tensors[0].shape[0] if tensors else 1


@contextmanager
def counted(*networks: nn.Module) -> Iterator[Evaluations]:
    """Counts the evaluations of networks: the number of function evaluations is rows / images."""
    evaluations = Evaluations()
    handles = [
        network.register_forward_pre_hook(evaluations._count, with_kwargs=True) for network in networks
    ]
    try:
        yield evaluations
    finally:
        for handle in handles:
            handle.remove()
