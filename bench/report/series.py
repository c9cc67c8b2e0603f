"""Lines of a figure and their names: each a colour, a shape, a dash and a label at its end.

A series is what differs in nothing but the number on the x axis. Few series with short names have them
beside their lines; otherwise lines have numbers and a legend below holds the names, so that a phone shows
all of them. A series looks the same in every panel and figure of a report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import labels, marks, theme

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

MOST = 12
"""Series with a name and a colour in a panel; the rest are drawn as faint context."""
DIRECT, DIRECT_LENGTH = 8, 16
"""As many series, each with a name of so many characters, are named beside their lines."""
PHONE = 220.0
"""Plot width in px for which the column of names is laid out."""
HEIGHT, TALLEST = 260.0, 420.0
LEAD = 14.0
"""Distance of two names at the ends of lines, in px."""
DASHES = ([1, 0], [7, 3], [2, 2], [7, 3, 2, 3], [4, 2], [1, 3], [9, 4], [3, 1])


@dataclass(frozen=True)
class Looks:
    """How the series of a figure look: `names` in the order of their numbers."""

    names: tuple[str, ...]
    direct: bool

    @staticmethod
    def of(names: Sequence[str]) -> Looks:
        """Looks of these series, numbered in sorted order."""
        distinct = tuple(sorted(set(names)))
        short = all(len(name) <= DIRECT_LENGTH for name in distinct)
        return Looks(distinct, short and len(distinct) <= DIRECT)

    def tag(self, name: str) -> str:
        """What stands at the end of its line."""
        return labels.clipped(name) if self.direct else str(self.names.index(name) + 1)

    def text(self, name: str) -> str:
        """What stands in the legend, and tells series apart."""
        return name if self.direct else f"{self.names.index(name) + 1}  {name}"

    def scales(self, shown: Sequence[str]) -> dict[str, Any]:
        """Scales of colour, shape and dash with the texts of the series of one panel as domain."""
        import altair as alt

        order = sorted(set(shown), key=self.names.index)
        places = [self.names.index(name) for name in order]
        values: dict[str, tuple[Any, ...]] = {
            "color": theme.SERIES_COLOURS,
            "shape": theme.SHAPES,
            "strokeDash": DASHES,
        }
        domain = [self.text(name) for name in order]
        return {
            channel: alt.Scale(domain=domain, range=[all_of[place % len(all_of)] for place in places])
            for channel, all_of in values.items()
        }

    def legend(self, shown: Sequence[str]) -> alt.Legend | None:
        """The names by number, in as many columns as fit a phone; None where lines have names."""
        import altair as alt

        if self.direct:
            return None
        longest = max(len(self.text(name)) for name in shown)
        columns = max(1, int(PHONE / (labels.CHARACTER * longest + 20)))
        return alt.Legend(title=None, columns=columns, labelLimit=240, symbolOpacity=1, symbolSize=60)


@dataclass(frozen=True)
class Panel:
    """One panel: rows with a column `series`, those named for x and y, and the ends of y's intervals."""

    rows: pd.DataFrame
    x: marks.Span
    y: marks.Span
    x_name: str
    y_name: str
    looks: Looks
    height: float = HEIGHT
    y_ends: tuple[str, str] = ("low", "high")

    def layers(self, tooltip: list[alt.Tooltip], x_ends: tuple[str, str] | None = None) -> list[alt.Chart]:
        """Lines, 95 % intervals along y (and x, whose columns are `x_ends`) and points."""
        import altair as alt

        shown = list(dict.fromkeys(self.rows["series"]))
        scales = self.looks.scales(shown)
        base = alt.Chart(self.rows.assign(key=[self.looks.text(name) for name in self.rows["series"]]))
        where = {
            "x": alt.X(f"{self.x_name}:Q", **self.x.axis()),
            "y": alt.Y(f"{self.y_name}:Q", **self.y.axis()),
            "color": alt.Color("key:N", scale=scales["color"], legend=self.looks.legend(shown)),
        }
        dash = alt.StrokeDash("key:N", scale=scales["strokeDash"], legend=None)
        line = base.mark_line(strokeWidth=1.6, aria=False).encode(**where, strokeDash=dash)
        shape = alt.Shape("key:N", scale=scales["shape"], legend=self.looks.legend(shown))
        point = base.mark_point(style="cell-point", filled=True, size=60, opacity=1)
        return [
            line,
            *self._whiskers("y", self.x_name, self.y_ends),
            *(self._whiskers("x", self.y_name, x_ends) if x_ends else []),
            point.encode(**where, shape=shape, tooltip=tooltip),
        ]

    def _whiskers(self, axis: str, other: str, ends: tuple[str, str]) -> list[alt.Chart]:
        """95 % intervals along one axis, on their points' place on the other."""
        import altair as alt

        known = self.rows[self.rows[ends[0]].notna() & self.rows[ends[1]].notna()]
        across = {"x": "y", "y": "x"}[axis]
        where = {axis: f"{ends[0]}:Q", f"{axis}2": f"{ends[1]}:Q", across: f"{other}:Q"}
        return [alt.Chart(known).mark_rule(style="whisker", aria=False).encode(**where)]

    def context(self, rows: pd.DataFrame, tooltip: list[alt.Tooltip]) -> list[alt.Chart]:
        """Further series of the panel, faint and without names."""
        import altair as alt

        if rows.empty:
            return []
        base = alt.Chart(rows)
        where = {"x": f"{self.x_name}:Q", "y": f"{self.y_name}:Q", "detail": "series:N"}
        line = base.mark_line(style="context", aria=False).encode(**where)
        point = base.mark_point(style="context-point", filled=True, size=16)
        return [line, point.encode(**where, tooltip=tooltip)]

    def ends(self, top: float, bottom: float) -> list[alt.Chart]:
        """A name or number for each line in a column at the right, joined to the line's end."""
        import altair as alt

        ends = self.rows.sort_values(self.x_name, kind="stable").drop_duplicates("series", keep="last")
        tags = [self.looks.tag(name) for name in ends["series"]]
        heights = [self.height * (1 - self.y.share(value)) for value in ends[self.y_name]]
        placed = labels.spread(heights, top, bottom, LEAD)
        # Behind every point: on a wide page the column of a phone would begin among them.
        last = self.x.share(float(self.rows[self.x_name].max())) + 8.0 / PHONE
        column = self.x.at(max(last, 1 - (labels.CHARACTER * max(map(len, tags)) + 6) / PHONE))
        at = [self.y.at(1 - place / self.height) for place in placed]
        base = alt.Chart(ends.assign(column=column, height=at, tag=tags))
        leader = base.mark_rule(style="leader", aria=False).encode(
            x=f"{self.x_name}:Q", x2="column:Q", y=f"{self.y_name}:Q", y2="height:Q"
        )
        place = {"align": "left", "baseline": "middle", "dx": 4}
        where = {"x": alt.X("column:Q"), "y": alt.Y("height:Q"), "text": "tag:N"}
        return [leader, *marks.label(base, "direct-label", place, where)]


def with_room(x: marks.Span, names: Sequence[str], looks: Looks) -> marks.Span:
    """The axis stretched to the right for the names at the ends of the lines."""
    widest = max((looks.tag(name) for name in names), key=len)
    domain = labels.room_for_labels([x.domain[1]], [widest], x.domain, x.log, PHONE)
    return marks.Span(domain, x.log, x.title)


def height(count: int, free: float = 1.0) -> float:
    """Height in px of a panel in which `count` names stand one below the other in a `free` share of it."""
    return min(TALLEST, max(HEIGHT, math.ceil((LEAD * count + 16.0) / free)))


def leading(rows: pd.DataFrame, x_name: str, y_name: str, most: int = MOST) -> list[str]:
    """At most `most` series: those that at some x are nearest to the best (lowest) y up to there."""
    budgets = sorted(rows[x_name].unique())
    ranks: dict[str, tuple[int, float, str]] = {}
    for budget in budgets:
        best = rows[rows[x_name] <= budget].groupby("series")[y_name].min()
        for rank, (name, value) in enumerate(sorted(best.items(), key=lambda item: (item[1], item[0]))):
            known = ranks.get(str(name), (rank, value, str(name)))
            ranks[str(name)] = (min(rank, known[0]), min(value, known[1]), str(name))
    return [name for *_, name in sorted(ranks.values())][:most]
