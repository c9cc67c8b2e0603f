"""Data sets larger than memory: streamed from the hub once, cropped, and read from disk ever after.

`$NOISEBENCH_DATA/NAME/{train,test}-*.parquet` is read where there is such a folder, else the hub is streamed:
no more than a few hundred encoded images are in memory. Pixels are kept in `$NOISEBENCH_CACHE` (default
`~/.cache/noisebench`), and what was decoded when a process was killed is not decoded again.

Images are brought to R×R as in Dhariwal and Nichol 2021 (2105.05233): halved by box filters while the short
side is 2R or more, scaled to a short side of R by the bicubic filter, cropped to the centre.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data import ImageData
from bench.data.hub import VARIABLE
from bench.images.decode import PIXELS
from bench.large_array import LargeArray

CACHE = "NOISEBENCH_CACHE"
"""Environment variable with the folder of decoded data sets and other things made once."""
AHEAD = 256
"""Encoded images in memory."""


@dataclass(frozen=True)
class LargeImages:
    """A data set on a hub, brought to `size`×`size` RGB.

    test    images of the split that we call test
    splits  our names of splits -> the hub's
    """

    name: str
    hub: str
    classes: int
    size: int
    train: int
    test: int
    column: str = "image"
    label: str = "label"
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "validation"})

    def load(self) -> ImageData:
        """Both splits, mapped from disk; ValueError in one sentence where they cannot be had."""
        digest, found = hashlib.sha256(f"256/{self.classes}".encode()), {}
        for split, count in (("train", self.train), ("test", self.test)):
            pixels = LargeArray(self.folder, f"{split}-{self.size}", (count, 3, self.size, self.size), "u1")
            labels = LargeArray(self.folder, f"{split}-labels", (count,), "<i8")
            found[split] = pixels.made(lambda start, split=split: self._pixels(split, start))  # type: ignore[misc]
            found[f"{split} labels"] = labels.made(lambda start, split=split: self._labels(split, start))  # type: ignore[misc]
            digest.update(f"{pixels.sha256}/{labels.sha256}".encode())
        return ImageData(
            name=self.name,
            train=found["train"],
            test=found["test"],
            train_labels=np.asarray(found["train labels"]),
            test_labels=np.asarray(found["test labels"]),
            levels=256,
            classes=self.classes,
            known=digest.hexdigest(),
        )

    @property
    def folder(self) -> Path:
        """Where the decoded splits are kept."""
        return cache() / "data" / self.hub.replace("/", "--")

    def _pixels(self, split: str, start: int) -> Iterator[np.ndarray]:
        """Rows of pixels from image `start` on, some at a time."""
        rows = self._rows(split, [self.column], start)
        with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
            while some := list(islice(rows, AHEAD)):
                encoded = [row[self.column]["bytes"] for row in some]
                numbered = zip(range(start, start + len(some)), encoded, strict=True)
                yield np.stack(list(pool.map(lambda each: self._cropped(split, *each), numbered)))
                start += len(some)

    def _cropped(self, split: str, index: int, data: bytes) -> np.ndarray:
        try:
            return cropped(data, self.size)
        except Exception as error:  # decoders raise whatever reading nonsense leads to
            raise ValueError(
                f"Image {index} of {self.name} {split} is damaged ({error}): fetch the files again."
            ) from None

    def _labels(self, split: str, start: int) -> Iterator[np.ndarray]:
        rows = self._rows(split, [self.label], start)
        while some := list(islice(rows, 4096)):
            yield np.asarray([row[self.label] for row in some], np.int64)

    def _rows(self, split: str, columns: list[str], start: int) -> Iterator[dict[str, Any]]:
        folder = os.environ.get(VARIABLE)
        rows = self._of_files(Path(folder), split, columns) if folder else self._of_hub(split, columns, start)
        return islice(rows, start if folder else 0, None)

    def _of_files(self, folder: Path, split: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        import pyarrow
        import pyarrow.parquet

        paths = sorted((folder / self.name).glob(f"{split}-*.parquet"))
        if not paths:
            raise ValueError(
                f"{VARIABLE} is {folder}, and there is no {self.name}/{split}-*.parquet in it: put it there, "
                "or unset the variable to stream it from the hub."
            )
        for path in paths:
            try:
                for batch in pyarrow.parquet.ParquetFile(path).iter_batches(AHEAD, columns=columns):
                    yield from batch.to_pylist()
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from None

    def _of_hub(self, split: str, columns: list[str], start: int) -> Iterator[dict[str, Any]]:
        try:
            import datasets
        except ImportError:
            raise ValueError(
                f"{self.name} is not in {VARIABLE}, and streaming it needs datasets: pip install "
                "'noisebench[hub]'."
            ) from None
        try:
            stream = datasets.load_dataset(self.hub, split=self.splits[split], streaming=True)
            stream = stream.select_columns(columns).skip(start)
            if self.column in columns:
                stream = stream.cast_column(self.column, datasets.Image(decode=False))
            yield from stream
        except Exception as error:  # whatever the network and the hub make of it
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"{self.hub} cannot be streamed ({first}): log in where the hub asks for it, or put its "
                f"parquet files into a folder {self.name} and name the folder above it in {VARIABLE}."
            ) from None


def cropped(data: bytes, size: int) -> np.ndarray:
    """The pixels (3, size, size) uint8 of an encoded image, as the module says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoded = Image.open(io.BytesIO(data))
        if encoded.width * encoded.height > PIXELS:
            raise ValueError(f"it has {encoded.width}×{encoded.height} pixels")
        image = encoded.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def cache() -> Path:
    """The folder of things made once."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "noisebench")
