"""ImageNet at 64×64: 1 281 167 photographs of 1000 classes, and 50 000 of the validation split as test.

J. Deng et al. 2009, O. Russakovsky et al. 2015 (1409.0575); the hub asks for a log-in and its terms.
"""

from __future__ import annotations

from bench.data import ImageData
from bench.data.large import LargeImages

IMAGENET64 = LargeImages("imagenet64", "ILSVRC/imagenet-1k", 1000, 64, train=1_281_167, test=50_000)


def load() -> ImageData:
    """All of it, mapped from disk."""
    return IMAGENET64.load()
