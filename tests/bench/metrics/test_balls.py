"""Balls and who is in them: replicates, both directions from one walk, tiles that cover every pair once."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.balls import GROUPS, check_rows, membership, mutual_membership, squared_radii


def test_radii_without_a_group_are_those_of_the_rest() -> None:
    x = np.random.default_rng(0).normal(size=(47, 3))
    radii, groups = squared_radii(x, 3, block=4), np.arange(47) % GROUPS
    for g in range(GROUPS):
        rest = x[groups != g]
        true = np.sort(((rest[:, None] - rest[None]) ** 2).sum(-1), axis=1)[:, 3]
        np.testing.assert_allclose(radii[1 + g, groups != g], true, rtol=1e-10)
        assert (radii[1 + g, groups == g] < 0).all()


def test_replicates_count_the_balls_that_are_left() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(50, 3))
    found, groups = membership(x, y, 3, block=8), np.arange(50) % GROUPS
    for g in range(GROUPS):
        again = membership(x, y[groups != g], 3)
        np.testing.assert_array_equal(found.inside[1 + g], again.inside[0])


@pytest.mark.parametrize("block", [2, 5, 1024])
def test_one_walk_gives_both_directions(block: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(43, 3)), rng.normal(size=(31, 3))
    forth, back = mutual_membership(x, y, 3, block=block)
    for found, alone in ((forth, membership(x, y, 3)), (back, membership(y, x, 3))):
        np.testing.assert_array_equal(found.inside, alone.inside)
        np.testing.assert_array_equal(found.reached_by, alone.reached_by)


def test_balls_are_reached_by_groups_of_queries() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(50, 3))
    radii = np.sort(((y[:, None] - y[None]) ** 2).sum(-1), axis=1)[:, 3]
    held, found = ((x[:, None] - y[None]) ** 2).sum(-1) <= radii, membership(x, y, 3, block=3)
    for g in range(GROUPS):
        np.testing.assert_array_equal(found.reached_by[g], held[g::GROUPS].any(0))


def test_rows_that_lie_on_each_other_have_balls_of_radius_zero_that_hold_them() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 3)), 4, axis=0)
    assert (squared_radii(x, 3)[0] == 0).all()
    assert (membership(x, x, 3).inside[0] == 4).all()


def test_too_few_rows_get_a_sentence() -> None:
    check_rows(12, 9)
    with pytest.raises(
        ValueError,
        match="11 rows are too few for balls to their 9 nearest rows and an error: give at least 12",
    ):
        check_rows(11, 9)
    with pytest.raises(ValueError, match="with k ≥ 1, not 0"):
        check_rows(100, 0)
