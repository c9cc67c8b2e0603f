"""What guidance buys and costs: shares of conditions met, and quality, against the weight w."""

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
DASHES = ([1, 0], [7, 3], [2, 2], [7, 3, 2, 3], [4, 2])


def guidance_curves(records: pd.DataFrame) -> dict[str, alt.LayerChart]:
    """A panel a metric, a line a model with its sampler, over the weights w that were sampled with.

    Only metrics of cells with two or more weights are shown; keys are the metrics.
    """
    rows = tables.generators(records)
    rows = rows[rows["guidance"].notna() & rows["value"].notna() & (rows["status"] == "ok")]
    quality = tables.headline_metric(rows)
    panels = {}
    for metric in dict.fromkeys(rows["metric"]):
        if not (metric.startswith(tables.SHARES) or metric == quality):
            continue
        lines = _lines(rows[rows["metric"] == metric])
        if not lines.empty:
            panels[str(metric)] = _panel(str(metric), lines, records)
    return panels


def _lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of lines with two or more weights, each under the name of its model and sampler."""
    names = [
        tables.cell_label(*keys) for keys in zip(rows["model"], rows["sampler"], rows["steps"], strict=True)
    ]
    rows = rows.assign(line=names)
    weights = rows.groupby("line")["guidance"].transform("nunique")
    columns = ["line", "model", "family", "guidance", "value", "low", "high"]
    return rows.loc[weights > 1, columns].sort_values(["line", "guidance"], kind="stable")


def _panel(metric: str, rows: pd.DataFrame, records: pd.DataFrame) -> alt.LayerChart:
    share = metric.startswith(tables.SHARES)
    floor = tables.reference(records, metric)
    real = [] if floor is None else [floor["value"], floor["low"], floor["high"]]
    values = labels.finite([*rows["value"], *rows["low"], *rows["high"], *real])
    log = not share and labels.is_log(values)
    domain = (0.0, 1.05) if share else labels.padded(values, log, 0.1)
    weights = labels.padded(labels.finite(rows["guidance"]), False, 0.06)
    widest = labels.clipped(max(rows["line"], key=len))
    weights = labels.room_for_labels([weights[1]], [widest], weights, False, PHONE)
    x = marks.Span(weights, False, "guidance w (1: none)")
    y = marks.Span(domain, log, metric if share else f"{metric} (better below)")
    said = "; ".join(f"{row.line} w={row.guidance:g}: {number(row.value)}" for row in rows.itertuples())
    layers = [
        *marks.floor(records, metric, brief=True),
        *_names(rows, x, y, _top(floor, y)),
        *_drawn(rows, x, y),
    ]
    return marks.chart(layers, PANEL_HEIGHT, f"{metric} by guidance. {said}.", metric)


def _drawn(rows: pd.DataFrame, x: marks.Span, y: marks.Span) -> list[alt.Chart]:
    """Lines, whiskers and points."""
    import altair as alt

    lines = list(dict.fromkeys(rows["line"]))
    dash = alt.Scale(domain=lines, range=[DASHES[i % len(DASHES)] for i in range(len(lines))])
    where = {"x": alt.X("guidance:Q", **x.axis()), "y": alt.Y("value:Q", **y.axis())}
    look = where | {"color": marks.colour(rows["family"], None)}
    base = alt.Chart(rows)
    line = base.mark_line(strokeWidth=1.6, aria=False).encode(
        **look, strokeDash=alt.StrokeDash("line:N", scale=dash, legend=None)
    )
    known = alt.Chart(rows[rows["low"].notna() & rows["high"].notna()])
    whisker = known.mark_rule(style="whisker", aria=False).encode(x="guidance:Q", y="low:Q", y2="high:Q")
    tooltip = [alt.Tooltip("line:N", title="cell"), alt.Tooltip("guidance:Q", title="w")]
    tooltip += [alt.Tooltip(f"{name}:Q", format=",.4~r") for name in ("value", "low", "high")]
    points = base.mark_point(style="cell-point", filled=True, size=60, opacity=1).encode(
        **look, tooltip=tooltip
    )
    return [line, whisker, points]


def _top(floor: pd.Series | None, y: marks.Span) -> float:
    """Where names may begin, px from above: under the label of real images where that is near the top."""
    line = PANEL_HEIGHT if floor is None else PANEL_HEIGHT * (1 - y.share(floor["value"]))
    return line + 30.0 if line < PANEL_HEIGHT / 4 else 8.0


def _names(rows: pd.DataFrame, x: marks.Span, y: marks.Span, top: float) -> list[alt.Chart]:
    """Names of the lines in a column at the right, each joined to the end of its line."""
    import altair as alt

    ends = rows.drop_duplicates("line", keep="last")
    heights = [PANEL_HEIGHT * (1 - y.share(value)) for value in ends["value"]]
    placed = labels.spread(heights, top, PANEL_HEIGHT - 8.0, 14.0)
    # Behind every point: on a wide page the column of a phone would begin among them.
    last = x.share(float(rows["guidance"].max())) + 8.0 / PHONE
    widest = max(len(labels.clipped(name)) for name in ends["line"])
    column = x.at(max(last, 1 - (labels.CHARACTER * widest + 6) / PHONE))
    ends = ends.assign(
        column=column,
        height=[y.at(1 - place / PANEL_HEIGHT) for place in placed],
        name=[labels.clipped(name) for name in ends["line"]],
    )
    base = alt.Chart(ends)
    leader = base.mark_rule(style="leader", aria=False).encode(
        x="guidance:Q", x2="column:Q", y="value:Q", y2="height:Q"
    )
    place = {"align": "left", "baseline": "middle", "dx": 4}
    where = {"x": alt.X("column:Q"), "y": alt.Y("height:Q"), "text": "name:N"}
    return [leader, *marks.label(base, "direct-label", place, where)]
