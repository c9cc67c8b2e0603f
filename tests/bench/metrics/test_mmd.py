"""The discrepancies against kernel expectations in closed form, and their errors against simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bench.metrics.mmd import Cubic, Gaussian, Kernel, cmmd, kid, mmd

Draw = Callable[[int, np.random.Generator], np.ndarray]


def cubic_expectation(mu: np.ndarray, s: float, nu: np.ndarray, t: float) -> float:
    """E (x·y/d + 1)³ − 1 for independent x ~ N(mu, s²I), y ~ N(nu, t²I), from Gaussian moments."""
    d, p = len(mu), mu @ nu
    second = p**2 + s**2 * nu @ nu + t**2 * mu @ mu + d * s**2 * t**2
    third = p**3 + 3 * p * (t**2 * mu @ mu + s**2 * nu @ nu) + 3 * (d + 2) * s**2 * t**2 * p
    return third / d**3 + 3 * second / d**2 + 3 * p / d


def gaussian_expectation(sigma: float, mu: np.ndarray, s: float, nu: np.ndarray, t: float) -> float:
    """E exp(−|x − y|²/2σ²) − 1 for the same."""
    width = sigma**2 + s**2 + t**2
    return (sigma**2 / width) ** (len(mu) / 2) * np.exp(-((mu - nu) ** 2).sum() / (2 * width)) - 1


def discrepancy(
    expectation: Callable[..., float], mu: np.ndarray, s: float, nu: np.ndarray, t: float
) -> float:
    return expectation(mu, s, mu, s) + expectation(nu, t, nu, t) - 2 * expectation(mu, s, nu, t)


def of_gaussian(mu: np.ndarray, s: float) -> Draw:
    return lambda n, rng: mu + s * rng.normal(size=(n, len(mu)))


def truths(name: str) -> tuple[Kernel, float, Draw, Draw]:
    """Kernel, true MMD² and both draws."""
    mu, nu = np.linspace(0.2, 1.0, 16), np.linspace(0.5, 0.7, 16)
    if name == "cubic":
        true = discrepancy(cubic_expectation, mu, 0.8, nu, 1.0)
        return Cubic(), true, of_gaussian(mu, 0.8), of_gaussian(nu, 1.0)
    if name == "gaussian":
        true = discrepancy(lambda *a: gaussian_expectation(3.0, *a), mu, 0.8, nu, 1.0)
        return Gaussian(3.0), true, of_gaussian(mu, 0.8), of_gaussian(nu, 1.0)
    # What real features are: not negative, skewed, and here of one distribution.
    skewed: Draw = lambda n, rng: np.maximum(rng.normal(size=(n, 16)) + 0.3, 0) ** 1.3  # noqa: E731
    return Cubic(), 0.0, skewed, skewed


def direct(x: np.ndarray, y: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The unbiased estimate, term by term from whole matrices."""
    n, m = len(x), len(y)
    kxx, kyy, kxy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (kxx.sum() - np.trace(kxx)) / (n * (n - 1)) + (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return float(within - 2 * kxy.mean())


def test_kid_is_the_sum_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(37, 5)), rng.normal(size=(23, 5)) + 0.4
    assert kid(x, y).value == pytest.approx(direct(x, y, lambda a, b: (a @ b.T / 5 + 1) ** 3), rel=1e-11)


@pytest.mark.parametrize("estimate", [kid, cmmd])
def test_the_value_does_not_depend_on_the_block(estimate: Callable[..., object]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 8)), rng.normal(size=(71, 8)) + 0.2
    whole = estimate(x, y)
    for block in (1, 7, 64, 71, 5000):
        other = estimate(x, y, block=block)
        assert other.value == pytest.approx(whole.value, rel=1e-11)  # type: ignore[attr-defined]
        assert other.standard_error == pytest.approx(whole.standard_error, rel=1e-9)  # type: ignore[attr-defined]


def test_the_value_is_the_same_bit_for_bit_without_any_seed() -> None:
    """No subset is drawn, so the global generator is neither read nor moved."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(60, 4))
    np.random.seed(1)  # noqa: NPY002
    first, state = kid(x, y), np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert kid(x, y) == first
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], state)  # noqa: NPY002


@pytest.mark.parametrize("name", ["cubic", "gaussian"])
def test_the_estimate_is_that_of_the_closed_form(name: str) -> None:
    kernel, true, draw_x, draw_y = truths(name)
    rng = np.random.default_rng(3)
    found = [mmd(draw_x(200, rng), draw_y(150, rng), kernel).value for _ in range(60)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - true) < 4 * error
    assert error < 0.1 * true  # sharp enough to see a wrong term


def covered(name: str, draws: int, n: int, m: int) -> tuple[float, float]:
    """Share of intervals that hold the truth, and mean error over actual spread."""
    kernel, true, draw_x, draw_y = truths(name)
    rng = np.random.default_rng(5)
    found = [mmd(draw_x(n, rng), draw_y(m, rng), kernel) for _ in range(draws)]
    errors = np.mean([each.standard_error for each in found])
    inside = np.mean([each.low <= true <= each.high for each in found])
    return float(inside), float(errors / np.std([each.value for each in found]))


@pytest.mark.parametrize("name", ["cubic", "gaussian"])
def test_intervals_cover_what_they_say(name: str) -> None:
    inside, ratio = covered(name, 150, 300, 200)
    assert 0.90 <= inside <= 0.99
    assert 0.85 < ratio < 1.2


def test_where_both_are_alike_the_interval_is_conservative() -> None:
    inside, ratio = covered("alike", 150, 120, 90)
    assert inside >= 0.95
    assert 0.9 < ratio < 1.6


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["cubic", "gaussian", "alike"])
def test_intervals_cover_what_they_say_in_full(name: str) -> None:
    inside, ratio = covered(name, 2000, 600, 400)
    print(f"{name}: {inside:.4f} covered, error over spread {ratio:.3f}")
    assert (0.935 if name != "alike" else 0.95) <= inside
    assert 0.93 < ratio < (1.07 if name != "alike" else 1.5)


def test_the_error_falls_with_n_and_not_with_the_size_of_a_subset() -> None:
    """A subset's spread, which packages print beside KID, stays where it is when n grows."""
    kernel, _, draw_x, draw_y = truths("cubic")
    rng = np.random.default_rng(0)
    few, many = (mmd(draw_x(n, rng), draw_y(n, rng), kernel).standard_error for n in (250, 2250))
    assert few / many == pytest.approx(3.0, rel=0.15)


def test_cmmd_is_a_thousand_times_the_discrepancy_of_directions() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)) + 1, rng.normal(size=(50, 6))
    ux, uy = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200)

    found = cmmd(x, y)
    assert found.value == pytest.approx(1000 * direct(ux, uy, kernel), rel=1e-9)
    published = kernel(ux, ux).mean() + kernel(uy, uy).mean() - 2 * kernel(ux, uy).mean()
    assert found.biased == pytest.approx(1000 * published, rel=1e-9)
    assert cmmd(5 * x, 0.1 * y).value == pytest.approx(found.value, rel=1e-9)
    assert "σ=10" in found.protocol
    assert "CMMD×1000" in found.protocol


def test_identical_sets_have_biased_discrepancy_zero_and_an_unbiased_one_below() -> None:
    x = np.random.default_rng(0).normal(size=(100, 4))
    found = kid(x, x)
    assert found.biased == pytest.approx(0.0, abs=1e-12)
    assert found.value < 0


def test_large_offsets_cost_no_digits_of_the_gaussian_kernel_on_directions() -> None:
    """The kernel is 0.98…1 here; less one, its differences keep their digits."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)) * 1e-4 + 1
    ux = x / np.linalg.norm(x, axis=1, keepdims=True)
    squares = ((ux[:25, None] - ux[None, 25:]) ** 2).sum(-1)
    np.testing.assert_allclose(Gaussian()(ux[:25], ux[25:]), -squares / 200, rtol=1e-6, atol=1e-17)


def test_bad_input_gets_a_sentence() -> None:
    x = np.ones((10, 3))
    with pytest.raises(ValueError, match="at least 4 generated rows"):
        kid(x[:3], x)
    with pytest.raises(ValueError, match="one network"):
        kid(x, x[:, :2])
    with pytest.raises(ValueError, match="real row is zero and has no direction"):
        cmmd(x, 0 * x)
    with pytest.raises(ValueError, match="must be positive"):
        Gaussian(0.0)
