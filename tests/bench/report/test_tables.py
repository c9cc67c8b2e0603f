"""The numbers behind the ranking: which cells exist, which are best, which are on the front."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from bench.records import Record, to_frame
from bench.report import tables
from tests.bench.report.conftest import failed_record, synthetic_records


def front(cost: list[float], gain: list[float]) -> list[bool]:
    return list(tables.pareto_front(pd.Series(cost), pd.Series(gain)))


def test_front_drops_what_is_beaten_in_both() -> None:
    assert front([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == [True, True, False]


def test_equal_cells_are_on_the_front_together_but_not_a_tie_that_is_worse_in_the_other() -> None:
    assert front([1.0, 1.0, 1.0, 2.0], [5.0, 5.0, 4.0, 5.0]) == [True, True, False, False]


def test_missing_numbers_are_never_on_the_front_and_do_not_hide_others() -> None:
    assert front([math.nan, 2.0, 1.0], [9.0, 1.0, math.nan]) == [False, True, False]
    assert front([], []) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_front_equals_its_definition(points: list[tuple[int, int]]) -> None:
    """No other point costs no more and gains no less, one of them strictly: by brute force."""
    expected = [
        not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        for cost, gain in points
    ]
    assert front([float(c) for c, _ in points], [float(g) for _, g in points]) == expected


def test_front_keeps_its_index() -> None:
    cost, gain = pd.Series([2.0, 1.0], index=[7, 3]), pd.Series([1.0, 2.0], index=[7, 3])
    assert dict(tables.pareto_front(cost, gain)) == {7: False, 3: True}


def test_headline_is_the_first_metric_that_is_not_debiased() -> None:
    rows = [Record(metric="FD-x debiased"), Record(metric="throughput"), Record(metric="FD-x@9")]
    assert tables.headline_metric(to_frame(rows)) == "FD-x@9"
    assert tables.headline_metric(to_frame(rows[1:2])) is None


def test_a_cell_joins_the_numbers_of_its_own_key_only() -> None:
    """Quality and speed have different cell keys; they meet by model, sampler, steps, and nothing else."""
    table = tables.cells(to_frame(synthetic_records()))
    row = table[(table["model"] == "ddpm") & (table["sampler"] == "heun") & (table["steps"] == 20)].iloc[0]
    assert row["nfe"] == 39
    assert row["speed"] == 11000.0 / 39
    assert row["bits"] == 2.12
    assert row["bits_kind"] == "bound"
    assert len(table) == 3 + 2 * 4 * 4
    assert not table["family"].isin(["reference", "anchor"]).any()


def test_cells_survive_a_trip_through_csv(tmp_path: object) -> None:
    """Empty text comes back from CSV as NaN; the cells must not change by it."""
    import io

    frame = to_frame(synthetic_records())
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    one, two = tables.cells(frame), tables.cells(again)
    assert list(one["label"]) == list(two["label"])
    np.testing.assert_allclose(one["quality"], two["quality"])


def test_best_per_model_is_the_lowest_quality_and_keeps_models_that_failed() -> None:
    records = [*synthetic_records(), failed_record("broken")]
    best = tables.best_per_model(tables.cells(to_frame(records)))
    assert list(best["model"]) == ["rectified-flow", "ddpm", "transformer", "vae", "realnvp", "broken"]
    assert best.iloc[-1]["status"] == "failed"
    assert "not finite" in best.iloc[-1]["error"]


def test_a_failure_beside_good_cells_does_not_replace_them() -> None:
    table = tables.cells(to_frame([*synthetic_records(), failed_record()]))
    assert tables.best_per_model(table).set_index("model").loc["ddpm", "status"] == "ok"
    assert (table["status"] == "failed").sum() == 1


def test_budget_winners_fall_in_quality_as_the_budget_grows() -> None:
    winners = tables.budget_winners(tables.cells(to_frame(synthetic_records())))
    assert winners["nfe"].is_monotonic_increasing
    assert (winners["quality"].diff().dropna() < 0).all()
    assert next(iter(winners["label"])) == "vae · prior"


def test_fastest_within_a_factor_obeys_the_factor() -> None:
    table = tables.cells(to_frame(synthetic_records()))
    row = tables.fastest_within(table, 1.5)
    assert row is not None
    good = table[table["quality"] <= 1.5 * table["quality"].min()]
    assert row["speed"] == good["speed"].max()


def test_different_protocols_are_noticed() -> None:
    rows = synthetic_records()
    assert not tables.mixed_protocols(to_frame(rows))
    index = next(i for i, row in enumerate(rows) if row.metric == "FD-digits@360" and row.model == "vae")
    rows[index] = rows[index].replace(protocol="another")
    assert tables.mixed_protocols(to_frame(rows))


def test_labels_name_guidance_only_where_there_is_some() -> None:
    assert tables.cell_label("ddpm", "heun", 20, 1.0) == "ddpm · heun 20"
    assert tables.cell_label("ddpm", "heun", 20, 2.5) == "ddpm · heun 20 w=2.5"
    assert tables.cell_label("vae") == "vae"
