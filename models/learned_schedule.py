"""A noise schedule that is learned: the log-SNR of a variance-preserving path as a monotone function of t.

    γ(t) = −log SNR = γ_0 + (γ_1 − γ_0) m((t − τ)/(1 − τ)),   τ ≤ t ≤ 1        α² = 1/(1 + e^γ), σ² = 1 − α²
    m(u) = (r(u) − r(0))/(r(1) − r(0)),  r(u) = w u + Σ_i a_i s(b_i (u − c_i)),   w, a_i, b_i > 0

s is the logistic function, so γ rises strictly and has closed form for floats and tensors. Kingma et al.
2021 (2107.00630) learn γ this way with a monotone network (§I.2); its ends are learned too.

A learned γ_0 is finite, so the chain of the bound ends at σ(τ) > 0. A Gaussian path must reach the data:
below τ it goes on with σ/α proportional to t, γ(t) = γ_0 + 2 ln(t/τ), down to σ(0) = 0.

Shapes: B batch, U units of the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.gaussian_path import GaussianPath, Time, apply, log, softplus
from models.grids import START_LOG_SNR

TAU = 0.02
"""τ, where the learned part of the path starts."""

BISECTIONS = 64
"""Halvings of [0, 1] when γ is inverted: to the last bit of float64."""


@dataclass(frozen=True)
class SigmoidSum:
    """r(u) and its derivative, with plain numbers."""

    slope: float
    heights: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    centres: tuple[float, ...] = ()

    def value(self, u: Time) -> Time:
        """r(u)."""
        total = self.slope * u
        for a, b, c in zip(self.heights, self.rates, self.centres, strict=True):
            total = total + a * _logistic(b * (u - c))
        return total

    def derivative(self, u: Time) -> Time:
        """r'(u)."""
        total = 0.0 * u + self.slope
        for a, b, c in zip(self.heights, self.rates, self.centres, strict=True):
            s = _logistic(b * (u - c))
            total = total + a * b * s * (1.0 - s)
        return total


@dataclass(frozen=True)
class LearnedPath(GaussianPath):
    """A variance-preserving path with a given γ: a snapshot of a `LearnedSchedule`.

    start, end  γ_0 and γ_1
    shape       r, whose normalised form is m
    """

    start: float
    end: float
    shape: SigmoidSum

    def gamma(self, t: Time) -> Time:
        """γ(t) = −log SNR; −∞ at t = 0."""
        if isinstance(t, Tensor):
            below = self.start + 2.0 * (t / TAU).log()
            return torch.where(t < TAU, below, self._rising(t.clamp(min=TAU)))
        return self.start + 2.0 * log(t / TAU) if t < TAU else self._rising(t)

    def _scale(self) -> float:
        return (self.end - self.start) / (self.shape.value(1.0) - self.shape.value(0.0))

    def _rising(self, t: Time) -> Time:
        u = (t - TAU) / (1.0 - TAU)
        return self.start + self._scale() * (self.shape.value(u) - self.shape.value(0.0))

    def _slope(self, t: Time) -> Time:
        return self._scale() / (1.0 - TAU) * self.shape.derivative((t - TAU) / (1.0 - TAU))

    def alpha(self, t: Time) -> Time:
        """√(1/(1 + e^γ))."""
        return apply("exp", -0.5 * softplus(self.gamma(t)))

    def sigma(self, t: Time) -> Time:
        """√(1/(1 + e^{−γ}))."""
        return apply("exp", -0.5 * softplus(-self.gamma(t)))

    def alpha_dot(self, t: Time) -> Time:
        """−½ α σ² γ'; finite at t = 0 because σ is proportional to t there."""
        return -0.5 * self.alpha(t) * self.sigma(t) * self._noise_slope(t)

    def sigma_dot(self, t: Time) -> Time:
        """½ σ α² γ'."""
        return 0.5 * self.alpha(t) ** 2 * self._noise_slope(t)

    def _noise_slope(self, t: Time) -> Time:
        """σγ', which below τ is 2 e^{γ_0/2} α/τ."""
        start = 2.0 * math.exp(0.5 * self.start) / TAU * self.alpha(t)
        if isinstance(t, Tensor):
            return torch.where(t < TAU, start, self.sigma(t) * self._slope(t.clamp(min=TAU)))
        return start if t < TAU else self.sigma(t) * self._slope(t)

    def log_snr(self, t: Time) -> Time:
        """−γ(t)."""
        return -self.gamma(t)

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """In closed form below τ, else by bisection."""
        gamma = -log_snr
        below = TAU * apply("exp", 0.5 * (gamma - self.start))
        if isinstance(log_snr, Tensor):
            low, high = torch.full_like(log_snr, TAU), torch.ones_like(log_snr)
            for _ in range(BISECTIONS):
                middle = 0.5 * (low + high)
                under = self._rising(middle) < gamma
                low, high = torch.where(under, middle, low), torch.where(under, high, middle)
            return torch.where(gamma < self.start, below, 0.5 * (low + high))
        return below if gamma < self.start else self._bisected(gamma)

    def _bisected(self, gamma: float) -> float:
        low, high = TAU, 1.0
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._rising(middle) < gamma else (low, middle)
        return 0.5 * (low + high)


class LearnedSchedule(nn.Module):
    """γ with parameters: the ends, and the shape between them.

    start  γ_0 before training
    units  U

    γ_1 stays above 10, so that the shared grids, which start at log-SNR −10, start within the path; so much
    noise costs the bound nothing. Parameters count from their first values, so weight decay leaves these.
    """

    slots: Tensor
    first: Tensor

    def __init__(self, start: float, units: int = 8) -> None:
        super().__init__()
        if start >= 0 or units < 1:
            raise ValueError("A learned schedule starts below γ = 0 and has one or more units.")
        self.ends = nn.Parameter(torch.zeros(2))
        self.shape = nn.Parameter(torch.zeros(4, units))
        slots = (torch.arange(units, dtype=torch.float32) + 0.5) / units
        self.register_buffer("slots", slots, persistent=False)
        self.register_buffer("first", torch.tensor([_inverse_softplus(-start), -1.0]), persistent=False)

    def limits(self) -> tuple[Tensor, Tensor]:
        """γ_0 < 0 and γ_1 > 10, scalars."""
        distances = functional.softplus(self.first + self.ends)
        return -distances[0], -START_LOG_SNR + distances[1]

    def _units(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w, and a, b, c of each unit."""
        slope, height, rate, centre = self.shape.unbind(0)
        units = len(height)
        return slope.mean().exp(), height.exp() / (2 * units), 8.0 * rate.exp(), self.slots + centre

    def monotone(self, u_B: Tensor) -> tuple[Tensor, Tensor]:
        """m(u) and m'(u), (B,) each."""
        w, a, b, c = self._units()
        ends = u_B.new_tensor([0.0, 1.0])
        s_BU = (b * (torch.cat([u_B, ends])[:, None] - c)).sigmoid()
        r_B = w * torch.cat([u_B, ends]) + (a * s_BU).sum(1)
        slope_B = w + (a * b * s_BU * (1.0 - s_BU)).sum(1)[:-2]
        span = r_B[-1] - r_B[-2]
        return (r_B[:-2] - r_B[-2]) / span, slope_B / span

    @torch.no_grad()
    def path(self) -> LearnedPath:
        """The path of the present parameters, on the host in float64."""
        w, *units = self._units()
        start, end = self.limits()
        heights, rates, centres = (tuple(part.double().tolist()) for part in units)
        return LearnedPath(float(start), float(end), SigmoidSum(float(w), heights, rates, centres))


def _logistic(z: Time) -> Time:
    return apply("exp", -softplus(-z))


def _inverse_softplus(y: float) -> float:
    """x with ln(1 + eˣ) = y."""
    return y + math.log(-math.expm1(-y))
