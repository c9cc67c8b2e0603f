"""Any bytes as an image, an archive, a table or an array: pixels, or one sentence that names the file.

`make campaign` reads 10 000 damaged image files and 3 000 damaged containers; `make test` some hundreds.
"""

from __future__ import annotations

import io
import random
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench.errors import UsageError
from bench.images import DamagedImages, open_images

KINDS = {
    ".png": ("PNG", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    ".jpg": ("JPEG", ["L", "RGB", "CMYK"]),
    ".webp": ("WEBP", ["RGB", "RGBA"]),
    ".bmp": ("BMP", ["1", "L", "P", "RGB"]),
    ".gif": ("GIF", ["L", "P"]),
    ".tif": ("TIFF", ["1", "L", "RGB", "CMYK", "F", "I;16"]),
    ".ppm": ("PPM", ["RGB"]),
}


def _image(draw: random.Random, mode: str) -> Image.Image:
    width, height = draw.randint(1, 24), draw.randint(1, 24)
    noise = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (height, width, 3), np.uint8)
    if mode == "I;16":
        return Image.fromarray((noise[..., 0].astype(np.uint16) << 8) + 7)
    return Image.fromarray(noise).convert(mode)


def _file(draw: random.Random) -> tuple[str, bytes]:
    ending = draw.choice(list(KINDS))
    kind, modes = KINDS[ending]
    mode = draw.choice(modes)
    file, more = io.BytesIO(), {}
    if ending == ".gif" and draw.random() < 0.3:
        more = {"save_all": True, "append_images": [_image(draw, "P") for _ in range(2)]}
    if ending == ".tif":
        more = {"compression": draw.choice([None, "tiff_lzw", "packbits"])} if mode != "F" else {}
    _image(draw, mode).save(file, kind, **more)
    return ending, file.getvalue()


def _spoilt(draw: random.Random, data: bytes) -> bytes:
    """Some bits turned, a piece cut out, doubled, filled, or the end missing."""
    for _ in range(draw.randint(0, 4)):
        at, length = draw.randrange(len(data) + 1), draw.randint(1, 16)
        how = draw.choice(["bit", "bit", "bit", "cut", "double", "fill", "end", "big", "insert"])
        if how == "bit" and data:
            at = draw.randrange(min(len(data), draw.choice([32, 64, 10**9])))
            data = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        elif how == "cut":
            data = data[:at] + data[at + length :]
        elif how == "double":
            data = data[:at] + data[at : at + length] * 2 + data[at:]
        elif how == "fill":
            data = data[:at] + bytes([draw.randrange(256)]) * length + data[at + length :]
        elif how == "end":
            data = data[:at]
        elif how == "big":  # sizes and lengths beyond reason
            data = data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :]
        else:
            data = data[:at] + draw.randbytes(length) + data[at:]
    return data


def _verdict(path: Path) -> str:
    """Pixels, or a sentence; anything else is raised."""
    try:
        source = open_images(path, skip_damaged=True)
        for batch in source.batches(8):
            assert batch.pixels.dtype == np.uint8
    except (DamagedImages, UsageError, ValueError) as error:
        sentence = str(error)
        assert path.name in sentence or str(path) in sentence, sentence
        assert len(sentence) < 2000
        return "refused"
    for one in source.damaged:
        assert "\n" not in str(one), one
    return "damaged" if source.damaged else "read"


def _fuzz_images(folder: Path, files: int, seed: int) -> Counter[str]:
    """Folders of one file each, so that one bad image hides no other."""
    draw, seen = random.Random(seed), Counter[str]()
    for index in range(files):
        place = folder / "images"
        place.mkdir(exist_ok=True)
        ending, data = _file(draw)
        path = place / f"{index}{ending}"
        path.write_bytes(_spoilt(draw, data))
        try:
            seen[_verdict(place)] += 1
        except Exception as error:
            raise AssertionError(f"file {index} of seed {seed}") from error
        path.unlink()
    return seen


def test_damaged_image_files_are_pixels_or_a_sentence(tmp_path: Path) -> None:
    seen = _fuzz_images(tmp_path, 200, 0)
    assert seen["read"] > 25
    assert seen["damaged"] > 25


@pytest.mark.campaign
def test_ten_thousand_damaged_image_files(tmp_path: Path) -> None:
    seen = _fuzz_images(tmp_path, 10_000, 1)
    print(dict(seen))
    assert sum(seen.values()) == 10_000


def _container(draw: random.Random, folder: Path) -> tuple[Path, bytes]:
    """An archive, a table or arrays, with whole images and spoilt ones in them."""
    images = [_file(draw) for _ in range(draw.randint(1, 3))]
    ending = draw.choice([".zip", ".parquet", ".npz", ".npy"])
    path, file = folder / f"made{ending}", io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    if ending == ".zip":
        with zipfile.ZipFile(file, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            for index, (kind, data) in enumerate(images):
                archive.writestr(draw.choice(["", "../", "/", "a/b/"]) + f"{index}{kind}", data)
    elif ending == ".parquet":
        column = [{"bytes": _spoilt(draw, data), "path": None} for _, data in images]
        pq.write_table(pa.table({"image": column}), file)
    elif ending == ".npz":
        np.savez(file, images=pixels, labels=np.arange(3))
    else:
        np.save(file, pixels)
    return path, file.getvalue()


def _fuzz_containers(folder: Path, files: int, seed: int) -> Counter[str]:
    draw, seen = random.Random(seed), Counter[str]()
    for index in range(files):
        path, data = _container(draw, folder)
        path.write_bytes(_spoilt(draw, data))
        try:
            seen[_verdict(path)] += 1
        except Exception as error:
            raise AssertionError(f"container {index} of seed {seed}: {path.suffix}") from error
        path.unlink()
    return seen


def test_damaged_containers_are_pixels_or_a_sentence(tmp_path: Path) -> None:
    seen = _fuzz_containers(tmp_path, 150, 0)
    assert seen["read"] > 10
    assert seen["refused"] > 10


@pytest.mark.campaign
def test_three_thousand_damaged_containers(tmp_path: Path) -> None:
    seen = _fuzz_containers(tmp_path, 3000, 1)
    print(dict(seen))
    assert sum(seen.values()) == 3000
