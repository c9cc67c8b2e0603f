"""RMSNorm in the interpreter, against float64: results and gradients.

Shapes: any leading dimensions, D columns.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.rms_norm import rms_norm

SHAPES = ((2, 3, 40, 64), (1, 3, 7, 72), (2, 2, 50, 128), (5, 88), (32,), (3, 77))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def both(x: Tensor, weight: Tensor | None, backend: str) -> list[Tensor]:
    leaves = [z.detach().requires_grad_() for z in (x, weight) if z is not None]
    y = rms_norm(leaves[0], leaves[1] if weight is not None else None, backend=backend)
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).half().to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, towards)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 3, 40, 64), (1, 3, 7, 72), (2, 2, 50, 128), (5, 88), (32,), (3, 77)], ids=str
)
@pytest.mark.parametrize("weighted", [True, False])
def test_against_float64(
    shape: tuple[int, ...], weighted: bool, dtype: torch.dtype, generator: torch.Generator
) -> None:
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = (torch.rand(shape[-1], generator=generator) + 0.5).to(dtype) if weighted else None
    ours, plain = both(x, weight, "triton"), both(x, weight, "math")
    exact = both(x.double(), None if weight is None else weight.double(), "math")
    for name, a, b, truth in zip(("y", "dx", "dw"), ours, plain, exact, strict=False):
        error, theirs = ((z.double() - truth).abs().max().item() for z in (a, b))
        unit = torch.finfo(dtype).eps * truth.abs().max().item()
        assert error <= 2 * theirs + unit + 1e-6, f"{name}: {error:.2e}, PyTorch {theirs:.2e}"


def test_queries_of_a_packed_projection_are_read_in_place(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = torch.randn(2, 20, 3, 4, 64, generator=generator)
    q_BAND = packed[:, :, 0].transpose(1, 2)
    expected = rms_norm(q_BAND.contiguous(), backend="triton")
    monkeypatch.setattr(Tensor, "contiguous", lambda *_: pytest.fail("a strided input was copied"))
    assert torch.equal(rms_norm(q_BAND, backend="triton"), expected)


def test_twice_the_same_bits(generator: torch.Generator) -> None:
    """More rows than one tile, so that sums of the weight's gradient have parts."""
    x, weight = torch.randn(300, 64, generator=generator), torch.ones(64)
    once, again = both(x, weight, "triton"), both(x, weight, "triton")
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
