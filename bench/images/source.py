"""What every source of images offers: how many, which, and batches of uint8 pixels in a fixed order.

Shapes: n images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.names import shown


@dataclass(frozen=True)
class Damaged:
    """An image that could not be read: its name, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.name, 120)} {self.reason}"


class DamagedImages(ValueError):
    """Images that cannot be used, by name; nothing is skipped in silence."""

    def __init__(self, found: list[Damaged], of: int) -> None:
        some = "; ".join(str(one) for one in found[:3])
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        super().__init__(
            f"{len(found)} of {of} images cannot be used: {some}{more}. Replace them, or go on without them "
            "with --skip-damaged."
        )
        self.found = found


@dataclass(frozen=True)
class Batch:
    """Consecutive images: their indices in the source, and pixels (n, C, H, W) uint8."""

    indices: range
    pixels: np.ndarray


class ImageSource(ABC):
    """Images in a fixed order.

    name      for records and messages
    damaged   what was left out, complete after a pass
    identity  SHA-256 of shapes and pixels in order, known after a pass: the same images have the same one
              wherever they came from
    labels    class or caption of each image that came out, known after a pass; empty where there are none
    """

    name: str

    def __init__(self) -> None:
        self.damaged: list[Damaged] = []
        self.identity = ""
        self.labels: list[str] = []

    @abstractmethod
    def __len__(self) -> int:
        """Images, damaged ones included."""

    @abstractmethod
    def images(self) -> Iterator[np.ndarray]:
        """Each image (C, H, W) uint8, in order; damaged ones are left out and listed, or raise."""

    def batches(self, size: int) -> Iterator[Batch]:
        """All images, `size` at a time, numbered without the damaged; ValueError where sizes differ."""
        self.damaged, digest = [], hashlib.sha256()
        waiting: list[np.ndarray] = []
        start, shape = 0, None
        for image in self.images():
            shape = image.shape if shape is None else shape
            if image.shape != shape:
                raise ValueError(
                    f"{self.name}: image {start + len(waiting)} is {_size(image.shape)} and the first is "
                    f"{_size(shape)}: make all images one size."
                )
            digest.update(str(image.shape).encode())
            digest.update(np.ascontiguousarray(image).tobytes())
            waiting.append(image)
            if len(waiting) == size:
                yield Batch(range(start, start + size), np.stack(waiting))
                start, waiting = start + size, []
        if waiting:
            yield Batch(range(start, start + len(waiting)), np.stack(waiting))
        self.identity = digest.hexdigest()


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}×{height} with {channels} channel{'s' if channels > 1 else ''}"
