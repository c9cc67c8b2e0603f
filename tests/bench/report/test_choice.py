"""Which sampler to use: winners under a limit by brute force, and no winner claimed where intervals meet."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records import Record, to_frame
from bench.report import choice, tables
from bench.report.markdown import render_markdown
from bench.report.page import render_html
from bench.report.verdict import verdicts
from tests.bench.report.conftest import certificate_records, make_report, sweep_records, synthetic_records


def row(name: str, nfe: float, quality: float, spread: float | None = 0.1, steps: int = 1) -> dict[str, Any]:
    """A cell of sampler `name`; its interval is quality ± spread, or none."""
    ends = (None, None) if spread is None else (quality - spread, quality + spread)
    cell = {"series": name, "way": f"{name} {steps}", "label": f"m · {name} {steps}", "nfe": nfe}
    cell |= {"quality": quality, "quality_low": ends[0], "quality_high": ends[1]}
    return cell | {"ms": nfe, "ms_low": nfe - 0.5, "ms_high": nfe + 0.5}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows)


def best(cells: pd.DataFrame, limit: float) -> choice.Choice:
    return choice.best_within(cells, "quality", "nfe", limit, of_series=True)


def way(found: choice.Choice) -> str:
    assert found.cell is not None
    return str(found.cell["way"])


def test_a_winner_is_settled_where_no_interval_meets_its_own() -> None:
    cells = frame(row("a", 5, 1.0), row("b", 5, 1.5), row("c", 50, 0.1))
    found = best(cells, 10)
    assert (way(found), found.settled, found.rivals) == ("a 1", True, ())
    assert found.brief() == found.doubt() == "settled"
    assert found.ratio == pytest.approx(10.0)
    assert found.heat == 4


def test_intervals_that_meet_settle_nothing_even_if_they_only_touch() -> None:
    found = best(frame(row("a", 5, 1.0, 0.25), row("b", 5, 1.5, 0.25)), 10)
    assert (way(found), found.settled, found.rivals) == ("a 1", False, ("b",))
    assert found.doubt() == "not settled: not told apart from b"


def test_other_steps_of_the_same_series_are_no_rival_for_a_sampler_but_are_for_a_cost() -> None:
    cells = frame(row("a", 10, 1.0, steps=10), row("a", 8, 1.15, steps=8))
    assert best(cells, 10).settled
    least = choice.best_within(cells, "nfe", "quality", 1.12)
    assert (way(least), least.rivals) == ("a 10", ("a 8",))


@pytest.mark.parametrize("lonely", [0, 1])
def test_a_number_without_an_interval_settles_nothing(lonely: int) -> None:
    spreads: list[float | None] = [0.01, 0.01]
    spreads[lonely] = None
    found = best(frame(row("a", 5, 1.0, spreads[0]), row("b", 5, 9.0, spreads[1])), 10)
    assert (way(found), found.settled) == ("a 1", False)


def test_a_cell_whose_time_may_pass_the_budget_is_no_sure_winner_and_one_that_may_fit_is_a_rival() -> None:
    cells = frame(row("a", 9.8, 1.0), row("b", 10.2, 1.05))
    found = choice.best_within(cells, "quality", "ms", 10, of_series=True)
    assert (way(found), found.sure, found.rivals) == ("a 1", False, ("b",))
    assert "its interval passes the limit" in found.doubt()
    assert found.brief() == "1 rival, may pass the budget"


def test_a_winner_without_competition_is_not_called_settled() -> None:
    found = best(frame(row("a", 5, 1.0), row("a", 8, 0.9, steps=2), row("b", 50, 3.0)), 10)
    assert (way(found), found.doubt()) == ("a 2", "no other is in reach")


def test_where_nothing_keeps_the_limit_what_is_not_ruled_out_is_said() -> None:
    found = choice.best_within(frame(row("a", 5, 1.05), row("b", 5, 2.0)), "nfe", "quality", 1.0)
    assert found.cell is None
    assert found.doubt() == "none; not ruled out: a 1"
    assert choice.best_within(frame(row("b", 5, 2.0)), "nfe", "quality", 1.0).doubt() == "none"


def test_qualities_that_are_not_positive_have_no_ratio_and_no_heat() -> None:
    found = best(frame(row("a", 5, -0.5), row("b", 5, 0.5)), 10)
    assert found.ratio is found.heat is None


CELLS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.integers(1, 20), st.integers(0, 4)),
    min_size=1,
    max_size=10,
)


@given(CELLS, st.integers(1, 9))
def test_winner_and_rivals_equal_their_definition(cells: list[tuple[str, int, int, int]], limit: int) -> None:
    """By brute force over invented cells (series, evaluations, quality, half width of the interval)."""
    table = frame(*(row(s, n, q, h, steps=i) for i, (s, n, q, h) in enumerate(cells)))
    found = best(table, limit)
    keeping = [cell for cell in cells if cell[1] <= limit]
    if not keeping:
        assert found.cell is None
        return
    assert found.cell is not None
    least = min(cell[2] for cell in keeping)
    assert found.cell["quality"] == least
    own, high = found.cell["series"], found.cell["quality_high"]
    assert set(found.rivals) == {s for s, _, q, h in keeping if s != own and q - h <= high}


def test_ladders_hold_all_values() -> None:
    assert choice.ladder([1.0, 99.0]) == (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    assert choice.ladder([0.031, 0.2]) == (0.05, 0.1, 0.2)
    assert choice.ladder([]) == choice.ladder([float("nan"), 0.0]) == ()


def advice_of(records: list[Record]) -> choice.Advice:
    return choice.advice(tables.tidy(to_frame(records)))


def test_only_models_with_a_choice_of_sampler_are_advised_on() -> None:
    """A native way and a choice of weights alone are no choice of sampler; certificates are no model."""
    weights = [r for r in sweep_records("guided") if (r.sampler, r.grid) in (("heun", "karras"), ("", ""))]
    found = advice_of([*synthetic_records(), *weights, *certificate_records()])
    assert list(found.budgets[0].rows) == ["rectified-flow", "ddpm"]
    assert not advice_of([r for r in synthetic_records() if r.model == "vae"])
    assert not advice_of([])


def test_without_throughput_only_evaluations_are_budgeted() -> None:
    found = advice_of([r for r in synthetic_records() if r.metric == "FD-digits@360"])
    assert [budgets.cost for budgets in found.budgets] == ["nfe"]
    assert all(list(reach.least) == ["nfe"] for reach in found.reaches)


def test_a_larger_budget_is_never_worse_and_a_stricter_quality_never_cheaper() -> None:
    found = advice_of([*synthetic_records(), *sweep_records()])
    for budgets in found.budgets:
        for choices in budgets.rows.values():
            qualities = [c.cell["quality"] for c in choices if c.cell is not None]
            assert qualities == sorted(qualities, reverse=True)
    for cost in found.costs:
        for model in ("dit", "ddpm"):
            reaches = [r for r in found.reaches if r.model == model and r.target.endswith("best")]
            costs = [r.least[cost].cell[cost] for r in reaches if r.least[cost].cell is not None]  # type: ignore[index]
            assert len(costs) == len(choice.FACTORS)
            assert costs == sorted(costs, reverse=True)


def test_real_images_are_reached_at_the_high_end_of_their_interval() -> None:
    reach = next(r for r in advice_of(synthetic_records()).reaches if r.target == "real images")
    assert reach.limit == 1.93
    assert reach.least["nfe"].cell is not None
    assert reach.least["nfe"].cell["quality"] <= 1.93


def test_page_and_markdown_show_budgets_and_costs(swept_page: str) -> None:
    section = swept_page[swept_page.index('id="which-sampler"') : swept_page.index('id="figure-pareto"')]
    no_curves = make_report([]).curves.iloc[:0]
    text = render_markdown(make_report(sweep_records(weights=(1.0,)), sheets={}, curves=no_curves))
    assert "≤ 10" in section
    assert "dpmpp-2m 10 karras rho=5" in section
    assert section.count("<table") == 5
    assert "style=" not in section
    assert "Least time an image" in text
    assert "not told apart from" in text


def test_a_run_without_a_choice_has_no_such_section() -> None:
    report = make_report([r for r in synthetic_records() if r.model == "vae"])
    assert "which-sampler" not in render_html(report)
    assert "Which sampler" not in render_markdown(report)


def test_a_sentence_names_the_best_sampler_and_who_is_not_told_apart() -> None:
    answers = {a.label: a for a in verdicts(tables.tidy(to_frame([*synthetic_records(), *sweep_records()])))}
    items = {item.partition(":")[0]: item for item in answers["Best sampler at 10 evaluations"].items}
    assert items["ddpm"] == "ddpm: euler 10, 3.27 [3.04, 3.50]"
    assert items["dit"].startswith("dit: dpmpp-2m 10 karras rho=5, ")
    assert "not told apart from dpmpp-2m and unipc" in items["dit"]
    alone = verdicts(tables.tidy(to_frame([r for r in synthetic_records() if r.model == "vae"])))
    assert not any(answer.label.startswith("Best sampler") for answer in alone)


def test_the_sentence_takes_the_least_budget_there_is_where_ten_evaluations_are_too_few() -> None:
    rows = [r for r in synthetic_records() if r.nfe is None or r.nfe >= 15]
    labels = [answer.label for answer in verdicts(tables.tidy(to_frame(rows)))]
    assert "Best sampler at 20 evaluations" in labels
