"""What the report says of likelihoods: which estimate leads, differences image by image."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pytest

from bench.report import tables
from bench.report.differences import differences
from bench.report.estimates import estimate_names, estimates, line_names, told_apart
from bench.report.likelihood import bits_per_dim
from bench.report.markdown import render_markdown
from bench.report.page import render_html
from bench.report.paired import bits_of_images, difference
from bench.report.verdict import verdicts
from tests.bench.report.conftest import make_report
from tests.bench.report.made_likelihoods import CONTINUOUS, frames, key_of, likelihood_records, record, tidied
from tests.bench.report.test_page import EVIL, Reader

TITLE = "Likelihood of one network by several estimators"


def rows_of(spec: Any) -> list[list[dict[str, Any]]]:
    return list(spec["datasets"].values())


def small(model: str, key: str, nats: list[float], start: int = 0) -> pd.DataFrame:
    image = range(start, start + len(nats))
    return pd.DataFrame({"model": model, "cell_key": key, "image": image, "nats": nats})


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
