"""Protects the anchors every likelihood is read against."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import data
from bench.metrics.anchors import anchors, per_pixel_histogram
from bench.metrics.bits import bits_per_dimension


def test_the_anchors_of_the_digits() -> None:
    bits = {a.name: bits_per_dimension(a.nats, 64)[0] for a in anchors(data.load("digits"))}
    assert bits["uniform"] == pytest.approx(math.log2(17), abs=1e-12)
    assert bits["per-pixel histogram"] == pytest.approx(2.43, abs=0.015)


def test_the_histogram_is_a_distribution() -> None:
    digits = data.load("digits")
    # Every level of one pixel, others fixed: the probabilities of that pixel's levels sum to one.
    images = np.repeat(digits.test[:1], 17, axis=0)
    images[:, 0, 4, 4] = np.arange(17)
    from dataclasses import replace

    changed = replace(digits, test=images, test_labels=np.zeros(17, np.int64), captions=None)
    nats = per_pixel_histogram(changed).nats
    others = nats - nats.min()
    p_given_rest = np.exp(-others) / np.exp(-others).sum()
    counts = (digits.train[:, 0, 4, 4][None] == np.arange(17)[:, None]).sum(1) + 1.0
    np.testing.assert_allclose(p_given_rest, counts / counts.sum(), rtol=1e-10)
