"""How sampling scales with the batch, and how long one image takes: throughput by batch, latency at batch 1.

A round times one trajectory of every batch and some single images; rounds of all cells alternate, so that a
machine that slows down slows all of them. Medians and quantiles have intervals by order statistics, which
assume nothing about the distribution of timings; a quantile that so few timings cannot bracket has none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.metrics.throughput import load_record, median_interval, others, seconds_of
from bench.records import Record
from bench.store import Part
from bench.workbench import Workbench, counted

QUANTILES = {"latency p50": 0.5, "latency p90": 0.9, "latency p99": 0.99}


class Scaling:
    """Cells of kind `scaling`; a part is one round."""

    def __init__(self) -> None:
        self._warm: set[str] = set()

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """Seconds of a trajectory of each batch, and of single images one after another."""
        settings, model = cell.spec["scaling"], bench.model(cell)
        if cell.key not in self._warm:
            for batch in settings["batches"]:
                seconds_of(model, cell, batch, index, bench)
            self._warm.add(cell.key)
        with counted(*bench.networks(cell)) as evaluations:
            seconds_of(model, cell, 1, index, bench)
        with others() as load:
            by_batch = [seconds_of(model, cell, batch, index, bench) for batch in settings["batches"]]
            singles = [seconds_of(model, cell, 1, index, bench) for _ in range(settings["images"])]
        arrays = {"by_batch": np.asarray(by_batch), "singles": np.asarray(singles)}
        return Part(arrays, {"nfe": evaluations.rows, "others": load[0]})

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """Median images a second at every batch, then the quantiles of the latency."""
        settings = cell.spec["scaling"]
        by_batch = np.stack([part.arrays["by_batch"] for part in parts])
        singles = np.concatenate([part.arrays["singles"] for part in parts])
        columns: dict[str, Any] = {
            "nfe": float(parts[0].info["nfe"]),
            "seconds": float(by_batch.sum() + singles.sum()),
            "device": bench.runtime.machine_label,
        }
        how = f"after a warm-up, cells alternating, {bench.runtime.threads} threads"
        found = []
        for place, batch in enumerate(settings["batches"]):
            rate = np.sort(batch / by_batch[:, place])
            low, high, coverage = median_interval(rate)
            found.append(
                bench.row(
                    cell,
                    metric=f"throughput at batch {batch}",
                    value=float(np.median(rate)),
                    low=low,
                    high=high,
                    unit="images/s",
                    n=len(parts),
                    protocol=f"median of {len(parts)} trajectories of {batch} images {how}; interval of "
                    f"{coverage:.1%} by order statistics",
                    **columns,
                )
            )
        for metric, quantile in QUANTILES.items():
            milliseconds = np.sort(1000.0 * singles)
            interval = quantile_interval(milliseconds, quantile)
            said = "interval of 95 % by order statistics"
            if interval is None:
                said = f"no interval: {len(singles)} timings do not bracket this quantile"
            low_high = {} if interval is None else {"low": interval[0], "high": interval[1]}
            found.append(
                bench.row(
                    cell,
                    metric=metric,
                    value=float(np.quantile(milliseconds, quantile)),
                    unit="ms",
                    n=len(singles),
                    protocol=f"of {len(singles)} single images from seed to pixels, {how}; {said}",
                    **low_high,
                    **columns,
                )
            )
        load = float(np.mean([part.info["others"] for part in parts]))
        return [*found, load_record(cell, bench, load, n=len(parts), **columns)]


def quantile_interval(
    ascending: np.ndarray, quantile: float, level: float = 0.95
) -> tuple[float, float] | None:
    """Distribution-free interval of a quantile; None where n values are too few to bracket it.

    The i-th and j-th smallest of n cover it with probability P(i ≤ Bin(n, q) < j); ranks are taken so that
    each side misses it with (1 − level)/2 at most.
    """
    n, miss = len(ascending), (1.0 - level) / 2.0
    below, lower, upper = 0.0, 0, 0
    for k in range(n + 1):
        below += math.comb(n, k) * quantile**k * (1.0 - quantile) ** (n - k)
        if below <= miss:
            lower = k + 1  # the (k+1)-th smallest is still above the quantile too rarely to matter
        if below >= 1.0 - miss:
            upper = k + 1
            break
    if lower < 1 or not 1 <= upper <= n:
        return None
    return float(ascending[lower - 1]), float(ascending[upper - 1])
