"""Figures: what is drawn, from which rows, and that the PNG files are pictures of it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from bench.records import to_frame
from bench.report import ReportData, tables
from bench.report.curves import learning_curves
from bench.report.figures import all_figures, bits_per_dim, pareto, quality_vs_nfe
from bench.report.markdown import figures_png
from bench.report.theme import vega_config
from tests.bench.report.conftest import make_report, synthetic_curves, synthetic_records


def styles(spec: Any) -> set[str]:
    """All mark styles that a specification names."""
    if isinstance(spec, dict):
        own = {spec["style"]} if isinstance(spec.get("style"), str) else set()
        return own.union(*(styles(value) for value in spec.values()))
    return set().union(*(styles(value) for value in spec)) if isinstance(spec, list) else set()


def test_pareto_draws_front_whiskers_and_floor() -> None:
    chart = pareto(to_frame(synthetic_records()))
    assert chart is not None
    assert {"front", "whisker", "cell-point", "floor-line", "floor-band", "direct-label"} <= styles(
        chart.to_dict()
    )


def test_charts_name_roles_that_the_theme_defines_and_no_colour_but_the_families() -> None:
    frame = to_frame(synthetic_records())
    charts = [pareto(frame), bits_per_dim(frame), *quality_vs_nfe(frame).values()]
    named = set().union(*(styles(chart.to_dict()) for chart in charts if chart is not None))
    assert named <= set(vega_config("dark")["style"])
    assert vega_config("dark")["style"].keys() == vega_config("light")["style"].keys()


def test_axis_domains_hold_every_value_and_whisker() -> None:
    frame = to_frame(synthetic_records())
    chart = pareto(frame)
    assert chart is not None
    point = next(layer for layer in chart.to_dict()["layer"] if "shape" in layer["encoding"])
    table = tables.cells(frame)
    for channel, name in (("x", "speed"), ("y", "quality")):
        low, high = point["encoding"][channel]["scale"]["domain"]
        assert low < table[f"{name}_low"].min()
        assert high > table[f"{name}_high"].max()


def test_quality_without_speed_has_no_pareto_figure() -> None:
    rows = [row for row in synthetic_records() if row.metric != "throughput"]
    assert pareto(to_frame(rows)) is None


def test_a_panel_for_each_model_with_a_choice_of_sampler() -> None:
    assert list(quality_vs_nfe(to_frame(synthetic_records()))) == ["ddpm", "rectified-flow"]


def test_negative_distances_get_a_linear_axis() -> None:
    """Kernel distances can be below zero, where a logarithm would drop them in silence."""
    rows = [
        row.replace(metric="KD", value=row.value - 4.0, low=row.low - 4.0, high=row.high - 4.0)
        for row in synthetic_records()
        if row.metric == "FD-digits@360" and row.value is not None and row.low is not None and row.high
    ]
    panel = quality_vs_nfe(to_frame(rows))["ddpm"].to_dict()
    kinds = {
        layer["encoding"]["y"]["scale"]["type"]
        for layer in panel["layer"]
        if "scale" in layer["encoding"].get("y", {})
    }
    assert kinds == {"linear"}


def test_bits_tell_exact_bound_and_estimate_apart_by_shape_and_word() -> None:
    chart = bits_per_dim(to_frame(synthetic_records()))
    assert chart is not None
    spec = chart.to_dict()
    point = next(layer for layer in spec["layer"] if "shape" in layer["encoding"])
    assert point["encoding"]["shape"]["scale"]["domain"] == ["exact", "bound", "estimate"]
    assert len(set(point["encoding"]["shape"]["scale"]["range"])) == 3
    assert "vae: 2.310 bound" in spec["description"]


def test_long_curves_are_thinned_but_keep_their_model() -> None:
    panels = learning_curves(synthetic_curves())
    assert list(panels) == ["transformer", "vae", "realnvp", "ddpm", "rectified-flow"]
    assert max(len(rows) for rows in panels["vae"].to_dict()["datasets"].values()) <= 240


def test_a_curve_without_a_finite_loss_is_left_out() -> None:
    curves = synthetic_curves()
    curves.loc[curves["model"] == "vae", "loss"] = float("nan")
    assert "vae" not in learning_curves(curves)


def test_every_figure_describes_itself(report: ReportData) -> None:
    for figure in all_figures(report):
        assert figure.caption
        assert all(panel.to_dict()["description"] for panel in figure.panels)


@pytest.fixture(scope="module")
def pictures(report: ReportData) -> dict[str, bytes]:
    return figures_png(report)


FIGURES = ["pareto.png", "evaluations.png", "time.png", "bits.png", "curves.png"]


def test_every_sheet_is_written_as_it_is(report: ReportData, pictures: dict[str, bytes]) -> None:
    assert list(pictures)[:5] == FIGURES
    assert list(pictures.values())[5:] == list(report.sheets.values())


def test_png_figures_are_drawn_on_white_paper(pictures: dict[str, bytes]) -> None:
    for data in (pictures[name] for name in FIGURES):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        assert image.width > 1200
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert len(image.getcolors(1 << 20) or []) > 50


def test_png_figures_are_the_same_bytes_again() -> None:
    few = make_report(synthetic_records()[:15], curves=synthetic_curves().iloc[:200])
    assert figures_png(few) == figures_png(few)
