"""Sample quality: the Fréchet distance of generated images, from moments of one shard after another.

A shard draws 256 images from their own seeds, keeps them as uint8 and reduces their features to the
moments of fixed blocks. Blocks are merged in shard order, so the number does not depend on who computed
which shard, nor on what was interrupted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.cells import Cell
from bench.errors import CellFailed
from bench.memory import halving, narrowed, said
from bench.metrics.alignment import judged, share_records
from bench.metrics.frechet import FrechetEstimate, group_frechet
from bench.metrics.moments import BlockMoments
from bench.records import Record
from bench.store import Part
from bench.workbench import Workbench, counted
from models.base import NonFiniteSamples
from models.seeds import Seeds, shard_stream

if TYPE_CHECKING:
    from models.base import ImageModel
    from models.samplers import Sampler

BLOCKS = 20
"""Blocks of a group: what the jackknife leaves out one at a time."""


class Quality:
    """Cells of kind `quality`: sample, extract, compare with the training images."""

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """Sample one shard and reduce it to moments."""
        started, asked = time.perf_counter(), cell.spec["sampling"]["batch"]
        (pixels, nfe), used = halving(asked, lambda batch: sample_shard(cell, index, bench, batch))
        arrays = {"pixels": pixels.cpu().numpy()}
        if cell.spec["prompts"] == "test":
            features = bench.features.extract(pixels).cpu().numpy()
            moments = BlockMoments(cell.spec["group"] // BLOCKS, features.shape[1])
            moments.add(cell.shard(index).start, features)
            arrays |= moments.to_arrays()
        if bench.model(cell).conditioning.kind != "none":
            arrays |= judged(pixels, cell.spec["prompts"], cell.shard(index), bench)
        cost = {"nfe": nfe, "seconds": time.perf_counter() - started}
        return Part(arrays, cost | narrowed(used, asked))

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """Distances to the training images, shares of conditions met, and what it took."""
        sizes = np.asarray(cell.items)
        nfe = float((np.asarray([part.info["nfe"] for part in parts]) * sizes).sum() / sizes.sum())
        cost = {"nfe": nfe, "seconds": sum(part.info["seconds"] for part in parts)}
        records = share_records(cell, [part.arrays for part in parts], bench, **cost)
        if cell.spec["prompts"] == "test":
            moments = BlockMoments.merged([BlockMoments.from_arrays(part.arrays) for part in parts])
            records = [*distance_records(cell, moments, bench, **cost), *records]
        how = said(parts, cell.spec["sampling"]["batch"])
        return [record.replace(protocol=record.protocol + how) for record in records] if how else records


class Floor:
    """The cell of real test images, scored exactly as generated ones are."""

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """Moments of as many whole groups of test images as there are."""
        group = cell.spec["group"]
        pixels = bench.pixels("test")
        pixels = pixels[: len(pixels) // group * group]
        features = bench.features.extract(pixels).cpu().numpy()
        moments = BlockMoments(group // BLOCKS, features.shape[1])
        moments.add(0, features)
        return Part({**moments.to_arrays(), **judged(pixels, "test", range(len(pixels)), bench)}, {})

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """The same numbers as those of generated images."""
        distances = distance_records(cell, BlockMoments.from_arrays(parts[0].arrays), bench)
        return [*distances, *share_records(cell, [parts[0].arrays], bench)]


def distance_records(cell: Cell, moments: BlockMoments, bench: Workbench, **columns: Any) -> list[Record]:
    """The Fréchet distance at equal n and its debiased value, each with its 95 % interval."""
    group = cell.spec["group"]
    found = group_frechet(moments, group_size=group, blocks_per_group=BLOCKS, reference=bench.reference)
    metric = bench.features.metric
    protocol = _protocol(metric, found, bench, group)
    columns = {**columns, "n": found.n, "split": "train", "unit": ""}
    at_equal_n = bench.row(
        cell,
        metric=f"{metric}@{group}",
        value=found.value,
        low=found.low,
        high=found.high,
        protocol=protocol,
        **columns,
    )
    debiased = bench.row(
        cell,
        metric=f"{metric} debiased",
        value=found.debiased,
        low=found.debiased_low,
        high=found.debiased_high,
        protocol=f"{protocol}, bias of n={group} removed by the jackknife",
        **columns,
    )
    return [at_equal_n, debiased]


def _protocol(metric: str, found: FrechetEstimate, bench: Workbench, group: int) -> str:
    reference = f"{bench.data.name} train n={len(bench.data.train)}"
    groups = f"mean of {found.groups} groups of {group}" if found.groups > 1 else f"one group of {group}"
    return f"{metric}@{group} [{bench.features.identity}, unresized, {reference}, {groups}, {found.method}]"


def sample_shard(cell: Cell, index: int, bench: Workbench, batch: int) -> tuple[torch.Tensor, float]:
    """The images of one shard, uint8 (n, C, H, W), `batch` at a time, and the evaluations each took."""
    settings, seed, model = cell.spec["sampling"], cell.spec["seed"], bench.model(cell)
    sampler = make_sampler(settings)
    images = cell.shard(index)
    stream = shard_stream(seed, index, bench.runtime.device)
    batches = []
    eager = settings["execution"] == "eager"
    with torch.inference_mode(), counted(*bench.networks(cell) if eager else ()) as evaluations:
        for start in range(images.start, images.stop, batch):
            chosen = range(start, min(start + batch, images.stop))
            told = bench.prompts(cell, chosen)
            batches.append(_sample_batch(model, sampler, Seeds(seed, chosen, stream), told, cell, index))
    nfe = evaluations.rows / len(images) if eager else eager_evaluations(cell, bench)
    return torch.cat(batches), nfe


def eager_evaluations(cell: Cell, bench: Workbench) -> float:
    """Evaluations of an image when the same sampler is run eagerly: what counts would be compiled too."""
    settings, seed = cell.spec["sampling"], cell.spec["seed"]
    sampler = make_sampler({**settings, "execution": "eager"})
    seeds = Seeds(seed, [0], shard_stream(seed, 0, bench.runtime.device))
    with torch.inference_mode(), counted(*bench.networks(cell)) as evaluations:
        bench.model(cell).sample(1, sampler, seeds, **bench.prompts(cell, [0]))
    return float(evaluations.rows)


def _sample_batch(
    model: ImageModel, sampler: Sampler | None, seeds: Seeds, told: dict[str, Any], cell: Cell, shard: int
) -> torch.Tensor:
    try:
        return model.sample(len(seeds.images), sampler, seeds, **told)
    except NonFiniteSamples as error:
        steps = "" if cell.row["steps"] is None else f" of {cell.row['steps']}"
        step = "" if error.step is None else f", step {error.step}{steps}"
        raise CellFailed(
            f"a sample is not finite: shard {shard}, image {seeds.images[error.image]}{step}, "
            f"sampler {cell.row['sampler']}; no distance is computed from it"
        ) from error


def make_sampler(settings: dict[str, Any]) -> Sampler | None:
    """The sampler of a cell; None for a family that samples in its own way."""
    if not settings["grid"]:
        return None
    from models.samplers import sampler

    return sampler(
        settings["sampler"],
        1 if settings["steps"] is None else settings["steps"],
        grid=settings["grid"],
        execution=settings["execution"],
        **settings["options"],
    )
