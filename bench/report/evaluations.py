"""Quality against network evaluations: small multiples, a panel a model, a line a sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import labels, marks, tables
from bench.report.text import number

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

PANEL_HEIGHT = 260
PHONE = 220.0
"""Plot width in px for which the column of names is laid out."""
DASHES = ([1, 0], [7, 3], [2, 2], [7, 3, 2, 3], [4, 2], [1, 3], [9, 4], [3, 1])
COLUMNS = ("label", "family", "sampler", "nfe", "quality", "quality_low", "quality_high", "speed")


def quality_vs_nfe(records: pd.DataFrame) -> dict[str, alt.LayerChart]:
    """Quality against evaluations, a panel a model that has a choice of sampler; axes shared.

    Keys are model names. Samplers are told apart by shape and dash and named beside their lines.
    """
    metric = tables.headline_metric(tables.generators(records))
    table = tables.cells(records).dropna(subset=["quality", "nfe"])
    table = table[table["steps"].notna()]
    if table.empty or metric is None:
        return {}
    floor = tables.reference(records, metric)
    x, y = _axes(table, floor, metric)
    bottom = PANEL_HEIGHT - 8.0
    if floor is not None and floor["value"] <= table["quality"].min():
        bottom = PANEL_HEIGHT * (1 - y.share(floor["value"])) - 8.0
    panels = {}
    for model in sorted(table["model"].unique()):
        rows = table.loc[table["model"] == model, list(COLUMNS)]
        names = _names(rows, x, y, bottom)
        layers = [*marks.floor(records, metric, brief=True), *names, *_lines(rows, records, metric, x, y)]
        best = "; ".join(f"{row.label}: {number(row.quality)}" for row in rows.head(3).itertuples())
        said = f"{metric} by evaluations of {model}. {best}."
        panels[model] = marks.chart(layers, PANEL_HEIGHT, said, model)
    return panels


def _axes(table: pd.DataFrame, floor: pd.Series | None, metric: str) -> tuple[marks.Span, marks.Span]:
    """Shared domains, with a column at the right for the names of the samplers."""
    base = [] if floor is None else [floor["value"], floor["low"], floor["high"]]
    qualities = labels.finite([*table["quality"], *table["quality_low"], *table["quality_high"], *base])
    evaluations = labels.finite(table["nfe"])
    log_x, log_y = labels.is_log(evaluations), labels.is_log(qualities)
    domain = labels.padded(evaluations, log_x, 0.06)
    widest = labels.clipped(max(table["sampler"], key=len))
    domain = labels.room_for_labels([domain[1]], [widest], domain, log_x, PHONE)
    return (
        marks.Span(domain, log_x, "network evaluations an image"),
        marks.Span(labels.padded(qualities, log_y, 0.1), log_y, f"{metric} (better below)"),
    )


def _lines(
    rows: pd.DataFrame, records: pd.DataFrame, metric: str, x: marks.Span, y: marks.Span
) -> list[alt.Chart]:
    """Lines, whiskers and points of one panel."""
    import altair as alt

    base = alt.Chart(rows)
    shapes = marks.sampler_shapes(records)
    scale = alt.Scale(domain=list(shapes), range=[DASHES[i % len(DASHES)] for i in range(len(shapes))])
    where = {"x": alt.X("nfe:Q", **x.axis()), "y": alt.Y("quality:Q", **y.axis())}
    look = where | {"color": marks.colour(rows["family"], None)}
    line = base.mark_line(strokeWidth=1.6, aria=False).encode(
        **look, strokeDash=alt.StrokeDash("sampler:N", scale=scale, legend=None)
    )
    known = alt.Chart(rows[rows["quality_low"].notna() & rows["quality_high"].notna()])
    whisker = known.mark_rule(style="whisker", aria=False).encode(
        x="nfe:Q", y="quality_low:Q", y2="quality_high:Q"
    )
    points = base.mark_point(style="cell-point", filled=True, size=60, opacity=1).encode(
        **look, shape=marks.shape("sampler", shapes, None), tooltip=marks.tooltip(metric)
    )
    return [line, whisker, points]


def _names(rows: pd.DataFrame, x: marks.Span, y: marks.Span, bottom: float) -> list[alt.Chart]:
    """Names of the samplers in a column at the right, each joined to the end of its line."""
    import altair as alt

    ends = rows.sort_values("nfe", kind="stable").drop_duplicates("sampler", keep="last")
    heights = [PANEL_HEIGHT * (1 - y.share(value)) for value in ends["quality"]]
    placed = labels.spread(heights, 8.0, bottom, 14.0)
    column = x.at(1 - (labels.CHARACTER * max(map(len, rows["sampler"])) + 6) / PHONE)
    ends = ends.assign(column=column, height=[y.at(1 - place / PANEL_HEIGHT) for place in placed])
    base = alt.Chart(ends)
    leader = base.mark_rule(style="leader", aria=False).encode(
        x="nfe:Q", x2="column:Q", y="quality:Q", y2="height:Q"
    )
    place = {"align": "left", "baseline": "middle", "dx": 4}
    where = {"x": alt.X("column:Q"), "y": alt.Y("height:Q"), "text": "sampler:N"}
    return [leader, *marks.label(base, "direct-label", place, where)]
