"""The report as Markdown, fit for a repository page, and its figures as PNG files."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bench.report import ReportData, choice, tables, winners
from bench.report.batches import QUANTILES, latencies
from bench.report.estimates import estimates
from bench.report.pictures import png
from bench.report.text import MISSING, ends, interval, number, signed
from bench.report.verdict import verdicts

if TYPE_CHECKING:
    import pandas as pd

    from bench.report.figures import Figure


def render_markdown(report: ReportData, figures: str = "figures") -> str:
    """The answers, the ranking, links to the PNG figures in the folder `figures`, what failed."""
    from bench.report.figures import all_figures

    records = tables.tidy(report.records)
    best = winners.best_per_model(tables.cells(records))
    drawn = [figure for figure in all_figures(report) if figure.panels]
    parts = [
        f"# {escaped(report.suite or 'noisebench')}",
        "\n".join(f"- **{escaped(answer.label)}:** {_said(answer)}" for answer in verdicts(records)),
        _ranking(records, best),
        *_advice(choice.advice(records), tables.headline_metric(tables.generators(records)) or "quality"),
        *(_figure(figure, figures) for figure in drawn),
        _latencies(latencies(records)),
        _estimates(estimates(records, report.nats)),
        _samples(report, figures),
        _missing(tables.not_measured(records)),
        _protocols(records),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_ranking(report: ReportData) -> str:
    """The ranking alone, for who pastes it elsewhere."""
    records = tables.tidy(report.records)
    return _ranking(records, winners.best_per_model(tables.cells(records))) + "\n"


def figures_png(report: ReportData) -> dict[str, bytes]:
    """File name -> PNG of every figure that has something to show, on white paper, and of every sheet."""
    from bench.report.figures import all_figures

    drawn = {f"{figure.name}.png": png(figure.panels) for figure in all_figures(report) if figure.panels}
    return drawn | {_sheet_name(i): png for i, png in enumerate(report.sheets.values())}


def _sheet_name(index: int) -> str:
    """Captions are names that users chose, so files are numbered."""
    return f"samples-{index:02d}.png"


def _samples(report: ReportData, folder: str) -> str:
    """The sheets, three in a row, each under its caption."""
    cells = [
        (escaped("Real images" if caption == "real" else caption), f"{folder}/{_sheet_name(index)}")
        for index, caption in enumerate(report.sheets)
    ]
    if not cells:
        return ""
    said = "The first images of each cell, not chosen; models on a Gaussian path start from the same noise."
    parts = ["## Samples", said]
    for start in range(0, len(cells), 3):
        row = cells[start : start + 3]
        images = [f"![{caption}]({path})" for caption, path in row]
        parts.append(table([caption for caption, _ in row], [images], [False] * len(row)))
    return "\n\n".join(parts)


def escaped(text: Any) -> str:
    """Text from records that can neither mark up, nor end a table cell, nor start a tag.

    >>> escaped("a|b <script>")
    'a\\\\|b &lt;script&gt;'
    """
    flat = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)


def _said(answer: Any) -> str:
    label = f"{answer.label}: "
    return escaped(str(answer).removeprefix(label))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool]) -> str:
    """A Markdown table of text that is escaped already."""
    rule = ["---:" if numeric else "---" for numeric in right]
    lines = [heads, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ranking(records: pd.DataFrame, best: pd.DataFrame) -> str:
    if best.empty:
        return "Nothing was measured in this run."
    metric = tables.headline_metric(tables.generators(records)) or "quality"
    heads = ["Model", "Family", "Sampler", f"{escaped(metric)} ↓", "Evaluations"]
    heads += ["Images/s ↑", "Bits/dim ↓", "Kind"]
    rows = [_ranked(row) for row in best.to_dict("records")]
    floor = tables.reference(records, metric)
    if floor is not None:
        value = escaped(interval(floor["value"], floor["low"], floor["high"]))
        rows.append([f"*{escaped(floor['model'])}*", "", "", value, "", "", "", ""])
    for _, row in tables.anchors(records).iterrows():
        value = escaped(interval(row["value"], row["low"], row["high"]))
        rows.append([f"*{escaped(row['model'])}*", "", "", "", "", "", value, escaped(row["kind"])])
    note = "The best cell of every model; values with 95 % intervals, real images and anchors in italics."
    return f"{note}\n\n" + table(heads, rows, [False, False, False, True, True, True, True, False])


def _ranked(row: dict[Any, Any]) -> list[str]:
    """One model of the ranking."""
    failed = "" if row["status"] == "ok" else f" ({row['status']})"
    values = [
        interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("quality", "speed", "bits")
    ]
    quality, speed, bits = (escaped(value) for value in values)
    kind = row["bits_kind"] if isinstance(row["bits_kind"], str) else ""
    names = [escaped(row["model"] + failed), escaped(row["family"]), _sampler(row)]
    return [*names, quality, number(row["nfe"]), speed, bits, escaped(kind)]


def _advice(advice: choice.Advice, metric: str) -> list[str]:
    """The best sampler for every budget, then the least cost of every quality."""
    if not advice:
        return []
    said = "An order counts as settled only where no 95 % intervals meet."
    return ["## Which sampler to use", said, *(_budgets(b, metric) for b in advice.budgets), _reaches(advice)]


def _budgets(budgets: choice.Budgets, metric: str) -> str:
    unit = " ms" if budgets.cost == choice.MS else ""
    heads = ["Model", *(f"≤ {number(limit)}{unit}" for limit in budgets.limits)]
    rows = [[escaped(model), *map(_best, row)] for model, row in budgets.rows.items()]
    note = f"The lowest {escaped(metric)} within a budget of {budgets.title}:"
    return f"{note}\n\n" + table(heads, rows, [False] * len(heads))


def _best(best: choice.Choice) -> str:
    """One cell of the table of budgets."""
    if best.cell is None:
        return "–"
    return escaped(f"{best.cell['way']}: {choice.measure(best.cell, 'quality')}; {best.doubt()}")


def _reaches(advice: choice.Advice) -> str:
    heads = ["Model", "Quality", "At most"]
    heads += ["Least evaluations" if cost == choice.NFE else "Least time an image" for cost in advice.costs]
    rows = [
        [
            *(escaped(part) for part in (reach.model, reach.target, number(reach.limit))),
            *(_least(cost, least) for cost, least in reach.least.items()),
        ]
        for reach in advice.reaches
    ]
    note = "The least cost of a quality; real images are reached at the high end of their interval:"
    return f"{note}\n\n" + table(heads, rows, [False, False, True, *(False for _ in advice.costs)])


def _least(cost: str, least: choice.Choice) -> str:
    """One cell of the table of costs."""
    if least.cell is None:
        return escaped(least.doubt())
    return escaped(f"{choice.measure(least.cell, cost)} with {least.cell['way']}; {least.doubt()}")


def _figure(figure: Figure, folder: str) -> str:
    name = escaped(figure.title)
    return f"## {name}\n\n![{name}]({folder}/{figure.name}.png)\n\n{escaped(figure.caption)}"


def _latencies(rows: list[dict[str, Any]]) -> str:
    """Milliseconds of one image and the knee of the throughput; empty where they were not timed."""
    if not rows:
        return ""
    lines = [
        [
            escaped(row["label"]),
            *(escaped(interval(*row[name])) if name in row else MISSING for name in QUANTILES),
            number(row["knee"]),
            escaped(interval(*row["speed"])),
        ]
        for row in rows
    ]
    heads = ["Cell", "p50, ms", "p90, ms", "p99, ms", "Knee", "Images/s there"]
    note = (
        "Milliseconds from seed to pixels at batch 1, with 95 % intervals; the knee is the smallest batch "
        "with four fifths of the best throughput."
    )
    return f"## Latency of one image\n\n{note}\n\n" + table(heads, lines, [False, *[True] * 5])


def _estimates(rows: pd.DataFrame) -> str:
    """What several estimators say of one network; empty where no model has more than one."""
    if rows.empty:
        return ""
    lines = [
        [
            *(escaped(row[name]) for name in ("model", "estimate")),
            escaped(interval(row["value"], row["low"], row["high"])),
            escaped(row["kind"]),
            number(row["nfe"]),
            "first" if row["first"] else escaped(_differing(row)),
            escaped(row["protocol"]),
        ]
        for row in rows.to_dict("records")
    ]
    heads = ["Model", "Estimate", "Bits/dim ↓", "Kind", "Evaluations", "Less the first", "Protocol"]
    note = (
        "Values with 95 % intervals; differences are of the same images. The first estimate of a model is "
        "the one that stands for it elsewhere."
    )
    made = table(heads, lines, [False, False, True, False, True, True, False])
    return f"## Likelihood of one network by several estimators\n\n{note}\n\n{made}"


def _differing(row: dict[Any, Any]) -> str:
    """An estimate less the first one of its model, with its paired interval."""
    values = [row[name] for name in ("difference", "difference_low", "difference_high")]
    return f"{signed(*values)} {ends(*values)}".strip()


def _missing(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    lines = [
        [
            *(escaped(row[name]) for name in ("status", "model")),
            _sampler(row),
            escaped(row["metric"]),
            _why(row),
        ]
        for row in rows.to_dict("records")
    ]
    heads = ["Status", "Model", "Sampler", "Metric", "Why"]
    return "## Without a number\n\n" + table(heads, lines, [False] * len(heads))


def _sampler(row: dict[Any, Any]) -> str:
    return escaped(tables.way(*(row[name] for name in tables.HOW)))


def _why(row: dict[Any, Any]) -> str:
    return escaped(row["error"] or row["protocol"] or "no reason recorded")


def _protocols(records: pd.DataFrame) -> str:
    """How the numbers of the ranking were obtained."""
    metrics = [tables.headline_metric(tables.generators(records)), tables.SPEED, tables.BITS]
    rows = records[
        records["metric"].isin(metrics) & (records["protocol"] != "") & (records["status"] == "ok")
    ]
    lines = dict.fromkeys(f"- {escaped(protocol)}" for protocol in rows["protocol"] if protocol)
    return "## Protocols\n\n" + "\n".join(lines) if lines else ""
