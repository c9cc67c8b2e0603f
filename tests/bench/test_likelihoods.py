"""Protects several likelihoods of one model: a cell and records each, told apart by their protocol."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench import data
from bench.cells import Cell, Planner
from bench.errors import CellFailed, UsageError
from bench.metrics.bits import Bits
from bench.records import Record
from bench.run import make_planner
from bench.runtime import Runtime
from bench.store import Part
from bench.suite import load_suite, select
from bench.workbench import check_models
from models.base import ImageModel
from models.flow_matching import RectifiedFlow
from tests.bench.toys import Histogram

THREE = [
    {"estimator": "ode", "solver": "rk4", "steps": 2, "probes": 2, "dequantisation_samples": 2},
    {"estimator": "variational", "variance": "small"},
    {"estimator": "continuous", "draws": 4},
]


def _planner(likelihood: Any, model: str = "rectified-flow", **options: Any) -> Planner:
    """One model of its own with a likelihood."""
    changes = {"models": {"mine": {"model": model, "likelihood": likelihood, **options}}}
    suite = select(load_suite("digits", changes), ["mine"], [], [])
    return make_planner(suite, Runtime("cpu", 1))


def _cells(planner: Planner) -> list[Cell]:
    found = planner.dependents("mine", *planner.traits("mine"), "w")
    return [cell for cell in found if cell.kind == "likelihood"]


def test_a_list_makes_a_cell_each_and_the_order_is_kept() -> None:
    cells = _cells(_planner(THREE))
    assert [cell.spec["likelihood"]["options"] for cell in cells] == THREE
    assert len({cell.key for cell in cells}) == len({cell.label for cell in cells}) == 3
    assert "estimator=continuous" in cells[2].label


def test_a_mapping_is_the_cell_that_it_was_and_that_of_a_list_of_one() -> None:
    one, listed = _cells(_planner(THREE[0])), _cells(_planner(THREE[:1]))
    assert [cell.key for cell in one] == [cell.key for cell in listed]
    assert one[0].label == "mine · bits per dimension"


def test_the_digits_suite_takes_ddpm_and_rectified_flow_by_every_estimator() -> None:
    suite = load_suite("digits")
    for label, first in (("ddpm", "variational"), ("rectified-flow", "ode")):
        named = [options["estimator"] for options in suite.models[label].likelihoods]
        assert named[0] == first
        assert sorted(named) == ["continuous", "ode", "variational"]
    assert suite.models["vae"].likelihoods == [suite.models["vae"].likelihood]
    check_models(make_planner(select(suite, ["ddpm", "rectified-flow"], [], []), Runtime("cpu", 1)))


def test_a_suite_survives_selection(tmp_path: Path) -> None:
    cut = select(load_suite("digits"), ["ddpm"], [], ["likelihood"])
    assert cut.models["ddpm"].likelihoods == load_suite("digits").models["ddpm"].likelihoods


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [
        ([], "list of one or more"),
        ([{"steps": 3}, {"steps": 3}], "same estimate twice"),
    ],
)
def test_a_wrong_list_is_refused_when_it_is_read(likelihood: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _planner(likelihood)


@pytest.mark.parametrize(
    ("model", "likelihood", "words"),
    [
        ("rectified-flow", {"estimator": "odd"}, "Did you mean 'ode'"),
        ("rectified-flow", {"step": 3}, "Did you mean 'steps'"),
        ("rectified-flow", [THREE[1], {"estimator": "continuous", "steps": 3}], "Unknown option"),
        ("ddpm", {"estimator": "ode", "solver": "euler"}, "takes steps"),
        ("vdm", {"estimator": "variational", "variance": "smal"}, "Did you mean 'small'"),
        ("vae", {"estimator": "ode"}, "Unknown likelihood option"),
    ],
)
def test_wrong_options_end_before_anything_is_computed(model: str, likelihood: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_models(_planner(likelihood, model))


def test_bounds_of_a_coupled_flow_are_refused_before_it_is_trained() -> None:
    planner = _planner(THREE[1], "flow-matching", options={"coupling": "optimal-transport"})
    with pytest.raises(UsageError, match="Model mine: FlowMatching was trained on noise that depends"):
        check_models(planner)


def _bench(model: ImageModel) -> Any:
    """What a likelihood cell needs of a workbench."""
    digits = data.load("digits")
    row = lambda cell, **columns: Record(**{**cell.row, **columns})  # noqa: E731
    return SimpleNamespace(
        model=lambda cell: model,
        runtime=SimpleNamespace(device="cpu"),
        pixels=lambda split: torch.from_numpy(digits.test),
        condition=lambda model, split: None,
        data=digits,
        row=row,
    )


def _measured(options: dict[str, Any], model: ImageModel) -> list[Record]:
    planner = make_planner(load_suite("digits", {"likelihood": {"images": 8, "batch": 4}}), Runtime("cpu", 1))
    cell = planner._likelihood("rectified-flow", "w", options)
    bench = _bench(model)
    return Bits().records(cell, [Bits().part(cell, 0, bench)], bench)


@pytest.fixture(scope="module")
def flow() -> RectifiedFlow:
    return RectifiedFlow((1, 8, 8), 17, channels=4, multipliers=(1,), attention=False).eval()


@pytest.mark.parametrize("options", THREE, ids=lambda options: options["estimator"])
def test_records_of_each_estimator_say_what_they_are(options: dict[str, Any], flow: RectifiedFlow) -> None:
    records = _measured(options, flow)
    first = records[0]
    assert (first.metric, first.n, first.status) == ("bits/dim", 8, "ok")
    assert first.kind == ("estimate" if options["estimator"] == "ode" else "bound")
    assert first.low is not None
    assert first.value is not None
    assert first.low < first.value
    assert first.protocol.endswith("digits test n=8")
    assert all(record.kind == first.kind for record in records)


def test_fixed_steps_are_recorded_beside_twice_as_many(flow: RectifiedFlow) -> None:
    records = {record.metric: record for record in _measured(THREE[0], flow)}
    doubled = records["bits/dim (solver)"]
    assert doubled.value is not None
    assert doubled.value >= 0
    assert "|bits(2 steps) − bits(4 steps)| of the first 8 images" in doubled.protocol
    # An evaluation of rk4 is four a step, for each dequantisation; the check of the steps is not counted.
    assert records["bits/dim"].nfe == 2 * 2 * 4


def test_the_error_is_recorded_in_parts(flow: RectifiedFlow) -> None:
    records = {record.metric: record.value for record in _measured(THREE[0], flow)}
    names = ("data", "dequantisation", "probes", "total")
    parts = [records[f"bits/dim (standard error, {name})"] for name in names]
    assert all(part is not None and part >= 0 for part in parts)
    assert sum(part**2 for part in parts[:3] if part is not None) >= 0.99 * (parts[3] or 0.0) ** 2


def test_an_image_that_is_not_finite_fails_the_cell_by_name(flow: RectifiedFlow) -> None:
    broken = Histogram((1, 8, 8), 17)
    broken.network.values.data[:, 0, 0, 0] = torch.nan  # type: ignore[operator]
    with pytest.raises(CellFailed, match="not finite for 8 of 8 images: 0, 1, 2, 3, 4 and 3 more"):
        _measured({}, broken)


def test_per_image_nats_are_kept_in_the_part(flow: RectifiedFlow) -> None:
    planner = make_planner(load_suite("digits", {"likelihood": {"images": 8, "batch": 4}}), Runtime("cpu", 1))
    part: Part = Bits().part(planner._likelihood("rectified-flow", "w", THREE[0]), 0, _bench(flow))
    assert part.arrays["nats"].shape == (8,)
    assert part.arrays["nats"].dtype == np.float64
    assert part.info["nfe_max"] == 16
