"""Mean and covariance of features, from one shard after another, in float64.

Rows are reduced in fixed blocks keyed by the images' global index. Within a block part the rows are reduced
together, whatever batches they came in; parts are merged in shard order. The result is therefore the same,
bit for bit, for any batch size and any division of shards between workers, and no N×d array is kept.

Shapes: n rows, d feature dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

ROWS = 256
"""Rows of a scatter that are worked on at a time."""


@dataclass(frozen=True)
class Moments:
    """Count n, mean (d,) and scatter Σ(x − mean)(x − mean)ᵀ (d, d), float64.

    centred  the centred rows (n, d) where n ≤ d and they are at hand: what the Fréchet distance is then
             exact and fast from; not part of equality or of any file
    """

    n: int
    mean: np.ndarray
    scatter: np.ndarray
    centred: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"moments are of at least one sample, not of {self.n}.")
        d = len(self.mean)
        if self.mean.shape != (d,) or self.scatter.shape != (d, d):
            raise ValueError(
                f"moments need mean (d,) and scatter (d, d), not {self.mean.shape} and {self.scatter.shape}."
            )
        if self.centred is not None and self.centred.shape != (self.n, d):
            raise ValueError(f"centred rows are {(self.n, d)}, not {self.centred.shape}.")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scatter).all()):
            raise ValueError("features hold NaN or infinity: check the images and the feature network.")

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Moments of the rows of (n, d), by the two-pass formula."""
        centred = np.array(features, np.float64)
        if centred.ndim != 2 or not len(centred):
            raise ValueError(f"features must be (n, d) with n ≥ 1, not {centred.shape}.")
        mean = centred.mean(0)
        centred -= mean
        return cls(len(centred), mean, centred.T @ centred, centred if len(centred) <= len(mean) else None)

    @property
    def dims(self) -> int:
        """Feature dimensions d."""
        return len(self.mean)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows together (Chan, Golub, LeVeque 1979)."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"moments of {len(self.mean)} and of {len(other.mean)} dimensions do not belong together."
            )
        return merge_in_place(Moments(self.n, self.mean, self.scatter.copy(), self.centred), other)

    def covariance(self) -> np.ndarray:
        """Unbiased covariance: scatter / (n − 1)."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, and there is {self.n}.")
        return self.scatter / (self.n - 1)


def merge_in_place(a: Moments, b: Moments) -> Moments:
    """`a.merge(b)`, bit for bit, in the memory of a's scatter, which no longer is a's."""
    n, shift = a.n + b.n, b.mean - a.mean
    centred = None
    if n <= a.dims and a.centred is not None and b.centred is not None:
        centred = np.concatenate((a.centred - shift * (b.n / n), b.centred + shift * (a.n / n)))
    for start in range(0, a.dims, ROWS):
        rows = slice(start, start + ROWS)
        between = np.outer(shift[rows], shift)
        between *= a.n * b.n / n
        between += a.scatter[rows]
        between += b.scatter[rows]
        a.scatter[rows] = between
    return Moments(n, a.mean + shift * (b.n / n), a.scatter, centred)


def merged(parts: Iterable[Moments]) -> Moments:
    """All parts together, merged from left to right."""
    first, *rest = parts
    for part in rest:
        first = first.merge(part)
    return first


class BlockMoments:
    """Moments of consecutive blocks of images, `block_size` global indices each.

    A block that straddles two shards has a part in each; `merged` joins the parts in shard order.
    """

    def __init__(self, block_size: int, dims: int) -> None:
        if block_size < 1:
            raise ValueError(f"a block holds at least one image, not {block_size}.")
        self.block_size, self.dims = block_size, dims
        self._closed: dict[int, Moments] = {}
        self._open: list[np.ndarray] = []
        self._block: int | None = None
        self._next = 0

    def add(self, start: int, features: np.ndarray) -> None:
        """Take the rows of images start, start + 1, …; calls go upwards without a gap."""
        rows = np.array(features, np.float64)  # a copy: rows wait here while the caller reuses its buffer
        if rows.ndim != 2 or rows.shape[1] != self.dims:
            raise ValueError(f"features must be (n, {self.dims}), not {rows.shape}.")
        if self._block is not None and start != self._next:
            raise ValueError(f"images come in order: {self._next} is next, not {start}.")
        for offset, row in enumerate(rows):
            block = (start + offset) // self.block_size
            if block != self._block:
                self._close()
                self._block = block
            self._open.append(row)
        self._next = start + len(rows)

    @property
    def blocks(self) -> dict[int, Moments]:
        """Moments by block index, in order; no more rows can be added to the last one."""
        self._close()
        self._block = None
        return dict(sorted(self._closed.items()))

    def _close(self) -> None:
        if self._block is not None and self._open:
            if self._block in self._closed:
                raise ValueError(f"block {self._block} was read before its last image came.")
            self._closed[self._block] = Moments.of(np.stack(self._open))
        self._open = []

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays fit for a shard's file."""
        blocks = self.blocks
        found = list(blocks.values())
        return {
            "moments.block_size": np.asarray(self.block_size, np.int64),
            "moments.block": np.asarray(list(blocks), np.int64),
            "moments.n": np.asarray([m.n for m in found], np.int64),
            "moments.mean": np.stack([m.mean for m in found]) if found else np.zeros((0, self.dims)),
            "moments.scatter": (
                np.stack([m.scatter for m in found]) if found else np.zeros((0, self.dims, self.dims))
            ),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> BlockMoments:
        """What `to_arrays` made."""
        mean = arrays["moments.mean"]
        found = cls(int(arrays["moments.block_size"]), mean.shape[1])
        rows = zip(arrays["moments.block"], arrays["moments.n"], mean, arrays["moments.scatter"], strict=True)
        found._closed = {int(block): Moments(int(n), m, scatter) for block, n, m, scatter in rows}
        return found

    @classmethod
    def merged(cls, shards: Sequence[BlockMoments]) -> BlockMoments:
        """The blocks of several shards, given in shard order."""
        sizes = {(shard.block_size, shard.dims) for shard in shards}
        if len(sizes) != 1:
            raise ValueError(f"shards have different block sizes or dimensions: {sorted(sizes)}.")
        whole = cls(*sizes.pop())
        for shard in shards:
            for block, moments in shard.blocks.items():
                known = whole._closed.get(block)
                whole._closed[block] = moments if known is None else known.merge(moments)
        return whole
