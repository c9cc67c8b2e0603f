"""Everything that a GPU machine should measure, in one command, the most telling first, within a budget.

Each part is a process of its own, so that one that crashes or hangs takes no other with it, and leaves its
files as soon as it is done: attention, joint attention, the elementwise operations, a whole DiT, the sweep.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import files, provenance
from bench.runtime import Runtime

FULL = ("models", "sweep", "bfloat16", "30")
"""Shapes, sweep, dtype and repeats."""
TAIL = 2000
"""Characters kept of what a part printed."""


@dataclass(frozen=True)
class Part:
    """One part: arguments of the command line, and its share of the budget."""

    name: str
    arguments: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class Done:
    """How a part ended: exit code (−1: out of time), seconds, the end of what it printed."""

    name: str
    code: int
    seconds: float
    tail: str


def parts(smoke: bool) -> list[Part]:
    """In the order of their importance."""
    shapes, sweep, dtype, repeats = ("smoke", "smoke", "float32", "3") if smoke else FULL
    ways = "forward" if smoke else "forward,backward"

    def bench(operation: str, shapes: str, directions: str, quick: str) -> tuple[str, ...]:
        chosen = ("bench", "--op", operation, "--shape", shapes, "--direction", directions)
        few = ("--providers", quick) if smoke else ()
        return (*chosen, "--dtype", dtype, "--repeats", repeats, *few)

    return [
        Part("attention", bench("attention", shapes, ways, "flash,math,triton"), 0.35),
        Part("joint-attention", bench("joint-attention", shapes, "forward", "eager + flash,triton"), 0.2),
        Part("elementwise", bench("adaln,rms-norm", shapes, "forward", "eager,triton"), 0.1),
        Part("end-to-end", ("end-to-end", *(("--smoke",) if smoke else ())), 0.15),
        Part("sweep", bench("attention", sweep, ways, "flash,triton"), 0.2),
    ]


def run(out: Path, budget: float, smoke: bool, runtime: Runtime) -> Iterator[Done]:
    """Each part as it ends; `summary.json` in `out` is always that of the parts done so far."""
    done: list[Done] = []
    end = time.monotonic() + budget
    chosen = parts(smoke)
    for index, part in enumerate(chosen):
        left = end - time.monotonic()
        share = part.share / sum(one.share for one in chosen[index:])
        done.append(
            _run(part, out / part.name, left * share, runtime) if left > 1 else Done(part.name, -1, 0.0, "")
        )
        told: dict[str, Any] = {
            "parts": [asdict(one) for one in done],
            "provenance": provenance.collect(runtime),
        }
        files.write_json(out / "summary.json", told)
        yield done[-1]


def _run(part: Part, out: Path, seconds: float, runtime: Runtime) -> Done:
    command = [sys.executable, "-m", "bench", "kernels", *part.arguments]
    command += ["--device", runtime.device, "--out", str(out)]
    if part.arguments[0] == "bench":
        # What is left over is for starting, compiling and writing.
        command += ["--budget", f"{0.8 * seconds:.0f}"]
    start = time.monotonic()
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=1.5 * seconds + 60, check=False
        )
        code, said = ended.returncode, ended.stdout + ended.stderr
    except subprocess.TimeoutExpired as error:
        code, said = -1, str(error.stdout or "")
    return Done(part.name, code, time.monotonic() - start, said[-TAIL:])


def save_ways(out: Path, found: list[Any], setting: Any, runtime: Runtime) -> Path:
    """`end_to_end.json` of a whole network's ways."""
    told = {"setting": asdict(setting), "ways": [way.as_dict() for way in found]}
    files.write_json(out / "end_to_end.json", {**told, "provenance": provenance.collect(runtime)})
    return out / "end_to_end.json"


def load_summary(out: Path) -> dict[str, Any]:
    """What `run` left."""
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))
