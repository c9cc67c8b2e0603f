"""Protects resize policies, which are other packages' own, and feature networks of one's own."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.metrics.features import feature_network
from bench.metrics.fingerprint import fingerprint
from bench.metrics.own_features import OwnFeatures
from bench.metrics.resize import policy

IMAGES = torch.randint(0, 256, (3, 3, 20, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_clean_bicubic_is_that_of_clean_fid() -> None:
    from cleanfid.resize import build_resizer

    theirs = build_resizer("clean")
    found = policy("clean-bicubic")(IMAGES, 299)
    for mine, image in zip(found, IMAGES, strict=True):
        assert np.array_equal(mine.permute(1, 2, 0).numpy(), theirs(image.permute(1, 2, 0).numpy()))


def test_tf_bilinear_keeps_the_corner_and_aligns_it_with_the_first_pixel() -> None:
    """Doubling a row 0, 100: TensorFlow 1 gives 0, 50, 100, 100, where centred resizing does not."""
    row = torch.tensor([0, 100], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 2, 2)
    found = policy("tf-bilinear")(row, 4)
    assert found[0, 0, 0].tolist() == [0.0, 50.0, 100.0, 100.0]


def test_none_takes_one_size_only() -> None:
    square = IMAGES[..., :20]
    assert torch.equal(policy("none")(square, 20), square.float())
    with pytest.raises(ValueError, match="takes 32×32 images as they are"):
        policy("none")(square, 32)
    with pytest.raises(ValueError, match="Did you mean 'tf-bilinear'"):
        policy("tf-bilinaer")


class Means(nn.Module):
    """Means of channels, weighed."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), weight))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().mean((2, 3)) * self.weight


def _closed(weight: Any) -> Callable[[Tensor], Tensor]:
    """A function over what it closes over."""

    def features(pixels: Tensor) -> Tensor:
        return pixels.float().mean((2, 3)) * (weight(pixels) if callable(weight) else weight)

    return features


def _flat(pixels: Tensor) -> Tensor:
    return pixels.float().mean((1, 2, 3))


def test_a_module_is_known_by_its_weights_and_a_function_by_its_source() -> None:
    assert fingerprint(Means()) == fingerprint(Means())
    assert fingerprint(Means()) != fingerprint(Means(2.0))
    assert fingerprint(_flat) != fingerprint(lambda pixels: pixels)
    first, second = (nn.Sequential(nn.Flatten(), layer) for layer in (nn.ReLU(), nn.GELU()))
    assert fingerprint(first) != fingerprint(second)  # equal weights, of which there are none
    assert fingerprint(_closed(1.0)) == fingerprint(_closed(1.0))
    assert fingerprint(_closed(torch.ones(3))) != fingerprint(_closed(torch.zeros(3)))
    assert fingerprint(_closed(Means())) == fingerprint(_closed(Means())) != fingerprint(_closed(Means(2.0)))
    found = OwnFeatures(Means(), "mine:Means")
    assert torch.allclose(found.extract(IMAGES), IMAGES.float().mean((2, 3)))
    assert (found.metric, found.dims) == ("FD-Means", 3)
    assert fingerprint(Means())[:12] in found.identity
    assert OwnFeatures(Means()).extract(IMAGES[:0]).shape[0] == 0
    assert torch.equal(feature_network(Means()).extract(IMAGES), found.extract(IMAGES))
    assert feature_network(found) is found


def test_one_is_imported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_features")
    module.Means, module.number = Means, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_features", module)
    assert feature_network("my_features:Means").extract(IMAGES).shape == (3, 3)
    with pytest.raises(ValueError, match="cannot be imported"):
        feature_network("my_features:Maens")
    with pytest.raises(ValueError, match="is a int, and features are made by"):
        feature_network("my_features:number")


def test_rows_that_are_none_are_refused() -> None:
    """A one-dimensional buffer would give a distance near zero and no error."""
    for function in (_flat, lambda pixels: _flat(pixels)[:, None], lambda pixels: pixels[:1, :, 0, 0]):
        with pytest.raises(ValueError, match="features are"):
            OwnFeatures(function).extract(IMAGES)


def test_packaged_networks_take_no_weights() -> None:
    with pytest.raises(ValueError, match="leave --weights out"):
        feature_network("digits-features", "file")
