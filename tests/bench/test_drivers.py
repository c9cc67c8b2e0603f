"""Protects the same numbers however the work is split: launchers, Ray, and processes that die at it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.drivers.place import Place
from bench.errors import UsageError
from bench.store import Store
from tests.bench.test_run import _numbers, _start
from tests.conftest import TINY, environment

TIMED = ("throughput", "training")


def moments(folder: Path) -> dict[str, str]:
    """Cell key -> SHA-256 of all arrays of all its shards; timings left out."""
    store, found = Store(folder / "results" / "store"), {}
    for key in store:
        cell = json.loads((store.folder(key) / "cell.json").read_text())
        if cell["kind"] in TIMED:
            continue
        digest = hashlib.sha256()
        for path in sorted(store.folder(key).glob("part-*.safetensors")):
            part = store.load_part(key, int(path.stem.removeprefix("part-")))
            assert part is not None
            for name in sorted(part.arrays):
                digest.update(name.encode() + part.arrays[name].tobytes())
        found[key] = digest.hexdigest()
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "tiny.yaml").write_text(TINY)
    process = _start(folder, "tiny.yaml")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


def same(folder: Path, alone: Path) -> None:
    assert moments(folder) == moments(alone)
    assert _numbers(folder) == _numbers(alone)
    assert not list((folder / "results").rglob(".tmp-*"))


def ranks(folder: Path, world: int) -> list[subprocess.Popen[str]]:
    """Processes as a launcher starts them."""
    return [
        subprocess.Popen(
            [sys.executable, "-m", "bench", "run", "--threads", "1", "tiny.yaml"],
            cwd=folder,
            env={**environment(folder), "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def test_a_process_that_dies_is_missed_by_nobody(tiny: Path, alone: Path) -> None:
    """Of three the last is killed as soon as a shard is there; its claims are free and the others go on."""
    processes = ranks(tiny.parent, 3)
    parts = tiny.parent / "results" / "store" / "cells"
    deadline = time.monotonic() + 240
    while not list(parts.glob("*/*/part-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[2].send_signal(signal.SIGKILL)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, -signal.SIGKILL], outputs
    assert outputs[1] == ""
    same(tiny.parent, alone)


def test_two_workers_of_ray_give_the_same(tiny: Path, alone: Path) -> None:
    pytest.importorskip("ray")
    process = _start(tiny.parent, "tiny.yaml", "--driver", "ray", "--workers", "2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    same(tiny.parent, alone)
    assert "Report: " in output


def helpers_of(process: psutil.Process) -> Iterator[psutil.Process]:
    """Ray's processes that run a task now, by the title that Ray gives them."""
    for child in process.children(recursive=True):
        try:
            if "ray::_work" in " ".join(child.cmdline()):
                yield child
        except psutil.Error:
            continue


def test_ray_with_a_worker_killed_in_the_middle_gives_the_same(tiny: Path, alone: Path) -> None:
    """Both the helper and the one that leads: another takes the place of each."""
    pytest.importorskip("ray")
    process = _start(tiny.parent, "tiny.yaml", "--driver", "ray", "--workers", "2")
    parts, killed = tiny.parent / "results" / "store" / "cells", 0
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and not killed:
        if list(parts.glob("*/*/part-*.safetensors")):
            for one in helpers_of(psutil.Process(process.pid)):
                os.kill(one.pid, signal.SIGKILL)
                killed += 1
        time.sleep(0.01)
    output, _ = process.communicate(timeout=300)
    assert killed, output
    assert process.returncode == 0, output
    same(tiny.parent, alone)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, Place(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Place(3, 8, 1)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}, Place(1, 2, 1)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, Place(0, 4, 0)),
    ],
)
def test_launchers_say_the_place(given: dict[str, str], place: Place) -> None:
    assert Place.of(given) == place


def test_every_process_begins_elsewhere_and_takes_all_in_the_end() -> None:
    orders = [[index % 10 for index in Place(rank, 3).first(10)] for rank in range(3)]
    assert [order[0] for order in orders] == [0, 3, 6]
    assert all(sorted(order) == list(range(10)) for order in orders)


@pytest.mark.parametrize("given", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}])
def test_a_place_that_cannot_be_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"ranks are 0 to 1|a whole number"):
        Place.of(given)


def test_a_claim_is_of_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bench.store import Store\n"
        "with Store(Path(sys.argv[1])).claim('k', 3) as mine:\n    print(mine, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    store = Store(tmp_path)
    with store.claim("k", 3) as mine:
        assert not mine
    with store.claim("k", 4) as mine:
        assert mine
    other.kill()
    other.wait()
    with store.claim("k", 3) as mine:
        assert mine


EXAMPLES = Path("bench/drivers/examples")


def test_the_cluster_example_is_one_that_ray_takes() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    import yaml

    config = yaml.safe_load((EXAMPLES / "ray-cluster.yaml").read_text())
    util.validate_config(util.prepare_config(config))


def test_the_batch_script_says_where_processes_meet(tmp_path: Path) -> None:
    """Run by a shell in which SLURM's commands are made: each process gets its place and the meeting."""
    for name, text in {
        "scontrol": "echo first.example; echo second.example",
        "srun": 'echo "$@ $MASTER_ADDR $MASTER_PORT"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", EXAMPLES / "slurm.sh", "digits"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "x[1-2]", "SLURM_JOB_ID": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "noisebench run digits --results /shared/results --threads 8 first.example 20123\n"
    )
    meeting = {"MASTER_ADDR": "first.example", "MASTER_PORT": "20123"}
    assert Place.of({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", **meeting}).meeting == "first.example:20123"
