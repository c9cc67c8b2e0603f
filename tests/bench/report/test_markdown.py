"""The Markdown page: a table that stays a table whatever the names are."""

from __future__ import annotations

import re

from bench.report import ReportData
from bench.report.markdown import escaped, figures_png, render_markdown
from tests.bench.report.conftest import failed_record, make_report, synthetic_records


def ranking(page: str) -> list[str]:
    start = page.index("| Model |")
    return page[start : page.index("\n\n", start)].split("\n")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_ranking_has_a_row_a_model_with_intervals(report: ReportData) -> None:
    lines = ranking(render_markdown(report))
    assert len({len(cells(line)) for line in lines}) == 1
    assert cells(lines[2])[:5] == ["rectified-flow", "flow matching", "heun 50", r"1.87 \[1.73, 2.00\]", "99"]
    assert [cells(line)[0] for line in lines[-3:]] == [
        "*real test images*", "*per-pixel histogram*", "*uniform*"
    ]  # fmt: skip


def test_names_cannot_break_the_table_or_mark_up() -> None:
    name = "a|b\n| c <script>alert(1)</script> [x](javascript:alert(1)) **bold** `code`"
    rows = [row.replace(model=name) if row.model == "vae" else row for row in synthetic_records()[:15]]
    page = render_markdown(make_report(rows))
    assert len({len(cells(line)) for line in ranking(page)}) == 1
    assert "<script" not in page
    assert "[x](" not in page.replace(r"\[x\](", "")
    assert "**bold**" not in page


def test_escaping_keeps_plain_text() -> None:
    assert escaped("rectified-flow 1.5") == "rectified-flow 1.5"
    assert escaped("a\n b") == "a b"


def test_failures_are_listed(report: ReportData) -> None:
    page = render_markdown(report)
    assert "| failed | ddpm | heun 100 |" in page
    assert "step 31 of 100" in page


def test_links_are_those_of_the_figures(report: ReportData) -> None:
    links = re.findall(r"\]\((.*?)\)", render_markdown(report, "pictures"))
    assert links == [f"pictures/{name}" for name in figures_png(report)]


def test_every_sheet_stands_under_its_caption(report: ReportData) -> None:
    page = render_markdown(report)
    assert "| Real images |" in page
    for caption in list(report.sheets)[1:]:
        assert f" {escaped(caption)} |" in page


def test_a_run_without_numbers_is_a_page_too() -> None:
    page = render_markdown(make_report([failed_record()], curves=make_report([]).curves.iloc[:0], sheets={}))
    assert "ddpm (failed)" in page
    assert "](" not in page


def test_same_records_same_text() -> None:
    few = make_report(synthetic_records()[:12])
    assert render_markdown(few) == render_markdown(make_report(synthetic_records()[:12]))
