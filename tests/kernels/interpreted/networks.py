"""Whole networks by Triton, in the interpreter: the same numbers as by PyTorch, one switch for all.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kernels.attention import using_backend
from models.networks.dit import DiT
from models.networks.mmdit import MMDiT
from models.networks.tarflow import TarFlowBlocks
from models.networks.transformer import CausalTransformer


def perturbed(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Away from the start, at which adaLN-Zero says nothing."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def compare(network: nn.Module, run: Callable[[nn.Module], Tensor]) -> None:
    """Result and gradients of all weights, by PyTorch and by Triton."""
    found = []
    for backend in ("math", "triton"):
        with using_backend(backend):
            y = run(network)
        gradients = torch.autograd.grad(y.square().mean(), list(network.parameters()), allow_unused=True)
        found.append([y.detach(), *(g for g in gradients if g is not None)])
    assert len(found[0]) == len(found[1])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5 * float(plain.abs().max()) + 1e-7, rtol=1e-3)


def test_dit(generator: torch.Generator) -> None:
    network = perturbed(DiT((1, 8, 8), 2, 48, 2, 2, classes=3), generator)
    x, t = torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([0.2, 0.7])
    compare(network, lambda net: net(x, t, torch.tensor([0, 2])))


@pytest.mark.parametrize("qk_norm", ["rms", None])
def test_mm_dit(qk_norm: str | None, generator: torch.Generator) -> None:
    network = MMDiT((1, 8, 8), 2, 48, 2, 2, context_width=12, pooled_width=6, qk_norm=qk_norm, dual_blocks=1)
    perturbed(network, generator)
    x, t = torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([0.2, 0.7])
    context, pooled = torch.randn(2, 5, 12, generator=generator), torch.randn(2, 6, generator=generator)
    compare(network, lambda net: net(x, t, context, pooled))


def test_causal_transformer(generator: torch.Generator) -> None:
    network = perturbed(CausalTransformer(48, 2, 2), generator)
    x = torch.randn(2, 20, 48, generator=generator)
    compare(network, lambda net: net(x))


def test_tarflow(generator: torch.Generator) -> None:
    """Tokens each seeing those before: z and ln|det| of a flow."""
    network = perturbed(TarFlowBlocks((1, 8, 8), 2, 2, 32, 1, 2), generator)
    x = torch.randn(2, 1, 8, 8, generator=generator)

    def run(net: nn.Module) -> Tensor:
        z, log_det_B = net(x)
        return torch.cat([z.flatten(1), log_det_B[:, None]], 1)

    compare(network, run)
