"""Ray starts the processes: one that leads and others that help, on this machine or on a cluster.

Each is a task that runs the same loop as a process started by hand, and they share nothing but the results
folder, which on a cluster must lie on a file system that all of its machines see. Ray starts a task again
whose process died, twice at most, and never one that failed by an error of Python: that is a defect. What the
lead yields comes back to the caller, who prints it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from bench.drivers.events import Event
from bench.drivers.place import Place
from bench.errors import UsageError
from bench.run import Run, cell_states, execute, make_planner
from bench.runtime import Runtime

RETRIES = 2
TEMPORARY = f"/tmp/noisebench-ray-{os.getuid()}"
"""Short, because the sockets of a cluster of our own lie there, and their paths have 107 bytes at most."""
PATIENCE = 60.0
"""Seconds that helpers have to end once the lead is done."""


def execute_by_ray(
    run: Run, runtime: Runtime, *, workers: int = 2, address: str = "", gpus: float = 1.0
) -> Iterator[Event]:
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
        helping = ray.remote(max_retries=RETRIES, **needs)(_help)
        helpers = [helping.remote(run, runtime, Place(rank, workers)) for rank in range(1, workers)]
        yield from _led(ray, needs, run, runtime, workers)
        if helpers:  # the lead has waited for their shards: what they do now is to see that nothing is left
            ray.wait(helpers, num_returns=len(helpers), timeout=PATIENCE)
    finally:
        ray.shutdown()


def _led(ray: Any, needs: dict[str, Any], run: Run, runtime: Runtime, workers: int) -> Iterator[Event]:
    """The events of the process that leads; where it dies another takes its place and finds its shards."""
    leading = ray.remote(max_retries=0, num_returns="streaming", **needs)(_lead)
    for attempt in range(RETRIES + 1):
        try:
            for event in leading.remote(run, runtime, Place(0, workers)):
                yield ray.get(event)
            return
        except ray.exceptions.WorkerCrashedError:
            if attempt == RETRIES:
                raise UsageError(
                    f"The process that leads died {RETRIES + 1} times: look for what killed it, such as too "
                    "little memory; what was finished is in the store, and the same command goes on."
                ) from None


def _lead(run: Run, runtime: Runtime, place: Place) -> Iterator[Event]:
    yield from execute(run, make_planner(run.suite, runtime), place)


def _help(run: Run, runtime: Runtime, place: Place) -> None:
    for _ in execute(run, make_planner(run.suite, runtime), place):
        pass


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--driver ray needs Ray: pip install 'noisebench[ray]'.") from None
    return ray
