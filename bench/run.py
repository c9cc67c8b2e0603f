"""A run: a suite, its cells in the store, and the folder that shows them.

    results/runs/<suite>-<hash of the resolved suite>/
        run.json                        suite as passed and as resolved, provenance of every call
        results.csv .json .parquet      one row a number
        report.html  report.md          the comparison page and its figures

The folder is a view of the store: it can be made again with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from bench import files, schema
from bench.cells import Cell, Planner, check_names
from bench.drivers.events import Event, Finished
from bench.drivers.place import ALONE, Place
from bench.errors import UsageError
from bench.records import Record, from_rows, to_frame, to_rows
from bench.runtime import Runtime
from bench.store import Store
from bench.suite import Suite

RUN = "run.json"
RESULTS = "results"


@dataclass(frozen=True)
class Run:
    """Where a suite's results are kept, under one results folder."""

    suite: Suite
    source: str
    results: Path

    @property
    def name(self) -> str:
        """`<suite>-<hash>`: the same command finds the same run."""
        return f"{self.suite.name}-{self.suite.digest}"

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.results / "runs" / self.name

    @property
    def store(self) -> Store:
        """The store that all runs of the results folder share."""
        return Store(self.results / "store")


def make_planner(suite: Suite, runtime: Runtime) -> Planner:
    """Check every name in the suite, load its data and make its cells; nothing is computed."""
    from bench.data import load
    from bench.metrics.feature_names import NAMES, find

    check_names(suite)
    data = _as_usage(load, suite.dataset)
    features = _as_usage(find, suite.quality.features)
    if features.external:
        raise UsageError(
            f"{features.name} has weights from elsewhere, and a suite measures with networks that come with "
            f"the package: {', '.join(name for name, one in NAMES.items() if not one.external)}. Measure "
            "images with it by `noisebench evaluate`."
        )
    return Planner(suite, data, runtime, features.identity)


def _as_usage(function: Any, argument: str) -> Any:
    try:
        return function(argument)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error


def execute(run: Run, planner: Planner, place: Place = ALONE) -> Iterator[Event]:
    """Compute what is missing and, as the process that leads, write the run's files; yields what happens."""
    from bench import provenance

    call = provenance.collect(planner.runtime)
    states = list(cell_states(run, planner))
    complete = all(state == "cached" for _, state in states)
    events = _from_store(run, states) if complete else _compute(run, planner, place)
    finished: list[Finished] = []
    try:
        for event in events:
            if isinstance(event, Finished):
                finished.append(event)
            yield event
    finally:
        # Also after Ctrl-C: what was finished is shown, what was not is simply missing.
        if place.leads:
            order = {(cell.kind, cell.label): index for index, (cell, _) in enumerate(states)}
            finished.sort(key=lambda event: order[event.cell.kind, event.cell.label])
            write_results(run, finished, call)


def _from_store(run: Run, states: Sequence[tuple[Cell, str]]) -> Iterator[Event]:
    """A complete run, read back without loading what computes."""
    for cell, _ in states:
        yield Finished(cell, "cached", run.store.records(cell.key))


def _compute(run: Run, planner: Planner, place: Place) -> Iterator[Event]:
    """The driver's events; a suite that cannot be computed is refused before anything is written."""
    from bench.drivers.in_process import InProcess
    from bench.workbench import Workbench, check_models

    check_models(planner)
    if planner.runtime.device == "cuda":  # of several processes on a machine, each has a GPU of its own
        import torch

        torch.cuda.set_device(place.local % torch.cuda.device_count())
    bench = Workbench(planner.data, run.store, planner.runtime, run.suite.quality.features)
    return InProcess(planner, bench, place).run()


def write_results(run: Run, finished: Sequence[Finished], call: dict[str, Any]) -> None:
    """run.json, traces of failures and the tables; two calls in one folder take turns."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(run.folder / ".lock"):
        files.sweep(run.folder)
        computed = sum(1 for event in finished if event.outcome == "ok")
        _append_call(run, {**call, "computed": computed, "cached": _count(finished, "cached")})
        for event in finished:
            if event.trace:
                files.write_text(run.folder / "errors" / f"{event.cell.key[:12]}.txt", event.trace)
        records = [record for event in finished for record in _records(run, event)]
        write_tables(run.folder, records)


def _count(finished: Sequence[Finished], outcome: str) -> int:
    return sum(1 for event in finished if event.outcome == outcome)


def _records(run: Run, event: Finished) -> list[Record]:
    """A cell's records as this run shows them; a failed cell is one row that says why."""
    named = {"run": run.name, "suite": run.suite.name}
    if event.outcome in ("ok", "cached"):
        # A cell is known by what it is, and each suite calls its models what it likes.
        called = {name: event.cell.row[name] for name in ("model", "options") if name in event.cell.row}
        return [record.replace(**named, **called) for record in event.records]
    metric = {"quality": "quality", "likelihood": "bits/dim"}.get(event.cell.kind, event.cell.kind)
    row = {**event.cell.row, **named, "dataset": run.suite.dataset, "metric": metric}
    if "weights_sha256" not in row or event.outcome == "skipped":
        row["cell_key"] = ""
    else:
        row["cell_key"] = event.cell.key
    return [Record(**row, status="failed" if event.outcome == "failed" else "skipped", error=event.error)]


def _append_call(run: Run, call: dict[str, Any]) -> None:
    path = run.folder / RUN
    old = _earlier_calls(path)
    files.write_json(
        path,
        {
            "schema": schema.VERSION,
            "run": run.name,
            "created": old.get("created", call["time"]),
            "spec": {"passed": run.source, "resolved": run.suite.model_dump(mode="json")},
            "provenance": [*old.get("provenance", []), call],
        },
    )


def _earlier_calls(path: Path) -> dict[str, Any]:
    """run.json as it was; a damaged one is put aside and begun anew, for the numbers are not in it."""
    if not path.is_file():
        return {}
    try:
        return read_run(path.parent)
    except UsageError:
        path.replace(path.with_suffix(".damaged"))
        return {}


def write_tables(folder: Path, records: Sequence[Record]) -> None:
    """results.json, .csv and .parquet, with the same rows in the same order."""
    import io

    frame = to_frame(records)
    rows = [files.canonical_json(row) for row in to_rows(records)]
    files.write_text(folder / f"{RESULTS}.json", "[\n" + ",\n".join(rows) + "\n]\n")
    files.write_text(folder / f"{RESULTS}.csv", frame.to_csv(index=False, lineterminator="\n"))
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    files.write_bytes(folder / f"{RESULTS}.parquet", buffer.getvalue())


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a run's folder, its calls and suite being there."""
    path = folder / RUN
    try:
        run = dict(json.loads(path.read_bytes()))
        if run["provenance"] and run["spec"]["resolved"]["name"]:
            return run
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no {RUN}: give the folder of a run.") from None
    except (ValueError, TypeError, KeyError):
        pass
    raise UsageError(f"{path} is damaged: run the suite again to make it anew.")


def read_records(folder: Path) -> list[Record]:
    """The records of a run's folder."""
    path = folder / f"{RESULTS}.json"
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no {path.name}: give the folder of a run, as `noisebench run` printed it."
        )
    try:
        run = folder / RUN
        version = json.loads(run.read_text()).get("schema", 1) if run.is_file() else schema.VERSION
        return from_rows(schema.migrated(json.loads(path.read_text()), version, str(folder)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): run the suite again to make it anew.") from error


def cell_states(run: Run, planner: Planner) -> Iterator[tuple[Cell, str]]:
    """Every cell with `cached`, `missing`, or `waits` where its weights are still to be trained."""
    store = run.store
    for cell in planner.references():
        yield cell, "cached" if store.is_finished(cell.key) else "missing"
    for label in planner.suite.models:
        training = planner.training(label)
        trained = store.is_finished(training.key)
        yield training, "cached" if trained else "missing"
        family, native = planner.traits(label)
        weights = store.records(training.key)[0].weights_sha256 if trained else ""
        for cell in planner.dependents(label, family, native, weights):
            known = trained and store.is_finished(cell.key)
            yield cell, "cached" if known else "missing" if trained else "waits"
