"""The rates of the card at hand, measured in the same run as the kernels: matrix, bandwidth, exponentials."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.kernel_bench.timing import once
from kernels.launch import capability
from kernels.roofline import Card

SIDE = 8192
"""Of the matrices multiplied: 1.1 TFLOP."""
COPIED = 2**30
"""Bytes read, and as many written."""
TIMES = 10


def measured(device: torch.device) -> Card | None:
    """Rates of this GPU by a large product in bfloat16, a large copy and a kernel of exp2; None on a CPU."""
    if device.type != "cuda":
        return None
    a = torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16)
    b = torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16)
    matrix = 2.0 * SIDE**3 / _best(lambda: a @ b, device)
    source = torch.randint(0, 255, (COPIED,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2.0 * COPIED / _best(lambda: target.copy_(source), device)
    from kernels.jit.exponentials import COUNT, exponentials

    numbers = torch.randn(2**22, device=device)
    rate = float(numbers.numel() * COUNT) / _best(lambda: exponentials(numbers), device)
    name = torch.cuda.get_device_name(device)
    how = f"measured here: {SIDE}³ bfloat16 product, copy of {COPIED >> 30} GiB, exp2 in registers"
    return Card(name, capability(device), matrix, bandwidth, rate, how)


def _best(call: Callable[[], object], device: torch.device) -> float:
    """The shortest of some calls after a few: a roof is what can be reached."""
    for _ in range(3):
        call()
    return min(once(call, device) for _ in range(TIMES))
