"""Protects the error of FID_N, of differences and of debiased values: coverage where the truth is known.

Generated features are A z with z normal or of skewed gamma noise with the same moments; the reference has
exact moments, so the distance in the limit is known in closed form; E[FID_N] is the mean over the draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bench.metrics.frechet import frechet_distance
from bench.metrics.frechet_debiased import debiased_frechet, frechet_infinity
from bench.metrics.frechet_error import frechet_with_error, variance_of_mean
from bench.metrics.frechet_paired import frechet_difference
from bench.metrics.moments import Moments

MANY = 10**9


@dataclass(frozen=True)
class World:
    """Factors of two models and of the reference, and the means of both models."""

    a: np.ndarray
    other: np.ndarray
    b: np.ndarray
    shift: np.ndarray

    def reference(self) -> Moments:
        return exact(self.b, np.zeros(len(self.b)))

    def truth(self, factor: np.ndarray) -> float:
        return frechet_distance(exact(factor, self.shift), self.reference()).value


def exact(factor: np.ndarray, mean: np.ndarray) -> Moments:
    return Moments(MANY, mean, factor @ factor.T * (MANY - 1))


def world(d: int) -> World:
    rng = np.random.default_rng(d)
    spectrum = np.arange(1, d + 1) ** -0.5
    turned = np.linalg.qr(np.eye(d) + 0.3 * rng.normal(size=(d, d)) / np.sqrt(d))[0]
    a = np.diag(spectrum)
    b = turned @ np.diag(spectrum * np.exp(0.2 * rng.normal(size=d)))
    other = a @ np.diag(np.exp(0.05 * rng.normal(size=d)))
    return World(a, other, b, 0.3 * rng.normal(size=d) / np.sqrt(d))


def noise(kind: str, n: int, d: int, seed: list[int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) if kind == "normal" else (rng.gamma(2.0, 1.0, (n, d)) - 2.0) / np.sqrt(2.0)


def coverage(values: np.ndarray, errors: np.ndarray, truth: float) -> float:
    return float((np.abs(values - truth) <= 1.96 * errors).mean())


def singles(d: int, n: int, draws: int, kind: str, finite: int = 0) -> tuple[float, float]:
    """Coverage of E[FID_N], and mean standard error over the true one."""
    made = world(d)
    found = []
    for i in range(draws):
        x = noise(kind, n, d, [1, i]) @ made.a.T + made.shift
        reference = noise(kind, finite, d, [2, i]) @ made.b.T if finite else made.reference()
        found.append(frechet_with_error(x, reference))
    values, errors = np.array([f.value for f in found]), np.array([f.standard_error for f in found])
    return coverage(values, errors, float(values.mean())), float(errors.mean() / values.std(ddof=1))


def debiased(d: int, n: int, draws: int, kind: str, method: str) -> tuple[float, float, float]:
    """Relative bias, its standard error, and coverage of the limit."""
    made = world(d)
    truth = made.truth(made.a)
    found = [
        debiased_frechet(noise(kind, n, d, [3, i]) @ made.a.T + made.shift, made.reference(), method=method)
        for i in range(draws)
    ]
    values, errors = np.array([f.value for f in found]), np.array([f.standard_error for f in found])
    spread = values.std(ddof=1) / np.sqrt(draws) / truth
    return float(values.mean() / truth - 1), float(spread), coverage(values, errors, truth)


def pairs(d: int, n: int, draws: int, kind: str) -> tuple[float, float]:
    """Coverage of the difference's expectation, and the paired width over the unpaired one."""
    made = world(d)
    found = []
    for i in range(draws):
        z = noise(kind, n, d, [4, i])
        reference = noise(kind, n, d, [5, i]) @ made.b.T
        found.append(frechet_difference(z @ made.a.T, z @ made.other.T, reference))
    values, errors = np.array([f.value for f in found]), np.array([f.standard_error for f in found])
    ratio = float(np.mean([f.standard_error / f.unpaired_error for f in found]))
    return coverage(values, errors, float(values.mean())), ratio


KINDS = ("normal", "gamma")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("finite", [0, 600], ids=["reference fixed", "reference finite"])
def test_the_interval_covers_the_expectation_at_n(kind: str, finite: int) -> None:
    covered, ratio = singles(16, 800, 200, kind, finite)
    assert 0.90 <= covered <= 0.985
    assert 0.85 <= ratio <= 1.2


@pytest.mark.parametrize("kind", KINDS)
def test_the_paired_interval_covers_and_is_narrower(kind: str) -> None:
    covered, ratio = pairs(16, 800, 200, kind)
    assert 0.90 <= covered <= 0.985
    assert ratio < 0.7


def test_the_debiased_value_is_near_the_limit_and_covers_it() -> None:
    bias, spread, covered = debiased(16, 800, 100, "normal", "quarters")
    assert abs(bias) <= 3 * spread
    assert 0.88 <= covered <= 1.0
    made = world(16)
    x = noise("normal", 800, 16, [3, 0]) @ made.a.T + made.shift
    assert frechet_distance(Moments.of(x), made.reference()).value > made.truth(made.a)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2000, 10_000])
def test_coverage_of_fid_n_in_full(kind: str, n: int) -> None:
    covered, ratio = singles(256, n, 200, kind)
    print(f"FID_{n}, d=256, {kind}: covers {covered:.1%}, SE over true {ratio:.3f}")
    assert 0.92 <= covered <= 0.98


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["halves", "quarters"])
def test_bias_of_the_debiased_value_in_full(kind: str, method: str) -> None:
    bias, spread, covered = debiased(256, 5000, 100, kind, method)
    print(f"{method}, n=5000, d=256, {kind}: bias {bias:+.3%} ± {spread:.3%}, covers {covered:.1%}")
    assert abs(bias) <= (0.005 if method == "quarters" else 0.03)
    assert covered >= 0.9 or method == "halves"


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_coverage_of_paired_differences_in_full(kind: str) -> None:
    """Two hundred draws leave ±3 % and are too few to tell 92 from 95."""
    covered, ratio = pairs(256, 5000, 1000, kind)
    print(f"paired, n=5000, d=256, {kind}: covers {covered:.1%}, width {ratio:.3f} of the unpaired")
    assert 0.92 <= covered <= 0.98
    assert ratio < 0.1


# What is said of the result.


def _pair(n: int = 300, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d)) * 1.3


def test_the_result_says_what_its_interval_is_about() -> None:
    x, y = _pair()
    both, fixed = frechet_with_error(x, y), frechet_with_error(x, y, fixed=True)
    assert both.estimand == "E[FID_N] at N=300, reference of 300 images"
    assert fixed.estimand == "E[FID_N] at N=300, reference fixed"
    assert (both.reference_fixed, fixed.reference_fixed, fixed.share_reference) == (False, True, 0.0)
    assert fixed.standard_error < both.standard_error
    assert both.share_generated + both.share_reference == pytest.approx(1.0)
    assert fixed.standard_error == pytest.approx(both.standard_error * both.share_generated**0.5, rel=1e-9)
    assert frechet_with_error(x, Moments.of(y)).standard_error == pytest.approx(
        fixed.standard_error, rel=1e-9
    )
    assert both.high - both.value == pytest.approx(1.959964 * both.standard_error, rel=1e-9)


def test_streams_of_batches_give_what_arrays_give() -> None:
    x, y = _pair()
    streamed = frechet_with_error(lambda: np.array_split(x, 4), lambda: np.array_split(y, 3))
    whole = frechet_with_error(x, y)
    assert streamed.value == pytest.approx(whole.value, rel=1e-12)
    assert streamed.standard_error == pytest.approx(whole.standard_error, rel=1e-12)


def test_groups_of_copies_count_once() -> None:
    """Each value twice is no more evidence; the naive error is √2 too small."""
    values = np.random.default_rng(1).normal(size=200)
    twice, labels = np.repeat(values, 2), np.repeat(np.arange(200), 2)
    assert variance_of_mean(twice, labels) == pytest.approx(variance_of_mean(values), rel=1e-12)
    assert variance_of_mean(twice) == pytest.approx(variance_of_mean(values) / 2, rel=1e-2)
    x, y = _pair()
    grouped = frechet_with_error(np.repeat(x, 2, 0), Moments.of(y), groups=list(np.repeat(np.arange(300), 2)))
    assert grouped.standard_error == pytest.approx(
        frechet_with_error(x, Moments.of(y)).standard_error, rel=0.02
    )


def test_a_model_does_not_differ_from_itself() -> None:
    x, y = _pair()
    found = frechet_difference(x, x, y)
    assert (found.value, found.standard_error, found.correlation) == (0.0, 0.0, pytest.approx(1.0))
    assert found.unpaired_error > 0
    swapped = frechet_difference(x, y, y), frechet_difference(y, x, y)
    assert swapped[0].value == -swapped[1].value


def test_debiasing_is_seeded_and_named() -> None:
    x, y = _pair()
    one, same, other = (debiased_frechet(x, y, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.value != other.value
    assert one.method == "quarters, 4 splits, seed 0"
    assert one.at_n == frechet_distance(Moments.of(x), Moments.of(y)).value
    assert frechet_infinity(x, Moments.of(y), seed=3) == frechet_infinity(x, Moments.of(y), seed=3)


def test_the_line_in_one_over_n_meets_the_limit() -> None:
    made = world(8)
    x = noise("normal", 20_000, 8, [6]) @ made.a.T + made.shift
    intercept, slope = frechet_infinity(x, made.reference())
    error = frechet_with_error(x, made.reference()).standard_error
    assert abs(intercept - made.truth(made.a)) < 4 * error
    assert slope > 0


def test_bad_input_is_refused_in_one_sentence() -> None:
    x, y = _pair()
    with pytest.raises(ValueError, match="give more than 24 images, or take halves"):
        debiased_frechet(x[:20], y)
    with pytest.raises(ValueError, match="halves or quarters"):
        debiased_frechet(x, y, method="thirds")
    with pytest.raises(ValueError, match="at least 2 splits"):
        debiased_frechet(x, y, splits=1)
    with pytest.raises(ValueError, match="compare the same seeds"):
        frechet_difference(x, x[:-1], y)
    with pytest.raises(ValueError, match="give each image its group"):
        frechet_with_error(x, y, groups=[1, 2])
    with pytest.raises(ValueError, match="more than 10 images"):
        frechet_infinity(x[:9], Moments.of(y))
    with pytest.raises(ValueError, match="at least 2 independent"):
        variance_of_mean(np.ones(3), [1, 1, 1])
    with pytest.raises(ValueError, match="NaN or infinity"):
        frechet_with_error(np.where(x > 2, np.nan, x), y)
