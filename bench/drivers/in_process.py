"""The default driver: this process computes every missing shard, one after another.

Trainings come first, each followed by its model's quality and likelihood; timings come last and
alternate. A cell's lock is held while it is trained or timed; the shards of a cell are claimed one by one.
So any number of processes in one folder, started by hand or by a launcher, do every training and every shard
once between them; what a process held when it died is free again. While one trains a model, others take the
next; what a launcher started trains a model of several micro-batches together, before all else.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from typing import Literal

import filelock

from bench.cells import Cell, Planner
from bench.drivers.events import Advanced, Event, Finished, Noted, Started, Waiting
from bench.drivers.group import Group
from bench.drivers.pace import seconds_of_fixed_work
from bench.drivers.place import ALONE, Place
from bench.drivers.together import train_together
from bench.drivers.wall_time import TIMED
from bench.errors import CellFailed, UsageError
from bench.memory import NARROWED, is_exhausted
from bench.metrics.bits import Anchors, Bits
from bench.metrics.certificates import Certificates
from bench.metrics.quality import Floor, Quality
from bench.metrics.scaling import Scaling
from bench.metrics.throughput import Throughput
from bench.store import PACE, Part, machine_lock
from bench.train_cell import train_cell
from bench.workbench import Measurement, Workbench

POLL = 0.2
"""Seconds between two looks at what other processes have done."""


class InProcess:
    """Runs the cells of a plan and yields what happens."""

    def __init__(self, planner: Planner, bench: Workbench, place: Place = ALONE) -> None:
        self.planner, self.bench, self.store, self.place = planner, bench, bench.store, place
        # Computing shares the machine with other computing, never with a timing.
        self._machine = machine_lock()
        self.trained_together: set[str] = set()
        self._measurements: dict[str, Measurement] = {
            "anchors": Anchors(),
            "floor": Floor(),
            "certificate": Certificates(),
            "quality": Quality(),
            "likelihood": Bits(),
            "throughput": Throughput(),
            "scaling": Scaling(),
        }

    def run(self) -> Iterator[Event]:
        """Everything the plan asks for that is missing; what is there is reported as cached."""
        yield from train_together(self)
        for cell in self.planner.references():
            yield from self.shared(cell)
        timings: dict[str, list[Cell]] = {}
        left = list(self.planner.suite.models)
        while left:
            # With nothing else to do, it waits for the first.
            label = next((label for label in left if not self._elsewhere(label, left)), left[0])
            left.remove(label)
            yield from self._model(label, timings.setdefault(label, []))
        if self.place.leads:  # a timing has the machine to itself, whatever else runs here
            yield from self._time([cell for label in self.planner.suite.models for cell in timings[label]])

    def _elsewhere(self, label: str, left: list[str]) -> bool:
        """Whether another process trains a model now, or this one has yet to see to what it builds on."""
        if self.store.is_finished(self.planner.training(label).key):
            return False
        if self.planner.suite.models[label].builds_on in left:
            return True
        try:
            with self.store.lock(self.planner.training(label).key).acquire(timeout=0):
                return False
        except filelock.Timeout:
            return True

    def _model(self, label: str, timings: list[Cell]) -> Iterator[Event]:
        training = self.planner.training(label)
        if training.weights and not self.store.is_finished(training.weights):
            base = self.planner.suite.models[label].builds_on
            yield Finished(training, "skipped", error=f"{base}, which it builds on, was not trained")
        elif training.key not in self.trained_together:
            yield from self.guarded(training, self.train(training))
        family, native = self.planner.traits(label)
        if not self.store.is_finished(training.key):
            for cell in self.planner.dependents(label, family, native, ""):
                yield Finished(cell, "skipped", error=f"{label} was not trained: see its training")
            return
        weights = self.store.records(training.key)[0].weights_sha256
        for cell in self.planner.dependents(label, family, native, weights):
            if cell.kind in TIMED:
                timings.append(cell)
            else:
                yield from self.shared(cell)

    def guarded(self, cell: Cell, work: Iterator[Event]) -> Iterator[Event]:
        """The events of a cell's work under its lock; a failure ends the cell, not the run.

        Ends with `Finished` once the cell is sealed or has failed; without it when more rounds follow.
        """
        lock = self.store.lock(cell.key)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            yield Waiting(cell, "another process is computing it")
            lock.acquire()
        started = time.perf_counter()
        try:
            if self.store.is_finished(cell.key):
                yield Finished(cell, "cached", self.store.records(cell.key))
                return
            self.store.discard_damage(cell.key)
            yield from work
            if self.store.is_finished(cell.key):
                yield Finished(cell, "ok", self.store.records(cell.key), time.perf_counter() - started)
        except UsageError:
            raise
        except Exception as failure:  # a defect in one model must not take the others down
            yield _failed(cell, failure, time.perf_counter() - started)
        finally:
            lock.release()

    def train(self, cell: Cell, group: Group | None = None) -> Iterator[Event]:
        """One training, alone or as one of a group; its lock is held by the caller."""
        if group is None or group.rank == 0:
            self.store.begin(cell.key, cell.kind, cell.spec)
        entry = self.planner.suite.models[str(cell.row["model"])]
        yield from self._machine_free(cell, timing=False)
        with self._machine.read_lock():
            for index, at in enumerate(train_cell(cell, entry, self.bench, group)):
                if index == 0:
                    yield Started(cell, at.step, at.steps)
                else:
                    yield Advanced(cell, at.step, at.steps, f"loss {at.loss:.3f}")

    def _machine_free(self, cell: Cell, timing: bool) -> Iterator[Event]:
        """Say so if the machine must be waited for."""
        acquire = self._machine.acquire_write if timing else self._machine.acquire_read
        try:
            acquire(blocking=False)
            self._machine.release()
        except filelock.Timeout:
            other = "is computing" if timing else "is timing"
            yield Waiting(cell, f"another noisebench process {other} on this machine")

    def shared(self, cell: Cell) -> Iterator[Event]:
        """Compute the shards of a cell that nobody else is at, wait for the others, then make its numbers."""
        started = time.perf_counter()
        with self.store.lock(cell.key):
            if self.store.is_finished(cell.key):
                yield Finished(cell, "cached", self.store.records(cell.key))
                return
            self.store.discard_damage(cell.key)
            self.store.begin(cell.key, cell.kind, cell.spec)
        try:
            yield from self._parts(cell)
            with self.store.lock(cell.key):
                outcome: Literal["ok", "cached"] = "cached" if self.store.is_finished(cell.key) else "ok"
                if outcome == "ok":
                    self._seal(cell)
            yield Finished(cell, outcome, self.store.records(cell.key), time.perf_counter() - started)
        except UsageError:
            raise
        except Exception as failure:  # a defect in one model must not take the others down
            yield _failed(cell, failure, time.perf_counter() - started)

    def _parts(self, cell: Cell) -> Iterator[Event]:
        """The missing shards, own stretch first, until all are there and whole."""
        total, seen, waiting = sum(cell.items), set[int](), False
        order = [index % cell.parts for index in self.place.first(cell.parts)]
        yield Started(cell, self._done(cell), total)
        while missing := [index for index in order if not self._there(cell, index, seen)]:
            computed = 0
            for index in missing:
                with self.store.claim(cell.key, index) as mine:
                    if not mine or self._there(cell, index, seen):
                        continue
                    yield from self._machine_free(cell, timing=False)
                    with self._machine.read_lock():
                        part = self._compute(cell, index)
                    computed += 1
                    if NARROWED in part.info:
                        used = part.info[NARROWED]
                        yield Noted(
                            f"{cell.label}, shard {index}: memory ran out; {used} images at a time did."
                        )
                yield Advanced(cell, self._done(cell), total)
            if not computed and any(not self._there(cell, index, seen) for index in missing):
                if not waiting:
                    yield Waiting(cell, "another process is computing it")
                waiting = True
                time.sleep(POLL)
                yield Advanced(cell, self._done(cell), total)

    def _there(self, cell: Cell, index: int, seen: set[int]) -> bool:
        """Whether a shard is in the store and can be read; each is read once to see."""
        if index not in seen and self.store.load_part(cell.key, index) is not None:
            seen.add(index)
        return index in seen

    def _done(self, cell: Cell) -> int:
        """Items whose part exists, whoever computed it."""
        return sum(
            size for index, size in enumerate(cell.items) if self.store.part_path(cell.key, index).is_file()
        )

    def _compute(self, cell: Cell, index: int) -> Part:
        part = self._measurements[cell.kind].part(cell, index, self.bench)
        if cell.kind in TIMED:
            pace = seconds_of_fixed_work(self.bench.runtime.device)
            part = Part(part.arrays, {**part.info, PACE: pace})
        self.store.save_part(cell.key, index, part)
        return part

    def _seal(self, cell: Cell) -> None:
        """Numbers are always made from what is on disk, so a resumed cell ends like any other."""
        parts = [self.store.load_part(cell.key, index) for index in range(cell.parts)]
        whole: list[Part] = [part for part in parts if part is not None]
        if len(whole) != cell.parts:
            raise CellFailed("a shard of it disappeared from the store; run the same command again")
        self.store.finish(cell.key, self._measurements[cell.kind].records(cell, whole, self.bench))

    def _time(self, cells: list[Cell]) -> Iterator[Event]:
        """Timed rounds over all cells, alternating; each timing has the machine to itself."""
        open_cells = {cell.key: cell for cell in cells}
        for index in range(max((cell.parts for cell in cells), default=0)):
            for cell in list(open_cells.values()):
                for event in self.guarded(cell, self._round(cell, index)):
                    if isinstance(event, Finished):
                        del open_cells[cell.key]
                    yield event

    def _round(self, cell: Cell, index: int) -> Iterator[Event]:
        """One timed trajectory of a cell, and its numbers after the last."""
        if index == 0:
            self.store.begin(cell.key, cell.kind, cell.spec)
        yield Started(cell, sum(cell.items[:index]), sum(cell.items))
        if self.store.load_part(cell.key, index) is None:
            yield from self._machine_free(cell, timing=True)
            with self._machine.write_lock():
                self._compute(cell, index)
        yield Advanced(cell, sum(cell.items[: index + 1]), sum(cell.items))
        if index == cell.parts - 1:
            self._seal(cell)


def _failed(cell: Cell, failure: Exception, seconds: float) -> Finished:
    """What the report says of a failure: our own sentence, or the exception with its trace beside it."""
    if isinstance(failure, CellFailed):
        return Finished(cell, "failed", seconds=seconds, error=str(failure))
    sentence = f"{type(failure).__name__}: {' '.join(str(failure).split()) or 'no message'}"
    if is_exhausted(failure):
        remedy = (
            "set training.micro_batches to 2 or more"
            if cell.kind == "training"
            else "make the batch or the model smaller"
        )
        sentence = f"memory ran out: {remedy} ({sentence})"
    return Finished(cell, "failed", seconds=seconds, error=sentence, trace=traceback.format_exc())
