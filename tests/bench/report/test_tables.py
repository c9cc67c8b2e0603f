"""The numbers behind the ranking: which cells exist, which are best, which are on the front."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from bench.records import Record, to_frame
from bench.report import tables, winners
from tests.bench.report.conftest import (
    certificate_records,
    failed_record,
    sweep_records,
    synthetic_records,
)


def front(cost: list[float], gain: list[float]) -> list[bool]:
    return list(winners.pareto_front(pd.Series(cost), pd.Series(gain)))


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
    assert dict(winners.pareto_front(cost, gain)) == {7: False, 3: True}


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
    best = winners.best_per_model(tables.cells(to_frame(records)))
    assert list(best["model"]) == ["rectified-flow", "ddpm", "transformer", "vae", "realnvp", "broken"]
    assert best.iloc[-1]["status"] == "failed"
    assert "not finite" in best.iloc[-1]["error"]


def test_a_failure_beside_good_cells_does_not_replace_them() -> None:
    table = tables.cells(to_frame([*synthetic_records(), failed_record()]))
    assert winners.best_per_model(table).set_index("model").loc["ddpm", "status"] == "ok"
    assert (table["status"] == "failed").sum() == 1


def test_budget_winners_fall_in_quality_as_the_budget_grows() -> None:
    found = winners.budget_winners(tables.cells(to_frame(synthetic_records())))
    assert found["nfe"].is_monotonic_increasing
    assert (found["quality"].diff().dropna() < 0).all()
    assert next(iter(found["label"])) == "vae · prior"


def test_fastest_within_a_factor_obeys_the_factor() -> None:
    table = tables.cells(to_frame(synthetic_records()))
    row = winners.fastest_within(table, 1.5)
    assert row is not None
    good = table[table["quality"] <= 1.5 * table["quality"].min()]
    assert row["speed"] == good["speed"].max()


def test_different_protocols_are_noticed() -> None:
    rows = synthetic_records()
    assert not tables.mixed_protocols(to_frame(rows))
    index = next(i for i, row in enumerate(rows) if row.metric == "FD-digits@360" and row.model == "vae")
    rows[index] = rows[index].replace(protocol="another")
    assert tables.mixed_protocols(to_frame(rows))


def test_no_two_cells_of_a_sweep_share_a_label() -> None:
    """Options, grid and weight are part of a name; sheets and the numbers of the front are found by it."""
    table = tables.cells(to_frame([*synthetic_records(), *sweep_records()]))
    assert table["label"].is_unique
    assert {"dit · ddim 10 eta=1 w=4", "dit · heun 10 karras", "dit · heun 50 compiled w=4"} <= set(
        table["label"]
    )
    assert not table["label"].str.contains("shared").any()


def test_cells_that_a_way_does_not_tell_apart_still_have_labels_of_their_own() -> None:
    cell = Record(model="m", family="f", sampler="euler", grid="shared", steps=5, metric="KD", value=1.0)
    guided = [cell.replace(guidance=1.0), cell.replace(guidance=None)]
    assert set(tables.cells(to_frame(guided))["label"]) == {"m · euler 5", "m · euler 5 w=1"}
    typed = [cell.replace(dtype="float32"), cell.replace(dtype="bfloat16")]
    labels = set(tables.cells(to_frame(typed))["label"])
    assert labels == {"m · euler 5 float32", "m · euler 5 bfloat16"}


def test_certificates_are_never_ranked() -> None:
    rows = [*synthetic_records(), *certificate_records()]
    distance = certificate_records()[0].replace(metric="FD-digits@360", value=0.001, low=0.0, high=0.002)
    assert "mixture" not in set(tables.cells(to_frame([*rows, distance]))["model"])
    assert tables.cells(to_frame(certificate_records())).empty


def test_records_without_the_column_options_are_tabled() -> None:
    frame = to_frame(synthetic_records())
    old = tables.tidy(frame.drop(columns="options"))
    assert list(old) == list(frame)
    assert list(tables.cells(old)["label"]) == list(tables.cells(frame)["label"])


def test_the_time_of_compiling_stands_in_its_own_cell_and_not_in_its_throughput() -> None:
    table = tables.cells(to_frame(sweep_records())).set_index("label")
    row = table.loc["dit · heun 50 compiled w=4"]
    assert (row["compiling"], row["speed"]) == (17.3, 900.0)
    assert table["compiling"].notna().sum() == 1


def test_milliseconds_are_the_inverse_of_throughput_and_so_are_their_ends() -> None:
    row = tables.cells(to_frame(synthetic_records())).iloc[0]
    assert row["ms"] == 1000.0 / row["speed"]
    assert row["ms_low"] == 1000.0 / row["speed_high"] < row["ms"] < row["ms_high"]
    still = Record(model="m", sampler="s", steps=1, metric="throughput", value=0.0)
    assert math.isnan(tables.cells(to_frame([still]))["ms"].iloc[0])


def test_labels_name_guidance_only_where_there_is_some() -> None:
    assert tables.cell_label("ddpm", "heun", 20, 1.0) == "ddpm · heun 20"
    assert tables.cell_label("ddpm", "heun", 20, 2.5) == "ddpm · heun 20 w=2.5"
    assert tables.cell_label("vae") == "vae"
