"""What a guess without a model costs: the anchors every likelihood is read against.

Shapes: N images, D dimensions, K levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.data import ImageData


@dataclass(frozen=True)
class Anchor:
    """−ln P of each test image (N,) in nats, exact."""

    name: str
    nats: np.ndarray
    protocol: str


def anchors(data: ImageData) -> list[Anchor]:
    """The uniform guess and the per-pixel histogram of the training images."""
    return [uniform(data), per_pixel_histogram(data)]


def uniform(data: ImageData) -> Anchor:
    """Every level equally likely: ln K a dimension."""
    nats = np.full(len(data.test), data.dims * math.log(data.levels))
    return Anchor("uniform", nats, f"every one of {data.levels} levels equally likely")


def per_pixel_histogram(data: ImageData, pseudo: float = 1.0) -> Anchor:
    """Independent pixels, each with the histogram of its training values plus `pseudo` counts a level."""
    train = data.train.reshape(len(data.train), -1)
    test = data.test.reshape(len(data.test), -1)
    counts = np.stack([(train == level).sum(0) for level in range(data.levels)]) + pseudo
    log_p = np.log(counts) - np.log(counts.sum(0))
    nats = -log_p[test, np.arange(test.shape[1])].sum(1)
    return Anchor("per-pixel histogram", nats, f"independent pixels, training counts + {pseudo:g} a level")
