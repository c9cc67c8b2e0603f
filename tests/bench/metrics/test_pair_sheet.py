"""The picture of nearest pairs: the right images side by side, and nothing else."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bench.metrics.memorisation import NearestPairs, nearest_pairs
from bench.metrics.pair_sheet import pair_sheet


def images() -> tuple[np.ndarray, np.ndarray, NearestPairs]:
    """Six generated images, of which 4 and 1 are training images 2 and 7."""
    rng = np.random.default_rng(0)
    x, t, h = (rng.integers(0, 256, (n, 3, 5, 6), dtype=np.uint8) for n in (6, 9, 8))
    x[4], x[1] = t[2], t[7]
    pairs = nearest_pairs(*(each.reshape(len(each), -1) for each in (x, t, h)), count=3)
    return x, t, pairs


def decoded(sheet: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sheet)).convert("RGBA"))


def test_every_pair_is_shown_with_the_training_image_on_the_right() -> None:
    x, t, pairs = images()
    assert set(pairs.generated[:2].tolist()) == {1, 4}
    canvas = decoded(pair_sheet(x, t, pairs, columns=2, scale=1))
    assert canvas.shape == (5 + 1 + 5, 12 + 1 + 12, 4)
    places = [(0, 0), (0, 13), (6, 0)]
    for (top, left), g, r in zip(places, pairs.generated, pairs.training, strict=True):
        for offset, image in ((0, x[g]), (6, t[r])):
            shown = canvas[top : top + 5, left + offset : left + offset + 6]
            np.testing.assert_array_equal(shown[..., :3], image.transpose(1, 2, 0))
            assert (shown[..., 3] == 255).all()
    assert (canvas[:, 12, 3] == 0).all()  # pairs are apart


def test_the_same_pixels_give_the_same_bytes_from_arrays_and_tensors() -> None:
    x, t, pairs = images()
    first = pair_sheet(x, t, pairs)
    assert pair_sheet(torch.from_numpy(x), torch.from_numpy(t), pairs) == first


def test_images_that_are_not_those_of_the_pairs_are_refused() -> None:
    x, t, pairs = images()
    with pytest.raises(ValueError, match="differ in shape"):
        pair_sheet(x, t[:, :, :4], pairs)
    with pytest.raises(ValueError, match="point beyond 2 generated"):
        pair_sheet(x[:2], t, pairs)
    with pytest.raises(ValueError, match="must be uint8"):
        pair_sheet(x / 255.0, t, pairs)
