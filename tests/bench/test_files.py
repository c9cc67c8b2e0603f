"""Protects promise 2: files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import files
from tests.conftest import ROOT, environment


def test_arrays_come_back_with_their_shapes_types_and_description(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "scalar": np.float64(2.5), "u": np.zeros((0, 2), np.uint8)}
    files.write_arrays(tmp_path / "x.safetensors", arrays, {"why": "é"})
    found, info = files.read_arrays(tmp_path / "x.safetensors")
    assert info == {"why": "é"}
    for name, array in arrays.items():
        assert found[name].shape == np.shape(array)
        np.testing.assert_array_equal(found[name], array)


def test_a_full_disk_leaves_the_previous_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    files.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from pathlib import Path
from bench.files import write_text
print("ready", flush=True)
n = 0
while True:
    n += 1
    write_text(Path(sys.argv[1]), f"{n} " * 200_000 + "end")
"""


def _kill_a_writer(path: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, env=environment(), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("seconds", [0.11, 0.17, 0.29])
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "big.txt"
    path.write_text("0 end")
    _kill_a_writer(path, seconds)
    words = path.read_text().split()
    assert words[-1] == "end"
    assert len(set(words[:-1])) == 1


@pytest.mark.campaign
def test_a_hundred_killed_writers_leave_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    for trial in range(100):
        path.write_text("0 end")
        _kill_a_writer(path, 0.05 + 0.003 * trial)
        words = path.read_text().split()
        assert words[-1] == "end", trial
        assert len(set(words[:-1])) == 1, trial


def test_left_over_files_of_dead_processes_are_found_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own, other = f"{files.TEMPORARY}{files._host()}-", f"{files.TEMPORARY}0123abcd-"
    names = [f"{own}{dead.pid}-a", f"{own}{os.getpid()}-b", f"{other}{dead.pid}-c", f"{other}{dead.pid}-d"]
    for name in names:
        (tmp_path / name).touch()
    # Of another machine's process nothing is known: its files are left for a day.
    os.utime(tmp_path / names[3], (0, 0))
    assert [path.name for path in files.stale_temporaries(tmp_path)] == [names[3], names[0]]
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:3])
