"""What `noisebench verify` prints: a table of checks, section by section, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.verify import Row, verify

console = Console(highlight=False)

WIDE = 132
"""Columns that the table needs at least; a narrower terminal wraps its lines."""


def show_verification(suite: str, as_json: bool) -> bool:
    """The rows of all checks as a table, and how many hold; whether all do."""
    rows = verify(suite)
    if as_json:
        found = list(rows)
        print(json.dumps([asdict(row) for row in found], ensure_ascii=False, allow_nan=False))
    else:
        found = _followed(rows)
        wide = Console(highlight=False, width=max(console.width, WIDE))
        wide.print(_table(found))
        for row in found:
            if row.note:
                wide.print(f"{row.check}: {row.note}", markup=False)
        wide.print(summary(found), markup=False)
    return all(row.ok for row in found)


def summary(rows: Sequence[Row]) -> str:
    """One line: how many checks hold, and which do not."""
    failed, seconds = [row for row in rows if not row.ok], sum(row.seconds for row in rows)
    if not failed:
        return f"All {len(rows)} checks hold, {seconds:.0f} s."
    return (
        f"{len(failed)} of {len(rows)} checks FAILED, {seconds:.0f} s: likelihoods cannot be believed here."
    )


def _followed(rows: Iterable[Row]) -> list[Row]:
    """The rows; a terminal shows how far they are."""
    found: list[Row] = []
    with console.status("verifying") as status:
        for row in rows:
            found.append(row)
            status.update(f"verifying: {len(found)} done, last {row.group}")
    return found


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("check", overflow="fold")
    for name in ("expected", "got", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for group, of_group in groupby(rows, lambda row: row.group):
        members = list(of_group)
        table.add_row(Text(group, style="bold"), "", "", "", "", f"{sum(row.seconds for row in members):.1f}")
        for row in members:
            verdict = Text("ok") if row.ok else Text("FAILED", style="bold red")
            sign = "" if row.relation == "=" else f"{row.relation} "
            numbers = (sign + _number(row.expected), _number(row.got), _number(row.tolerance, "±"))
            table.add_row(Text(f"  {row.check}"), *numbers, verdict, f"{row.seconds:.1f}")
    return table


def _number(value: float | None, sign: str = "") -> str:
    """Six decimals, or an exponent for what six decimals would not show."""
    if value is None:
        return "n/a"
    return sign + (f"{value:.6f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}")
