"""Protects data sets larger than memory: cropped as published, streamed once, resumed, told apart."""

from __future__ import annotations

import dataclasses
import importlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench import data, large_array
from bench.data.large import LargeImages, cropped
from bench.large_array import LargeArray

SMALL = LargeImages("small", "nowhere/small", classes=3, size=8, train=7, test=5)


def _photograph(index: int, mode: str = "RGB") -> bytes:
    """A made image of its own size and aspect."""
    rng = np.random.default_rng(index)
    width, height = (int(n) for n in rng.integers(9, 60, 2))
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG")
    return file.getvalue()


def write(folder: Path, images: LargeImages, names: tuple[str, str] = ("train", "test")) -> Path:
    """Parquet files as hubs keep them, two of each split; one photograph is CMYK, one grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in zip(names, (images.train, images.test), strict=True):
        modes = ["RGB", "L", "CMYK"]
        cells = [{"bytes": _photograph(i, modes[i % 3]), "path": None} for i in range(count)]
        labels = [i % images.classes for i in range(count)]
        for part, half in enumerate((slice(0, count // 2), slice(count // 2, None))):
            table = pa.table({"image": cells[half], "label": labels[half]})
            pq.write_table(table, folder / f"{split}-{part:05d}-of-00002.parquet")
    return folder


def few_photographs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published data set cut down to a few made photographs, read as the whole one is."""
    module = importlib.import_module(f"bench.data.{name}")
    few = dataclasses.replace(getattr(module, name.upper()), train=6, test=4)
    write(folder / name, few)
    monkeypatch.setenv("NOISEBENCH_DATA", str(folder))
    monkeypatch.setenv("NOISEBENCH_CACHE", str(folder / "cache"))
    monkeypatch.setattr(module, name.upper(), few)
    monkeypatch.setattr(data, "load", data.load.__wrapped__)


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the small data set, and an empty cache."""
    monkeypatch.setenv("NOISEBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("NOISEBENCH_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "small", SMALL)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_cropping_keeps_the_centre_and_leaves_alone_what_fits() -> None:
    rng = np.random.default_rng(0)
    exact = rng.integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(cropped(_png(Image.fromarray(exact)), 8), exact.transpose(2, 0, 1))
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 255  # the middle sixteen columns are what is left
    assert cropped(_png(Image.fromarray(wide)), 8)[:, :, 1:-1].min() > 200
    tall = np.kron(exact, np.ones((4, 4, 1), np.uint8))  # two halvings by box filters undo this exactly
    assert np.array_equal(cropped(_png(Image.fromarray(tall)), 8), exact.transpose(2, 0, 1))


def test_a_data_set_is_decoded_once_and_then_mapped(at_hand: Path) -> None:
    first = SMALL.load()
    assert first.train.shape == (7, 3, 8, 8)
    assert isinstance(first.train, np.memmap)
    assert first.test_labels.tolist() == [0, 1, 2, 0, 1]
    assert np.array_equal(first.train[4], cropped(_photograph(4, "L"), 8))
    for path in at_hand.iterdir():
        path.unlink()
    again = SMALL.load()
    assert np.array_equal(first.train, again.train)
    assert first.fingerprint == again.fingerprint
    again.train[0] = 0  # the caller's copy, not the file
    assert np.array_equal(SMALL.load().train, first.train)


def test_other_pixels_have_another_fingerprint(at_hand: Path, tmp_path: Path) -> None:
    first = SMALL.load().fingerprint
    larger = dataclasses.replace(SMALL, size=16).load().fingerprint
    assert first != larger


def test_the_hub_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_hand: Path) -> None:
    """By the same library and call; a folder of parquet files is a hub to it."""
    pytest.importorskip("datasets")
    files = SMALL.load()
    hub = write(tmp_path / "hub", SMALL, ("train", "validation"))
    monkeypatch.delenv("NOISEBENCH_DATA")
    monkeypatch.setenv("NOISEBENCH_CACHE", str(tmp_path / "other"))
    streamed = dataclasses.replace(SMALL, hub=str(hub)).load()
    assert np.array_equal(streamed.train, files.train)
    assert np.array_equal(streamed.test, files.test)
    assert streamed.train_labels.tolist() == files.train_labels.tolist()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train": 9}, r"train-8.npy has 9 rows, and 7 came: fetch the data again"),
        ({"test": 3}, r"test-8.npy has 3 rows, and more came"),
        ({"name": "other"}, r"there is no other/train-\*.parquet in it"),
    ],
)
def test_what_is_not_there_is_one_sentence(at_hand: Path, change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(SMALL, **change).load()


def test_a_damaged_photograph_is_named(at_hand: Path) -> None:
    table = pq.read_table(at_hand / "train-00001-of-00002.parquet")
    cells = table.column("image").to_pylist()
    cells[1]["bytes"] = cells[1]["bytes"][:40]
    pq.write_table(
        pa.table({"image": cells, "label": table.column("label")}), at_hand / "train-00001-of-00002.parquet"
    )
    with pytest.raises(ValueError, match=r"Image 4 of small train is damaged \("):
        SMALL.load()


def test_filling_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_array, "CHECKPOINT", 4)
    wanted, starts = np.arange(20.0).reshape(10, 2), []

    def fill(start: int) -> Iterator[np.ndarray]:
        starts.append(start)
        for row in range(start, 10, 2):
            if row == 6 and len(starts) == 1:
                raise KeyboardInterrupt
            yield wanted[row : row + 2]

    array = LargeArray(tmp_path, "a", (10, 2), "<f8")
    with pytest.raises(KeyboardInterrupt):
        array.made(fill)
    assert not (tmp_path / "a.npy").exists()
    assert np.array_equal(array.made(fill), wanted)
    assert starts == [0, 4]
    assert np.array_equal(array.made(fill), wanted)
    assert len(starts) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy", "a.json", "a.npy.lock"}
    (tmp_path / "a.npy").write_bytes(b"cut")
    assert np.array_equal(array.made(fill), wanted)
    assert starts == [0, 4, 0]
    assert np.array_equal(
        LargeArray(tmp_path, "a", (5, 4), "<f8").made(lambda _: [np.ones((5, 4))]), np.ones((5, 4))
    )
