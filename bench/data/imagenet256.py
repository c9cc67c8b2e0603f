"""ImageNet at 256×256: 1 281 167 photographs of 1000 classes, and 50 000 of the validation split as test.

J. Deng et al. 2009, O. Russakovsky et al. 2015 (1409.0575); the hub asks for a log-in and its terms.
"""

from __future__ import annotations

from bench.data import ImageData
from bench.data.large import LargeImages

IMAGENET256 = LargeImages("imagenet256", "ILSVRC/imagenet-1k", 1000, 256, train=1_281_167, test=50_000)


def load() -> ImageData:
    """All of it, mapped from disk."""
    return IMAGENET256.load()
