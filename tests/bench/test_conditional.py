"""Protects conditional models and models that build on others: what they are told, and in which order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench import data
from bench.cells import Cell
from bench.drivers.events import Finished
from bench.drivers.in_process import InProcess
from bench.errors import UsageError
from bench.metrics.alignment import wilson
from bench.run import make_planner
from bench.runtime import Runtime
from bench.store import Store
from bench.suite import Suite, load_suite, select
from bench.workbench import Workbench, check_models

SUITE = """
name: told
dataset: digits
training: {steps: 60, batch_size: 64, learning_rate: 0.1, warmup_steps: 4}
models:
  labelled:
    model: tests.bench.toys:Labelled
    guidance: [1, 4]
  teacher: {model: tests.bench.toys:Histogram}
  student: {model: tests.bench.toys:Student, builds_on: teacher, training: {steps: 4, learning_rate: 0.0001}}
sampling: {images: 360}
quality: {features: digits-features, group: 360}
throughput: {batch: 8, repeats: 3}
"""


def _suite(tmp_path: Path, change: Callable[[str], str] = lambda text: text) -> Suite:
    path = tmp_path / "told.yaml"
    path.write_text(change(SUITE))
    return load_suite(str(path))


def _run(suite: Suite, folder: Path) -> dict[Cell, Finished]:
    planner = make_planner(suite, Runtime("cpu", 1))
    check_models(planner)
    bench = Workbench(planner.data, Store(folder), planner.runtime, suite.quality.features)
    events = InProcess(planner, bench).run()
    return {event.cell.key: event for event in events if isinstance(event, Finished)}  # type: ignore[misc]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Finished], Store]:
    folder = tmp_path_factory.mktemp("told")
    return list(_run(_suite(folder), folder / "store").values()), Store(folder / "store")


def _value(events: list[Finished], model: str, metric: str, guidance: float | None = None) -> Any:
    rows = [
        r for e in events for r in e.records if (r.model, r.metric, r.guidance) == (model, metric, guidance)
    ]
    (row,) = rows
    return row


def test_every_cell_is_measured(finished: tuple[list[Finished], Store]) -> None:
    assert {event.outcome for event in finished[0]} == {"ok"}, [e.error for e in finished[0] if e.error]


def test_samples_are_made_for_the_labels_of_the_test_images(finished: tuple[list[Finished], Store]) -> None:
    """Histograms a class are recognised far more often than by chance; their mean image is the class's."""
    events, store = finished
    row = _value(events, "labelled", "class accuracy", 1.0)
    assert row.low > 0.3
    assert row.n == 360
    assert row.low <= row.value <= row.high
    digits = data.load("digits")
    part = store.load_part(row.cell_key, 0)
    assert part is not None
    labels = digits.test_labels[:256]
    for label in range(10):
        mine = part.arrays["pixels"][labels == label].mean(0).flatten()
        theirs = digits.train[digits.train_labels == label].mean(0).flatten()
        assert np.corrcoef(mine, theirs)[0, 1] > 0.9
    real = _value(events, "real test images", "class accuracy")
    assert real.value > 0.95


def test_guidance_reaches_the_model_and_is_recorded(finished: tuple[list[Finished], Store]) -> None:
    events, store = finished
    for w in (1.0, 4.0):
        part = store.load_part(_value(events, "labelled", "FD-digits@360", w).cell_key, 0)
        assert part is not None
        assert set(part.arrays["pixels"][:, 0, 0, 0].tolist()) == {int(w)}


def test_conditional_and_unconditional_bits_are_told_apart(finished: tuple[list[Finished], Store]) -> None:
    """A label is worth something: at most its entropy, log2(10)/64 = 0.052 bits, plus training noise."""
    events = finished[0]
    without = _value(events, "labelled", "bits/dim").value
    given = _value(events, "labelled", "bits/dim (given the label)").value
    assert given < without
    assert "bits/dim (given the label)" not in {
        row.metric for event in events for row in event.records if row.model == "teacher"
    }


def test_a_student_starts_from_its_teacher(finished: tuple[list[Finished], Store]) -> None:
    events, store = finished
    weights = {
        row.model: load_file(store.folder(row.cell_key) / "weights.safetensors")
        for event in events
        for row in event.records
        if row.metric == "training time"
    }
    apart = np.abs(weights["student"]["network.values"] - weights["teacher"]["network.values"]).max()
    assert 0 < apart < 0.01
    assert weights["student"]["taught"].any()


def test_what_a_student_draws_from_its_teacher_depends_on_the_seed_alone(tmp_path: Path) -> None:
    suite = select(_suite(tmp_path), ["student"], [], ["likelihood"])
    assert list(suite.models) == ["teacher", "student"]
    values = []
    for folder in ("a", "b"):
        events = list(_run(suite, tmp_path / folder).values())
        values.append(
            [row.weights_sha256 for e in events for row in e.records if row.metric == "training time"]
        )
    assert values[0] == values[1]
    assert len(set(values[0])) == 2


def test_another_teacher_makes_another_student(tmp_path: Path) -> None:
    """The key of a student's training holds the key of its teacher's."""
    plans = [
        make_planner(_suite(tmp_path, change), Runtime("cpu", 1))
        for change in (
            lambda text: text,
            lambda text: text.replace("Histogram}", "Histogram, training: {steps: 9}}"),
        )
    ]
    keys = [[plan.training(label).key for label in ("labelled", "teacher", "student")] for plan in plans]
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]
    assert keys[0][2] != keys[1][2]


def test_a_student_whose_teacher_failed_is_skipped_with_the_reason(tmp_path: Path) -> None:
    suite = _suite(tmp_path, lambda text: text.replace("toys:Histogram", "toys:Diverging"))
    events = list(_run(select(suite, ["student"], [], []), tmp_path / "store").values())
    (training,) = [e for e in events if e.cell.kind == "training" and e.cell.row["model"] == "student"]
    assert training.outcome == "skipped"
    assert "teacher, which it builds on, was not trained" in training.error


TEACHER = "teacher: {model: tests.bench.toys:Histogram"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("builds_on: teacher, ", "", "needs builds_on: the name of a trained histogram"),
        ("guidance: [1, 4]", "options: {classes: 9}", "conditioned on 9 classes and digits has 10"),
        (TEACHER, f"{TEACHER}, guidance: [2]", "teacher is unconditional: leave guidance"),
        ("guidance: [1, 4]", "prompts: [held-out]", "no labels for prompts 'held-out'"),
        (TEACHER, f"{TEACHER}, builds_on: labelled", "teacher builds on no other model"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    suite = _suite(tmp_path, lambda text: text.replace(old, new))
    with pytest.raises(UsageError, match=sentence):
        check_models(make_planner(suite, Runtime("cpu", 1)))


def test_a_model_builds_on_one_that_stands_before_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="builds_on must be one of labelled, teacher, and is 'nobody'"):
        _suite(tmp_path, lambda text: text.replace("builds_on: teacher", "builds_on: nobody"))


def test_a_model_of_its_own_samplers_meets_those_alone(tmp_path: Path) -> None:
    suite = load_suite("digits", {"models": {"ddpm": {"samplers": [{"name": "euler", "steps": [1, 2]}]}}})
    planner = make_planner(suite, Runtime("cpu", 1))
    ways = planner.samplings("ddpm", None)
    assert [(way["sampler"], way["steps"]) for way in ways] == [("euler", 1), ("euler", 2)]
    cut = select(suite, ["ddpm"], ["euler"], [])
    assert json.loads(cut.model_dump_json())["models"]["ddpm"]["samplers"][0]["name"] == "euler"


def test_shares_have_intervals_that_stay_within_zero_and_one() -> None:
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-3))
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-3), 1.0)
    low, high = wilson(180, 360)
    assert (low, high) == (pytest.approx(0.4486, abs=1e-3), pytest.approx(0.5514, abs=1e-3))
