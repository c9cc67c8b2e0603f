"""Balls round the rows of one set, to the k-th nearest other row, and which rows of another set they hold.

This is the estimate of a manifold behind improved precision and recall, density and coverage. It is walked
once, in blocks; the same walk answers for either set less a tenth of its rows, which gives the errors by the
delete-a-group jackknife (Shao and Wu 1989, for statistics that are not smooth), groups of rows i mod G:

    Var = (G − 1)/G · Σ_g (θ₋g − θ̄)²

A ball's radius is recomputed without the group.

Every tile of a distance matrix belongs to one group of each set, and a tile of one set's own distances serves
both of its sides.

Shapes: q query rows, n key rows (centres of balls), G groups; replicate 0 is the whole set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.metrics.neighbours import SPARE, Indices, Space, direct_squares, keep_nearest, settle
from bench.metrics.rows import BLOCK, Doubles, Rows, blocks

GROUPS = 10


@dataclass(frozen=True)
class Membership:
    """Who is in whose ball.

    inside: (1 + G, q), balls that hold a query; from 1 on without the keys of a group.
    reached_by: (G, n), whether a ball holds a query of this group of queries.
    """

    k: int
    inside: NDArray[np.int64]
    reached_by: NDArray[np.bool_]


class Tally:
    """Counts, tile by tile, which balls of one set hold rows of the other."""

    def __init__(self, radii: Doubles, q: int) -> None:
        self.radii = radii
        self.inside = np.zeros((1 + GROUPS, q), np.int64)
        self.reached_by = np.zeros((GROUPS, radii.shape[1]), bool)

    def add(self, group: int, queries: slice, keys: slice, squares: Doubles) -> None:
        """A tile of squared distances of queries of one group."""
        for replicate in range(1 + GROUPS):
            held = squares <= self.radii[replicate, keys]
            self.inside[replicate, queries] += np.count_nonzero(held, axis=1)
            if replicate == 0:
                self.reached_by[group, keys] |= held.any(0)

    def membership(self, k: int) -> Membership:
        """What was counted."""
        return Membership(k, self.inside, self.reached_by)


def membership(queries_qd: Rows, keys_nd: Rows, k: int, *, block: int = BLOCK) -> Membership:
    """Of every query the balls that hold it, a row on the surface included."""
    check_rows(len(keys_nd), k)
    tally = Tally(squared_radii(keys_nd, k, block=block), len(queries_qd))
    for i, j, squares in _cross_tiles(queries_qd, keys_nd, None, tally.radii[0], block):
        tally.add(i.start % GROUPS, i, j, squares)
    return tally.membership(k)


def mutual_membership(x_nd: Rows, y_md: Rows, k: int, *, block: int = BLOCK) -> tuple[Membership, Membership]:
    """Rows of x in balls of y, and rows of y in balls of x, from one walk over their distances."""
    check_rows(min(len(x_nd), len(y_md)), k)
    of_y = Tally(squared_radii(y_md, k, block=block), len(x_nd))
    of_x = Tally(squared_radii(x_nd, k, block=block), len(y_md))
    for i, j, squares in _cross_tiles(x_nd, y_md, of_x.radii[0], of_y.radii[0], block):
        of_y.add(i.start % GROUPS, i, j, squares)
        of_x.add(j.start % GROUPS, j, i, np.ascontiguousarray(squares.T))
    return of_y.membership(k), of_x.membership(k)


def squared_radii(rows_nd: Rows, k: int, *, block: int = BLOCK) -> Doubles:
    """(1 + G, n) squared distances to the k-th nearest other row; −1 for rows of the group left out.

    The whole set's are exact; those without a group are by products.
    """
    space, n = Space.of(rows_nd, rows_nd), len(rows_nd)
    squares, rows = _nearest_of_each_group(space, k + SPARE, block)
    best = np.argpartition(squares, k + SPARE - 1, axis=1)[:, : k + SPARE]
    chosen = np.take_along_axis(squares, best, 1), np.take_along_axis(rows, best, 1)
    found = settle(rows_nd, rows_nd, *chosen, k, space.margin, same=True)
    radii = np.empty((1 + GROUPS, n))
    # The square by the same sum as that of a query, not the square of a rounded root.
    for row, last in enumerate(found.indices[:, -1]):
        radii[0, row] = direct_squares(rows_nd[row], rows_nd[last : last + 1])[0]
    groups = np.arange(n) % GROUPS
    for g in range(GROUPS):
        without = np.where(groups[rows] == g, np.inf, squares)
        touched = (groups[found.indices] == g).any(1)
        radii[1 + g] = np.where(touched, np.partition(without, k - 1, axis=1)[:, k - 1], radii[0])
        radii[1 + g, groups == g] = -1.0
    return radii


def _tiles(n: int, block: int) -> list[slice]:
    """Slices of rows i ≡ g modulo G, at most `block` rows each; together they are every row once.

    Groups by remainder: rows sorted by class spread over all of them.
    """
    return [
        slice(g + GROUPS * part.start, min(n, g + GROUPS * (part.stop - 1) + 1), GROUPS)
        for g in range(GROUPS)
        for part in blocks(len(range(g, n, GROUPS)), block)
    ]


def _nearest_of_each_group(space: Space, count: int, block: int) -> tuple[Doubles, Indices]:
    """Approximate squared distances and rows (n, G·count) of the nearest others in every group."""
    n = len(space.keys)
    found, rows = np.full((GROUPS, n, count), np.inf), np.full((GROUPS, n, count), -1, np.int64)
    tiles = _tiles(n, block)
    for place, i in enumerate(tiles):
        for j in tiles[place:]:
            squares, a, b = space.squares(i, j), i.start % GROUPS, j.start % GROUPS
            if i == j:
                np.fill_diagonal(squares, np.inf)
            else:
                found[a, j], rows[a, j] = keep_nearest(found[a, j], rows[a, j], squares.T, np.arange(n)[i])
            found[b, i], rows[b, i] = keep_nearest(found[b, i], rows[b, i], squares, np.arange(n)[j])
    return found.transpose(1, 0, 2).reshape(n, -1), rows.transpose(1, 0, 2).reshape(n, -1)


def _cross_tiles(
    x_nd: Rows, y_md: Rows, radii_x: Doubles | None, radii_y: Doubles, block: int
) -> Iterator[tuple[slice, slice, Doubles]]:
    """Tiles of squared distances; by direct difference where rounding could move a row across a surface."""
    space = Space.of(x_nd, y_md)
    for i in _tiles(len(x_nd), block):
        for j in _tiles(len(y_md), block):
            squares = space.squares(i, j)
            unsure = np.abs(squares - radii_y[j]) <= space.margin
            if radii_x is not None:
                unsure |= np.abs(squares - radii_x[i, None]) <= space.margin
            for row, column in np.argwhere(unsure):
                squares[row, column] = direct_squares(x_nd[i][row], y_md[j][column : column + 1])[0]
            yield i, j, squares


def check_rows(n: int, k: int) -> None:
    """ValueError unless every ball has k other rows, and still has when a group is left out."""
    if k < 1:
        raise ValueError(f"a ball reaches to the k-th nearest row with k ≥ 1, not {k}.")
    if n - -(-n // GROUPS) < k + 1:
        raise ValueError(
            f"{n} rows are too few for balls to their {k} nearest rows and an error: give at least "
            f"{k + 1 - (-(k + 1) // 9)}, or a smaller k."
        )
