"""Protects the trace of the root: right to rounding at every rank, and the way it was taken is told."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.frechet import frechet_distance
from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.moments import Moments, merged
from bench.metrics.root_trace import nuclear_norm, root_trace
from bench.peers.frechet import Case, problem


@pytest.mark.parametrize(
    ("case", "method", "error"),
    [
        (Case("full rank", 640, 256, 1e4), "cholesky", 1e-11),
        (Case("few images", 125, 256, 1e4), "centred-rows", 1e-11),
        (Case("as many as dimensions", 256, 256, 1e3), "centred-rows", 1e-11),
        (Case("one more", 257, 256, 1e3), "cholesky", 1e-9),
        (Case("nearly singular", 640, 256, 1e12), "cholesky", 1e-8),
        (Case("two images", 2, 256, 1.0), "centred-rows", 1e-11),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_distance_is_the_known_one(case: Case, method: str, error: float) -> None:
    made = problem(case)
    found = frechet_distance(made.a, made.b)
    assert found.method == method
    assert abs(found.value - made.truth) <= error
    assert abs(frechet_distance(made.b, made.a).value - made.truth) <= error


def _bare(moments: Moments) -> Moments:
    """As it comes from a file: without its rows."""
    return Moments(moments.n, moments.mean, moments.scatter)


def test_without_the_rows_singular_covariances_lose_few_digits() -> None:
    """Roots of d − n eigenvalues of rounding add 1e-5 and more in other packages."""
    made = problem(Case("", 60, 256, 1e4))
    found = frechet_distance(_bare(made.a), _bare(made.b))
    assert found.method == "rank-revealing"
    assert abs(found.value - made.truth) <= 1e-9


@pytest.mark.parametrize("kept", [True, False])
def test_one_singular_side_is_as_good_as_two(kept: bool) -> None:
    """Against the singular values of the product of both centred sets of rows."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 96)), rng.normal(size=(500, 96)) * np.linspace(0.1, 2, 96)
    few, many = Moments.of(x), Moments.of(y)
    truth = nuclear_norm((x - x.mean(0)) @ (y - y.mean(0)).T) / np.sqrt(39 * 499)
    for pair in ((few, many), (many, few)):
        found = root_trace(*(pair if kept else map(_bare, pair)))
        assert found.method == ("centred-rows" if kept else "rank-revealing")
        assert found.value == pytest.approx(truth, rel=1e-12)


def test_few_rows_in_a_badly_conditioned_reference() -> None:
    """The Gram matrix has lost half of the digits: the factor is used."""
    rng = np.random.default_rng(4)
    scale = 10.0 ** -np.linspace(0, 6, 40)
    x, y = rng.normal(size=(30, 40)) * scale, rng.normal(size=(400, 40)) * scale
    found = root_trace(Moments.of(x), Moments.of(y))
    truth = nuclear_norm((x - x.mean(0)) @ (y - y.mean(0)).T) / np.sqrt(29 * 399)
    assert found.value == pytest.approx(truth, rel=1e-12)


def test_rows_are_kept_by_merging_while_they_are_few() -> None:
    x = np.random.default_rng(5).normal(size=(60, 64)) + 7.0
    whole, parts = Moments.of(x), merged(Moments.of(part) for part in np.split(x, 4))
    assert parts.centred is not None
    np.testing.assert_allclose(parts.centred, x - x.mean(0), atol=1e-13)
    assert abs(frechet_distance(whole, parts).value) < 1e-11
    assert Moments.of(np.vstack([x, x])).centred is None
    assert merged([whole, whole]).centred is None
    stream = IndexedMoments.of(np.split(x, 4), block_size=16).moments()
    assert stream.centred is not None
    assert frechet_distance(whole, stream).method == "centred-rows"


@pytest.mark.parametrize("n", [30, 64, 500])
def test_the_distance_to_itself_is_zero(n: int) -> None:
    """Others give −2.5e-5 and below where n < d."""
    x = Moments.of(np.random.default_rng(6).normal(size=(n, 64)) + 100.0)
    assert abs(frechet_distance(x, x).value) < 1e-10


@pytest.mark.parametrize("n", [40, 200])
def test_constant_dimensions_on_both_sides_change_nothing(n: int) -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(n, 30)), rng.normal(size=(200, 30))
    pad = [np.hstack([z, np.full((len(z), 20), 3.0)]) for z in (x, y)]
    found, wanted = (frechet_distance(Moments.of(a), Moments.of(b)) for a, b in (pad, (x, y)))
    assert found.value == pytest.approx(wanted.value, rel=1e-9)
    assert found.method != "cholesky"


def test_images_no_more_than_dimensions_are_warned_of() -> None:
    rng = np.random.default_rng(8)
    few, many = Moments.of(rng.normal(size=(8, 8))), Moments.of(rng.normal(size=(9, 8)))
    assert frechet_distance(few, many).warning == "n=8 ≤ d=8: the covariance is singular"
    assert frechet_distance(many, many).warning == ""


@pytest.mark.parametrize(
    "scatter",
    [
        np.diag([1.0, -1.0, 1.0]),
        np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    ],
    ids=["negative variance", "not positive", "not symmetric"],
)
@pytest.mark.parametrize("other", ["sound", "same", "opposite"])
def test_what_is_no_covariance_is_refused_on_either_side(scatter: np.ndarray, other: str) -> None:
    """Others answer 0, or NaN, or an error about imaginary parts."""
    bad = Moments(10, np.zeros(3), scatter)
    second = {"sound": np.eye(3), "same": scatter, "opposite": -scatter}[other]
    for pair in ((bad, Moments(10, np.zeros(3), second)), (Moments(10, np.zeros(3), second), bad)):
        with pytest.raises(ValueError, match="no features have it"):
            frechet_distance(*pair)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["mean", "scatter"])
def test_nan_and_infinity_are_refused_wherever_they_are(bad: float, where: str) -> None:
    mean, scatter = np.zeros(3), np.eye(3)
    (mean if where == "mean" else scatter).flat[0] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        Moments(10, mean, scatter)


def test_one_sample_and_none_are_refused() -> None:
    sound = Moments.of(np.random.default_rng(9).normal(size=(9, 3)))
    with pytest.raises(ValueError, match="at least 2 samples"):
        frechet_distance(Moments.of(np.ones((1, 3))), sound)
    with pytest.raises(ValueError, match="at least one sample"):
        Moments(0, np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        Moments.of(np.ones(5))
