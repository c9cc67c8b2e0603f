"""Nearest rows against brute force, exact copies, ties, and features with a large offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics.neighbours import direct_squares, nearest, nearest_others


def brute(q: np.ndarray, x: np.ndarray, k: int, same: bool = False) -> tuple[np.ndarray, np.ndarray]:
    squares = ((q[:, None] - x[None]) ** 2).sum(-1)
    if same:
        np.fill_diagonal(squares, np.inf)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squares, order, 1)), order


@pytest.mark.parametrize("block", [3, 50, 1024])
@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_those_of_brute_force(k: int, block: int) -> None:
    rng = np.random.default_rng(0)
    q, x = rng.normal(size=(40, 6)), rng.normal(size=(70, 6))
    found = nearest(q, x, k, block=block)
    distances, rows = brute(q, x, k)
    np.testing.assert_array_equal(found.indices, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-14)
    found = nearest_others(x, k, block=block)
    distances, rows = brute(x, x, k, same=True)
    np.testing.assert_array_equal(found.indices, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-14)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_ties_of_whole_numbers_go_to_the_first_row(seed: int, k: int) -> None:
    """Many equal distances: more than the spare candidates can hold."""
    rng = np.random.default_rng(seed)
    q, x = rng.integers(0, 3, (12, 2)).astype(float), rng.integers(0, 3, (40, 2)).astype(float)
    found = nearest(q, x, k, block=16)
    distances, _ = brute(q, x, k)
    np.testing.assert_array_equal(found.distances, distances)


def test_an_exact_copy_is_at_distance_zero_where_a_product_in_float32_is_not() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 512)) + 10).astype(np.float32)
    found = nearest(x[:20], x)
    assert (found.distances == 0).all()
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(20))
    rough = torch.cdist(
        torch.from_numpy(x[:20]), torch.from_numpy(x), compute_mode="use_mm_for_euclid_dist"
    ).min(1)
    assert float(rough.values.max()) > 1e-2  # what is wrong with the quick way


def test_an_offset_far_from_zero_changes_no_neighbour() -> None:
    rng = np.random.default_rng(0)
    q, x = rng.integers(-99, 99, (30, 8)) / 128, rng.integers(-99, 99, (50, 8)) / 128
    near, far = nearest(q, x, 3), nearest(q + 2.0**20, x + 2.0**20, 3)
    np.testing.assert_array_equal(near.distances, far.distances)
    np.testing.assert_array_equal(near.indices, far.indices)


def test_near_copies_are_told_apart_below_the_rounding_of_products() -> None:
    """Rows that differ in the last bits of one coordinate: the products cannot order them."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=64) * 100
    x = np.tile(base, (12, 1))
    x[:, 0] += 1e-11 * np.arange(12, 0, -1)
    found = nearest(base[None], x, 2)
    assert found.indices[0].tolist() == [11, 10]


def test_a_copy_elsewhere_in_the_set_is_a_neighbour_and_the_row_itself_is_not() -> None:
    x = np.array([[0.0], [1.0], [0.0], [5.0]])
    found = nearest_others(x)
    assert found.indices[:, 0].tolist() == [2, 0, 0, 1]
    assert found.distances[:, 0].tolist() == [0.0, 1.0, 0.0, 4.0]


def test_direct_squares_are_the_same_both_ways() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 333))
    assert direct_squares(a, b[None])[0] == direct_squares(b, a[None])[0]


def test_too_few_rows_for_k_get_a_sentence() -> None:
    x = np.zeros((4, 2))
    with pytest.raises(ValueError, match="5 nearest rows cannot be had of 4"):
        nearest(x, x, 5)
    with pytest.raises(ValueError, match="choose k from 1 to 3"):
        nearest_others(x, 4)
    with pytest.raises(ValueError, match="choose k from 1"):
        nearest(x, x, 0)
