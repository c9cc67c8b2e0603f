"""What the checks expect, in plain floats: independent of the code that they check.

Data are independent entries N(m, v), m = 0.3 and v = 0.25, whose entropy is 0.725791 nats; nats are those
of one entry. With x_t = α x_0 + σ ε, the marginal variance at t is c_t = α²v + σ².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

MEAN, VARIANCE = 0.3, 0.25

ENTROPY = 0.5 * math.log(2.0 * math.pi * math.e * VARIANCE)
"""−∫ p ln p = ½ ln 2πev."""

Level = tuple[float, float]
"""(α, σ) at one time."""


def _linear(t: float) -> Level:
    integral = 0.1 * t + 0.5 * 19.9 * t * t
    return math.exp(-0.5 * integral), math.sqrt(-math.expm1(-integral))


def _linear_to_zero(t: float) -> Level:
    last = _linear(1.0)[0]
    alpha = (_linear(t)[0] - last) / (1.0 - last)
    lost = -math.expm1(-0.5 * (0.1 * t + 0.5 * 19.9 * t * t)) / (1.0 - last)
    return alpha, math.sqrt(lost * (2.0 - lost))


def _sigmoid(t: float) -> Level:
    low, here, high = (1.0 / (1.0 + math.exp(-z)) for z in (-3.0, 6.0 * t - 3.0, 3.0))
    return math.sqrt((high - here) / (high - low)), math.sqrt((here - low) / (high - low))


LEVELS: dict[str, Callable[[float], Level]] = {
    "rectified-flow": lambda t: (1.0 - t, t),
    "cosine": lambda t: (math.cos(0.5 * math.pi * t), math.sin(0.5 * math.pi * t)),
    "linear-vp": _linear,
    "linear-vp-zero": _linear_to_zero,
    "sigmoid": _sigmoid,
    "edm": lambda t: (1.0, 150.0 * t),
}
"""(α, σ) of each path, written down again; sources: `models.paths` and `models.variance_preserving`."""


@dataclass(frozen=True)
class Chain:
    """A reverse chain down the levels to (1, 0), with the exact predictor for N(m, v) and a fixed variance.

    kind  of the reverse variances: `small` the posterior's (at the last step that of the step before),
          `large` the right one for data N(0, 1), `optimal` the right one
    """

    levels: Sequence[Level]
    kind: str

    def variances(self) -> list[float]:
        """Of each reverse step."""
        steps = list(pairwise(self.levels))
        found = [
            reverse_variance(t, s, {"small": 0.0, "large": 1.0}.get(self.kind, VARIANCE)) for t, s in steps
        ]
        return [*found[:-1], found[-2]] if self.kind == "small" else found

    def bound(self) -> float:
        """H + KL(q(x_T) ‖ N(0, σ_T²)) + Σ_t g(v_t/σ_t²), g(r) = ½(r − 1 − ln r), v_t the right variance.

        Each mismatch of a variance costs its own divergence, as all means are right.
        """
        alpha, sigma = self.levels[0]
        found = ENTROPY + 0.5 * (alpha * MEAN / sigma) ** 2 + _excess(marginal(self.levels[0]) / sigma**2)
        for (t, s), variance in zip(pairwise(self.levels), self.variances(), strict=True):
            found += _excess(reverse_variance(t, s, VARIANCE) / variance)
        return found

    def nats(self) -> float:
        """E[−ln p(x_0)] of the chain itself, which carries N(0, σ_T²) to a Gaussian step by step."""
        mean, variance = 0.0, self.levels[0][1] ** 2
        for (t, s), added in zip(pairwise(self.levels), self.variances(), strict=True):
            slope = t[0] / s[0] * marginal(s) / marginal(t)
            mean = s[0] * MEAN + slope * (mean - t[0] * MEAN)
            variance = slope**2 * variance + added
        return 0.5 * (math.log(2.0 * math.pi * variance) + ((MEAN - mean) ** 2 + VARIANCE) / variance)


def marginal(level: Level, variance: float = VARIANCE) -> float:
    """c = α²v + σ²."""
    return level[0] ** 2 * variance + level[1] ** 2


def reverse_variance(t: Level, s: Level, variance: float) -> float:
    """Var[x_s | x_t] = c_s − (a c_s)²/c_t, a = α_t/α_s; the posterior's for data of variance 0."""
    cov = t[0] / s[0] * marginal(s, variance)
    return marginal(s, variance) - cov**2 / marginal(t, variance)


def _excess(ratio: float) -> float:
    return 0.5 * (ratio - 1.0 - math.log(ratio))


def flow_nats(level: Callable[[float], Level], x: float) -> float:
    """−ln p(x) of the exact probability flow from N(0, σ(1)²): x is scaled about the mean by √(c_1/c_0)."""
    end, scale = level(1.0), math.sqrt(marginal(level(1.0)) / VARIANCE)
    x_1 = end[0] * MEAN + scale * (x - MEAN)
    return 0.5 * (x_1 / end[1]) ** 2 + math.log(end[1] * math.sqrt(2.0 * math.pi)) - math.log(scale)


TABLEAUS: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    "euler": (((),), (1.0,)),
    "midpoint": (((), (0.5,)), (0.0, 1.0)),
    "heun": (((), (1.0,)), (0.5, 0.5)),
    "rk4": (((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
}
"""Stages and weights of Runge–Kutta methods; rk4 is Kutta's rule of three eighths."""


def coarse_flow_nats(solver: str, steps: int) -> float:
    """E[−ln p̂] of the straight path where N steps of a method replace the flow, `flow_nats` at N = ∞.

    The field is A(t)(x − αm) + α'm with A = ½ d ln c/dt; a method of a stage or more turns the deviation and
    the integral of A into sums, and the mean stays on its straight line.
    """
    stages, weights = TABLEAUS[solver]
    h, deviation, integral = 1.0 / steps, 1.0, 0.0
    for step in range(steps):
        slopes: list[float] = []
        traces: list[float] = []
        for row in stages:
            t = step * h + h * sum(row)
            rate = (t - (1.0 - t) * VARIANCE) / ((1.0 - t) ** 2 * VARIANCE + t**2)
            moved = deviation + h * sum(a * k for a, k in zip(row, slopes, strict=True))
            slopes.append(rate * moved)
            traces.append(rate)
        deviation += h * sum(b * k for b, k in zip(weights, slopes, strict=True))
        integral += h * sum(b * k for b, k in zip(weights, traces, strict=True))
    return 0.5 * (deviation**2 * VARIANCE + math.log(2.0 * math.pi)) - integral


def classic_levels(steps: int = 1000) -> list[Level]:
    """(α, σ) of Ho et al. 2020 at t = 0 … T: β in equal steps from 10⁻⁴ to 0.02, ᾱ = Π(1 − β)."""
    found, kept = [(1.0, 0.0)], 0.0
    for i in range(steps):
        kept += math.log1p(-(1e-4 + (0.02 - 1e-4) * i / (steps - 1)))
        found.append((math.exp(0.5 * kept), math.sqrt(-math.expm1(kept))))
    return found


def certain_pixel_nats(levels: Sequence[Level], kind: str, half: float, inner: bool) -> float:
    """What one pixel costs a fixed variance even if the network knows its level: nats above the prior's.

    Σ_t g(posterior variance/variance) and −ln of the mass that the decoder, a Gaussian at the very place of
    the level, leaves in its interval ± half: two tails are lost where the level has neighbours on both sides,
    one where it is the first or last. Ho et al. 2020 (2006.11239, eq. 13).
    """
    variances = Chain(levels, kind).variances()
    found = 0.0
    for (t, s), variance in zip(list(pairwise(levels))[:-1], variances, strict=False):
        found += _excess(reverse_variance(t, s, 0.0) / variance)
    tail = 0.5 * math.erfc(half / math.sqrt(2.0 * variances[-1]))
    return found - math.log1p(-(2.0 if inner else 1.0) * tail)
