"""Protects the LaTeX table: every number, its protocol, and nothing from a name that LaTeX would obey."""

from __future__ import annotations

import re

from bench.report import ReportData
from bench.report.latex import escaped, render_latex
from tests.bench.report.conftest import make_report, synthetic_records

EVIL = r"\input{/etc/passwd} $x_1^2$ 50% & ~ #1 {"


def test_every_model_has_a_line_and_every_letter_a_protocol(report: ReportData) -> None:
    text = render_latex(report)
    assert text == render_latex(report)
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    for model in ("rectified-flow", "ddpm", "transformer", "vae", "realnvp", "real test images"):
        assert body.count(model) >= 1
    used = set(re.findall(r"\$\^\{([a-z]+)\}\$", body))
    told = set(re.findall(r"^\$\^\{([a-z]+)\}\$ ", text, re.MULTILINE))
    assert used == told != set()
    columns = {line.count("&") for line in body.splitlines() if line.endswith(r"\\")}
    assert columns == {5}
    assert text.count("{") == text.count("}")


def test_names_are_text() -> None:
    rows = [row.replace(model=EVIL) if row.model == "vae" else row for row in synthetic_records()]
    text = render_latex(make_report(rows))
    assert r"\input{" not in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    # What is left of special characters is escaped, mathematics of our own, or our own commands.
    assert escaped("a\nb") == "a b"
    assert escaped("95 % ≤ 3 × 10") == r"95 \% $\leq$ 3 $\times$ 10"


def test_a_run_without_quality_has_a_table_too() -> None:
    rows = [row for row in synthetic_records() if row.metric == "bits/dim"]
    assert r"\end{table}" in render_latex(make_report(rows, sheets={}))
