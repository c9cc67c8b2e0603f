"""Throughput: images per second of whole trajectories, timed while nothing else of ours runs.

Rounds alternate between the cells, so that a machine that slows down slows all of them. A cell's number
is the median over rounds; its interval is that of the median by order statistics, which assumes nothing
about the distribution of timings.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch

from bench.cells import Cell
from bench.metrics.quality import eager_evaluations, make_sampler
from bench.records import Record
from bench.store import Part
from bench.workbench import Workbench, counted
from models.base import ImageModel
from models.seeds import Seeds, shard_stream

NOISY = 0.10
"""Share of the processor used by other programs above which a timing is marked."""


class Throughput:
    """Cells of kind `throughput`; a part is one timed trajectory of one batch."""

    def __init__(self) -> None:
        self._warm: set[str] = set()

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """Time one trajectory from seeds to pixels, after warming up in this process."""
        model, info = bench.model(cell), {}
        eager = cell.spec["sampling"]["execution"] == "eager"
        if cell.key not in self._warm:
            if index == 0 and not eager:
                info["first"] = self._first_seconds(model, cell, bench)
            for _ in range(cell.spec["throughput"]["warmup"]):
                self._timed(model, cell, index, bench)
            self._warm.add(cell.key)
        if index == 0:
            info["peak_bytes"] = self._peak_bytes(model, cell, bench)
        with counted(*bench.networks(cell) if eager else ()) as evaluations, others() as load:
            seconds = self._timed(model, cell, index, bench)
        if eager:
            info["nfe"] = evaluations.rows / cell.spec["throughput"]["batch"]
        elif index == 0:
            info["nfe"] = eager_evaluations(cell, bench)
        return Part({"seconds": np.asarray(seconds, np.float64)}, {**info, "others": load[0]})

    def _timed(self, model: ImageModel, cell: Cell, index: int, bench: Workbench) -> float:
        return seconds_of(model, cell, cell.spec["throughput"]["batch"], index, bench)

    def _first_seconds(self, model: ImageModel, cell: Cell, bench: Workbench) -> float:
        """Seconds of the very first trajectory, which compiles or captures, with nothing kept from before."""
        from models.samplers import execution

        execution.forget(model.network)
        fresh = torch.compiler.config.patch(force_disable_caches=True)  # type: ignore[attr-defined]
        with fresh, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
            return self._timed(model, cell, 0, bench)

    def _peak_bytes(self, model: ImageModel, cell: Cell, bench: Workbench) -> int:
        """Most bytes of tensors alive at once during a trajectory, weights included."""
        if bench.runtime.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._timed(model, cell, 0, bench)
            return torch.cuda.max_memory_allocated()
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            self._timed(model, cell, 0, bench)
        events = profiler.profiler.kineto_results.events()
        memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        live = np.cumsum([size for _, size in memory]) if memory else np.zeros(1)
        return int(weights + max(0, live.max()))

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """Median images a second, peak memory, and how busy the machine was with other things."""
        settings = cell.spec["throughput"]
        seconds = np.asarray([float(part.arrays["seconds"]) for part in parts])
        rate = settings["batch"] / np.sort(seconds)[::-1]
        low, high, coverage = median_interval(rate)
        busy = float(np.average([part.info["others"] for part in parts], weights=seconds))
        columns = {
            "nfe": float(np.mean([part.info["nfe"] for part in parts if "nfe" in part.info])),
            "n": len(parts),
            "seconds": float(seconds.sum()),
        }
        protocol = (
            f"median of {len(parts)} trajectories of {settings['batch']} images after "
            f"{settings['warmup']} warm-up, cells alternating, {bench.runtime.threads} threads"
        )
        device = bench.runtime.machine_label
        speed = bench.row(
            cell,
            metric="throughput",
            value=float(np.median(rate)),
            low=low,
            high=high,
            unit="images/s",
            protocol=f"{protocol}; interval of {coverage:.1%} by order statistics",
            **{**columns, "device": device},
        )
        memory = bench.row(
            cell,
            metric="peak memory",
            value=parts[0].info["peak_bytes"] / 1e6,
            unit="MB",
            protocol=f"tensors alive at once in a batch of {settings['batch']}, weights included; "
            "no interval: a count, not a sample",
            **{**columns, "device": device},
        )
        load = load_record(cell, bench, busy, **{**columns, "device": device})
        return [speed, memory, load, *self._compiling(cell, parts, bench, columns)]

    def _compiling(
        self, cell: Cell, parts: list[Part], bench: Workbench, columns: dict[str, Any]
    ) -> list[Record]:
        """What the first trajectory of a compiled or captured sampler took beyond a later one."""
        if "first" not in parts[0].info:
            return []
        steady = float(np.median([float(part.arrays["seconds"]) for part in parts]))
        return [
            bench.row(
                cell,
                metric="compile time",
                value=max(0.0, parts[0].info["first"] - steady),
                unit="s",
                protocol=f"first trajectory minus the median of {len(parts)} later ones, no cache of "
                "compiled code; no interval: taken once",
                **{**columns, "n": 1, "device": bench.runtime.machine_label},
            )
        ]


def seconds_of(model: ImageModel, cell: Cell, batch: int, stream: int, bench: Workbench) -> float:
    """One trajectory of a batch from seeds to pixels, with the device idle before and after.

    stream  seeds the noise that the sampler draws
    """
    seed, device = cell.spec["seed"], bench.runtime.device
    _synchronise(device)
    started = time.perf_counter()
    seeds = Seeds(seed, range(batch), shard_stream(seed, stream, device))
    told = bench.prompts(cell, range(batch))
    with torch.inference_mode():
        model.sample(batch, make_sampler(cell.spec["sampling"]), seeds, **told)
    _synchronise(device)
    return time.perf_counter() - started


def load_record(cell: Cell, bench: Workbench, share: float, **columns: Any) -> Record:
    """How busy other programs kept the machine while a cell was timed."""
    return bench.row(
        cell,
        metric="other load",
        value=100 * share,
        unit="%",
        protocol="share of the processor used by other programs while timing; no interval: "
        f"a check of the timing, which is suspect above {NOISY:.0%}",
        **columns,
    )


def median_interval(ascending: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Distribution-free interval of the median: (low, high, coverage).

    The k-th smallest and k-th largest of n cover the median with probability 1 − 2·P(Bin(n, ½) < k); the
    largest k that reaches `level` is taken, or k = 1 where none does (then the coverage says so).
    """
    n, best = len(ascending), (1, 1 - 2 * 0.5 ** len(ascending))
    for k in range(1, n // 2 + 1):
        coverage = 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
        if coverage >= level:
            best = (k, coverage)
    k, coverage = best
    return float(ascending[k - 1]), float(ascending[n - k]), coverage


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def others() -> Iterator[list[float]]:
    """Share of the machine's processor time used by other processes meanwhile, in a list of one."""
    result = [0.0]
    process, cores = psutil.Process(), psutil.cpu_count() or 1
    busy, own, started = _busy(), sum(process.cpu_times()[:2]), time.perf_counter()
    yield result
    wall = time.perf_counter() - started
    used = (_busy() - busy) - (sum(process.cpu_times()[:2]) - own)
    result[0] = min(1.0, max(0.0, used / (wall * cores)))


def _busy() -> float:
    """Seconds all processors have spent working since the machine started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
