"""1 797 handwritten digits, 8×8, 17 grey levels (0…16), embedded in scikit-learn; 1 437 train, 360 test.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test
part). The split is a fixed permutation: numpy froze the stream of `RandomState`.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from bench.data import Captions, ImageData

LEVELS = 17
TRAIN = 1437
WORDS = ("", "the", "digit", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def captions(labels: np.ndarray) -> np.ndarray:
    """`the digit seven` for each label, as token numbers (N, 3)."""
    return np.stack([np.full_like(labels, 1), np.full_like(labels, 2), labels + 3], axis=1)


def load() -> ImageData:
    """The digits with their fixed 80/20 split."""
    found = load_digits()
    order = np.random.RandomState(0).permutation(len(found.images))
    images = found.images[order].astype(np.uint8)[:, None]
    labels = found.target[order].astype(np.int64)
    return ImageData(
        name="digits",
        train=images[:TRAIN],
        test=images[TRAIN:],
        train_labels=labels[:TRAIN],
        test_labels=labels[TRAIN:],
        levels=LEVELS,
        classes=10,
        captions=Captions(captions(labels[:TRAIN]), captions(labels[TRAIN:]), WORDS),
    )
