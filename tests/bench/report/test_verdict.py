"""The sentences at the top say what the records say, and no more."""

from __future__ import annotations

from bench.records import Record, to_frame
from bench.report.verdict import verdicts
from tests.bench.report.conftest import failed_record, synthetic_records


def said(records: list[Record]) -> dict[str, str]:
    return {answer.label: str(answer) for answer in verdicts(to_frame(records))}


def test_best_samples_name_cell_metric_interval_and_floor() -> None:
    sentence = said(synthetic_records())["Best samples"]
    assert "rectified-flow with heun at 99 evaluations" in sentence
    assert "FD-digits@360 1.87 [1.73, 2.00], 1.1× the floor of real images, 1.71 [1.52, 1.93]" in sentence
    assert "not told apart" not in sentence


def test_meeting_intervals_are_not_called_a_win() -> None:
    rows = [
        row.replace(value=1.95, low=1.8, high=2.1) if row.model == "vae" and "@" in row.metric else row
        for row in synthetic_records()
    ]
    assert "The interval meets that of vae: not told apart." in said(rows)["Best samples"]


def test_an_estimate_that_is_lowest_does_not_hide_the_best_guaranteed_value() -> None:
    rows = [
        row.replace(value=1.5, low=1.4, high=1.6) if row.kind == "estimate" else row
        for row in synthetic_records()
    ]
    sentence = said(rows)["Best likelihood"]
    assert "rectified-flow" in sentence
    assert "the lowest exact value is that of transformer, 1.934 [1.913, 1.955]" in sentence


def test_budgets_name_a_larger_one_only_where_it_pays() -> None:
    sentence = said(synthetic_records())["Best at a budget"]
    assert "1: vae, 9.60" in sentence
    assert "50: " not in sentence


def test_mixed_protocols_are_said() -> None:
    rows = synthetic_records()
    first = next(i for i, row in enumerate(rows) if row.metric == "FD-digits@360" and row.model == "vae")
    rows[first] = rows[first].replace(protocol="other")
    assert "not a ranking" in said(rows)["Best samples"]


def test_failures_are_counted_by_cell() -> None:
    rows = [failed_record(), failed_record().replace(metric="throughput"), failed_record(steps=5)]
    assert said(rows) == {"Failed": "Failed: ddpm, 2 cells without a number, listed below."}


def test_nothing_measured_says_nothing() -> None:
    assert said([]) == {}
