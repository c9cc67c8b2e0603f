"""Protects what needs labels: where they are read from, and that wrong ones are seen class by class alone."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import data
from bench.evaluate import evaluate
from bench.evaluate.evaluation import real_images
from bench.images import ImageSource, open_images
from bench.images.arrays import ArrayImages
from bench.metrics.by_class import by_class
from bench.metrics.features import feature_network
from bench.metrics.mmd import kid

DIGITS = data.load("digits")
NETWORK = "digits-features"


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def labels_of(source: ImageSource) -> list[str]:
    assert sum(len(batch.pixels) for batch in source.batches(4)) > 0
    return source.labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in two classes, one of them damaged."""
    for index in range(6):
        path = tmp_path / "all" / ("cat" if index % 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((8, 8), 40 * index, np.uint8)) if index != 3 else b"broken")
    return tmp_path / "all"


def test_labels_come_from_folders_archives_columns_and_arrays(folder: Path, tmp_path: Path) -> None:
    assert labels_of(open_images(folder, skip_damaged=True)) == ["cat", "cat", "dog", "dog", "dog"]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    assert labels_of(open_images(tmp_path / "all.zip", skip_damaged=True)) == [
        "cat",
        "cat",
        "dog",
        "dog",
        "dog",
    ]
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=pixels, arr_1=np.array([7, 1, 7]))
    assert labels_of(open_images(tmp_path / "a.npz")) == ["7", "1", "7"]
    assert labels_of(open_images(tmp_path / "a.npz", n=2)) == ["7", "1"]
    np.savez(tmp_path / "b.npz", images=pixels, labels=np.array(["x", "y", "x"]))
    assert labels_of(open_images(tmp_path / "b.npz")) == ["x", "y", "x"]
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"image": [png(pixels[0])] * 2, "label": [3, 4]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "c.parquet")
    assert labels_of(open_images(tmp_path / "c.parquet")) == ["3", "4"]
    (folder / "loose.png").write_bytes(png(pixels[0, ..., 0]))
    assert labels_of(open_images(folder, skip_damaged=True)) == []  # not every image has one


def test_the_wrong_labels_are_seen_class_by_class_alone() -> None:
    """The same images, labels moved by one: the distance of all stays, those of the classes do not."""
    real = real_images("digits", levels=17)
    right = ArrayImages(DIGITS.test, "right", labels=DIGITS.test_labels)
    wrong = ArrayImages(DIGITS.test, "wrong", labels=(DIGITS.test_labels + 1) % 10)
    names = ["kid", "kid-by-class", "fid-by-class"]
    a, b = ([r.value for r in evaluate(x, real, NETWORK, names).records] for x in (right, wrong))
    assert a[0] == b[0]
    assert b[1] > 5 * a[1]  # type: ignore[operator]
    assert b[2] > 3 * a[2]  # type: ignore[operator]


def test_it_is_the_librarys_number_with_its_interval() -> None:
    real = real_images("digits", levels=17)
    images = ArrayImages(DIGITS.test, "test", labels=DIGITS.test_labels)
    (record,) = evaluate(images, real, NETWORK, ["kid-by-class"]).records
    extract = feature_network(NETWORK).extract
    import torch

    x, y = (extract(torch.from_numpy(p)).numpy() for p in (DIGITS.test, DIGITS.train))
    found = by_class(kid, x, DIGITS.test_labels.astype(str), y, DIGITS.train_labels.astype(str))
    assert record.metric == "KD-digits by class"
    assert (record.value, record.low, record.high) == (found.value, found.low, found.high)
    assert f"largest in class {found.largest}" in record.protocol


def test_copies_of_one_image_a_label_have_no_diversity() -> None:
    labels = np.repeat(np.arange(4), 5)
    distinct = DIGITS.test[:20]
    copies = DIGITS.test[np.repeat(np.arange(4), 5)]
    values = []
    for pixels in (distinct, copies):
        found = evaluate(
            ArrayImages(pixels, labels=labels), real_images("digits", levels=17), NETWORK, ["diversity"]
        )
        values.append({record.metric: record.value for record in found.records})
    assert values[1]["distance within labels"] == pytest.approx(0.0, abs=1e-6)
    assert values[1]["Vendi score within labels"] == pytest.approx(1.0)
    assert values[0]["Vendi score within labels"] > 1.5  # type: ignore[operator]


def test_what_has_no_labels_is_told_where_they_may_come_from() -> None:
    plain = ArrayImages(DIGITS.test, "test")
    with pytest.raises(ValueError, match="needs a label for each generated image: a folder for each class"):
        evaluate(plain, real_images("digits", levels=17), NETWORK, ["diversity"])
    labelled = ArrayImages(DIGITS.test, "test", labels=DIGITS.test_labels)
    with pytest.raises(ValueError, match="needs a label for each real image"):
        evaluate(labelled, plain, NETWORK, ["kid-by-class"])
    with pytest.raises(ValueError, match="one each"):
        ArrayImages(DIGITS.test, "test", labels=DIGITS.test_labels[:5])
