"""Bits per dimension of the test images: −log₂ P(pixels) / D, image by image, with its standard error.

With nats ℓᵢ of n images, bits = mean(ℓᵢ) / (D ln 2), standard error = sd(ℓᵢ) / (√n D ln 2). The images
are the sample; noise of dequantisation and of divergence probes differs between images and is part of it.
Where an estimate has several draws of either, the error is split: with V the variance of an image's mean
over its draws, √(V̄/n) is theirs, and what is left of the whole is the data's.

`evaluate_nll` is the entry, for the harness and for others.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

from bench import registry
from bench.cells import Cell
from bench.memory import halving, narrowed, said
from bench.metrics.anchors import anchors
from bench.metrics.marginal_nll import evaluate_marginal_nll
from bench.metrics.nll import NATS, VARIANCES, bits_per_dimension, evaluate_nll, standard_errors
from bench.metrics.solver_ladder import ladder
from bench.records import Record
from bench.store import Part
from bench.workbench import Workbench
from models.base import LikelihoodUnavailable

METRIC = "bits/dim"
UNIT = "bits/dim"
LADDER = 32
"""Images on which a solver's setting is compared with coarser and finer ones."""
TERMS = ("terms", "terms.log_snr")
"""Arrays of a variational sum: nats of each image and step, and the log-SNRs between which the steps go."""
MARGINAL = "label summed out"
GIVEN = {"label": "given the label", "text": "given the caption"}
"""What the likelihood of a conditional model is called where it is told the condition."""


class Bits:
    """Cells of kind `likelihood`."""

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """Nats of each image of one shard, with the parts they consist of."""
        asked = cell.spec["likelihood"]["batch"]
        part, used = halving(asked, lambda batch: self._part(cell, index, bench, batch))
        return Part(part.arrays, {**part.info, **narrowed(used, asked)})

    def _part(self, cell: Cell, index: int, bench: Workbench, batch: int) -> Part:
        settings, model, shard = cell.spec["likelihood"], bench.model(cell), cell.shard(index)
        device = bench.runtime.device
        pixels = bench.pixels(settings["split"])[shard.start : shard.stop].to(device)
        how = {"seed": cell.spec["seed"], "batch": batch, "shard": index, **settings["options"]}
        started = time.perf_counter()
        try:
            found = evaluate_nll(model, pixels, **how)
        except LikelihoodUnavailable as reason:
            return Part({}, {"unavailable": str(reason) or "the family has no likelihood"})
        info = {
            "kind": found.kind,
            "protocol": found.how,
            "nfe": found.nfe,
            "nfe_max": found.nfe_max,
            "draws": found.draws_are,
            "seconds": time.perf_counter() - started,
        }
        known_options = registry.nll_options(cell.spec["model"]["path"], settings["options"])
        if index == 0 and "solver" in known_options:
            info["ladder"] = ladder(model, pixels[:LADDER], known_options, **how)
        arrays = dict(found.arrays)
        if found.terms is not None:
            arrays |= dict(zip(TERMS, map(np.asarray, found.terms), strict=True))
        if settings["marginal"] and model.conditioning.kind == "label":
            arrays[MARGINAL] = evaluate_marginal_nll(model, pixels, **how).nats
        known = bench.condition(model, settings["split"])
        if known is not None:
            # The same noise as without the condition, so that the difference is the condition's.
            told = known[shard.start : shard.stop].to(device)
            arrays[GIVEN[model.conditioning.kind]] = evaluate_nll(model, pixels, told, **how).nats
        return Part(arrays, info)

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """Bits per dimension, the same for each part it consists of, and its errors; or why there is none."""
        if "unavailable" in parts[0].info:
            reason = str(parts[0].info["unavailable"])
            return [bench.row(cell, metric=METRIC, unit=UNIT, status="n/a", protocol=reason)]
        info, n = parts[0].info, sum(cell.items)
        sizes, dims = np.asarray(cell.items), bench.data.dims
        nfe = float((np.asarray([part.info["nfe"] for part in parts]) * sizes).sum() / sizes.sum())
        row = functools.partial(
            bench.row,
            cell,
            unit=UNIT,
            nfe=nfe,
            n=n,
            seconds=sum(part.info["seconds"] for part in parts),
        )
        settings = cell.spec["likelihood"]
        fewer = said(parts, settings["batch"])
        protocol = f"{info['protocol']}, {bench.data.name} {settings['split']} n={n}{fewer}"
        names = [name for name in parts[0].arrays if name not in TERMS]
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
        records = []
        for name, nats in arrays.items():
            if name in VARIANCES:
                continue
            value, low, high = bits_per_dimension(nats, dims)
            metric = METRIC if name == NATS else f"{METRIC} ({name})"
            kind = "estimate" if name == MARGINAL and info["kind"] != "exact" else info["kind"]
            records.append(row(metric=metric, value=value, low=low, high=high, protocol=protocol, kind=kind))
        records.sort(key=lambda record: record.metric != METRIC)
        errors = standard_errors(arrays, dims, info["draws"])
        for name, value in errors.items() if len(errors) > 1 else ():
            with_error = f"{protocol}; one standard error, which has no interval of its own"
            metric = f"{METRIC} (standard error, {name})"
            records.append(row(metric=metric, value=value, protocol=with_error, kind=info["kind"]))
        if "ladder" in info:
            records.append(row(**_finer(info["ladder"], protocol), kind=info["kind"]))
        return records


def _finer(rungs: list[dict[str, Any]], protocol: str) -> dict[str, Any]:
    """The setting's distance to the finest of its ladder, as columns of a record."""
    (own,), finest = [rung for rung in rungs if rung["own"]], rungs[-1]
    low, high = own["low"], own["high"]
    low, high = (low, high) if own["difference"] >= 0 else (-high, -low)
    said = f"|bits({own['setting']}) − bits({finest['setting']})| of the first {own['n']} images"
    value = abs(own["difference"])
    columns = {"value": value, "low": low, "high": high, "n": own["n"]}
    return {"metric": f"{METRIC} (solver)", "protocol": f"{said}: {protocol}", **columns}


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
