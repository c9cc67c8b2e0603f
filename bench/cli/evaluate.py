"""What `noisebench evaluate` prints: numbers with their intervals, or JSON, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from bench import files
from bench.errors import UsageError
from bench.evaluate import Evaluated, evaluate
from bench.evaluate.evaluation import real_images, save_features, statistics
from bench.evaluate.pairs import pictures
from bench.images import open_images
from bench.metrics.statistics_file import Statistics
from bench.records import Record, to_frame, to_rows

console = Console(highlight=False)
notes = Console(highlight=False, stderr=True)

SHOWN = 10
"""Names of damaged images that are printed of each set."""


def show_evaluation(
    source: str,
    against: str,
    held_out: str,
    features: str,
    weights: Path | None,
    metrics: Sequence[str],
    output: Path | None,
    save: Path | None,
    save_each: Path | None,
    pairs: Path | None,
    as_json: bool,
    *,
    n: int | None,
    seed: int,
    column: str,
    skip_damaged: bool,
    sampling: Mapping[str, Any],
    arithmetic: Mapping[str, Any],
) -> bool:
    """Measure, print, write; True. UsageError with one sentence for what cannot be measured."""
    from bench.metrics.features import feature_network

    if save is not None and save.suffix != ".safetensors":
        raise UsageError(f"--save-statistics takes a file that ends in .safetensors, and not {save}.")
    if save_each is not None and save_each.suffix != ".parquet":
        raise UsageError(f"--save-features takes a file that ends in .parquet, and not {save_each}.")
    if output is not None and output.suffix not in (".csv", ".json"):
        raise UsageError(f"--output takes a file that ends in .csv or .json, and not {output}.")
    try:
        options: dict[str, Any] = {"skip_damaged": skip_damaged}
        network = feature_network(features, weights, **arithmetic)
        images = open_images(source, n=n, seed=seed, column=column, **options, **sampling)
        options["levels"] = network.levels
        real = real_images(against, **options)
        unseen = real_images(held_out, **options) if held_out else None
        if isinstance(unseen, Statistics):
            raise ValueError("--held-out takes images, and statistics are none.")
        with _Bars() as bars:
            found = evaluate(
                images, real, network, metrics, held_out=unseen, seed=seed, progress=bars.show, model=source
            )
        if pairs is not None:
            if isinstance(real, Statistics):
                raise ValueError("--pairs shows real images, and statistics hold none.")
            files.write_bytes(pairs, pictures(found, images, real, levels=network.levels))
        if save is not None:
            statistics(found.generated, network).save(save)
        if save_each is not None:
            save_features(found.generated, network, save_each)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if output is not None:
        _write(output, found.records)
    if as_json:
        print(json.dumps({"records": to_rows(found.records), "damaged": found.damaged}, allow_nan=False))
    else:
        console.print(_table(found.records))
        for record in found.records:
            console.print(f"  {record.metric}: {record.protocol}", style="dim", markup=False, soft_wrap=True)
    _tell(found)
    return True


def sampling(
    sampler: str, steps: int | None, guidance: float | None, labels: Sequence[str], prompts: Path | None
) -> dict[str, Any]:
    """What was said of a pipeline, by the names that it takes; UsageError for a file that cannot be read."""
    if labels and prompts:
        raise UsageError("A pipeline draws labels or captions: give --labels or --prompts.")
    told: list[str] = list(labels)
    if prompts is not None:
        try:
            told = [line.strip() for line in prompts.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--prompts {prompts} cannot be read ({error}).") from error
    found = {"sampler": sampler, "steps": steps, "guidance": guidance, "told": told}
    return {name: value for name, value in found.items() if value not in ("", None, [])}


def _table(records: Sequence[Record]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("metric", "value", "95 % interval", "n"):
        table.add_column(name, justify="left" if name == "metric" else "right", no_wrap=name != "metric")
    for record in records:
        interval = "" if record.low is None else f"[{record.low:.4g}, {record.high:.4g}]"
        # Brackets would be read as markup.
        table.add_row(record.metric, f"{record.value:.4g}", interval.replace("[", r"\["), str(record.n))
    return table


def _write(path: Path, records: Sequence[Record]) -> None:
    if path.suffix == ".json":
        files.write_json(path, to_rows(records))
    else:
        files.write_text(path, to_frame(records).to_csv(index=False))


def _tell(found: Evaluated) -> None:
    """On standard error, so that JSON stays JSON."""
    for role, names in found.damaged.items():
        notes.print(f"{len(names)} {role} images were left out:", markup=False)
        for name in names[:SHOWN]:
            notes.print(f"  {name}", markup=False)
        if len(names) > SHOWN:
            notes.print(f"  and {len(names) - SHOWN} more")


class _Bars:
    """A bar a set of images, on a terminal only."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self.progress = Progress(*columns, console=notes, disable=not notes.is_terminal, transient=True)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, what: str, done: int, of: int) -> None:
        """`done` of `of` images of a set are read."""
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what, total=of)
        self.progress.update(self.tasks[what], completed=done)
