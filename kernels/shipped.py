"""Every kernel configuration that is shipped, so that each can be compiled and examined without a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODULES = tuple(f"kernels.jit.{name}" for name in ("attention", "prepare", "adaln", "rms_norm"))
"""Modules of `kernels.jit`; each has `shipped() -> list[Shipped]`."""


@dataclass(frozen=True)
class Shipped:
    """One kernel as it is launched.

    name        operation, direction, head size, dtype: `attention forward d72 bfloat16`
    kernel      the `triton.jit` function
    types       Triton type of each argument that is no constant: `*bf16`, `i32`, `fp32`
    constants   value of each `tl.constexpr` argument
    divisible   integer arguments that are multiples of 16 when launched on the usual shapes (pointers
                always are): without it there are no 16-byte loads
    capability  compute capability × 10 that this configuration is for: 80, 90 or 100
    backward    whether it computes gradients (a few spilled registers are let pass there)
    claims      what must be seen in the compiled code: `wgmma`, `tma`, `warp-specialised`
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    capability: int
    num_warps: int
    num_stages: int
    divisible: tuple[str, ...] = ()
    backward: bool = False
    claims: frozenset[str] = field(default_factory=frozenset)


def shipped() -> list[Shipped]:
    """All of them, in the order of `MODULES`; imports Triton."""
    return [one for module in MODULES for one in importlib.import_module(module).shipped()]
