"""Figures of likelihoods: by noise level, by evaluations and between models, from made numbers."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from bench.report.differences import paired_differences
from bench.report.figures import all_figures
from bench.report.ladders import FLATTERS, bits_by_evaluations
from bench.report.noise_levels import bits_by_noise, densities, parts_said
from bench.report.theme import vega_config
from tests.bench.report.conftest import make_report
from tests.bench.report.made_likelihoods import frames, likelihood_records, record, tidied
from tests.bench.report.test_figures import styles


def rows_of(spec: Any) -> list[list[dict[str, Any]]]:
    return list(spec["datasets"].values())


def test_the_figure_of_differences_has_a_row_a_model_and_shapes_by_kind() -> None:
    chart = paired_differences(tidied(), frames()["nats"])
    assert chart is not None
    spec = chart.to_dict()
    point = next(layer for layer in spec["layer"] if "shape" in layer["encoding"])
    assert point["encoding"]["shape"]["scale"]["domain"] == ["exact", "bound", "estimate"]
    assert {"width", "unpaired"} <= {tip["field"] for tip in point["encoding"]["tooltip"]}
    assert max(map(len, rows_of(spec))) == 3
    assert "1.934 bits/dim, the best, exact" in spec["description"]
    low, high = point["encoding"]["x"]["scale"]["domain"]
    assert low < 0 < 0.19 < high


def test_one_model_alone_has_no_figure_of_differences() -> None:
    assert paired_differences(tidied(likelihood_records(("ddpm",))), frames()["nats"]) is None


def test_the_area_under_a_line_is_the_diffusion_part() -> None:
    """Edges fall, densities are bits over widths, and steps that reach to infinity are left out."""
    terms = pd.DataFrame(
        {
            "model": "m", "cell_key": "a",
            "log_snr_from": [math.inf, 4.0, 1.0], "log_snr_to": [4.0, 1.0, -1.0],
            "bits": [9.0, 0.6, 0.8], "low": [8.0, 0.3, 0.6], "high": [10.0, 0.9, 1.0],
        }
    )  # fmt: skip
    found = densities(tidied([record("m", "a", 2.0)]), terms)
    assert list(found["log_snr"]) == [-1.0, 1.0, 4.0]
    assert list(found["density"]) == pytest.approx([0.4, 0.2, 0.2])
    assert list(found["low"]) == pytest.approx([0.3, 0.1, 0.1])
    assert list(found["high"]) == pytest.approx([0.5, 0.3, 0.3])


def test_the_figure_of_noise_levels_says_its_areas_and_its_other_parts() -> None:
    records, terms = tidied(), frames()["terms"]
    chart = bits_by_noise(records, terms)
    assert chart is not None
    spec = chart.to_dict()
    assert f"rectified-flow: {0.78 * 2.02:.3f} bits/dim in all" in spec["description"]
    assert f"rectified-flow: prior 0.000, diffusion {0.78 * 2.02:.3f}" in parts_said(records, terms)
    assert len(rows_of(spec)[0]) == 3 * 49
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["area", "line"]


def test_many_lines_have_no_bands() -> None:
    rows = [record(name, name, 2.0, protocol=name) for name in "abcd"]
    terms = pd.DataFrame(
        [(name, name, 2.0, 0.0, 1.0, 0.9, 1.1) for name in "abcd"], columns=list(frames()["terms"])
    )
    chart = bits_by_noise(tidied(rows), terms)
    assert chart is not None
    assert [layer["mark"]["type"] for layer in chart.to_dict()["layer"]] == ["line"]


def test_the_ladder_marks_the_suites_own_setting_and_says_what_is_below_zero() -> None:
    chart = bits_by_evaluations(tidied(), frames()["ladders"])
    assert chart is not None
    spec = chart.to_dict()
    assert spec["title"] == FLATTERS
    assert FLATTERS in spec["description"]
    ring = next(layer for layer in spec["layer"] if layer["mark"].get("style") == "own-point")
    marked = spec["datasets"][ring["data"]["name"]]
    assert [(row["series"], row["nfe"]) for row in marked] == [("ddpm", 100.0), ("rectified-flow", 100.0)]
    zero = next(layer for layer in spec["layer"] if layer["mark"].get("style") == "floor-line")
    assert zero["encoding"]["y"]["field"] == "zero"
    line = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "line")
    assert line["encoding"]["x"]["scale"]["type"] == "log"
    assert len(spec["datasets"][line["data"]["name"]]) == 8
    low, high = line["encoding"]["y"]["scale"]["domain"]
    assert low < -0.012 * 1.15
    assert high > 0.03 * 1.15


def test_a_ladder_of_a_cell_that_has_no_number_is_not_drawn() -> None:
    assert bits_by_evaluations(tidied([record("m", "a", 2.0)]), frames()["ladders"]) is None


def test_without_data_there_is_no_figure_and_with_them_there_are_three() -> None:
    empty = make_report(likelihood_records(), sheets={})
    names = [figure.name for figure in all_figures(empty)]
    assert not {"bits-paired", "bits-noise", "bits-evaluations"} & set(names)
    figures = all_figures(make_report(likelihood_records(), sheets={}, **frames()))
    names = [figure.name for figure in figures]
    start = names.index("bits")
    assert names[start + 1 : start + 4] == ["bits-paired", "bits-noise", "bits-evaluations"]
    used = set().union(*(styles(panel.to_dict()) for figure in figures for panel in figure.panels))
    assert used <= set(vega_config("light")["style"])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_names_of_ladders_stand_beside_the_rule_that_all_lines_end_on(sign: float) -> None:
    ladders = frames()["ladders"]
    numbers = ladders[["difference", "low", "high"]].abs() * sign
    chart = bits_by_evaluations(tidied(), ladders.assign(**numbers))
    assert chart is not None
    spec = chart.to_dict()
    name = next(layer for layer in spec["layer"] if layer["mark"].get("style") == "direct-label")
    heights = [row["height"] for row in spec["datasets"][name["data"]["name"]]]
    assert len(heights) == 2
    assert all(sign * height > 0 for height in heights)
