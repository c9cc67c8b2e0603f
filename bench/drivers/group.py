"""Processes that train one model together, and the sum they agree on, bit for bit.

Process r holds g_r, and all of them need Σ g_r. In round k each adds to its sum that of the process whose
number differs from its own in bit k alone: the tree ((g_0 + g_1) + (g_2 + g_3)) + …, whose every addition has
two terms, and a + b = b + a in floating point too. So the sum is the same in every process and, where one
process adds up the same numbers in the same tree (`TreeSum`), the same there: training by 1, 2 or 4 processes
gives the same weights. It costs log₂(P) exchanges of the whole sum in place of an all-reduce's two.

Processes meet where the launcher says, torchrun by itself, others by MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from bench.drivers.place import Place

PATIENCE = datetime.timedelta(seconds=120)
"""How long a process waits for the others to come; a launcher starts all of them at about the same time."""
WORK = datetime.timedelta(days=2)
"""How long a process waits for the others' next message: the death of one is noticed at once."""


class GroupBroken(Exception):
    """Another process died or gave up: what was begun together is gone on with alone."""


def largest_power_of_two(n: int) -> int:
    """The largest 2^k ≤ n."""
    return 1 << (n.bit_length() - 1)


class Group:
    """The first `size` of the launched processes, a power of two; this one has number `rank`."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def meet(cls, place: Place, device: str) -> Group | None:
        """Join the others; None for who is left over, and where they do not all come."""
        size = largest_power_of_two(place.world)
        if size == 1 or place.rank >= size or not place.meeting:
            return None
        host, _, port = place.meeting.rpartition(":")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                meeting = dist.TCPStore(
                    host, int(port), is_master=place.rank == 0 and not place.hosted, timeout=PATIENCE
                )
                store = dist.PrefixStore(f"noisebench/{place.attempt}", meeting)
                store.set(str(place.rank), "here")
                store.wait([str(rank) for rank in range(size)], PATIENCE)
                backend = "nccl" if device == "cuda" else "gloo"
                dist.init_process_group(backend, store=store, rank=place.rank, world_size=size, timeout=WORK)
        except Exception:  # whatever the network makes of it, each can do without the others
            cls.close()
            return None
        return cls(place.rank, size)

    def first(self, size: int) -> Group:
        """The first of these processes alone."""
        return Group(self.rank, min(size, self.size))

    @staticmethod
    def close() -> None:
        """Leave; the others notice."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def sum_(self, value: Tensor) -> Tensor:
        """Σ over the processes, in place."""
        other, bit = torch.empty_like(value), 1
        while bit < self.size:
            self._swap(value, other, self.rank ^ bit)
            value += other
            bit *= 2
        return value

    def spread_(self, tensors: Iterable[Tensor]) -> None:
        """Give everyone what process 0 has, in place."""
        for tensor in tensors:
            plain = tensor.detach().to(torch.float64 if tensor.dtype == torch.bool else tensor.dtype)
            plain = plain.contiguous().clone()
            bit = 1
            while bit < self.size:
                partner = self.rank ^ bit
                if self.rank < bit:
                    self._exchange([dist.P2POp(dist.isend, plain, partner)])
                elif self.rank < 2 * bit:
                    self._exchange([dist.P2POp(dist.irecv, plain, partner)])
                bit *= 2
            with torch.no_grad():
                tensor.copy_(plain)

    def told(self, word: int, device: str) -> int:
        """What process 0 says."""
        said = torch.tensor(word, device=device)
        self.spread_([said])
        return int(said)

    def _swap(self, mine: Tensor, theirs: Tensor, partner: int) -> None:
        self._exchange([dist.P2POp(dist.isend, mine, partner), dist.P2POp(dist.irecv, theirs, partner)])

    def _exchange(self, operations: list[dist.P2POp]) -> None:
        try:
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        except RuntimeError as error:
            raise GroupBroken(str(error).strip().splitlines()[0]) from error


class TreeSum:
    """Σ of 2^k vectors that come one after another, by the tree ((0 + 1) + (2 + 3)) + …, in k + 1 buffers."""

    def __init__(self) -> None:
        self._sums: list[tuple[int, Tensor]] = []

    def add(self, value: Tensor) -> None:
        """The next one; it is kept."""
        level = 0
        while self._sums and self._sums[-1][0] == level:
            value = self._sums.pop()[1].add_(value)
            level += 1
        self._sums.append((level, value))

    def total(self) -> Tensor:
        """Once a power of two have come."""
        if len(self._sums) != 1:
            raise ValueError(f"a tree has 2^k leaves: {len(self._sums)} sums are left over.")
        return self._sums[0][1]
