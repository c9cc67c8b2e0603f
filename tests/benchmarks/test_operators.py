"""What it costs to call: a function, an autograd.Function, and the operator, on tensors too small to matter.

The kernels of a DiT at 256² take some 20 µs on a GPU; what the host adds to each call is in these tables.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.adaln import modulate_forward, reference_modulate
from kernels.attention_op import attention_backward, attention_forward, forward_twin

pytestmark = pytest.mark.campaign


class Direct(torch.autograd.Function):
    """The same work with no more than autograd's own wrapping."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o, lse = forward_twin(q, k, v, None, False)
        ctx.save_for_backward(q, k, v, o, lse)
        return o

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v, o, lse = ctx.saved_tensors
        return attention_backward(gradients[0], None, q, k, v, o, lse, None, False)


WAYS = {
    "function": lambda q, k, v: forward_twin(q, k, v, None, False)[0],
    "autograd function": Direct.apply,
    "operator": lambda q, k, v: attention_forward(q, k, v, None, False)[0],
}


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("way", WAYS)
def test_attention_call(benchmark: Any, way: str, gradient: bool) -> None:
    torch.set_num_threads(1)
    q, k, v = (torch.randn(1, 1, 2, 8, requires_grad=gradient) for _ in range(3))
    run = WAYS[way]
    if gradient:
        found = benchmark(lambda: torch.autograd.grad(run(q, k, v).sum(), (q, k, v)))
        assert all(g.isfinite().all() for g in found)
    else:
        assert benchmark(lambda: run(q, k, v)).isfinite().all()


@pytest.mark.parametrize("way", ["function", "operator"])
def test_modulate_call(benchmark: Any, way: str) -> None:
    torch.set_num_threads(1)
    x, shift, scale = torch.randn(1, 2, 8), torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    run = reference_modulate if way == "function" else modulate_forward
    assert benchmark(lambda: run(x, shift, scale, 1e-6)).isfinite().all()
