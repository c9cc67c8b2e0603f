"""A comparison as a page, as Markdown and as JSON: the same bytes from the same runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bench.compare.comparison import VERDICTS, Comparison, Row, ratios
from bench.compare.statistics import ALARM
from bench.report.markdown import escaped, table
from bench.report.page import environment, page_parts
from bench.report.text import MISSING, ends, interval, number, short, signed

SHOWN_P = 1e-4
"""p-values below this are given as less than it."""

METHOD = (
    "Bits per dimension are compared image by image, Fréchet distances by a jackknife that leaves out the "
    "same seeds of both runs, throughput by the ratio of medians with a bootstrap over rounds; where a run's "
    "store is not at hand, by the two intervals. Brackets are 95 % intervals of the difference. Better and "
    f"worse are one-sided tests at {ALARM:.1%} among all cells of a metric (Holm); a speed or memory must "
    "also change by more than the noise that was allowed. Timings are not compared where other programs "
    "kept the machine busy, or where fixed work beside them shows that the machine itself was slower."
)


def render_json(found: Sequence[Comparison]) -> str:
    """All rows of all comparisons."""
    return json.dumps([one.as_dict() for one in found], indent=1, allow_nan=False) + "\n"


def render_markdown(found: Sequence[Comparison]) -> str:
    """What differs in tables, the rest counted, what cannot be compared with its reason."""
    parts = ["# " + escaped(" and ".join(one.b for one in found) + f" against {found[0].a}")]
    for one in found:
        parts += [f"**{escaped(one.sentence)}**", *_tables(one)]
    return "\n\n".join([*parts, METHOD]) + "\n"


def _tables(one: Comparison) -> list[str]:
    parts = []
    for verdict in VERDICTS:
        rows = [row for row in one.rows if row.verdict == verdict]
        if not rows:
            continue
        if verdict == "not comparable":
            lines = [[escaped(row.label), escaped(row.metric), escaped(row.reason)] for row in rows]
            made = table(["Cell", "Metric", "Why"], lines, [False] * 3)
        else:
            heads = ["Cell", "Metric", "A", "B", "Difference", "p"]
            made = table(heads, [_line(row) for row in rows], [False, False, True, True, True, True])
        if verdict == "same":  # folded: long, and of no interest until it is asked for
            made = f"<details><summary>All of them</summary>\n\n{made}\n\n</details>"
        parts.append(f"## {verdict.capitalize()}: {len(rows)}\n\n{made}")
    return parts


def _line(row: Row) -> list[str]:
    return [escaped(text) for text in (row.label, row.metric, *values(row))]


def values(row: Row) -> tuple[str, str, str, str]:
    """A, B, their difference with its interval, and p, as text."""
    a, b = (MISSING if side is None else interval(*side) for side in (row.a, row.b))
    return a, b, changed(row), chance(row.p)


def changed(row: Row) -> str:
    """`+0.012 [0.003, 0.021]`, of a throughput `×1.13 [1.08, 1.19]`; for a failure its reason."""
    if row.difference is None or row.low is None or row.high is None:
        return row.reason or MISSING
    three = row.difference, row.low, row.high
    if row.method == "one cell of the store":
        return "identical"
    value = f"×{short(*three)}" if ratios(row.metric) else signed(*three)
    return f"{value} {ends(*three)}".strip()


def chance(p: float | None) -> str:
    """`0.013`, `< 0.0001`, or a dash."""
    if p is None:
        return MISSING
    return f"< {SHOWN_P:g}" if p < SHOWN_P else number(float(f"{p:.2g}"))


def render_html(found: Sequence[Comparison]) -> str:
    """The page: as self-contained and closed to the network as a report."""
    from bench.compare.figure import panels
    from bench.report.figures import Figure, specs

    charts: dict[str, Any] = {}
    for index, one in enumerate(found):
        drawn = tuple(panels(one).values())
        charts[f"compare-{index}"] = specs(Figure(f"compare-{index}", "", "", drawn))
    made = environment()
    made.globals |= {"values": values}
    context = {"found": list(found), "verdicts": VERDICTS, "charts": charts, "method": METHOD}
    return made.get_template("compare.html.j2").render(**context, **page_parts(charts)) + "\n"
