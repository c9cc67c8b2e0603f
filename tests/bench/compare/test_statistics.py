"""Protects what a comparison concludes: few false alarms, and no blindness to what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.compare import Comparison, compare
from bench.compare import statistics as compared
from tests.bench.compare.synthetic import Truth, write_run

METRICS = ("bits/dim", "FD-x@400", "throughput")


def pairs(path: Path, truth: Truth, count: int, first: int = 0, noise: float = 0.0) -> list[Comparison]:
    """Comparisons of so many pairs of runs that differ by the truth."""
    found = []
    for pair in range(first, first + count):
        a, b = (
            write_run(path / side, "run", pair, side, truth if side == "b" else Truth())
            for side in ("a", "b")
        )
        found.append(compare(a, b, noise=noise))
    return found


def share(found: list[Comparison], metric: str, verdict: str) -> float:
    rows = [row for one in found for row in one.rows if row.metric == metric]
    assert len(rows) == len(found)
    return sum(row.verdict == verdict for row in rows) / len(rows)


def spread(found: list[Comparison], metric: str) -> float:
    """Standard deviation of the differences, of ratios that of their logarithms."""
    values = np.array([row.difference for one in found for row in one.rows if row.metric == metric])
    return float((np.log(values) if metric == "throughput" else values).std(ddof=1))


def worse_by(standard_errors: float, null: list[Comparison]) -> Truth:
    """What makes run B worse by so many of the differences' true standard errors."""
    bits, distance, speed = (standard_errors * spread(null, metric) for metric in METRICS)
    return Truth(bits, distance, float(np.exp(-speed)))


def test_runs_without_a_difference_are_the_same_and_three_standard_errors_are_seen(tmp_path: Path) -> None:
    """Short form: bounds that a false alarm rate of 15 % or a power of 65 % would break."""
    null = pairs(tmp_path / "null", Truth(), 60)
    for metric in METRICS:
        assert share(null, metric, "worse") <= 0.12
        assert share(null, metric, "better") <= 0.12
    found = pairs(tmp_path / "worse", worse_by(3.0, null), 40, first=1000)
    for metric in METRICS:
        assert share(found, metric, "worse") >= 0.78


@pytest.mark.campaign
def test_false_alarms_and_power_in_full(tmp_path: Path) -> None:
    """At most 5 % false alarms of each kind, at least 90 % power at three standard errors."""
    null = pairs(tmp_path / "null", Truth(), 2000)
    found = pairs(tmp_path / "worse", worse_by(3.0, null), 1000, first=10_000)
    for metric in METRICS:
        alarms = [share(null, metric, verdict) for verdict in ("worse", "better")]
        power = share(found, metric, "worse")
        first = [share(null[start : start + 200], metric, "worse") for start in range(0, 2000, 200)]
        print(
            f"{metric}: worse {alarms[0]:.1%}, better {alarms[1]:.1%} of 2000, power {power:.1%}; "
            f"by 200: {first}"
        )
    for metric in METRICS:
        assert max(share(null, metric, verdict) for verdict in ("worse", "better")) <= 0.055
        assert share(found, metric, "worse") >= 0.88


def test_pairing_is_worth_its_name(tmp_path: Path) -> None:
    """The interval of a paired difference is a small part of that of runs that share nothing."""
    a, b = (write_run(tmp_path / side, "run", 0, side) for side in ("a", "b"))
    rows = {row.metric: row for row in compare(a, b).rows}
    bits = rows["bits/dim"]
    assert bits.a is not None
    assert bits.b is not None
    assert bits.low is not None
    assert bits.high is not None
    unpaired = compared.of_intervals(bits.a, bits.b)  # type: ignore[arg-type]
    assert bits.high - bits.low < 0.2 * (unpaired.high - unpaired.low)
    assert bits.method == "paired over 360 images"
    assert rows["FD-x@400"].method == "jackknife over 20 blocks of the same seeds"


def test_holm_is_bonferroni_for_the_smallest_and_never_falls() -> None:
    found = compared.holm([0.01, 0.04, 0.03, 0.9])
    assert found == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert compared.holm([]) == []
    assert compared.holm([0.6, 0.7]) == [1.0, 1.0]


def test_a_difference_without_error_leaves_no_doubt() -> None:
    same = np.array([1.0, 2.0, 3.0])
    found = compared.paired(same, same + 0.5, "images")
    assert (found.value, found.low, found.high, found.above, found.below) == (0.5, 0.5, 0.5, 0.0, 1.0)
    nothing = compared.paired(same, same, "images")
    assert (nothing.above, nothing.below) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least 2 images"):
        compared.paired(same[:1], same[:1], "images")


def test_a_resample_is_the_same_every_time() -> None:
    a, b = (np.random.default_rng(i).gamma(9.0, size=9) for i in range(2))
    assert compared.median_ratio(a, b, "seed") == compared.median_ratio(a, b, "seed")
    assert compared.median_ratio(a, b, "seed") != compared.median_ratio(a, b, "another")
