"""How long a suite takes with P processes, from what its cells cost: where more of them stop to help.

    shared cell of S shards of s seconds   ⌈S/P⌉·(s + claim) + S·read
    trainings                              the longest chain of what builds on what, and all of them over P
    timings                                one after another: each has its machine to itself
    each process                           start, at the same time

All processes compute the shards of a cell and wait for its last one, so a cell of S shards is no faster by
more than S processes; one of them reads the shards again and makes the numbers. There is nothing else that
grows with P: no collective, no server, a claim is a lock on a byte of a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.cells import Cell

TIMED = ("throughput", "scaling")
"""Kinds of cells that have the machine to themselves."""


@dataclass(frozen=True)
class Overheads:
    """Seconds of a process's start, of claiming a shard and of reading one again.

    The defaults were measured on two cores with a local disk; see tests/benchmarks/test_wall_time.py.
    """

    start: float = 7.0
    claim: float = 0.005
    read: float = 0.002


def cell_seconds(shards: int, seconds: float, processes: int, overheads: Overheads = Overheads()) -> float:
    """Of a cell whose shards take `seconds` in all."""
    rounds = math.ceil(shards / processes)
    return rounds * (seconds / shards + overheads.claim) + shards * overheads.read


def plan_seconds(
    costs: Sequence[tuple[Cell, float]], processes: int, overheads: Overheads = Overheads()
) -> float:
    """Of all cells, given with the seconds that each takes in one process."""
    trainings = {cell.key: (seconds, cell.weights) for cell, seconds in costs if cell.kind == "training"}
    shared = sum(
        cell_seconds(cell.parts, seconds, processes, overheads)
        for cell, seconds in costs
        if cell.kind not in ("training", *TIMED)
    )
    timed = sum(seconds for cell, seconds in costs if cell.kind in TIMED)
    return overheads.start + _trained(trainings, processes) + shared + timed


def _trained(trainings: Mapping[str, tuple[float, str]], processes: int) -> float:
    """Each training in one process: no less than the longest chain, and than an even share of all."""

    def chain(key: str) -> float:
        if key not in trainings:
            return 0.0
        seconds, base = trainings[key]
        return seconds + chain(base)

    total = sum(seconds for seconds, _ in trainings.values())
    return max([total / processes, *map(chain, trainings)])


def enough(costs: Sequence[tuple[Cell, float]], overheads: Overheads = Overheads(), gain: float = 0.1) -> int:
    """The processes beyond which twice as many save less than a share `gain` of the time."""
    processes = 1
    while plan_seconds(costs, 2 * processes, overheads) < (1 - gain) * plan_seconds(
        costs, processes, overheads
    ):
        processes *= 2
    return processes
