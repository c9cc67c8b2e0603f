"""Protects the record: tidy, finite, and the same in every table."""

from __future__ import annotations

import json
import math

import pytest

from bench.records import COLUMNS, Record, from_rows, to_frame, to_rows


def test_rows_survive_json() -> None:
    records = [Record(metric="a", value=0.1, low=0.0, high=0.2, steps=3), Record(metric="b", status="n/a")]
    assert from_rows(json.loads(json.dumps(to_rows(records), allow_nan=False))) == records


def test_options_stand_after_guidance_and_rows_stored_before_they_existed_load() -> None:
    assert COLUMNS.index("options") == COLUMNS.index("guidance") + 1
    (row,) = to_rows([Record(metric="a", sampler="ddim", options="eta=1")])
    assert row.pop("options") == "eta=1"
    assert from_rows([row]) == [Record(metric="a", sampler="ddim")]


@pytest.mark.parametrize("name", ["value", "low", "high", "nfe", "seconds"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused(name: str, number: float) -> None:
    with pytest.raises(ValueError, match=f"record's {name} must be finite"):
        Record(metric="m", **{name: number})


def test_a_table_has_every_column_in_order_with_fixed_types() -> None:
    full, empty = to_frame([Record(metric="m", value=1.0, steps=4)]), to_frame([])
    assert tuple(full.columns) == tuple(empty.columns) == COLUMNS
    assert str(full["steps"].dtype) == str(empty["steps"].dtype) == "Int64"
    assert full["value"].dtype == empty["value"].dtype == float
