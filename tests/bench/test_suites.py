"""Protects the built-in suites: each can be computed as it stands; the judge of scenes knows its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.drivers.in_process import InProcess
from bench.run import make_planner
from bench.runtime import Runtime
from bench.store import Store
from bench.suite import load_suite
from bench.suite_text import builtin_names
from bench.workbench import Workbench, check_models
from tests.bench.data.test_large import few_photographs


@pytest.mark.parametrize("name", builtin_names())
def test_every_model_of_a_built_in_suite_can_be_built_and_told_what_the_data_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if load_suite(name).dataset.startswith("imagenet"):
        few_photographs(load_suite(name).dataset, tmp_path, monkeypatch)
    planner = make_planner(load_suite(name), Runtime("cpu", 1))
    check_models(planner)
    for label in planner.suite.models:
        assert planner.dependents(label, *planner.traits(label), "w")


def test_the_catalogue_suite_holds_every_model() -> None:
    from bench import registry

    used = {model.model for model in load_suite("catalogue").models.values()}
    assert used == set(registry.BUILTIN)


def test_the_default_suite_holds_every_kind_of_model() -> None:
    """One each: explicit, latent, diffusion, guided, flow, continuous flow, flow matching, DiT, MM-DiT."""
    used = {model.model for model in load_suite("digits").models.values()}
    assert {
        "transformer",
        "vae",
        "ddpm",
        "realnvp",
        "ffjord",
        "rectified-flow",
        "reflow",
        "dit",
        "mm-dit",
    } <= used
    assert load_suite("digits").models["dit"].guidance


def test_real_scenes_show_what_their_captions_say(tmp_path: Path) -> None:
    """The floor of the shapes suite: what a perfect model would reach."""
    planner = make_planner(load_suite("shapes"), Runtime("cpu", 1))
    bench = Workbench(planner.data, Store(tmp_path), planner.runtime, planner.suite.quality.features)
    (cell,) = [cell for cell in planner.references() if cell.kind == "floor"]
    driver = InProcess(planner, bench)
    (finished,) = [e for e in driver.shared(cell) if hasattr(e, "records")]
    values = {record.metric: record for record in finished.records}
    assert values["correct scenes"].value >= 0.999
    assert values["correct scenes"].low <= values["correct scenes"].value <= values["correct scenes"].high
    assert {"FD-pixels@240", "existence", "count", "shape", "colour", "size", "binding", "relation"} <= set(
        values
    )
