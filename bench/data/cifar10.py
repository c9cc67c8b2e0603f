"""50 000 + 10 000 photographs of ten classes, 32×32 in colour.

A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

from bench.data import ImageData
from bench.data.hub import HubImages

CIFAR10 = HubImages("cifar10", "uoft-cs/cifar10", "img", classes=10, train=50_000, test=10_000)


def load() -> ImageData:
    """All of it."""
    return CIFAR10.load()
