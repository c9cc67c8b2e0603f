"""Runs of a small suite in processes that start at once, to be killed at any moment.

`multiprocessing`'s fork server has imported everything once; each run is a fork of it, a process like any
other to the operating system, without the seconds that importing torch takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.store import Store

SMALL = """
name: small
dataset: digits
training: {steps: 24, batch_size: 16, checkpoint_every: 4, warmup_steps: 4}
models:
  histogram: {model: "tests.bench.toys:Histogram"}
  rectified-flow: {options: {channels: 8}, likelihood: {solver: heun, steps: 2}}
metrics: [quality, likelihood]
sampling:
  images: 720
  samplers:
    - {name: heun, steps: 2}
quality: {features: digits-features, group: 360}
likelihood: {images: 300}
"""
OUTPUT = "output.txt"


def _run(folder: str, arguments: list[str]) -> None:
    """In the child: the command line as people call it."""
    os.chdir(folder)
    os.environ |= {"TMPDIR": folder, "NO_COLOR": "1", "COLUMNS": "200"}
    import tempfile

    tempfile.tempdir = folder
    # The server's streams are the test's; the run's are a file.
    with Path(OUTPUT).open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdout = sys.stderr = output
        sys.argv = ["noisebench", *arguments]
        import torch

        from bench.cli import main, progress, tables

        torch.set_num_threads(1)
        for module in (progress, tables):
            module.console.file = output
        with contextlib.suppress(BrokenPipeError):
            main()


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.crash.preloaded"])


def start(folder: Path, *arguments: str) -> BaseProcess:
    """A run in a folder that holds small.yaml."""
    if not (folder / "small.yaml").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(SMALL)
    arguments = arguments or ("run", "--threads", "1", "small.yaml")
    process = _context.Process(target=_run, args=(str(folder), list(arguments)))
    process.start()
    return process


def ended(process: BaseProcess, seconds: float = 300.0) -> int:
    """Its exit code."""
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def said(folder: Path) -> str:
    """What the runs in a folder have printed."""
    return (folder / OUTPUT).read_text()


@dataclass(frozen=True)
class Outcome:
    """What must be the same in the end: rows without what they took, and every array of every shard."""

    rows: str
    arrays: str


def outcome(folder: Path) -> Outcome:
    """Of the one run in a folder."""
    (run,) = (folder / "results" / "runs").iterdir()
    rows = [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in json.loads((run / "results.json").read_text())
        if row["metric"] != "training time"
    ]
    assert {row["status"] for row in rows} == {"ok"}, rows
    return Outcome(json.dumps(rows, sort_keys=True), arrays(folder))


def arrays(folder: Path) -> str:
    """SHA-256 of every array of every shard and of all weights, but for the seconds of a learning curve."""
    store, digest = Store(folder / "results" / "store"), hashlib.sha256()
    for key in store:
        for path in sorted(store.folder(key).glob("part-*.safetensors")):
            part = store.load_part(key, int(path.stem.removeprefix("part-")))
            assert part is not None
            for name in sorted(set(part.arrays) - {"curve.seconds"}):
                digest.update(f"{key}{path.name}{name}".encode() + part.arrays[name].tobytes())
        weights = store.folder(key) / "weights.safetensors"
        digest.update(weights.read_bytes() if weights.is_file() else b"")
    return digest.hexdigest()


def finished_work(folder: Path) -> dict[Path, int]:
    """Sealed cells and whole shards, with the moment at which they were written."""
    cells = folder / "results" / "store" / "cells"
    return {
        path: path.stat().st_mtime_ns
        for pattern in ("*/*/DONE", "*/*/part-*.safetensors")
        for path in cells.glob(pattern)
    }


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """SIGKILL; whether it was still at work."""
    process.join(seconds)
    if process.exitcode is not None:
        return False
    process.kill()
    process.join()
    return True


class Watch:
    """The time a run takes here, to choose moments within it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def whole(self, folder: Path) -> Any:
        """Run to the end, and how it came out."""
        with self._lock:
            began = time.perf_counter()
            code = ended(start(folder))
            self.seconds = time.perf_counter() - began
        assert code == 0, said(folder)
        return outcome(folder)
