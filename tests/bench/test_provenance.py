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


def test_the_attention_backend_is_part_of_every_key_and_record() -> None:
    """Two backends are two numbers; `auto` reads as before."""
    auto, plain = runtime.resolve("cpu", 1), runtime.resolve("cpu", 1, "math")
    assert auto.identity != plain.identity
    assert (auto.label, plain.label) == ("cpu", "cpu, math attention")
    assert plain.machine_label == f"{auto.machine_label}, math attention"


@pytest.mark.parametrize("backend", ["triton", "cudnn", "efficient"])
def test_attention_that_needs_a_gpu_is_refused_without_one(backend: str) -> None:
    with pytest.raises(UsageError, match=f"--attention {backend} needs an NVIDIA GPU; here use auto"):
        runtime.resolve("cpu", 1, backend)


def test_unknown_attention_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="triton"):
        runtime.resolve("cpu", 1, "tritn")
