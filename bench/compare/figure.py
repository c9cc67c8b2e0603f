"""The differences of a comparison as dots with intervals, a panel a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.compare.comparison import Comparison, Row, ratios
from bench.report import labels, marks
from bench.report.tables import BITS, MEMORY

if TYPE_CHECKING:
    import altair as alt

ROW, MOST = 20, 30
"""Height of a row in px, and rows of a panel: those that differ most surely."""
LOOKS = {
    "better": ("#009E73", "triangle-up"),
    "worse": ("#D55E00", "triangle-down"),
    "same": ("#999999", "circle"),
}
"""Colour and shape of a verdict; never told by colour alone."""


def panels(found: Comparison) -> dict[str, alt.LayerChart]:
    """Metric -> chart of its differences; what is all the same, debiased or memory is left to the table."""
    charts = {}
    for metric in dict.fromkeys(row.metric for row in found.rows):
        rows = [row for row in found.rows if row.metric == metric and row.verdict in LOOKS and _drawn(row)]
        differ = any(row.difference != (1.0 if ratios(metric) else 0.0) for row in rows)
        if differ and metric != MEMORY and "debiased" not in metric:
            charts[metric] = _panel(found, metric, rows)
    return charts


def _drawn(row: Row) -> bool:
    return row.difference is not None and row.low is not None and row.high is not None


def _panel(found: Comparison, metric: str, rows: list[Row]) -> alt.LayerChart:
    import altair as alt
    import pandas as pd

    rows = sorted(rows, key=lambda row: (row.verdict == "same", row.p if row.p is not None else 1.0))[:MOST]
    ratio = ratios(metric)
    columns = ("label", "difference", "low", "high", "verdict", "p")
    frame = pd.DataFrame([{name: getattr(row, name) for name in columns} for row in rows])
    zero = 1.0 if ratio else 0.0
    domain = labels.padded(labels.finite([zero, *frame["low"], *frame["high"]]), False)
    title = f"{metric}: B over A" if ratio else f"{metric}: B less A"
    unit = " in bits" if metric == BITS else ""
    x = alt.X("difference:Q", **marks.Span(domain, False, title + unit).axis())
    axis = alt.Axis(labelLimit=190, grid=True, domain=False, ticks=False, labelPadding=8)
    y = alt.Y("label:N", sort=list(dict.fromkeys(frame["label"])), title=None, axis=axis)
    names = [name for name in LOOKS if name in set(frame["verdict"])]
    scales: list[dict[str, Any]] = [
        {"domain": names, "range": [LOOKS[name][part] for name in names]} for part in (0, 1)
    ]
    rule = alt.Chart(pd.DataFrame({"zero": [zero]})).mark_rule(style="anchor-line", aria=False)
    whisker = alt.Chart(frame).mark_rule(style="whisker", aria=False)
    point = alt.Chart(frame).mark_point(style="cell-point", filled=True, size=90, opacity=1)
    layers = [
        rule.encode(x=alt.X("zero:Q")),
        whisker.encode(x="low:Q", x2="high:Q", y=y),
        point.encode(
            x=x,
            y=y,
            color=alt.Color("verdict:N", scale=alt.Scale(**scales[0]), legend=alt.Legend(title=None)),
            shape=alt.Shape("verdict:N", scale=alt.Scale(**scales[1]), legend=alt.Legend(title=None)),
            tooltip=[
                alt.Tooltip("label:N", title="cell"),
                alt.Tooltip("verdict:N"),
                *(alt.Tooltip(f"{name}:Q", format=",.4~r") for name in ("difference", "low", "high", "p")),
            ],
        ),
    ]
    said = "; ".join(f"{row.label}: {row.verdict}" for row in rows)
    height = ROW * frame["label"].nunique() + 10
    return marks.chart(layers, height, f"{title} for {len(rows)} cells of {found.b}. {said}.", metric)
