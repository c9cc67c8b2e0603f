"""Does a generator repeat its training images? Only a held-out split tells that from generalising.

A good model's samples lie near training images because real images do. So every figure here stands beside
the same figure of images that were not trained on, and without them there is none: scores that look at the
training set alone cannot tell copying from quality (Jiralerspong et al. 2023, 2302.04440). Distances are in
a feature space, so look at the pairs too (`pair_sheet`); an exact copy is at distance exactly 0.

Shapes: n generated, t training and h held-out rows, d dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.metrics.estimate import Estimate, share_estimate
from bench.metrics.neighbours import Indices, Neighbours, nearest, nearest_others
from bench.metrics.rows import BLOCK, Doubles, Rows, check_widths, rows_of


@dataclass(frozen=True)
class Authenticity(Estimate):
    """The generated share, the held-out one, and generated less held-out: negative suggests copying."""

    held_out: Estimate
    difference: Estimate


@dataclass(frozen=True)
class NearestPairs:
    """The generated rows that lie nearest to the training set, nearest first, each with its nearest row.

    generated, training, distances: (count,) rows and exact distances. copies: generated rows at distance 0.
    held_out_copies: held-out rows at distance 0, which are duplicates in the data and not the model's doing.
    held_out_quantile: of each pair's distance, the share of held-out rows that are nearer still.
    """

    generated: Indices
    training: Indices
    distances: Doubles
    held_out_quantile: Doubles
    copies: int
    held_out_copies: int
    n: int
    protocol: str


def authenticity(generated: Any, training: Any, held_out: Any, *, block: int = BLOCK) -> Authenticity:
    """Share of rows farther from their nearest training row than that row is from its nearest other one.

    A row x with nearest training row t is authentic if |x − t| > min_{t′ ≠ t} |t − t′| (Alaa et al. 2022,
    2102.08921). The training set is what may have been copied, so it is taken as it is; intervals are those
    of shares of independent rows (Wilson), and of their difference (Newcombe 1998).
    """
    x, t, h = three_splits(generated, training, held_out)
    spacing = nearest_others(t, block=block).distances[:, 0]
    shares = [
        _authentic_share(rows, t, spacing, name, block) for name, rows in (("generated", x), ("held-out", h))
    ]
    ours, theirs = shares
    return Authenticity(
        ours.value,
        ours.standard_error,
        ours.low,
        ours.high,
        ours.n,
        ours.protocol,
        theirs,
        _less(ours, theirs),
    )


def nearest_pairs(
    generated: Any, training: Any, held_out: Any, count: int = 16, *, block: int = BLOCK
) -> NearestPairs:
    """The `count` generated rows nearest to the training set, with the training rows they may repeat."""
    x, t, h = three_splits(generated, training, held_out)
    if not 1 <= count <= len(x):
        raise ValueError(f"{count} pairs cannot be had of {len(x)} generated rows: ask for 1 to {len(x)}.")
    found, usual = nearest(x, t, block=block), np.sort(nearest(h, t, block=block).distances[:, 0])
    distances = found.distances[:, 0]
    order = np.argsort(distances, kind="stable")[:count]
    return NearestPairs(
        generated=order,
        training=found.indices[order, 0],
        distances=distances[order],
        held_out_quantile=np.searchsorted(usual, distances[order], side="left") / len(usual),
        copies=int((distances == 0).sum()),
        held_out_copies=int((usual == 0).sum()),
        n=len(x),
        protocol=f"nearest of n={len(x)} generated to {len(t)} training rows, beside {len(h)} held-out rows",
    )


def three_splits(generated: Any, training: Any, held_out: Any) -> tuple[Rows, Rows, Rows]:
    """All three as checked rows of one width, or a sentence; a held-out split must be given."""
    if held_out is None:
        raise ValueError(
            "memorisation cannot be told from generalising without images that were not trained on: "
            "pass the features of a held-out split."
        )
    x, t, h = rows_of(generated, "generated"), rows_of(training, "training", 3), rows_of(held_out, "held-out")
    check_widths(x, t, ("generated", "training"))
    check_widths(h, t, ("held-out", "training"))
    return x, t, h


def _authentic_share(rows: Rows, training: Rows, spacing: Doubles, name: str, block: int) -> Estimate:
    found: Neighbours = nearest(rows, training, block=block)
    authentic = found.distances[:, 0] > spacing[found.indices[:, 0]]
    protocol = f"authenticity of {name} rows [n={len(rows)}, training n={len(training)}]"
    return share_estimate(int(authentic.sum()), len(rows), protocol)


def _less(a: Estimate, b: Estimate) -> Estimate:
    """Difference of two independent shares with Newcombe's interval."""
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    error = math.hypot(a.standard_error, b.standard_error)
    return Estimate(value, error, low, high, a.n, f"{a.protocol}, less that of held-out rows n={b.n}")
