"""adaLN's kernels in the interpreter, against float64: results and all gradients.

Shapes: B batch, N tokens, E embedding.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.adaln import gated_residual, layer_norm_modulate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def draw(B: int, N: int, E: int, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    """x with a mean and a scale of its own, a branch, and three vectors cut from one projection."""
    x = 3 * torch.randn(B, N, E, generator=generator) + 1
    branch = torch.randn(B, N, E, generator=generator)
    projection = 0.5 * torch.randn(B, 1, 3 * E, generator=generator)
    return [x.to(dtype), branch.to(dtype), *projection.to(dtype).chunk(3, 2)]


def both(inputs: list[Tensor], backend: str) -> list[Tensor]:
    """Both steps and their gradients."""
    x, branch, shift, scale, gate = leaves = [z.detach().requires_grad_() for z in inputs]
    modulated = layer_norm_modulate(x, shift, scale, backend=backend)
    gated = gated_residual(x, branch, gate, backend=backend)
    towards = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).half().to(x.dtype)
    gradients = torch.autograd.grad((modulated, gated), leaves, (towards, 0.5 * towards))
    return [modulated.detach(), gated.detach(), *gradients]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("B", "N", "E"), [(1, 1, 64), (2, 37, 96), (2, 40, 1152), (1, 5, 77)])
def test_against_float64(B: int, N: int, E: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    inputs = draw(B, N, E, dtype, generator)
    ours, plain = both(inputs, "triton"), both(inputs, "math")
    exact = both([z.double() for z in inputs], "math")
    names = ("modulated", "gated", "dx", "dbranch", "dshift", "dscale", "dgate")
    for name, a, b, truth in zip(names, ours, plain, exact, strict=True):
        error, theirs = ((z.double() - truth).abs().max().item() for z in (a, b))
        unit = torch.finfo(dtype).eps * truth.abs().max().item()
        assert error <= 2 * theirs + unit + 1e-6, f"{name}: {error:.2e}, PyTorch {theirs:.2e}"


def test_slices_are_read_in_place(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of one projection, and tokens of a longer sequence: no copy, the same bits."""
    x, branch, shift, scale, gate = draw(2, 12, 64, torch.float32, generator)
    expected = layer_norm_modulate(x[:, 4:].contiguous(), shift.contiguous(), scale, backend="triton")
    monkeypatch.setattr(Tensor, "contiguous", lambda *_: pytest.fail("a strided input was copied"))
    assert torch.equal(layer_norm_modulate(x[:, 4:], shift, scale, backend="triton"), expected)
    assert gated_residual(x[:, 4:], branch[:, :8], gate, backend="triton").shape == (2, 8, 64)


def test_twice_the_same_bits(generator: torch.Generator) -> None:
    inputs = draw(2, 70, 64, torch.bfloat16, generator)
    assert all(torch.equal(a, b) for a, b in zip(both(inputs, "triton"), both(inputs, "triton"), strict=True))


def test_a_large_mean_does_not_drown_the_variance(generator: torch.Generator) -> None:
    """The variance is of what is left after the mean, not a difference of two large sums."""
    x, _, shift, scale, _ = draw(1, 4, 64, torch.float32, generator)
    moved = (x + 2000.0).double()
    got = layer_norm_modulate(moved.float(), shift, scale, backend="triton").double()
    exact = layer_norm_modulate(moved, shift.double(), scale.double(), backend="math")
    torch.testing.assert_close(got, exact, atol=2e-4, rtol=1e-3)
