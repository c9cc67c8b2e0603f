"""Ray starts the processes: one that leads and others that help, on this machine or on a cluster.

Each is a task that runs the same loop as a process started by hand, and they share nothing but the results
folder, which on a cluster must lie on a file system that all of its machines see. A process that died is
started again, twice at most, and never one that failed by an error of Python: that is a defect. What all of
them yield comes back to the caller, who prints it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from bench.drivers.events import Event, Of
from bench.drivers.place import Place
from bench.errors import UsageError
from bench.run import Run, cell_states, execute, make_planner
from bench.runtime import Runtime

RETRIES = 2
TEMPORARY = f"/tmp/noisebench-ray-{os.getuid()}"
"""Short, because the sockets of a cluster of our own lie there, and their paths have 107 bytes at most."""


def execute_by_ray(
    run: Run, runtime: Runtime, *, workers: int = 2, address: str = "", gpus: float = 1.0
) -> Iterator[Event | Of]:
    """The events of a run that `workers` processes compute between them.

    address  of a cluster, such as auto; empty for one of its own on this machine
    gpus     of each process on a machine with GPUs; 0.5 puts two on one
    """
    if workers < 1:
        raise UsageError(f"--workers must be at least 1, and {workers} was given.")
    planner = make_planner(run.suite, runtime)
    if all(state == "cached" for _, state in cell_states(run, planner)):
        yield from execute(run, planner)
        return
    ray = _ray()
    ray.init(
        address=address or None,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        **({} if address else {"num_cpus": max(workers, os.cpu_count() or 1), "_temp_dir": TEMPORARY}),
    )
    needs = {"num_gpus": gpus if runtime.device == "cuda" else 0, "num_cpus": 1, "retry_exceptions": False}
    try:
        task = ray.remote(max_retries=0, num_returns="streaming", **needs)(_work)
        yield from _followed(ray, lambda rank: task.remote(run, runtime, Place(rank, workers)), workers)
    finally:
        ray.shutdown()


def _followed(ray: Any, start: Callable[[int], Any], workers: int) -> Iterator[Of]:
    """What all processes yield, as it comes, until the one that leads has ended: it waits for all cells.

    Where one dies another takes its place and finds its shards.
    """
    at_work = {rank: start(rank) for rank in range(workers)}
    deaths = dict.fromkeys(at_work, 0)
    while 0 in at_work:
        ready, _ = ray.wait(list(at_work.values()), num_returns=1)
        for rank in [rank for rank, stream in at_work.items() if stream in ready]:
            try:
                yield Of(rank, ray.get(next(at_work[rank])))
            except StopIteration:
                del at_work[rank]
            except ray.exceptions.WorkerCrashedError:
                deaths[rank] += 1
                del at_work[rank]
                if deaths[rank] <= RETRIES:
                    at_work[rank] = start(rank)
                elif rank == 0:
                    raise UsageError(
                        f"The process that leads died {deaths[rank]} times: look for what killed it, such as "
                        "too little memory; what was finished is in the store, and the same command goes on."
                    ) from None


def _work(run: Run, runtime: Runtime, place: Place) -> Iterator[Event]:
    yield from execute(run, make_planner(run.suite, runtime), place)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--driver ray needs Ray: pip install 'noisebench[ray]'.") from None
    return ray
