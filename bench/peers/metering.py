"""What a loop costs outside its network: time of the thread, operations on whole states, reads by the host.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = frozenset(
    (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.item.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.nonzero.default,
    )
)
"""Operations that make the host wait for a value of the device."""


class Metered:
    """A network that counts its calls and the time of this thread within them; called as the network is."""

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self._network = network
        self.evaluations, self.seconds, self.inside = 0, 0.0, False

    def __call__(self, *arguments: Any, **keywords: Any) -> Tensor:
        start = time.thread_time()
        self.inside = True
        said = self._network(*arguments, **keywords)
        self.inside = False
        self.evaluations += 1
        self.seconds += time.thread_time() - start
        return said


class Counter(TorchDispatchMode):
    """Counts what happens outside a metered network.

    reads       values that the host waits for, as the dispatcher of torch sees them; numpy is not seen
    operations  those with a result of the size of the state or larger, views excepted
    """

    def __init__(self, network: Metered, state: Tensor) -> None:
        super().__init__()
        self._network, self._size = network, state.numel()
        self.reads = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._network.inside:
            self.reads += func in READS
            if not func.is_view:
                sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
                self.operations += bool(sizes) and max(sizes) >= self._size
        return result


@dataclass(frozen=True)
class Spread:
    """The median of repeats and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


Timed = Callable[[], tuple[Callable[[], object], Metered]]
"""Makes one repeat ready, untimed: what to call, and the network that it calls."""


def overheads(candidates: Sequence[Timed], repeats: int, warm_up: int = 2) -> list[Spread]:
    """Microseconds of this thread outside the network per evaluation, of each candidate.

    They take turns and start in turn, so that what slows the machine down slows all of them.
    """
    found: list[list[float]] = [[] for _ in candidates]
    with _quiet():
        for repeat in range(-warm_up, repeats):
            for place in range(len(candidates)):
                which = (place + repeat) % len(candidates)
                microseconds = _outside(candidates[which])
                if repeat >= 0:
                    found[which].append(microseconds)
    return [Spread.of(values) for values in found]


def _outside(candidate: Timed) -> float:
    run, network = candidate()
    start = time.thread_time()
    run()
    total = time.thread_time() - start
    return 1e6 * (total - network.seconds) / max(1, network.evaluations)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """One thread of torch: what is not done by this thread is not in its time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No collection of garbage in between."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
