"""Data sets by name: uint8 images with a fixed split and a fingerprint of every byte."""

from __future__ import annotations

import functools
import hashlib
import importlib
from dataclasses import dataclass

import numpy as np

from models.names import unknown

_MODULES = {"digits": "bench.data.digits"}


@dataclass(frozen=True)
class ImageData:
    """Images (N, C, H, W) uint8 with `levels` grey levels, labels (N,) of `classes` classes, split once."""

    name: str
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    levels: int
    classes: int

    def __post_init__(self) -> None:
        for split, labels in ((self.train, self.train_labels), (self.test, self.test_labels)):
            if split.ndim != 4 or split.dtype != np.uint8 or split.shape[1:] != self.train.shape[1:]:
                raise ValueError(f"{self.name}: images must be uint8 (N, C, H, W) of one size.")
            if len(labels) != len(split):
                raise ValueError(f"{self.name}: {len(split)} images have {len(labels)} labels.")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
                raise ValueError(f"{self.name}: labels must lie in 0…{self.classes - 1}.")
            if len(split) and int(split.max()) >= self.levels:
                raise ValueError(
                    f"{self.name}: a pixel is {split.max()}, and {self.levels} levels end below it."
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    @property
    def dims(self) -> int:
        """D = C·H·W."""
        return int(np.prod(self.shape))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of levels, shapes, pixels and labels of both splits, in order."""
        digest = hashlib.sha256(f"{self.levels}/{self.classes}".encode())
        for array in (self.train, self.test, self.train_labels, self.test_labels):
            plain = np.ascontiguousarray(array)
            digest.update(f"{plain.shape}{plain.dtype.str}".encode())
            digest.update(plain.tobytes())
        return digest.hexdigest()


def names() -> tuple[str, ...]:
    """All data sets."""
    return tuple(_MODULES)


def _module(name: str) -> str:
    if name not in _MODULES:
        raise ValueError(unknown("dataset", name, _MODULES))
    return _MODULES[name]


def description(name: str) -> str:
    """The first line of what a data set's module says of it."""
    return (importlib.import_module(_module(name)).__doc__ or "").strip().splitlines()[0]


@functools.cache
def load(name: str) -> ImageData:
    """The data set of a name; ValueError with the nearest name if there is none."""
    data: ImageData = importlib.import_module(_module(name)).load()
    return data
