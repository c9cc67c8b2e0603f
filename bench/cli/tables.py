"""What the reading verbs print, as tables for people or JSON for programs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bench import registry
from bench.errors import UsageError, unknown
from bench.estimates import Estimator
from bench.suite import METRICS, load_suite
from bench.suite_text import builtin_names

if TYPE_CHECKING:
    from bench.cells import Planner
    from bench.doctor import Examination
    from bench.run import Run

console = Console(highlight=False)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _print(rows: Sequence[Mapping[str, Any]], as_json: bool, title: str = "") -> None:
    if as_json:
        print(json.dumps(list(rows), ensure_ascii=False))
        return
    table = Table(title=title or None, box=None, title_justify="left", pad_edge=False)
    for name in rows[0] if rows else []:
        numeric = all(isinstance(row[name], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


def show_plan(run: Run, planner: Planner, as_json: bool, processes: int = 1) -> None:
    """Every cell with its state and expected cost, then the sum; and the time that more processes leave."""
    from bench.drivers.wall_time import enough, plan_seconds
    from bench.run import cell_states

    estimator = Estimator(run.store)
    cells = [(cell, state, estimator.of(cell)) for cell, state in cell_states(run, planner)]
    rows = [
        {
            "cell": cell.label,
            "kind": cell.kind,
            "state": state,
            "seconds": None if state == "cached" or cost.source == "unknown" else round(cost.seconds, 1),
            "megabytes": None if cost.source == "unknown" else round(cost.bytes / 1e6, 2),
            "cost known from": "" if state == "cached" else cost.source,
        }
        for cell, state, cost in cells
    ]
    missing = [cost for _, state, cost in cells if state != "cached"]
    seconds, size = sum(c.seconds for c in missing), sum(c.bytes for c in missing)
    blind = sum(1 for cost in missing if cost.source == "unknown")
    total = {"run": run.name, "cells": len(cells), "missing": len(missing), "seconds": round(seconds, 1)}
    total |= {"megabytes": round(size / 1e6, 2), "of unknown cost": blind}
    costs = [(cell, cost.seconds) for cell, state, cost in cells if state != "cached"]
    doubled = [2**k for k in range(processes.bit_length())]
    several = {p: plan_seconds(costs, p) for p in sorted({*doubled, processes})} if processes > 1 else {}
    if several:
        total["seconds by processes"] = {str(p): round(each, 1) for p, each in several.items()}
    if as_json:
        print(json.dumps({**total, "plan": rows}, ensure_ascii=False))
        return
    _print([{k: "" if v is None else v for k, v in row.items()} for row in rows], as_json)
    console.print(
        f"{run.name}: {len(cells)} cells, {len(cells) - len(missing)} cached, {len(missing)} to compute, "
        f"about {duration(seconds)} and {size / 1e6:.1f} MB"
        + (f", {blind} of unknown cost." if blind else ".")
    )
    if several:
        _print([{"processes": p, "time": duration(each)} for p, each in several.items()], as_json)
        console.print(f"Twice as many as {enough(costs)} save less than a tenth of the time.")


def _suites() -> list[dict[str, Any]]:
    return [{"suite": name, "description": load_suite(name).description} for name in builtin_names()]


def _models() -> list[dict[str, Any]]:
    """The catalogue from noise to structure, then what other packages offer."""
    rows = [
        {
            "model": name,
            "family": builtin.family,
            "likelihood": builtin.likelihood,
            "samples by": builtin.native_sampler or "any sampler",
        }
        for name, builtin in registry.BUILTIN.items()
    ]
    offered = sorted(set(registry.names()) - set(registry.BUILTIN))
    return rows + [
        {"model": name, "family": registry.names()[name], "likelihood": "", "samples by": ""}
        for name in offered
    ]


def _samplers() -> list[dict[str, Any]]:
    from models.samplers.catalogue import ENTRIES

    return [
        {
            "sampler": entry.name,
            "evaluations of N steps": entry.evaluations,
            "order": entry.order,
            "own grid": entry.native_grid,
            "options": ", ".join(f"{name}={option.default}" for name, option in entry.options.items()),
            "summary": entry.summary,
        }
        for entry in ENTRIES.values()
    ]


def _grids() -> list[dict[str, Any]]:
    from models.grids import GRIDS

    return [
        {
            "grid": entry.name,
            "options": ", ".join(f"{name}={option.default}" for name, option in entry.options.items()),
            "summary": entry.summary,
        }
        for entry in GRIDS.values()
    ]


def _datasets() -> list[dict[str, Any]]:
    from bench import data

    return [{"dataset": name, "description": data.description(name)} for name in data.names()]


def _features() -> list[dict[str, Any]]:
    from bench.metrics.feature_names import NAMES

    return [{"features": name.name, "distance": name.metric} for name in NAMES.values()]


def _measures() -> list[dict[str, Any]]:
    from bench.evaluate.measures import MEASURES

    return [{"measure": name, "what": measure.says} for name, measure in MEASURES.items()]


def _runs(results: Path) -> list[dict[str, Any]]:
    from bench.present import run_folders
    from bench.run import read_run

    rows = []
    for folder in run_folders(results):
        row = {"run": folder.name, "suite": "damaged: see doctor", "last call": "", "folder": str(folder)}
        with contextlib.suppress(UsageError):
            run = read_run(folder)
            row |= {"suite": run["spec"]["passed"], "last call": run["provenance"][-1]["time"]}
        rows.append(row)
    return rows


def show_list(what: str, results: Path, as_json: bool) -> None:
    """One list, or all of them one below the other."""
    lists: dict[str, Any] = {
        "suites": _suites,
        "models": _models,
        "samplers": _samplers,
        "grids": _grids,
        "datasets": _datasets,
        "metrics": lambda: [{"metric": name} for name in METRICS],
        "features": _features,
        "measures": _measures,
        "runs": lambda: _runs(results),
    }
    if what and what not in lists:
        raise unknown("list", what, lists)
    if what:
        _print(lists[what](), as_json)
    elif as_json:
        print(json.dumps({name: rows() for name, rows in lists.items()}, ensure_ascii=False))
    else:
        for name, rows in lists.items():
            _print(rows(), as_json, title=name)
            console.print()


def show_examination(found: Examination, as_json: bool) -> None:
    """Versions, then each finding with its remedy."""
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False))
        return
    for name, value in found.environment.items():
        console.print(f"{name:14} {value}")
    console.print(
        f"{'store':14} {found.cells} finished cells, {found.unfinished} unfinished, {found.busy} at work, "
        f"{found.bytes / 1e6:.1f} MB; {found.free / 1e9:.1f} GB free"
    )
    for finding in found.findings:
        console.print(f"{'fixed' if finding.fixed else 'found':6} {finding.what}", markup=False)
    console.print(
        "All well." if found.healthy else "Run `noisebench doctor --repair` to remove what is damaged."
    )
