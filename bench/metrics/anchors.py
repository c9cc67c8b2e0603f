"""What a guess without a model costs: the anchors every likelihood is read against.

Shapes: N images, D dimensions, K levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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


def _some(images: np.ndarray) -> Iterator[np.ndarray]:
    """Rows (n, D) of some images at a time, so that a data set may be larger than memory."""
    for start in range(0, len(images), 1024):
        some = images[start : start + 1024]
        yield some.reshape(len(some), -1).astype(np.int64)


def uniform(data: ImageData) -> Anchor:
    """Every level equally likely: ln K a dimension."""
    nats = np.full(len(data.test), data.dims * math.log(data.levels))
    return Anchor("uniform", nats, f"every one of {data.levels} levels equally likely")


def per_pixel_histogram(data: ImageData, pseudo: float = 1.0) -> Anchor:
    """Independent pixels, each with the histogram of its training values plus `pseudo` counts a level."""
    pixels = np.arange(data.dims)
    counts = np.full((data.levels, data.dims), pseudo)
    for some in _some(data.train):
        seen = np.bincount((some * data.dims + pixels).ravel(), minlength=counts.size)
        counts += seen.reshape(counts.shape)
    log_p = np.log(counts) - np.log(counts.sum(0))
    nats = np.concatenate([-log_p[some, pixels].sum(1) for some in _some(data.test)])
    return Anchor("per-pixel histogram", nats, f"independent pixels, training counts + {pseudo:g} a level")
