"""Quality against speed: the Pareto front named and joined, the rest faded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import labels, marks, placement, tables

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

HEIGHT = 380
NAMED = 490
"""Inner width in px from which points are named; below it they have numbers and the page holds the key."""
WIDE, PHONE = (490.0, 560.0, 640.0, 740.0, 860.0, 1000.0), (240.0, 290.0, 350.0, 420.0, 490.0)
COLUMNS = (
    *("label", "model", "family", "sampler", "nfe", "front", "quality", "quality_low", "quality_high"),
    *("speed", "speed_low", "speed_high"),
)


def pareto(records: pd.DataFrame) -> alt.LayerChart | None:
    """The cells by images per second and quality. None where no cell has both numbers."""
    metric = tables.headline_metric(tables.generators(records))
    table = tables.cells(records).dropna(subset=["quality", "speed"])
    if table.empty or metric is None:
        return None
    floor = tables.reference(records, metric)
    frame, front = table[list(COLUMNS)], front_key(table)
    x, y = _axes(table, front, floor, metric)
    named = front[list(COLUMNS)].assign(**_label_columns(table, front, floor, x, y))
    layers = [
        *marks.floor(records, metric),
        _front_line(frame),
        _whiskers(frame, "x", "speed_low", "speed_high"),
        _whiskers(frame, "y", "quality_low", "quality_high"),
        _points(frame, records, metric, x, y),
        *_front_labels(named),
    ]
    said = f"{metric} against images per second for {len(frame)} cells; on the Pareto front: "
    return marks.chart(layers, HEIGHT, said + "; ".join(front["label"]) + ".")


def front_key(table: pd.DataFrame) -> pd.DataFrame:
    """The cells on the Pareto front, slowest and best first, numbered as in the figure (column `rank`)."""
    front = table[table["front"]].sort_values(["speed", "label"], kind="stable").reset_index(drop=True)
    return front.assign(rank=[str(index + 1) for index in range(len(front))])


def _axes(
    table: pd.DataFrame, front: pd.DataFrame, floor: pd.Series | None, metric: str
) -> tuple[marks.Span, marks.Span]:
    """Domains that hold all values and whiskers, with room for a name right of every point of the front."""
    speeds = labels.finite([*table["speed"], *table["speed_low"], *table["speed_high"]])
    base = [] if floor is None else [floor["value"], floor["low"], floor["high"]]
    qualities = labels.finite([*table["quality"], *table["quality_low"], *table["quality_high"], *base])
    log_x, log_y = labels.is_log(speeds), labels.is_log(qualities)
    ends = front.iloc[-1:]
    names = [f"{labels.clipped(name)}    " for name in ends["label"]]
    x_domain = labels.padded(speeds, log_x, 0.05)
    x_domain = labels.room_for_labels(list(ends["speed"]), names, x_domain, log_x, NAMED)
    y_domain = labels.padded(qualities, log_y, 0.1)
    return (
        marks.Span(x_domain, log_x, "images per second (faster to the right)"),
        marks.Span(y_domain, log_y, f"{metric} (better below)"),
    )


def _point(row: Any, x: marks.Span, y: marks.Span) -> placement.Point:
    """Where a cell is drawn."""
    top = HEIGHT * (1 - y.share(row.quality))
    known = labels.finite([row.quality_low, row.quality_high])
    low, high = known if len(known) == 2 else (row.quality, row.quality)
    up, down = top - HEIGHT * (1 - y.share(high)), HEIGHT * (1 - y.share(low)) - top
    return placement.Point(x.share(row.speed), top, max(6.0, up), max(6.0, down))


def _label_columns(
    table: pd.DataFrame, front: pd.DataFrame, floor: pd.Series | None, x: marks.Span, y: marks.Span
) -> dict[str, list[Any]]:
    """Text, offset and alignment of the label of every point of the front, wide and narrow."""
    everything = [_point(row, x, y) for row in table.itertuples()]
    points = [_point(row, x, y) for row in front.itertuples()]
    fixed = []
    if floor is not None:
        rule = HEIGHT * (1 - y.share(floor["value"]))
        span = labels.CHARACTER * len(marks.floor_text(floor)) + 8
        fixed = [(-span, rule, 0.0, rule + 20), (-2000.0, rule - 3, 0.0, rule + 3)]
    order = sorted(range(len(points)), key=lambda i: (0 < i < len(points) - 1, i))
    ranks, names = list(front["rank"]), [labels.clipped(name) for name in front["label"]]
    columns: dict[str, list[Any]] = {}
    for name, widths in (("wide", WIDE), ("narrow", PHONE)):
        texts = [[f"{ranks[i]}  {names[i]}", ranks[i]] if name == "wide" else [ranks[i]] for i in order]
        placed = placement.place([points[i] for i in order], texts, everything, fixed, widths, HEIGHT)
        by_point = dict(zip(order, placed, strict=True))
        for part in ("text", "dx", "dy", "align"):
            columns[f"{name}_{part}"] = [getattr(by_point[i], part) for i in range(len(points))]
    return columns


def _faded(full: float, faint: float) -> Any:
    """`full` on the front, `faint` elsewhere."""
    import altair as alt

    return alt.condition("datum.front", alt.value(full), alt.value(faint), empty=False)


def _points(
    frame: pd.DataFrame, records: pd.DataFrame, metric: str, x: marks.Span, y: marks.Span
) -> alt.Chart:
    import altair as alt

    return (
        alt.Chart(frame)
        .mark_point(style="cell-point", filled=True)
        .encode(
            x=alt.X("speed:Q", **x.axis(thousands=True)),
            y=alt.Y("quality:Q", **y.axis()),
            color=marks.colour(frame["family"]),
            shape=marks.shape("sampler", marks.sampler_shapes(records), "sampler"),
            opacity=_faded(1.0, 0.3),
            size=_faded(110, 55),
            tooltip=marks.tooltip(metric),
        )
    )


def _whiskers(frame: pd.DataFrame, axis: str, low: str, high: str) -> alt.Chart:
    """95 % intervals along one axis."""
    import altair as alt

    rows = frame[frame[low].notna() & frame[high].notna()]
    other = {"x": "y", "y": "x"}[axis]
    ends = {axis: f"{low}:Q", f"{axis}2": f"{high}:Q", other: {"x": "speed:Q", "y": "quality:Q"}[other]}
    rule = alt.Chart(rows).mark_rule(style="whisker", aria=False)
    return rule.encode(**ends, opacity=_faded(1.0, 0.3))


def _front_line(frame: pd.DataFrame) -> alt.Chart:
    """The best quality to be had at each speed: a staircase through the front."""
    import altair as alt

    line = alt.Chart(frame[frame["front"]]).mark_line(style="front", interpolate="step-before", aria=False)
    return line.encode(x="speed:Q", y="quality:Q", order="speed:Q")


def _front_labels(named: pd.DataFrame) -> list[alt.Chart]:
    """Number and, where it fits, name of every point of the front."""
    import altair as alt

    chosen = [name for name in map(str, named) if name.startswith(("wide_", "narrow_"))]
    place = {
        part: alt.ExprRef(f"width < {NAMED} ? datum.narrow_{part} : datum.wide_{part}")
        for part in ("text", "dx", "dy", "align")
    }
    where = {"x": alt.X("speed:Q"), "y": alt.Y("quality:Q")}
    base = alt.Chart(named[["speed", "quality", "model", *chosen]])
    return marks.label(base, "direct-label", place | {"baseline": "middle"}, where)
