"""Our Fréchet distance beside those of public packages, on the same features of real digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import data
from bench.metrics.features import feature_network
from bench.metrics.frechet import frechet_distance
from bench.metrics.moments import Moments


def _features() -> tuple[np.ndarray, np.ndarray]:
    digits, network = data.load("digits"), feature_network("digits-features")
    a, b = (network.extract(torch.from_numpy(x)).double().numpy() for x in (digits.train, digits.test))
    return a, b


@pytest.mark.parametrize("n", [360, 50], ids=["full rank", "fewer images than dimensions"])
def test_torch_fidelity_gives_the_same_distance(n: int) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = _features()
    stats = [{"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (a, b[:n])]
    theirs = metric.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    ours = frechet_distance(Moments.of(b[:n]), Moments.of(a)).value
    assert ours == pytest.approx(theirs, rel=1e-8 if n > 64 else 1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("n", [360, 50], ids=["full rank", "fewer images than dimensions"])
def test_clean_fid_gives_the_same_distance(n: int) -> None:
    fid = pytest.importorskip("cleanfid.fid")
    a, b = _features()
    try:
        theirs = fid.frechet_distance(
            a.mean(0), np.cov(a, rowvar=False), b[:n].mean(0), np.cov(b[:n], rowvar=False)
        )
    except TypeError as error:
        pytest.skip(f"clean-fid does not run with this scipy: {error}")
    ours = frechet_distance(Moments.of(b[:n]), Moments.of(a)).value
    assert ours == pytest.approx(theirs, rel=1e-8 if n > 64 else 1e-5)
