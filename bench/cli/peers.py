"""What `noisebench peers` prints: a table of each kind of comparison, or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.peers import KINDS, Row, compare

console = Console(highlight=False)

WIDE = 132
"""Columns that the table needs at least; a narrower terminal wraps its lines."""


def show_peers(kind: str, as_json: bool, **options: Any) -> bool:
    """The rows of a comparison as a table and their notes; whether none of them failed."""
    rows = compare(kind, **options)
    if as_json:
        found = list(rows)
        print(json.dumps([asdict(row) for row in found], ensure_ascii=False, allow_nan=False))
    else:
        found = _followed(kind, rows)
        cells, legend = TABLES[kind]
        wide = Console(highlight=False, width=max(console.width, WIDE))
        if any(row.status != "skipped" for row in found):
            wide.print(_table(found, cells), legend, sep="\n", markup=False)
        for note in _notes(found):
            wide.print(note, markup=False)
    return all(row.status != "failed" for row in found)


def _followed(kind: str, rows: Iterator[Row]) -> list[Row]:
    """The rows; a terminal shows how far they are."""
    found: list[Row] = []
    with console.status(f"comparing {kind}") as status:
        for row in rows:
            found.append(row)
            status.update(f"comparing {kind}: {len(found)} done, last {row.peer} {row.theirs}")
    return found


def _table(rows: Sequence[Row], cells: Callable[[Any], dict[str, str]]) -> Table:
    """A section a package, with what was run of it."""
    rows = [row for row in rows if row.status != "skipped"]
    table, names = Table(box=None, pad_edge=False), list(cells(rows[0]))
    for name in names:
        text = name in ("theirs", "ours", "work")
        table.add_column(name, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for (peer, version), of_peer in groupby(rows, lambda row: (row.peer, row.version)):
        table.add_row(f"{peer} {version}".strip(), *("" for _ in names[1:]))
        for row in of_peer:
            table.add_row(*cells(row).values())
    return table


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each note; rows of a missing package share theirs."""
    for (peer, status, note), given in groupby(rows, lambda row: (row.peer, row.status, row.note)):
        alike = list(given)
        if status == "skipped":
            yield f"{peer}: {len(alike)} skipped. {note}"
        elif note:
            which = ", ".join(row.theirs for row in alike)
            yield f"{peer} {which}: {'failed: ' if status == 'failed' else ''}{note}."


def _sampler_cells(row: Any) -> dict[str, str]:
    """One row of the samplers, numbers as short as they can be read."""
    ours, theirs, ratio = row.microseconds_ours, row.microseconds_theirs, ""
    if ours and theirs:
        ratio = f"{theirs.median / ours.median:.1f}"
    return {
        "theirs": row.theirs.replace("Scheduler", ""),
        "ours": row.ours,
        "apart": "" if row.largest is None else f"{row.largest:.0e}",
        "NFE": _pair(row.evaluations_ours, row.evaluations_theirs, "d"),
        "µs ours": _spread(ours),
        "µs theirs": _spread(theirs),
        "µs bare": _spread(row.microseconds_bare),
        "ratio": ratio,
        "reads": _pair(row.reads_ours, row.reads_theirs, ".4g", 1),
        "operations": _pair(row.operations_ours, row.operations_theirs, ".4g", 1),
    }


_SAMPLERS = """
apart       largest distance of the end points, float32; a | b is ours | theirs
µs          of one thread outside the network per evaluation, median and half of the quartiles' distance;
            bare is a loop written by hand, ratio theirs over ours
reads       values that the host waits for, per evaluation
operations  those on whole states outside the network, per evaluation
"""


def _frechet_cells(row: Any) -> dict[str, str]:
    """One package on one case."""
    return {
        "theirs": row.theirs,
        "ours": row.ours,
        "case": row.case,
        "n | d": f"{row.n} | {row.dims}",
        "apart": "" if row.apart is None else f"{row.apart:.0e}",
        "error ours": f"{row.error_ours:.0e}",
        "error theirs": "" if row.error_theirs is None else f"{row.error_theirs:.0e}",
        "s ours": _spread(row.seconds_ours, ".3f"),
        "s theirs": _spread(row.seconds_theirs, ".3f"),
        "ratio": _spread(row.ratio, ".1f"),
    }


_FRECHET = """
apart   relative distance of the two values; errors are absolute, against the distance known in closed form
s       of one thread for the distance of given moments, median and half of the quartiles' distance
ratio   theirs over ours, round by round
"""


def _work_cells(row: Any) -> dict[str, str]:
    """One work done by both."""
    return {
        "theirs": row.theirs,
        "ours": row.ours,
        "work": row.work,
        "apart": "" if row.apart is None else f"{row.apart:.0e}",
        "ms ours": _milliseconds(row.seconds_ours),
        "ms theirs": _milliseconds(row.seconds_theirs),
        "ratio": _spread(row.ratio, ".2f"),
    }


def _milliseconds(value: Any) -> str:
    return "" if value is None else f"{1e3 * value.median:.1f} ±{500 * (value.high - value.low):.1f}"


_WORK = """
apart   largest distance of the results relative to the largest of ours; none where each draws its own noise
ms      of one thread, median and half of the quartiles' distance; ratio theirs over ours, round by round
"""

TABLES = {
    "samplers": (_sampler_cells, _SAMPLERS),
    "frechet": (_frechet_cells, _FRECHET),
    "likelihood": (_work_cells, _WORK),
    "flows": (_work_cells, _WORK),
    "pipelines": (_work_cells, _WORK),
}
"""How each kind of `bench.peers.KINDS` is printed: the cells of a row, and what they mean."""

assert set(TABLES) == set(KINDS)


def _pair(ours: float | None, theirs: float | None, form: str, digits: int = 0) -> str:
    if ours is None or theirs is None:
        return ""
    a, b = (round(value, digits) if digits else value for value in (ours, theirs))
    return f"{a:{form}} | {b:{form}}"


def _spread(value: Any, form: str = ".0f") -> str:
    return "" if value is None else f"{value.median:{form}} ±{(value.high - value.low) / 2:{form}}"
