"""Protects the moments: right in float64, and the same bits however the work was split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.metrics.moments import BlockMoments, Moments, merged


def _rows(n: int, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3.0, 2.0, (n, d)).astype(np.float32)


def test_mean_and_covariance_are_numpys() -> None:
    rows = _rows(200).astype(np.float64)
    moments = Moments.of(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance(), np.cov(rows.T), rtol=1e-12)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(0, 9))
def test_merging_parts_gives_the_moments_of_all_rows(sizes: list[int], seed: int) -> None:
    rows = _rows(sum(sizes), seed=seed)
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    both = [merged(Moments.of(p) for p in pieces), merged(Moments.of(p) for p in reversed(pieces))]
    whole = Moments.of(rows)
    for found in both:
        assert found.n == whole.n
        np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(found.scatter, whole.scatter, rtol=1e-10, atol=1e-8)


def test_a_large_offset_does_not_cost_precision() -> None:
    rows = _rows(1000).astype(np.float64)
    pieces = np.split(rows + 1e6, 10)
    found = merged(Moments.of(p) for p in pieces)
    np.testing.assert_allclose(found.covariance(), np.cov(rows.T), rtol=1e-8)


def _shard(rows: np.ndarray, start: int, batch: int, block: int = 18) -> BlockMoments:
    moments = BlockMoments(block, rows.shape[1])
    for first in range(0, len(rows), batch):
        moments.add(start + first, rows[first : first + batch])
    return moments


@pytest.mark.parametrize("batch", [1, 7, 18, 64, 256])
def test_the_inner_batch_does_not_change_a_bit(batch: int) -> None:
    rows = _rows(600)
    expected, found = (
        BlockMoments.merged([_shard(rows[a : a + 256], a, size) for a in range(0, 600, 256)]).to_arrays()
        for size in (256, batch)
    )
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_shard_comes_back_from_its_file_unchanged() -> None:
    rows = _rows(300)
    direct = [_shard(rows[:256], 0, 64), _shard(rows[256:], 256, 64)]
    stored = [BlockMoments.from_arrays(shard.to_arrays()) for shard in direct]
    for a, b in zip(
        BlockMoments.merged(direct).blocks.items(), BlockMoments.merged(stored).blocks.items(), strict=True
    ):
        assert a[0] == b[0]
        assert a[1].n == b[1].n
        np.testing.assert_array_equal(a[1].scatter, b[1].scatter)


def test_blocks_hold_the_images_of_their_indices() -> None:
    rows = _rows(90)
    blocks = BlockMoments.merged([_shard(rows[:50], 0, 8), _shard(rows[50:], 50, 8)]).blocks
    assert list(blocks) == [0, 1, 2, 3, 4]
    for index, moments in blocks.items():
        np.testing.assert_allclose(moments.mean, rows[index * 18 : index * 18 + 18].mean(0), rtol=1e-6)


def test_a_reused_buffer_does_not_change_rows_already_taken() -> None:
    moments, buffer = BlockMoments(4, 2), np.ones((2, 2))
    moments.add(0, buffer)
    buffer[:] = 5.0
    moments.add(2, buffer)
    np.testing.assert_array_equal(moments.blocks[0].mean, [3.0, 3.0])


def test_bad_input_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        Moments.of(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="at least 2 samples"):
        Moments.of(np.ones((1, 3))).covariance()
    with pytest.raises(ValueError, match="do not belong together"):
        Moments.of(np.ones((2, 3))).merge(Moments.of(np.ones((2, 4))))
    with pytest.raises(ValueError, match="must be \\(n, 5\\)"):
        BlockMoments(4, 5).add(0, np.ones((2, 3)))
    moments = BlockMoments(4, 5)
    moments.add(0, _rows(3))
    with pytest.raises(ValueError, match="images come in order: 3 is next, not 5"):
        moments.add(5, _rows(1))
    with pytest.raises(ValueError, match="different block sizes"):
        BlockMoments.merged([BlockMoments(4, 5), BlockMoments(3, 5)])
