"""What guidance buys and costs: shares of conditions met, and quality, against the weight w."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import labels, marks, series, tables
from bench.report.text import number

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


def guidance_curves(records: pd.DataFrame) -> dict[str, alt.LayerChart]:
    """A panel a metric, a line a model with its sampler, over the weights w that were sampled with.

    Only metrics of cells with two or more weights are shown; keys are the metrics.
    """
    rows = tables.generators(records)
    rows = rows[rows["guidance"].notna() & rows["value"].notna() & (rows["status"] == "ok")]
    quality = tables.headline_metric(rows)
    shown = [
        str(metric)
        for metric in dict.fromkeys(rows["metric"])
        if metric.startswith(tables.SHARES) or metric == quality
    ]
    lines = {metric: _lines(rows[rows["metric"] == metric]) for metric in shown}
    chosen = _chosen(lines[quality], False) if quality and len(lines[quality]) else None
    for metric, found in lines.items():
        kept = _chosen(found, metric.startswith(tables.SHARES)) if chosen is None else chosen
        lines[metric] = (
            found if found["series"].nunique() <= series.MOST else found[found["series"].isin(kept)]
        )
    looks = series.Looks.of([name for found in lines.values() for name in found["series"]])
    return {metric: _panel(metric, found, records, looks) for metric, found in lines.items() if len(found)}


def _lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of lines with two or more weights, each a model with its way of sampling."""
    ways = ["sampler", "steps", "options", "grid"]
    found = [tables.cell_label(m, s, n, None, o, g) for m, s, n, o, g in rows[["model", *ways]].values]
    rows = rows.assign(series=found)
    rows = rows[rows.groupby("series")["guidance"].transform("nunique") > 1]
    columns = ["series", "model", *ways, "guidance", "value", "low", "high"]
    return rows[columns].sort_values(["series", "guidance"], kind="stable")


def _chosen(lines: pd.DataFrame, highest: bool) -> list[str]:
    """Of too many lines the ones that reach the best value, one number of steps a sampler."""
    best = lines.sort_values(["value", "series"], ascending=[not highest, True], kind="stable")
    return list(best.drop_duplicates(["model", "sampler", "options", "grid"]).head(series.MOST)["series"])


def _panel(metric: str, rows: pd.DataFrame, records: pd.DataFrame, looks: series.Looks) -> alt.LayerChart:
    import altair as alt

    share = metric.startswith(tables.SHARES)
    floor = tables.reference(records, metric)
    real = [] if floor is None else [floor["value"], floor["low"], floor["high"]]
    values = labels.finite([*rows["value"], *rows["low"], *rows["high"], *real])
    log = not share and labels.is_log(values)
    domain = (0.0, 1.05) if share else labels.padded(values, log, 0.1)
    weights = labels.padded(labels.finite(rows["guidance"]), False, 0.06)
    x = series.with_room(marks.Span(weights, False, "guidance w (1: none)"), looks.names, looks)
    y = marks.Span(domain, log, metric if share else f"{metric} (better below)")
    panel = series.Panel(rows, x, y, "guidance", "value", looks, series.height(rows["series"].nunique()))
    tooltip = [alt.Tooltip("series:N", title="cell"), alt.Tooltip("guidance:Q", title="w")]
    tooltip += [alt.Tooltip(f"{name}:Q", format=",.4~r") for name in ("value", "low", "high")]
    layers = [
        *marks.floor(records, metric, brief=True),
        *panel.ends(_top(floor, y, panel.height), panel.height - 8.0),
        *panel.layers(tooltip),
    ]
    said = "; ".join(f"{row.series} w={row.guidance:g}: {number(row.value)}" for row in rows.itertuples())
    return marks.chart(layers, panel.height, f"{metric} by guidance. {said}.", metric)


def _top(floor: pd.Series | None, y: marks.Span, height: float) -> float:
    """Where names may begin, px from above: under the label of real images where that is near the top."""
    line = height if floor is None else height * (1 - y.share(floor["value"]))
    return line + 30.0 if line < height / 4 else 8.0
