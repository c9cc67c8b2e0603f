"""Every attention that can be pinned: how it is called, and the names that its kernels have.

Shapes: B batch, H heads, N tokens, D size of a head.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from bench.kernel_bench.compositions import Attend
from bench.kernel_bench.observed import Claim
from kernels.attention import SDPA_BACKENDS, attention


class Absent(Exception):
    """A provider that cannot run here, with the reason in one sentence."""


@dataclass(frozen=True)
class Backend:
    """One implementation of attention.

    make       gives the function; raises Absent where it is not installed
    cuda, cpu  what its kernels, and on a processor its operators, are called
    compiled   whether making it compiles, which takes seconds
    """

    name: str
    make: Callable[[], Attend]
    cuda: Claim
    cpu: Claim
    compiled: bool = False

    def claim(self, device: torch.device) -> Claim:
        """What must be seen on a device."""
        return self.cuda if device.type == "cuda" else self.cpu


def pinned(name: str) -> Attend:
    """PyTorch's attention by exactly one of its backends."""
    backend = SDPA_BACKENDS[name]

    def attend(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)

    return attend


def _flex() -> Attend:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, fullgraph=True, dynamic=False)


def _package(module: str, function: str, install: str) -> Attend:
    """FlashAttention's own interface, (B, N, H, D), where its package is installed."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise Absent(f"{module} is not installed: {install}")
    try:
        run = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise Absent(f"{module} cannot be imported here: {error}") from error

    def attend(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
        o_BNHD = run(*(x_BHND.transpose(1, 2) for x_BHND in (q_BHND, k_BHND, v_BHND)))
        return (o_BNHD[0] if isinstance(o_BNHD, tuple) else o_BNHD).transpose(1, 2)

    return attend


def _ours() -> Attend:
    return functools.partial(attention, backend="triton")


_NO_OTHER = r"fmha_cutlass|cudnn.*sdpa|pytorch_flash|FlashAttn(Fwd|Bwd)Sm|FlashAttention(Forward|Backward)Sm"
OURS = Claim(forbidden=(_NO_OTHER,))
"""What is added for our kernels is that nobody else's attention ran; `providers` adds their names."""

BACKENDS = {
    one.name: one
    for one in (
        Backend(
            "math",
            functools.partial(pinned, "math"),
            Claim(("softmax|Softmax|SoftMax",), ("flash|fmha|cudnn.*sdpa",)),
            Claim(("_scaled_dot_product_attention_math",), ("_flash_attention",)),
        ),
        Backend(
            "flash",
            functools.partial(pinned, "flash"),
            Claim(("flash_(fwd|bwd)|pytorch_flash",), ("fmha_cutlass|cudnn.*sdpa",)),
            Claim(("_scaled_dot_product_flash_attention",), ("_attention_math",)),
        ),
        Backend(
            "efficient",
            functools.partial(pinned, "efficient"),
            Claim(("fmha",), ("pytorch_flash|cudnn.*sdpa",)),
            Claim(("_efficient_attention",)),
        ),
        Backend(
            "cudnn",
            functools.partial(pinned, "cudnn"),
            Claim(("cudnn",), ("pytorch_flash|fmha_cutlass",)),
            Claim(("_cudnn_attention",)),
        ),
        Backend(
            "flex",
            _flex,
            Claim(("flex_attention|triton_tem",), (_NO_OTHER,)),
            Claim(("CompiledFxGraph|Compiled",), ("_scaled_dot_product",)),
            compiled=True,
        ),
        Backend(
            "fa3",
            functools.partial(
                _package, "flash_attn_interface", "flash_attn_func", "it is built from flash-attention/hopper"
            ),
            Claim(("FlashAttn(Fwd|Bwd)Sm90",)),
            Claim(("flash",)),
        ),
        Backend(
            "fa4",
            functools.partial(_package, "flash_attn.cute", "flash_attn_func", "pip install flash-attn-4"),
            Claim(("FlashAttention(Forward|Backward)Sm|flash_attn.*cute|flash_(fwd|bwd)_sm",)),
            Claim(("flash",)),
        ),
        Backend("triton", _ours, OURS, Claim(("noisebench::attention",), ("_scaled_dot_product",))),
    )
}
"""In the order of tables; ours last."""
