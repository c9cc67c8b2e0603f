"""Linear multistep methods of Adams and Bashforth for dx̃/dσ̃ = ε̂, with x̃ = x/α and σ̃ = σ/α.

    x̃_s = x̃ + Σ_j C_j ε̂_j,    C_j = ∫ ℓ_j dσ̃ over the step

ℓ_j are Lagrange's polynomials through the last evaluations: in σ̃ for `lms` (Karras et al. 2022, 2206.00364,
compare with it; k-diffusion's sampler of this name), in ln σ̃ for `deis` (Zhang & Chen 2022, 2204.13902).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from models.samplers.interpolation import exponential_integrals, integrals
from models.samplers.tape import Tape, Vector


def lms(x: Vector, denoise: Tape, grid: Sequence[float], *, order: int = 4) -> Iterator[Vector]:
    """One evaluation a step, of `order` as soon as there are as many, also in the last step."""

    def coefficients(past: Sequence[float], end: float) -> list[float]:
        width = end - past[0]
        return [width * c for c in integrals([(sigma - past[0]) / width for sigma in past], 1.0)]

    return _adams_bashforth(x, denoise, grid, order, coefficients, lower_at_the_end=False)


def deis(x: Vector, denoise: Tape, grid: Sequence[float], *, order: int = 2) -> Iterator[Vector]:
    """tAB-DEIS in ln σ̃: one evaluation a step, orders down to 1 in the step to σ = 0."""

    def coefficients(past: Sequence[float], end: float) -> list[float]:
        nodes = [math.log(sigma / past[0]) for sigma in past]
        width = math.log(end / past[0]) if end > 0 else -math.inf
        return [past[0] * c for c in exponential_integrals(nodes, width)]

    return _adams_bashforth(x, denoise, grid, order, coefficients, lower_at_the_end=True)


def _adams_bashforth(
    x: Vector,
    denoise: Tape,
    grid: Sequence[float],
    order: int,
    coefficients: Callable[[Sequence[float], float], list[float]],
    lower_at_the_end: bool,
) -> Iterator[Vector]:
    path, steps = denoise.path, len(grid) - 1
    past: list[tuple[float, Vector]] = []
    for index, (t, s) in enumerate(pairwise(grid)):
        slope = denoise(x, t).epsilon
        past = [(path.sigma(t) / path.alpha(t), denoise.keep(slope) if order > 2 else slope), *past][:order]
        used = past[: min(order, steps - index)] if lower_at_the_end else past
        weights = coefficients([place for place, _ in used], path.sigma(s) / path.alpha(s))
        x = path.alpha(s) / path.alpha(t) * x
        for c, (_, epsilon) in zip(weights, used, strict=True):
            x = x + path.alpha(s) * c * epsilon
        yield x
