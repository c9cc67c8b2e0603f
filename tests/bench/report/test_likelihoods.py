"""What the report says of likelihoods: which estimate leads, differences image by image, three figures."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pytest

from bench.records import Record, to_frame
from bench.report import tables
from bench.report.differences import differences, paired_differences
from bench.report.estimates import estimate_names, estimates, line_names, told_apart
from bench.report.figures import all_figures
from bench.report.ladders import FLATTERS, bits_by_evaluations
from bench.report.likelihood import bits_per_dim
from bench.report.markdown import render_markdown
from bench.report.noise_levels import bits_by_noise, densities, parts_said
from bench.report.page import render_html
from bench.report.paired import bits_of_images, difference
from bench.report.theme import vega_config
from bench.report.verdict import verdicts
from tests.bench.report.conftest import make_report
from tests.bench.report.made_likelihoods import CONTINUOUS, frames, key_of, likelihood_records
from tests.bench.report.test_figures import styles
from tests.bench.report.test_page import EVIL, Reader

TITLE = "Likelihood of one network by several estimators"


def tidied(records: list[Record] | None = None) -> pd.DataFrame:
    return tables.tidy(to_frame(likelihood_records() if records is None else records))


def rows_of(spec: Any) -> list[list[dict[str, Any]]]:
    return list(spec["datasets"].values())


def small(model: str, key: str, nats: list[float], start: int = 0) -> pd.DataFrame:
    image = range(start, start + len(nats))
    return pd.DataFrame({"model": model, "cell_key": key, "image": image, "nats": nats})


def record(model: str, key: str, value: float, **columns: Any) -> Record:
    columns = {"protocol": f"one way, {key}", "kind": "bound", **columns}
    return Record(model=model, cell_key=key, metric="bits/dim", value=value, dataset="d", **columns)


def test_the_first_estimate_leads_even_where_a_later_one_is_lower() -> None:
    """rectified-flow's second estimate (2.02) is below its first (2.05): the first is the model's number."""
    rows = tables.likelihoods(tidied())
    assert dict(zip(rows["model"], rows["value"], strict=True)) == {
        "transformer": 1.934, "rectified-flow": 2.05, "ddpm": 2.12
    }  # fmt: skip
    assert list(rows["value"]) == sorted(rows["value"])


def test_ranking_figure_and_verdict_show_the_same_estimate() -> None:
    records = tidied(likelihood_records(("rectified-flow",)))
    row = tables.cells(records).iloc[0]
    assert (row["bits"], row["bits_kind"]) == (2.05, "estimate")
    assert len(tables.cells(records)) == 1
    chart = bits_per_dim(records)
    assert chart is not None
    assert re.search(r"rectified-flow: 2\.05\d* estimate", chart.to_dict()["description"])
    assert "rectified-flow, 2.050 [" in str(verdicts(records)[0])


def test_a_failed_first_estimate_leaves_the_place_to_the_first_that_was_measured() -> None:
    failed = record("m", "a", 1.0).replace(value=None, status="failed")
    rows = tables.likelihoods(tidied([failed, record("m", "b", 2.0), record("m", "c", 1.5)]))
    assert list(rows["cell_key"]) == ["b"]


def test_a_paired_difference_is_that_of_the_hand() -> None:
    """b − b′ = 1, 2, 3 on shared images: mean 2, sd 1; unpaired variances 4 and 1."""
    one = pd.Series([3.0, 5.0, 7.0, 99.0], index=[0, 1, 2, 9])
    other = pd.Series([2.0, 3.0, 4.0, -99.0], index=[0, 1, 2, 5])
    found = difference(one, other)
    assert found is not None
    assert (found.value, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - 1.96 / math.sqrt(3))
    assert found.width == pytest.approx(2 * 1.96 / math.sqrt(3))
    assert found.unpaired == pytest.approx(2 * 1.96 * math.sqrt(5 / 3))


@pytest.mark.parametrize("other", [None, pd.Series([1.0], index=[0]), pd.Series([1.0, 2.0], index=[7, 8])])
def test_fewer_than_two_shared_images_have_no_difference(other: pd.Series | None) -> None:
    assert difference(pd.Series([1.0, 2.0], index=[0, 1]), other) is None
    assert difference(other, pd.Series([1.0, 2.0], index=[0, 1])) is None


def test_bits_of_images_have_the_unit_of_their_record() -> None:
    """Whatever D is: 4 dimensions, nats 4 ln 2 · (1, 2, 3) are 1, 2 and 3 bits per dimension."""
    nats = small("m", "a", [4 * math.log(2) * bits for bits in (1, 2, 3)])
    found = bits_of_images(tidied([record("m", "a", 2.0), record("n", "b", 2.0)]), nats)
    assert list(found) == [("m", "a")]
    assert list(found["m", "a"]) == pytest.approx([1.0, 2.0, 3.0])


def test_estimates_are_compared_with_the_first_of_their_own_model() -> None:
    table = estimates(tidied(), frames()["nats"])
    assert list(table["model"]) == ["ddpm"] * 4 + ["rectified-flow"] * 2
    assert list(table["first"]) == [True, False, False, False, True, False]
    assert table["difference"].isna().tolist() == table["first"].tolist()
    assert list(table["difference"][1:4]) == pytest.approx([0.19, 0.04, -0.05])
    width = table["difference_high"] - table["difference_low"]
    assert (width[~table["first"]] < (table["high"] - table["low"])[~table["first"]] / 2).all()


def test_estimates_of_a_model_stand_together_and_need_no_nats() -> None:
    rows = [record("m", "a", 2.0), record("n", "c", 2.0), record("m", "b", 1.5), record("n", "d", 3.0)]
    table = estimates(tidied(rows), make_report([]).nats)
    assert list(table["model"]) == ["m", "m", "n", "n"]
    assert list(table["value"]) == [2.0, 1.5, 2.0, 3.0]
    assert table["difference"].isna().all()


def test_a_model_of_one_estimate_has_no_row() -> None:
    assert estimates(tidied(likelihood_records(("transformer",))), frames()["nats"]).empty
    report = make_report(likelihood_records(("transformer",)), sheets={})
    assert TITLE not in render_markdown(report)
    assert TITLE not in render_html(report)


def test_estimates_are_named_by_what_their_protocols_do_not_share() -> None:
    names = list(estimate_names(tidied(likelihood_records(("ddpm",))).query("metric == 'bits/dim'")).values())
    assert names == [
        "variational bound, optimal variances", "variational bound, small variances",
        "continuous bound", "ode rk4 25 steps",
    ]  # fmt: skip


def test_a_line_has_the_name_of_its_model_where_that_has_no_other() -> None:
    names = line_names(tidied(), frames()["terms"])
    assert names["rectified-flow", key_of("rectified-flow", 1)] == "rectified-flow"
    assert names["ddpm", key_of("ddpm", 0)] == "ddpm · optimal variances"


def test_estimates_that_no_phrase_tells_apart_keep_their_protocols() -> None:
    assert told_apart(["a, b, c", "a, c, b"]) == ["a, b, c", "a, c, b"]
    assert told_apart(["a", "a, b"]) == ["a", "a, b"]
    assert told_apart([]) == []


def test_models_are_compared_with_the_best_image_by_image() -> None:
    table = differences(tidied(), frames()["nats"])
    assert list(table["model"]) == ["transformer", "rectified-flow", "ddpm"]
    assert list(table["difference"]) == pytest.approx([0.0, 0.116, 0.186])
    assert math.isnan(table["low"][0])
    assert (table["width"][1:] < table["unpaired"][1:] / 2).all()
    assert list(table["kind"]) == ["exact", "estimate", "bound"]
    assert list(table["n"]) == [360, 360, 360]


def test_the_figure_of_differences_has_a_row_a_model_and_shapes_by_kind() -> None:
    chart = paired_differences(tidied(), frames()["nats"])
    assert chart is not None
    spec = chart.to_dict()
    point = next(layer for layer in spec["layer"] if "shape" in layer["encoding"])
    assert point["encoding"]["shape"]["scale"]["domain"] == ["exact", "bound", "estimate"]
    assert {"width", "unpaired"} <= {tip["field"] for tip in point["encoding"]["tooltip"]}
    assert max(map(len, rows_of(spec))) == 3
    assert "1.934 bits/dim, the best, exact" in spec["description"].replace("1.93 ", "1.934 ")
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


def test_the_table_is_on_both_pages_with_its_protocols() -> None:
    report = make_report(likelihood_records(), sheets={}, **frames())
    text, page = render_markdown(report), render_html(report)
    lines = text[text.index(f"## {TITLE}") :].split("\n")
    table = [line for line in lines[4:] if line.startswith("|")][:8]
    assert len(table) == 8
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert CONTINUOUS in table[4]
    assert re.search(r"\| \+0\.04\d* \\\[", table[4])
    html = page[page.index(f'<h2 id="estimates">{TITLE}') :]
    html = html[: html.index("</table>")]
    assert html.count("<tr>") == 1 + 6
    assert CONTINUOUS in html
    assert ">+0.04" in html
    assert render_html(make_report(likelihood_records(), sheets={}, **frames())) == page


def test_names_are_inert_in_table_and_figures() -> None:
    made = {
        name: frame.assign(model=frame["model"].replace("ddpm", EVIL)) for name, frame in frames().items()
    }
    made["ladders"] = made["ladders"].assign(setting=EVIL)
    rows = [
        row.replace(model=EVIL, protocol=EVIL + row.protocol) if row.model == "ddpm" else row
        for row in likelihood_records()
    ]
    report = make_report(rows, sheets={}, **made)
    page = render_html(report)
    assert len(Reader(page).named("script")) == 3
    assert len(Reader(page).named("img")) == 0
    assert "<script>document.documentElement.dataset.evil" not in page
    assert "<script" not in render_markdown(report)
    assert TITLE in page


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
