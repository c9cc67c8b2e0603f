"""Protects variational dequantisation in a suite: set by options, trained, kept in safetensors, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.cells import Cell
from bench.drivers.events import Finished
from bench.drivers.in_process import InProcess
from bench.errors import UsageError
from bench.run import make_planner
from bench.runtime import Runtime
from bench.store import Store
from bench.suite import Suite, load_suite, select
from bench.workbench import WEIGHTS, Workbench, check_models, load_model

FLOWS: dict[str, dict[str, Any]] = {
    "realnvp": {"features": 4, "couplings": 1},
    "glow": {"features": 4, "steps": 1},
    "spline-flow": {"features": 4, "couplings": 1},
    "tarflow": {"blocks": 1, "width": 8, "heads": 2},
    "ffjord": {"features": 4, "blocks": 1},
}
VARIATIONAL = {"dequantisation": "variational", "dequantiser": {"couplings": 2, "features": 4}}


def _suite(name: str, **options: Any) -> Suite:
    """One flow of the digits, a few steps, and its likelihood alone."""
    likelihood = {"solver": "rk4", "steps": 1} if name == "ffjord" else {"dequantisation_samples": 2}
    mine = {"model": name, "options": FLOWS[name] | options, "likelihood": likelihood}
    changes = {
        "models": {"mine": mine | {"training": {"steps": 4, "batch_size": 16, "warmup_steps": 1}}},
        "likelihood": {"images": 32},
    }
    return select(load_suite("digits", changes), ["mine"], [], ["likelihood"])


@pytest.mark.parametrize("name", FLOWS)
def test_options_of_a_suite_reach_training_and_likelihood(name: str, tmp_path: Path) -> None:
    """Through every check, the training cell, its weights on disc, loaded strictly, and the record."""
    suite = _suite(name, **VARIATIONAL)
    planner = make_planner(suite, Runtime("cpu", 1))
    check_models(planner)
    store = Store(tmp_path)
    bench = Workbench(planner.data, store, planner.runtime, suite.quality.features)
    events = [event for event in InProcess(planner, bench).run() if isinstance(event, Finished)]
    assert {event.outcome for event in events} == {"ok"}, [event.error for event in events if event.error]
    cells = [event.cell for event in events if isinstance(event.cell, Cell)]
    (key,) = (cell.key for cell in cells if cell.kind == "training")
    path = store.folder(key) / WEIGHTS
    kept = load_file(path)
    assert any(name.startswith("dequantiser.layers.1.network.") for name in kept)
    model, spec = bench.trained(key), store.spec(key)["model"]
    again = load_model(spec, path, "cpu")
    assert all(torch.equal(again.state_dict()[name], kept[name]) for name in kept)
    assert model.state_dict().keys() == kept.keys()
    moved = [value for name, value in kept.items() if name.endswith("0.network.last.weight")]
    assert float(moved[0].abs().max()) > 0.0  # they start at zero
    rows = [row for event in events for row in event.records if row.metric == "bits/dim"]
    found = [row for row in rows if row.model == "mine"]
    assert "variational dequantisation" in found[0].protocol
    assert found[0].status == "ok"
    assert found[0].value is not None
    assert 1.0 < found[0].value < 10.0


@pytest.mark.parametrize("name", FLOWS)
def test_wrong_options_end_before_training(name: str) -> None:
    for options, words in (
        ({"dequantisation": "variationl"}, r"Did you mean 'variational'"),
        ({"dequantization": "variational"}, r"Did you mean 'dequantisation'"),
        ({**VARIATIONAL, "dequantiser": {"feature": 4}}, r"Did you mean 'features'"),
    ):
        with pytest.raises(UsageError, match=words):
            check_models(make_planner(_suite(name, **options), Runtime("cpu", 1)))


def test_a_uniform_flow_does_not_load_the_weights_of_a_variational_one(tmp_path: Path) -> None:
    """Strictly: what was trained with q is not measured without it in silence."""
    from safetensors.torch import save_file

    from bench import registry

    options = FLOWS["realnvp"]
    path = registry.import_path("realnvp")
    model = registry.build(path, options | VARIATIONAL, (1, 8, 8), 17)
    save_file(model.state_dict(), tmp_path / WEIGHTS)
    spec = {"path": path, "options": options, "shape": [1, 8, 8], "levels": 17}
    load_model(spec | {"options": options | VARIATIONAL}, tmp_path / WEIGHTS, "cpu")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_model(spec, tmp_path / WEIGHTS, "cpu")
