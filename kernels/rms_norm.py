"""Root-mean-square normalisation of the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467).

    y = x/√(mean(x²) + ε) · w

As the per-head norm of queries and keys (Henry et al. 2020, arXiv 2010.04245, in its form of Stable
Diffusion 3.5 and FLUX) it is applied to a view of a projection, which is read in place.

Shapes: … any leading dimensions, D the normalised one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import chosen_backend
from kernels.attention_op import DTYPES
from kernels.launch import INTERPRETED, require_triton


def rms_norm(
    x_D: Tensor, weight_D: Tensor | None = None, *, eps: float = 1e-6, backend: str = "auto"
) -> Tensor:
    """x/√(mean(x²) + ε)·w over the last dimension, (…, D), in the dtype of x; sums are float32.

    weight_D  factor of each column, of any floating dtype; none: 1
    backend   of attention, as everywhere: `triton` is one kernel forward, one and a sum backward, for any
              strides, up to three leading dimensions without a copy; any other is plain PyTorch

    Raises ValueError where shapes disagree or `triton` cannot run these tensors.
    """
    if x_D.ndim < 1 or (weight_D is not None and weight_D.shape != x_D.shape[-1:]):
        have = None if weight_D is None else tuple(weight_D.shape)
        raise ValueError(f"rms_norm needs x (…, D) and weight (D,): got {tuple(x_D.shape)} and {have}")
    if chosen_backend(backend) != "triton":
        return reference_rms_norm(x_D, weight_D, eps)
    require_triton(x_D, "rms_norm")
    if x_D.dtype not in DTYPES:
        raise ValueError(f"rms_norm by triton takes float16, bfloat16 or float32: got {x_D.dtype}; use auto")
    return rms_norm_op(x_D, weight_D, eps)


def reference_rms_norm(x_D: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    """The definition by PyTorch: float32 inside (float64 stays float64), output in the dtype of x."""
    wide = torch.promote_types(x_D.dtype, torch.float32)
    weight_D = None if weight_D is None else weight_D.to(wide)
    return F.rms_norm(x_D.to(wide), x_D.shape[-1:], weight_D, eps).to(x_D.dtype)


@torch.library.custom_op("noisebench::rms_norm", mutates_args=(), device_types="cuda")
def rms_norm_op(x_D: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    """The forward kernel."""
    from kernels.jit.rms_norm import launch_forward

    return launch_forward(x_D, weight_D, eps)


@rms_norm_op.register_kernel("cpu")
def _forward_on_cpu(x_D: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    if INTERPRETED and x_D.dtype in DTYPES:
        from kernels.jit.rms_norm import launch_forward

        return launch_forward(x_D, weight_D, eps)
    y_D = empty_as(x_D)
    return y_D.copy_(reference_rms_norm(x_D, weight_D, eps))


@rms_norm_op.register_fake
def _forward_of_fakes(x_D: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    return empty_as(x_D)


@torch.library.custom_op("noisebench::rms_norm_backward", mutates_args=(), device_types="cuda")
def rms_norm_backward_op(
    grad_D: Tensor, x_D: Tensor, weight_D: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of w; the second is empty where there is no w."""
    from kernels.jit.rms_norm import launch_backward

    return launch_backward(grad_D, x_D, weight_D, eps)


@rms_norm_backward_op.register_kernel("cpu")
def _backward_on_cpu(
    grad_D: Tensor, x_D: Tensor, weight_D: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    if INTERPRETED and x_D.dtype in DTYPES:
        from kernels.jit.rms_norm import launch_backward

        return launch_backward(grad_D, x_D, weight_D, eps)
    wide = torch.promote_types(x_D.dtype, torch.float32)
    x, g = x_D.to(wide), grad_D.to(wide)
    r = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    h = g if weight_D is None else g * weight_D.to(wide)
    dx = r * (h - x * r * (h * x * r).mean(-1, keepdim=True))
    if weight_D is None:
        return empty_as(x_D).copy_(dx), x_D.new_empty(0)
    dw = (g * x * r).sum(tuple(range(x.ndim - 1)))
    return empty_as(x_D).copy_(dx), dw.to(weight_D.dtype).clone()


@rms_norm_backward_op.register_fake
def _backward_of_fakes(
    grad_D: Tensor, x_D: Tensor, weight_D: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    return empty_as(x_D), x_D.new_empty(0) if weight_D is None else weight_D.new_empty(weight_D.shape)


def empty_as(x_D: Tensor) -> Tensor:
    """An empty tensor like x, dense: dimensions in x's order in memory where its rows are whole there."""
    if x_D.ndim > 4 or x_D.stride(-1) != 1:
        return x_D.new_empty(x_D.shape)
    return torch.empty_like(x_D, memory_format=torch.preserve_format)


def _remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x_D, weight_D, ctx.eps = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(x_D, weight_D)


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, grad_D: Tensor
) -> tuple[Tensor, Tensor | None, None]:
    x_D, weight_D = ctx.saved_tensors  # type: ignore[attr-defined]
    dx_D, dw_D = rms_norm_backward_op(grad_D, x_D, weight_D, ctx.eps)  # type: ignore[attr-defined]
    return dx_D, None if weight_D is None else dw_D, None


rms_norm_op.register_autograd(_differentiate, setup_context=_remember)
