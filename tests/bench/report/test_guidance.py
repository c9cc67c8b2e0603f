"""Protects the figure of guidance: which metrics and lines it shows, and that it is left out without them."""

from __future__ import annotations

import pytest

from bench.records import Record, to_frame
from bench.report import tables
from bench.report.figures import all_figures
from bench.report.guidance import guidance_curves
from bench.report.markdown import figures_png
from bench.report.theme import vega_config
from bench.report.verdict import verdicts
from tests.bench.report.conftest import make_report, synthetic_records
from tests.bench.report.test_figures import styles


def _guided() -> list[Record]:
    """One model sampled with three weights by two samplers, and one with a single weight."""
    rows = []
    for sampler in ("euler", "heun"):
        for w, accuracy, distance in ((1.0, 0.81, 3.0), (2.0, 0.93, 2.5), (4.0, 0.97, 6.0)):
            cell = {"model": "dit", "family": "diffusion transformer", "sampler": sampler, "steps": 10}
            share = Record(metric="class accuracy", value=accuracy, low=accuracy - 0.03, high=accuracy + 0.02)
            fd = Record(metric="FD-digits@360", value=distance, low=distance - 0.5, high=distance + 0.5)
            rows += [row.replace(**cell, guidance=w, n=720, protocol="p") for row in (share, fd)]
    alone = Record(model="one", family="flow matching", sampler="euler", steps=5, metric="class accuracy")
    rows.append(alone.replace(value=0.5, low=0.4, high=0.6, guidance=1.0, protocol="p"))
    real = Record(model="real test images", family="reference", protocol="p")
    accuracy_of_real = real.replace(metric="class accuracy", value=0.99, low=0.97, high=1.0)
    return [*rows, accuracy_of_real, real.replace(metric="FD-digits@360", value=1.2, low=0.9, high=1.5)]


def test_a_panel_a_metric_and_a_line_a_sampler() -> None:
    panels = guidance_curves(to_frame(_guided()))
    assert list(panels) == ["class accuracy", "FD-digits@360"]
    description = panels["class accuracy"].to_dict()["description"]
    assert "dit · heun 10 w=4: 0.97" in description
    assert "one ·" not in description
    assert {"whisker", "cell-point", "floor-line", "direct-label"} <= styles(
        panels["class accuracy"].to_dict()
    )


def test_its_styles_belong_to_the_theme() -> None:
    named = set().union(*(styles(panel.to_dict()) for panel in guidance_curves(to_frame(_guided())).values()))
    assert named <= set(vega_config("light")["style"])


def test_a_share_has_the_whole_axis_and_a_distance_its_own() -> None:
    panels = guidance_curves(to_frame(_guided()))
    domains = {
        name: next(layer for layer in panel.to_dict()["layer"] if "strokeDash" in layer["encoding"])
        for name, panel in panels.items()
    }
    assert domains["class accuracy"]["encoding"]["y"]["scale"]["domain"] == [0.0, 1.05]
    low, high = domains["FD-digits@360"]["encoding"]["y"]["scale"]["domain"]
    assert low < 0.9, "the real images belong into the panel"
    assert high > 6.5


@pytest.mark.parametrize("rows", [[], [row for row in _guided() if row.guidance in (None, 1.0)]])
def test_a_run_without_a_choice_of_weights_has_no_such_figure(rows: list[Record]) -> None:
    report = make_report([*synthetic_records(), *rows])
    assert "guidance" not in [figure.name for figure in all_figures(report)]


def test_the_answers_name_the_best_weight() -> None:
    (answer,) = [a for a in verdicts(tables.tidy(to_frame(_guided()))) if a.label == "Best class accuracy"]
    assert answer.subject == "dit with euler w=4"
    assert answer.text.startswith("0.970 [0.940, 0.990]")


def test_a_cell_is_named_with_its_weight() -> None:
    assert tables.way("heun", 10, 2.5) == "heun 10 w=2.5"
    assert tables.way("heun", 10, 1.0) == tables.way("heun", 10, None) == "heun 10"
    assert tables.cell_label("dit", "heun", 10, 4) == "dit · heun 10 w=4"


def test_the_report_draws_it() -> None:
    report = make_report([*synthetic_records(), *_guided()])
    assert [figure.name for figure in all_figures(report)][3] == "guidance"
    assert figures_png(report)["guidance.png"].startswith(b"\x89PNG")
