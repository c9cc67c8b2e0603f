"""Which kernels really ran, by torch.profiler, and whether they are those that a provider claims.

Names of kernels on a GPU, of operators on a CPU. TensorRT-LLM's fused path was off for weeks without a sign
(NVIDIA/TensorRT-LLM#15676): a time whose kernels nobody looked at may be the time of something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

FUSED = r"flash|fmha|cudnn.*sdpa|flex_attention|triton_tem|FlashAttn|scaled_dot_product_(?!attention_math)"
"""Any fused attention but ours; a composition must show none of these."""


@dataclass(frozen=True)
class Claim:
    """What must be seen among the names, and what must not: regular expressions, searched.

    needed     each of them in some name
    forbidden  in no name
    """

    needed: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()

    def __add__(self, other: Claim) -> Claim:
        return Claim(self.needed + other.needed, self.forbidden + other.forbidden)

    def complaint(self, names: Sequence[str]) -> str:
        """What is wrong with these names in one sentence; empty where nothing is."""
        for pattern in self.needed:
            if not any(re.search(pattern, name) for name in names):
                return f"no kernel matching '{pattern}' ran, but {_few(names)}"
        for pattern in self.forbidden:
            for name in names:
                if re.search(pattern, name):
                    return f"{_short(name)} ran, which this provider must not use"
        return ""


def names_of(call: Callable[[], object], device: torch.device) -> tuple[str, ...]:
    """Names that ran during one call, each once, in order; copies and fills by the driver left out."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    if cuda:
        torch.cuda.synchronize(device)
    with profile(activities=activities) as profiler:
        call()
        if cuda:
            torch.cuda.synchronize(device)
    wanted = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events = profiler.events() or []
    seen = [event.name for event in events if event.device_type == wanted]
    return tuple(
        dict.fromkeys(name for name in seen if not re.match(r"Mem(cpy|set)|ProfilerStep|\[memory\]", name))
    )


def _short(name: str, most: int = 80) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _few(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(_short(name) for name in names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
