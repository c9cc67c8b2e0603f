"""Variance-preserving paths, α² + σ² = 1: the noise schedules of diffusion in continuous time.

    cosine          α = cos(πt/2)                       Nichol & Dhariwal 2021, 2102.09672
    linear-vp       α² = exp(−∫β), β linear in t        Song et al. 2021, 2011.13456
    linear-vp-zero  the same, moved to α(1) = 0         Lin et al. 2023, 2305.08891
    sigmoid         α² a normalised sigmoid of t        Jabri et al. 2022, 2212.11972

Where α(1) = 0 the last state holds no data at all (zero terminal SNR), as the samplers assume when they
start from pure noise. The same schedules in discrete steps: `models.forward_process`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from models.gaussian_path import GaussianPath, Time, apply, log, softplus


@dataclass(frozen=True)
class CosinePath(GaussianPath):
    """A quarter circle: α = cos(πt/2), σ = sin(πt/2)."""

    def alpha(self, t: Time) -> Time:
        """cos(πt/2)."""
        return apply("cos", 0.5 * math.pi * t)

    def sigma(self, t: Time) -> Time:
        """sin(πt/2)."""
        return apply("sin", 0.5 * math.pi * t)

    def alpha_dot(self, t: Time) -> Time:
        """−(π/2) sin(πt/2)."""
        return -0.5 * math.pi * self.sigma(t)

    def sigma_dot(self, t: Time) -> Time:
        """(π/2) cos(πt/2)."""
        return 0.5 * math.pi * self.alpha(t)

    def log_snr(self, t: Time) -> Time:
        """−2 ln tan(πt/2)."""
        return 2.0 * (log(self.alpha(t)) - log(self.sigma(t)))

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """(2/π) arctan e^{−λ/2}; by the reflected angle where the exponential would overflow."""
        if isinstance(log_snr, Tensor):
            small = (2.0 / math.pi) * (-0.5 * log_snr.abs()).exp().atan()
            return torch.where(log_snr > 0, small, 1.0 - small)
        angle = (2.0 / math.pi) * math.atan(math.exp(-0.5 * abs(log_snr)))
        return angle if log_snr > 0 else 1.0 - angle


@dataclass(frozen=True)
class LinearVPPath(GaussianPath):
    """β(t) = β₀ + (β₁ − β₀)t: α = exp(−½∫β), the DDPM schedule in continuous time.

    α(1) = 0.0066 is not 0: the prior N(0, 1) leaves out 4·10⁻⁵ of the data's variance.
    """

    beta_0: float = 0.1
    beta_1: float = 20.0

    def _integral(self, t: Time) -> Time:
        """∫₀ᵗ β = −2 ln α."""
        return t * (self.beta_0 + 0.5 * (self.beta_1 - self.beta_0) * t)

    def _time_of(self, integral: Time) -> Time:
        """The root t of ∫₀ᵗ β, in the form without cancellation."""
        root = apply("sqrt", self.beta_0**2 + 2.0 * (self.beta_1 - self.beta_0) * integral)
        return 2.0 * integral / (self.beta_0 + root)

    def alpha(self, t: Time) -> Time:
        """exp(−½ ∫₀ᵗ β)."""
        return apply("exp", -0.5 * self._integral(t))

    def sigma(self, t: Time) -> Time:
        """√(1 − α²), exact near t = 0."""
        return apply("sqrt", -apply("expm1", -self._integral(t)))

    def alpha_dot(self, t: Time) -> Time:
        """−½ β α."""
        return -0.5 * (self.beta_0 + (self.beta_1 - self.beta_0) * t) * self.alpha(t)

    def sigma_dot(self, t: Time) -> Time:
        """−α α'/σ; infinite at t = 0, where float times are refused."""
        _refuse_start(t, "linear-vp")
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def log_snr(self, t: Time) -> Time:
        """−ln(exp ∫₀ᵗ β − 1)."""
        return -log(apply("expm1", self._integral(t)))

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """The root of ∫₀ᵗ β = ln(1 + e^{−λ})."""
        return self._time_of(softplus(-log_snr))


@dataclass(frozen=True)
class _SquareRootPath(GaussianPath):
    """A path given by 1 − α² = σ², both without cancellation; σ' is infinite at t = 0."""

    @abstractmethod
    def _noise(self, t: Time) -> Time:
        """σ²(t)."""

    @abstractmethod
    def _data(self, t: Time) -> Time:
        """α²(t)."""

    def alpha(self, t: Time) -> Time:
        """√α²."""
        return apply("sqrt", self._data(t))

    def sigma(self, t: Time) -> Time:
        """√σ²."""
        return apply("sqrt", self._noise(t))

    def sigma_dot(self, t: Time) -> Time:
        """−α α'/σ; infinite at t = 0, where float times are refused."""
        _refuse_start(t, type(self).__name__)
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def log_snr(self, t: Time) -> Time:
        """ln(α²/σ²)."""
        return log(self._data(t)) - log(self._noise(t))


@dataclass(frozen=True)
class ZeroTerminalLinearVPPath(_SquareRootPath):
    """The linear-β path with α moved and stretched to end at 0: α = (a − a(1))/(1 − a(1)), a that path's α.

    Lin et al. 2023 do this to √ᾱ of any schedule; noise keeps its start, and the end is pure noise.
    """

    linear: LinearVPPath = LinearVPPath()

    def _lost(self, t: Time) -> Time:
        """1 − α = (1 − a)/(1 − a(1))."""
        return apply("expm1", -0.5 * self.linear._integral(t)) / math.expm1(-0.5 * self.linear._integral(1.0))

    def _noise(self, t: Time) -> Time:
        lost = self._lost(t)
        return lost * (2.0 - lost)

    def _data(self, t: Time) -> Time:
        kept = 1.0 - self._lost(t)
        return kept * kept

    def alpha_dot(self, t: Time) -> Time:
        """a'/(1 − a(1))."""
        return self.linear.alpha_dot(t) / (1.0 - self.linear.alpha(1.0))

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """Of α = √(1/(1 + e^{−λ})): 1 − α = σ²/(1 + α), then back to ∫₀ᵗ β of the linear path."""
        alpha = apply("exp", -0.5 * softplus(-log_snr))
        lost = apply("exp", -softplus(log_snr)) / (1.0 + alpha) * (1.0 - self.linear.alpha(1.0))
        return self.linear._time_of(-2.0 * apply("log1p", -lost))


@dataclass(frozen=True)
class SigmoidPath(_SquareRootPath):
    """α² falls from 1 to 0 along a sigmoid s: α² = (s(e) − s(z))/(s(e) − s(b)), z = b + (e − b)t.

    start, end   b and e, already divided by the source's temperature τ; −3 and 3 are its defaults

    α' is infinite at t = 1 as σ' is at t = 0: float times there are refused.
    """

    start: float = -3.0
    end: float = 3.0

    @property
    def _span(self) -> float:
        """s(e) − s(b)."""
        slopes = math.cosh(0.5 * self.end) * math.cosh(0.5 * self.start)
        return math.sinh(0.5 * (self.end - self.start)) / (2.0 * slopes)

    def _noise(self, t: Time) -> Time:
        """(s(z) − s(b))/(s(e) − s(b)); s(y) − s(x) = sinh(½(y − x))/(2 cosh(½y) cosh(½x)) does not cancel."""
        width = (self.end - self.start) * t
        slopes = math.cosh(0.5 * self.start) * apply("cosh", 0.5 * (self.start + width))
        return apply("sinh", 0.5 * width) / (2.0 * slopes * self._span)

    def _data(self, t: Time) -> Time:
        """(s(e) − s(z))/(s(e) − s(b))."""
        width = (self.end - self.start) * (1.0 - t)
        slopes = math.cosh(0.5 * self.end) * apply("cosh", 0.5 * (self.end - width))
        return apply("sinh", 0.5 * width) / (2.0 * slopes * self._span)

    def alpha_dot(self, t: Time) -> Time:
        """½(α²)'/α with (α²)' = −(e − b) s'(z)/(s(e) − s(b)), s' = 1/(4 cosh²(z/2))."""
        if not isinstance(t, Tensor) and t >= 1:
            raise ValueError("The data of the sigmoid path have no finite derivative at t = 1: use t < 1.")
        z = self.start + (self.end - self.start) * t
        slope = (self.end - self.start) / (4.0 * apply("cosh", 0.5 * z) ** 2 * self._span)
        return -0.5 * slope / self.alpha(t)

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """From σ² = 1/(1 + e^λ): with w = s(e) − s(b), s(z) = s(b) + wσ² and 1 − s(z) = 1 − s(e) + wα²."""
        noise, data = apply("exp", -softplus(log_snr)), apply("exp", -softplus(-log_snr))
        # z − b = ln of the ratio of odds, written as 1 + what vanishes with σ².
        below, above = 1.0 / (1.0 + math.exp(-self.start)), 1.0 / (1.0 + math.exp(self.end))
        risen = self._span * noise / below
        fallen = self._span * noise / (above + self._span * data)
        return (apply("log1p", risen) + apply("log1p", fallen)) / (self.end - self.start)


def _refuse_start(t: object, name: str) -> None:
    if not isinstance(t, Tensor) and t <= 0:  # type: ignore[operator]
        raise ValueError(f"The noise of the {name} path has no finite derivative at t = 0: use t > 0.")
