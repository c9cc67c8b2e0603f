"""The page as people use it, in Chromium driven by Playwright: sorting, filters, lighting up, copies, themes.

The browser may not reach any network, and a page that tries is caught.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.compare import compare
from bench.compare.pages import render_html as comparison_html
from bench.report import ReportData
from bench.report.page import render_html
from tests.bench.compare.synthetic import Truth, write_run
from tests.bench.report.conftest import make_report, synthetic_records
from tests.bench.report.test_browser import BROWSER, QUIET

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine"),
]
EVIL = "<script>alert(1)</script>"


@dataclass
class Opened:
    """A page and what it said and asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def text(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield found
        found.close()


def opened(browser: Any, html: str, folder: Path, **context: Any) -> Opened:
    """The page from disk, drawn."""
    file = folder / "report.html"
    file.write_text(html, encoding="utf-8")
    context = {"viewport": {"width": 1200, "height": 900}, **context}
    made = Opened(browser.new_context(**context).new_page())
    made.page.on("console", lambda message: made.said.append(message.text))
    made.page.on("pageerror", lambda error: made.said.append(str(error)))
    made.page.on("dialog", lambda dialog: made.said.append(f"dialog {dialog.message}"))
    made.page.on("request", lambda request: made.asked.append(request.url))
    made.page.goto(file.as_uri())
    made.page.wait_for_function("document.documentElement.dataset.drawn", timeout=60_000)
    return made


@pytest.fixture(scope="module")
def at_work(browser: Any, page: str, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The report of the synthetic records, shared by tests that leave it as they found it."""
    return opened(browser, page, tmp_path_factory.mktemp("page"))


def test_it_loads_without_a_word_and_without_a_request(at_work: Opened) -> None:
    assert at_work.said == []
    assert {url.partition(":")[0] for url in at_work.asked} <= {"file", "data", "blob"}
    assert sum(url.startswith("file:") for url in at_work.asked) == 1


def test_filters_leave_what_was_asked_for(at_work: Opened) -> None:
    page = at_work.page
    page.locator("#cells > summary").click()
    rows = "#cells tbody:first-of-type tr:not([hidden])"
    everything = page.locator(rows).count()
    page.select_option(".filters [name=sampler]", "heun")
    kept = page.locator(rows)
    assert 0 < kept.count() < everything
    assert all("heun" in row for row in kept.all_inner_texts())
    page.select_option(".filters [name=nfe]", index=1)
    assert page.locator(rows).count() < everything
    page.select_option(".filters [name=nfe]", "")
    page.check(".filters [name=best]")
    models = page.locator(rows).evaluate_all("rows => rows.map((row) => row.dataset.model)")
    assert len(models) == len(set(models)) == 2
    assert page.locator(".filters output").inner_text() == f"2 of {everything} cells"
    page.uncheck(".filters [name=best]")
    page.select_option(".filters [name=sampler]", "")
    assert page.locator(rows).count() == everything


def test_choosing_a_model_lights_it_up_in_every_figure_and_table(at_work: Opened) -> None:
    page = at_work.page
    page.select_option("#light", "ddpm")
    lit = page.locator("tr.lit").evaluate_all("rows => rows.map((row) => row.dataset.model)")
    assert set(lit) == {"ddpm"}
    panels = page.locator(".chart[data-model]").evaluate_all(
        "places => places.map((p) => [p.dataset.model, p.classList.contains('dim')])"
    )
    assert {model for model, dim in panels if not dim} == {"ddpm"}
    assert len(panels) > 4
    for figure in ("pareto", "bits"):
        marks = page.locator(f".chart.{figure} svg .mark-symbol path")
        dims = marks.evaluate_all(
            "marks => marks.map((m) => [m.__data__?.datum?.model, m.classList.contains('dim')])"
        )
        shown = {model for model, dim in dims if model is not None and not dim}
        assert shown == {"ddpm"}, figure
        assert any(dim for _, dim in dims)
    faint = page.locator(".chart .role-legend .dim, .chart [class*='role-legend'] .dim")
    assert faint.count() == 0  # ddpm is also the name of a sampler
    page.keyboard.press("Escape")
    assert page.locator(".dim, tr.lit").count() == 0


def test_a_click_on_a_name_lights_it_up_too(at_work: Opened) -> None:
    name = at_work.page.locator("table.ranked tr[data-model=vae] > th")
    name.click()
    assert at_work.page.locator("#light").input_value() == "vae"
    name.click()
    assert at_work.page.locator("#light").input_value() == ""


def test_copies_equal_the_records(at_work: Opened, report: ReportData) -> None:
    page = at_work.page
    with page.expect_download() as waiting:
        page.locator("a[data-file='results.csv']").click()
    text = Path(waiting.value.path()).read_text()
    assert waiting.value.suggested_filename == "results.csv"
    assert text == report.records.to_csv(index=False, lineterminator="\n")
    with page.expect_download() as waiting:
        page.locator("a[data-file='results.json']").click()
    assert len(json.loads(Path(waiting.value.path()).read_text())) == len(report.records)


def test_the_table_of_all_records_is_made_when_it_is_opened(at_work: Opened, report: ReportData) -> None:
    page = at_work.page
    assert page.locator("#all-records table").count() == 0
    page.locator("#all-records > summary").click()
    page.locator("#all-records table").wait_for()
    assert page.locator("#all-records tbody tr").count() == len(report.records)
    page.locator("#all-records button[data-sort]", has_text="value").click()
    header = page.locator("#all-records th[aria-sort='ascending']")
    assert header.inner_text().startswith("value")
    page.locator("#all-records > summary").click()


def test_the_ranking_can_be_copied_as_latex(browser: Any, page: str, tmp_path: Path) -> None:
    made = opened(browser, page, tmp_path, permissions=["clipboard-read", "clipboard-write"])
    made.page.locator("summary", has_text="to copy").click()
    made.page.locator("button", has_text="Copy LaTeX").click()
    playwright.expect(made.page.locator("[data-copy=copy-latex]")).not_to_have_text("Copy LaTeX")
    said = made.page.locator("[data-copy=copy-latex]").inner_text()
    got = (
        made.page.evaluate("navigator.clipboard.readText()")
        if said == "Copied"
        else made.page.evaluate("getSelection().toString()")
    )
    assert got.strip().startswith("% Needs")
    assert r"\end{table}" in got


def test_two_sheets_in_one_place(browser: Any, report: ReportData, tmp_path: Path) -> None:
    made = opened(browser, render_html(report), tmp_path)
    button, caption = made.page.locator(".duel button"), made.page.locator(".duel figcaption")
    first = caption.inner_text()
    button.hover()
    assert caption.inner_text() != first
    made.page.mouse.move(0, 0)
    assert caption.inner_text() == first
    button.focus()
    assert caption.inner_text() != first


def test_dark_and_light_are_both_readable(browser: Any, page: str, tmp_path: Path) -> None:
    made = opened(browser, page, tmp_path, color_scheme="dark")
    dark = made.page.evaluate("getComputedStyle(document.body).backgroundColor")
    made.page.emulate_media(color_scheme="light")
    assert dark != made.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert made.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, page: str, tmp_path: Path, scheme: str) -> None:
    """axe-core, run in an isolated world because the page's policy lets no foreign script in."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    made = opened(browser, page, tmp_path, color_scheme=scheme, bypass_csp=True)
    made.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    found = axe.Axe().run(made.page).response["violations"]
    grave = [each for each in found if each["impact"] in ("serious", "critical")]
    told = [(each["id"], [node["html"][:160] for node in each["nodes"][:3]]) for each in grave]
    assert told == []


def test_a_name_that_is_code_is_only_text(browser: Any, tmp_path: Path) -> None:
    rows = [row.replace(model=EVIL) if row.model == "ddpm" else row for row in synthetic_records()]
    made = opened(browser, render_html(make_report(rows)), tmp_path)
    assert made.said == []
    assert made.page.locator("table.ranked th", has_text="alert(1)").count() == 1
    made.page.select_option("#light", EVIL)
    assert made.page.locator("tr.lit").count() > 0
    made.page.locator("#all-records > summary").click()
    made.page.locator("#all-records table").wait_for()
    assert EVIL in made.page.locator("#all-records").inner_text()
    assert made.said == []


@pytest.mark.parametrize("width", [400, 1600])
def test_no_sideways_scroll(browser: Any, page: str, tmp_path: Path, width: int) -> None:
    made = opened(browser, page, tmp_path, viewport={"width": width, "height": 800})
    across = made.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert across == 0


@pytest.mark.parametrize("models", [12, pytest.param(64, marks=pytest.mark.campaign)])
def test_many_cells_can_still_be_sorted_and_filtered(browser: Any, tmp_path: Path, models: int) -> None:
    """Sixteen cells a model: 192, in full 1 024."""
    base = [row for row in synthetic_records() if row.model == "ddpm" and row.metric != "bits/dim"]
    rows = [row.replace(model=f"ddpm-{i:03d}") for i in range(models) for row in base]
    html = render_html(make_report(rows, sheets={}))
    assert len(html) < 3_000_000
    made = opened(browser, html, tmp_path)
    assert made.page.locator("#cells tbody tr").count() == 16 * models
    made.page.locator("#cells > summary").click()
    made.page.locator("#cells button[data-sort]").first.click()
    made.page.select_option(".filters [name=sampler]", index=1)
    assert made.said == []
    shown = made.page.locator("#cells tbody tr:not([hidden])").count()
    assert shown == 4 * models


def test_a_comparison_is_as_closed_and_as_quiet(browser: Any, tmp_path: Path) -> None:
    a, b = (
        write_run(tmp_path / side, "run", 0, side, Truth(bits=0.02) if side == "b" else Truth())
        for side in ("a", "b")
    )
    made = opened(browser, comparison_html([compare(a, b)]), tmp_path)
    assert made.said == []
    assert made.page.locator(".chart svg").count() == 3
    assert made.page.locator("details[open] > summary").all_inner_texts() == ["Worse: 1"]
    across = made.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert across == 0
