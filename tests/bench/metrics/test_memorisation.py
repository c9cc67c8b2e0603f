"""Memorisation: copies are found, honest samples are not accused, and a held-out split is demanded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.metrics.data_copying import data_copying
from bench.metrics.memorisation import authenticity, nearest_pairs


def splits(seed: int = 0, n: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fresh samples, training rows, held-out rows: all of one distribution."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)), rng.normal(size=(300, 6)), rng.normal(size=(200, 6))


@pytest.mark.parametrize("score", [authenticity, nearest_pairs, data_copying])
def test_without_a_held_out_split_there_is_no_score(score: Callable[..., Any]) -> None:
    fresh, training, _ = splits()
    with pytest.raises(ValueError, match="pass the features of a held-out split") as refused:
        score(fresh, training, None)
    assert str(refused.value).count(".") == 1


def test_copies_have_authenticity_zero() -> None:
    _, training, held_out = splits()
    found = authenticity(training[:80], training, held_out)
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0 < found.high < 0.06
    assert found.held_out.value > 0.3
    assert found.difference.high < 0


def test_slightly_blurred_copies_are_not_authentic_either() -> None:
    _, training, held_out = splits()
    noise = 1e-3 * np.random.default_rng(1).normal(size=(80, 6))
    assert authenticity(training[:80] + noise, training, held_out).value == 0.0


def test_authenticity_is_that_of_its_definition() -> None:
    x, t, h = splits()
    gaps = np.sqrt(((t[:, None] - t[None]) ** 2).sum(-1))
    np.fill_diagonal(gaps, np.inf)
    for rows, value in ((x, authenticity(x, t, h).value), (h, authenticity(x, t, h).held_out.value)):
        reach = np.sqrt(((rows[:, None] - t[None]) ** 2).sum(-1))
        true = np.mean([reach[i].min() > gaps[reach[i].argmin()].min() for i in range(len(rows))])
        assert value == pytest.approx(true)


def test_fresh_samples_are_as_authentic_as_held_out_images() -> None:
    """The share itself is near a half and says nothing; only the comparison does."""
    found = [authenticity(*splits(seed)) for seed in range(60)]
    inside = np.mean([each.difference.low <= 0 <= each.difference.high for each in found])
    assert inside >= 0.88
    assert 0.35 < np.mean([each.value for each in found]) < 0.65


def test_nearest_pairs_find_planted_copies_and_their_originals() -> None:
    fresh, training, held_out = splits()
    planted = fresh.copy()
    planted[[5, 77, 100]] = training[[250, 3, 3]]
    planted[20] = training[9] + 1e-7
    found = nearest_pairs(planted, training, held_out, 4, block=32)
    assert found.generated.tolist() == [5, 77, 100, 20]
    assert found.training.tolist() == [250, 3, 3, 9]
    assert found.distances[:3].tolist() == [0.0, 0.0, 0.0]
    assert found.distances[3] == pytest.approx(1e-7 * np.sqrt(6), rel=1e-6)
    assert (found.copies, found.held_out_copies, found.n) == (3, 0, 150)
    assert found.held_out_quantile.tolist() == [0.0] * 4


def test_copies_in_float32_of_real_scale_are_at_distance_exactly_zero() -> None:
    rng = np.random.default_rng(0)
    training = (np.abs(rng.normal(size=(200, 256))) + 5).astype(np.float32)
    held_out = (np.abs(rng.normal(size=(50, 256))) + 5).astype(np.float32)
    found = nearest_pairs(training[:30].copy(), training, held_out, 30)
    assert found.copies == 30
    assert (found.distances == 0).all()
    assert sorted(found.training.tolist()) == list(range(30))


def test_duplicates_in_the_data_are_counted_apart() -> None:
    fresh, training, held_out = splits()
    held_out[:4] = training[:4]
    assert nearest_pairs(fresh, training, held_out).held_out_copies == 4


def test_bad_input_gets_a_sentence() -> None:
    fresh, training, held_out = splits()
    with pytest.raises(ValueError, match="151 pairs cannot be had of 150"):
        nearest_pairs(fresh, training, held_out, 151)
    with pytest.raises(ValueError, match="held-out features of 5 and training features of 6"):
        authenticity(fresh, training, held_out[:, :5])
    with pytest.raises(ValueError, match="at least 3 training rows"):
        authenticity(fresh, training[:2], held_out)
