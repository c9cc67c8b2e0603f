"""Where a Triton kernel can run: on a GPU, or, for tests, in Triton's interpreter on the CPU."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

OLDEST_CAPABILITY = 80
"""Compute capability × 10 of the oldest GPU that the kernels are compiled for (Ampere)."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether this process interprets kernels; Triton decides when a kernel is defined, so it cannot change."""


def runs_triton(device: torch.device) -> bool:
    """Whether tensors on `device` are handled by the Triton kernel; on others by its plain-PyTorch twin."""
    if device.type == "cuda":
        return has_triton() and capability(device) >= OLDEST_CAPABILITY
    return INTERPRETED and device.type == "cpu" and has_triton()


def require_triton(tensor: Tensor, what: str) -> None:
    """ValueError, with the remedy, where `what` is asked of Triton by name and it cannot run there."""
    if runs_triton(tensor.device):
        return
    if not has_triton():
        raise ValueError(f"{what} by triton needs the package triton: install it, or use auto or math")
    have = f"tensors are on {tensor.device.type}"
    if tensor.device.type == "cuda":
        have = f"this one has {capability(tensor.device) / 10:.1f}"
    raise ValueError(
        f"{what} by triton needs an NVIDIA GPU of compute capability {OLDEST_CAPABILITY / 10} or newer and "
        f"{have}: use auto or math, or set TRITON_INTERPRET=1 to have it interpreted on the CPU, slowly"
    )


@functools.cache
def has_triton() -> bool:
    """Whether the package triton is installed (it is made for Linux)."""
    return importlib.util.find_spec("triton") is not None


def capability(device: torch.device) -> int:
    """Compute capability × 10: 80 Ampere, 89 Ada, 90 Hopper, 100 Blackwell; the interpreter acts as 90."""
    if device.type != "cuda":
        return 90
    return _capability(device.index if device.index is not None else torch.cuda.current_device())


@functools.cache
def _capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


@functools.cache
def allow_descriptors() -> None:
    """Give Triton the scratch memory that tensor descriptors made within a kernel need (128 bytes each)."""
    import triton

    def allocate(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device="cuda")

    triton.set_allocator(allocate)
