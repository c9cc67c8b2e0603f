"""Protects what a run has done from SIGKILL at any moment: the same end, nothing lost, nothing left over.

`make campaign` kills 200 runs; `make test` two.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import doctor
from tests.conftest import environment
from tests.crash.runs import SMALL, Outcome, ended, finished_work, kill_after, outcome, said, start


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, float]:
    """How an uninterrupted run comes out, and its seconds."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.perf_counter()
    assert ended(start(folder)) == 0, said(folder)
    return outcome(folder), time.perf_counter() - began


def _survives(folder: Path, whole: Outcome, seconds: float, draw: random.Random) -> int:
    """One trial: a run is killed once, twice or thrice, and then goes on to the end; returns the kills."""
    kills = 0
    for _ in range(draw.randint(1, 3)):
        process = start(folder)
        beside = start(folder) if draw.random() < 0.25 else None
        kills += kill_after(process, seconds * draw.random() ** 1.5)  # more often in what computes
        if beside is not None:  # it does alone what both had begun
            assert ended(beside) == 0, said(folder)
        kept = finished_work(folder)
    assert ended(start(folder)) == 0, said(folder)
    assert outcome(folder) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found = doctor.examine(folder / "results")
    assert found.findings == []
    assert (found.unfinished, found.busy) == (0, 0)
    return kills


def _campaign(folder: Path, whole: tuple[Outcome, float], trials: int, seed: int) -> int:
    draw, kills = random.Random(seed), 0
    for trial in range(trials):
        kills += _survives(folder / str(trial), *whole, draw)
    return kills


def test_killed_runs_end_as_if_nothing_had_happened(tmp_path: Path, whole: tuple[Outcome, float]) -> None:
    assert _campaign(tmp_path, whole, 2, 0) > 0


@pytest.mark.campaign
@pytest.mark.parametrize("lot", range(4))
def test_two_hundred_killed_runs(tmp_path: Path, whole: tuple[Outcome, float], lot: int) -> None:
    kills = _campaign(tmp_path, whole, 50, 17 + lot)
    print(f"50 runs, {kills} kills, {whole[1]:.1f} s each when left alone")
    assert kills >= 50


def test_an_interrupted_run_says_so_and_goes_on(tmp_path: Path, whole: tuple[Outcome, float]) -> None:
    """Ctrl-C: what is finished is shown, the exit code says that it is not all, and nothing is lost."""
    process = start(tmp_path)
    while not finished_work(tmp_path):
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 130, said(tmp_path)
    assert "Stopped. The same command goes on from here." in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert list((tmp_path / "results" / "runs").glob("*/results.json"))
    assert ended(start(tmp_path)) == 0, said(tmp_path)
    assert outcome(tmp_path) == whole[0]


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bench"],
    "ray": ["bench"],
}


@pytest.mark.campaign
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_death_of_what_started_the_processes(
    tmp_path: Path, whole: tuple[Outcome, float], launcher: str, share: float
) -> None:
    """torchrun, or the process that asked Ray, is killed; its children may live on: the command goes on."""
    (tmp_path / "small.yaml").write_text(SMALL)
    command = ["run", "--threads", "1", "small.yaml", *(["--driver", "ray"] if launcher == "ray" else [])]
    parent = subprocess.Popen(
        [sys.executable, "-m", *LAUNCHERS[launcher], *command],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wanted = int(share * 7)  # of seven shards
    while len([path for path in finished_work(tmp_path) if path.name != "DONE"]) < wanted:
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    assert ended(start(tmp_path)) == 0, said(tmp_path)
    assert outcome(tmp_path) == whole[0]
