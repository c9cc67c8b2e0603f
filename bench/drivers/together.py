"""Trainings that the processes of one launcher share, before all else: there all of them are at one place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import filelock

from bench.cells import Cell
from bench.drivers.events import Event, Finished, Noted
from bench.drivers.group import Group, GroupBroken
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.drivers.in_process import InProcess


def train_together(driver: InProcess) -> Iterator[Event]:
    """Every training of several micro-batches; where a process dies, the others are left to go on alone."""
    models = driver.planner.suite.models
    shared = [label for label, model in models.items() if model.training.micro_batches > 1]
    if driver.place.world == 1 or not shared:
        return
    group = Group.meet(driver.place, driver.bench.runtime.device)
    if group is None:
        yield Noted(
            f"{' and '.join(shared)} will be trained by one process: the others did not come, or the "
            "launcher did not set MASTER_ADDR and MASTER_PORT."
        )
        return
    try:
        for label in shared:
            yield from _train(driver, label, group)
    except GroupBroken as reason:
        yield Noted(f"A process left the others ({reason}): training goes on in one, from its checkpoint.")
    finally:
        group.close()


def _train(driver: InProcess, label: str, group: Group) -> Iterator[Event]:
    """One training, if process 0 finds that it is to be done."""
    planner, started = driver.planner, time.perf_counter()
    cell, base = planner.training(label), planner.suite.models[label].builds_on
    if base and cell.weights not in driver.trained_together:
        below = planner.training(base)
        driver.trained_together.add(below.key)
        yield from driver.guarded(below, driver.train(below))
    lock = driver.store.lock(cell.key)
    try:
        free = group.rank == 0 and _is_free(driver, cell, lock)
        if not group.told(int(free), driver.bench.runtime.device):
            return
        members = group.first(planner.suite.models[label].training.micro_batches)
        if group.rank < members.size:
            yield from driver.train(cell, members)
        if group.rank == 0:
            driver.trained_together.add(cell.key)
            yield Finished(cell, "ok", driver.store.records(cell.key), time.perf_counter() - started)
    except (GroupBroken, UsageError):
        raise
    except Exception as failure:  # alone it will fail again, and be reported
        raise GroupBroken(f"{type(failure).__name__} in process {group.rank}") from failure
    finally:
        lock.release()


def _is_free(driver: InProcess, cell: Cell, lock: filelock.BaseFileLock) -> bool:
    """Whether a training is to be done and nobody is at it; its lock is held then."""
    if cell.weights and not driver.store.is_finished(cell.weights):
        return False
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    driver.store.discard_damage(cell.key)
    return not driver.store.is_finished(cell.key)
