"""Sampler certificates: each sampler's own error by evaluations, apart from what a training gets wrong.

Small multiples by family of samplers, the same axes in all; those that draw noise have a panel of their own,
since theirs is a distance of laws and cannot fall below what exact draws score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import labels, marks, series, tables
from bench.report.text import number
from models.samplers import catalogue

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

ERROR, LAW, FLOOR, ORDER = "sampler error", "sampler law error", "sampler law floor", "order"
NOISY = "Samplers that draw noise"
_FAMILIES = {
    "runge_kutta": "Runge–Kutta methods",
    "dopri5": "Runge–Kutta methods",
    "edm": "Runge–Kutta methods",
    "ddim": "DDIM and DPM-Solver++",
    "dpm_solver": "DDIM and DPM-Solver++",
    "multistep": "Other multistep methods",
    "unipc": "Other multistep methods",
}
"""Panels by the file of `models.samplers` that a sampler lives in."""
OTHERS = "Other samplers"
PANELS = (*dict.fromkeys(_FAMILIES.values()), OTHERS, NOISY)


@dataclass(frozen=True)
class _Powers(marks.Span):
    """An axis of errors, which span many powers of ten."""

    def axis(self, thousands: bool = False) -> dict[str, Any]:
        """Ticks as 1e-6."""
        import altair as alt

        found = super().axis(thousands)
        values = labels.ticks(self.domain, self.log)
        return found | {"axis": alt.Axis(format="~e", **({"values": values} if values else {"tickCount": 6}))}


def certificate_curves(records: pd.DataFrame) -> dict[str, alt.LayerChart]:
    """Error by evaluations, a line a sampler with its options, by title of the panel; axes shared.

    The observed order p of convergence stands in a line's name; empty where there are no certificates.
    """
    named = _named(records)
    rows = named[named["metric"].isin([ERROR, LAW]) & named["nfe"].notna()]
    if rows.empty:
        return {}
    floor = named[named["metric"] == FLOOR].head(1)
    costs = labels.finite(rows["nfe"])
    log = labels.is_log(costs)
    x = marks.Span(labels.padded(costs, log), log, "network evaluations a sample")
    spans = {metric: _errors(rows[rows["metric"] == metric], floor, metric) for metric in (ERROR, LAW)}
    titles = [title for title in PANELS if title in set(rows["panel"])]
    looks = {title: series.Looks.of(list(rows.loc[rows["panel"] == title, "series"])) for title in titles}
    height = max(series.height(len(look.names)) for look in looks.values())
    x = max((series.with_room(x, look.names, look) for look in looks.values()), key=lambda span: span.domain)
    drawn = {}
    for title in titles:
        y = spans[LAW if title == NOISY else ERROR]
        assert y is not None
        drawn[title] = _panel(title, rows[rows["panel"] == title], floor, x, y, looks[title], height)
    return drawn


def _named(records: pd.DataFrame) -> pd.DataFrame:
    """Measured rows of certificates with the name of their line and the title of their panel."""
    rows = tables.tidy(records)
    rows = rows[(rows["family"] == tables.CERTIFICATE) & (rows["status"] == "ok") & rows["value"].notna()]
    told = rows.assign(guidance=None)
    if rows["grid"].nunique() == 1:
        told = told.assign(grid="")
    rows = rows.assign(series=tables.ways(told, steps=False))
    orders = dict(rows.loc[rows["metric"] == ORDER, ["series", "value"]].values)
    names = [f"{name} p={orders[name]:.1f}" if name in orders else name for name in rows["series"]]
    panels = [_title(*pair) for pair in zip(rows["sampler"], rows["metric"], strict=True)]
    columns = [
        "sampler",
        "grid",
        "options",
        "metric",
        "series",
        "panel",
        "nfe",
        "steps",
        "value",
        "low",
        "high",
    ]
    return rows.assign(series=names, panel=panels)[columns]


def _title(sampler: str, metric: str) -> str:
    """The panel of a row."""
    if metric in (LAW, FLOOR):
        return NOISY
    entry = catalogue.ENTRIES.get(sampler)
    return OTHERS if entry is None else _FAMILIES.get(entry.function.partition(":")[0], OTHERS)


def _errors(rows: pd.DataFrame, floor: pd.DataFrame, metric: str) -> marks.Span | None:
    """The axis of a kind of error; None where it was not measured."""
    if rows.empty:
        return None
    values = labels.finite([*rows["value"], *rows["high"]])
    # Near the floor the interval of a distance of laws reaches down to 0.
    values += labels.finite(rows["low"] if metric == ERROR else floor["low"])
    log = min(values) > 0
    what = "error" if metric == ERROR else "distance of laws"
    return _Powers(labels.padded(values, log, 0.06), log, f"{what} (better below)")


def _panel(
    title: str,
    rows: pd.DataFrame,
    floor: pd.DataFrame,
    x: marks.Span,
    y: marks.Span,
    looks: series.Looks,
    height: float,
) -> alt.LayerChart:
    import altair as alt

    # An interval that reaches down to 0 ends at the axis, for a logarithm has no 0.
    rows = rows.assign(low=rows["low"].clip(lower=y.domain[0]) if y.log else rows["low"])
    panel = series.Panel(
        rows.sort_values("nfe", kind="stable"),
        x,
        y,
        "nfe",
        "value",
        looks,
        height,
    )
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("sampler", "options", "grid")]
    tooltip += [alt.Tooltip("steps:Q"), alt.Tooltip("nfe:Q", title="evaluations", format=",.4~r")]
    tooltip += [
        alt.Tooltip(f"{name}:Q", title=said, format=".3~g")
        for name, said in (("value", "error"), ("low", "from"), ("high", "to"))
    ]
    exact = _exact_draws(floor, y) if title == NOISY else []
    last = rows.sort_values("nfe", kind="stable").drop_duplicates("series", keep="last")
    said = "; ".join(f"{row.series}: {row.value:.1e} at {number(row.nfe)}" for row in last.itertuples())
    layers = [*exact, *panel.ends(8.0, height - 8.0), *panel.layers(tooltip)]
    return marks.chart(layers, height, f"Sampler error by evaluations. {said}.", title)


def _exact_draws(floor: pd.DataFrame, y: marks.Span) -> list[alt.Chart]:
    """What exact draws score: a band and a rule, labelled under the left end."""
    import altair as alt

    if floor.empty:
        return []
    low = floor["low"].clip(lower=y.domain[0]) if y.log else floor["low"]
    base = alt.Chart(floor.assign(low=low, text=f"exact draws {floor['value'].iloc[0]:.2g}"))
    band = base.mark_rect(style="floor-band", aria=False).encode(y="low:Q", y2="high:Q")
    rule = base.mark_rule(style="floor-line", aria=False).encode(y="value:Q")
    place = {"align": "left", "baseline": "top", "dy": 4, "dx": 4}
    where = {"x": alt.value(0), "y": alt.Y("value:Q"), "text": "text:N"}
    return [band, rule, *marks.label(base, "quiet-label", place, where)]
