"""Throughput against the batch with its knee, and the latency of one image.

The knee is the smallest batch that reaches four fifths of the best throughput measured: beyond it a larger
batch buys memory use and little speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import labels, marks, series, tables
from bench.report.text import number

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

AT = f"{tables.SPEED} at batch "
QUANTILES = ("latency p50", "latency p90", "latency p99")
ENOUGH = 0.8
"""Share of the best throughput from which a batch is large enough."""


def by_batch(records: pd.DataFrame) -> pd.DataFrame:
    """A row a (cell, batch): columns series, model, family, batch, value, low, high, knee."""
    rows = tables.generators(records)
    rows = rows[rows["metric"].str.startswith(AT) & rows["value"].notna()]
    named = [
        tables.cell_label(row["model"], *(row[name] for name in tables.HOW)) for _, row in rows.iterrows()
    ]
    rows = rows.assign(series=named, batch=rows["metric"].str.removeprefix(AT).astype(float))
    best = rows.groupby("series")["value"].transform("max")
    enough = rows["batch"].where(rows["value"] >= ENOUGH * best)
    rows = rows.assign(knee=rows["batch"] == enough.groupby(rows["series"]).transform("min"))
    columns = ["series", "model", "family", "batch", "value", "low", "high", "knee"]
    return rows[columns].sort_values(["series", "batch"], kind="stable").reset_index(drop=True)


def throughput_by_batch(records: pd.DataFrame) -> alt.LayerChart | None:
    """A line a model, a ring round its knee; None where no batches were swept."""
    import altair as alt

    rows = by_batch(records)
    if rows.empty:
        return None
    order = rows.groupby("series")["value"].max().sort_values(ascending=False, kind="stable").index
    rows = rows[rows["series"].isin(order[: series.MOST])]
    looks = series.Looks.of(list(rows["series"]))
    values = labels.finite([*rows["value"], *rows["low"], *rows["high"]])
    log = labels.is_log(values)
    batches = labels.finite(rows["batch"])
    across = labels.is_log(batches)
    x = marks.Span(labels.padded(batches, across, 0.06), across, "images in a batch")
    x = series.with_room(x, looks.names, looks)
    y = marks.Span(labels.padded(values, log, 0.1), log, "images per second (better above)")
    panel = series.Panel(rows, x, y, "batch", "value", looks, series.height(rows["series"].nunique()))
    tooltip = [alt.Tooltip("series:N", title="cell"), alt.Tooltip("batch:Q")]
    tooltip += [alt.Tooltip(f"{name}:Q", format=",.4~r") for name in ("value", "low", "high")]
    ring = alt.Chart(rows[rows["knee"]]).mark_point(style="own-point", filled=False, size=220, aria=False)
    layers = [
        *panel.ends(8.0, panel.height - 8.0),
        *panel.layers(tooltip),
        ring.encode(x="batch:Q", y="value:Q"),
    ]
    said = "; ".join(f"{row.series}: knee at {number(row.batch)}" for row in rows[rows["knee"]].itertuples())
    return marks.chart(layers, panel.height, f"Images per second by batch. {said}.")


def latencies(records: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a cell: label, knee with the throughput there, and (value, low, high) of each quantile in ms."""
    rows = tables.generators(records)
    rows = rows[rows["metric"].isin(QUANTILES) & rows["value"].notna()]
    knees = {row["series"]: row for row in by_batch(records).to_dict("records") if row["knee"]}
    found: dict[str, dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        label = tables.cell_label(row["model"], *(row[name] for name in tables.HOW))
        line = found.setdefault(label, {"label": label, "model": row["model"], "protocol": row["protocol"]})
        line[row["metric"]] = (row["value"], row["low"], row["high"])
    for label, line in found.items():
        at = knees.get(label, {})
        line["knee"] = at.get("batch")
        line["speed"] = tuple(at.get(name) for name in ("value", "low", "high"))
    return sorted(
        found.values(), key=lambda line: (line.get(QUANTILES[0], (float("inf"),))[0], line["label"])
    )
