"""Bits per dimension of the test images: −log₂ P(pixels) / D, image by image, with its standard error.

With nats ℓᵢ of n images, bits = mean(ℓᵢ) / (D ln 2), standard error = sd(ℓᵢ) / (√n D ln 2). The images
are the sample; noise of dequantisation and of divergence probes differs between images and is part of it.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from bench.cells import Cell
from bench.metrics.anchors import anchors
from bench.records import Record
from bench.store import Part
from bench.workbench import Workbench, counted
from models.base import ImageModel, Likelihood, LikelihoodUnavailable
from models.seeds import derive_seed

METRIC = "bits/dim"
UNIT = "bits/dim"
NATS = "nats"
GIVEN = {"label": "given the label", "text": "given the caption"}
"""What the likelihood of a conditional model is called where it is told the condition."""


def bits_per_dimension(nats: np.ndarray, dims: int) -> tuple[float, float, float]:
    """Mean of per-image nats as bits per dimension, and the ends of its 95 % interval (normal)."""
    bits = np.asarray(nats, np.float64) / (dims * math.log(2.0))
    error = bits.std(ddof=1) / math.sqrt(len(bits)) if len(bits) > 1 else 0.0
    mean = float(bits.mean())
    return mean, mean - 1.96 * error, mean + 1.96 * error


class Bits:
    """Cells of kind `likelihood`."""

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """Nats of each image of one shard, with the parts they consist of."""
        settings, model, shard = cell.spec["likelihood"], bench.model(cell), cell.shard(index)
        device = bench.runtime.device
        pixels = bench.pixels(settings["split"])[shard.start : shard.stop].to(device)
        started = time.perf_counter()
        with counted(model.network) as evaluations:
            try:
                found = self._nats(cell, index, model, pixels, None)
            except LikelihoodUnavailable as reason:
                return Part({}, {"unavailable": str(reason) or "the family has no likelihood"})
        info = {
            "kind": found[0].kind,
            "protocol": found[0].protocol,
            "nfe": evaluations.rows / len(pixels),
            "seconds": time.perf_counter() - started,
        }
        arrays = {NATS: torch.cat([part.nats for part in found]).double().cpu().numpy()}
        for name in found[0].breakdown:
            arrays[name] = torch.cat([part.breakdown[name] for part in found]).double().cpu().numpy()
        known = bench.condition(model, settings["split"])
        if known is not None:
            # The same noise as without the condition, so that the difference is the condition's.
            told = known[shard.start : shard.stop].to(device)
            given = self._nats(cell, index, model, pixels, told)
            arrays[GIVEN[model.conditioning.kind]] = (
                torch.cat([part.nats for part in given]).double().cpu().numpy()
            )
        return Part(arrays, info)

    def _nats(
        self, cell: Cell, index: int, model: ImageModel, pixels: torch.Tensor, told: torch.Tensor | None
    ) -> list[Likelihood]:
        """The likelihoods of a shard batch by batch, all from the shard's own generator."""
        settings = cell.spec["likelihood"]
        seed = derive_seed("likelihood", cell.spec["seed"], index)
        generator = torch.Generator(pixels.device).manual_seed(seed)
        batches = pixels.split(settings["batch"])
        conditions = [None] * len(batches) if told is None else told.split(settings["batch"])
        with torch.no_grad():
            return [
                model.nll(batch, condition, generator, **settings["options"])
                for batch, condition in zip(batches, conditions, strict=True)
            ]

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """Bits per dimension, and the same for each part it consists of; or why there is none."""
        if "unavailable" in parts[0].info:
            reason = str(parts[0].info["unavailable"])
            return [bench.row(cell, metric=METRIC, unit=UNIT, status="n/a", protocol=reason)]
        info, n = parts[0].info, sum(cell.items)
        sizes = np.asarray(cell.items)
        nfe = float((np.asarray([part.info["nfe"] for part in parts]) * sizes).sum() / sizes.sum())
        protocol = f"{info['protocol']}, {bench.data.name} {cell.spec['likelihood']['split']} n={n}"
        records = []
        for name in parts[0].arrays:
            nats = np.concatenate([part.arrays[name] for part in parts])
            value, low, high = bits_per_dimension(nats, bench.data.dims)
            records.append(
                bench.row(
                    cell,
                    metric=METRIC if name == NATS else f"{METRIC} ({name})",
                    value=value,
                    low=low,
                    high=high,
                    unit=UNIT,
                    kind=info["kind"],
                    nfe=nfe,
                    n=n,
                    seconds=sum(part.info["seconds"] for part in parts),
                    protocol=protocol,
                )
            )
        return sorted(records, key=lambda record: record.metric != METRIC)


class Anchors:
    """What a model-free guess achieves on the same images."""

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """Nats of each test image under each anchor."""
        found = anchors(bench.data)
        return Part({a.name: a.nats for a in found}, {a.name: a.protocol for a in found})

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """Bits per dimension of each anchor."""
        records = []
        for name, nats in parts[0].arrays.items():
            value, low, high = bits_per_dimension(nats, bench.data.dims)
            records.append(
                bench.row(
                    cell,
                    model=name,
                    metric=METRIC,
                    value=value,
                    low=low,
                    high=high,
                    unit=UNIT,
                    kind="exact",
                    n=len(nats),
                    protocol=f"{parts[0].info[name]}, {bench.data.name} test n={len(nats)}",
                )
            )
        return records
