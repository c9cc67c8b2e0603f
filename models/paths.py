"""Gaussian paths x_t = α(t)·x_0 + σ(t)·ε from data (t = 0) to noise (t = 1).

Diffusion and flow matching differ only in α and σ. Every function takes a Python float, computed in
float64, or a tensor of times, computed in the tensor's own precision.

Sources: Song et al. 2021 (2011.13456) for the linear-β path, Nichol & Dhariwal 2021 (2102.09672) for the
cosine, Liu et al. 2022 (2209.03003) for the straight line; log-SNR as in Kingma et al. 2021 (2107.00630).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from models.names import unknown

Time = TypeVar("Time", float, Tensor)


def _log(t: Time) -> Time:
    """ln t with ln 0 = −∞ for floats too."""
    if isinstance(t, Tensor):
        return t.log()
    return math.log(t) if t > 0 else -math.inf


def _apply(name: str, t: Time) -> Time:
    """The function `name` of torch for tensors, of math for floats."""
    if isinstance(t, Tensor):
        return cast(Tensor, getattr(torch, name)(t))
    return cast(float, getattr(math, name)(t))


def _softplus(t: Time) -> Time:
    """ln(1 + eᵗ) without overflow."""
    if isinstance(t, Tensor):
        return t.clamp(min=0) + (-t.abs()).exp().log1p()
    return max(t, 0.0) + math.log1p(math.exp(-abs(t)))


@dataclass(frozen=True)
class GaussianPath(ABC):
    """x_t = α(t)·x_0 + σ(t)·ε with α falling from 1, σ rising from 0 and the log-SNR strictly falling."""

    @abstractmethod
    def alpha(self, t: Time) -> Time:
        """α(t), the share of data."""

    @abstractmethod
    def sigma(self, t: Time) -> Time:
        """σ(t), the share of noise."""

    @abstractmethod
    def alpha_dot(self, t: Time) -> Time:
        """dα/dt."""

    @abstractmethod
    def sigma_dot(self, t: Time) -> Time:
        """dσ/dt."""

    @abstractmethod
    def log_snr(self, t: Time) -> Time:
        """λ(t) = 2 ln(α/σ): +∞ at t = 0."""

    @abstractmethod
    def t_of_log_snr(self, log_snr: Time) -> Time:
        """The inverse of `log_snr`."""


@dataclass(frozen=True)
class RectifiedFlowPath(GaussianPath):
    """The straight line α = 1 − t, σ = t; its velocity ε − x_0 does not depend on t."""

    def alpha(self, t: Time) -> Time:
        """1 − t."""
        return 1.0 - t

    def sigma(self, t: Time) -> Time:
        """t."""
        return 1.0 * t

    def alpha_dot(self, t: Time) -> Time:
        """−1."""
        return 0.0 * t - 1.0

    def sigma_dot(self, t: Time) -> Time:
        """1."""
        return 0.0 * t + 1.0

    def log_snr(self, t: Time) -> Time:
        """2 ln((1 − t)/t)."""
        return 2.0 * (_log(1.0 - t) - _log(t))

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """1/(1 + e^{λ/2}), for large λ without overflow."""
        return _apply("exp", -_softplus(0.5 * log_snr))


@dataclass(frozen=True)
class CosinePath(GaussianPath):
    """Variance preserving on a quarter circle: α = cos(πt/2), σ = sin(πt/2)."""

    def alpha(self, t: Time) -> Time:
        """cos(πt/2)."""
        return _apply("cos", 0.5 * math.pi * t)

    def sigma(self, t: Time) -> Time:
        """sin(πt/2)."""
        return _apply("sin", 0.5 * math.pi * t)

    def alpha_dot(self, t: Time) -> Time:
        """−(π/2) sin(πt/2)."""
        return -0.5 * math.pi * self.sigma(t)

    def sigma_dot(self, t: Time) -> Time:
        """(π/2) cos(πt/2)."""
        return 0.5 * math.pi * self.alpha(t)

    def log_snr(self, t: Time) -> Time:
        """−2 ln tan(πt/2)."""
        return 2.0 * (_log(self.alpha(t)) - _log(self.sigma(t)))

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """(2/π) arctan e^{−λ/2}; by the reflected angle where the exponential would overflow."""
        if isinstance(log_snr, Tensor):
            small = (2.0 / math.pi) * (-0.5 * log_snr.abs()).exp().atan()
            return torch.where(log_snr > 0, small, 1.0 - small)
        angle = (2.0 / math.pi) * math.atan(math.exp(-0.5 * abs(log_snr)))
        return angle if log_snr > 0 else 1.0 - angle


@dataclass(frozen=True)
class LinearVPPath(GaussianPath):
    """Variance preserving with β(t) = β₀ + (β₁ − β₀)t: α = exp(−½∫β), the DDPM schedule in continuous time.

    α(1) = 0.0066 is not 0: the prior N(0, 1) leaves out 4·10⁻⁵ of the data's variance.
    """

    beta_0: float = 0.1
    beta_1: float = 20.0

    def _integral(self, t: Time) -> Time:
        """∫₀ᵗ β = −2 ln α."""
        return t * (self.beta_0 + 0.5 * (self.beta_1 - self.beta_0) * t)

    def alpha(self, t: Time) -> Time:
        """exp(−½ ∫₀ᵗ β)."""
        return _apply("exp", -0.5 * self._integral(t))

    def sigma(self, t: Time) -> Time:
        """√(1 − α²), exact near t = 0."""
        return _apply("sqrt", -_apply("expm1", -self._integral(t)))

    def alpha_dot(self, t: Time) -> Time:
        """−½ β α."""
        return -0.5 * (self.beta_0 + (self.beta_1 - self.beta_0) * t) * self.alpha(t)

    def sigma_dot(self, t: Time) -> Time:
        """−α α'/σ; infinite at t = 0, where float times are refused."""
        if not isinstance(t, Tensor) and t <= 0:
            raise ValueError("The noise of the linear-vp path has no finite derivative at t = 0: use t > 0.")
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def log_snr(self, t: Time) -> Time:
        """−ln(exp ∫₀ᵗ β − 1)."""
        return -_log(_apply("expm1", self._integral(t)))

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """The root of ∫₀ᵗ β = ln(1 + e^{−λ}), in the form without cancellation."""
        integral, slope = _softplus(-log_snr), self.beta_1 - self.beta_0
        root = _apply("sqrt", self.beta_0**2 + 2.0 * slope * integral)
        return 2.0 * integral / (self.beta_0 + root)


PATHS: dict[str, type[GaussianPath]] = {
    "rectified-flow": RectifiedFlowPath,
    "cosine": CosinePath,
    "linear-vp": LinearVPPath,
}


def path(name: str) -> GaussianPath:
    """The path of a name; an unknown one is answered with the nearest."""
    if name not in PATHS:
        raise ValueError(unknown("path", name, PATHS))
    return PATHS[name]()
