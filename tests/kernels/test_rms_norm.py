"""RMSNorm on the CPU: the twin, registration, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kernels.rms_norm import rms_norm, rms_norm_backward_op, rms_norm_op


def test_it_is_pytorchs() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    module = nn.RMSNorm(8, eps=1e-6)
    module.weight.data = torch.linspace(0.5, 2, 8)
    assert torch.equal(rms_norm(x, module.weight), module(x))


@pytest.mark.parametrize("weighted", [True, False])
def test_gradients_and_registration(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.rand(8, generator=generator, dtype=torch.float64, requires_grad=True) if weighted else None
    inputs = (x, w) if weighted else (x,)
    run = lambda *z: rms_norm_op(z[0], z[1] if weighted else None, 1e-6)  # noqa: E731
    assert torch.autograd.gradcheck(run, inputs)
    torch.library.opcheck(rms_norm_op, (x, w, 1e-6))
    plain = (x.detach(), None if w is None else w.detach(), 1e-6)
    torch.library.opcheck(rms_norm_backward_op, (x.detach(), *plain))


def test_compiles_as_one_graph() -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    w = torch.linspace(0.5, 2, 8)
    loss = lambda z: rms_norm_op(z, w, 1e-6).square().sum()  # noqa: E731
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(x), x)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], expected)


def test_bad_input_is_one_sentence() -> None:
    x = torch.randn(3, 8)
    with pytest.raises(ValueError, match=r"needs x \(…, D\) and weight \(D,\): got \(3, 8\) and \(4,\)"):
        rms_norm(x, torch.ones(4))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="rms_norm by triton needs an NVIDIA GPU"):
            rms_norm(x, backend="triton")
