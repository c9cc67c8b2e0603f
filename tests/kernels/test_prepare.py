"""Preparation and joint attention on the CPU: the twin against formulas of its own, registration, bad input.

Shapes: B batch, N image tokens, L text tokens, A heads, D size of a head.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from kernels.attention import attention
from kernels.joint_attention import joint_attention
from kernels.prepare import prepare, prepare_backward, prepare_forward, rotate, rotation_2d


def draw(N: int = 6, L: int = 4, D: int = 8, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, tokens, 3, 3, D, generator=generator, dtype=dtype) for tokens in (N, L)]


def norms(D: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    w = torch.rand(4, D, generator=generator, dtype=dtype) + 0.5
    return tuple(w.unbind(0))  # type: ignore[return-value]


def test_norms_are_those_of_pytorch_each_stream_its_own() -> None:
    image, text = draw()
    weights = norms()
    q, k, v = prepare(image, text, weights=weights)
    for made, part, (of_image, of_text) in ((q, 0, weights[::2]), (k, 1, weights[1::2])):
        streams = []
        for stream, weight in ((image, of_image), (text, of_text)):
            module = nn.RMSNorm(8, eps=1e-6)
            module.weight.data = weight
            streams.append(module(stream[:, :, part].transpose(1, 2)))
        assert torch.equal(made, torch.cat(streams, 2))
    assert torch.equal(v, torch.cat([image[:, :, 2], text[:, :, 2]], 1).transpose(1, 2))


def test_rotation_is_multiplication_by_a_complex_number() -> None:
    x = torch.randn(1, 1, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angle = torch.linspace(0, 5, 12, dtype=torch.float64).view(3, 4)
    turned = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(rotate(x, angle.cos(), angle.sin()), torch.view_as_real(turned).flatten(-2))


def test_scores_after_rotation_depend_on_differences_of_positions_alone() -> None:
    """What rotary positions are for: moving the image moves no score."""
    cos, sin = rotation_2d(3, 3, (0, 4, 4))
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 8, generator=generator).expand(1, 1, 9, 8) for _ in range(2))
    scores = (rotate(q, cos, sin) @ rotate(k, cos, sin).mT)[0, 0]
    # Tokens are row·3 + column: (0, 0)→(1, 1) and (1, 1)→(2, 2) are the same step.
    torch.testing.assert_close(scores[0, 4], scores[4, 8])
    torch.testing.assert_close(scores[1, 0], scores[8, 7])
    assert not torch.isclose(scores[0, 4], scores[0, 1])


def test_angles_are_position_times_rate_and_text_has_none() -> None:
    cos, sin = rotation_2d(2, 3, (2, 4, 2), text=2, order="text-first", theta=100.0)
    assert cos.shape == (8, 4)
    assert torch.equal(cos[:2], torch.ones(2, 4))
    row, column = 1, 2  # the last token
    expected = torch.tensor([0.0, row * 1.0, row * 0.1, column * 1.0])
    torch.testing.assert_close(sin[-1], expected.sin())
    torch.testing.assert_close(cos[-1], expected.cos())


@pytest.mark.parametrize("order", ["image-first", "text-first"])
def test_joint_attention_is_attention_over_both(order: str) -> None:
    image, text = draw()
    of_image, of_text = joint_attention(image, text, order=order)
    q, k, v = (torch.cat([image[:, :, p], text[:, :, p]], 1).transpose(1, 2) for p in range(3))
    y = attention(q, k, v)
    torch.testing.assert_close(of_image, y[:, :, :6])
    torch.testing.assert_close(of_text, y[:, :, 6:])


def test_order_only_permutes_tokens() -> None:
    image, text = draw()
    given = {"weights": norms()}
    for a, b in zip(
        joint_attention(image, text, order="image-first", **given),
        joint_attention(image, text, order="text-first", **given),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_no_text_is_one_stream() -> None:
    image, text = draw()
    for ours, both in zip(prepare(image), prepare(image, text[:, :0]), strict=True):
        assert torch.equal(ours, both)


def angles(tokens: int, D: int) -> tuple[Tensor, Tensor]:
    turn = torch.linspace(0, 6, tokens * D // 2).view(tokens, D // 2)
    return turn.cos(), turn.sin()


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_registration_is_sound(normed: bool, turned: bool) -> None:
    image, text = (x.requires_grad_() for x in draw())
    weights = [w.clone().requires_grad_() for w in norms()] if normed else []
    cos, sin = angles(10, 8) if turned else (None, None)
    arguments = (image, text, weights, cos, sin, 1e-6)
    torch.library.opcheck(prepare_forward, arguments)
    plain = (image.detach(), text.detach(), [w.detach() for w in weights], cos, sin, 1e-6)
    torch.library.opcheck(prepare_backward, (*prepare_forward(*plain), *plain))


def test_gradients_are_differences() -> None:
    image, text = (x.requires_grad_() for x in draw(2, 1, 4, torch.float64))
    weights = [w.clone().requires_grad_() for w in norms(4, torch.float64)]
    cos, sin = angles(3, 4)
    run = lambda a, b, *w: prepare_forward(a, b, list(w), cos, sin, 1e-6)  # noqa: E731
    assert torch.autograd.gradcheck(run, (image, text, *weights))


def test_compiles_as_one_graph() -> None:
    image, text = (x.requires_grad_() for x in draw())
    weights, (cos, sin) = list(norms()), angles(10, 8)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        q, k, v = prepare_forward(a, b, weights, cos, sin, 1e-6)
        return (q * k + v).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(image, text), (image, text))
    for ours, plain in zip(torch.autograd.grad(compiled(image, text), (image, text)), expected, strict=True):
        torch.testing.assert_close(ours, plain)


def test_bad_input_is_one_sentence() -> None:
    image, text = draw()
    with pytest.raises(ValueError, match="order 'text first' is unknown: use one of image-first, text-first"):
        prepare(image, text, order="text first")
    with pytest.raises(ValueError, match=r"image \(B, N, 3, A, D\) and text \(B, L, 3, A, D\)"):
        prepare(image, text[:, :, :2])
    with pytest.raises(ValueError, match=r"four of shape \(8,\), or None"):
        prepare(image, text, weights=tuple(torch.ones(4, 6).unbind(0)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cos and sin of shape \(10, 4\)"):
        prepare(image, text, rotation=angles(9, 8))
    with pytest.raises(ValueError, match="has an odd one: leave it out"):
        prepare(*draw(D=7), rotation=(torch.ones(10, 4), torch.zeros(10, 4)))
    with pytest.raises(ValueError, match="three even numbers of columns"):
        rotation_2d(2, 2, (1, 2, 2))
    with pytest.raises(ValueError, match="streams of one dtype"):
        prepare(image, text.double())
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
            joint_attention(image, text, backend="triton")


def test_scores_are_bounded_after_the_norms() -> None:
    """|q̂·k̂| ≤ D for weights of 1 (Cauchy-Schwarz): what the norms are for."""
    image, text = (100 * x for x in draw())
    ones = tuple(torch.ones(4, 8).unbind(0))
    q, k, _ = prepare(image, text, weights=ones)  # type: ignore[arg-type]
    assert (q @ k.mT).abs().max() <= 8 + 1e-4
    assert math.isclose(q.square().mean(-1).max().item(), 1.0, rel_tol=1e-4)
