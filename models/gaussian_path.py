"""What a Gaussian path x_t = α(t)·x_0 + σ(t)·ε is, and arithmetic on times that are floats or tensors.

Every function of a path takes a Python float, computed in float64, or a tensor of times, computed in the
tensor's own precision. The log-SNR is that of Kingma et al. 2021 (2107.00630).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

Time = TypeVar("Time", float, Tensor)


def log(t: Time) -> Time:
    """ln t with ln 0 = −∞ for floats too."""
    if isinstance(t, Tensor):
        return t.log()
    return math.log(t) if t > 0 else -math.inf


def apply(name: str, t: Time) -> Time:
    """The function `name` of torch for tensors, of math for floats."""
    if isinstance(t, Tensor):
        return cast(Tensor, getattr(torch, name)(t))
    return cast(float, getattr(math, name)(t))


def softplus(t: Time) -> Time:
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
