"""Times of calls that take turns: cold cache, medians with 20th and 80th percentiles, raw samples kept.

One provider after the other in each round, so that a change of clocks or temperature meets all alike. Before
every call a buffer larger than the second-level cache is written, which a model's other layers would do.
Calls of less than 50 µs are also timed within a CUDA graph, without the host's share and with a warm cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

FLUSHED = 256 * 2**20
"""Bytes written before a call: five times the second-level cache of an H200."""
SHORT = 50e-6
GRAPH_CALLS, GRAPH_REPLAYS = 20, 10


@dataclass(frozen=True)
class Times:
    """Seconds of one provider; `graph` those of one call within a CUDA graph, where it is short."""

    samples: list[float]
    graph: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Half of the calls took less."""
        return float(np.median(self.samples))

    @property
    def spread(self) -> tuple[float, float]:
        """20th and 80th percentile."""
        low, high = np.percentile(self.samples, (20, 80))
        return float(low), float(high)


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    repeats: int,
    warmup: int = 3,
    deadline: float = float("inf"),
) -> dict[str, Times]:
    """`repeats` rounds of all calls; fewer, at least three, once `deadline` of time.monotonic is past."""
    flush = _flusher(device)
    for call in calls.values():
        for _ in range(warmup):
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(repeats):
        if done >= 3 and time.monotonic() > deadline:
            break
        for name, call in calls.items():
            flush()
            samples[name].append(once(call, device))
    return {
        name: Times(found, _in_graph(calls[name], device) if np.median(found) < SHORT else [])
        for name, found in samples.items()
    }


def once(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: between two events on a GPU, by the clock on a CPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000


def _flusher(device: torch.device) -> Callable[[], object]:
    if device.type != "cuda":
        return lambda: None
    buffer = torch.empty(FLUSHED, dtype=torch.int8, device=device)
    return buffer.zero_


def _in_graph(call: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of a call when many are replayed without the host; empty where it cannot be captured."""
    if device.type != "cuda":
        return []
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(GRAPH_CALLS):
                call()
    except RuntimeError:
        torch.cuda.synchronize(device)
        return []
    return [once(graph.replay, device) / GRAPH_CALLS for _ in range(GRAPH_REPLAYS)]
