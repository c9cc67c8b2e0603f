"""The fused preparation and joint attention in the interpreter, against float64: results and all gradients.

Shapes: B batch, N image tokens, L text tokens, A heads, D size of a head.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.joint_attention import joint_attention
from kernels.prepare import prepare, reference_prepare, rotation_2d

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def draw(
    N: int, L: int, D: int, dtype: torch.dtype, generator: torch.Generator, A: int = 3
) -> tuple[list[Tensor], list[Tensor]]:
    """Both streams, and four weights near 1."""
    streams = [torch.randn(2, tokens, 3, A, D, generator=generator).to(dtype) for tokens in (N, L)]
    weights = [(1 + 0.2 * torch.randn(D, generator=generator)).to(dtype) for _ in range(4)]
    return streams, weights


def angles(tokens: int, D: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    turn = 6.3 * torch.rand(tokens, D // 2, generator=generator)
    return turn.cos(), turn.sin()


def gradients(made: tuple[Tensor, ...], leaves: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    towards = [torch.randn(y.shape, generator=generator).to(torch.float16).to(y.dtype) for y in made]
    return list(torch.autograd.grad(made, leaves, towards, allow_unused=True))


def close(ours: Tensor, exact: Tensor, plain: Tensor, what: str) -> None:
    """No further from float64 than twice what plain PyTorch in that dtype is, and one rounding."""
    error, theirs = ((x.double() - exact).abs().max().item() for x in (ours, plain))
    unit = torch.finfo(ours.dtype).eps * exact.abs().max().item()
    assert error <= 2 * theirs + unit + 1e-6, f"{what}: {error:.2e}, PyTorch {theirs:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("N", "L", "D"), [(70, 9, 64), (33, 0, 72), (1, 40, 128), (20, 5, 32), (5, 4, 80), (5, 4, 88), (5, 4, 96)]
)
@pytest.mark.parametrize("order", ["image-first", "text-first"])
def test_normed_and_turned(
    N: int, L: int, D: int, order: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    streams, weights = draw(N, L, D, dtype, generator)
    turn = angles(N + L, D, generator)
    found = []
    for backend, to in (("triton", dtype), ("math", dtype), ("math", torch.float64)):
        leaves = [x.to(to).requires_grad_() for x in (*streams, *weights)]
        made = prepare(*leaves[:2], weights=tuple(leaves[2:]), rotation=turn, order=order, backend=backend)
        found.append([*made, *gradients(made, leaves)])
    names = ("q", "k", "v", "d image", "d text", "dw iq", "dw ik", "dw tq", "dw tk")
    for name, ours, plain, exact in zip(names, *found, strict=True):
        if exact is not None and exact.numel():
            close(ours.detach(), exact.detach(), plain.detach(), name)


@pytest.mark.parametrize(("normed", "turned"), [(True, False), (False, True), (False, False)])
def test_either_may_be_left_out(normed: bool, turned: bool, generator: torch.Generator) -> None:
    streams, weights = draw(20, 7, 64, torch.float32, generator)
    given = {"weights": tuple(weights) if normed else None}
    given |= {"rotation": angles(27, 64, generator) if turned else None}
    found = []
    for backend in ("triton", "math"):
        leaves = [x.clone().requires_grad_() for x in streams]
        made = prepare(*leaves, **given, backend=backend)
        found.append([*made, *gradients(made, leaves)])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_a_slice_of_a_wider_projection_is_read_in_place(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX.2 projects more than q, k, v at once; its slices are not contiguous."""
    wide = torch.randn(1, 12, 3 * 2 * 64 + 40, generator=generator)
    image = wide[..., 40:].view(1, 12, 3, 2, 64)
    text = torch.randn(1, 5, 3, 2, 64, generator=generator)
    expected = prepare(image.contiguous(), text, backend="triton")
    monkeypatch.setattr(Tensor, "contiguous", lambda *_: pytest.fail("a strided input was copied"))
    for ours, copied in zip(prepare(image, text, backend="triton"), expected, strict=True):
        assert torch.equal(ours, copied)


def test_twice_the_same_bits(generator: torch.Generator) -> None:
    streams, weights = draw(40, 9, 64, torch.bfloat16, generator)

    def once() -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (*streams, *weights)]
        made = prepare(*leaves[:2], weights=tuple(leaves[2:]), backend="triton")
        return [*made, *gradients(made, leaves)]

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


@pytest.mark.parametrize("L", [0, 9])
@pytest.mark.parametrize("order", ["image-first", "text-first"])
def test_joint_attention(L: int, order: str, generator: torch.Generator) -> None:
    """Both streams' results and all gradients, in float32, against the same composed of plain PyTorch."""
    streams, weights = draw(24, L, 64, torch.float32, generator)
    turn = rotation_2d(4, 6, (16, 24, 24), text=L, order=order)
    found = []
    for backend, to in (("triton", torch.float32), ("reference", torch.float64)):
        leaves = [x.to(to).requires_grad_() for x in (*streams, *weights)]
        made = joint_attention(
            *leaves[:2], weights=tuple(leaves[2:]), rotation=turn, order=order, backend=backend
        )
        assert [y.shape[2] for y in made] == [24, L]
        found.append([*made, *gradients(made, leaves)])
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-4)


def test_the_reference_is_in_the_joint_order(generator: torch.Generator) -> None:
    """Text first swaps streams and weights alike."""
    (image, text), weights = draw(6, 4, 32, torch.float32, generator)
    swapped = weights[2:] + weights[:2]
    got = prepare(image, text, weights=tuple(weights), order="text-first", backend="triton")
    expected = reference_prepare(text, image, swapped, None, None, 1e-6)
    for ours, plain in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
