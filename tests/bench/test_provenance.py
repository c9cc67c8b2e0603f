"""Protects provenance: what is told, and what is never told."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bench import provenance, runtime
from bench.errors import UsageError
from bench.runtime import Runtime
from tests.conftest import ROOT


def test_it_names_versions_hardware_and_commit() -> None:
    found = provenance.collect(Runtime("cpu", 1))
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["hardware"]["threads"] == 1
    assert "cores" in found["hardware"]["device"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert found["git"]["commit"] == (commit.stdout.strip() or None)


def test_a_password_in_an_address_and_the_programs_folder_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/noisebench", "run", "s3://user:secret@host/suite.yaml"])
    assert provenance.command_line() == "noisebench run s3://host/suite.yaml"


def test_threads_default_to_the_cores_this_process_may_use() -> None:
    assert 1 <= runtime.default_threads() <= runtime.MAX_THREADS


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        assert runtime.resolve("cuda").device == "cuda"
    else:
        with pytest.raises(UsageError, match="no usable NVIDIA GPU"):
            runtime.resolve("cuda")
