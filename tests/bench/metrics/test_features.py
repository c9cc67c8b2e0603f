"""Protects the digit features: the committed weights, independence of the batch, and that they see faults."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load

from bench import data
from bench.metrics import feature_names
from bench.metrics.features import DigitsNetwork, feature_network
from bench.metrics.frechet import frechet_distance
from bench.metrics.moments import Moments
from bench.metrics.train_digits_features import accuracy, shifted


def _pixels(split: str = "test") -> torch.Tensor:
    return torch.from_numpy(getattr(data.load("digits"), split))


def test_the_committed_weights_are_the_ones_named_and_small() -> None:
    name = feature_names.find("digits-features")
    weights = name.read()
    assert len(weights) <= 200_000
    assert hashlib.sha256(weights).hexdigest() == name.sha256


def test_altered_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="install noisebench again"):
        replace(feature_names.find("digits-features"), sha256="0" * 64).read()


def test_the_network_recognises_unseen_digits() -> None:
    network = DigitsNetwork().eval()
    network.load_state_dict(load(feature_names.find("digits-features").read()))
    assert accuracy(network) >= 0.975


def test_a_feature_does_not_depend_on_its_batch() -> None:
    network, pixels = feature_network("digits-features"), _pixels()
    whole = network.extract(pixels)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.extract(pixels[order]), whole[order])
    assert torch.equal(torch.cat([network.extract(part) for part in pixels.split(7)]), whole)
    assert whole.dtype == torch.float32
    assert whole.shape == (360, network.dims)


def test_the_features_of_real_digits_span_all_dimensions() -> None:
    moments = Moments.of(feature_network("digits-features").extract(_pixels("train")).numpy())
    assert np.linalg.cond(moments.covariance()) < 1e5


def _distance(pixels: np.ndarray) -> float:
    network = feature_network("digits-features")
    reference = Moments.of(network.extract(_pixels("train")).numpy())
    generated = Moments.of(network.extract(torch.from_numpy(pixels.astype(np.uint8))).numpy())
    return frechet_distance(generated, reference).value


def test_worse_images_are_farther_away() -> None:
    digits, rng = data.load("digits"), np.random.default_rng(0)
    test = digits.test.astype(float)
    noisy = [np.clip(np.rint(test + rng.normal(0, s, test.shape)), 0, 16) for s in (1.0, 2.0, 4.0)]
    shuffled = rng.permuted(digits.train.reshape(1437, -1), axis=0)[:360].reshape(360, 1, 8, 8)
    uniform = rng.integers(0, 17, test.shape)
    distances = [_distance(x) for x in (digits.test, *noisy, shuffled, uniform)]
    assert distances == sorted(distances)
    assert distances[0] < distances[2] / 2
    assert distances[-1] > 20 * distances[0]


def test_missing_classes_are_seen() -> None:
    digits = data.load("digits")
    assert _distance(digits.train[digits.train_labels == 1]) > 20 * _distance(digits.test)
    assert _distance(digits.train[digits.train_labels != 3][:360]) > 1.5 * _distance(digits.test)


@pytest.mark.parametrize(
    "pixels", [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8)]
)
def test_images_it_was_not_made_for_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="takes uint8"):
        feature_network("digits-features").extract(pixels)


def test_pixels_beyond_the_levels_of_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="levels 0…16, and a pixel is 17"):
        feature_network("digits-features").extract(torch.full((1, 1, 8, 8), 17, dtype=torch.uint8))


def test_an_unknown_network_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="Did you mean 'digits-features'"):
        feature_network("digit-features")


def test_shifting_moves_by_at_most_one_pixel() -> None:
    x = torch.full((200, 1, 8, 8), -1.0)
    x[:, :, 4, 4] = 1.0
    moved = shifted(x, torch.Generator().manual_seed(0))
    places = {tuple(place) for place in (moved[:, 0] == 1.0).nonzero()[:, 1:].tolist()}
    assert places == {(r, c) for r in (3, 4, 5) for c in (3, 4, 5)}
    assert (moved == 1.0).sum() == 200


def test_pooled_pixels_are_the_means_of_tiles_whatever_the_batch() -> None:
    """Sixteen means a channel in [0, 1], bit for bit the same alone and among others."""
    network = feature_network("pooled-pixels")
    pixels = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    found = network.extract(pixels)
    assert found.shape == (9, 48)
    assert torch.allclose(found[2, 0], pixels[2, 0, :8, :8].float().mean() / 255)
    assert torch.equal(torch.cat([network.extract(image[None]) for image in pixels]), found)
    assert (network.metric, network.identity, network.classes) == ("FD-pixels", "pooled-pixels", 0)
    with pytest.raises(ValueError, match="4×4 pixels or more"):
        network.extract(torch.zeros(1, 1, 3, 3, dtype=torch.uint8))
    with pytest.raises(TypeError, match="knows no classes"):
        network.classify(pixels)


def test_the_digits_network_tells_digits_apart() -> None:
    digits = data.load("digits")
    guesses = feature_network("digits-features").classify(torch.from_numpy(digits.test)).argmax(1)
    assert float((guesses.numpy() == digits.test_labels).mean()) > 0.95
