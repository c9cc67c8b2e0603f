"""Protects data sets from parquet files: order, labels, completeness, a sentence for what is wrong."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench import data
from bench.data.cifar10 import CIFAR10
from bench.data.hub import VARIABLE, HubImages
from bench.data.mnist import MNIST

SMALL = HubImages("small", "nobody/small", "image", classes=3, train=5, test=2)


def _write(path: Path, pixels: np.ndarray, first: int = 0, broken: bool = False) -> None:
    cells = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        cells.append({"bytes": file.getvalue()[: 20 if broken else None], "path": None})
    labels = [(first + i) % 3 for i in range(len(cells))]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": labels}), path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 4), dtype=np.uint8)
    _write(tmp_path / "small" / "train-00000-of-00002.parquet", pixels[:3])
    _write(tmp_path / "small" / "train-00001-of-00002.parquet", pixels[3:5], first=3)
    _write(tmp_path / "small" / "test-00000-of-00001.parquet", pixels[5:])
    np.save(tmp_path / "pixels.npy", pixels)
    return tmp_path


def test_images_and_labels_come_in_the_order_of_the_files(folder: Path) -> None:
    found, pixels = SMALL.load(), np.load(folder / "pixels.npy")
    assert np.array_equal(found.train[:, 0], pixels[:5])
    assert np.array_equal(found.test[:, 0], pixels[5:])
    assert found.train_labels.tolist() == [0, 1, 2, 0, 1]
    assert (found.shape, found.levels, found.classes) == ((1, 4, 4), 256, 3)


def test_what_is_missing_or_damaged_gets_one_sentence(folder: Path) -> None:
    pixels = np.load(folder / "pixels.npy")
    test = folder / "small" / "test-00000-of-00001.parquet"
    _write(test, pixels[5:6])
    with pytest.raises(ValueError, match="has 2 test images, and 1 were found"):
        SMALL.load()
    _write(test, pixels[5:], broken=True)
    with pytest.raises(ValueError, match="An image of small test is"):
        SMALL.load()
    test.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read"):
        SMALL.load()
    test.unlink()
    with pytest.raises(ValueError, match=r"there is no small/test-\*\.parquet in it"):
        SMALL.load()


def test_without_a_folder_it_is_downloaded_or_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here there is neither the package nor a network: either way the sentence says where files go."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match=VARIABLE):
        SMALL.load()


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder of data sets")
@pytest.mark.parametrize(("known", "shape"), [(MNIST, (1, 28, 28)), (CIFAR10, (3, 32, 32))])
def test_the_real_data_are_complete(known: HubImages, shape: tuple[int, int, int]) -> None:
    found = data.load(known.name)
    assert found.shape == shape
    assert (len(found.train), len(found.test)) == (known.train, known.test)
    assert np.bincount(found.test_labels).min() > 800
