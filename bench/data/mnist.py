"""60 000 + 10 000 handwritten digits, 28×28, 256 grey levels, in the original split and order.

Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits (CC BY-SA 3.0).
"""

from __future__ import annotations

from bench.data import ImageData
from bench.data.hub import HubImages

MNIST = HubImages("mnist", "ylecun/mnist", "image", classes=10, train=60_000, test=10_000)


def load() -> ImageData:
    """All of it."""
    return MNIST.load()
