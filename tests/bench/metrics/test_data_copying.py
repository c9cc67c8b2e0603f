"""C_T: its sign, its distribution where nothing was copied, and U against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from bench.metrics.data_copying import LEAST, data_copying, rank_cell
from bench.metrics.neighbours import nearest


def splits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(200, 4)), rng.normal(size=(250, 4)), rng.normal(size=(150, 4))


def test_copied_training_rows_score_far_below_zero() -> None:
    _, training, held_out = splits(0)
    noise = 0.02 * np.random.default_rng(1).normal(size=(200, 4))
    for copies in (training[:200], training[:200] + noise):
        found = data_copying(copies, training, held_out, cells=3)
        assert found.high < -3
        assert found.p_copying < 1e-6
        assert found.farther.value < 0.05
        assert 0.0 <= found.farther.low < found.farther.high < 0.1


def test_samples_far_from_the_data_score_far_above_zero() -> None:
    fresh, training, held_out = splits(0)
    found = data_copying(2.5 * fresh, training, held_out, cells=3)
    assert found.low > 3
    assert found.p_copying > 0.999
    assert found.farther.value > 0.8


def test_copying_in_one_corner_is_seen_where_the_whole_hides_it() -> None:
    """Half the samples are copies, the other half lie too far out: without cells they cancel."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0, 0.0], [40.0, 0.0, 0.0]])
    training, held_out = (np.concatenate([c + rng.normal(size=(n, 3)) for c in centres]) for n in (150, 100))
    copies, far = training[:100] + 0.02, centres[1] + 2.5 * rng.normal(size=(100, 3))
    mixed = np.concatenate([copies, far])
    cells = data_copying(mixed, training, held_out, cells=2)
    assert cells.cells == 2
    assert abs(data_copying(mixed, training, held_out, cells=1).value) < 4
    assert data_copying(copies, training, held_out, cells=2).value < -8
    assert data_copying(copies, training, held_out, cells=2).cells_left_out == 1


def calibration(draws: int) -> tuple[float, float, float]:
    """Where nothing is copied: false alarms at 5 %, coverage of zero, error over spread."""
    found = [data_copying(*splits(seed), cells=3, seed=seed) for seed in range(draws)]
    values = np.array([each.value for each in found])
    alarms = np.mean([each.p_copying < 0.05 for each in found])
    inside = np.mean([each.low <= 0 <= each.high for each in found])
    errors = np.mean([each.standard_error for each in found])
    return float(alarms), float(inside), float(errors / values.std())


def test_honest_samples_are_accused_as_often_as_stated() -> None:
    alarms, inside, ratio = calibration(80)
    assert alarms <= 0.13
    assert inside >= 0.87
    assert 0.75 < ratio < 1.3


@pytest.mark.campaign
def test_honest_samples_are_accused_as_often_as_stated_in_full() -> None:
    alarms, inside, ratio = calibration(1000)
    print(f"alarms {alarms:.4f}, coverage {inside:.4f}, error over spread {ratio:.3f}")
    assert 0.03 <= alarms <= 0.07
    assert 0.93 <= inside <= 0.97


@pytest.mark.parametrize("ties", [False, True])
def test_one_cell_is_the_test_of_mann_and_whitney(ties: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60), rng.normal(size=45) + 0.4
    if ties:
        a, b = np.round(2 * a), np.round(2 * b)
    found = rank_cell(a, b)
    theirs = mannwhitneyu(a, b, alternative="less", use_continuity=False, method="asymptotic")
    assert found.farther * len(a) * len(b) == pytest.approx(theirs.statistic)
    x, t, h = splits(3)
    whole = data_copying(x, t, h, cells=1)
    near = [nearest(rows, t).distances[:, 0] for rows in (x, h)]
    theirs = mannwhitneyu(*near, alternative="less", use_continuity=False, method="asymptotic")
    assert whole.p_copying == pytest.approx(theirs.pvalue, rel=1e-9)


def test_equal_distances_throughout_say_nothing() -> None:
    found = rank_cell(np.zeros(30), np.zeros(40))
    assert (found.z, found.z_error, found.farther) == (0.0, 0.0, 0.5)


def test_the_seed_fixes_the_cells() -> None:
    x, t, h = splits(0)
    first = data_copying(x, t, h, cells=4, seed=7)
    np.random.seed(0)  # noqa: NPY002
    assert data_copying(x, t, h, cells=4, seed=7) == first


def test_too_few_rows_or_too_many_cells_get_a_sentence() -> None:
    x, t, h = splits(0)
    with pytest.raises(ValueError, match="fewer cells than 3"):
        data_copying(x[: LEAST - 1], t, h, cells=3)
    with pytest.raises(ValueError, match="250 training rows cannot make 300 cells"):
        data_copying(x, t, h, cells=300)
