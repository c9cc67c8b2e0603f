"""Protects the use as a library: arrays and iterators in, numbers out, with neither torch nor the harness."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import numpy as np
from bench.metrics.frechet import frechet_distance
from bench.metrics.frechet_debiased import debiased_frechet
from bench.metrics.frechet_error import frechet_with_error
from bench.metrics.frechet_paired import frechet_difference
from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.statistics_file import FeatureProvenance, Statistics

rng = np.random.default_rng(0)
x, y = rng.normal(size=(300, 4)), rng.normal(size=(200, 4)) + 1.0
a, b = (IndexedMoments.of(iter(np.array_split(z, 7))) for z in (x, y))
value = frechet_distance(a.moments(), b.moments()).value
assert abs(frechet_with_error(x, y).value - value) < 1e-12
assert frechet_difference(x, y[:200].repeat(2, 0)[:300], y).first == frechet_with_error(x, y).value
assert debiased_frechet(x, y).value < value
made = FeatureProvenance("mine", "last", "none", "none", "none", "float64")
assert Statistics.of(a, made).distance(Statistics.of(b, made)).value == value
heavy = {"torch", "scipy", "pandas", "bench.workbench", "bench.run"} & set(sys.modules)
assert not heavy, heavy
"""


def test_arrays_and_iterators_are_enough() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
