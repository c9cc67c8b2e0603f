"""DPM-Solver++ (Lu et al. 2022, 2211.01095): exponential integrators of the probability flow in x̂_0.

With h = l_s − l_t the step of the half log-SNR l = ln(α/σ), the flow is exactly

    x_s = (σ_s/σ_t) x + α_s ∫ e^{l − l_s} x̂_0(l) dl    over the step

and a method of order k takes x̂_0 as a polynomial of degree k − 1: through past steps (multistep, `m`, one
evaluation a step) or through points within the step (singlestep, `s`, k evaluations). At s = 0, where h is
infinite, every order becomes x_s = x̂_0; multistep methods go down one order a step towards it.
Order 1 is DDIM. On any path the numbers in x/α are the same: only σ/α matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from models.gaussian_path import GaussianPath
from models.samplers.tape import Tape, Vector


def half_log_snr(path: GaussianPath, t: float) -> float:
    """l = ln(α/σ): +∞ at t = 0."""
    return 0.5 * path.log_snr(t)


def multistep(
    x: Vector, denoise: Tape, grid: Sequence[float], *, order: int = 2, curvature: str = "exact"
) -> Iterator[Vector]:
    """DPM-Solver++(kM), k = 1, 2, 3: lower orders in the first steps, for want of a past, and in the last.

    curvature  of (3M): `exact`, or `published` as in the source's code and those that follow it, where the
               second derivative has half its weight, so that the method is of order 2
    """
    steps = len(grid) - 1
    past: list[tuple[float, Vector]] = []
    for index, (t, s) in enumerate(pairwise(grid)):
        step = _Step(denoise.path, t, s, curvature == "exact")
        x0 = denoise(x, t).x0
        # The third order reads x̂_0 thrice, so it is worth computing once.
        past = [(step.start, denoise.keep(x0) if order == 3 else x0), *past][:3]
        x = step.multistep(x, past[: min(order, index + 1, steps - index)])
        yield x


def singlestep(x: Vector, denoise: Tape, grid: Sequence[float], *, order: int = 2) -> Iterator[Vector]:
    """DPM-Solver++(2S) with its inner point at h/2, or (3S) with h/3 and 2h/3; kN − k + 1 evaluations."""
    for t, s in pairwise(grid):
        step, x0 = _Step(denoise.path, t, s), denoise(x, t).x0
        x0 = denoise.keep(x0) if order == 3 else x0
        x = step.singlestep(x, x0, denoise, order) if s > 0 else x0
        yield x


def sde(
    x: Vector, denoise: Tape, grid: Sequence[float], *, eta: float = 1.0, solver: str = "midpoint"
) -> Iterator[Vector]:
    """SDE-DPM-Solver++(2M): the same for the reverse SDE, of which η² is the share; η = 0 is the flow's 2M.

    solver  how the slope of x̂_0 enters: `midpoint`, or `heun`, which integrates it exactly
    """
    path, past, last = denoise.path, None, 0.0
    for t, s in pairwise(grid):
        h, x0 = half_log_snr(path, s) - half_log_snr(path, t), denoise(x, t).x0
        if s == 0:
            x = x0
        else:
            total, alpha = -math.expm1(-(1.0 + eta) * h), path.alpha(s)
            state = path.sigma(s) / path.sigma(t) * math.exp(-eta * h) * x + alpha * total * x0
            if past is not None:
                slope = 0.5 * total if solver == "midpoint" else 1.0 - total / ((1.0 + eta) * h)
                state = state + alpha * slope * h / last * (x0 - past)
            spread = path.sigma(s) * math.sqrt(-math.expm1(-2.0 * eta * h))
            x = state + spread * denoise.noise() if eta > 0 else state
        past, last = x0, h
        yield x


class _Step:
    """A step from t to s: its exponentials, and the integrals of the polynomials of x̂_0."""

    def __init__(self, path: GaussianPath, t: float, s: float, exact: bool = True) -> None:
        self.path, self.t, self.start, self.exact = path, t, half_log_snr(path, t), exact
        self.h = half_log_snr(path, s) - self.start
        self.kept, self.alpha = path.sigma(s) / path.sigma(t), path.alpha(s)
        self.phi1 = math.expm1(-self.h)

    def within(self, r: float) -> tuple[_Step, float]:
        """The step to the share r of this one in l, and the time where it ends."""
        middle = self.path.t_of_log_snr(2.0 * (self.start + r * self.h))
        return _Step(self.path, self.t, middle), middle

    def first(self, x: Vector, x0: Vector) -> Vector:
        """x̂_0 constant."""
        return self.kept * x - self.alpha * self.phi1 * x0

    def linear(self, x: Vector, x0: Vector, slope: Vector) -> Vector:
        """x̂_0 a straight line, whose `slope` is that over a whole step."""
        return self.first(x, x0) + self.alpha * (self.phi1 / self.h + 1.0) * slope

    def multistep(self, x: Vector, past: Sequence[tuple[float, Vector]]) -> Vector:
        """x̂_0 through its last values at l_t, l_{t−1}, …, as the source discretises it."""
        (_, x0), *before = past
        if not before:
            return self.first(x, x0)
        (l1, x1), r0 = before[0], (self.start - before[0][0]) / self.h
        slope = (x0 - x1) / r0
        if len(before) == 1:
            return self.first(x, x0 + 0.5 * slope)
        r1 = (l1 - before[1][0]) / self.h
        bend = (slope - (x1 - before[1][1]) / r1) / (r0 + r1)
        phi3 = (self.phi1 + self.h) / self.h**2 - 0.5
        curvature = 2.0 if self.exact else 1.0
        return self.linear(x, x0, slope + r0 * bend) - curvature * self.alpha * phi3 * bend

    def singlestep(self, x: Vector, x0: Vector, denoise: Tape, order: int) -> Vector:
        """(2S) with r = 1/2; (3S) with r₁ = 1/3 and r₂ = 2/3."""
        half, middle = self.within(1.0 / order)
        x1 = denoise(half.first(x, x0), middle).x0
        if order == 2:
            return self.first(x, x1)
        inner, later = self.within(2.0 / 3.0)
        x2 = denoise(inner.linear(x, x0, 2.0 * (x1 - x0)), later).x0
        return self.linear(x, x0, 1.5 * (x2 - x0))
