"""Precision, recall, density, coverage: against brute force, by role, at ties, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.estimate import Estimate
from bench.metrics.manifolds import density_coverage, precision_recall


def brute(x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float]:
    """All four from whole distance matrices, by direct difference."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    radius_x, radius_y = (np.sort(distances(a, a), axis=1)[:, k] for a in (x, y))
    in_real, in_generated = distances(x, y) <= radius_y, distances(y, x) <= radius_x
    return {
        "precision": in_real.any(1).mean(),
        "recall": in_generated.any(1).mean(),
        "density": in_real.sum() / (k * len(x)),
        "coverage": in_real.any(0).mean(),
    }


def ours(x: np.ndarray, y: np.ndarray, k: int, **options: int) -> dict[str, Estimate]:
    a, b = precision_recall(x, y, k, **options), density_coverage(x, y, k, **options)
    return {"precision": a.precision, "recall": a.recall, "density": b.density, "coverage": b.coverage}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [7, 1024])
def test_all_four_are_those_of_brute_force(k: int, block: int) -> None:
    rng = np.random.default_rng(k)
    x, y = 0.8 * rng.normal(size=(83, 4)) + 0.3, rng.normal(size=(61, 4))
    found, true = ours(x, y, k, block=block), brute(x, y, k)
    assert {name: each.value for name, each in found.items()} == pytest.approx(true, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_rows_on_a_surface_are_inside_whatever_the_rounding(seed: int) -> None:
    """Whole numbers far from zero: most distances equal some radius, and products round."""
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 4, (50, 3)) + 1e6 for _ in range(2))
    found, true = ours(x, y, 3, block=9), brute(x, y, 3)
    assert {name: each.value for name, each in found.items()} == pytest.approx(true, rel=1e-12)


def test_identical_sets_are_precise_and_complete() -> None:
    x = np.random.default_rng(0).normal(size=(80, 5))
    found = ours(x, x, 5)
    assert [found[name].value for name in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]
    # Every ball holds its own centre and k others, the last of them on its surface.
    assert found["density"].value == pytest.approx(6 / 5)
    assert 0.9 < found["precision"].low < 1.0  # all of a sample is not all of a distribution
    assert found["precision"].high == 1.0


def test_one_good_image_again_and_again_is_precise_and_recalls_nothing() -> None:
    """Which set is real matters: with the roles exchanged the two values are."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 4))
    collapsed = real[3] + 1e-6 * rng.normal(size=(100, 4))
    found = precision_recall(collapsed, real)
    assert found.precision.value == 1.0
    assert found.recall.value <= 0.02
    assert found.precision.n == 100
    assert found.recall.n == 200
    swapped = precision_recall(real, collapsed)
    assert (swapped.recall.value, swapped.precision.value) == (found.precision.value, found.recall.value)
    assert density_coverage(collapsed, real).coverage.value < 0.1


def test_noise_beside_the_data_is_neither() -> None:
    rng = np.random.default_rng(0)
    found = ours(rng.normal(size=(60, 4)) + 100, rng.normal(size=(60, 4)), 3)
    assert [each.value for each in found.values()] == [0.0, 0.0, 0.0, 0.0]
    assert found["precision"].low == 0.0
    assert 0.0 < found["precision"].high < 0.1


def test_one_outlier_fools_precision_and_not_density() -> None:
    """A real row far out has a ball that holds a great deal; density counts it as one of many."""
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(200, 3)), [[60.0, 0, 0]]])
    fake = rng.normal(size=(100, 3)) * 0.5 + [30, 0, 0]
    assert precision_recall(fake, real, 3).precision.value > 0.9
    assert density_coverage(fake, real, 3).density.value < 0.5


def covered(draws: int, n: int, scale: float) -> dict[str, tuple[float, float]]:
    """Share of intervals that hold the mean value at this n, and mean error over spread, by metric."""
    rng = np.random.default_rng(2)
    found = [ours(rng.normal(size=(n, 6)) * scale, rng.normal(size=(n, 6)), 5) for _ in range(draws)]
    answer = {}
    for name in found[0]:
        values = np.array([each[name].value for each in found])
        inside = np.mean([each[name].low <= values.mean() <= each[name].high for each in found])
        errors = np.mean([each[name].standard_error for each in found])
        answer[name] = (float(inside), float(errors / values.std()))
    return answer


def test_intervals_cover_and_allow_for_both_sets() -> None:
    for inside, ratio in covered(60, 150, 0.85).values():
        assert inside >= 0.88
        assert 0.75 < ratio < 1.8


@pytest.mark.campaign
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.3])
def test_intervals_cover_in_full(scale: float) -> None:
    for name, (inside, ratio) in covered(300, 500, scale).items():
        print(f"scale {scale} {name}: {inside:.4f} covered, error over spread {ratio:.3f}")
        assert inside >= 0.92


def test_bad_input_gets_a_sentence() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.raises(ValueError, match="give at least"):
        precision_recall(x, x, k=29)
    with pytest.raises(ValueError, match="with k ≥ 1, not 0"):
        density_coverage(x, x, k=0)
    with pytest.raises(ValueError, match="at least 10 generated rows"):
        precision_recall(x[:5], x)
    with pytest.raises(ValueError, match="NaN"):
        precision_recall(x, np.where(x == x[3, 1], np.nan, x))
