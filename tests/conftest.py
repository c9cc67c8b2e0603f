"""Shared by all tests: shape checks at run time, one thread, a tiny suite on the real digits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# Triton warns that this default will change.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

# Tests reach no network, so the hub need not be asked again and again before it is given up.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Small tensors gain nothing from threads, and tests share the machine with the processes they start.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]

TINY = """
name: tiny
description: every kind of cell on the real digits, a second each
dataset: digits
training: {steps: 24, batch_size: 32, checkpoint_every: 8, warmup_steps: 4}
models:
  vae: {}
  rectified-flow: {likelihood: {solver: heun, steps: 4}}
sampling:
  images: 360
  samplers:
    - {name: ddim, steps: 2}
    - {name: heun, steps: 2}
quality: {features: digits-features, group: 360}
likelihood: {images: 300}
throughput: {batch: 8, repeats: 3}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny suite's file, in a folder of its own."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def noisebench(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in an empty folder: noisebench("run", "tiny.yaml")."""

    def call(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench", *arguments],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=300,
            **options,  # type: ignore[call-overload]
        )

    return call


def environment(folder: Path | None = None) -> dict[str, str]:
    """This checkout on the path, plain text output, and for runs in `folder` a machine lock of their own."""
    private = {} if folder is None else {"TMPDIR": str(folder)}
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200", **private}
