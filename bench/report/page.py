"""The comparison page: one HTML file that opens from disk, asks the network for nothing, and may not.

The content security policy allows the page's own scripts and style by their SHA-256 and images inside the
page, and nothing else: no `unsafe-inline`, no `unsafe-eval` (Vega runs its expressions through an
interpreter), no address. All text from records is escaped; what scripts read is packed to letters and digits.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from bench.report import ReportData, choice, tables, theme, winners
from bench.report.batches import latencies
from bench.report.estimates import estimates
from bench.report.text import ends, is_number, number, plural, short, signed
from bench.report.verdict import verdicts

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

REAL = "real"
"""Key of the sheet of real images."""


def render_html(report: ReportData) -> str:
    """The page. The same report gives the same bytes."""
    made = environment()
    made.globals |= {"way": _way, "listed": choice.listed, "measure": choice.measure}
    return made.get_template("page.html.j2").render(**_context(report)) + "\n"


def environment() -> jinja2.Environment:
    """Templates of this package; whatever they show is escaped."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"number": number, "short": short, "signed": signed, "ends": ends, "data_uri": _data_uri}
    made.tests["number"] = is_number
    made.globals["plural"] = plural
    return made


def page_parts(
    charts: dict[str, list[dict[str, Any]]], files: dict[str, str] | None = None
) -> dict[str, Any]:
    """What every page has: policy, style, scripts; charts (Vega-Lite) for both themes; files to download."""
    themes = {name: theme.vega_config(name) for name in theme.THEMES}
    payload = {"charts": charts, "themes": themes, "files": files or {}}
    scripts, style = [_library(), _asset("page.js")], _style()
    return {
        "policy": content_security_policy(scripts, style),
        "style": style,
        "scripts": scripts,
        "payload": packed(payload),
    }


def _asset(name: str) -> str:
    return resources.files("bench.report").joinpath("assets", name).read_text(encoding="utf-8")


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script that leaves `vegaEmbed` behind."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _style() -> str:
    """Both palettes, then the style sheet."""
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {theme.css_variables('dark')} }} }}"
    return f":root {{ {theme.css_variables('light')} }}\n{dark}\n{_asset('page.css')}"


def _hash(text: str) -> str:
    """A CSP source for an inline script or style."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() + "'"


def content_security_policy(scripts: list[str], style: str) -> str:
    """The policy of the page: these scripts and this style, images within the page, nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {' '.join(_hash(script) for script in scripts)}; base-uri 'none'; form-action 'none'"
    )


def packed(value: Any) -> str:
    """JSON without NaN, compressed, as letters and digits: small, and nothing in it can end its element.

    The same value gives the same text with the same zlib.
    """
    text = json.dumps(_plain(value), allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _plain(value: Any) -> Any:
    """Numbers that are not finite become None, at any depth."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not is_number(value) else value


def _data_uri(data: bytes | str, kind: str) -> str:
    raw = data.encode("utf-8") if isinstance(data, str) else data
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, None where nothing is known."""
    return [{str(k): (None if v != v else v) for k, v in row.items()} for row in frame.to_dict("records")]


def protocol_notes(table: pd.DataFrame, references: list[dict[str, Any]]) -> dict[str, str]:
    """Every protocol of the ranking with a letter of its own (a … z, aa …), in order of appearance."""
    columns = ["quality_protocol", "speed_protocol", "bits_protocol"]
    found = [protocol for row in table[columns].itertuples(index=False) for protocol in row]
    measured = [row[part] for row in references for part in ("quality", "bits")]
    found += [row["protocol"] for row in measured if row is not None]
    distinct = dict.fromkeys(protocol for protocol in found if isinstance(protocol, str) and protocol)
    return {protocol: _letters(index) for index, protocol in enumerate(distinct)}


def _letters(index: int) -> str:
    head, tail = divmod(index, 26)
    return (_letters(head - 1) if head else "") + chr(ord("a") + tail)


def _sheets(report: ReportData, best: pd.DataFrame) -> dict[str, list[tuple[str, bytes]]]:
    """Sheets in two groups: the real images and the best cell of every model, then the rest."""
    first = [REAL, *best["label"], *best["model"]]
    shown = [(name, report.sheets[name]) for name in dict.fromkeys(first) if name in report.sheets]
    named = {name for name, _ in shown}
    rest = [(name, data) for name, data in report.sheets.items() if name not in named]
    if len(shown) <= 1:
        shown, rest = [*shown, *rest], []
    return {"shown": shown, "rest": rest}


def _references(records: pd.DataFrame, metric: str | None) -> list[dict[str, Any]]:
    """Rows of the ranking that are not ranked: real images, and anchors of the likelihood."""
    rows = []
    floor = tables.reference(records, metric)
    if floor is not None:
        rows.append({"model": floor["model"], "quality": floor, "bits": None})
    rows += [
        {"model": row["model"], "quality": None, "bits": row} for _, row in tables.anchors(records).iterrows()
    ]
    return rows


def _way(row: dict[str, Any]) -> str:
    """How the cell of a row was sampled."""
    return tables.way(*(row[name] for name in tables.HOW))


def _context(report: ReportData) -> dict[str, Any]:
    from bench.report.figures import all_figures, specs
    from bench.report.latex import render_latex
    from bench.report.markdown import markdown_ranking
    from bench.report.pareto import front_key

    records = tables.tidy(report.records)
    table = tables.cells(records)
    best = winners.best_per_model(table)
    metric = tables.headline_metric(tables.generators(records))
    figures = all_figures(report)
    charts = {figure.name: specs(figure) for figure in figures}
    front, references = front_key(table), _references(records, metric)
    return {
        **page_parts(charts, _files(report, records)),
        "suite": report.suite,
        "run": report.run,
        "devices": ", ".join(sorted({name for name in records["device"] if name})),
        "verdicts": verdicts(records),
        "metric": metric,
        "best": _rows(best),
        "cells": _rows(table),
        "references": references,
        "notes": protocol_notes(table, references),
        "advice": choice.advice(records),
        "mixed": tables.mixed_protocols(records),
        "figures": figures,
        "front": _rows(front),
        "ranks": dict(zip(front["label"], front["rank"], strict=True)),
        "sheets": _sheets(report, best),
        "estimates": _rows(estimates(records, report.nats)),
        "missing": _rows(tables.not_measured(records)),
        "records": len(records),
        "latencies": latencies(records),
        "choices": _choices(table),
        "titles": {name: [_model_of(chart, table) for chart in drawn] for name, drawn in charts.items()},
        "nearest": report.nearest,
        "latex": render_latex(report),
        "markdown": markdown_ranking(report),
        "uniform": _uniform(records),
    }


def _files(report: ReportData, records: pd.DataFrame) -> dict[str, str]:
    """The records by the name that they are downloaded under."""
    rows = json.dumps(_plain(_rows(records)), allow_nan=False, indent=1)
    return {"results.csv": report.records.to_csv(index=False, lineterminator="\n"), "results.json": rows}


def _choices(table: pd.DataFrame) -> dict[str, list[Any]]:
    """What the cells can be filtered by: only columns in which they differ."""
    found = {name: sorted(set(table[name]) - {""}) for name in ("family", "sampler", "dtype")}
    found["nfe"] = sorted(set(table["nfe"].dropna()))
    return {name: values for name, values in found.items() if len(values) > 1}


def _model_of(chart: dict[str, Any], table: pd.DataFrame) -> str:
    """The model that a panel is of, by its title; empty for a panel of several."""
    title = str(chart.get("title", ""))
    return next((model for model in table["model"] if title == model or title.startswith(f"{model} w=")), "")


def _uniform(records: pd.DataFrame) -> float | None:
    """Bits per dimension of the uniform anchor, for the reading aid."""
    rows = records[(records["family"] == tables.ANCHOR) & (records["model"] == "uniform")]
    return None if rows.empty else float(rows["value"].iloc[0])
