"""adaLN's two steps on the CPU: the twins, registration, bad input.

Shapes: B batch, N tokens, E embedding.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kernels.adaln import (
    gate_backward,
    gate_forward,
    gated_residual,
    layer_norm_modulate,
    modulate_backward,
    modulate_forward,
)


def draw(dtype: torch.dtype = torch.float32, *, grad: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 8), (2, 5, 8), (2, 1, 8), (2, 1, 8), (2, 1, 8)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_(grad) for s in shapes]


def test_modulation_is_pytorchs_layer_norm_with_a_scale_and_a_shift() -> None:
    x, _, shift, scale, _ = draw()
    norm = nn.LayerNorm(8, elementwise_affine=False, eps=1e-6)
    expected = norm(x) * (1 + scale) + shift
    torch.testing.assert_close(layer_norm_modulate(x, shift, scale), expected)
    torch.testing.assert_close(modulate_forward(x, shift, scale, 1e-6), expected)


@pytest.mark.parametrize("run", [layer_norm_modulate, lambda *z: modulate_forward(*z, 1e-6)])
def test_the_norm_is_the_published_one(run) -> None:
    """ε = 10⁻⁶ inside the root, and the biased variance: seen where the variance is as small as ε."""
    x, _, shift, scale, _ = draw()
    small = 1e-3 * x
    centred = small - small.mean(-1, keepdim=True)
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(run(small, shift, scale), wanted * (1 + scale) + shift, atol=1e-5, rtol=1e-4)


def test_a_gate_of_zero_is_the_identity() -> None:
    """adaLN-Zero begins there."""
    x, branch, _, _, gate = draw()
    assert torch.equal(gated_residual(x, branch, torch.zeros_like(gate)), x)
    assert torch.equal(gate_forward(x, branch, torch.zeros_like(gate)), x)
    torch.testing.assert_close(gate_forward(x, branch, gate), x + gate * branch)


def test_gradients_are_differences() -> None:
    x, branch, shift, scale, gate = draw(torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda *z: modulate_forward(*z, 1e-6), (x, shift, scale))
    assert torch.autograd.gradcheck(gate_forward, (x, branch, gate))


def test_registration_is_sound() -> None:
    x, branch, shift, scale, gate = draw(grad=True)
    torch.library.opcheck(modulate_forward, (x, shift, scale, 1e-6))
    torch.library.opcheck(gate_forward, (x, branch, gate))
    x, branch, shift, scale, gate = draw()
    torch.library.opcheck(modulate_backward, (branch, x, scale, 1e-6))
    torch.library.opcheck(gate_backward, (x, branch, gate))


def test_compiles_as_one_graph() -> None:
    def loss(x: Tensor, branch: Tensor, projection: Tensor) -> Tensor:
        shift, scale, gate = projection.chunk(3, 2)
        return gate_forward(x, modulate_forward(branch, shift, scale, 1e-6), gate).square().sum()

    x, branch, *vectors = draw(grad=True)
    projection = torch.cat(vectors, 2).detach().requires_grad_()
    given = (x, branch, projection)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*given), given)
    for ours, plain in zip(torch.autograd.grad(compiled(*given), given), expected, strict=True):
        torch.testing.assert_close(ours, plain)


def test_bad_input_is_one_sentence() -> None:
    x, branch, shift, scale, gate = draw()
    with pytest.raises(ValueError, match=r"x is \(B, N, E\): got \(5, 8\)"):
        layer_norm_modulate(x[0], shift, scale)
    with pytest.raises(ValueError, match=r"are \(2, 1, 8\), one a sample: got \(2, 8\)"):
        layer_norm_modulate(x, shift[:, 0], scale)
    with pytest.raises(ValueError, match=r"a branch has the shape of x, \(2, 5, 8\): got \(2, 4, 8\)"):
        gated_residual(x, branch[:, :4], gate)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="modulation by triton needs an NVIDIA GPU"):
            layer_norm_modulate(x, shift, scale, backend="triton")
