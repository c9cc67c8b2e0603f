"""Features of generated and real images, then every measure asked for, as records.

Shapes: n images, C channels, H height, W width, d feature dimensions.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bench.evaluate.measures import Measured, Named, Need, check_needs, chosen
from bench.files import write_bytes
from bench.images import ImageSource, open_images
from bench.images.arrays import ArrayImages
from bench.metrics.moments import Moments
from bench.metrics.provenance_of_features import FeatureProvenance, check_alike
from bench.metrics.statistics_file import Statistics
from bench.records import Record

if TYPE_CHECKING:
    import torch

    from bench.metrics.features import FeatureNetwork

LABELLED: dict[str, Need] = {"generated": "labels", "real": "real labels"}
"""What a set's labels are to a measure; known once its images were read."""

READ = 256
"""Images that are read and extracted together; the network has inner batches of its own."""

Images: TypeAlias = "ImageSource | np.ndarray | torch.Tensor"
"""A source, or uint8 pixels (n, C, H, W)."""

Progress = Callable[[str, int, int], None]
"""(what, images done, images in all)."""


@dataclass(frozen=True)
class Evaluated:
    """The records of an evaluation, the images that were left out by set, and the features of every set."""

    records: list[Record]
    damaged: dict[str, list[str]]
    sets: dict[str, Extracted]

    @property
    def generated(self) -> Extracted:
        """Features of the generated images."""
        return self.sets["generated"]


@dataclass(frozen=True)
class Extracted:
    """Features (n, d) float32 of a set and their logits, and which images they are of."""

    name: str
    rows: np.ndarray
    logits: np.ndarray | None
    identity: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


def evaluate(
    images: Images,
    against: Images | Statistics,
    features: FeatureNetwork | str | Callable[[torch.Tensor], torch.Tensor],
    metrics: Sequence[str] = ("fid",),
    *,
    held_out: Images | None = None,
    seed: int = 0,
    model: str = "",
    progress: Progress | None = None,
) -> Evaluated:
    """Measures of generated `images` against real ones, in a feature space.

    images, against, held_out  sources of `bench.images`, or uint8 arrays or tensors (n, C, H, W); `against`
                               may be saved statistics, which are enough for Fréchet distances
    features                   a feature network, the name of one, or a module or function of yours
    metrics                    names of `bench.evaluate.measures`
    seed                       of the measures that draw at random
    model                      what the generator is called in the records; the source's name without it

    Raises ValueError in one sentence for unknown names, damaged images, images that a network does not take,
    and for what a metric needs and is not given, before anything is extracted where that is known.
    """
    from bench.metrics.features import feature_network

    network = feature_network(features)
    wanted, saved = chosen(metrics), against if isinstance(against, Statistics) else None
    has: set[Need] = set() if saved else {"real images"}
    has |= {"logits"} if network.classes else set()
    has |= {"held out"} if held_out is not None else set()
    has |= {"clip"} if network.name.startswith("clip") else set()
    for name, measure in wanted.items():
        check_needs(name, measure, network.name, frozenset(has))
    if saved is not None:
        check_alike(saved.provenance, provenance(network), "compare")
    asked = {"generated": images, "real": against, "held out": held_out}
    sources = {
        role: _source(one, role)
        for role, one in asked.items()
        if one is not None and not isinstance(one, Statistics)
    }
    logits = any("logits" in measure.needs for measure in wanted.values())
    sets = {
        role: extract(source, network, logits and role == "generated", progress)
        for role, source in sources.items()
    }
    generated, unseen = sets["generated"], sets.get("held out")
    told = {role: np.asarray(one.labels) if one.labels else None for role, one in sets.items()}
    found: set[Need] = {need for role, need in LABELLED.items() if told.get(role) is not None}
    for name, measure in wanted.items():
        check_needs(name, measure, network.name, frozenset(has | found), labels=True)
    of = Measured(
        network.metric,
        generated.rows,
        saved.moments if saved else sets["real"].rows,
        generated.logits,
        unseen.rows if unseen else None,
        seed,
        told["generated"],
        told.get("real"),
    )
    name, said = _reference(saved, sets)
    common = {"model": model or generated.name, "family": "images", "dataset": name, "device": "cpu"}
    size = "×".join(map(str, generated.shape))
    tail = f"[{network.identity}, {generated.name} {generated.identity[:12]} {size}, {said}]"
    records = [one for measure in wanted.values() for one in _records(measure.compute(of), tail, common)]
    damaged = {role: [str(one) for one in source.damaged] for role, source in sources.items()}
    return Evaluated(records, {role: names for role, names in damaged.items() if names}, sets)


def _reference(saved: Statistics | None, sets: dict[str, Extracted]) -> tuple[str, str]:
    """What the real images are called, and which they are."""
    if saved is None:
        real = sets["real"]
        return real.name, f"{real.name} {real.identity[:12]}"
    name = " ".join(filter(None, [saved.provenance.data_set, saved.provenance.split])) or "statistics"
    return name, f"statistics of {saved.count} images of {name}"


def provenance(network: FeatureNetwork, data_set: str = "", split: str = "") -> FeatureProvenance:
    """What statistics in the space of a network depend on."""
    return FeatureProvenance(
        extractor=network.name,
        layer=str(getattr(network, "layer", "features")),
        weights_sha256=network.identity.removeprefix(network.name).strip().partition(" ")[0] or "none",
        resize=str(getattr(network, "resize", "none")),
        quantiser="round",
        dtype=network.dtype,
        data_set=data_set,
        split=split,
    )


def statistics(found: Extracted, network: FeatureNetwork) -> Statistics:
    """Moments of a set of images, with their provenance, to be saved and compared with."""
    return Statistics.of(Moments.of(found.rows), provenance(network, found.name, found.identity[:12]))


def save_features(found: Extracted, network: FeatureNetwork, path: Path) -> None:
    """A parquet file with a row an image: `image`, its number; `label` where there is one; `features`."""
    import pyarrow
    import pyarrow.parquet

    values = pyarrow.array(np.ascontiguousarray(found.rows, np.float32).reshape(-1))
    columns: dict[str, Any] = {"image": np.arange(len(found.rows))}
    if found.labels:
        columns["label"] = list(found.labels)
    columns["features"] = pyarrow.FixedSizeListArray.from_arrays(values, found.rows.shape[1])
    told = {"network": network.identity, "images": f"{found.name} {found.identity}"}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(told), buffer)
    write_bytes(path, buffer.getvalue())


def extract(
    source: ImageSource, network: FeatureNetwork, logits: bool = False, progress: Progress | None = None
) -> Extracted:
    """Features of every image of a source, in its order."""
    import torch

    rows, scores, shape = [], [], ()
    for batch in source.batches(READ):
        pixels = torch.from_numpy(batch.pixels)
        rows.append(network.extract(pixels).cpu().numpy())
        if logits:
            scores.append(network.classify(pixels).cpu().numpy())
        shape = batch.pixels.shape[1:]
        if progress is not None:
            progress(source.name, batch.indices.stop, len(source))
    if not rows:
        raise ValueError(f"{source.name} has no image that can be used.")
    found = np.concatenate(rows)
    if found.ndim != 2 or len(found) != sum(len(part) for part in rows) or found.shape[1] < 2:
        raise ValueError(f"{network.name} gives features {found.shape}, and they must be (n, d) with d ≥ 2.")
    return Extracted(
        source.name,
        found,
        np.concatenate(scores) if logits else None,
        source.identity,
        tuple(shape),
        tuple(source.labels),
    )


def _records(found: Iterator[Named], tail: str, common: dict[str, Any]) -> Iterator[Record]:
    """One record a number: its own protocol, then the network and both sets."""
    started = time.perf_counter()
    for metric, one in found:
        numbers: dict[str, Any] = {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
        seconds = time.perf_counter() - started
        yield Record(**common, **numbers, metric=metric, protocol=f"{one.protocol} {tail}", seconds=seconds)
        started = time.perf_counter()


def _source(images: Images, role: str) -> ImageSource:
    if isinstance(images, ImageSource):
        return images
    array = np.asarray(images) if isinstance(images, np.ndarray) else images.detach().cpu().numpy()
    return ArrayImages(array, role)


def real_images(where: str, *, levels: int = 256, **options: Any) -> ImageSource | Statistics:
    """What `--against` names: a data set (`digits`: training images; `digits:test`), images, statistics.

    levels  that the feature network takes; a data set of fewer is scaled to 256, to the nearest level
    """
    from bench import data

    name, _, split = where.partition(":")
    if name in data.names() and not Path(where).exists():
        if split not in ("", "train", "test"):
            raise ValueError(f"The dataset {name} has the splits train and test, and no {split!r}.")
        found = data.load(name)
        test = split == "test"
        pixels, called = found.test if test else found.train, f"{name} {split or 'train'}"
        labels = found.test_labels if test else found.train_labels
        if levels == 256 != found.levels:
            pixels = np.rint(pixels * (255.0 / (found.levels - 1))).astype(np.uint8)
            called += f" ({found.levels} levels scaled to 256)"
        return ArrayImages(pixels, called, labels=labels)
    if where.endswith(".safetensors"):
        return Statistics.load(where)
    return open_images(where, **options)
