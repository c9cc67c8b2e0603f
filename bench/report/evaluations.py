"""Quality against what it costs, in evaluations and in milliseconds: small multiples, a line a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report import labels, marks, series, tables
from bench.report.text import number

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

COLUMNS = (
    *("label", "series", "family", "nfe", "ms", "ms_low", "ms_high", "speed"),
    *("quality", "quality_low", "quality_high"),
)
ENDS = ("quality_low", "quality_high")


@dataclass(frozen=True)
class Cost:
    """What a cell costs: the column, its interval where it is not a count, the title of the axis."""

    name: str
    title: str
    said: str
    ends: tuple[str, str] | None = None


EVALUATIONS = Cost("nfe", "network evaluations an image", "evaluations")
TIME = Cost("ms", "milliseconds an image", "milliseconds", ("ms_low", "ms_high"))


def quality_vs_nfe(records: pd.DataFrame) -> dict[str, alt.LayerChart]:
    """Quality against evaluations, a panel a model that has a choice of sampler; axes shared.

    Keys are model names, with the weight w where a model with many series is shown a panel a weight.
    """
    return _multiples(records, EVALUATIONS)


def quality_vs_time(records: pd.DataFrame) -> dict[str, alt.LayerChart]:
    """Quality against milliseconds an image, in the same panels, with intervals along both axes."""
    return _multiples(records, TIME)


def _multiples(records: pd.DataFrame, cost: Cost) -> dict[str, alt.LayerChart]:
    metric = tables.headline_metric(tables.generators(records))
    table = tables.cells(records)
    if metric is None or table.empty:
        return {}
    table = table[[not tables.is_native(row) for row in table.to_dict("records")]]
    panels = _panels(table.dropna(subset=["quality", "nfe"]))
    # By evaluations in both figures, so that the same series have names in both.
    named = {title: series.leading(rows, "nfe", "quality") for title, rows in panels.items()}
    looks = series.Looks.of([name for chosen in named.values() for name in chosen])
    panels = {title: rows.dropna(subset=[cost.name]) for title, rows in panels.items()}
    panels = {title: rows for title, rows in panels.items() if rows["series"].isin(named[title]).any()}
    if not panels:
        return {}
    floor = tables.reference(records, metric)
    x, y = _axes(list(panels.values()), floor, metric, cost, looks)
    below = floor is not None and all(floor["value"] <= rows["quality"].min() for rows in panels.values())
    free = 1 - y.share(floor["value"]) if floor is not None and below else 1.0
    height = series.height(max(len(names) for names in named.values()), free)
    drawn = {}
    for title, rows in panels.items():
        chosen = rows["series"].isin(named[title])
        panel = series.Panel(rows[chosen], x, y, cost.name, "quality", looks, height, ENDS)
        layers = [
            *marks.floor(records, metric, brief=True),
            *panel.context(rows[~chosen], marks.tooltip(metric)),
            *panel.ends(8.0, height * free - 8.0),
            *panel.layers(marks.tooltip(metric), cost.ends),
        ]
        best = "; ".join(f"{row.label}: {number(row.quality)}" for row in rows.head(3).itertuples())
        drawn[title] = marks.chart(layers, height, f"{metric} by {cost.said} of {title}. {best}.", title)
    return drawn


def _panels(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of every panel: a model, or a model and a weight where it has too many series for one."""
    panels = {}
    for model in sorted(table["model"].unique()):
        rows = table.loc[table["model"] == model]
        weights = sorted(rows["guidance"].dropna().unique())
        if rows["series"].nunique() <= series.MOST or len(weights) < 2:
            panels[str(model)] = rows
            continue
        for w in weights:
            chosen = rows[rows["guidance"] == w]
            unsaid = tables.ways(chosen.assign(guidance=None), steps=False)  # the title says it
            panels[f"{model} w={w:g}"] = chosen.assign(series=unsaid)
    return {title: rows[[*COLUMNS]] for title, rows in panels.items()}


def _axes(
    panels: list[pd.DataFrame], floor: pd.Series | None, metric: str, cost: Cost, looks: series.Looks
) -> tuple[marks.Span, marks.Span]:
    """Shared domains, with a column at the right for the names of the series."""
    import pandas as pd

    table = pd.concat(panels)
    base = [] if floor is None else [floor["value"], floor["low"], floor["high"]]
    qualities = labels.finite([*table["quality"], *table["quality_low"], *table["quality_high"], *base])
    ends = [value for name in cost.ends or () for value in table[name]]
    costs = labels.finite([*table[cost.name], *ends])
    log_x, log_y = labels.is_log(costs), labels.is_log(qualities)
    x = marks.Span(labels.padded(costs, log_x, 0.06), log_x, cost.title)
    return (
        series.with_room(x, looks.names, looks),
        marks.Span(labels.padded(qualities, log_y, 0.1), log_y, f"{metric} (better below)"),
    )
