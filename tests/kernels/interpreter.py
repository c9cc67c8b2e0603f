"""Run a file of `tests/kernels/interpreted` in a process in which Triton interprets its kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "interpreted"


def run_interpreted(name: str) -> None:
    """AssertionError with pytest's output where a test of `interpreted/<name>.py` fails."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # Not a worker of the pytest-xdist that runs this one.
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", str(FOLDER / f"{name}.py"), "-p", "no:cacheprovider", "-rN"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[2])
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
