"""Protects the Fréchet distance: closed forms, its error, and what debiasing removes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics.frechet import FrechetEstimate, frechet_distance, group_frechet
from bench.metrics.moments import BlockMoments, Moments


def _exact(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    return Moments(2, mean, covariance)  # n − 1 = 1: the scatter is the covariance


def _orthogonal(d: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_covariances_that_commute_have_a_closed_form(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    q, a, b = _orthogonal(d, rng), rng.uniform(0.1, 4, d), rng.uniform(0.1, 4, d)
    shift = rng.normal(size=d)
    found = frechet_distance(_exact(np.zeros(d), q * a @ q.T), _exact(shift, q * b @ q.T))
    expected = shift @ shift + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert found.value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.method == "cholesky"


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(3, 40))
def test_it_is_symmetric_zero_to_itself_and_never_negative(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (Moments.of(rng.normal(size=(n, 8)) @ rng.normal(size=(8, 8))) for _ in range(2))
    assert frechet_distance(x, y).value == pytest.approx(frechet_distance(y, x).value, rel=1e-7, abs=1e-7)
    assert abs(frechet_distance(x, x).value) < 1e-6
    assert frechet_distance(x, y).value > -1e-8


def test_a_shift_adds_its_square() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6))
    assert frechet_distance(Moments.of(x), Moments.of(x + 2.0)).value == pytest.approx(6 * 4.0, rel=1e-9)


def test_fewer_samples_than_dimensions_take_the_centred_rows() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 50)), rng.normal(size=(400, 50))
    found = frechet_distance(Moments.of(x), Moments.of(y))
    assert found.method == "centred-rows"
    # The truth from the data itself: tr (Σ_a Σ_b)^{1/2} is the nuclear norm of the centred product.
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    shift = x.mean(0) - y.mean(0)
    expected = shift @ shift + (a**2).sum() + (b**2).sum() - 2 * root
    assert found.value == pytest.approx(expected, rel=1e-10)


def test_a_dimension_without_variance_is_no_trouble() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(200, 4)), np.ones((200, 1))], 1)
    found = frechet_distance(Moments.of(x), Moments.of(x + 1.0))
    assert found.method == "rank-revealing"
    assert found.value == pytest.approx(5.0, rel=1e-9)


def test_a_pivot_lost_in_rounding_is_not_trusted() -> None:
    """Cholesky gets through this singular matrix by rounding alone; its last column would be noise."""
    singular = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-15]])
    np.linalg.cholesky(singular)
    found = frechet_distance(_exact(np.zeros(2), singular), _exact(np.zeros(2), np.eye(2)))
    assert found.method == "rank-revealing"
    assert found.value == pytest.approx(2 + 2 - 2 * np.sqrt(2), rel=1e-12)


def test_different_features_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared: use one network"):
        frechet_distance(Moments.of(np.eye(3)), Moments.of(np.eye(4)))


@pytest.mark.parametrize(
    "scatter", [-np.eye(3), np.diag([1.0, 1.0, -0.1]), np.array([[1.0, 0.9, 0], [0, 1, 0], [0, 0, 1]])]
)
def test_a_scatter_that_no_features_have_is_refused_on_either_side(scatter: np.ndarray) -> None:
    broken, sound = _exact(np.zeros(3), scatter), _exact(np.zeros(3), np.eye(3))
    for pair in ((broken, sound), (sound, broken)):
        with pytest.raises(ValueError, match="no features have it: compute the moments again"):
            frechet_distance(*pair)


def test_features_that_are_all_the_same_have_a_distance() -> None:
    point, sound = _exact(np.ones(3), np.zeros((3, 3))), _exact(np.zeros(3), np.diag([1.0, 2.0, 3.0]))
    assert frechet_distance(point, sound).value == pytest.approx(3 + 6, rel=1e-12)
    assert frechet_distance(sound, point).value == pytest.approx(3 + 6, rel=1e-12)


def _blocks(x: np.ndarray, block: int) -> BlockMoments:
    moments = BlockMoments(block, x.shape[1])
    moments.add(0, x)
    return moments


@functools.cache
def _draws(trials: int) -> tuple[np.ndarray, float]:
    """Estimates from `trials` draws of two groups of 200 in 6 dimensions, and the true distance."""
    rng = np.random.default_rng(0)
    d, scale, shift = 6, np.linspace(0.7, 1.3, 6), 0.4
    truth = d * shift**2 + ((scale - 1.0) ** 2).sum()
    reference, rows = _exact(np.zeros(d), np.eye(d)), []
    for _ in range(trials):
        x = rng.normal(size=(400, d)) * scale + shift
        found = group_frechet(_blocks(x, 10), group_size=200, blocks_per_group=20, reference=reference)
        rows.append(
            [found.value, found.low, found.high, found.debiased, found.debiased_low, found.debiased_high]
        )
    return np.array(rows), float(truth)


def test_the_bias_is_seen_and_removed() -> None:
    rows, truth = _draws(200)
    error = rows[:, 0].std() / np.sqrt(len(rows))
    assert rows[:, 0].mean() - truth > 4 * error
    assert abs(rows[:, 3].mean() - truth) < 4 * error
    assert abs(rows[:, 3].mean() - truth) < 0.3 * (rows[:, 0].mean() - truth)


def _coverage(trials: int) -> tuple[float, float]:
    rows, truth = _draws(trials)
    expected = rows[:, 0].mean()
    of_n = np.mean((rows[:, 1] <= expected) & (expected <= rows[:, 2]))
    of_truth = np.mean((rows[:, 4] <= truth) & (truth <= rows[:, 5]))
    return float(of_n), float(of_truth)


def test_the_intervals_cover_about_as_often_as_they_say() -> None:
    for coverage in _coverage(200):
        assert 0.90 <= coverage <= 0.99


@pytest.mark.campaign
def test_the_intervals_cover_over_many_draws() -> None:
    for coverage in _coverage(4000):
        assert 0.93 <= coverage <= 0.97


def test_groups_are_averaged() -> None:
    x = np.random.default_rng(3).normal(size=(400, 4))
    reference = Moments.of(np.random.default_rng(4).normal(size=(900, 4)))
    both = group_frechet(_blocks(x, 10), group_size=200, blocks_per_group=20, reference=reference)
    halves = [frechet_distance(Moments.of(half), reference).value for half in np.split(x, 2)]
    assert both.value == pytest.approx(np.mean(halves), rel=1e-9)
    assert (both.n, both.groups) == (400, 2)
    parts = [_estimate(half, reference) for half in np.split(x, 2)]
    assert both.standard_error == pytest.approx(np.hypot(*(p.standard_error for p in parts)) / 2, rel=1e-9)


def _estimate(x: np.ndarray, reference: Moments) -> FrechetEstimate:
    return group_frechet(_blocks(x, 10), group_size=200, blocks_per_group=20, reference=reference)


def test_the_jackknife_needs_several_blocks() -> None:
    blocks = _blocks(np.random.default_rng(0).normal(size=(200, 3)), 200)
    with pytest.raises(ValueError, match="1 is too few"):
        group_frechet(blocks, group_size=200, blocks_per_group=1, reference=Moments.of(np.eye(3)))


@pytest.mark.parametrize(("images", "block"), [(190, 10), (195, 10), (205, 10), (200, 20), (0, 10)])
def test_a_broken_group_is_refused(images: int, block: int) -> None:
    blocks = _blocks(np.random.default_rng(0).normal(size=(images, 3)), block)
    with pytest.raises(ValueError, match=r"group of 200|whole groups of 200"):
        group_frechet(blocks, group_size=200, blocks_per_group=20, reference=Moments.of(np.eye(3)))
