"""Moments of rows that come in any order, batch or shard, with one result, bit for bit.

Row i belongs to block i // block_size. A block is reduced when its last row has come, from its rows in order
of their index, by the two-pass formula in float64; blocks are merged in a binary tree that their indices fix:
node (level, k) is the merge of (level − 1, 2k) and (level − 1, 2k + 1) (Chan, Golub, LeVeque 1979), or the
only one of the two that there is. So the result depends on the rows and their indices and on nothing else.

Memory: rows of open blocks, and about log₂ of the number of blocks triangles of (d, d) scatters: 50 000 rows
of 2048 dimensions in order need less than 200 MB. A stream in order, or in one consecutive shard, has one
open block or two; a shuffled one keeps open what it scatters over, and then a triangle for each block whose
sibling is still open.

Shapes: n rows, d feature dimensions.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.metrics.moments import Moments, merge_in_place

BLOCK_SIZE = 1024
"""Rows a block: enough for a fast product, few enough to wait for."""

Node = tuple[int, int]


@dataclass
class OpenBlock:
    """Rows that have come of one block; they keep their own dtype, float32 holds half the memory."""

    rows: np.ndarray
    filled: np.ndarray

    def put(self, places: np.ndarray, rows: np.ndarray) -> None:
        if np.promote_types(self.rows.dtype, rows.dtype) != self.rows.dtype:
            self.rows = self.rows.astype(np.float64)
        self.rows[places] = rows
        self.filled[places] = True

    def moments(self) -> Moments:
        return Moments.of(self.rows if self.filled.all() else self.rows[self.filled])


@dataclass(frozen=True)
class Packed:
    """Moments at rest: a symmetric scatter is kept as its lower triangle, row by row, without loss."""

    n: int
    mean: np.ndarray
    triangle: np.ndarray
    centred: np.ndarray | None

    @classmethod
    def of(cls, moments: Moments) -> Packed | Moments:
        """The same in half the memory; as it is where it is not symmetric to the last bit."""
        scatter = moments.scatter
        if not np.array_equal(scatter, scatter.T):
            return moments
        rows = [scatter[row, : row + 1] for row in range(len(scatter))]
        return cls(moments.n, moments.mean, np.concatenate(rows), moments.centred)

    def opened(self) -> Moments:
        """The moments."""
        d = len(self.mean)
        scatter, start = np.empty((d, d)), 0
        for row in range(d):
            values = self.triangle[start : start + row + 1]
            scatter[row, : row + 1] = values
            scatter[: row + 1, row] = values
            start += row + 1
        return Moments(self.n, self.mean, scatter, self.centred)


def _opened(node: Packed | Moments) -> Moments:
    return node.opened() if isinstance(node, Packed) else node


def _own(node: Packed | Moments) -> Moments:
    """The moments in memory that may be overwritten."""
    return node.opened() if isinstance(node, Packed) else copy.deepcopy(node)


class IndexedMoments:
    """Accumulates rows by sample index; `moments()` when all have come, `merge` for those of other shards."""

    def __init__(self, dims: int, block_size: int = BLOCK_SIZE) -> None:
        if block_size < 1 or dims < 1:
            raise ValueError(f"blocks hold at least one row of one dimension, not {block_size} of {dims}.")
        self.dims, self.block_size = dims, block_size
        self._nodes: dict[Node, Packed | Moments] = {}
        self._open: dict[int, OpenBlock] = {}

    @classmethod
    def of(cls, batches: Iterable[Any], block_size: int = BLOCK_SIZE, start: int = 0) -> IndexedMoments:
        """Of batches (n, d) that come in order, from index `start`; arrays or tensors on the CPU."""
        found: IndexedMoments | None = None
        for batch in batches:
            rows = np.asarray(batch)
            if found is None:
                found = cls(_rows(rows).shape[1], block_size)
            found.add(range(start, start + len(rows)), rows)
            start += len(rows)
        if found is None:
            raise ValueError("there are no batches to take moments of: give at least one.")
        return found

    def add(self, indices: Sequence[int] | np.ndarray, features: Any) -> None:
        """Rows (n, d) of the samples with these indices, each given once in the whole."""
        rows, places = _rows(np.asarray(features)), np.asarray(indices, np.int64)
        if rows.shape != (len(places), self.dims):
            raise ValueError(f"features must be ({len(places)}, {self.dims}), not {rows.shape}.")
        self._check(places, rows)
        blocks = places // self.block_size
        for block in np.unique(blocks):
            mine = blocks == block
            self._take(int(block), places[mine] % self.block_size, rows[mine])

    def _check(self, places: np.ndarray, rows: np.ndarray) -> None:
        """Before anything is kept, so that a refused batch leaves no trace."""
        bad = ~np.isfinite(rows).all(1)
        if bad.any():
            raise ValueError(
                f"the features of sample {places[bad][0]} hold NaN or infinity: check that image and the "
                f"feature network."
            )
        if places.size and places.min() < 0:
            raise ValueError(f"sample indices start at 0, not {places.min()}.")
        known, times = np.unique(places, return_counts=True)
        again = known[times > 1] if (times > 1).any() else known[[self._has(int(i)) for i in known]]
        if again.size:
            raise ValueError(f"sample {again[0]} was given twice: give every index once.")

    def _has(self, index: int) -> bool:
        block, place = divmod(index, self.block_size)
        waiting = self._open.get(block)
        return bool(waiting.filled[place]) if waiting else self._reduced(block)

    def _reduced(self, block: int) -> bool:
        top = max((level for level, _ in self._nodes), default=-1)
        return any((level, block >> level) in self._nodes for level in range(top + 1))

    def _take(self, block: int, places: np.ndarray, rows: np.ndarray) -> None:
        waiting = self._open.get(block)
        if waiting is None:
            shape = (self.block_size, self.dims)
            waiting = OpenBlock(np.empty(shape, rows.dtype), np.zeros(self.block_size, bool))
            self._open[block] = waiting
        waiting.put(places, rows)
        if waiting.filled.all():
            del waiting
            self._place((0, block), self._open.pop(block).moments())

    def _place(self, node: Node, moments: Packed | Moments) -> None:
        """Keep a node whose blocks are all there; two that make a whole one become it at once.

        What is packed may be shared, since it is never changed; other moments are this object's own.
        """
        level, k = node
        if moments.n + sum(node.n for node in self._nodes.values()) > self.dims:
            # Rows are of use where all of them are no more than d, and now they never will be.
            moments = replace(moments, centred=None)
            self._nodes = {at: replace(node, centred=None) for at, node in self._nodes.items()}
        while (level, k ^ 1) in self._nodes:
            sibling = _own(self._nodes.pop((level, k ^ 1)))
            moments = _opened(moments)
            moments = merge_in_place(moments, sibling) if k % 2 == 0 else merge_in_place(sibling, moments)
            del sibling
            level, k = level + 1, k // 2
        self._nodes[level, k] = moments if isinstance(moments, Packed) else Packed.of(moments)

    @property
    def indices(self) -> np.ndarray:
        """All sample indices that have come, ascending."""
        b, parts = self.block_size, []
        for level, k in self._nodes:
            parts.append(np.arange((k << level) * b, ((k + 1) << level) * b))
        for block, waiting in self._open.items():
            parts.append(block * b + np.flatnonzero(waiting.filled))
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    @property
    def rows_waiting(self) -> int:
        """Rows for which room is held until their block is full."""
        return len(self._open) * self.block_size

    def index_hash(self) -> str:
        """SHA-256 of the sorted indices: the same for the same set of samples."""
        return hashlib.sha256(self.indices.astype("<i8").tobytes()).hexdigest()

    def merge(self, other: IndexedMoments) -> IndexedMoments:
        """What both have, in a third; a sample that both have is refused."""
        whole = IndexedMoments(self.dims, self.block_size)
        whole.absorb(self)
        whole.absorb(other)
        return whole

    def absorb(self, other: IndexedMoments) -> None:
        """Take in what another has, which stays as it is; a sample that both have is refused."""
        mine, theirs = (self.dims, self.block_size), (other.dims, other.block_size)
        if mine != theirs:
            raise ValueError(
                f"parts have (dimensions, block size) {mine} and {theirs}: compute them with the same."
            )
        both = np.intersect1d(self.indices, other.indices, assume_unique=True)
        if both.size:
            raise ValueError(f"sample {both[0]} is in both parts ({both.size} are): merge disjoint parts.")
        for block, waiting in other._open.items():
            self._take(block, np.flatnonzero(waiting.filled), waiting.rows[waiting.filled])
        for node, moments in other._nodes.items():
            self._place(node, moments if isinstance(moments, Packed) else _own(moments))

    def moments(self, n: int | None = None) -> Moments:
        """Moments of samples 0 … n − 1, all of which must be there (n: as many as reach to the last one)."""
        indices = self.indices
        wanted = n if n is not None else (int(indices[-1]) + 1 if indices.size else 0)
        if not indices.size or len(indices) != wanted or indices[-1] != wanted - 1:
            gaps = np.setdiff1d(np.arange(wanted), indices)
            what = (
                f"{gaps.size} are missing, the first is {gaps[0]}"
                if gaps.size
                else f"there are {len(indices)}"
            )
            raise ValueError(f"moments of samples 0 to {wanted - 1} need all of them: {what}.")
        return self.of_present()

    def of_present(self) -> Moments:
        """Moments of what is there, gaps or not."""
        nodes = dict(self._nodes)
        nodes |= {(0, block): Packed.of(waiting.moments()) for block, waiting in self._open.items()}
        if not nodes:
            raise ValueError("there are no samples to take moments of.")
        for level in range(max(block for _, block in _leaves(nodes)).bit_length() + 1):
            for k in sorted(k for at, k in nodes if at == level):
                _raise(nodes, (level, k))
        (whole,) = nodes.values()
        return _own(whole)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays of a file."""
        nodes, blocks = sorted(self._nodes), sorted(self._open)
        found = [_opened(self._nodes[node]) for node in nodes]
        waiting = [self._open[block] for block in blocks]
        rows = [w.rows[w.filled] for w in waiting]
        d = self.dims
        return {
            "block_size": np.asarray(self.block_size, np.int64),
            "nodes": np.asarray(nodes, np.int64).reshape(-1, 2),
            "count": np.asarray([m.n for m in found], np.int64),
            "mean": np.stack([m.mean for m in found]) if found else np.zeros((0, d)),
            "scatter": np.stack([m.scatter for m in found]) if found else np.zeros((0, d, d)),
            "row_index": np.concatenate(
                [np.zeros(0, np.int64)]
                + [
                    b * self.block_size + np.flatnonzero(w.filled)
                    for b, w in zip(blocks, waiting, strict=True)
                ]
            ),
            "rows": np.concatenate(rows) if rows else np.zeros((0, d)),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> IndexedMoments:
        """What `to_arrays` made."""
        found = cls(arrays["mean"].shape[1], int(arrays["block_size"]))
        parts = zip(arrays["nodes"], arrays["count"], arrays["mean"], arrays["scatter"], strict=True)
        for (level, k), n, mean, scatter in parts:
            if n != found.block_size << int(level):
                raise ValueError(f"node {(int(level), int(k))} has {n} rows: compute the moments again.")
            found._nodes[int(level), int(k)] = Moments(int(n), mean, scatter)
        found.add(arrays["row_index"], arrays["rows"])
        return found


def _rows(features: np.ndarray) -> np.ndarray:
    """(n, d) as float32 or float64; half precision and integers become float64, exactly."""
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"features must be (n, d) with d ≥ 1, not {features.shape}: flatten each sample.")
    return features if features.dtype in (np.float32, np.float64) else features.astype(np.float64)


def _leaves(nodes: Iterable[Node]) -> Iterator[Node]:
    """The last block under each node."""
    for level, k in nodes:
        yield 0, ((k + 1) << level) - 1


def _raise(nodes: dict[Node, Packed | Moments], node: Node) -> None:
    """Move a node to its parent, together with its sibling if there is one."""
    level, k = node
    if node not in nodes:
        return
    left, right = nodes.pop((level, k & ~1), None), nodes.pop((level, k | 1), None)
    parent = left or right
    assert parent is not None
    if left and right:
        parent = Packed.of(merge_in_place(_own(left), _opened(right)))
    nodes[level + 1, k // 2] = parent
