"""Data sets that hubs keep as parquet files of encoded images: from a folder, or by name from the hub.

`$NOISEBENCH_DATA/NAME/{train,test}-*.parquet` is read where there is such a folder; else `datasets` downloads
the same files by name and keeps them in its cache. Labels must be whole numbers from 0.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import ImageData
from bench.images.decode import Unreadable, decode

VARIABLE = "NOISEBENCH_DATA"
"""Environment variable with the folder of data sets."""


@dataclass(frozen=True)
class HubImages:
    """A data set on a hub: our name, the hub's, the column of images, and what to expect."""

    name: str
    hub: str
    column: str
    classes: int
    train: int
    test: int

    def load(self) -> ImageData:
        """Both splits, decoded; ValueError in one sentence where they cannot be had or are not complete."""
        splits = {split: self._split(split) for split in ("train", "test")}
        for split, wanted in (("train", self.train), ("test", self.test)):
            if len(splits[split][0]) != wanted:
                raise ValueError(
                    f"{self.name} has {wanted} {split} images, and {len(splits[split][0])} were found: fetch "
                    "the files again."
                )
        return ImageData(
            name=self.name,
            train=splits["train"][0],
            test=splits["test"][0],
            train_labels=splits["train"][1],
            test_labels=splits["test"][1],
            levels=256,
            classes=self.classes,
        )

    def _split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        cells, labels = [], []
        for table in self._tables(split):
            cells += [cell["bytes"] for cell in table.column(self.column).to_pylist()]
            labels += table.column("label").to_pylist()
        with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
            try:
                images = list(pool.map(decode, cells, chunksize=256))
            except Unreadable as reason:
                raise ValueError(
                    f"An image of {self.name} {split} {reason}: fetch the files again."
                ) from None
        if not images:
            raise ValueError(f"{self.name} has no {split} images.")
        return np.stack(images), np.asarray(labels, np.int64)

    def _tables(self, split: str) -> Iterator[Any]:
        """Arrow tables of the files of a split, in order."""
        import pyarrow
        import pyarrow.parquet

        folder = os.environ.get(VARIABLE)
        if folder:
            files = sorted((Path(folder) / self.name).glob(f"{split}-*.parquet"))
            if not files:
                raise ValueError(
                    f"{VARIABLE} is {folder}, and there is no {self.name}/{split}-*.parquet in it: put it "
                    "there, or unset the variable to download it."
                )
            for file in files:
                try:
                    yield pyarrow.parquet.read_table(file, columns=[self.column, "label"])
                except (pyarrow.ArrowException, OSError) as error:
                    raise ValueError(f"{file} cannot be read ({str(error).splitlines()[0]}).") from None
            return
        yield self._downloaded(split)

    def _downloaded(self, split: str) -> Any:
        try:
            import datasets
        except ImportError:
            raise ValueError(
                f"{self.name} is not in {VARIABLE}, and downloading it needs datasets: pip install "
                "'noisebench[hub]'."
            ) from None
        try:
            found = datasets.load_dataset(self.hub, split=split)
            return found.cast_column(self.column, datasets.Image(decode=False)).data.table
        except Exception as error:  # whatever the network and the hub make of it
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"{self.hub} cannot be downloaded ({first}): put its parquet files into a folder {self.name} "
                f"and name the folder above it in {VARIABLE}."
            ) from None
