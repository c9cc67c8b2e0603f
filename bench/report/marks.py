"""Parts that figures share: axes, colours, shapes, references, labels with a halo.

Family is colour, sampler is shape, 95 % intervals are whiskers, references are rules. Marks name roles of
`theme.vega_config`, never colours of a theme, so that one chart fits both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.report import labels, tables, theme
from bench.report.text import interval

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

NARROW = 560
"""Below this many px legends wrap."""


@dataclass(frozen=True)
class Span:
    """The extent of a quantitative axis."""

    domain: tuple[float, float]
    log: bool
    title: str

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the start, 1 at the end."""
        return labels.fraction(value, self.domain, self.log)

    def at(self, share: float) -> float:
        """The value at a share of the axis."""
        return labels.at(share, self.domain, self.log)

    def axis(self, thousands: bool = False) -> dict[str, Any]:
        """Title, scale and axis of the channel."""
        import altair as alt

        kind: Literal["log", "linear"] = "log" if self.log else "linear"
        values = labels.ticks(self.domain, self.log)
        ticks: dict[str, Any] = {"values": values} if values else {"tickCount": 6}
        axis = alt.Axis(format="~s" if thousands else ",~r", **ticks)
        start: dict[str, Any] = {} if self.log else {"zero": False}
        scale = alt.Scale(type=kind, domain=list(self.domain), nice=False, **start)
        return {"title": self.title, "scale": scale, "axis": axis}


def colour(families: pd.Series, title: str | None = "family") -> alt.Color:
    """Family as colour, the same in every figure and report."""
    import altair as alt

    colours = theme.assign(families, theme.FAMILIES, theme.FAMILY_COLOURS)
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color("family:N", scale=scale, legend=_legend(title))


def shape(column: str, values: dict[str, str], title: str | None) -> alt.Shape:
    """A column as shape, by a fixed table of shapes."""
    import altair as alt

    scale = alt.Scale(domain=list(values), range=list(values.values()))
    return alt.Shape(f"{column}:N", scale=scale, legend=_legend(title))


def sampler_shapes(records: pd.DataFrame) -> dict[str, str]:
    """The shape of every sampler of the records, the same in every figure."""
    samplers = [name for name in tables.generators(records)["sampler"] if name]
    return theme.assign(samplers, theme.SAMPLERS, theme.SHAPES)


def _legend(title: str | None) -> alt.Legend | None:
    """A legend that wraps on a narrow page; None for no title."""
    import altair as alt

    if title is None:
        return None
    columns = alt.ExprRef(f"width < 330 ? 2 : width < {NARROW} ? 3 : 7")
    return alt.Legend(title=title, columns=columns, symbolOpacity=1)


def chart(layers: Sequence[alt.Chart], height: float, description: str, title: str = "") -> alt.LayerChart:
    """Layers as one chart as wide as its container; `description` is what a screen reader says."""
    import altair as alt

    extra = {"title": title} if title else {}
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    return alt.LayerChart(layer=list(layers)).properties(
        width="container", height=height, description=description, autosize=autosize, **extra
    )


def floor_text(row: pd.Series, brief: bool = False) -> str:
    """How the floor is labelled."""
    ends = () if brief else (row["low"], row["high"])
    return f"{row['model']} {interval(row['value'], *ends)}"


def floor(records: pd.DataFrame, metric: str, brief: bool = False) -> list[alt.Chart]:
    """The real test images: a rule with its interval as a band, labelled under the right end."""
    import altair as alt
    import pandas as pd

    row = tables.reference(records, metric)
    if row is None:
        return []
    frame = pd.DataFrame([{"floor": row["value"], "low": row["low"], "high": row["high"]}])
    base = alt.Chart(frame.assign(text=floor_text(row, brief)))
    layers = [base.mark_rule(style="floor-line", aria=False).encode(y="floor:Q")]
    if math.isfinite(row["low"]) and math.isfinite(row["high"]):
        layers.insert(0, base.mark_rect(style="floor-band", aria=False).encode(y="low:Q", y2="high:Q"))
    place = {"align": "right", "baseline": "top", "dy": 5, "dx": -4}
    where = {"x": alt.value(alt.ExprRef("width")), "y": alt.Y("floor:Q"), "text": "text:N"}
    return [*layers, *label(base, "quiet-label", place, where)]


def label(base: alt.Chart, style: str, place: dict[str, Any], where: dict[str, Any]) -> list[alt.Chart]:
    """Text with a halo of the colour of the paper under it."""
    halo = base.mark_text(style="halo", aria=False, **place).encode(**where)
    return [halo, base.mark_text(style=style, aria=False, **place).encode(**where)]


def tooltip(metric: str) -> list[alt.Tooltip]:
    """What a point says when pointed at."""
    import altair as alt

    columns = {"label": "cell", "family": "family"}
    numbers = {"quality": metric, "quality_low": "from", "quality_high": "to", "nfe": "evaluations"}
    numbers["speed"] = "images/s"
    return [
        *[alt.Tooltip(f"{name}:N", title=title) for name, title in columns.items()],
        *[alt.Tooltip(f"{name}:Q", title=title, format=",.4~r") for name, title in numbers.items()],
    ]
