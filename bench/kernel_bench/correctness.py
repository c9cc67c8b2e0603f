"""How far a provider is from the truth in float64, for outputs and every gradient.

The rule is FlashAttention's (Dao-AILab/flash-attention, hopper/test_flash_attn.py) with the reference in
float64: max |out − ref| ≤ 2·max |low − ref| + atol, where `low` is plain PyTorch in the dtype of the case
and atol = 2·max |(ref + 0.3) − 0.3 − ref| in that dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.kernel_bench.compositions import chunked_attention, composition
from bench.kernel_bench.problems import Call, Problem

GROSS = 0.1
"""A relative error beyond which a result is wrong whatever PyTorch's own error is."""


@dataclass(frozen=True)
class Deviation:
    """Of one output or gradient.

    largest    max |out − ref|; low_largest is that of plain PyTorch in the dtype, bound what the rule allows
    relative   |out − ref|₂ / |ref|₂; low_relative that of plain PyTorch
    """

    name: str
    largest: float
    bound: float
    relative: float
    low_largest: float
    low_relative: float

    @property
    def within(self) -> bool:
        """Whether the rule holds."""
        return self.largest <= self.bound

    @property
    def gross(self) -> bool:
        """Whether it is not a result at all."""
        return not math.isfinite(self.largest) or self.relative > max(GROSS, 4 * self.low_relative)


@dataclass(frozen=True)
class Truth:
    """Outputs and gradients by name: in float64, and by plain PyTorch in the dtype of the case."""

    exact: Mapping[str, Tensor]
    low: Mapping[str, Tensor]

    def deviations(self, found: Mapping[str, Tensor]) -> list[Deviation]:
        """Of everything in `found`."""
        return [_deviation(name, value, self.exact[name], self.low[name]) for name, value in found.items()]


def truth(problem: Problem, gradients: bool = True) -> Truth:
    """Both answers of plain PyTorch to a problem."""
    wide = problem.in_dtype(torch.float64)
    exact, low = (results(one, composition(one, chunked_attention), gradients) for one in (wide, problem))
    return Truth(exact, low)


def results(problem: Problem, call: Call, gradients: bool = True) -> dict[str, Tensor]:
    """Outputs by name and, as `d` and the name of an input, all gradients."""
    if not gradients:
        with torch.no_grad():
            return _named(problem.outputs, call(*problem.inputs))
    outputs = tuple(call(*problem.inputs))
    found = torch.autograd.grad(outputs, problem.inputs, problem.grads)
    names = [f"d{name}" for name in problem.names]
    return _named(problem.outputs, outputs) | _named(names, found)


def _named(names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in zip(names, tensors, strict=True)}


def _deviation(name: str, found: Tensor, exact: Tensor, low: Tensor) -> Deviation:
    ref = exact.to(low.dtype)
    atol = 2 * float(((ref + 0.3) - 0.3 - ref).abs().max())
    largest, relative = _distance(found, exact)
    low_largest, low_relative = _distance(low, exact)
    return Deviation(name, largest, 2 * low_largest + atol, relative, low_largest, low_relative)


def _distance(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """Largest and relative distance; NaN where the result has one."""
    apart = found.double() - exact
    norm = float(exact.norm())
    return float(apart.abs().max()), float(apart.norm()) / norm if norm else float(apart.norm())
