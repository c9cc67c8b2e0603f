"""Protects the units: nats to bits per dimension, with a standard error that covers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.metrics.bits import bits_per_dimension


def test_a_uniform_guess_of_17_levels_costs_log2_17() -> None:
    value, low, high = bits_per_dimension(np.full(10, 64 * math.log(17)), 64)
    assert value == pytest.approx(math.log2(17), abs=1e-12)
    assert value == pytest.approx(4.0875, abs=1e-4)
    assert high - low < 1e-9


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(100.0, 15.0, size=(2000, 360))
    truth, hits = 100.0 / (64 * math.log(2)), 0
    for nats in draws:
        _, low, high = bits_per_dimension(nats, 64)
        hits += low <= truth <= high
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
