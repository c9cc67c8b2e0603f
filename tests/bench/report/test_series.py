"""Lines of the figures: which are joined, how they are named, and that each looks the same everywhere."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.records import Record, to_frame
from bench.report import series
from bench.report.evaluations import quality_vs_nfe, quality_vs_time
from bench.report.figures import all_figures
from bench.report.guidance import guidance_curves
from bench.report.theme import SERIES_COLOURS, vega_config
from tests.bench.report.conftest import SWEEP, make_report, sweep_records, synthetic_records
from tests.bench.report.test_figures import styles


def layer_with(panel: Any, channel: str) -> dict[str, Any]:
    found: dict[str, Any] = next(layer for layer in panel["layer"] if channel in layer["encoding"])
    return found


def rows_of(panel: Any, layer: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(panel["datasets"][layer["data"]["name"]])


def scale(panel: Any, channel: str) -> dict[str, str]:
    found = layer_with(panel, channel)["encoding"][channel]["scale"]
    return {key: str(value) for key, value in zip(found["domain"], found["range"], strict=True)}


@pytest.fixture(scope="module")
def swept() -> dict[str, Any]:
    found = quality_vs_nfe(to_frame([*synthetic_records(), *sweep_records()]))
    return {title: panel.to_dict() for title, panel in found.items()}


def test_a_model_with_many_series_has_a_panel_a_weight(swept: dict[str, Any]) -> None:
    assert list(swept) == ["ddpm", "dit w=1", "dit w=1.5", "dit w=4", "rectified-flow"]


def test_a_line_joins_only_cells_that_differ_in_nothing_but_steps(swept: dict[str, Any]) -> None:
    for title in ("dit w=1", "dit w=4"):
        line = layer_with(swept[title], "strokeDash")
        rows = rows_of(swept[title], line)
        assert line["encoding"]["strokeDash"]["field"] == "key"
        assert rows["key"].nunique() == len(SWEEP)
        assert not rows.duplicated(["key", "nfe"]).any()
        assert (rows.groupby("key").size() == 4).all()


def test_weights_of_one_panel_are_lines_of_their_own() -> None:
    few = [row for row in sweep_records() if (row.sampler, row.grid) in (("heun", "karras"), ("", ""))]
    (panel,) = quality_vs_nfe(to_frame(few)).values()
    rows = rows_of(panel.to_dict(), layer_with(panel.to_dict(), "strokeDash"))
    assert set(rows["series"]) == {"heun karras", "heun karras w=1.5", "heun karras w=4"}


def test_a_series_looks_the_same_in_every_panel_and_both_figures(swept: dict[str, Any]) -> None:
    time = quality_vs_time(to_frame([*synthetic_records(), *sweep_records()]))
    for channel in ("color", "shape", "strokeDash"):
        known: dict[str, str] = {}
        for panel in [*swept.values(), *(panel.to_dict() for panel in time.values())]:
            for key, value in scale(panel, channel).items():
                assert known.setdefault(key, value) == value
    colours = scale(swept["dit w=1"], "color")
    assert len(set(colours.values())) == len(SWEEP) == len(SERIES_COLOURS)


def test_time_has_intervals_along_both_axes_and_lies_in_its_domain() -> None:
    panel = quality_vs_time(to_frame(synthetic_records()))["ddpm"].to_dict()
    rules = [layer for layer in panel["layer"] if "whisker" in styles(layer)]
    assert ["x2" in rule["encoding"] for rule in rules] == [False, True]
    rows = rows_of(panel, rules[1])
    low, high = layer_with(panel, "strokeDash")["encoding"]["x"]["scale"]["domain"]
    assert low < rows["ms_low"].min()
    assert high > rows["ms_high"].max()
    assert (rows["ms_low"] < rows["ms"]).all()


def test_without_throughput_time_is_said_to_be_absent() -> None:
    report = make_report([row for row in synthetic_records() if row.metric != "throughput"])
    figure = next(figure for figure in all_figures(report) if figure.name == "time")
    assert figure.panels == ()
    assert figure.caption.startswith("No cell")


def _many(count: int) -> list[Record]:
    """One model sampled in `count` ways, each a little worse than the one before."""
    rows = []
    for index in range(count):
        for steps in (5, 10, 20):
            value = 2.0 + 0.1 * index + 10 / steps
            cell = {"model": "m", "family": "diffusion", "sampler": f"s{index:02d}", "grid": "shared"}
            row = Record(metric="KD", value=value, low=value - 0.1, high=value + 0.1, steps=steps, **cell)  # type: ignore[arg-type]
            rows.append(row.replace(nfe=float(steps)))
    return rows


def test_of_too_many_series_the_best_have_names_and_the_rest_are_faint() -> None:
    panel = quality_vs_nfe(to_frame(_many(30)))["m"].to_dict()
    named = rows_of(panel, layer_with(panel, "strokeDash"))
    faint = rows_of(panel, next(layer for layer in panel["layer"] if "context" in styles(layer)))
    assert sorted(named["series"].unique()) == [f"s{index:02d}" for index in range(series.MOST)]
    assert sorted(faint["series"].unique()) == [f"s{index:02d}" for index in range(series.MOST, 30)]
    assert styles(panel) <= set(vega_config("dark")["style"])


def test_the_best_at_some_budget_are_named_first() -> None:
    """`fast` wins at 5, `fine` at 20, `dull` nowhere."""
    values = {"fast": (3.0, 2.9), "dull": (4.0, 2.8), "fine": (5.0, 1.0)}
    rows = [
        {"series": name, "nfe": nfe, "quality": value}
        for name, pair in values.items()
        for nfe, value in zip((5.0, 20.0), pair, strict=True)
    ]
    assert series.leading(pd.DataFrame(rows), "nfe", "quality", most=2) == ["fine", "fast"]


def test_few_short_names_stand_beside_lines_and_many_or_long_ones_have_numbers_and_a_legend() -> None:
    short, long = series.Looks.of(["heun", "euler"]), series.Looks.of(["a", "dpmpp-2m-sde karras eta=1"])
    assert short.tag("heun") == short.text("heun") == "heun"
    assert short.legend(["heun"]) is None
    assert (long.tag("a"), long.text("a")) == ("1", "1  a")
    assert long.legend(["a"]) is not None
    assert not series.Looks.of([f"s{index}" for index in range(20)]).direct


@pytest.mark.parametrize("count", range(1, 13))
def test_names_fit_one_below_the_other(count: int) -> None:
    free = 0.8
    assert series.height(count, free) * free - 16.0 >= series.LEAD * (count - 1)


def test_a_sweep_shows_the_same_lines_in_every_panel_of_guidance() -> None:
    panels = {name: p.to_dict() for name, p in guidance_curves(to_frame(sweep_records())).items()}
    assert list(panels) == ["FD-digits@360", "class accuracy"]
    shown = [set(rows_of(panel, layer_with(panel, "strokeDash"))["series"]) for panel in panels.values()]
    assert shown[0] == shown[1]
    assert len(shown[0]) == len(SWEEP)
    assert "dit · dpmpp-2m 50 karras rho=5" in shown[0]
