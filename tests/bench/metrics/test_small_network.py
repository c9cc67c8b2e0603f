"""Protects the small feature networks: committed weights, batches, and that they tell classes apart."""

from __future__ import annotations

import os

import pytest
import torch

from bench import data
from bench.data.hub import VARIABLE
from bench.metrics.features import feature_network
from bench.metrics.train_features import RECIPES, varied

SHAPES = {"mnist-features": (1, 28, 28), "cifar10-features": (3, 32, 32)}


@pytest.mark.parametrize("name", SHAPES)
def test_the_committed_weights_are_those_named_and_batches_do_not_matter(name: str) -> None:
    network, generator = feature_network(name), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (70, *SHAPES[name]), generator=generator, dtype=torch.uint8)
    whole = network.extract(pixels)
    assert whole.shape == (70, network.dims)
    assert torch.equal(network.extract(pixels[66:67])[0], whole[66])
    assert network.classify(pixels[:3]).shape == (3, 10)
    assert float(torch.linalg.matrix_rank(torch.cov(network.extract(pixels).double().T))) == 69
    assert network.metric == f"FD-{name.partition('-')[0]}"
    with pytest.raises(ValueError, match="use a feature network made for these images"):
        network.extract(pixels[..., 1:])


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder of data sets")
@pytest.mark.parametrize(("name", "least"), [("mnist-features", 0.985), ("cifar10-features", 0.70)])
def test_they_tell_classes_apart(name: str, least: float) -> None:
    images, network = data.load(name.partition("-")[0]), feature_network(name)
    said = network.classify(torch.from_numpy(images.test[:2000])).argmax(1)
    assert float((said == torch.from_numpy(images.test_labels[:2000])).float().mean()) > least


def test_training_images_are_moved_and_mirrored_within_bounds() -> None:
    """A dot moves by two pixels at most, and half the images are turned where that is allowed."""
    x = torch.zeros(400, 1, 9, 9)
    x[:, 0, 4, 4] = 1.0
    x[:, 0, 4, 5] = 0.5  # to the right of the dot
    generator = torch.Generator().manual_seed(0)
    for mirrored, share in ((False, 0.0), (True, 0.5)):
        found = varied(x, mirrored, generator)
        dot = (found[:, 0] == 1.0).flatten(1).float().argmax(1)
        rows, columns = dot // 9, dot % 9
        assert int(rows.min()) == int(columns.min()) == 2
        assert int(rows.max()) == int(columns.max()) == 6
        turned = torch.stack([found[i, 0, rows[i], columns[i] - 1] for i in range(400)]) == 0.5
        assert float(turned.float().mean()) == pytest.approx(share, abs=0.1)
    assert set(RECIPES) == {"mnist", "cifar10"}
