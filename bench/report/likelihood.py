"""Bits per dimension by model: exact, bound and estimate told apart, anchors as rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import labels, marks, tables, theme
from bench.report.text import number, short

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

ROW = 38
PHONE = 230.0
"""Plot width in px for which labels are laid out: a phone's."""


def bits_per_dim(records: pd.DataFrame) -> alt.LayerChart | None:
    """A point and its interval a model, lowest first; None where no likelihood was measured.

    Shape and text say the kind; a triangle to the left is a bound: the true value lies at or left of it.
    """
    import altair as alt

    frame = tables.likelihoods(records)
    if frame.empty:
        return None
    frame = frame.assign(text=[f"{short(r.value, r.low, r.high)} {r.kind}" for r in frame.itertuples()])
    anchors = tables.anchors(records)
    values = labels.finite([*frame["value"], *frame["low"], *frame["high"], *anchors["value"]])
    domain = labels.padded(values, False)
    domain = labels.room_for_labels(list(frame["value"]), list(frame["text"]), domain, False, PHONE)
    x = alt.X("value:Q", **marks.Span(domain, False, "bits per dimension (better to the left)").axis())
    order = list(dict.fromkeys(frame["model"]))
    y = alt.Y(
        "model:N",
        sort=order,
        title=None,
        axis=alt.Axis(labelLimit=130, grid=True, domain=False, ticks=False, labelPadding=8),
    )
    layers = [*_anchor_rules(anchors, domain), *_points(frame, x, y)]
    said = "; ".join(f"{row.model}: {row.text}" for row in frame.itertuples())
    return marks.chart(layers, ROW * len(order), f"Bits per dimension. {said}.")


def _points(frame: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Whisker, point and label of every model."""
    import altair as alt

    kinds = theme.assign(frame["kind"], tuple(theme.KINDS), tuple(theme.KINDS.values()))
    base = alt.Chart(frame)
    known = frame[frame["low"].notna() & frame["high"].notna()]
    whisker = alt.Chart(known).mark_rule(style="whisker", aria=False).encode(x="low:Q", x2="high:Q", y=y)
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("model", "family", "kind", "protocol")]
    point = base.mark_point(style="cell-point", filled=True, size=120, opacity=1).encode(
        x=x,
        y=y,
        color=marks.colour(frame["family"]),
        shape=marks.shape("kind", kinds, "kind of number"),
        tooltip=[*tooltip, alt.Tooltip("value:Q", title="bits/dim", format=",.4~f")],
    )
    place = {"align": "left", "baseline": "middle", "dx": 11}
    return [whisker, point, *marks.label(base, "direct-label", place, {"x": x, "y": y, "text": "text:N"})]


def _anchor_rules(anchors: pd.DataFrame, domain: tuple[float, float]) -> list[alt.Chart]:
    """A rule an anchor, its name above the plot, on a line of its own where names would meet."""
    import altair as alt

    layers = []
    ends: list[float] = []
    for _, row in anchors.iterrows():
        text = f"{row['model']} {number(row['value'])}"
        share = labels.fraction(row["value"], domain, False)
        left = share * PHONE - (labels.CHARACTER * len(text) if share > 0.5 else 0.0)
        line = next((i for i, end in enumerate(ends) if end < left), len(ends))
        ends[line : line + 1] = [left + labels.CHARACTER * len(text)]
        base = alt.Chart(_one_row(value=row["value"], text=text))
        layers.append(base.mark_rule(style="anchor-line", aria=False).encode(x="value:Q"))
        place: dict[str, Any] = {"align": "right" if share > 0.5 else "left", "baseline": "bottom"}
        place["dy"] = -4 - labels.LINE * line
        where = {"x": alt.X("value:Q"), "y": alt.value(0), "text": "text:N"}
        layers += marks.label(base, "quiet-label", place, where)
    return layers


def _one_row(**columns: Any) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([columns])
