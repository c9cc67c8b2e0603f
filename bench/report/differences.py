"""Paired differences between models: each against the one of fewest bits, on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import labels, marks, tables, theme
from bench.report.likelihood import PHONE, ROW
from bench.report.paired import bits_of_images, difference
from bench.report.text import ends, short, signed

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

SHOWN = ("model", "family", "kind", "protocol")


def differences(records: pd.DataFrame, nats: pd.DataFrame) -> pd.DataFrame:
    """A row a model, the best one first: columns `SHOWN`, difference, low, high, n, width, unpaired, text.

    The best is the model whose first estimate is lowest among those with known nats; it has no interval.
    Empty where fewer than two models can be compared.
    """
    import pandas as pd

    rows = tables.likelihoods(records)
    bits = bits_of_images(rows, nats)
    known = rows.loc[[key in bits for key in zip(rows["model"], rows["cell_key"], strict=True)]]
    found: list[dict[str, Any]] = []
    for row in known.to_dict("records"):
        shown = {name: row[name] for name in SHOWN}
        own = bits[row["model"], row["cell_key"]]
        if not found:
            best, text = own, f"{short(row['value'], row['low'], row['high'])} bits/dim, the best"
            found.append({**shown, "difference": 0.0, "n": len(own), "text": f"{text}, {row['kind']}"})
            continue
        paired = difference(own, best)
        if paired is not None:
            numbers = {"difference": paired.value, "low": paired.low, "high": paired.high, "n": paired.n}
            text = f"{signed(paired.value, paired.low, paired.high)} {row['kind']}"
            widths = {"width": paired.width, "unpaired": paired.unpaired}
            found.append({**shown, **numbers, **widths, "text": text})
    columns = [*SHOWN, "difference", "low", "high", "n", "width", "unpaired", "text"]
    return pd.DataFrame(found if len(found) > 1 else [], columns=columns)


def paired_differences(records: pd.DataFrame, nats: pd.DataFrame) -> alt.LayerChart | None:
    """A point and its paired interval a model, right of 0; None where there is nothing to compare.

    Shape and text say the kind: the difference of two bounds, or of a bound and an exact number, is not
    that of the likelihoods.
    """
    import altair as alt

    frame = differences(records, nats)
    if frame.empty:
        return None
    frame = frame.assign(end=frame["high"].fillna(frame["difference"]))
    values = labels.finite([0.0, *frame["difference"], *frame["low"], *frame["high"]])
    domain = labels.padded(values, False)
    domain = labels.room_for_labels(list(frame["end"]), list(frame["text"]), domain, False, PHONE)
    title = "bits per dimension more than the best"
    x = alt.X("difference:Q", **marks.Span(domain, False, title).axis())
    axis = alt.Axis(labelLimit=130, grid=True, domain=False, ticks=False, labelPadding=8)
    y = alt.Y("model:N", sort=list(frame["model"]), title=None, axis=axis)
    rule = alt.Chart(frame.head(1)).mark_rule(style="anchor-line", aria=False).encode(x="difference:Q")
    said = "; ".join(
        f"{row.model}: {row.text} {ends(row.difference, row.low, row.high)}".strip()
        for row in frame.itertuples()
    )
    layers = [rule, *_points(frame, x, y)]
    return marks.chart(layers, ROW * len(frame), f"Bits per dimension more than the best model. {said}.")


def _points(frame: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Whisker, point and, behind the whisker's end, label of every model."""
    import altair as alt

    kinds = theme.assign(frame["kind"], tuple(theme.KINDS), tuple(theme.KINDS.values()))
    whisker = alt.Chart(frame[frame["low"].notna()]).mark_rule(style="whisker", aria=False)
    base = alt.Chart(frame)
    numbers = {"difference": "difference", "low": "from", "high": "to", "width": "width of the interval"}
    numbers |= {"unpaired": "width if not paired", "n": "images"}
    point = base.mark_point(style="cell-point", filled=True, size=120, opacity=1).encode(
        x=x,
        y=y,
        color=marks.colour(frame["family"]),
        shape=marks.shape("kind", kinds, "kind of number"),
        tooltip=[
            *(alt.Tooltip(f"{name}:N") for name in SHOWN),
            *(alt.Tooltip(f"{name}:Q", title=said, format=",.4~f") for name, said in numbers.items()),
        ],
    )
    place = {"align": "left", "baseline": "middle", "dx": 11}
    where = {"x": alt.X("end:Q"), "y": y, "text": "text:N"}
    return [
        whisker.encode(x="low:Q", x2="high:Q", y=y),
        point,
        *marks.label(base, "direct-label", place, where),
    ]
