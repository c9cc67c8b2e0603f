"""Where the bits of a variational sum are: bits per dimension per unit of log-SNR, from noise to data.

The area under a line is the diffusion part of the bound. Prior and reconstruction come on top of it: they
lie at the two ends of the axis and have no width, so they are named in words.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from bench.report import labels, marks, series, tables
from bench.report.estimates import line_names
from bench.report.text import number

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

HEIGHT = 300.0
BANDS = 3
"""Up to so many lines have a band: more would hide each other."""
PARTS = ("prior", "diffusion", "reconstruction")


def densities(records: pd.DataFrame, terms: pd.DataFrame) -> pd.DataFrame:
    """Corners of the lines: columns line, log_snr, density, low, high, step; rising log-SNR.

    The density of a step holds from its lower to its upper edge; a last row a line closes the last step.
    Steps that reach to infinity have none.
    """
    import numpy as np
    import pandas as pd

    names = line_names(records, terms)
    ends = terms[["log_snr_from", "log_snr_to"]].astype("float64")
    rows = terms.assign(start=ends.min(axis=1), stop=ends.max(axis=1))
    width = rows["stop"] - rows["start"]
    rows = rows[np.isfinite(width) & (width > 0)]
    frames = []
    for key, line in names.items():
        own = rows[(rows["model"] == key[0]) & (rows["cell_key"] == key[1])].sort_values("start")
        each = own[["bits", "low", "high"]].astype("float64").div(own["stop"] - own["start"], axis=0)
        frame = each.rename(columns={"bits": "density"}).assign(line=line, log_snr=own["start"])
        last = frame.tail(1).assign(log_snr=own["stop"].tail(1))
        frames.append(pd.concat([frame, last]))
    columns = ["line", "log_snr", "density", "low", "high"]
    found = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return found[columns]


def parts_said(records: pd.DataFrame, terms: pd.DataFrame) -> str:
    """`ddpm: prior 0.000, diffusion 1.457, reconstruction 0.381`, every line in turn."""
    names = line_names(records, terms)
    keys = list(zip(records["model"], records["cell_key"], strict=True))
    found = []
    for key, line in names.items():
        own = records.loc[[other == key for other in keys]]
        value = {name: own.loc[own["metric"] == f"{tables.BITS} ({name})", "value"] for name in PARTS}
        said = [f"{name} {number(part.iloc[0], 3)}" for name, part in value.items() if len(part)]
        if said:
            found.append(f"{line}: {', '.join(said)}")
    return "; ".join(found)


def bits_by_noise(records: pd.DataFrame, terms: pd.DataFrame) -> alt.LayerChart | None:
    """A line a variational sum, its 95 % band where lines are few; None where no terms are known."""
    import altair as alt

    frame = densities(records, terms)
    if frame.empty:
        return None
    lines = list(dict.fromkeys(frame["line"]))
    banded = len(lines) <= BANDS
    ends = [*frame["low"], *frame["high"]] if banded else []
    y = marks.Span(
        labels.padded(labels.finite([0.0, *frame["density"], *ends]), False, 0.04),
        False,
        "bits/dim per unit of log-SNR",
    )
    x = marks.Span(
        labels.padded(labels.finite(frame["log_snr"]), False, 0.02), False, "log-SNR: noise → data"
    )
    looks = series.Looks(tuple(sorted(lines)), True)
    scales = looks.scales(lines)
    colour = alt.Color("line:N", scale=scales["color"], legend=_legend(lines))
    where = {"x": alt.X("log_snr:Q", **x.axis()), "color": colour}
    base = alt.Chart(frame)
    layers = [_band(base, where)] if banded else []
    tooltip = [alt.Tooltip("line:N"), alt.Tooltip("log_snr:Q", title="log-SNR from", format=".3~f")]
    tooltip += [
        alt.Tooltip(f"{name}:Q", title=said, format=".3~r")
        for name, said in (("density", "bits/dim per unit"), ("low", "from"), ("high", "to"))
    ]
    dash = alt.StrokeDash("line:N", scale=scales["strokeDash"], legend=_legend(lines))
    drawn = base.mark_line(interpolate="step-after", strokeWidth=1.8, clip=True)
    layers.append(drawn.encode(**where, y=alt.Y("density:Q", **y.axis()), strokeDash=dash, tooltip=tooltip))
    said = "; ".join(f"{line}: {_peak(frame[frame['line'] == line])}" for line in lines)
    return marks.chart(layers, HEIGHT, f"Bits per dimension by noise level. {said}.")


def _band(base: alt.Chart, where: dict[str, Any]) -> alt.Chart:
    area = base.mark_area(interpolate="step-after", opacity=0.22, clip=True, aria=False)
    return area.encode(**where, y="low:Q", y2="high:Q")


def _legend(lines: list[str]) -> alt.Legend:
    """The names, in as many columns as fit a phone."""
    import altair as alt

    longest = max(map(len, lines))
    columns = max(1, int(series.PHONE / (labels.CHARACTER * longest + 20)))
    return alt.Legend(title=None, columns=columns, labelLimit=240, symbolOpacity=1, symbolType="stroke")


def _peak(rows: pd.DataFrame) -> str:
    """Where a line is highest, and the area under it."""
    corners = list(zip(rows["log_snr"], rows["density"], strict=True))
    area = sum((b[0] - a[0]) * a[1] for a, b in itertools.pairwise(corners))
    top = max(corners, key=lambda corner: corner[1])
    return f"{number(area, 3)} bits/dim in all, most at log-SNR {number(top[0], 1)}"
