"""The two steps of adaLN-Zero round every attention and MLP of a DiT, each in one pass over memory.

    modulate   y = (x − mean x)/√(var x + ε)·(1 + scale) + shift        gate   y = x + gate·branch

with shift, scale and gate made from the condition, one vector a sample (Peebles and Xie 2023, arXiv
2212.09748). In plain PyTorch they are three passes and two.

Shapes: B batch, N tokens, E embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import chosen_backend
from kernels.attention_op import DTYPES
from kernels.launch import INTERPRETED, require_triton

WIDEST = 8192
"""Largest E: a row is held by one program."""


def layer_norm_modulate(
    x_BNE: Tensor, shift_B1E: Tensor, scale_B1E: Tensor, *, eps: float = 1e-6, backend: str = "auto"
) -> Tensor:
    """LayerNorm over E without weights, times 1 + scale, plus shift: (B, N, E).

    backend  of attention, as everywhere: `triton` is one kernel, any other plain PyTorch

    Shift and scale may be slices of one projection. Raises ValueError where shapes disagree or `triton`
    cannot run these tensors.
    """
    _check(x_BNE, shift_B1E, scale_B1E)
    if _fused("modulation", x_BNE, backend):
        return modulate_forward(x_BNE, shift_B1E, scale_B1E, eps)
    return torch.addcmul(shift_B1E, F.layer_norm(x_BNE, x_BNE.shape[-1:], eps=eps), 1.0 + scale_B1E)


def gated_residual(x_BNE: Tensor, branch_BNE: Tensor, gate_B1E: Tensor, *, backend: str = "auto") -> Tensor:
    """x + gate·branch: (B, N, E); as `layer_norm_modulate` for the rest."""
    _check(x_BNE, gate_B1E)
    if branch_BNE.shape != x_BNE.shape:
        raise ValueError(f"a branch has the shape of x, {tuple(x_BNE.shape)}: got {tuple(branch_BNE.shape)}")
    if _fused("a gated residual", x_BNE, backend):
        return gate_forward(x_BNE, branch_BNE, gate_B1E)
    return x_BNE + gate_B1E * branch_BNE


def reference_modulate(x_BNE: Tensor, shift_B1E: Tensor, scale_B1E: Tensor, eps: float) -> Tensor:
    """The definition, in float32 (float64 stays float64), output as x."""
    x, shift, scale = (_wide(z) for z in (x_BNE, shift_B1E, scale_B1E))
    return (F.layer_norm(x, x.shape[-1:], eps=eps) * (1.0 + scale) + shift).to(x_BNE.dtype)


def reference_gate(x_BNE: Tensor, branch_BNE: Tensor, gate_B1E: Tensor) -> Tensor:
    """The definition, in float32 (float64 stays float64), output as x."""
    return (_wide(x_BNE) + _wide(gate_B1E) * _wide(branch_BNE)).to(x_BNE.dtype)


@torch.library.custom_op("noisebench::modulate", mutates_args=(), device_types="cuda")
def modulate_forward(x_BNE: Tensor, shift_B1E: Tensor, scale_B1E: Tensor, eps: float) -> Tensor:
    """Contiguous (B, N, E)."""
    from kernels.jit.adaln import launch_modulate

    return launch_modulate(x_BNE, shift_B1E, scale_B1E, eps)


@torch.library.custom_op("noisebench::modulate_backward", mutates_args=(), device_types="cuda")
def modulate_backward(
    g_BNE: Tensor, x_BNE: Tensor, scale_B1E: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, shift and scale; the last two float32 (B, 1, E)."""
    from kernels.jit.adaln import launch_modulate_backward

    return launch_modulate_backward(g_BNE, x_BNE, scale_B1E, eps)


@torch.library.custom_op("noisebench::gate", mutates_args=(), device_types="cuda")
def gate_forward(x_BNE: Tensor, branch_BNE: Tensor, gate_B1E: Tensor) -> Tensor:
    """Contiguous (B, N, E)."""
    from kernels.jit.adaln import launch_gate

    return launch_gate(x_BNE, branch_BNE, gate_B1E)


@torch.library.custom_op("noisebench::gate_backward", mutates_args=(), device_types="cuda")
def gate_backward(g_BNE: Tensor, branch_BNE: Tensor, gate_B1E: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the branch, and of the gate, float32 (B, 1, E); that of x is g."""
    from kernels.jit.adaln import launch_gate_backward

    return launch_gate_backward(g_BNE, branch_BNE, gate_B1E)


@modulate_forward.register_kernel("cpu")
def _modulate_on_cpu(x_BNE: Tensor, shift_B1E: Tensor, scale_B1E: Tensor, eps: float) -> Tensor:
    if INTERPRETED and x_BNE.dtype in DTYPES:
        from kernels.jit.adaln import launch_modulate

        return launch_modulate(x_BNE, shift_B1E, scale_B1E, eps)
    return reference_modulate(x_BNE, shift_B1E, scale_B1E, eps).contiguous()


@modulate_backward.register_kernel("cpu")
def _modulate_backward_on_cpu(
    g_BNE: Tensor, x_BNE: Tensor, scale_B1E: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dx = r·(h − mean h − x̂·mean(h·x̂)) with h = g·(1 + scale); dshift = Σ g, dscale = Σ g·x̂ over N."""
    if INTERPRETED and x_BNE.dtype in DTYPES:
        from kernels.jit.adaln import launch_modulate_backward

        return launch_modulate_backward(g_BNE, x_BNE, scale_B1E, eps)
    g, x, scale = (_wide(z) for z in (g_BNE, x_BNE, scale_B1E))
    centred = x - x.mean(-1, keepdim=True)
    r = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    x_hat, h = centred * r, g * (1.0 + scale)
    dx = r * (h - h.mean(-1, keepdim=True) - x_hat * (h * x_hat).mean(-1, keepdim=True))
    return dx.to(x_BNE.dtype).contiguous(), g.sum(1, keepdim=True), (g * x_hat).sum(1, keepdim=True)


@gate_forward.register_kernel("cpu")
def _gate_on_cpu(x_BNE: Tensor, branch_BNE: Tensor, gate_B1E: Tensor) -> Tensor:
    if INTERPRETED and x_BNE.dtype in DTYPES:
        from kernels.jit.adaln import launch_gate

        return launch_gate(x_BNE, branch_BNE, gate_B1E)
    return reference_gate(x_BNE, branch_BNE, gate_B1E).contiguous()


@gate_backward.register_kernel("cpu")
def _gate_backward_on_cpu(g_BNE: Tensor, branch_BNE: Tensor, gate_B1E: Tensor) -> tuple[Tensor, Tensor]:
    if INTERPRETED and branch_BNE.dtype in DTYPES:
        from kernels.jit.adaln import launch_gate_backward

        return launch_gate_backward(g_BNE, branch_BNE, gate_B1E)
    g = _wide(g_BNE)
    dbranch = (g * _wide(gate_B1E)).to(branch_BNE.dtype).contiguous()
    return dbranch, (g * _wide(branch_BNE)).sum(1, keepdim=True)


@modulate_forward.register_fake
def _fake_modulate(x_BNE: Tensor, shift_B1E: Tensor, scale_B1E: Tensor, eps: float) -> Tensor:
    return x_BNE.new_empty(x_BNE.shape)


@modulate_backward.register_fake
def _fake_modulate_backward(
    g_BNE: Tensor, x_BNE: Tensor, scale_B1E: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return x_BNE.new_empty(x_BNE.shape), _fake_sum(x_BNE), _fake_sum(x_BNE)


@gate_forward.register_fake
def _fake_gate(x_BNE: Tensor, branch_BNE: Tensor, gate_B1E: Tensor) -> Tensor:
    return x_BNE.new_empty(x_BNE.shape)


@gate_backward.register_fake
def _fake_gate_backward(g_BNE: Tensor, branch_BNE: Tensor, gate_B1E: Tensor) -> tuple[Tensor, Tensor]:
    return branch_BNE.new_empty(branch_BNE.shape), _fake_sum(branch_BNE)


def _keep_modulate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x_BNE, shift_B1E, scale_B1E, ctx.eps = inputs
    ctx.save_for_backward(x_BNE, scale_B1E)
    ctx.dtypes = shift_B1E.dtype, scale_B1E.dtype


def _gradients_of_modulate(ctx: Any, g_BNE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    dx, dshift, dscale = modulate_backward(g_BNE, *ctx.saved_tensors, ctx.eps)
    return dx, dshift.to(ctx.dtypes[0]), dscale.to(ctx.dtypes[1]), None


def _keep_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _gradients_of_gate(ctx: Any, g_BNE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    branch_BNE, gate_B1E = ctx.saved_tensors
    dbranch, dgate = gate_backward(g_BNE, branch_BNE, gate_B1E)
    return g_BNE, dbranch, dgate.to(gate_B1E.dtype)


modulate_forward.register_autograd(_gradients_of_modulate, setup_context=_keep_modulate)
gate_forward.register_autograd(_gradients_of_gate, setup_context=_keep_gate)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _fake_sum(x_BNE: Tensor) -> Tensor:
    B, _, E = x_BNE.shape
    return x_BNE.new_empty(B, 1, E, dtype=torch.promote_types(x_BNE.dtype, torch.float32))


def _fused(what: str, x_BNE: Tensor, backend: str) -> bool:
    if chosen_backend(backend) != "triton":
        return False
    require_triton(x_BNE, what)
    if x_BNE.dtype not in DTYPES or x_BNE.shape[-1] > WIDEST:
        raise ValueError(
            f"{what} by triton takes float16, bfloat16 or float32 and widths to {WIDEST}: got {x_BNE.dtype} "
            f"and {x_BNE.shape[-1]}; use auto or math"
        )
    return True


def _check(x_BNE: Tensor, *vectors_B1E: Tensor) -> None:
    if x_BNE.ndim != 3:
        raise ValueError(f"x is (B, N, E): got {tuple(x_BNE.shape)}")
    expected = (x_BNE.shape[0], 1, x_BNE.shape[2])
    for vector in vectors_B1E:
        if tuple(vector.shape) != expected:
            raise ValueError(f"shift, scale and gate are {expected}, one a sample: got {tuple(vector.shape)}")
