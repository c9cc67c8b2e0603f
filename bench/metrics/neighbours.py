"""Nearest rows in feature space: found in blocks by products, settled by direct difference.

|q − x|² = |q|² + |x|² − 2 q·x is fast and loses digits where q is near x: in float32, as `torch.cdist` has
it, an exact copy can come out at a distance of 0.075. Here products are float64 of centred rows and only
choose candidates; the distances returned are √Σ(q − x)² by direct difference, so an exact copy is at
distance exactly 0. Where the rounding of the products leaves a choice open, all rows are tried directly.

Shapes: q query rows, n key rows, k neighbours, d dimensions. Memory O(block·n) at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.rows import BLOCK, Doubles, Rows, blocks, check_widths, double, rows_of

Indices = NDArray[np.int64]

SPARE = 4
"""Candidates beyond k that are settled directly; more are only needed where many rows are nearly equal."""


@dataclass(frozen=True)
class Neighbours:
    """Distances (q, k), ascending and exact, and the key rows (q, k) they belong to."""

    distances: Doubles
    indices: Indices


@dataclass(frozen=True)
class Space:
    """Queries and keys with their squared lengths from the keys' mean, and the products' rounding bound.

    Rows stay as they are; a block is moved to the mean, in float64, when it is used.
    """

    queries: Rows
    keys: Rows
    centre: Doubles
    query_squares: Doubles
    key_squares: Doubles
    margin: float

    @classmethod
    def of(cls, queries_qd: Rows, keys_nd: Rows) -> Space:
        """The margin bounds the error of any squared distance from `squares`."""
        centre = keys_nd.mean(0, dtype=np.float64)
        key_squares = _squared_lengths(keys_nd, centre)
        query_squares = key_squares if queries_qd is keys_nd else _squared_lengths(queries_qd, centre)
        longest = float(query_squares.max() + key_squares.max())
        margin = 4.0 * (len(centre) + 8) * np.finfo(np.float64).eps * longest
        return cls(queries_qd, keys_nd, centre, query_squares, key_squares, margin)

    def squares(self, queries: slice, keys: slice) -> Doubles:
        """Squared distances of a block of queries and one of keys, by products."""
        found = (self.queries[queries] - self.centre) @ (self.keys[keys] - self.centre).T
        found *= -2.0
        found += self.query_squares[queries][:, None]
        found += self.key_squares[keys][None, :]
        return np.maximum(found, 0.0, out=found)


def _squared_lengths(rows: Rows, centre: Doubles) -> Doubles:
    return np.concatenate([((rows[part] - centre) ** 2).sum(1) for part in blocks(len(rows))])


def nearest(queries: Any, keys: Any, k: int = 1, *, block: int = BLOCK) -> Neighbours:
    """The k nearest keys of every query, equal distances by row number."""
    q, x = rows_of(queries, "query", 1), rows_of(keys, "key", 1)
    check_widths(q, x, ("query", "key"))
    _check_k(k, len(x))
    space = Space.of(q, x)
    squares, indices = candidates(space, k + SPARE, block=block)
    return settle(q, x, squares, indices, k, space.margin)


def nearest_others(rows: Any, k: int = 1, *, block: int = BLOCK) -> Neighbours:
    """The k nearest other rows of every row of one set; a copy of it elsewhere in the set counts."""
    x = rows_of(rows, "feature")
    _check_k(k, len(x) - 1)
    space = Space.of(x, x)
    squares, indices = candidates(space, k + SPARE, same=True, block=block)
    return settle(x, x, squares, indices, k, space.margin, same=True)


def candidates(
    space: Space, count: int, *, same: bool = False, block: int = BLOCK
) -> tuple[Doubles, Indices]:
    """Approximate squared distances and rows (q, count) of the nearest keys, in no order.

    Where there are fewer than `count`, the rest is infinite with row −1. `same`: row i is no neighbour of
    query i.
    """
    q = len(space.queries)
    found, rows = np.full((q, count), np.inf), np.full((q, count), -1, np.int64)
    for i in blocks(q, block):
        for j in blocks(len(space.keys), block):
            squares = space.squares(i, j)
            if same and i == j:
                np.fill_diagonal(squares, np.inf)
            found[i], rows[i] = keep_nearest(found[i], rows[i], squares, np.arange(j.start, j.stop))
    return found, rows


def keep_nearest(found: Doubles, rows: Indices, squares: Doubles, keys: Indices) -> tuple[Doubles, Indices]:
    """The nearest of those found so far (q, count) and of a block of keys, given by their rows."""
    count = found.shape[1]
    both = np.concatenate([found, squares], axis=1)
    best = np.argpartition(both, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(both, best, 1)
    known = np.take_along_axis(rows, np.minimum(best, count - 1), 1)
    chosen = np.where(best < count, known, keys[np.maximum(best - count, 0)])
    return values, np.where(np.isinf(values), -1, chosen)


def settle(
    q_qd: Rows, x_nd: Rows, squares: Doubles, rows: Indices, k: int, margin: float, *, same: bool = False
) -> Neighbours:
    """The k nearest by direct difference, from more than k candidates; all keys where those may not do."""
    distances, indices = np.empty((len(q_qd), k)), np.empty((len(q_qd), k), np.int64)
    for query, row in enumerate(q_qd):
        kept = rows[query][rows[query] >= 0]
        exact = direct_squares(row, x_nd[kept])
        order = np.lexsort((kept, exact))[:k]
        # A key that was not kept is at least this far, less the rounding of the products.
        beyond = squares[query].max() - margin
        if not (exact[order[-1]] < beyond or exact[order[-1]] == 0.0):
            kept = np.arange(len(x_nd)) if not same else np.delete(np.arange(len(x_nd)), query)
            exact = np.concatenate([direct_squares(row, x_nd[kept[part]]) for part in blocks(len(kept))])
            order = np.lexsort((kept, exact))[:k]
        distances[query], indices[query] = np.sqrt(exact[order]), kept[order]
    return Neighbours(distances, indices)


def direct_squares(row_d: NDArray[np.floating[Any]], keys_nd: Rows) -> Doubles:
    """Σ(q − x)² in float64 without products: the same for (q, x) and (x, q), and 0 for copies."""
    difference = double(keys_nd) - row_d
    return np.asarray(np.einsum("nd,nd->n", difference, difference))


def _check_k(k: int, available: int) -> None:
    if not 1 <= k <= available:
        raise ValueError(f"{k} nearest rows cannot be had of {available}: choose k from 1 to {available}.")
