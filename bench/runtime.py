"""Where numbers are computed: device, threads, versions. All of it without importing torch."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.errors import UsageError, unknown

DEVICES = ("auto", "cpu", "cuda")
ATTENTION = ("auto", "triton", "cudnn", "flash", "efficient", "math")
GPU_ATTENTION = ("triton", "cudnn", "efficient")
MAX_THREADS = 16


@dataclass(frozen=True)
class Runtime:
    """The part of the surroundings that may change the low bits of a number, so it belongs to its key."""

    device: str
    threads: int
    attention: str = "auto"
    """Backend of every network's attention; `auto` is PyTorch's choice."""

    @property
    def identity(self) -> dict[str, Any]:
        """What enters the key of every computed cell."""
        found = {"device": self.device, "threads": self.threads, "torch": _torch_version()}
        return {**found, "attention": self.attention}

    @property
    def label(self) -> str:
        """Device as records name it, with the attention backend where one was chosen."""
        return self._labelled(self.device)

    @property
    def machine_label(self) -> str:
        """The same with the name of the machine, for timings."""
        return self._labelled(device_name(self.device))

    def _labelled(self, device: str) -> str:
        return device if self.attention == "auto" else f"{device}, {self.attention} attention"

    @property
    def hardware(self) -> dict[str, Any]:
        """What enters the key of a timing too: the same program is another number elsewhere."""
        return {**self.identity, "machine": device_name(self.device)}


def resolve(device: str = "auto", threads: int | None = None, attention: str = "auto") -> Runtime:
    """The runtime asked for, or the best there is: a GPU if torch can use one, else the processor."""
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if attention not in ATTENTION:
        raise unknown("attention", attention, ATTENTION)
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, and {threads} was given.")
    if device != "cpu":
        present = Path("/dev/nvidiactl").exists() and _cuda_available()
        if device == "cuda" and not present:
            raise UsageError("--device cuda: torch finds no usable NVIDIA GPU here; use --device cpu.")
        device = "cuda" if present else "cpu"
    if device == "cpu" and attention in GPU_ATTENTION:
        raise UsageError(f"--attention {attention} needs an NVIDIA GPU; here use auto, flash or math.")
    return Runtime(device, threads or default_threads(), attention)


@functools.cache
def _torch_version() -> str:
    return metadata.version("torch")


@functools.cache
def _cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()


def default_threads() -> int:
    """Physical cores this process may use, at most 16."""
    import psutil

    physical = psutil.cpu_count(logical=False) or 1
    return max(1, min(physical, len(os.sched_getaffinity(0)), MAX_THREADS))


@functools.cache
def device_name(device: str) -> str:
    """The processor's or GPU's model name, and how many cores the process may use."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()} ({cores} cores)"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
