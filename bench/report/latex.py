"""The ranking as a LaTeX table, with every protocol as a footnote; needs the package booktabs alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from bench.report import ReportData, tables, winners
from bench.report.page import protocol_notes
from bench.report.text import ends, is_number, number, short

if TYPE_CHECKING:
    import pandas as pd

_SPECIAL = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "−": "$-$",
    "≤": r"$\leq$",
    "√": r"$\surd$",
    "σ": r"$\sigma$",
    "η": r"$\eta$",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
    "…": r"\ldots{}",
    "–": "--",
}


def escaped(text: Any) -> str:
    r"""Text from records that LaTeX prints as it is, on one line.

    >>> escaped("a_b & 50 %"), escaped("\\input{x}")
    ('a\\_b \\& 50 \\%', '\\textbackslash{}input\\{x\\}')
    """
    flat = " ".join(str(text).split())
    return re.sub(r".", lambda found: _SPECIAL.get(found.group(), found.group()), flat)


def render_latex(report: ReportData) -> str:
    """The best cell of every model, with 95 % intervals; the same report gives the same bytes."""
    records = tables.tidy(report.records)
    table = tables.cells(records)
    best = winners.best_per_model(table)
    metric = tables.headline_metric(tables.generators(records)) or "quality"
    notes = protocol_notes(best, [])
    title = escaped(report.suite or "noisebench")
    heads = rf"Model & Sampler & {escaped(metric)} $\downarrow$ & NFE"
    lines = [
        "% Needs \\usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{title}: the best cell of every model, 95\,\% intervals.}}",
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
        rf"{heads} & Images/s $\uparrow$ & Bits/dim $\downarrow$ \\",
        r"\midrule",
        *(_line(row, notes) for row in best.to_dict("records")),
        *_floor(records, metric),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        *(rf"$^{{{letter}}}$ {escaped(protocol)}.\\" for protocol, letter in notes.items()),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(row: dict[Any, Any], notes: dict[str, str]) -> str:
    way = tables.way(*(row[name] for name in tables.HOW))
    values = [_value(row, name, notes) for name in ("quality", "speed", "bits")]
    nfe = number(row["nfe"]) if is_number(row["nfe"]) else "--"
    return " & ".join([escaped(row["model"]), escaped(way), values[0], nfe, *values[1:]]) + r" \\"


def _value(row: dict[Any, Any], name: str, notes: dict[str, str]) -> str:
    """A number, its interval and the letter of its protocol; of a likelihood also its kind."""
    if not is_number(row[name]):
        return "--"
    three = row[name], row[f"{name}_low"], row[f"{name}_high"]
    kind = f" {row['bits_kind']}" if name == "bits" and row["bits_kind"] else ""
    letter = notes.get(row[f"{name}_protocol"], "")
    return f"{short(*three)} {ends(*three)}{kind}".strip() + (f"$^{{{letter}}}$" if letter else "")


def _floor(records: pd.DataFrame, metric: str) -> list[str]:
    floor = tables.reference(records, metric)
    if floor is None:
        return []
    three = floor["value"], floor["low"], floor["high"]
    value = f"{short(*three)} {ends(*three)}".strip()
    return [r"\midrule", rf"\emph{{{escaped(floor['model'])}}} & & {value} & & & \\"]
