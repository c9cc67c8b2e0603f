"""What is refused before any metric is computed, and that metrics need neither torch nor the harness."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.metrics.manifolds import precision_recall
from bench.metrics.memorisation import nearest_pairs
from bench.metrics.mmd import kid
from bench.metrics.rows import blocks, double, pair_of_rows, rows_of
from tests.conftest import ROOT

METRICS = (
    "mmd",
    "mmd_difference",
    "manifolds",
    "inception_score",
    "sliced_wasserstein",
    "memorisation",
    "data_copying",
    "by_class",
    "diversity",
    "pair_sheet",
)


def test_tensors_arrays_and_lists_give_rows_of_the_same_numbers() -> None:
    tensor = torch.randn(5, 3, requires_grad=True)
    for given, kept in (
        (tensor, np.float32),
        (tensor.bfloat16(), np.float32),
        (tensor.double(), np.float64),
        (tensor.detach().numpy().astype(np.float16), np.float32),
        (tensor.detach().numpy().astype(np.float64), np.float64),
        (tensor.tolist(), np.float64),
        ((100 * tensor).long(), np.float64),
    ):
        rows = rows_of(given, "real")
        assert rows.dtype == kept
        true = np.asarray(given.detach().double() if isinstance(given, torch.Tensor) else given, np.float64)
        np.testing.assert_array_equal(double(rows), true)


def test_float32_rows_are_not_copied() -> None:
    """Fifty thousand images of 2 048 features are 400 MB: once is enough."""
    features = np.ones((6, 4), np.float32)
    assert np.shares_memory(rows_of(features, "real"), features)
    assert np.shares_memory(rows_of(torch.from_numpy(features), "real"), features)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    features = np.zeros((6, 2))
    features[4, 1] = bad
    with pytest.raises(ValueError, match=r"1 of 6 real rows hold NaN or infinity, first in row 4"):
        rows_of(features, "real")


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (np.zeros(7), r"must be \(n, d\)"),
        (np.zeros((3, 2, 2)), "flatten"),
        (np.zeros((1, 4)), "at least 2 generated rows are needed, and there are 1"),
        (np.zeros((4, 0)), r"must be \(n, d\)"),
        (np.array([["a"], ["b"]]), "real numbers"),
        (np.zeros((3, 2), complex), "real numbers"),
    ],
)
def test_what_is_no_feature_array_gets_one_sentence(features: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rows_of(features, "generated")


def test_features_of_two_networks_are_refused_with_both_widths() -> None:
    with pytest.raises(ValueError, match="of 3 and real features of 4 dimensions"):
        pair_of_rows(np.zeros((5, 3)), np.zeros((5, 4)))


def test_blocks_cover_every_row_once() -> None:
    assert [list(range(10))[part] for part in blocks(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(ValueError, match="at least one row"):
        blocks(10, 0)


def test_metrics_are_imported_without_torch_and_without_the_harness() -> None:
    """For people with features and a generator of their own, and for commands that must start quickly."""
    code = f"""
import importlib, sys
for name in {METRICS!r}:
    importlib.import_module("bench.metrics." + name)
found = {{"torch", "pandas", "pydantic", "bench.workbench", "bench.store", "bench.cells"}} & set(sys.modules)
assert not found, found
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "metric",
    [
        lambda x, y: kid(x, y, block=256),
        lambda x, y: precision_recall(x, y, block=256),
        lambda x, y: nearest_pairs(x, y, x, block=256),
    ],
    ids=["kid", "precision and recall", "nearest pairs"],
)
def test_no_matrix_of_all_pairs_is_kept(metric: Callable[..., Any]) -> None:
    """It would be 50 MB here, and 20 GB for fifty thousand images."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(2500, 4)).astype(np.float32) for _ in range(2))
    tracemalloc.start()
    metric(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
