"""Sliced Wasserstein where it is known, against scipy on one axis, and its two errors apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from bench.metrics.sliced_wasserstein import Coupling, sliced_wasserstein, unit_directions


def test_a_shift_of_all_rows_counts_its_square_on_every_direction() -> None:
    x, shift = np.random.default_rng(0).normal(size=(60, 5)), np.array([1.0, 0, -2, 0, 0.5])
    found = sliced_wasserstein(x, x + shift, directions=64, seed=3)
    along = unit_directions(64, 5, 3) @ shift
    assert found.value == pytest.approx((along**2).mean(), rel=1e-10)
    assert found.direction_error == pytest.approx((along**2).std(ddof=1) / 8, rel=1e-9)


def test_shifted_gaussians_are_as_far_apart_as_theory_says() -> None:
    """|δ|²/d for equal covariances, (s − t)² for scales; n is large enough for the bias to be small."""
    rng, shift = np.random.default_rng(0), np.full(8, 0.5)
    found = sliced_wasserstein(rng.normal(size=(4000, 8)) + shift, rng.normal(size=(5000, 8)), directions=300)
    assert found.low < 0.25 < found.high
    assert found.standard_error < 0.04
    found = sliced_wasserstein(2 * rng.normal(size=(4000, 8)), rng.normal(size=(5000, 8)), directions=64)
    assert found.value == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 8), (7, 10), (1, 6)])
def test_one_axis_is_the_optimal_assignment(n: int, m: int) -> None:
    """Unequal sets too: rows are repeated to a common number and assigned at least cost."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(max(n, 2), 1)), rng.normal(size=(m, 1))
    common = np.lcm(len(x), m)
    cost = (np.repeat(x, common // len(x))[:, None] - np.repeat(y, common // m)[None]) ** 2
    rows, columns = linear_sum_assignment(cost)
    found = sliced_wasserstein(x, y, directions=2)
    assert found.value == pytest.approx(cost[rows, columns].mean(), rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 4), (50_000, 49_999)])
def test_the_plan_moves_each_row_s_whole_mass(n: int, m: int) -> None:
    plan = Coupling.of(n, m)
    np.testing.assert_allclose(np.bincount(plan.i, plan.mass), np.full(n, 1 / n), rtol=1e-9)
    np.testing.assert_allclose(np.bincount(plan.j, plan.mass), np.full(m, 1 / m), rtol=1e-9)


def test_identical_sets_are_at_distance_zero() -> None:
    x = np.random.default_rng(0).normal(size=(30, 4))
    found = sliced_wasserstein(x, x[::-1])
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.standard_error < 1e-15


def test_the_seed_fixes_the_value_and_the_global_generator_does_not() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)) + 0.3
    np.random.seed(1)  # noqa: NPY002
    first = sliced_wasserstein(x, y, directions=16, seed=5)
    np.random.seed(2)  # noqa: NPY002
    assert sliced_wasserstein(x, y, directions=16, seed=5) == first
    assert sliced_wasserstein(x, y, directions=16, seed=6).value != first.value
    np.testing.assert_array_equal(unit_directions(4, 6, 5), unit_directions(16, 6, 5)[:4])


def test_more_directions_remove_their_error_and_not_that_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)) + 2 * np.eye(6)[0], rng.normal(size=(200, 6))
    few, many = (sliced_wasserstein(x, y, directions=n) for n in (50, 800))
    assert few.direction_error / many.direction_error == pytest.approx(4, rel=0.3)
    assert few.sample_error / many.sample_error == pytest.approx(1, rel=0.3)
    assert many.standard_error == pytest.approx(np.hypot(many.direction_error, many.sample_error))


def covered(draws: int, n: int, m: int, directions: int) -> tuple[float, float]:
    """Share of intervals that hold the mean at this n and m, new samples and directions in every draw."""
    rng, scales = np.random.default_rng(4), np.linspace(0.5, 1.5, 5)
    found = [
        sliced_wasserstein(
            rng.normal(size=(n, 5)) + 0.4,
            scales * rng.exponential(size=(m, 5)),
            directions=directions,
            seed=i,
        )
        for i in range(draws)
    ]
    values = np.array([each.value for each in found])
    inside = np.mean([each.low <= values.mean() <= each.high for each in found])
    return float(inside), float(np.mean([each.standard_error for each in found]) / values.std())


def test_the_interval_covers_the_value_at_this_n() -> None:
    inside, ratio = covered(150, 120, 150, 48)
    assert 0.90 <= inside <= 0.99
    assert 0.85 < ratio < 1.2


@pytest.mark.campaign
@pytest.mark.parametrize("directions", [16, 256])
def test_the_interval_covers_in_full(directions: int) -> None:
    inside, ratio = covered(1000, 400, 300, directions)
    print(f"{directions} directions: {inside:.4f} covered, error over spread {ratio:.3f}")
    assert 0.92 <= inside <= 0.975


def test_bad_input_gets_a_sentence() -> None:
    x = np.zeros((5, 3))
    with pytest.raises(ValueError, match="at least 2 of them, not 1"):
        sliced_wasserstein(x, x, directions=1)
    with pytest.raises(ValueError, match="of 3 and real features of 2 dimensions"):
        sliced_wasserstein(x, x[:, :2])
    with pytest.raises(ValueError, match="2 of 5 real rows hold NaN"):
        sliced_wasserstein(x, np.where(np.arange(5)[:, None] < 2, np.nan, x))
