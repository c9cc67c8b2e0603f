"""What an ODE estimate owes to its steps: the same images and probes at other settings of the solver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import labels, marks, series
from bench.report.estimates import line_names
from bench.report.text import number, signed

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

FLATTERS = "Below 0: the setting flatters the model"
Y = "bits/dim beyond the finest setting"


def rungs(records: pd.DataFrame, ladders: pd.DataFrame) -> pd.DataFrame:
    """Columns series, setting, nfe, difference, low, high, own: of the measured estimates, rising NFE."""
    names = line_names(records, ladders)
    keys = list(zip(ladders["model"], ladders["cell_key"], strict=True))
    kept = ladders.loc[[key in names for key in keys]]
    told = [names[key] for key in zip(kept["model"], kept["cell_key"], strict=True)]
    numbers = kept[["nfe", "difference", "low", "high"]].astype("float64")
    rows = numbers.assign(series=told, setting=kept["setting"].astype(str), own=kept["own"].astype(bool))
    rows = rows.dropna(subset=["nfe", "difference"])
    return rows[rows["nfe"] > 0].sort_values(["series", "nfe"], kind="stable").reset_index(drop=True)


def bits_by_evaluations(records: pd.DataFrame, ladders: pd.DataFrame) -> alt.LayerChart | None:
    """Paired difference to the finest setting by evaluations, a line an estimate; None without a ladder."""
    import altair as alt

    rows = rungs(records, ladders)
    if rows.empty:
        return None
    looks = series.Looks.of(list(rows["series"]))
    costs = labels.finite(rows["nfe"])
    x = marks.Span(labels.padded(costs, True, 0.06), True, "network evaluations an image")
    x = series.with_room(x, looks.names, looks)
    values = labels.finite([0.0, *rows["difference"], *rows["low"], *rows["high"]])
    y = marks.Span(labels.padded(values, False, 0.1), False, Y)
    height = series.height(len(looks.names), 0.5)
    panel = series.Panel(rows, x, y, "nfe", "difference", looks, height)
    zero = alt.Chart(rows.head(1).assign(zero=0.0)).mark_rule(style="floor-line", aria=False)
    own = alt.Chart(rows[rows["own"]]).mark_point(style="own-point", filled=False, size=240, aria=False)
    layers = [
        zero.encode(y="zero:Q"),
        *panel.ends(*_beside(height * (1 - y.share(0.0)), height)),
        *panel.layers(_tooltip()),
        own.encode(x="nfe:Q", y="difference:Q"),
    ]
    said = "; ".join(
        f"{row.series} at {number(row.nfe)} evaluations: {signed(row.difference, row.low, row.high)}"
        for row in rows[rows["own"]].itertuples()
    )
    text = f"Bits per dimension beyond the finest setting by evaluations. {FLATTERS}. {said}".strip()
    return marks.chart(layers, height, f"{text.removesuffix('.')}.", FLATTERS)


def _beside(zero: float, height: float) -> tuple[float, float]:
    """Where names stand, in px: on the wider side of the rule at 0, where all lines end."""
    return (8.0, zero - 10.0) if zero > height / 2 else (zero + 10.0, height - 8.0)


def _tooltip() -> list[alt.Tooltip]:
    import altair as alt

    numbers = {"nfe": "evaluations", "difference": "beyond the finest", "low": "from", "high": "to"}
    return [
        alt.Tooltip("series:N", title="estimate"),
        alt.Tooltip("setting:N"),
        *(alt.Tooltip(f"{name}:Q", title=said, format=",.4~r") for name, said in numbers.items()),
    ]
