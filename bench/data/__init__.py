"""Data sets by name: uint8 images with a fixed split and a fingerprint of every byte."""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from models.names import unknown

_MODULES = {
    "digits": "bench.data.digits",
    "shapes": "bench.data.shapes",
    "mnist": "bench.data.mnist",
    "cifar10": "bench.data.cifar10",
    "imagenet64": "bench.data.imagenet64",
    "imagenet256": "bench.data.imagenet256",
}


@dataclass(frozen=True)
class Captions:
    """What the images show, in words: token numbers (N, L), word 0 being the padding.

    train, test  captions of the images of both splits
    prompts      further captions without images, by name: what a model is asked for beside the test split
    vocabulary   the words
    """

    train: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]
    prompts: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """L, tokens of a caption."""
        return int(self.train.shape[1])

    def of(self, prompts: str) -> np.ndarray:
        """The captions of the test split, or of a named set of prompts."""
        sets = {"test": self.test, **self.prompts}
        if prompts not in sets:
            raise ValueError(unknown("set of prompts", prompts, sets))
        return sets[prompts]

    def text(self, tokens: np.ndarray) -> str:
        """A row of tokens as words."""
        return " ".join(self.vocabulary[token] for token in tokens if token)


@dataclass(frozen=True)
class ImageData:
    """Images (N, C, H, W) uint8 with `levels` grey levels, labels (N,) of `classes` classes, split once.

    captions  what the images show in words, where the data set says it
    known     the fingerprint, where it was taken when the images were written to disk
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    levels: int
    classes: int
    captions: Captions | None = None
    known: str = ""

    def __post_init__(self) -> None:
        for split, labels in ((self.train, self.train_labels), (self.test, self.test_labels)):
            if split.ndim != 4 or split.dtype != np.uint8 or split.shape[1:] != self.train.shape[1:]:
                raise ValueError(f"{self.name}: images must be uint8 (N, C, H, W) of one size.")
            if len(labels) != len(split):
                raise ValueError(f"{self.name}: {len(split)} images have {len(labels)} labels.")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
                raise ValueError(f"{self.name}: labels must lie in 0…{self.classes - 1}.")
            if self.levels < 256 and len(split) and int(split.max()) >= self.levels:
                raise ValueError(
                    f"{self.name}: a pixel is {split.max()}, and {self.levels} levels end below it."
                )

        self._check_captions()

    def _check_captions(self) -> None:
        if self.captions is None:
            return
        words = len(self.captions.vocabulary)
        for split, tokens in ((self.train, self.captions.train), (self.test, self.captions.test)):
            if tokens.shape != (len(split), self.captions.length):
                raise ValueError(f"{self.name}: {len(split)} images have captions {tokens.shape}.")
            if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < words:
                raise ValueError(f"{self.name}: captions must use the words 0…{words - 1}.")

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
        if self.known:
            return self.known
        digest = hashlib.sha256(f"{self.levels}/{self.classes}".encode())
        for array in (self.train, self.test, self.train_labels, self.test_labels):
            plain = np.ascontiguousarray(array)
            digest.update(f"{plain.shape}{plain.dtype.str}".encode())
            digest.update(plain.tobytes())
        if self.captions is not None:
            sets = {"train": self.captions.train, "test": self.captions.test, **self.captions.prompts}
            for name, tokens in sorted(sets.items()):
                digest.update(f"{name}{tokens.shape}".encode())
                digest.update(np.ascontiguousarray(tokens, np.int64).tobytes())
            digest.update("/".join(self.captions.vocabulary).encode())
        return digest.hexdigest()

    def condition(self, kind: str, prompts: str = "test") -> np.ndarray:
        """What conditional models are told, int64: labels or captions of `train`, `test` or other prompts."""
        if kind == "label" and prompts in ("train", "test"):
            return self.train_labels if prompts == "train" else self.test_labels
        if kind == "text" and self.captions is not None:
            return self.captions.train if prompts == "train" else self.captions.of(prompts)
        have = "captions" if kind == "text" else f"labels for prompts '{prompts}'"
        raise ValueError(f"The dataset {self.name} has no {have}: choose another dataset or model.")


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
