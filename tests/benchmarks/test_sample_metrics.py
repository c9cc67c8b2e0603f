"""Seconds of the sample metrics at the size they are used at, beside torch-fidelity's, on one thread.

Measured and never asserted. n = 5 000 rows of d = 2 048 made features; each measured once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.metrics.manifolds import precision_recall
from bench.metrics.mmd import cmmd, kid
from bench.metrics.sliced_wasserstein import sliced_wasserstein

pytestmark = pytest.mark.campaign


@functools.cache
def features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = (np.maximum(rng.normal(size=(5000, 2048)), 0).astype(np.float32) for _ in range(2))
    return x + np.float32(0.01), y


def once(benchmark: Any, measured: Callable[[np.ndarray, np.ndarray], Any]) -> Any:
    torch.set_num_threads(1)
    return benchmark.pedantic(measured, args=features(), rounds=1)


@pytest.mark.parametrize("metric", [kid, cmmd, precision_recall, sliced_wasserstein])
def test_ours(benchmark: Any, metric: Callable[..., Any]) -> None:
    assert once(benchmark, metric) is not None


def test_torch_fidelity_kid_of_a_hundred_subsets_of_a_thousand(benchmark: Any) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_kid")

    def measured(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return metric.kid_features_to_metric(  # type: ignore[no-any-return]
            torch.from_numpy(x),
            torch.from_numpy(y),
            kid_subsets=100,
            kid_subset_size=1000,
            rng_seed=2020,
            verbose=False,
        )

    assert once(benchmark, measured)["kernel_inception_distance_mean"] > 0


@pytest.mark.parametrize("saving", [False, True], ids=["full", "part"])
def test_torch_fidelity_precision_and_recall(benchmark: Any, saving: bool) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_prc")

    def measured(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return metric.prc_features_to_metric(  # type: ignore[no-any-return]
            torch.from_numpy(x), torch.from_numpy(y), prc_neighborhood=3, save_cpu_ram=saving, verbose=False
        )

    assert 0 <= once(benchmark, measured)["precision"] <= 1
