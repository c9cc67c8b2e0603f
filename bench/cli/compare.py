"""What `noisebench compare` prints and writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import files
from bench.compare import Comparison, Row, compare
from bench.compare.comparison import VERDICTS
from bench.compare.evidence import RunEvidence
from bench.compare.pages import render_html, render_json, render_markdown, values
from bench.errors import UsageError, unknown
from bench.present import find_run

console = Console(highlight=False)

WRITERS = {".html": render_html, ".md": render_markdown, ".json": render_json}
"""What is written by how a file's name ends."""


def show_comparison(
    runs: Sequence[str],
    results: Path,
    only: Sequence[str],
    output: Sequence[Path],
    as_json: bool,
    *,
    noise: float,
) -> bool:
    """Compare the first run with each of the others, print and write; whether anything is worse."""
    if len(runs) < 2:
        raise UsageError("compare takes two runs or more: the first is what the others are compared with.")
    for name in only:
        if name not in VERDICTS:
            raise unknown("verdict", name, VERDICTS)
    for path in output:
        if path.suffix not in WRITERS:
            raise UsageError(f"--output takes files that end in {', '.join(WRITERS)}, and not {path}.")
    folders = [find_run(results, name) for name in runs]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):  # one suite in several results folders
        names = [str(name) for name in runs]
    opened = [RunEvidence.open(folder, name) for folder, name in zip(folders, names, strict=True)]
    try:
        found = [compare(opened[0], other, noise=noise) for other in opened[1:]]
    except ValueError as error:
        raise UsageError(str(error)) from error
    for path in output:
        files.write_text(path, WRITERS[path.suffix](found))
    if as_json:
        print(json.dumps([one.as_dict() for one in found], allow_nan=False))
    else:
        for one in found:
            _print(one, only or ("worse", "better", "not comparable"))
        for path in output:
            console.print(f"Written: {path}", markup=False, soft_wrap=True)
    return any(one.regressed for one in found)


def _print(one: Comparison, wanted: Sequence[str]) -> None:
    """The rows of the verdicts that are wanted, then the sentence."""
    rows = [row for verdict in VERDICTS if verdict in wanted for row in one.rows if row.verdict == verdict]
    if rows:
        table = Table(box=None, pad_edge=False)
        for name in ("verdict", "cell", "metric", "A", "B", "difference", "p"):
            right = name in ("A", "B", "difference", "p")
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(text.replace("[", r"\[") for text in _line(row)))
        console.print(table)
    console.print(one.sentence, markup=False, soft_wrap=True)


def _line(row: Row) -> tuple[str, ...]:
    return row.verdict, row.label, row.metric, *values(row)
