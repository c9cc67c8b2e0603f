"""Protects sweeps: samplers, grids, ways of guiding and executions of a suite reach cells and records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cells import Cell, certificate
from bench.drivers.events import Finished
from bench.drivers.in_process import InProcess
from bench.errors import UsageError
from bench.records import Record
from bench.run import make_planner
from bench.runtime import Runtime
from bench.store import Store
from bench.suite import Suite, load_suite, select
from bench.workbench import Workbench, check_models

SUITE = """
name: swept
dataset: digits
training: {steps: 20, batch_size: 64, learning_rate: 0.002, warmup_steps: 4}
models:
  weak:
    model: rectified-flow
    options: {channels: 8, classes: 10, condition_dropout: 0.25}
    samplers: []
  strong:
    model: rectified-flow
    options: {channels: 8, classes: 10, condition_dropout: 0.25}
    training: {steps: 40}
    guidance:
      - 1
      - {weight: 3, method: apg, momentum: -0.5}
      - {weight: 3, low: 0.5, high: 2.0, batched: false}
      - {weight: 2, method: autoguidance, weaker: weak}
    samplers:
      - {name: dpmpp-2m, steps: 4}
  alone:
    model: rectified-flow
    options: {channels: 8}
    guidance: [{weight: 2, method: autoguidance, weaker: bare}]
    samplers:
      - {name: heun, steps: 3, grid: {name: karras, rho: 5}}
      - {name: edm, steps: 3, grid: native}
      - {name: dopri5, options: {rtol: 0.01, atol: 0.01}}
      - {name: dpmpp-2m-sde, steps: [2, 4], options: {eta: 0.5}}
metrics: [quality, throughput, certificates]
sampling: {images: 360, grid: shared}
quality: {features: digits-features, group: 360}
throughput: {batch: 8, repeats: 3}
"""
BARE = "  bare: {model: rectified-flow, options: {channels: 8}, training: {steps: 10}, samplers: []}\n"


def _suite(tmp_path: Path, change: Callable[[str], str] = lambda text: text) -> Suite:
    path = tmp_path / "swept.yaml"
    path.write_text(change(SUITE.replace("  alone:\n", BARE + "  alone:\n")))
    return load_suite(str(path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    folder = tmp_path_factory.mktemp("swept")
    planner = make_planner(_suite(folder), Runtime("cpu", 1))
    check_models(planner)
    store = Store(folder / "store")
    bench = Workbench(planner.data, store, planner.runtime, planner.suite.quality.features)
    return [event for event in InProcess(planner, bench).run() if isinstance(event, Finished)]


def _rows(finished: list[Finished], model: str, metric: str) -> list[Record]:
    return [r for event in finished for r in event.records if (r.model, r.metric) == (model, metric)]


def test_every_way_is_measured(finished: list[Finished]) -> None:
    assert {event.outcome for event in finished} == {"ok"}, [e.error for e in finished if e.error]


def test_ways_of_guiding_are_told_apart_and_cost_what_they_cost(finished: list[Finished]) -> None:
    """Four evaluations unguided; eight guided; two of the four noise levels lie in the interval."""
    rows = _rows(finished, "strong", "FD-digits@360")
    found = {(row.guidance, row.options): row.nfe for row in rows}
    assert found == {
        (1.0, ""): 4.0,
        (3.0, "apg β=-0.5"): 8.0,
        (3.0, "σ/α 0.5–2 two calls"): 5.0,
        (2.0, "autoguidance from weak"): 8.0,
    }
    assert len({row.value for row in rows}) == 4


def test_grids_and_options_are_told_apart(finished: list[Finished]) -> None:
    rows = _rows(finished, "alone", "throughput")
    found = {(row.sampler, row.grid, row.steps, row.options) for row in rows}
    by = "autoguidance from bare"
    assert found == {
        ("heun", "karras rho=5", 3, by),
        ("edm", "edm", 3, by),
        ("dopri5", "shared", None, f"rtol=0.01, atol=0.01, {by}"),
        ("dpmpp-2m-sde", "shared", 2, f"eta=0.5, {by}"),
        ("dpmpp-2m-sde", "shared", 4, f"eta=0.5, {by}"),
    }
    assert {row.nfe for row in rows if row.sampler == "heun"} == {10.0}


def test_each_sampler_is_certified_once_on_the_grid_it_is_used_on(finished: list[Finished]) -> None:
    certified = {
        (event.cell.row["sampler"], event.cell.row["grid"])
        for event in finished
        if event.cell.kind == "certificate"
    }
    assert certified == {
        ("dpmpp-2m", "shared"),
        ("heun", "karras rho=5"),
        ("edm", "edm"),
        ("dopri5", "shared"),
        ("dpmpp-2m-sde", "shared"),
    }


def test_a_compiled_cell_counts_and_reports_its_compilation_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run by the compiler's front end alone: the numbers, the evaluations and the record are what counts."""
    import torch

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: original(f, backend="eager", **options))
    lines = "      - {name: heun, steps: 3, execution: compiled}\n      - {name: heun, steps: 3}\n"

    def change(text: str) -> str:
        head, _, _ = text.partition("  strong:\n")
        tail = text.partition("metrics:")[2]
        one = "  one:\n    model: rectified-flow\n    options: {channels: 8}\n    samplers:\n"
        return f"{head}{one}{lines}metrics:{tail}"

    suite = select(_suite(tmp_path, change), ["one"], [], ["quality", "throughput"])
    planner = make_planner(suite, Runtime("cpu", 1))
    bench = Workbench(planner.data, Store(tmp_path / "s"), planner.runtime, suite.quality.features)
    events = [event for event in InProcess(planner, bench).run() if isinstance(event, Finished)]
    assert {event.outcome for event in events} == {"ok"}, [e.error for e in events if e.error]
    rows = [row for event in events for row in event.records]
    quality = {row.options: row for row in rows if row.metric == "FD-digits@360" and row.model == "one"}
    assert quality["compiled"].nfe == quality[""].nfe == 5.0
    assert quality["compiled"].value == pytest.approx(quality[""].value, rel=0.02)
    times = {row.options: row.nfe for row in rows if row.metric == "throughput"}
    assert times == {"compiled": 5.0, "": 5.0}
    (compiling,) = (row for row in rows if row.metric == "compile time")
    assert compiling.options == "compiled"
    assert compiling.value is not None
    assert compiling.value > 0.0


def test_what_is_guided_by_another_model_brings_it_along(tmp_path: Path) -> None:
    assert set(select(_suite(tmp_path), ["strong"], [], []).models) == {"weak", "strong"}


def test_weights_of_the_weaker_model_belong_to_the_key(tmp_path: Path) -> None:
    def key(change: Callable[[str], str]) -> str:
        planner = make_planner(_suite(tmp_path, change), Runtime("cpu", 1))
        cells: list[Cell] = planner.dependents("strong", "flow matching", None, "w")
        (cell,) = (c for c in cells if c.kind == "quality" and "autoguidance" in c.row["options"])
        return cell.key

    assert key(lambda text: text) != key(lambda text: text.replace("steps: 20", "steps: 21"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight: 3, method: apg", "weight: 3, method: agp", "Did you mean 'apg'"),
        ("momentum: -0.5", "momemtum: -0.5", "Did you mean 'momentum'"),
        ("weaker: weak}", "weaker: alone}", "must be one of weak"),
        (", weaker: weak}", "}", "needs `weaker`"),
        ("{weight: 3, low: 0.5, high: 2.0, batched: false}", "{low: 0.5}", "a mapping with a weight"),
        ("rho: 5}", "roh: 5}", "Did you mean 'rho'"),
        ("grid: native", "grid: natve", "Did you mean 'native'"),
        ("{name: dpmpp-2m, steps: 4}", "{name: dpmpp-2m}", "needs steps, such as"),
        ("{name: dopri5, ", "{name: dopri5, steps: 4, ", "leave steps and execution out"),
        ("{name: edm, steps: 3,", "{name: edm, steps: 3, execution: jit,", "execution"),
        ("{eta: 0.5}", "{eta: 5}", "from 0 to 1"),
    ],
)
def test_bad_sweeps_get_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SUITE
    with pytest.raises(UsageError, match=message) as caught:
        make_planner(_suite(tmp_path, lambda text: text.replace(old, new)), Runtime("cpu", 1))
    assert "\n" not in str(caught.value)


def test_ways_of_guiding_are_refused_where_there_is_no_noise_level(tmp_path: Path) -> None:
    flow = "model: rectified-flow\n    options: {channels: 8, classes: 10, condition_dropout: 0.25}\n"
    text = SUITE.replace(f"{flow}    training: {{steps: 40}}", "model: tests.bench.toys:Labelled")
    path = tmp_path / "swept.yaml"
    path.write_text(text.partition("  alone:")[0] + "metrics:" + text.partition("metrics:")[2])
    with pytest.raises(UsageError, match="weights of guidance alone"):
        check_models(make_planner(load_suite(str(path)), Runtime("cpu", 1)))


def test_a_certificate_is_the_same_cell_in_every_suite() -> None:
    one, two = (certificate("heun", {}, grid) for grid in ("shared", {"name": "shared"}))
    assert one.key == two.key
    assert certificate("heun", {}, "uniform").key != one.key
