"""Our Fréchet distance beside those of public packages, on the same features of real digits.

Packages that are not installed are skipped; pytorch-fid and torchmetrics are in no extra.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from bench import data
from bench.metrics.features import feature_network
from bench.metrics.frechet import frechet_distance
from bench.metrics.moments import Moments
from bench.peers.frechet import PEERS, Problem


@functools.cache
def _features() -> tuple[np.ndarray, np.ndarray]:
    digits, network = data.load("digits"), feature_network("digits-features")
    a, b = (network.extract(torch.from_numpy(x)).double().numpy() for x in (digits.train, digits.test))
    return a, b


def _theirs(name: str, n: int, dtype: type = np.float64, offset: float = 0.0) -> tuple[float, float]:
    """Their distance and ours of n test digits to all training digits."""
    a, b = _features()
    a, b = (a + offset).astype(dtype), (b[:n] + offset).astype(dtype)
    made = Problem(Moments.of(b), Moments.of(a), float("nan"))
    try:
        theirs = PEERS[name][1](made)()
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    except TypeError as error:
        pytest.skip(f"{name} does not run with this scipy: {error}")
    return theirs, frechet_distance(made.a, made.b).value


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("n", [360, 50], ids=["full rank", "fewer images than dimensions"])
def test_every_package_gives_the_same_distance(name: str, n: int) -> None:
    theirs, ours = _theirs(name, n)
    assert ours == pytest.approx(theirs, rel=1e-8 if n > 64 else 1e-5)


def test_torch_fidelity_from_features_gives_the_same_distance() -> None:
    """Theirs takes means and covariances itself."""
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = _features()
    stats = [metric.fid_features_to_statistics(torch.from_numpy(x)) for x in (b[:360], a)]
    theirs = metric.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(Moments.of(b[:360]), Moments.of(a)).value == pytest.approx(theirs, rel=1e-8)


# What others get wrong, here and there. Ours is tested without them in tests/bench/metrics.


def test_a_float32_mean_with_an_offset_is_felt_by_them_and_not_by_us() -> None:
    """torch-fidelity's mean is taken in the features' dtype."""
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    a, _ = _features()
    shifted = (a + 1000.0).astype(np.float32)
    parts = [Moments.of(part) for part in (shifted, shifted[::-1])]
    assert abs(frechet_distance(*parts).value) < 1e-9
    mean = metric.fid_features_to_statistics(torch.from_numpy(shifted))["mu"]
    exact = shifted.astype(np.float64).mean(0)
    assert np.abs(np.asarray(mean) - exact).max() > 1e6 * np.abs(parts[0].mean - exact).max()


def test_nan_is_an_error_here_and_a_number_there() -> None:
    """torchmetrics returns NaN, no exception."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, _ = _features()
    bad = a.copy()
    bad[3, 5] = np.nan
    mean, cov = torch.from_numpy(bad.mean(0)), torch.from_numpy(np.cov(bad.T))
    sound = torch.from_numpy(a.mean(0)), torch.from_numpy(np.cov(a.T))
    assert not bool(torch.isfinite(fid._compute_fid(mean, cov, *sound)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        Moments.of(bad)


def test_what_is_no_covariance_is_refused_here_and_answered_there() -> None:
    """torch-fidelity answers for Σ and −Σ as if nothing were wrong."""
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    cov = np.diag([1.0, 2.0, 3.0])
    stats = [{"mu": np.zeros(3), "sigma": sign * cov} for sign in (1, -1)]
    theirs = metric.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert np.isfinite(theirs)
    with pytest.raises(ValueError, match="no features have it"):
        frechet_distance(*(Moments(10, np.zeros(3), sign * cov * 9) for sign in (1, -1)))


def test_the_distance_to_itself_is_zero_where_images_are_few() -> None:
    theirs_of = PEERS["torch-fidelity"][1]
    pytest.importorskip("torch_fidelity")
    few = Moments.of(_features()[0][:30])
    theirs = theirs_of(Problem(few, few, 0.0))()
    assert abs(frechet_distance(few, few).value) < 1e-10
    assert abs(theirs) > abs(frechet_distance(few, few).value)
