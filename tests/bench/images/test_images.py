"""Protects the reading of images that people bring: order, identity, a sentence for what is damaged."""

from __future__ import annotations

import io
import sys
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench.images import Damaged, DamagedImages, ImageSource, open_images
from bench.images.arrays import ArrayImages
from bench.images.decode import Unreadable, decode
from bench.images.function import FunctionImages, quantised

N = 10


def _pixels(n: int = N, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, 6, 5), dtype=np.uint8)


def _png(image: np.ndarray) -> bytes:
    return _encoded(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), "PNG")


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _folder(path: Path, pixels: np.ndarray) -> Path:
    for index, image in enumerate(pixels):
        place = path / f"{index % 2}" / f"{index:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(_png(image))
    return path


def _zip(path: Path, pixels: np.ndarray) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for index in reversed(range(len(pixels))):
            archive.writestr(f"{index % 2}/{index:03d}.png", _png(pixels[index]))
        archive.writestr("0/readme.txt", "no image")
    return path


def _parquet(path: Path, pixels: np.ndarray) -> Path:
    cells = [{"bytes": _png(image), "path": None} for image in pixels]
    pq.write_table(pa.table({"image": cells, "label": list(range(len(cells)))}), path)
    return path


def _read(source: ImageSource, size: int = 4) -> np.ndarray:
    batches = list(source.batches(size))
    assert [i for batch in batches for i in batch.indices] == list(range(sum(len(b.pixels) for b in batches)))
    return np.concatenate([batch.pixels for batch in batches])


def test_every_kind_of_file_gives_the_same_images(tmp_path: Path) -> None:
    """By name in folders and archives, by row elsewhere; whatever the batch."""
    pixels = _pixels()
    by_name = pixels[[*range(0, N, 2), *range(1, N, 2)]]
    np.savez(tmp_path / "a.npz", pixels.transpose(0, 2, 3, 1))
    np.save(tmp_path / "a.npy", pixels)
    for where, wanted in (
        (_folder(tmp_path / "folder", pixels), by_name),
        (_zip(tmp_path / "a.zip", pixels), by_name),
        (_parquet(tmp_path / "a.parquet", pixels), pixels),
        (tmp_path / "a.npz", pixels),
        (tmp_path / "a.npy", pixels),
    ):
        source = open_images(where)
        assert len(source) == N
        for size in (1, 4, 64):
            assert np.array_equal(_read(source, size), wanted), where
        assert np.array_equal(_read(open_images(where, n=3)), wanted[:3])
        assert not source.damaged


def test_identity_follows_the_pixels_and_not_their_place(tmp_path: Path) -> None:
    """The same images have one identity in a folder, an archive and in memory; others have not."""
    pixels = _pixels()
    by_name = pixels[[*range(0, N, 2), *range(1, N, 2)]]
    other = by_name.copy()
    other[3, 0, 0, 0] ^= 1
    found = []
    for source in (
        open_images(_folder(tmp_path / "a", pixels)),
        open_images(_zip(tmp_path / "a.zip", pixels)),
        ArrayImages(by_name),
        ArrayImages(pixels),
        ArrayImages(other),
        ArrayImages(by_name[:9]),
    ):
        assert source.identity == ""
        _read(source)
        found.append(source.identity)
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 4


def _damaged_files(path: Path) -> dict[str, str]:
    """Files by name, and what is wrong with each."""
    image = Image.fromarray(_pixels(1)[0].transpose(1, 2, 0))
    whole = _encoded(image, "PNG")
    deep = Image.fromarray(np.arange(30, dtype=np.uint16).reshape(6, 5) * 2000)
    clear = image.convert("RGBA")
    clear.putpixel((0, 0), (1, 2, 3, 0))
    frames = [image.convert("P"), Image.new("P", image.size, 3)]
    contents = {
        "a-empty.png": (b"", "is empty"),
        "b-text.png": (b"this is no image", "is no image"),
        "c-truncated.png": (whole[: len(whole) // 2], "is damaged"),
        "d-deep.png": (_encoded(deep, "PNG"), "has 16 or more bits a channel"),
        "e-cmyk.jpg": (_encoded(image.convert("CMYK"), "JPEG"), "is CMYK, not grey or RGB"),
        "f-clear.png": (_encoded(clear, "PNG"), "is transparent"),
        "g-moving.gif": (
            _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
            "is animated",
        ),
    }
    for name, (data, _) in contents.items():
        (path / name).write_bytes(data)
    return {name: reason for name, (_, reason) in contents.items()}


def test_damaged_images_are_named_and_counted(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    wanted = _damaged_files(tmp_path)
    (tmp_path / "z" / "whole.png").write_bytes(_png(_pixels(1)[0]))
    source = open_images(tmp_path, skip_damaged=True)
    assert len(_read(source)) == 1
    assert [one.name for one in source.damaged] == sorted(wanted)
    for one in source.damaged:
        assert one.reason.startswith(wanted[one.name])
    with pytest.raises(
        DamagedImages, match=r"1 of 8 images cannot be used: a-empty.png is empty. Replace them"
    ):
        _read(open_images(tmp_path))


def test_links_do_not_lead_out_of_a_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(_png(_pixels(1)[0]))
    inside = _folder(tmp_path / "inside", _pixels(2))
    (inside / "way.png").symlink_to(outside)
    (inside / "lost.png").symlink_to(tmp_path / "nothing")
    source = open_images(inside, skip_damaged=True)
    assert len(_read(source)) == 2
    assert {str(one) for one in source.damaged} >= {"way.png is a link out of the folder"}
    assert len(source.damaged) == 2


def test_opaque_images_lose_their_alpha_and_palettes_become_colours() -> None:
    pixels = _pixels(1)[0]
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    assert np.array_equal(decode(_encoded(image.convert("RGBA"), "PNG")), pixels)
    assert decode(_encoded(image.convert("P"), "PNG")).shape == (3, 6, 5)
    assert decode(_encoded(image.convert("1"), "PNG")).shape == (1, 6, 5)
    assert decode(_encoded(image.convert("LA"), "PNG")).shape == (1, 6, 5)
    with pytest.raises(Unreadable, match="is empty"):
        decode(b"")


def test_images_of_two_sizes_are_refused_by_number(tmp_path: Path) -> None:
    _folder(tmp_path, _pixels(3))
    (tmp_path / "1" / "odd.png").write_bytes(_png(_pixels(1, 1)[0]))
    with pytest.raises(
        ValueError, match=r"image 3 is 5×6 with 1 channel and the first is 5×6 with 3 channels"
    ):
        _read(open_images(tmp_path))


def test_what_is_not_there_or_holds_nothing_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    for name in ("a.zip", "a.parquet", "a.npz"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    np.savez(tmp_path / "two.npz", first=_pixels(2), second=_pixels(2))
    np.savez(tmp_path / "floats.npz", np.zeros((2, 3, 4, 4)))
    np.savez(tmp_path / "odd.npz", np.zeros((2, 5, 4, 4), np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    pq.write_table(pa.table({"label": [1, 2]}), tmp_path / "labels.parquet")
    for where, words in (
        ("nowhere", "There are no images at"),
        ("empty", "holds no images"),
        ("text.txt", "is no folder, and no file that ends in"),
        ("a.zip", "is no zip archive"),
        ("a.parquet", "is no parquet file"),
        ("a.npz", "holds no plain arrays"),
        ("two.npz", "holds the arrays first, second: name one with --column"),
        ("floats.npz", "images are uint8 from 0 to 255"),
        ("odd.npz", "images have 1 or 3 channels"),
        ("objects.npy", "holds no plain arrays"),
        ("labels.parquet", "not exactly one column of images: those with encoded images are: none"),
    ):
        with pytest.raises(ValueError, match=words):
            open_images(tmp_path / where)
    _folder(tmp_path / "few", _pixels(2))
    with pytest.raises(ValueError, match="holds 2 images, and 3 are asked for"):
        open_images(tmp_path / "few", n=3)
    assert len(open_images(tmp_path / "two.npz", column="second")) == 2


def _seeded(seeds: Sequence[int]) -> torch.Tensor:
    return torch.stack([torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(s)) for s in seeds])


def test_a_function_is_called_with_a_seed_for_each_image() -> None:
    """Image i does not depend on how many are asked for, and depends on the seed."""
    many, few = FunctionImages(_seeded, 100, 3), FunctionImages(_seeded, 5, 3)
    assert np.array_equal(_read(many, 64)[:5], _read(few))
    assert not np.array_equal(_read(few), _read(FunctionImages(_seeded, 5, 4)))


def test_a_function_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_generator")
    module.sample, module.value = _seeded, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_generator", module)
    assert len(_read(open_images("a_generator:sample", n=3))) == 3
    for name, words in (
        ("a_generator:sampel", "cannot be imported"),
        ("no_module_of_this_name:sample", "cannot be imported"),
        ("a_generator:value", "is a int, and images are made by a function"),
    ):
        with pytest.raises(ValueError, match=words):
            open_images(name, n=3)
    with pytest.raises(ValueError, match="say how many with --n"):
        open_images("a_generator:sample")


def test_floats_are_rounded_and_never_wrapped() -> None:
    """0.999 is 255 and not 254; 1.01 and −0.01 are refused and do not become 1 and 254."""
    found = quantised(np.array([0.0, 0.5 / 255, 1.5 / 255, 0.999, 1.0]), "mine")
    assert found.tolist() == [0, 0, 2, 255, 255]
    for bad, words in ((1.01, "gives 0 to 1.01"), (-0.01, "gives -0.01 to 0"), (np.nan, "NaN or infinity")):
        with pytest.raises(ValueError, match=words):
            quantised(np.array([bad]), "mine")
    with pytest.raises(ValueError, match="gives int64"):
        quantised(np.array([3]), "mine")


def test_a_function_that_makes_another_number_is_refused() -> None:
    with pytest.raises(ValueError, match="made 2 images of 3 seeds"):
        _read(FunctionImages(lambda seeds: _seeded(seeds[1:]), 3))


def test_damaged_says_name_and_reason() -> None:
    assert str(DamagedImages([Damaged(f"{i}.png", "is empty") for i in range(5)], 9)).startswith(
        "5 of 9 images cannot be used: 0.png is empty; 1.png is empty; 2.png is empty; and 2 more."
    )
