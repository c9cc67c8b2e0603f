"""Pictures of the generated images that lie nearest to the training set, beside what they may repeat."""

from __future__ import annotations

import numpy as np

from bench.evaluate.evaluation import READ, Evaluated
from bench.images import ImageSource
from bench.metrics.memorisation import nearest_pairs
from bench.metrics.pair_sheet import pair_sheet


def pictures(
    found: Evaluated, images: ImageSource, real: ImageSource, count: int = 16, levels: int = 256
) -> bytes:
    """A PNG of the nearest pairs, nearest first; both sources are read again for their pixels.

    ValueError where the evaluation had no held-out images, which tell what is near for an image that is new.
    """
    sets = found.sets
    held_out = sets["held out"].rows if "held out" in sets else None
    rows, training = sets["generated"].rows, sets["real"].rows
    pairs = nearest_pairs(rows, training, held_out, min(count, len(rows)))
    generated, near = picked(images, len(rows)), picked(real, len(training))
    return pair_sheet(generated, near, pairs, levels=levels)


def picked(source: ImageSource, n: int) -> np.ndarray:
    """All n images of a source, (n, C, H, W); ValueError if they have become others."""
    pixels = np.concatenate([batch.pixels for batch in source.batches(READ)])
    if len(pixels) != n:
        raise ValueError(f"{source.name} had {n} images and now has {len(pixels)}: evaluate it again.")
    return pixels
