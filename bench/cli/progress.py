"""Follows a run: a bar for the cell at work where there is a terminal, one line a finished cell anywhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bench.cells import Cell, Planner
from bench.cli.tables import duration
from bench.drivers.events import Advanced, Event, Finished, Noted, Of, Started, Waiting
from bench.drivers.place import ALONE, Place
from bench.estimates import Estimator
from bench.records import Record
from bench.run import Run, cell_states, execute

console = Console(highlight=False, soft_wrap=True)


def follow(
    run: Run,
    planner: Planner,
    place: Place = ALONE,
    *,
    events: Iterator[Event | Of] | None = None,
    quiet: bool = False,
    plain: bool = False,
) -> int:
    """Run, print and write the report; returns how many cells failed. Of several processes one prints.

    events  of a driver that starts processes of its own

    quiet  failures and the report's place alone;  plain  no bar, nothing but lines
    """
    from bench.present import write_report

    if not place.leads:
        return sum(
            event.outcome in ("failed", "skipped")
            for event in execute(run, planner, place)
            if isinstance(event, Finished)
        )
    started = time.perf_counter()
    remaining = {} if quiet else announce(run, planner)
    outcomes: dict[str, str] = {}
    with _Screen(remaining, quiet=quiet, plain=plain) as screen:
        for each in execute(run, planner, place) if events is None else events:
            rank, event = (each.rank, each.event) if isinstance(each, Of) else (0, each)
            if isinstance(event, Finished):
                told = outcomes.get(_title(event.cell))
                if told in ("ok", event.outcome):  # what one process computed, the others find
                    screen.drop(rank)
                    continue
                outcomes[_title(event.cell)] = event.outcome
            screen.show(event, rank)
    counts = Counter(outcomes.values())
    page = write_report(run.folder, run.store.root)
    bad = counts["failed"] + counts["skipped"]
    failures = f", {counts['failed']} failed, {counts['skipped']} skipped" if bad else ""
    if not quiet:
        console.print(
            f"{counts['ok']} computed, {counts['cached']} cached{failures} "
            f"in {duration(time.perf_counter() - started)}."
        )
    console.print(f"Report: {page}")
    return bad


def announce(run: Run, planner: Planner) -> dict[str, float]:
    """Say what is to be done before doing it; returns the expected seconds of each missing cell."""
    estimator = Estimator(run.store)
    states = list(cell_states(run, planner))
    missing = [cell for cell, state in states if state != "cached"]
    expected = {_title(cell): estimator.of(cell) for cell in missing}
    unknown = sum(1 for estimate in expected.values() if estimate.source == "unknown")
    seconds = sum(estimate.seconds for estimate in expected.values())
    size = sum(estimate.bytes for estimate in expected.values())
    console.print(
        f"{run.name}: {len(states)} cells, {len(states) - len(missing)} cached, {len(missing)} to compute"
        + (f", about {duration(seconds)} and {size / 1e6:.1f} MB" if seconds else "")
        + (f" ({unknown} of unknown cost)" if unknown else "")
        + f"; {planner.runtime.device}, {planner.runtime.threads} threads."
    )
    return {title: estimate.seconds for title, estimate in expected.items()}


def _title(cell: Cell) -> str:
    return f"{cell.kind} {cell.label}"


class _Screen:
    """Owns the terminal while cells are computed."""

    def __init__(self, remaining: dict[str, float], *, quiet: bool = False, plain: bool = False) -> None:
        self._remaining, self._quiet = remaining, quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f} % {task.fields[state]}"),
            console=console,
            transient=True,
            disable=quiet or plain or not console.is_terminal,
        )
        self._tasks: dict[int, TaskID] = {}
        self._since: dict[int, tuple[float, int]] = {}

    def __enter__(self) -> _Screen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, event: Event, rank: int = 0) -> None:
        """Draw one event of a process: each has a bar."""
        if isinstance(event, Started):
            self._start(event, rank)
        elif isinstance(event, Advanced):
            self._advance(event, rank)
        elif isinstance(event, Waiting):
            if not self._quiet:
                console.print(f"wait    {event.cell.label}: {event.reason}")
        elif isinstance(event, Noted):
            console.print(f"note    {event.text}", markup=False)
        else:
            self._finish(event, rank)

    def _start(self, event: Started, rank: int) -> None:
        self.drop(rank)
        self._since[rank] = (time.perf_counter(), event.done)
        self._tasks[rank] = self._bar.add_task(
            event.cell.label, total=event.total, completed=event.done, state=self._left(event.cell)
        )

    def _advance(self, event: Advanced, rank: int) -> None:
        if rank not in self._tasks:
            return
        since, done = self._since[rank]
        speed = (event.done - done) / max(time.perf_counter() - since, 1e-9)
        unit = "steps/s" if event.cell.kind == "training" else "images/s"
        left = (event.total - event.done) / max(speed, 1e-9)
        state = ", ".join(filter(None, [f"{speed:,.0f} {unit}", event.note, self._left(event.cell, left)]))
        self._bar.update(self._tasks[rank], completed=event.done, state=state)

    def _left(self, cell: Cell, seconds: float | None = None) -> str:
        """Time left for the cell, where it can be told, and for the whole run, where its cost is known."""
        rest = sum(cost for title, cost in self._remaining.items() if title != _title(cell))
        own = self._remaining.get(_title(cell), 0.0) if seconds is None else seconds
        cell_left = f"{duration(own)} left" if own else ""
        return ", ".join(filter(None, [cell_left, f"{duration(own + rest)} in all" if rest >= 1 else ""]))

    def drop(self, rank: int) -> None:
        """Remove the bar of a process."""
        if rank in self._tasks:
            self._bar.remove_task(self._tasks.pop(rank))

    def _finish(self, event: Finished, rank: int) -> None:
        self.drop(rank)
        self._remaining.pop(_title(event.cell), None)
        if event.outcome == "cached" or (self._quiet and event.outcome == "ok"):
            return
        if event.outcome == "ok":
            line = f"ok      {event.cell.label}: {_headline(event.records)} ({duration(event.seconds)})"
        else:
            line = f"{event.outcome:7} {event.cell.label}: {event.error}"
        console.print(line, markup=False)


def _headline(records: list[Record]) -> str:
    """The first number of a cell, with its interval."""
    record = records[0]
    if record.value is None:
        return f"{record.metric} n/a, {record.protocol}"
    interval = "" if record.low is None else f" [{record.low:.4g}, {record.high:.4g}]"
    return f"{record.metric} {record.value:.4g}{interval}" + (f" {record.unit}" if record.unit else "")
