"""The model of the time that P processes take, beside runs of one process and of two; run by `make campaign`.

Prints what was measured and predicted, and the model's table for 50 000 images on 1 to 1024 processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.drivers.wall_time import Overheads, cell_seconds, plan_seconds
from bench.estimates import Estimator
from bench.run import Run, cell_states, make_planner
from bench.runtime import Runtime
from bench.suite import load_suite
from tests.conftest import environment

pytestmark = pytest.mark.campaign

SHARDS = """
name: shards
dataset: digits
training: {steps: 50, batch_size: 32}
models: {rectified-flow: {}}
metrics: [quality]
sampling:
  images: 10080
  samplers: [{name: heun, steps: 20}]
quality: {features: digits-features, group: 360}
"""
OVERHEADS = Overheads(start=0.0)


def _wall(folder: Path, processes: int) -> float:
    """Seconds of the command with so many processes, from nothing to the report."""
    folder.mkdir()
    (folder / "shards.yaml").write_text(SHARDS)
    began = time.perf_counter()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "bench", "run", "--threads", "1", "shards.yaml"],
            cwd=folder,
            env={
                **environment(folder),
                "RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]
    assert [process.wait() for process in started] == [0] * processes
    return time.perf_counter() - began


def test_the_model_beside_one_process_and_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two processes need two cores")
    walls = {1: [], 2: []}
    for repeat in range(2):
        for processes in (1, 2):
            walls[processes].append(_wall(tmp_path / f"{processes}-{repeat}", processes))
    folder = tmp_path / "1-0"
    monkeypatch.chdir(folder)
    suite = load_suite("shards.yaml")
    run, planner = Run(suite, "shards.yaml", Path("results")), make_planner(suite, Runtime("cpu", 1))
    history = Estimator(run.store)
    costs = [(cell, history.of(cell).seconds) for cell, _ in cell_states(run, planner)]
    # Starting, planning and the report, which no process shares.
    around = min(walls[1]) - plan_seconds(costs, 1, OVERHEADS)
    predicted = around + plan_seconds(costs, 2, OVERHEADS)
    (quality,) = [(cell, seconds) for cell, seconds in costs if cell.kind == "quality"]
    each = quality[1] / quality[0].parts
    print(f"\n40 shards of {each:.2f} s; around them {around:.1f} s")
    print(f"1 process:   {' and '.join(f'{one:.1f}' for one in walls[1])} s")
    print(f"2 processes: {' and '.join(f'{one:.1f}' for one in walls[2])} s, predicted {predicted:.1f} s")
    assert abs(min(walls[2]) - predicted) < 0.2 * predicted


@pytest.mark.parametrize("shard", [1.0, 10.0, 60.0])
def test_fifty_thousand_images_on_up_to_1024_processes(shard: float) -> None:
    """196 shards: 196 processes are the most that one cell can use, and of those one may wait for another."""
    print(f"\n196 shards of {shard:g} s:")
    times = {}
    for processes in [2**k for k in range(11)]:
        times[processes] = Overheads().start + cell_seconds(196, 196 * shard, processes)
        used = 196 * shard / processes / times[processes]
        print(f"{processes:5} processes {times[processes]:9.1f} s, {100 * used:3.0f} % of them at work")
    assert times[512] == times[256] == times[1024]
    assert times[1] > 100 * times[256] or shard < 60
