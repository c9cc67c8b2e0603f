"""Tables and figures of a run of kernels: speed-ups, the roofline, a sweep over the sequence length."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import files
from bench.kernel_bench.run import Row
from bench.kernel_bench.shapes import SHAPES
from bench.kernel_bench.work import work
from bench.report import theme
from kernels.roofline import Card

if TYPE_CHECKING:
    import altair as alt

WIDTH = 640
HEAD = ("provider", "time, ms", "p20–p80", "in a graph", "TFLOP/s", "GB/s", "of roof", "error", "PyTorch's")


def write_report(folder: Path, rows: Sequence[Row], card: Card | None, device: str) -> Path:
    """report.md, report.html and figures/*.png in `folder`; returns the page."""
    from bench.report.pictures import png

    figures = [(name, title, chart) for name, title, chart in drawn(rows, card) if chart is not None]
    for name, _, chart in figures:
        files.write_bytes(folder / "figures" / f"{name}.png", png([chart]))
    told = tables(rows)
    files.write_text(folder / "report.md", _markdown(told, figures, card, device))
    files.write_text(folder / "report.html", _page(told, figures, card, device))
    return folder / "report.html"


def drawn(rows: Sequence[Row], card: Card | None) -> list[tuple[str, str, Any]]:
    """(name, title, chart or None) of every figure."""
    return [
        ("speedup", "Times faster than the slowest provider of each case", speedups(rows)),
        ("roofline", "Useful TFLOP/s against operations a byte", roofline(rows, card)),
        ("sweep", "Useful TFLOP/s by sequence length", sweep(rows)),
    ]


def tables(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, ...]], list[str]]]:
    """A table a case: its title, its lines, and notes on what has no time."""
    found = []
    for (operation, shape, direction, dtype), group in groupby(rows, _case):
        of_case = list(group)
        timed = sorted((row for row in of_case if row.seconds), key=lambda row: row.seconds or 0.0)
        notes = [f"{row.provider}: {row.status}, {row.note}" for row in of_case if not row.seconds]
        title = f"{operation}, {shape}, {direction}, {dtype}"
        found.append((title, [_line(row) for row in timed], notes))
    return found


def _case(row: Row) -> tuple[str, str, str, str]:
    return row.operation, row.shape, row.direction, row.dtype


def _line(row: Row) -> tuple[str, ...]:
    assert row.seconds is not None
    assert row.low is not None
    assert row.high is not None
    return (
        row.provider,
        f"{1e3 * row.seconds:.4g}",
        f"{1e3 * row.low:.4g}–{1e3 * row.high:.4g}",
        "" if row.graph is None else f"{1e3 * row.graph:.4g}",
        "" if row.flops is None else f"{row.flops / 1e12:.3g}",
        "" if row.bandwidth is None else f"{row.bandwidth / 1e9:.3g}",
        "" if row.share is None else f"{row.share:.0%} ({row.bound_by})",
        "" if row.error is None else f"{row.error:.1e} ({row.worst})",
        "" if row.plain_error is None else f"{row.plain_error:.1e}",
    )


def speedups(rows: Sequence[Row]) -> alt.Chart | None:
    """Bars: how many times faster than the slowest provider of the case, ours marked by an outline."""
    import altair as alt
    import pandas as pd

    timed = [row for row in rows if row.seconds and not SHAPES[row.shape].swept]
    if not timed:
        return None
    lines = []
    for case, group in groupby(sorted(timed, key=_case), _case):
        of_case = list(group)
        slowest = max(row.seconds or 0.0 for row in of_case)
        name = " ".join(case[:3])
        lines += [
            {"case": name, "provider": row.provider, "times": slowest / (row.seconds or 1.0)}
            for row in of_case
        ]
    frame = pd.DataFrame(lines)
    header = alt.Header(labelAngle=0, labelAlign="left", labelOrient="top")
    return (
        alt.Chart(frame, width=WIDTH)
        .mark_bar()
        .encode(
            x=alt.X("times:Q", title="times faster than the slowest"),
            y=alt.Y("provider:N", sort="-x", title=None),
            color=_colour(frame["provider"]),
            row=alt.Row("case:N", title=None, header=header),
        )
        .resolve_scale(y="independent")
    )


def roofline(rows: Sequence[Row], card: Card | None) -> Any:
    """Attention under the card's roofs; None without measured roofs."""
    import altair as alt
    import pandas as pd

    timed = [row for row in rows if row.flops and row.operation in ("attention", "joint-attention")]
    if card is None or not timed:
        return None
    points = []
    for row in timed:
        of = work(row.operation, SHAPES[row.shape], row.direction, row.dtype)
        intensity, speed = of.flops / of.bytes, (row.flops or 0.0) / 1e12
        points.append({"intensity": intensity, "speed": speed, "provider": row.provider, "case": row.shape})
    frame = pd.DataFrame(points)
    low, high = float(frame["intensity"].min()) / 2, float(frame["intensity"].max()) * 2
    ridge = card.matrix / card.bandwidth
    roofs = pd.DataFrame(
        {"intensity": x, "speed": min(card.matrix, card.bandwidth * x) / 1e12}
        for x in sorted({low, min(max(ridge, low), high), high})
    )
    x = alt.X("intensity:Q", scale=alt.Scale(type="log"), title="useful operations a byte")
    y = alt.Y("speed:Q", scale=alt.Scale(type="log"), title="useful TFLOP/s")
    line = alt.Chart(roofs).mark_line(style="floor-line").encode(x=x, y=y)
    dots = alt.Chart(frame).mark_point(filled=True, size=70).encode(
        x=x, y=y, color=_colour(frame["provider"]), tooltip=["case", "provider", "speed"]
    )  # fmt: skip
    return alt.layer(line, dots).properties(width=WIDTH, height=360)


def sweep(rows: Sequence[Row]) -> alt.Chart | None:
    """TFLOP/s by sequence length, a panel a head size and direction."""
    import altair as alt
    import pandas as pd

    timed = [row for row in rows if row.flops and SHAPES[row.shape].swept]
    if not timed:
        return None
    frame = pd.DataFrame(
        {
            "tokens": SHAPES[row.shape].tokens,
            "speed": (row.flops or 0.0) / 1e12,
            "provider": row.provider,
            "series": f"{SHAPES[row.shape].swept}, {row.direction}",
        }
        for row in timed
    )
    return (
        alt.Chart(frame, width=WIDTH, height=240)
        .mark_line(point=True)
        .encode(
            x=alt.X("tokens:Q", scale=alt.Scale(type="log", base=2), title="tokens"),
            y=alt.Y("speed:Q", title="useful TFLOP/s"),
            color=_colour(frame["provider"]),
            row=alt.Row("series:N", title=None),
        )
    )


def _colour(providers: Any) -> alt.Color:
    import altair as alt

    names = sorted(set(providers), key=lambda name: (name != "triton", name))
    colours = [theme.SERIES_COLOURS[i % len(theme.SERIES_COLOURS)] for i in range(len(names))]
    return alt.Color("provider:N", scale=alt.Scale(domain=names, range=colours), title="provider")


def _roofs(card: Card | None) -> str:
    if card is None:
        return "No roof is drawn: the rates of this device were not measured."
    return (
        f"Roofs of {card.name}: {card.matrix / 1e12:.0f} TFLOP/s, {card.bandwidth / 1e12:.2f} TB/s, "
        f"{card.exponentials / 1e12:.2f}·10¹² exp2/s ({card.source})."
    )


def _markdown(told: Any, figures: Any, card: Card | None, device: str) -> str:
    parts = [f"# Kernels on {device}", _roofs(card)]
    parts += [f"![{title}](figures/{name}.png)" for name, title, _ in figures]
    for title, lines, notes in told:
        parts.append(f"## {title}")
        if lines:
            head = [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
            parts.append("\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)]))
        parts += [f"- {note}" for note in notes]
    return "\n\n".join(parts) + "\n"


def _page(told: Any, figures: Any, card: Card | None, device: str) -> str:
    """One file: pictures are drawn into it, nothing runs and nothing is fetched."""
    import vl_convert

    def svg(chart: Any) -> str:
        config = theme.vega_config("light") | {"background": theme.LIGHT["paper"], "font": "sans-serif"}
        return str(vl_convert.vegalite_to_svg(chart.to_dict(validate=False), config=config))

    body = [f"<h1>Kernels on {html.escape(device)}</h1>", f"<p>{html.escape(_roofs(card))}</p>"]
    body += [
        f"<figure>{svg(chart)}<figcaption>{html.escape(title)}</figcaption></figure>"
        for _, title, chart in figures
    ]
    for title, lines, notes in told:
        body.append(f"<h2>{html.escape(title)}</h2>")
        if lines:
            cells = ["".join(f"<th>{html.escape(name)}</th>" for name in HEAD)]
            cells += ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines]
            body.append("<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>")
        body += [f"<p>{html.escape(note)}</p>" for note in notes]
    style = (
        f"body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;"
        f"color:{theme.LIGHT['ink']};background:{theme.LIGHT['paper']}}}"
        "table{border-collapse:collapse;display:block;overflow-x:auto}"
        "td,th{padding:.15rem .7rem;text-align:right;"
        f"border-bottom:1px solid {theme.LIGHT['line']}}}td:first-child,th:first-child{{text-align:left}}"
        f"figure{{margin:1.5rem 0;overflow-x:auto}}figcaption{{color:{theme.LIGHT['muted']}}}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Kernels on {html.escape(device)}</title><style>{style}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )
