"""Two models against one reference: what cancels, what pairing buys, and that the interval covers."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.mmd import Gaussian, kid, mmd
from bench.metrics.mmd_difference import mmd_difference
from tests.bench.metrics.test_mmd import cubic_expectation

D = 8


def draw(n: int, rng: np.random.Generator, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Two models that start from the same noise: x ~ N(0.3, 1), x′ ~ N(0.3 + shift, 1.04)."""
    noise = rng.normal(size=(n, D))
    return noise + 0.3, noise + 0.2 * rng.normal(size=(n, D)) + 0.3 + shift


def true_difference(shift: float) -> float:
    one, two, real = np.full(D, 0.3), np.full(D, 0.3 + shift), np.zeros(D)
    s = np.sqrt(1.04)
    first = cubic_expectation(one, 1, one, 1) - 2 * cubic_expectation(one, 1, real, 1)
    return first - cubic_expectation(two, s, two, s) + 2 * cubic_expectation(two, s, real, 1)


@pytest.mark.parametrize("paired", [True, False])
def test_the_difference_is_that_of_both_distances(paired: bool) -> None:
    rng = np.random.default_rng(0)
    (x, z), y = draw(60, rng, 0.2), rng.normal(size=(70, D))
    found = mmd_difference(x, z, y, paired=paired)
    assert found.value == pytest.approx(kid(x, y).value - kid(z, y).value, rel=1e-9)
    found = mmd_difference(x, z, y, Gaussian(2.0), scale=1000.0, paired=paired)
    both = [mmd(each, y, Gaussian(2.0), scale=1000.0).value for each in (x, z)]
    assert found.value == pytest.approx(both[0] - both[1], rel=1e-9)


def test_exchanging_the_models_changes_the_sign_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    (x, z), y = draw(60, rng, 0.2), rng.normal(size=(70, D))
    a, b = mmd_difference(x, z, y), mmd_difference(z, x, y)
    assert (a.value, a.low) == pytest.approx((-b.value, -b.high), rel=1e-9)


def test_one_model_twice_differs_by_exactly_nothing() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, D)), rng.normal(size=(70, D))
    found = mmd_difference(x, x, y)
    assert (found.value, found.standard_error) == (0.0, 0.0)
    assert found.unpaired_error > 0


def covered(draws: int, n: int, shift: float) -> tuple[float, float, float]:
    """Coverage of the paired interval; its error, and the unpaired one, over the actual spread."""
    rng = np.random.default_rng(1)
    found = [mmd_difference(*draw(n, rng, shift), rng.normal(size=(n, D))) for _ in range(draws)]
    true = true_difference(shift)
    spread = np.std([each.value for each in found])
    inside = np.mean([each.low <= true <= each.high for each in found])
    paired = np.mean([each.standard_error for each in found])
    return float(inside), float(paired / spread), float(np.mean([f.unpaired_error for f in found]) / spread)


def test_the_paired_interval_covers_and_is_the_narrower_one() -> None:
    inside, ratio, unpaired = covered(150, 120, 0.1)
    assert 0.90 <= inside <= 0.99
    assert 0.85 < ratio < 1.25
    assert unpaired > 2 * ratio


@pytest.mark.campaign
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_the_paired_interval_covers_in_full(shift: float) -> None:
    inside, ratio, unpaired = covered(2000, 300, shift)
    print(
        f"shift {shift}: {inside:.4f} covered, paired error {ratio:.3f} and unpaired {unpaired:.3f} of spread"
    )
    assert 0.935 <= inside <= 0.985
    assert ratio < unpaired


def test_rows_that_cannot_be_paired_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(20, D))
    with pytest.raises(ValueError, match="same seeds, or pass paired=False"):
        mmd_difference(x, x[:10], x)
    assert not mmd_difference(x, x[:10], x, paired=False).paired
    with pytest.raises(ValueError, match="second features of 3"):
        mmd_difference(x, x[:, :3], x)
