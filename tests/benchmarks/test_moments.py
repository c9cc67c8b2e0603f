"""Moments of 50 000 × 2048 features: one hash however they come, memory and error; speed of the distance.

Run by `make campaign`; prints its table.
"""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.files import read_arrays, write_arrays
from bench.metrics.frechet import frechet_distance
from bench.metrics.frechet_error import frechet_with_error
from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.moments import Moments
from bench.peers.frechet import cases, one_thread, problem

pytestmark = pytest.mark.campaign

N, D = 50_000, 2048


def _features() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D), np.float32) + np.float32(100.0)


def _digest(moments: Moments) -> str:
    return hashlib.sha256(moments.mean.tobytes() + moments.scatter.tobytes()).hexdigest()


def _added(rows: np.ndarray, order: np.ndarray, batch: int) -> IndexedMoments:
    found = IndexedMoments(D)
    for first in range(0, len(order), batch):
        taken = order[first : first + batch]
        found.add(taken, rows[taken])
    return found


def _shards(rows: np.ndarray) -> IndexedMoments:
    first, *others = (_added(rows, part, 64) for part in np.array_split(np.arange(N), 3))
    for other in others:
        first = first.merge(other)
    return first


def _ways(rows: np.ndarray) -> Iterator[tuple[str, Any]]:
    straight = np.arange(N)
    yield "batch 64", lambda: _added(rows, straight, 64)
    yield "batch 50", lambda: _added(rows, straight, 50)
    yield "shuffled", lambda: _added(rows, np.random.default_rng(1).permutation(N), 64)
    yield "3 shards", lambda: _shards(rows)


def test_one_hash_of_fifty_thousand_features_and_flat_memory() -> None:
    rows, hashes, peaks = _features(), {}, {}
    with one_thread():
        for name, way in _ways(rows):
            tracemalloc.start()
            start = time.process_time()
            moments = way().moments(N)
            seconds = time.process_time() - start
            peaks[name] = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            hashes[name] = _digest(moments)
            print(f"{name:10} {seconds:6.1f} s, peak {peaks[name]:6.0f} MiB, {hashes[name][:16]}")
    assert len(set(hashes.values())) == 1
    rows -= 100.0
    centred = rows.astype(np.float64)
    centred -= centred.mean(0)
    truth = centred.T @ centred
    error = np.linalg.norm(moments.scatter - truth) / np.linalg.norm(truth)
    print(f"covariance with an offset of 100: relative error {error:.1e}")
    assert error <= 1e-12
    assert max(peaks["batch 64"], peaks["batch 50"]) <= 200 / 1.048576


def test_two_hundred_shards_from_disk_merge_in_a_second_each_and_200_megabytes(tmp_path: Path) -> None:
    """As workers write them and one process adds them up, in shard order."""
    size = N // 200
    for shard, rows in enumerate(_features().reshape(200, size, D)):
        part = IndexedMoments(D)
        part.add(range(shard * size, (shard + 1) * size), rows)
        write_arrays(tmp_path / f"{shard:03d}.safetensors", part.to_arrays())
    del rows, part
    seconds, whole = [], IndexedMoments(D)
    with one_thread():
        tracemalloc.start()
        for path in sorted(tmp_path.iterdir()):
            start = time.perf_counter()
            whole.absorb(IndexedMoments.from_arrays(read_arrays(path)[0]))
            seconds.append(time.perf_counter() - start)
        found = whole.moments(N)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    each = f"{np.median(seconds):.3f} s each, at most {max(seconds):.3f} s"
    print(f"merging 200 shards: {each}; peak {peak:.0f} MB")
    assert _digest(found) == _digest(_added(_features(), np.arange(N), 64).moments(N))
    assert max(seconds) <= 1.0
    assert peak <= 200


def test_memory_of_a_stream_grows_by_a_scatter_when_its_length_doubles() -> None:
    block, found, peaks = np.ones((1024, D), np.float32), IndexedMoments(D), []
    tracemalloc.start()
    for index in range(33):
        found.add(range(index * 1024, (index + 1) * 1024), block)
        if index in (8, 16, 32):
            peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
    tracemalloc.stop()
    print("peak MiB after 9, 17, 33 blocks: " + ", ".join(f"{peak:.0f}" for peak in peaks))
    assert peaks[2] - peaks[1] <= 1.1 * D * D * 8 / 2**20


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_frechet_distance_of_2048_dimensions(benchmark: Any, case: Any) -> None:
    made = problem(case)
    with one_thread():
        found = benchmark.pedantic(lambda: frechet_distance(made.a, made.b), rounds=3, warmup_rounds=1)
    limit = {"full rank": 1e-9, "few images": 1e-9, "condition 1e12": 1e-8}[case.name]
    assert abs(found.value - made.truth) <= limit


def test_standard_error_of_5000_images(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((5000, 1024), np.float32) * s for s in (1.0, 1.2))
    with one_thread():
        found = benchmark.pedantic(lambda: frechet_with_error(x, y), rounds=2)
    assert found.standard_error > 0
