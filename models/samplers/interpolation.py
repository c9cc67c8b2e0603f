"""Lagrange's polynomials through the values of past steps, and their integrals, for multistep methods."""

from __future__ import annotations

import math
from collections.abc import Sequence


def lagrange(nodes: Sequence[float]) -> list[list[float]]:
    """Coefficients, constant first, of each ℓ_j with ℓ_j(node_i) = δ_ij."""
    found = []
    for j, node in enumerate(nodes):
        polynomial = [1.0]
        for i, other in enumerate(nodes):
            if i != j:
                scale = 1.0 / (node - other)
                shifted = [0.0, *(c * scale for c in polynomial)]
                polynomial = [a - other * scale * b for a, b in zip(shifted, [*polynomial, 0.0], strict=True)]
        found.append(polynomial)
    return found


def integrals(nodes: Sequence[float], end: float) -> list[float]:
    """∫₀^end ℓ_j(v) dv of each."""
    moments = [end ** (k + 1) / (k + 1) for k in range(len(nodes))]
    return [_weighed(polynomial, moments) for polynomial in lagrange(nodes)]


def exponential_integrals(nodes: Sequence[float], end: float) -> list[float]:
    """∫₀^end ℓ_j(v) eᵛ dv of each; `end` may be −∞."""
    decay = math.exp(end)
    moments = [math.expm1(end)]
    for k in range(1, len(nodes)):
        moments.append((end**k * decay if decay > 0 else 0.0) - k * moments[-1])
    return [_weighed(polynomial, moments) for polynomial in lagrange(nodes)]


def _weighed(polynomial: Sequence[float], moments: Sequence[float]) -> float:
    return sum(c * moment for c, moment in zip(polynomial, moments, strict=True))
