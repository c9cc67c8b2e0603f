"""Kernels of adaLN-Zero: a program holds whole rows, which are read once and written once.

Gradients of shift, scale and gate are sums over the tokens of a sample: P programs a sample each add up the
rows they see, in order, and P partial sums are added afterwards: the same bits every time.

Shapes: B batch, N tokens, E embedding, P programs a sample.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.configurations import CAPABILITIES
from kernels.jit.attention import TRITON_TYPES
from kernels.shipped import Shipped

PROGRAMS = 32
"""Most programs a sample in a backward launch; the same on every card, since it decides the order of sums."""
WIDTHS = (384, 768, 1024, 1152, 1536, 2432, 3072)
"""Of DiT-S, B, L and XL, SD3-medium, SD3.5-large and FLUX.1."""


@triton.jit
def load_row(ptr, E: tl.constexpr, WIDTH: tl.constexpr):
    """A row in float32, zero past E."""
    columns = tl.arange(0, WIDTH)
    return tl.load(ptr + columns, mask=columns < E, other=0.0).to(tl.float32)


@triton.jit
def store_row(x, ptr, E: tl.constexpr, WIDTH: tl.constexpr):
    """Write a row in the dtype of the pointer."""
    columns = tl.arange(0, WIDTH)
    tl.store(ptr + columns, x.to(ptr.dtype.element_ty), mask=columns < E)


@triton.jit
def normalise(x, eps, E: tl.constexpr, WIDTH: tl.constexpr):
    """(x − mean)/√(var + ε), zero past E; and 1/√(var + ε)."""
    mean = tl.sum(x, 0) / E
    centred = tl.where(tl.arange(0, WIDTH) < E, x - mean, 0.0)
    r = tl.rsqrt(tl.sum(centred * centred, 0) / E + eps)
    return centred * r, r


@triton.jit
def modulate_kernel(
    x_ptr, shift_ptr, scale_ptr, y_ptr, x_batch, x_row, shift_batch, scale_batch, N, eps,
    E: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One row; program (token, sample)."""
    token, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    x_hat, _ = normalise(load_row(x_ptr + sample * x_batch + token * x_row, E, WIDTH), eps, E, WIDTH)
    scale = load_row(scale_ptr + sample * scale_batch, E, WIDTH)
    shift = load_row(shift_ptr + sample * shift_batch, E, WIDTH)
    store_row(tl.fma(x_hat, 1.0 + scale, shift), y_ptr + (sample * N + token) * E, E, WIDTH)


@triton.jit
def modulate_backward_kernel(
    g_ptr, x_ptr, scale_ptr, dx_ptr, dshift_ptr, dscale_ptr,
    g_batch, g_row, x_batch, x_row, scale_batch, N, eps, E: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Every P-th row of a sample; program (p, sample)."""
    sample = tl.program_id(1).to(tl.int64)
    factor = 1.0 + load_row(scale_ptr + sample * scale_batch, E, WIDTH)
    dshift, dscale = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    for n in range(tl.program_id(0), N, tl.num_programs(0)):
        token = tl.cast(n, tl.int64)
        x_hat, r = normalise(load_row(x_ptr + sample * x_batch + token * x_row, E, WIDTH), eps, E, WIDTH)
        g = load_row(g_ptr + sample * g_batch + token * g_row, E, WIDTH)
        dshift += g
        dscale = tl.fma(g, x_hat, dscale)
        h = g * factor
        dx = r * (h - tl.sum(h, 0) / E - x_hat * (tl.sum(h * x_hat, 0) / E))
        store_row(dx, dx_ptr + (sample * N + token) * E, E, WIDTH)
    at = (sample * tl.num_programs(0) + tl.program_id(0)) * E
    store_row(dshift, dshift_ptr + at, E, WIDTH)
    store_row(dscale, dscale_ptr + at, E, WIDTH)


@triton.jit
def gate_kernel(
    x_ptr, branch_ptr, gate_ptr, y_ptr, x_batch, x_row, branch_batch, branch_row, gate_batch, N,
    E: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One row; program (token, sample)."""
    token, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    x = load_row(x_ptr + sample * x_batch + token * x_row, E, WIDTH)
    branch = load_row(branch_ptr + sample * branch_batch + token * branch_row, E, WIDTH)
    gate = load_row(gate_ptr + sample * gate_batch, E, WIDTH)
    store_row(tl.fma(gate, branch, x), y_ptr + (sample * N + token) * E, E, WIDTH)


@triton.jit
def gate_backward_kernel(
    g_ptr, branch_ptr, gate_ptr, dbranch_ptr, dgate_ptr,
    g_batch, g_row, branch_batch, branch_row, gate_batch, N, E: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Every P-th row of a sample; program (p, sample)."""
    sample = tl.program_id(1).to(tl.int64)
    gate = load_row(gate_ptr + sample * gate_batch, E, WIDTH)
    dgate = tl.zeros([WIDTH], tl.float32)
    for n in range(tl.program_id(0), N, tl.num_programs(0)):
        token = tl.cast(n, tl.int64)
        g = load_row(g_ptr + sample * g_batch + token * g_row, E, WIDTH)
        branch = load_row(branch_ptr + sample * branch_batch + token * branch_row, E, WIDTH)
        dgate = tl.fma(g, branch, dgate)
        store_row(g * gate, dbranch_ptr + (sample * N + token) * E, E, WIDTH)
    at = (sample * tl.num_programs(0) + tl.program_id(0)) * E
    store_row(dgate, dgate_ptr + at, E, WIDTH)


def launch_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `kernels.adaln.modulate_forward`."""
    x, shift, scale = (dense(z) for z in (x, shift, scale))
    B, N, E = x.shape
    y = x.new_empty(x.shape)
    if y.numel():
        modulate_kernel[(N, B)](
            x, shift, scale, y, *x.stride()[:2], shift.stride(0), scale.stride(0), N, eps,
            **constants(E), num_warps=warps(E),
        )  # fmt: skip
    return y


def launch_modulate_backward(
    g: Tensor, x: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.adaln.modulate_backward`."""
    g, x, scale = (dense(z) for z in (g, x, scale))
    B, N, E = x.shape
    dx, P = x.new_empty(x.shape), min(PROGRAMS, max(N, 1))
    dshift, dscale = (x.new_zeros(B, P, E, dtype=torch.float32) for _ in range(2))
    if dx.numel():
        modulate_backward_kernel[(P, B)](
            g, x, scale, dx, dshift, dscale, *g.stride()[:2], *x.stride()[:2], scale.stride(0), N, eps,
            **constants(E), num_warps=warps(E),
        )  # fmt: skip
    return dx, dshift.sum(1, keepdim=True), dscale.sum(1, keepdim=True)


def launch_gate(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """See `kernels.adaln.gate_forward`."""
    x, branch, gate = (dense(z) for z in (x, branch, gate))
    B, N, E = x.shape
    y = x.new_empty(x.shape)
    if y.numel():
        gate_kernel[(N, B)](
            x, branch, gate, y, *x.stride()[:2], *branch.stride()[:2], gate.stride(0), N,
            **constants(E), num_warps=warps(E),
        )  # fmt: skip
    return y


def launch_gate_backward(g: Tensor, branch: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """See `kernels.adaln.gate_backward`."""
    g, branch, gate = (dense(z) for z in (g, branch, gate))
    B, N, E = branch.shape
    dbranch, P = branch.new_empty(branch.shape), min(PROGRAMS, max(N, 1))
    dgate = branch.new_zeros(B, P, E, dtype=torch.float32)
    if dbranch.numel():
        gate_backward_kernel[(P, B)](
            g, branch, gate, dbranch, dgate, *g.stride()[:2], *branch.stride()[:2], gate.stride(0), N,
            **constants(E), num_warps=warps(E),
        )  # fmt: skip
    return dbranch, dgate.sum(1, keepdim=True)


def dense(x: Tensor) -> Tensor:
    """The tensor itself where rows lie in one piece, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def constants(E: int) -> dict[str, int]:
    """What the kernels are compiled for."""
    return {"E": E, "WIDTH": triton.next_power_of_2(E)}


def warps(E: int) -> int:
    """Eight elements a thread, in 1 to 16 warps."""
    return min(16, max(1, triton.next_power_of_2(E) // 256))


def shipped() -> list[Shipped]:
    """Each kernel at every width for bfloat16 on Hopper, and DiT-XL's in each dtype on each card."""
    kernels = (modulate_kernel, modulate_backward_kernel, gate_kernel, gate_backward_kernel)
    wide = [one(kernel, E, torch.bfloat16, 90) for kernel, E in product(kernels, WIDTHS)]
    others = [
        one(kernel, 1152, dtype, at)
        for kernel, dtype, at in product(kernels, TRITON_TYPES, CAPABILITIES)
        if (dtype, at) != (torch.bfloat16, 90)
    ]
    return wide + others


def one(kernel: Any, E: int, dtype: torch.dtype, at: int) -> Shipped:
    """One of them."""
    name = kernel.__name__.removesuffix("_kernel").replace("_", " ")
    sums = {"dshift_ptr", "dscale_ptr", "dgate_ptr"} if "backward" in name else set()
    pointer = f"*{TRITON_TYPES[dtype]}"

    def kind(argument: str) -> str:
        if argument.endswith("_ptr"):
            return "*fp32" if argument in sums else pointer
        return "fp32" if argument == "eps" else "i32"

    fixed = constants(E)
    return Shipped(
        name=f"adaln {name} w{E} {str(dtype)[6:]} sm{at}",
        kernel=kernel,
        types={n: kind(n) for n in kernel.arg_names if n not in fixed},
        constants=fixed,
        capability=at,
        num_warps=warps(E),
        num_stages=3,
        divisible=tuple(n for n in kernel.arg_names if n.endswith(("_batch", "_row"))),
        backward="backward" in name,
    )
