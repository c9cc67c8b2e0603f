"""Protects the plan's costs: the user's own history first, then the shipped figures, then honesty."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import estimates
from bench.cells import Cell
from bench.estimates import Estimator, workload
from bench.records import Record
from bench.run import make_planner
from bench.runtime import Runtime
from bench.store import Store
from bench.suite import load_suite


def _cell(**changes: object) -> Cell:
    spec = {"model": {"path": "m:M"}, "sampling": {"steps": 3}, "seed": 0, "weights": "w", "code": "c"}
    return Cell("quality", "m", {**spec, **changes}, {})


def test_what_does_not_change_the_cost_does_not_change_the_workload() -> None:
    base = workload("quality", _cell().spec)
    assert workload("quality", _cell(seed=1, weights="x", code="y").spec) == base
    assert workload("quality", _cell(sampling={"steps": 4}).spec) != base
    assert workload("throughput", _cell().spec) != base


def test_history_is_asked_before_the_shipped_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, cell = Store(tmp_path), _cell()
    assert Estimator(store).of(cell).source == "unknown"
    store.begin(cell.key, cell.kind, cell.spec)
    store.finish(cell.key, [Record(metric="m", seconds=2.5)])
    again = Estimator(store).of(_cell(seed=7))
    assert (again.seconds, again.source) == (2.5, "history")
    assert again.bytes > 0


def test_the_default_suite_is_known_before_its_first_run(tmp_path: Path) -> None:
    planner = make_planner(load_suite("digits"), Runtime("cpu", 2))
    estimator = Estimator(Store(tmp_path))
    cells = [*planner.references()]
    for label in planner.suite.models:
        cells += [planner.training(label), *planner.dependents(label, *planner.traits(label), "")]
    assert {estimator.of(cell).source for cell in cells} == {"reference"}
    total = sum(estimator.of(cell).seconds for cell in cells)
    assert 60 < total < 600


def test_the_printed_costs_are_those_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, cell = Store(tmp_path), _cell()
    store.begin(cell.key, cell.kind, cell.spec)
    store.finish(cell.key, [Record(metric="m", seconds=2.5)])
    monkeypatch.setattr(estimates.sys, "argv", ["estimates", str(tmp_path)])
    estimates.main()
    assert workload("quality", cell.spec) in capsys.readouterr().out
