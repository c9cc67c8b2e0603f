"""Metrics by class: wrong labels are seen, errors add up, and missing classes are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.metrics.by_class import by_class
from bench.metrics.estimate import Estimate
from bench.metrics.frechet import FrechetResult, frechet_distance
from bench.metrics.manifolds import precision_recall
from bench.metrics.mmd import kid
from bench.metrics.moments import Moments


def two_classes(n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng, labels = np.random.default_rng(0), np.arange(n) % 2
    shift = np.where(labels, 3.0, -3.0)[:, None]
    return rng.normal(size=(n, 4)) + shift, labels, rng.normal(size=(n, 4)) + shift, labels


def frechet(x: np.ndarray, y: np.ndarray) -> FrechetResult:
    return frechet_distance(Moments.of(x), Moments.of(y))


def test_right_images_under_wrong_labels_are_seen_only_by_class() -> None:
    x, labels, y, real_labels = two_classes()
    right, wrong = (by_class(kid, x, given, y, real_labels) for given in (labels, 1 - labels))
    assert wrong.low is not None
    assert right.high is not None
    assert kid(x, y).high < wrong.low / 5
    assert right.low < 0 < right.high < wrong.low / 5


def test_the_mean_and_its_error_are_those_of_the_classes() -> None:
    x, labels, y, real_labels = two_classes()
    found = by_class(kid, x, torch.from_numpy(labels), y, real_labels)
    each = [kid(x[labels == c], y[labels == c]) for c in (0, 1)]
    assert [found.classes[c] for c in (0, 1)] == each
    assert found.value == pytest.approx((each[0].value + each[1].value) / 2)
    assert found.standard_error == pytest.approx(np.hypot(each[0].standard_error, each[1].standard_error) / 2)
    assert found.largest == int(each[1].value > each[0].value)
    assert found.n == 60
    assert "mean over 2 classes" in found.protocol
    assert "n=30" in found.protocol


@pytest.mark.parametrize(
    ("metric", "has_error"), [(frechet, False), (lambda x, y: precision_recall(x, y).recall, True)]
)
def test_any_metric_of_two_sets_will_do(metric: Callable[..., Any], has_error: bool) -> None:
    found = by_class(metric, *two_classes())
    assert np.isfinite(found.value)
    assert (found.standard_error is not None, found.low is not None, found.high is not None) == (
        has_error,
    ) * 3


def test_classes_count_equally_however_many_images_they_have() -> None:
    def count(x: np.ndarray, y: np.ndarray) -> Estimate:
        return Estimate(float(len(x)), 0.0, 0.0, 0.0, len(x), "rows")

    x, labels = np.zeros((12, 2)), np.array(["cat"] * 2 + ["dog"] * 10)
    assert by_class(count, x, labels, x, labels).value == 6.0


def test_classes_that_do_not_match_are_named() -> None:
    x, labels, y, real_labels = two_classes()
    with pytest.raises(ValueError, match="no image was generated of the classes 1"):
        by_class(kid, x, 0 * labels, y, real_labels)
    with pytest.raises(ValueError, match="no real images of the classes 7"):
        by_class(kid, x, np.where(np.arange(60) == 5, 7, labels), y, real_labels)
    with pytest.raises(ValueError, match="0, 1, 2, 3, 4 and 5 more"):
        by_class(kid, x, 0 * labels - 1, y, np.arange(60) % 10)


def test_bad_input_gets_a_sentence() -> None:
    x, labels, y, real_labels = two_classes()
    with pytest.raises(ValueError, match="60 generated rows need one label each"):
        by_class(kid, x, labels[:50], y, real_labels)
    with pytest.raises(ValueError, match="class 0: at least 4 generated rows are needed, and there are 3"):
        by_class(kid, x[:5], labels[:5], y, real_labels)
    with pytest.raises(TypeError, match="pass a metric that returns one"):
        by_class(precision_recall, x, labels, y, real_labels)
