"""The tensors of a case: N(0, 1) by a fixed seed, never zeros, laid out as the models lay them out.

Clocks of a GPU depend on its power, and its power on the bits that flip, so zeros would be too fast.

Shapes: B batch, H heads, N tokens (I image, T text), D size of a head, E = H·D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.kernel_bench.shapes import Shape

Call = Callable[..., Sequence[Tensor]]
"""From the inputs of a problem to its outputs."""

SEED = 20260
ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class Problem:
    """One operation on one shape: what goes in, and the gradients that come back.

    inputs   leaves that want a gradient, in the order of `names`
    outputs  names of the results; `grads` has the incoming gradient of each
    rope     cos and sin, (N, D/2) float32, of joint attention where the shape has RoPE
    """

    operation: str
    shape: Shape
    names: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    grads: tuple[Tensor, ...]
    rope: tuple[Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.inputs[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Of inputs and outputs."""
        return self.inputs[0].dtype

    def in_dtype(self, dtype: torch.dtype) -> Problem:
        """The same numbers in another dtype: the truth is computed from what the providers were given."""
        inputs = tuple(tensor.detach().to(dtype).requires_grad_() for tensor in self.inputs)
        grads = tuple(tensor.to(dtype) for tensor in self.grads)
        return Problem(self.operation, self.shape, self.names, inputs, self.outputs, grads, self.rope)


def make(operation: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> Problem:
    """The problem of a case; the same arguments give the same numbers."""
    draw = _Draw(torch.Generator(device).manual_seed(SEED), dtype, device)
    B, I, T, E = shape.batch, shape.image, shape.text, shape.width  # noqa: E741
    rope = None
    if operation == "attention":
        inputs = {name: draw.heads(shape, shape.tokens) for name in ("q", "k", "v")}
        outputs = {"o": draw.heads(shape, shape.tokens)}
    elif operation == "joint-attention":
        inputs = {"image": draw.packed(shape, I), "text": draw.packed(shape, T)}
        if shape.qk_norm:
            inputs |= {f"w{x}_{side}": draw.weight(shape.dim) for side in ("image", "text") for x in "qk"}
        outputs = {"o_image": draw.heads(shape, I), "o_text": draw.heads(shape, T)}
        rope = angles(shape.tokens, shape.dim, device) if shape.rope else None
    elif operation == "modulate":
        inputs = {"x": draw(B, I, E), "scale": draw(B, E), "shift": draw(B, E)}
        outputs = {"y": draw(B, I, E)}
    elif operation == "gated-residual":
        inputs = {"x": draw(B, I, E), "y": draw(B, I, E), "gate": draw(B, E)}
        outputs = {"z": draw(B, I, E)}
    else:
        inputs = {"x": draw.heads(shape, I), "weight": draw.weight(shape.dim)}
        outputs = {"y": draw.heads(shape, I)}
    leaves = tuple(tensor.requires_grad_() for tensor in inputs.values())
    return Problem(operation, shape, tuple(inputs), leaves, tuple(outputs), tuple(outputs.values()), rope)


def angles(tokens: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of n·base^(−2j/D), (N, D/2) each: position n, pair j (Su et al. 2021, 2104.09864)."""
    rates = ROPE_BASE ** -(torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim)
    turned = torch.arange(tokens, device=device, dtype=torch.float64)[:, None] * rates
    return turned.cos().float(), turned.sin().float()


@dataclass(frozen=True)
class _Draw:
    generator: torch.Generator
    dtype: torch.dtype
    device: torch.device

    def __call__(self, *sizes: int) -> Tensor:
        wide = torch.randn(*sizes, generator=self.generator, device=self.device)
        return wide.to(self.dtype)

    def heads(self, shape: Shape, tokens: int) -> Tensor:
        """(B, H, N, D), in memory (B, N, H, D) as a projection leaves it."""
        return self(shape.batch, tokens, shape.heads, shape.dim).transpose(1, 2)

    def packed(self, shape: Shape, tokens: int) -> Tensor:
        """(B, N, 3, H, D), as one projection leaves queries, keys and values."""
        return self(shape.batch, tokens, 3, shape.heads, shape.dim)

    def weight(self, dim: int) -> Tensor:
        """Factors of a norm, about 1."""
        return (1 + 0.1 * self(dim)).to(self.dtype)
