"""Protects the influence values: the derivative of the distance, image by image."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.frechet import frechet_distance
from bench.metrics.frechet_influence import Influence, batches, largest_contributions, moments_of, transport
from bench.metrics.moments import Moments

D = 6


def _features(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) @ rng.normal(size=(D, D)) + rng.normal(size=D)


def _weighted(x: np.ndarray, weights: np.ndarray) -> Moments:
    """Moments of the law with weights on the rows: n covariances, so that covariance() is the law's own."""
    mean = weights @ x
    centred = x - mean
    return Moments(2, mean, (centred * weights[:, None]).T @ centred)


def test_influence_is_the_derivative_towards_each_image() -> None:
    """d/dε of the distance of (1 − ε) P + ε δ_x, by central differences."""
    x, y = _features(40, 0), _weighted(_features(50, 1), np.full(50, 1 / 50))
    flat, step = np.full(40, 1 / 40), 1e-5
    found = Influence.towards(Moments(100, *_law(x, flat)), y).values(x)
    for i in (0, 7, 39):
        toward = np.eye(40)[i] - flat
        ends = [frechet_distance(_weighted(x, flat + s * step * toward), y).value for s in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(found[i], rel=1e-5, abs=1e-5)


def _law(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one = _weighted(x, weights)
    return one.mean, one.scatter * 99


def test_the_map_takes_one_covariance_to_the_other() -> None:
    a, b = (Moments.of(_features(50, seed)).covariance() for seed in (2, 3))
    t = transport(a, b)
    np.testing.assert_allclose(t @ a @ t, b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(t, t.T, atol=1e-12)
    np.testing.assert_allclose(t @ transport(b, a), np.eye(D), atol=1e-9)


def test_the_map_of_a_singular_covariance_is_that_of_its_range() -> None:
    a, b = (Moments.of(_features(50, seed)).covariance() for seed in (2, 3))
    padded = [np.pad(cov, (0, 2)) for cov in (a, b)]
    np.testing.assert_allclose(transport(*padded)[:D, :D], transport(a, b), rtol=1e-8, atol=1e-8)


def test_their_mean_over_the_images_is_zero_and_batches_do_not_matter() -> None:
    x = _features(500, 4)
    influence = Influence.towards(Moments.of(x), Moments.of(_features(90, 5)))
    values = influence.values(x)
    scale = np.abs(values).max()
    assert abs(values.mean()) < 0.01 * scale  # n − 1 in the covariance, n in the mean
    streamed = influence.values(lambda: iter(np.array_split(x, 9)))
    np.testing.assert_allclose(streamed, values, rtol=0, atol=1e-12 * scale)


def test_streams_have_the_moments_of_arrays() -> None:
    x = _features(300, 6)
    one, two = moments_of(x), moments_of(lambda: (part for part in np.array_split(x, 7)))
    assert one.scatter.tobytes() == two.scatter.tobytes()
    assert sum(len(batch) for batch in batches(x.astype(np.float32))) == 300


def test_an_outlier_is_first_in_the_ranking_and_its_removal_helps() -> None:
    x, y = _features(200, 7), Moments.of(_features(400, 7))
    x[123] += 30.0
    values = Influence.towards(Moments.of(x), y).values(x)
    ranked = largest_contributions(values, 3)
    assert ranked[0][0] == 123
    assert ranked[0][1] > 5 * ranked[1][1]
    assert len(ranked) == 3
    without = frechet_distance(Moments.of(np.delete(x, 123, 0)), y).value
    assert without < frechet_distance(Moments.of(x), y).value
    assert largest_contributions(np.zeros(4), 2) == [(0, 0.0), (1, 0.0)]


def test_too_few_images_for_a_map_and_other_dimensions_are_refused() -> None:
    few, many = Moments.of(_features(D, 8)), Moments.of(_features(50, 9))
    with pytest.raises(ValueError, match="give more than 6 images"):
        Influence.towards(few, many)
    with pytest.raises(ValueError, match="use one network"):
        Influence.towards(many, Moments.of(np.ones((9, 3))))
