"""Learning curves: the training loss on the way, a panel a model, because objectives have own units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import labels, marks, theme

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

PANEL_HEIGHT = 170
MOST_POINTS = 240


def learning_curves(
    curves: pd.DataFrame, families: dict[str, str] | None = None
) -> dict[str, alt.LayerChart]:
    """Panels by model: the loss of each logged step faint, its running median on top.

    curves    columns model, step, loss, seconds; a loss that is not finite breaks the line
    families  family by model, for the colour
    """
    panels = {}
    known = families or {}
    everything = theme.assign(known.values(), theme.FAMILIES, theme.FAMILY_COLOURS)
    for model in dict.fromkeys(curves["model"]):
        rows = curves[curves["model"] == model].sort_values("step", kind="stable")
        if labels.finite(rows["loss"]):
            panels[str(model)] = _panel(str(model), rows, everything.get(known.get(model, ""), "#7a828c"))
    return panels


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_POINTS` rows, evenly chosen, with the running median of all rows beside them."""
    window = max(1, len(rows) // 25)
    rows = rows.assign(smooth=rows["loss"].rolling(window, center=True, min_periods=1).median())
    return rows.iloc[:: max(1, -(-len(rows) // MOST_POINTS))]


def _domain(losses: list[float]) -> tuple[tuple[float, float], bool]:
    """Domain of the loss; a linear axis leaves out the steep start, so that the rest can be read."""
    log = labels.is_log(losses)
    ordered = sorted(losses)
    top = ordered[-1] if log else ordered[int(0.97 * (len(ordered) - 1))]
    kept = [loss for loss in losses if loss <= top]
    return labels.padded(kept, log), log


def _panel(model: str, rows: pd.DataFrame, colour: str) -> alt.LayerChart:
    import altair as alt

    domain, log = _domain(labels.finite(rows["loss"]))
    frame = _thinned(rows)
    y: dict[str, Any] = marks.Span(domain, log, "training loss").axis()
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=4, format=",~r", grid=False))
    base = alt.Chart(frame)
    raw = base.mark_line(color=colour, opacity=0.35, strokeWidth=1, clip=True, aria=False)
    smooth = base.mark_line(color=colour, strokeWidth=2, clip=True, aria=False)
    layers = [raw.encode(x=x, y=alt.Y("loss:Q", **y)), smooth.encode(x=x, y=alt.Y("smooth:Q", **y))]
    last = frame.iloc[-1]
    said = f"Training loss of {model}: {last['smooth']:.4g} after {int(last['step'])} steps"
    said += f" and {last['seconds']:.0f} s." if labels.finite([last["seconds"]]) else "."
    return marks.chart(layers, PANEL_HEIGHT, said, model)
