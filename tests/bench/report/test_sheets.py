"""Sample sheets show the pixels that were given, each of them, the same way every time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bench.present import best_cells
from bench.report.sheets import contact_sheet, nearest_in_pixels
from tests.bench.report.conftest import certificate_records, sweep_records, synthetic_records


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def digits(n: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (n, channels, 8, 6)).astype(np.uint8)


def test_size_is_tiles_and_gaps() -> None:
    assert opened(contact_sheet(digits(7), 17, columns=3, scale=4)).shape == (3 * 34 - 2, 3 * 26 - 2, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_where_it_belongs(channels: int) -> None:
    pixels = digits(5, channels)
    sheet = opened(contact_sheet(pixels, 17, columns=2, scale=3))
    expected = np.rint(pixels[3].astype(float) * 255 / 16).astype(np.uint8).transpose(1, 2, 0)
    assert (sheet[25:49:3, 19:37:3, :3] == expected).all()
    assert (sheet[25:49, 19:37, 3] == 255).all()


def test_gaps_and_empty_places_are_transparent() -> None:
    sheet = opened(contact_sheet(digits(3), 17, columns=2, scale=2))
    assert (sheet[16, :, 3] == 0).all()
    assert (sheet[17:, 13:, 3] == 0).all()


def test_same_pixels_same_bytes() -> None:
    assert contact_sheet(digits(9), 17) == contact_sheet(digits(9), 17)
    assert contact_sheet(digits(9), 17) != contact_sheet(digits(9)[::-1].copy(), 17)


@pytest.mark.parametrize(
    ("pixels", "options", "sentence"),
    [
        (np.zeros((2, 8, 8), np.uint8), {}, "shape"),
        (np.zeros((0, 1, 8, 8), np.uint8), {}, "n > 0"),
        (np.full((1, 1, 8, 8), 20, np.uint8), {"levels": 17}, "number of levels"),
        (np.zeros((1, 1, 8, 8), np.uint8), {"scale": 0}, "at least 1"),
    ],
)
def test_bad_input_is_one_sentence(pixels: np.ndarray, options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        contact_sheet(pixels, **options)


def test_floats_are_refused() -> None:
    with pytest.raises(TypeError, match="quantise"):
        contact_sheet(np.zeros((1, 1, 8, 8)))  # type: ignore[arg-type]


def test_sheets_are_of_the_cells_that_the_report_ranks() -> None:
    """Labels and keys of the best cells: options and grid are part of a label, certificates are no model."""
    records = [*synthetic_records(), *sweep_records(), *certificate_records()]
    odd = next(row for row in certificate_records() if row.metric == "sampler error")
    found = best_cells([*records, odd.replace(metric="FD-digits@360", value=0.0, low=0.0, high=0.1)])
    assert list(found)[:2] == ["rectified-flow · heun 50", "dit · ddim 50 w=1.5"]
    by_key = {row.cell_key: row for row in records}
    chosen = by_key[found["dit · ddim 50 w=1.5"]]
    assert (chosen.metric, chosen.sampler, chosen.steps, chosen.options) == ("FD-digits@360", "ddim", 50, "")
    assert len(found) == 6
    assert best_cells([]) == {}


def test_the_nearest_training_image_is_found_whatever_the_block() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (50, 1, 5, 5), dtype=np.uint8)
    images = np.concatenate([train[[7, 30]], rng.integers(0, 256, (3, 1, 5, 5), dtype=np.uint8)])
    squares = ((images[:, None].astype(int) - train[None].astype(int)) ** 2).sum((2, 3, 4))
    for block in (3, 50, 4096):
        assert nearest_in_pixels(images, train, block).tolist() == squares.argmin(1).tolist()
    twice = np.concatenate([train, train])
    assert nearest_in_pixels(images[:2], twice, 50).tolist() == [7, 30]
