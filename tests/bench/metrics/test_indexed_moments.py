"""Protects the accumulator: one result in bits for any batches, order, shards; no sample lost or doubled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.moments import Moments

D = 5


def _rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def _digest(moments: Moments) -> str:
    return hashlib.sha256(
        moments.mean.tobytes() + moments.scatter.tobytes() + bytes([moments.n % 251])
    ).hexdigest()


def _batches(order: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    for first in range(0, len(order), batch):
        yield order[first : first + batch]


def _filled(rows: np.ndarray, order: np.ndarray, batch: int, block: int) -> IndexedMoments:
    found = IndexedMoments(D, block)
    for taken in _batches(order, batch):
        found.add(taken, rows[taken])
    return found


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 300), block=st.integers(1, 40), shards=st.integers(1, 5), seed=st.integers(0, 9))
def test_one_hash_for_batches_orders_and_shards(n: int, block: int, shards: int, seed: int) -> None:
    rows, straight = _rows(n), np.arange(n)
    shuffled = np.random.default_rng(seed).permutation(n)
    found = {_digest(_filled(rows, straight, 64, block).moments(n))}
    found.add(_digest(_filled(rows, straight, 50, block).moments(n)))
    found.add(_digest(_filled(rows, shuffled, 7, block).moments(n)))
    for order in (straight, shuffled):
        parts = [_filled(rows, part, 16, block) for part in np.array_split(order, shards)]
        whole = parts[seed % shards]
        for i, part in enumerate(parts):
            whole = whole if i == seed % shards else whole.merge(part)
        found.add(_digest(whole.moments(n)))
        found.add(_digest(IndexedMoments.from_arrays(whole.to_arrays()).moments(n)))
    assert len(found) == 1


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 1000])
def test_they_are_the_moments_of_the_rows(n: int) -> None:
    rows = _rows(n)
    found, wanted = _filled(rows, np.arange(n), 10, 32).moments(), Moments.of(rows)
    assert found.n == n
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.scatter, wanted.scatter, rtol=0, atol=1e-11)


def test_a_large_offset_costs_no_digits_of_the_covariance() -> None:
    """Raw sums lose 7 digits with an offset of 100 in float64, float32 sums lose all."""
    rng = np.random.default_rng(1)
    rows = (rng.normal(size=(20_000, 64)) @ rng.normal(size=(64, 64)) / 8).astype(np.float32) + np.float32(
        100
    )
    exact = rows.astype(np.longdouble)
    centred = (exact - exact.mean(0)).astype(np.float64)
    truth = centred.T @ centred / (len(rows) - 1)
    batches = np.array_split(rows, 313)
    found = IndexedMoments.of(batches).moments().covariance()
    assert np.linalg.norm(found - truth) <= 1e-12 * np.linalg.norm(truth)


def test_the_mean_of_float32_features_is_not_a_float32_mean() -> None:
    rows = np.random.default_rng(2).uniform(900, 1100, size=(30_000, 3)).astype(np.float32)
    truth = rows.astype(np.longdouble).mean(0)
    found = IndexedMoments.of(np.array_split(rows, 11)).moments().mean
    assert np.abs(found - truth).max() < 1e-10
    assert np.abs(rows.mean(0) - truth).max() > 1e-6


def test_a_stream_in_order_or_by_shard_keeps_few_rows() -> None:
    for start in (0, 777):
        found, waiting = IndexedMoments(D, 100), []
        for first in range(start, start + 5000, 30):
            found.add(range(first, first + 30), _rows(30))
            waiting.append(found.rows_waiting)
            assert len(found._nodes) <= 14
        assert max(waiting) <= 300


def test_mixed_precision_of_batches_does_not_change_the_bits() -> None:
    rows = _rows(90)
    one, two = IndexedMoments(D, 32), IndexedMoments(D, 32)
    one.add(range(90), rows)
    for first in range(0, 90, 10):
        two.add(
            range(first, first + 10),
            rows[first : first + 10].astype(np.float64 if first % 20 else np.float32),
        )
    assert _digest(one.moments()) == _digest(two.moments())


def test_tensors_and_generators_of_batches_are_taken() -> None:
    rows = _rows(70)
    found = IndexedMoments.of((torch.from_numpy(part) for part in np.array_split(rows, 7)), block_size=16)
    assert _digest(found.moments()) == _digest(_filled(rows, np.arange(70), 70, 16).moments())


@pytest.mark.parametrize("again", [3, 40], ids=["reduced block", "open block"])
def test_a_sample_given_twice_is_named_and_nothing_is_kept_of_the_batch(again: int) -> None:
    rows = _rows(50)
    found = _filled(rows, np.arange(45), 45, 32)
    before = _digest(found.moments())
    with pytest.raises(ValueError, match=f"sample {again} was given twice"):
        found.add([45, again], rows[:2])
    assert _digest(found.moments()) == before


def test_a_sample_twice_in_a_batch_or_in_two_shards_is_named() -> None:
    rows = _rows(50)
    with pytest.raises(ValueError, match="sample 2 was given twice"):
        IndexedMoments(D).add([1, 2, 2], rows[:3])
    parts = [_filled(rows, np.arange(a, b), 8, 16) for a, b in ((0, 33), (30, 50))]
    with pytest.raises(ValueError, match=r"sample 30 is in both parts \(3 are\)"):
        parts[0].merge(parts[1])


def test_gaps_are_named() -> None:
    rows = _rows(50)
    found = _filled(rows, np.delete(np.arange(50), [7, 9]), 8, 16)
    with pytest.raises(ValueError, match="2 are missing, the first is 7"):
        found.moments()
    assert found.of_present().n == 48
    with pytest.raises(ValueError, match="10 are missing, the first is 50"):
        _filled(rows, np.arange(50), 8, 16).moments(60)
    with pytest.raises(ValueError, match="no samples"):
        IndexedMoments(D).of_present()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_named_by_sample(bad: float) -> None:
    rows = _rows(4)
    rows[2, 1] = bad
    with pytest.raises(ValueError, match="sample 12 hold NaN or infinity"):
        IndexedMoments(D).add([10, 11, 12, 13], rows)


@pytest.mark.parametrize(
    ("indices", "shape", "said"),
    [
        ([0, 1], (2, 4), r"must be \(2, 5\), not \(2, 4\)"),
        ([0, 1], (3, 5), r"must be \(2, 5\), not \(3, 5\)"),
        ([0], (5,), r"\(n, d\)"),
        ([-1], (1, 5), "start at 0"),
    ],
)
def test_wrong_shapes_and_indices_are_refused(indices: list[int], shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IndexedMoments(D).add(indices, np.zeros(shape))


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same"):
        IndexedMoments(D, 8).merge(IndexedMoments(D, 16))
    with pytest.raises(ValueError, match="at least one"):
        IndexedMoments.of([])
    with pytest.raises(ValueError, match="at least one row"):
        IndexedMoments(D, 0)


def test_the_hash_of_indices_is_that_of_the_set() -> None:
    rows = _rows(40)
    one, two = _filled(rows, np.arange(40), 9, 8), _filled(rows, np.arange(40)[::-1], 4, 8)
    assert one.index_hash() == two.index_hash()
    assert one.index_hash() != _filled(rows, np.arange(39), 9, 8).index_hash()
