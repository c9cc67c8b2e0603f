"""The data-copying test C_T: are generated images nearer to the training set than unseen real ones are?

The space is cut into cells by k-means on the training set. In cell π let L(D) be the distances of D's rows to
the nearest training row of the cell, and U the number of pairs in which the generated row is farther away
than the held-out one, ties counted half. With σ² the variance of U if both were alike,

    Z_π = (U − nm/2)/σ,    C_T = Σ_π w_π Z_π / Σ_π w_π,    w_π the share of held-out rows in π

(Meehan, Chaudhuri and Dasgupta 2020, 2004.05675). C_T far below 0 says data-copying, far above 0 that samples
are farther from the training set than real images: underfitting. Ties are corrected for in σ.

C_T grows with √n. `farther`, the probability that a generated row is farther away than a held-out one, does
not, and is the figure to compare between sets of different size.

Shapes: n generated, t training and h held-out rows, d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.estimate import Estimate, normal_interval, wilson
from bench.metrics.memorisation import three_splits
from bench.metrics.neighbours import nearest
from bench.metrics.rows import BLOCK, Rows, double

LEAST = 20
"""Rows of a cell below which its ranks say nothing: such cells are left out, and counted."""


@dataclass(frozen=True)
class DataCopying(Estimate):
    """C_T with its interval; `p_copying` is the probability of a C_T this low if nothing were copied.

    `farther` is the mean over cells, so weighted, of P(generated farther than held-out): ½ where alike.
    """

    p_copying: float
    farther: Estimate
    cells: int
    cells_left_out: int


@dataclass(frozen=True)
class CellRanks:
    """One cell: its weight, Z, P(generated farther), and the standard errors of both."""

    weight: int
    z: float
    z_error: float
    farther: float
    farther_error: float


def data_copying(
    generated: Any, training: Any, held_out: Any, *, cells: int = 10, seed: int = 0, block: int = BLOCK
) -> DataCopying:
    """C_T over `cells` cells; the cells are drawn from `seed`."""
    x, t, h = three_splits(generated, training, held_out)
    if not 1 <= cells <= len(t):
        raise ValueError(f"{len(t)} training rows cannot make {cells} cells: ask for 1 to {len(t)}.")
    ranks = list(_ranked_cells(x, t, h, cells, seed, block))
    if not ranks:
        raise ValueError(
            f"no cell holds {LEAST} generated and {LEAST} held-out rows: give more rows, or fewer "
            f"cells than {cells}."
        )
    weights = np.array([cell.weight for cell in ranks]) / sum(cell.weight for cell in ranks)
    value = float(weights @ [cell.z for cell in ranks])
    error = math.sqrt(float((weights**2) @ [cell.z_error**2 for cell in ranks]))
    low, high = normal_interval(value, error)
    tail = f"[k-means cells={len(ranks)} of {cells}, seed {seed}, generated n={len(x)}, held out n={len(h)}, "
    tail += f"training n={len(t)}]"
    return DataCopying(
        value=value,
        standard_error=error,
        low=low,
        high=high,
        n=len(x),
        protocol=f"C_T {tail}",
        p_copying=0.5 * math.erfc(-value / math.sqrt(2 * float(weights @ weights))),
        farther=_farther(ranks, weights, len(x), f"P(farther) {tail}"),
        cells=len(ranks),
        cells_left_out=cells - len(ranks),
    )


def _farther(ranks: list[CellRanks], weights: NDArray[np.float64], n: int, protocol: str) -> Estimate:
    value = float(weights @ [cell.farther for cell in ranks])
    error = math.sqrt(float((weights**2) @ [cell.farther_error**2 for cell in ranks]))
    low, high = normal_interval(value, error)
    # Where one set lies wholly beyond the other, placements have no spread; Wilson's interval has.
    least, most = wilson(value, min(n, sum(cell.weight for cell in ranks)))
    return Estimate(value, error, max(0.0, min(low, least)), min(1.0, max(high, most)), n, protocol)


def _ranked_cells(x: Rows, t: Rows, h: Rows, cells: int, seed: int, block: int) -> Iterator[CellRanks]:
    from sklearn.cluster import KMeans

    if cells == 1:
        of_x, of_t, of_h = (np.zeros(len(rows), np.int64) for rows in (x, t, h))
    else:
        means = KMeans(cells, n_init=1, random_state=seed).fit(double(t))
        of_x, of_t, of_h = means.predict(double(x)), means.labels_, means.predict(double(h))
    for cell in range(cells):
        mine, known, unseen = x[of_x == cell], t[of_t == cell], h[of_h == cell]
        if min(len(mine), len(unseen)) >= LEAST and len(known):
            distances = (nearest(rows, known, block=block).distances[:, 0] for rows in (mine, unseen))
            yield rank_cell(*distances)


def rank_cell(generated: NDArray[np.float64], held_out: NDArray[np.float64]) -> CellRanks:
    """Z and P(generated farther) of two sets of distances.

    Errors from the placements of every distance among the other set's (DeLong et al. 1988).
    """
    n, h = len(generated), len(held_out)
    mine, theirs = _share_below(generated, held_out), 1.0 - _share_below(held_out, generated)
    farther = float(mine.mean())
    farther_error = math.sqrt(float(mine.var(ddof=1)) / n + float(theirs.var(ddof=1)) / h)
    counts = np.unique(np.concatenate([generated, held_out]), return_counts=True)[1].astype(np.float64)
    ties = float((counts**3 - counts).sum()) / ((n + h) * (n + h - 1))
    sigma = math.sqrt(n * h / 12.0 * (n + h + 1 - ties))
    # With one and the same distance throughout nothing is farther and nothing nearer.
    per_share = n * h / sigma if sigma > 0 else 0.0
    return CellRanks(h, (farther - 0.5) * per_share, farther_error * per_share, farther, farther_error)


def _share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every value the share of others below it, equal ones counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(below / (2.0 * len(others)))
