"""Images that are arrays already: an .npz or .npy file, or an array in memory.

Shapes: n images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.images.source import ImageSource
from models.names import shown

LABELS = ("arr_1", "labels", "label")
"""Arrays of an .npz that hold a label an image, where there is one."""


class ArrayImages(ImageSource):
    """uint8 (n, C, H, W), (n, H, W, C) or (n, H, W), C being 1 or 3."""

    def __init__(
        self, array: np.ndarray, name: str = "array", n: int | None = None, labels: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self.name, self.pixels = name, channels_first(array, name)
        if n is not None and not 1 <= n <= len(self.pixels):
            raise ValueError(f"{name} holds {len(self.pixels)} images, and {n} are asked for.")
        if labels is not None and labels.shape != (len(self.pixels),):
            raise ValueError(f"{name} holds {len(self.pixels)} images and labels {labels.shape}: one each.")
        self.pixels = self.pixels[:n]
        self.labels = [] if labels is None else [str(label) for label in labels[:n].tolist()]

    @classmethod
    def open(cls, path: Path, n: int | None = None, key: str = "") -> ArrayImages:
        """The array of a file; no pickled object is loaded."""
        try:
            found = np.load(path, allow_pickle=False)
        except Exception as error:  # numpy reads headers with Python's tokeniser, which raises much
            raise ValueError(f"{path} holds no plain arrays ({shown(error)}).") from None
        if isinstance(found, np.ndarray):
            return cls(found, path.name, n)
        names = list(found.files)
        if key not in names and (key or len(names) != 1):
            fitting = [name for name in names if name.startswith(("arr_0", "images"))]
            if key or len(fitting) != 1:
                raise ValueError(
                    f"{path} holds the arrays {', '.join(names) or 'none'}: name one with --column."
                )
            key = fitting[0]
        try:
            beside = next((found[name] for name in LABELS if name in names and name != key), None)
            if beside is not None and (beside.ndim != 1 or beside.dtype.kind not in "iuUS"):
                beside = None
            return cls(found[key or names[0]], path.name, n, beside)
        except ValueError as error:
            said = str(error)
            raise ValueError(said if path.name in said else f"{path} is damaged ({shown(said)}).") from None
        except Exception as error:  # whatever a damaged archive raises
            raise ValueError(f"{path} is damaged ({shown(error)}).") from None

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self) -> Iterator[np.ndarray]:
        """Each image."""
        return iter(self.pixels)


def channels_first(array: np.ndarray, name: str) -> np.ndarray:
    """(n, C, H, W) of what a file holds; ValueError for what is no uint8 images."""
    if array.dtype != np.uint8:
        raise ValueError(
            f"{name} holds {array.dtype}, and images are uint8 from 0 to 255: convert them by rounding."
        )
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}, and images are (n, C, H, W) or (n, H, W, C).")
    if array.shape[1] in (1, 3):
        return array
    if array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    raise ValueError(f"{name} has shape {array.shape}, and images have 1 or 3 channels.")
